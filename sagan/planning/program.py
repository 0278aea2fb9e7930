"""Reads the text of a program that XLA compiled: its operations, FLOPs and traffic."""

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

WIDTHS = {"pred": 1, "bf16": 2}  # others end in their number of bits
SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", re.DOTALL
)
NAME = re.compile(r"%([\w.\-]+)")
FREE = set(
    "parameter constant get-tuple-element tuple bitcast partition-id replica-id"
    " after-all iota opt-barrier".split()
)
COLLECTIVE = re.compile(
    "(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?"
)


class Instruction(NamedTuple):
    """A line of a program.

    Attributes:
      name: Name in its computation.
      shape: Type of the result, with its layout.
      opcode: Such as "fusion".
      operands: Names of its arguments.
      rest: Everything after the opening parenthesis.
      is_root: Whether it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def called(self, role: str = "calls") -> str:
        """Name of a computation that it runs; "" if it runs none in this role."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


class Operation(NamedTuple):
    """An instruction that takes time.

    Attributes:
      source: Path of the JAX operation that it comes from, such as
        jit(f)/jvp(Generator)/block1/conv1/conv_general_dilated.
      times: How often a step runs it.
      flops: Twice the multiplications of its products and convolutions, once.
      bytes: Bytes that it moves from and to the device's main memory, once.
      cycles: The compiler's own estimate, once; None if it made none.
    """

    source: str
    times: int
    flops: int
    bytes: int
    cycles: int | None


class Buffer(NamedTuple):
    """An array with its layout.

    Attributes:
      sides: Number of elements along each axis.
      size: Bytes of its elements.
      held: Bytes in the device's main memory, with the padding of its tiles; 0 if it
        is in another memory.
    """

    sides: tuple[int, ...]
    size: int
    held: int


def buffers(shape: str) -> list[Buffer]:
    """The arrays of a type, such as f32[4,100]{1,0:T(8,128)S(1)} or a tuple of them."""
    return [_buffer(*found) for found in SHAPE.findall(shape)]


def _buffer(dtype: str, sides: str, layout: str) -> Buffer:
    logical = tuple(map(int, filter(None, sides.split(","))))
    order = [int(i) for i in layout.partition(":")[0].split(",") if i.isdigit()]
    inner = [logical[i] for i in order] if len(order) == len(logical) else logical[::-1]
    tile = re.search(r"T\(([\d,]+)\)", layout)
    padded = list(inner)  # the fastest axis comes first, as in `tile` reversed
    for i, side in enumerate(reversed(tile[1].split(",")) if tile else ()):
        if i < len(padded):
            padded[i] = -(-padded[i] // int(side)) * int(side)
    width = WIDTHS.get(dtype) or int(dtype.strip("fsu")) / 8
    size, held = (math.ceil(math.prod(n) * width) for n in (logical, padded))
    return Buffer(logical, size, 0 if re.search(r"S\([1-9]", layout) else held)


def hbm(shape: str) -> int:
    """Bytes of a type in the device's main memory."""
    return sum(buffer.held for buffer in buffers(shape))


class Program:
    """The computations of a compiled program."""

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := COMPUTATION.match(line):
                current = self._computations.setdefault(header[2], {})
                self._entry = header[2] if header[1] else self._entry
            elif found := INSTRUCTION.match(line):
                root, name, shape, opcode, rest = found.groups()
                operands = tuple(NAME.findall(rest.partition(")")[0]))
                current[name] = Instruction(
                    name, shape, opcode, operands, rest, bool(root)
                )

    @cached_property
    def operations(self) -> list[Operation]:
        """The operations of one run; of a conditional, those of its cheapest branch."""
        return list(self._walk(self._entry, 1))

    @cached_property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the results of the collectives in a run, by kind."""
        parts, times = self._computations, {}
        for one in (one for part in parts.values() for one in part.values()):
            if one.opcode == "while":
                times[one.called("body")] = self._trips(one.called("condition"))
        found: dict[str, tuple[int, int]] = {}
        for name, part in parts.items():
            for one in part.values():
                if kind := COLLECTIVE.fullmatch(one.opcode):
                    n, (count, total) = times.get(name, 1), found.get(kind[1], (0, 0))
                    size = sum(buffer.size for buffer in buffers(one.shape))
                    found[kind[1]] = count + n, total + n * size
        return found

    def _walk(self, computation: str, times: int) -> Iterator[Operation]:
        for one in self._computations.get(computation, {}).values():
            if one.opcode == "while":
                loops = times * self._trips(one.called("condition"))
                yield from self._walk(one.called("body"), loops)
            elif one.opcode == "call":
                yield from self._walk(one.called("to_apply"), times)
            elif one.opcode == "conditional":
                branches = re.search(r"branch_computations=\{(.*?)\}", one.rest)
                names = NAME.findall(branches[1]) if branches else []
                names += [
                    one.called(f"{side}_computation") for side in ("true", "false")
                ]
                every = [list(self._walk(name, times)) for name in names if name]
                yield from min(every, key=_weight, default=[])
            elif self._takes_time(one):
                yield self._operation(computation, one, times)

    def _takes_time(self, one: Instruction) -> bool:
        if one.opcode in FREE or COLLECTIVE.match(one.opcode):
            return False
        # starts and ends of copies between memories, while something else computes
        if one.opcode.endswith(("-start", "-done", "async-update")):
            return False
        return 'custom_call_target="AllocateBuffer"' not in one.rest

    def _operation(self, computation: str, one: Instruction, times: int) -> Operation:
        source = re.search(r'op_name="([^"]*)"', one.rest)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
        return Operation(
            source=source[1] if source else "",
            times=times,
            flops=self._flops(computation, one),
            bytes=self._read(computation, one) + self._written(computation, one),
            cycles=int(cycles[1]) if cycles else None,
        )

    def _trips(self, condition: str) -> int:
        """The constant with which a loop's condition compares its counter; else 1."""
        for one in self._computations.get(condition, {}).values():
            if one.opcode == "constant" and one.rest.partition(")")[0].isdigit():
                return int(one.rest.partition(")")[0])
            if one.opcode == "fusion" and (inner := self._trips(one.called())) > 1:
                return inner
        return 1

    def _flops(self, computation: str, one: Instruction) -> int:
        if one.opcode == "convolution":
            return _convolution_flops(one, self._computations[computation])
        inner = one.called()
        members = self._computations.get(inner, {})
        return sum(self._flops(inner, member) for member in members.values())

    def _read(self, computation: str, one: Instruction) -> int:
        table = self._computations[computation]
        return sum(
            self._read_by(one, place, hbm(table[name].shape))
            for place, name in enumerate(one.operands)
            if name in table
        )

    def _read_by(self, user: Instruction, place: int, whole: int) -> int:
        """Bytes of its operand that an instruction reads: slices are parts of it."""
        if whole == 0:
            return 0
        if user.opcode == "dynamic-slice":
            return min(hbm(user.shape), whole) if place == 0 else 0
        if user.opcode == "dynamic-update-slice" and place == 0:
            return 0
        inner = self._computations.get(user.called(), {})
        if user.opcode != "fusion" or not inner:
            return whole
        parameters = (one for one in inner.values() if one.opcode == "parameter")
        mine = [one.name for one in parameters if one.rest.startswith(f"{place})")]
        return min(whole, sum(self._used(inner, name, whole) for name in mine))

    def _used(self, table: dict[str, Instruction], name: str, whole: int) -> int:
        total = whole if table[name].is_root else 0
        for user in table.values():
            for place, operand in enumerate(user.operands):
                if operand == name and user.opcode == "bitcast":
                    total += self._used(table, user.name, whole)
                elif operand == name:
                    total += self._read_by(user, place, whole)
        return total

    def _written(self, computation: str, one: Instruction) -> int:
        """Bytes of its result that an instruction writes; slices as in `_read_by`."""
        table = self._computations[computation]
        if one.opcode == "bitcast" and one.operands[0] in table:
            return self._written(computation, table[one.operands[0]])
        if one.opcode == "dynamic-update-slice":
            return hbm(table[one.operands[1]].shape)
        inner = self._computations.get(one.called(), {})
        if one.opcode != "fusion" or not inner:
            return hbm(one.shape)
        (root,) = [member for member in inner.values() if member.is_root] or [one]
        parts = [root]
        if root.opcode == "tuple":
            parts = [inner[name] for name in root.operands if name in inner]
        outer = [buffer.held for buffer in buffers(one.shape)]
        wholes = outer if len(outer) == len(parts) else [sum(outer)] * len(parts)
        return sum(
            min(whole, self._written(one.called(), part))
            for whole, part in zip(wholes, parts, strict=True)
        )


def _weight(branch: list[Operation]) -> int:
    return sum(one.times * ((one.cycles or 0) + 1) for one in branch)


def _convolution_flops(one: Instruction, table: dict[str, Instruction]) -> int:
    """Twice the products of a convolution, without those with padding and holes."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    if not labels or not all(name in table for name in one.operands[:2]):
        return 0
    (image,), (kernel,) = (buffers(table[name].shape)[:1] for name in one.operands[:2])
    result = buffers(one.shape)[0]
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    given = dict(re.findall(r"(\w+)=(\S+)", window[1] if window else ""))

    def side(buffer: Buffer, place: int, axis: str) -> int:
        return buffer.sides[labels[place].index(axis)]

    total = 2 * side(kernel, 2, "i") * side(result, 3, "b") * side(result, 3, "f")
    for axis in filter(str.isdigit, labels[2]):

        def option(name: str, default: str, axis: str = axis) -> int:
            values = given[name].split("x") if name in given else {}
            return int(values[int(axis)].split("_")[0] if values else default)

        total *= _products(
            side(image, 1, axis),
            side(kernel, 2, axis),
            side(result, 3, axis),
            option("stride", "1"),
            option("pad", "0"),
            option("lhs_dilate", "1"),
            option("rhs_dilate", "1"),
        )
    return total


def _products(
    image: int, kernel: int, out: int, stride: int, pad: int, holes: int, apart: int
) -> int:
    """Products along an axis: pairs of outputs and weights that meet an input."""
    places = (i * stride + j * apart - pad for i in range(out) for j in range(kernel))
    return sum(0 <= at <= (image - 1) * holes and at % holes == 0 for at in places)

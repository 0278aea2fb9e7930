"""The unpickler for files of strangers: it knows tensors and executes nothing."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",  # NumPy has it from JAX
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_MOST_NODES, _MOST_DEPTH = 4096, 4  # of a tuple: Python's random state has 628


class Storage(NamedTuple):
    """A named run of numbers in the file."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage, with offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __hash__(self) -> int:  # not of its values: many in a tuple take long
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


Inert = dict[str, type] | None  # stand-ins by name; None: such names are refused


class Refused(Exception):
    """The file cannot be read here; the message says why."""


class _DoesNothing:
    """Takes whatever a pickle gives to an object, and keeps none of it."""

    def __new__(cls, *_args: Any, **_values: Any) -> Any:
        return super().__new__(cls)

    def _take(self, *_args: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = _take


class Unpickler(pickle._Unpickler):
    """Knows ordered dictionaries, tensors and storages, and nothing else.

    It is the one in Python, whose tuples can be looked at as they are built: a few
    bytes can nest them so that to hash, compare or print one takes forever.

    Attributes:
      storages: those that were named, by key.
    """

    stack: list[Any]  # of the base class

    def __init__(self, program: bytes, inert: Inert):
        super().__init__(io.BytesIO(program))
        self._inert = inert
        self.storages: dict[str, Storage] = {}
        # by id, with the tuple itself, so that no other gets its id
        self._tuples: dict[int, tuple[tuple[Any, ...], int, int]] = {}
        # functions of this instance: a program can set attributes of what it is given
        self._allowed: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args[:4]),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if module_name == "torch" and global_name in DTYPES:
            return global_name
        if name not in self._allowed:
            if self._inert is not None:
                return self._inert.setdefault(name, type("Inert", (_DoesNothing,), {}))
            raise Refused(
                f"refused: it names {name[:80]!r}, which no state_dict of plain tensors"
                " needs; nothing was executed"
            )
        return self._allowed[name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(view):
            raise Refused("refused: a persistent object that is no storage")
        if type(dtype) is not str:
            raise Refused("refused: a tensor of a type that NumPy does not have")
        if type(key) is not str or type(size) is not int:
            raise Refused("refused: a storage without key or size")
        storage = Storage(key, DTYPES[dtype], size)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("one of its storages has two types")
        return storage

    def _check_tuple(self) -> None:
        """Refuses the tuple that was just built if it is too large or too deep."""
        built = self.stack[-1]
        inner = [self._tuples[id(x)] for x in built if id(x) in self._tuples]
        nodes = 1 + len(built) + sum(n for _, n, _ in inner)
        depth = 1 + max((deep for *_, deep in inner), default=0)
        if nodes > _MOST_NODES or depth > _MOST_DEPTH:
            raise Refused("refused: tuples nested too deep or too often")
        self._tuples[id(built)] = built, nodes, depth


def _checked(build: Callable[[Any], None]) -> Callable[[Any], None]:
    def built(self: Unpickler) -> None:
        build(self)
        self._check_tuple()

    return built


def _no_frozenset(self: Unpickler) -> None:
    raise Refused("refused: a frozenset, which no state_dict needs")


_TUPLES = pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3
Unpickler.dispatch = {
    **pickle._Unpickler.dispatch,
    **{code[0]: _checked(pickle._Unpickler.dispatch[code[0]]) for code in _TUPLES},
    pickle.FROZENSET[0]: _no_frozenset,
}


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor of these values from a file, if they are of the right types."""
    places = [offset, *shape, *strides]
    known = all(type(place) is int and place >= 0 for place in places)
    if type(storage) is not Storage or not known or len(shape) != len(strides):
        raise Refused("a tensor without storage, or of impossible shape or strides")
    return Tensor(storage, offset, tuple(shape), tuple(strides))

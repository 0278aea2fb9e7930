"""Times our train step against that of a PyTorch peer.

python benchmarks/step.py --layout 32 --batch 16 --rounds 20 --json step32.json

Each side is a process of its own, with its own threads, allocator and peak of memory,
and runs one step when told to. A round is one step of each side, in rotating order; a
side whose turn comes first runs a step that is not timed. Ratios are taken within a
round, so that a machine that slows down for a while slows all sides. Ours is the step
that train.py runs: sagan.training.parallel.map_step, on one device.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sagan.config import Config, load

SIDES = {
    "sagan": "ours",
    "sagan-plain": "ours with model.fast off",
    "sagan-released": "ours, whose memory the system takes back after each step",
    "torch": "the peer, NCHW",
    "torch-nhwc": "the peer, channels_last",
}
DEFAULT_SIDES = ("sagan", "torch", "torch-nhwc")


LAYOUTS = {
    16: ("configs/digits.py", 10, (75_394, 75_506)),
    # PyTorch-StudioGAN's CIFAR10 SAGAN, and the G and D parameter counts that it logs
    32: ("StudioGAN CIFAR10", 10, (4_386_308, 1_075_586)),
    # the official code's default
    128: ("official ImageNet, attention at 32", 1000, (42_078_852, 39_463_618)),
}


def layout(size: int, batch: int, **model: Any) -> Config:
    """The config of a layout, with fields of `model` replaced."""
    new = dataclasses.replace
    if size == 16:
        digits = load("digits", {"data.classes": 10, "data.batch": batch})
        return new(digits, model=new(digits.model, **model))
    config = Config()
    data = new(config.data, size=size, classes=LAYOUTS[size][1], batch=batch)
    # one group: the peer's batch norm uses moments of the whole batch
    g, d = new(config.g, bn_group=0), config.d
    if size == 32:
        ones = (1, 1, 1, 1)
        g = new(g, width=256, multipliers=ones, attention=(16,))
        d = new(d, width=128, multipliers=ones, down=2, attention=(16,))
    shared = new(config.model, sn_detach=True, **model)  # as PyTorch does
    return new(config, data=data, g=g, d=d, model=shared)


class Subject(NamedTuple):
    """One side of the comparison.

    Attributes:
      step: Runs one step to its end and returns the losses.
      parameters: Numbers of trainable parameters of G and D.
      versions: Versions of the libraries that compute.
      device_peak: Returns the peak number of bytes on the accelerator; None on CPU.
      flops: Returns the FLOPs of one step if XLA knows them, else None.
    """

    step: Callable[[], dict[str, float]]
    parameters: tuple[int, int]
    versions: dict[str, str]
    device_peak: Callable[[], int | None]
    flops: Callable[[], float | None]


def make_torch(side: str, args: argparse.Namespace) -> Subject:
    """The peer in its fastest form."""
    import torch
    import torch_peer

    torch.set_num_threads(args.threads)
    cuda = args.device == "cuda"
    options = torch_peer.Options(
        channels_last=side == "torch-nhwc",
        amp=args.dtype == "bfloat16",
        device=args.device,
    )
    config = layout(args.layout, args.batch)
    trainer = torch_peer.Trainer(config, options)
    size, classes = config.data.size, config.data.classes
    channels = config.data.channels
    real = 2 * torch.rand(args.batch, channels, size, size, device=args.device) - 1
    y = torch.randint(classes, (args.batch,), device=args.device)

    def step() -> dict[str, float]:
        losses = {name: float(x) for name, x in trainer.step(real, y).items()}
        if cuda:
            torch.cuda.synchronize()
        return losses

    peak = torch.cuda.max_memory_allocated if cuda else lambda: None
    versions = {"torch": torch.__version__}
    return Subject(step, trainer.counts(), versions, peak, lambda: None)


def make_sagan(side: str, args: argparse.Namespace) -> Subject:
    """The step that train.py runs."""
    import jax
    import jaxlib
    import numpy as np

    from sagan.data.pipeline import Batch
    from sagan.runtime import memory
    from sagan.state import count, create, make_game
    from sagan.step import train_step
    from sagan.training.parallel import map_step

    if side != "sagan-released":
        memory.run_on_this_thread()
    fast = side != "sagan-plain"
    config = layout(args.layout, args.batch, fast=fast, dtype=args.dtype)
    mapped = map_step(make_game(config), jax.devices()[:1])
    state = mapped.place_state(create(config))
    parameters = (count(state.g.params), count(state.d.params))
    shapes = jax.eval_shape(lambda state: state, state)
    size, classes = config.data.size, config.data.classes
    rng = np.random.default_rng(0)
    shape = (1, args.batch, size, size, config.data.channels)
    image = rng.integers(256, size=shape, dtype=np.uint8)
    label = rng.integers(classes, size=(1, args.batch), dtype=np.int32)
    batch = Batch(image=image, label=label)
    placed = mapped.place_batch(batch)

    def step() -> dict[str, float]:
        nonlocal state
        state, metrics = mapped.step(state, placed)
        jax.block_until_ready((state, metrics))
        return {name: float(metrics[name]) for name in ("d_loss", "g_loss")}

    def device_peak() -> int | None:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def flops() -> float:
        # before XLA's own rewriting: on CPU it hides convolutions in custom calls
        step = jax.jit(functools.partial(train_step, make_game(config)))
        return step.lower(shapes, batch).cost_analysis()["flops"]

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    return Subject(step, parameters, versions, device_peak, flops)


def work(args: argparse.Namespace) -> None:
    """Runs a worker: answers each command, a line of stdin, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library's output must not look like an answer
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it can
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    make = make_torch if args.worker.startswith("torch") else make_sagan
    subject = make(args.worker, args)

    def peak() -> dict[str, int | None]:
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "peak": whole * unit,
            "peak_steps": _high_water(),
            "device_peak": subject.device_peak(),
        }

    commands = {
        "about": lambda: {
            "parameters": subject.parameters,
            "versions": subject.versions,
        },
        "step": lambda: _timed(subject.step),
        "forget": _forget_high_water,
        "peak": peak,
        "flops": subject.flops,
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


def _timed(step: Callable[[], dict[str, float]]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    losses = step()
    seconds, after = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF),
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, **losses}


def _forget_high_water() -> None:
    """Resets the peak of memory, so that compilation does not count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
    return None


class Worker:
    """The parent's end of a worker."""

    def __init__(self, side: str, args: argparse.Namespace, argv: list[str]):
        python = args.torch_python if side.startswith("torch") else sys.executable
        command = [python, __file__, *argv, "--worker", side]
        self.side = side
        # torch's OpenMP threads spin while they wait for each other: on a machine with
        # other work that doubled its CPU seconds (14.6 -> 26.7 at 128 px, batch 8)
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, command: str) -> Any:
        """Sends a command and waits for the answer."""
        print(command, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.side}: the worker died on {command!r}")
        return json.loads(answer)

    def step(self) -> dict[str, float]:
        told = self.ask("step")
        if not (math.isfinite(told["d_loss"]) and math.isfinite(told["g_loss"])):
            raise SystemExit(f"{self.side}: a loss is not finite: {told}")
        return told

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Runs all sides; returns the contents of the JSON file."""
    with contextlib.ExitStack() as stack:
        workers = []
        for side in args.side or DEFAULT_SIDES:
            workers.append(Worker(side, args, argv))
            stack.callback(workers[-1].close)
        sides = {worker.side: prepare(worker, args) for worker in workers}
        steps: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        firsts = [i % len(workers) for i in range(args.rounds)]
        order = [worker for i in firsts for worker in workers[i:] + workers[:i]]
        turn = None
        for worker in sorted(order, key=workers.index) if args.alone else order:
            if worker is not turn:
                worker.step()  # brings back memory that the system took from idle sides
            turn = worker
            steps[worker.side].append(worker.step())
        for worker in workers:
            sides[worker.side] |= worker.ask("peak")
            sides[worker.side]["flops"] = worker.ask("flops")
    for side, told in sides.items():
        told["seconds"] = [step["seconds"] for step in steps[side]]
        told["cpu"] = [step["cpu"] for step in steps[side]]
    if "sagan" in sides and "sagan-plain" not in sides:
        plain = Worker("sagan-plain", args, argv)
        sides["sagan"]["flops_plain"] = plain.ask("flops")
        plain.close()
    return {
        "layout": args.layout,
        "batch": args.batch,
        "dtype": args.dtype,
        "device": args.device,
        "threads": args.threads,
        "alone": args.alone,
        "machine": _machine(),
        "sides": sides,
    }


def prepare(worker: Worker, args: argparse.Namespace) -> dict[str, Any]:
    """Checks that a side has the right number of parameters, and warms it up."""
    about = worker.ask("about")
    expected = LAYOUTS[args.layout][2]
    if tuple(about["parameters"]) != expected:
        raise SystemExit(f"{worker.side}: {about['parameters']}, not {expected}")
    about["first_step"] = worker.step()["seconds"]
    for _ in range(args.warmup - 1):
        worker.step()
    worker.ask("forget")
    return about


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yields the lines for the user."""
    size, sides = result["layout"], result["sides"]
    machine = result["machine"]
    yield (
        f"{size} px ({LAYOUTS[size][0]}), batch {result['batch']}, {result['dtype']},"
        f" {result['threads']} threads of {machine['cores']} x {machine['cpu']},"
        f" load {machine['load']:.1f}"
    )
    for side, told in sides.items():
        versions = ", ".join(f"{k} {v}" for k, v in told["versions"].items())
        peaks = [
            f"{told[key] / 2**30:.2f} GiB {text}"
            for key, text in (
                ("peak", "peak"),
                ("peak_steps", "after the warm-up"),
                ("device_peak", "on the device"),
            )
            if told[key]
        ]
        yield (
            f"{side:12} {statistics.median(told['seconds']):8.3f} s"
            f" {statistics.median(told['cpu']):8.3f} CPU s; {', '.join(peaks)};"
            f" first step {told['first_step']:.0f} s; {versions}"
        )
    for a, b in _pairs(sides):
        wall, cpu = (_ratio(sides[a][key], sides[b][key]) for key in ("seconds", "cpu"))
        yield f"{a} / {b}: {wall} of the time, {cpu} of the CPU seconds"
    ours = sides.get("sagan", {})
    if "flops_plain" in ours:
        fast, plain = ours["flops"], ours["flops_plain"]
        yield (
            f"operations of our step: {fast / 1e9:.1f} G, in plain form"
            f" {plain / 1e9:.1f} G: {fast / plain:.3f}"
        )


def _pairs(sides: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = list(sides)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            yield a, b


def _ratio(a: list[float], b: list[float]) -> str:
    """Median of the ratios within a round, and their quartiles."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    if len(ratios) < 2:
        return f"{ratios[0]:.3f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layout", type=int, choices=LAYOUTS, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--alone",
        action="store_true",
        help="all timed steps of a side after each other",
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps; at least 1")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="file for every number"
    )
    parser.add_argument(
        "--side",
        action="append",
        choices=SIDES,
        help="run only this side; may be repeated",
    )
    parser.add_argument(
        "--torch-python",
        metavar="PYTHON",
        default=sys.executable,
        help="the Python of an environment with PyTorch and sagan; default: this one",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--device", default="cpu", help="for torch; JAX chooses its own"
    )
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    if args.worker:
        work(args)
        return
    result = measure(args, argv)
    for line in lines(result):
        print(line)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

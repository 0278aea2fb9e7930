"""Kills a training run with SIGKILL again and again, and checks what is left.

python benchmarks/kill.py [--kills 100] [--seed 0] [--out runs/kill]
                          [--setting plain] [--devices 1] [--bucket]

Trains a tiny configs/digits.py once without interruption, then again under kills. A
kill ends the whole process group at a random moment: during start-up or compilation
(with an empty cache), between two steps, while a checkpoint is written, or during an
evaluation. The same command restarts the run until it is done. Checks:

- after each kill: every line of metrics.jsonl, except a torn last one, equals that of
  the unbroken run, apart from the times; every checkpoint has the checksum and the
  metrics of the unbroken run's; no step older than the two newest saves is lost;
- at each restart: the run resumes from the newest checkpoint that the kill left;
- at the end: metrics, pictures, evaluations, the best checkpoint and the final state
  equal those of the unbroken run bit for bit, and no half-written file is left.

With `--setting rollback` the discriminator's rate is a thousand times too high, and the
run goes back twice. What is left on the way then differs from the unbroken run, which
went back earlier or later: only the end is compared.

With `--bucket` the workdir is in a bucket (of emulator.py), which is looked at every
0.2 s, and the local disk is emptied after each kill: all checks are of the bucket.

Prints a tally, and exits with 1 if anything differs. A second call with the same --out
reuses the unbroken run.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from emulator import BUCKET, Emulator
from jax._src import compilation_cache

from sagan.checkpoints.bucket_layout import MARKER
from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config

ROOT = Path(__file__).parents[1]
EVERY, EVALUATE, PICTURES = 10, 20, 15  # steps
PHASES = ("start", "compile", "step", "save", "evaluate")
TMP = "*.orbax-checkpoint-tmp"
KEEP = 3  # checkpoints, besides the best
PATIENCE = 300  # seconds to wait for a moment


SETTINGS = {
    "plain": [],
    "rollback": [
        *["--run.on-divergence", "rollback", "--run.rollbacks", "9"],
        *["--run.rollback-factor", "0.1", "--optim.d-lr", "10"],
        *["--run.keep", "9999"],  # else the newest that is far enough back may be gone
    ],
}


class Run(NamedTuple):
    """What is trained: arguments of a setting, steps, and number of virtual devices."""

    setting: str = "plain"
    steps: int = 600
    devices: int = 1

    def __str__(self) -> str:
        return f"{self.setting}{self.steps}x{self.devices}"

    @property
    def goes_back(self) -> bool:
        return self.setting == "rollback"


PLAIN = Run()


OFTEN = """import runpy, sys
from sagan.checkpoints import mirror
mirror.EVERY = 0.2
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")"""


def command(workdir: Path | str, run: Run, keep: int = KEEP) -> list[str]:
    """The command line. Only `keep` varies, and no number depends on it."""
    train = ["-c", OFTEN] if str(workdir).startswith("gs:") else ["train.py"]
    return [
        *[sys.executable, "-u", *train, "configs/digits.py"],
        *["--workdir", str(workdir), "--run.steps", str(run.steps)],
        *["--g.width", "8", "--d.width", "8", "--data.batch", "8", "--ema.start", "5"],
        *["--run.log-every", "1", "--run.checkpoint-every", str(EVERY)],
        *["--run.sample-every", str(PICTURES), "--run.keep", str(keep)],
        *["--run.evaluate-every", str(EVALUATE), "--run.evaluate-samples", "64"],
        *SETTINGS[run.setting],
    ]


class Life:
    """One process of the run, from start to death.

    Attributes:
      lines: Its output so far.
    """

    def __init__(
        self, args: list[str], folder: Path, compiled: str = "warm", devices: int = 1
    ):
        caches = {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "SAGAN_CACHE": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled" / compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | caches
        out = subprocess.PIPE
        self.process = subprocess.Popen(
            args,
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def said(self, pattern: str) -> re.Match[str] | None:
        """Matches the pattern at the start of each line; returns the last match."""
        found = (re.match(pattern, line) for line in reversed(list(self.lines)))
        return next((match for match in found if match), None)

    def step(self) -> int:
        """The last step that it reported."""
        match = self.said(r"step (\d+) of|resuming from step (\d+)")
        return int(match[1] or match[2]) if match else 0

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.alive():
            os.killpg(self.process.pid, number)
        self.end()

    def end(self) -> int:
        code = self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def phase(self, checkpoints: Path) -> str:
        """The phase in which it died."""
        if not self.said(r"\d+ x .* parameters: "):
            return "start"
        if not self.said("first step: "):
            return "compile"
        if any(checkpoints.glob(TMP)):
            return "save"
        told = re.match(r"step (\d+) of", self.lines[-1])
        return "evaluate" if told and int(told[1]) % EVALUATE == 0 else "step"


@dataclasses.dataclass
class Findings:
    """`wrong` lists what must not happen."""

    wrong: list[str] = dataclasses.field(default_factory=list)

    def check(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrong.append(otherwise)
            print(f"WRONG: {otherwise}", flush=True)


@dataclasses.dataclass
class Tally(Findings):
    """Counts of what happened."""

    aimed: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    died: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    half_written: int = 0
    half_removed: int = 0
    torn_lines: int = 0
    restarts: int = 0
    resumed: int = 0
    runs: int = 0
    entries: int = 0
    cut_short: int = 0
    lost: list[int] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        died = ", ".join(f"{p} {self.died[p]} of {self.aimed[p]}" for p in PHASES)
        lost = np.array(self.lost or [0])
        return "\n".join(
            [
                f"kills: {self.died.total()}; died in (of aimed at): {died}",
                f"half-written checkpoints left by kills: {self.half_written};"
                f" half-removed old ones: {self.half_removed};"
                f" torn last lines of metrics.jsonl: {self.torn_lines}",
                f"restarts: {self.restarts}; reached restoring: {self.resumed}, each"
                " from the newest complete checkpoint",
                f"steps repeated after a restart: {np.median(lost):.0f} (median),"
                f" {lost.max()} (most), with a checkpoint every {EVERY}",
                f"entries in JAX's compilation cache: {self.entries}, truncated by"
                f" kills: {self.cut_short}",
                f"runs that ended like the unbroken one, bit for bit: {self.runs}",
                f"wrong: {len(self.wrong)}",
            ]
        )


def whole(checkpoints: Path) -> list[int]:
    """Steps with a complete checkpoint, in ascending order."""
    paths = list(checkpoints.glob("[0-9]*"))
    if "gcs" in checkpoints.parts:  # there, they come file by file
        paths = [path for path in paths if (path / MARKER).exists()]
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


def newest(checkpoints: Path) -> int:
    """The newest step with a complete checkpoint; 0 if there is none."""
    return max(whole(checkpoints), default=0)


def metrics(workdir: Path) -> tuple[list[dict], bool]:
    """The lines without the times, and whether the last one is torn."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    rows = [json.loads(line) for line in lines[: len(lines) - torn]]
    clocks = ("images_per_s", "memory/", "time/")
    kept = [{k: v for k, v in r.items() if not k.startswith(clocks)} for r in rows]
    return kept, torn


def meta(checkpoints: Path, step: int) -> dict:
    return json.loads((checkpoints / str(step) / "meta" / "metadata").read_text())


def wait_for(aim: str, life: Life, checkpoints: Path, numbers: random.Random) -> None:
    """Returns at a random moment in the phase aimed at, or when the process ends."""
    begin = time.monotonic()

    def until(ready) -> None:
        while life.alive() and not ready():
            time.sleep(0.0005)
            if time.monotonic() > begin + PATIENCE:
                raise SystemExit(f"no {aim} within {PATIENCE} s: {life.lines[-3:]}")

    if aim == "start":
        return time.sleep(numbers.uniform(0, 4))
    until(lambda: life.said(r"\d+ x .* parameters: "))
    if aim == "compile":
        return time.sleep(numbers.uniform(0, 12))
    until(lambda: life.said("first step: "))
    target = life.step() + numbers.randint(1, 2 * EVALUATE)
    until(lambda: life.step() >= target)
    if aim == "save":
        until(lambda: any(checkpoints.glob(TMP)))
        return time.sleep(numbers.uniform(0, 0.03))
    if aim == "evaluate":
        first = life.step() // EVALUATE + 1
        done = checkpoints.parent / "eval"  # by an earlier process: not repeated
        while (done / f"step_{first * EVALUATE}" / "results.json").exists():
            first += 1
        until(lambda: life.step() >= first * EVALUATE)
        return time.sleep(numbers.uniform(0, 0.15))
    return time.sleep(numbers.uniform(0, 0.03))


def after_a_kill(
    life: Life,
    workdir: Path,
    unbroken: Path,
    tally: Tally,
    run: Run = PLAIN,
    local: Path | None = None,
) -> None:
    """Counts a death, and checks what it left: in the workdir, if need be a bucket's.

    `local` is the folder in which a run in a bucket had its checkpoints.
    """
    checkpoints = workdir / "checkpoints"
    tally.died[life.phase(local or checkpoints)] += 1
    words = ("Traceback", "error:")
    loud = [line for line in life.lines if any(word in line for word in words)]
    tally.check(not loud, f"it said {loud}")
    tally.half_written += len(list(checkpoints.glob(TMP)))
    rows, torn = metrics(workdir)
    tally.torn_lines += torn
    if run.goes_back:
        return
    same = rows == metrics(unbroken)[0][: len(rows)]
    tally.check(same, f"metrics.jsonl after step {life.step()}")
    for i, step in enumerate(reversed(whole(checkpoints))):
        if i >= KEEP and not (checkpoints / str(step) / "meta" / "metadata").exists():
            tally.half_removed += 1  # no longer among the newest: being removed
            continue
        same = meta(checkpoints, step) == meta(unbroken / "checkpoints", step)
        tally.check(same, f"checkpoint {step} is not the unbroken run's")
    saved = (life.step() - 1) // EVERY * EVERY  # started: the one before is complete
    enough = newest(checkpoints) >= min(saved - EVERY, life.step())
    if "gcs" not in checkpoints.parts:
        tally.check(enough, f"step {life.step()} reached, newest {newest(checkpoints)}")
    if life.said("first step: "):
        tally.lost.append(max(0, life.step() - newest(checkpoints)))


def check_resumed(life: Life, expected: int, tally: Tally) -> None:
    """Checks that a restart resumed from the newest checkpoint."""
    if not life.said(r"\d+ x .* parameters: "):
        return
    match = life.said(r"resuming from step (\d+)")
    found = int(match[1]) if match else 0
    tally.resumed += 1
    tally.check(found == expected, f"resumed from {found}, newest was {expected}")
    over = [line for line in life.lines if "passed over" in line]
    tally.check(not over, f"a checkpoint was bad: {over}")


def same_run(workdir: Path, unbroken: Path, tally: Tally) -> None:
    """Compares everything that two finished runs leave."""
    before = len(tally.wrong)
    best = [
        Checkpoints(path / "checkpoints", KEEP, read_only=True).best()
        for path in (workdir, unbroken)
    ]
    tally.check(best[0] == best[1], f"best checkpoints {best}")
    for step in (None, best[1]):
        states = [SavedRun(p, read_config(p)).load(step) for p in (workdir, unbroken)]
        trees = [jax.tree_util.tree_leaves_with_path(state) for state, _ in states]
        for (path, x), (_, y) in zip(*trees, strict=True):
            same = np.asarray(x).tobytes() == np.asarray(y).tobytes()
            name = f"{jax.tree_util.keystr(path)} of the {step or 'final'} state"
            tally.check(same, name)
    tally.check(metrics(workdir) == metrics(unbroken), "metrics.jsonl at the end")
    findings = [path / "monitor.jsonl" for path in (workdir, unbroken)]
    told = [path.read_text() if path.exists() else "" for path in findings]
    tally.check(told[0] == told[1], "monitor.jsonl at the end")
    pictures = [
        {p.name: zlib.crc32(p.read_bytes()) for p in (path / "samples").iterdir()}
        for path in (workdir, unbroken)
    ]
    tally.check(pictures[0] == pictures[1], "pictures")
    numbers = [
        {
            p.parent.name: json.loads(p.read_text())["results"]
            for p in (path / "eval").glob("*/results.json")
        }
        for path in (workdir, unbroken)
    ]
    tally.check(numbers[0] == numbers[1], "evaluations")
    patterns = (TMP, ".*.json.*", ".*.jsonl.*", ".card.md.*", ".*.png.*")
    left = [path for pattern in patterns for path in workdir.rglob(pattern)]
    tally.check(not left, f"half-written files: {left}")
    tally.runs += len(tally.wrong) == before


def count_compiled(folder: Path, tally: Tally) -> None:
    """Reads every entry in the compilation caches."""
    for path in (folder / "compiled").rglob("*-cache"):
        tally.entries += 1
        try:
            compilation_cache.decompress_executable(path.read_bytes())
        except Exception:  # depends on the compression library
            tally.cut_short += 1


def run_unbroken(folder: Path, run: Run) -> Path:
    """Trains the run that is never killed, keeping every checkpoint."""
    unbroken = folder / f"unbroken_{run}"
    args = command(unbroken, run, keep=run.steps)
    life = Life(args, folder, devices=run.devices)
    if life.end():
        raise SystemExit("\n".join(life.lines[-9:]))
    return unbroken


def run_killed(
    folder: Path,
    unbroken: Path,
    run: Run,
    aims: Iterable[str],
    seed: int,
    bucket: Emulator | None = None,
) -> Tally:
    """Kills once per aim; when a run finishes before the aims do, starts a new one."""
    numbers, tally = random.Random(seed), Tally()
    disk = folder / "cache" / "buckets"
    place = bucket.root / BUCKET if bucket else folder
    unused = (place / f"killed_{run}_{i}" for i in itertools.count())
    workdir = next(path for path in unused if not path.exists())
    for aim in [*aims, "none"]:
        while True:
            checkpoints = workdir / "checkpoints"
            expected = newest(checkpoints)
            tally.restarts += workdir.exists()
            compiled = f"cold{tally.restarts}" if aim == "compile" else "warm"
            given, local = workdir, checkpoints
            if bucket:
                given = f"gs://{BUCKET}/{workdir.name}"
                local = disk / "runs" / BUCKET / workdir.name / "checkpoints"
                shutil.rmtree(disk, ignore_errors=True)
            life = Life(command(given, run), folder, compiled, run.devices)
            try:
                if aim != "none":
                    wait_for(aim, life, local, numbers)
                    life.kill()
                code = life.end()
            finally:
                life.kill()
            check_resumed(life, expected, tally)
            if code == -signal.SIGKILL:
                tally.aimed[aim] += 1
                after_a_kill(life, workdir, unbroken, tally, run, local)
                break
            tally.check(code == 0, f"exit code {code}: {life.lines[-3:]}")
            same_run(workdir, unbroken, tally)
            if aim == "none" or tally.wrong:
                count_compiled(folder, tally)
                return tally
            workdir = next(unused)
        print(f"{tally.died.total()} {aim}: step {life.step()}", flush=True)
        if tally.died.total() % 25 == 0:
            print(tally, flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="length of the run")
    parser.add_argument("--setting", choices=SETTINGS, default="plain")
    parser.add_argument("--devices", type=int, default=1, help="virtual ones")
    parser.add_argument("--bucket", action="store_true", help="see above")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    known = parser.parse_args()
    folder = known.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    run = Run(known.setting, known.steps, known.devices)
    unbroken = run_unbroken(folder, run)
    print(f"unbroken: {time.monotonic() - begin:.0f} s", flush=True)
    numbers = random.Random(known.seed)
    aims = [PHASES[i % len(PHASES)] for i in range(known.kills)]
    numbers.shuffle(aims)
    bucket = Emulator(folder / "gcs") if known.bucket else None
    try:
        if bucket:
            os.environ |= bucket.environment
        tally = run_killed(folder, unbroken, run, aims, known.seed, bucket)
    finally:
        if bucket:
            bucket.stop()
    print(f"{tally}\n{time.monotonic() - begin:.0f} s")
    raise SystemExit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()

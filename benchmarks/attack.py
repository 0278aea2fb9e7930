"""Attacks runs, and counts what is lost, wrong, or told in more than one line.

python benchmarks/attack.py [--only kills signals fuzz disk odd] [--kills 100]
    [--cases 500] [--minutes 90] [--seed 0] [--out runs/attack]

kills     SIGKILL at random moments: see kill.py. Plain, and with rollbacks on one and
          on four virtual devices.
signals   SIGTERM, SIGINT and SIGHUP at random moments: the process saves and exits
          with 0, and the run ends like the unbroken one.
fuzz      Damages one file of a finished workdir, or of the cache, and gives a command
          the rest: bits flipped, cut, emptied, removed, garbage, deep JSON, a
          folder, a FIFO, or a link in its place.
disk      Trains on disks that are too small, then on the same with room (needs root).
odd       Whatever else may happen to a run; see ODD.

Wrong is: a state, a number or a picture that differs from that of a run that was left
alone; a traceback; a command that does not end; a file that is gone; a change outside
the workdir. Prints a tally and writes it to OUT/attack.txt; exits with 1 if anything is
wrong. What the time bound left out is told.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import kill as kill_lib
import numpy as np

from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.cli import main as cli
from sagan.runtime import program_cache
from sagan.runtime.files import read_json

ROOT = Path(__file__).parents[1]
PARTS = ("kills", "signals", "fuzz", "disk", "odd")
PATIENCE = 240  # seconds for a command
SMALL = [  # a run of seconds with every part
    *[str(ROOT / "configs" / "digits.py"), "--data.size", "8", "--g.attention", "8"],
    *[
        "--g.z",
        "4",
        "--d.attention",
        "4",
        "--g.width",
        "8",
        "--d.width",
        "8",
        "--data.batch",
        "16",
    ],
    *["--ema.start", "2", "--run.log-every", "1", "--run.sample-every", "4"],
    *["--run.checkpoint-every", "4", "--run.no-tensorboard"],
]
MIDDLE, END = 8, 12  # steps: a damaged run has MIDDLE, and goes on to END
EVALUATION = ["--samples", "64", "--metrics", "fid,is", "--weights", "ema"]
EVALUATION += ["--batch-norm", "moving"]


@dataclasses.dataclass
class Tally(kill_lib.Findings):
    """Counts by part."""

    done: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counts = [f"{name}: {count}" for name, count in sorted(self.done.items())]
        return "\n".join([*counts, *self.notes, f"wrong: {len(self.wrong)}"])


class Hung(BaseException):
    """A command did not end; no error that it could report itself."""


class Answer(NamedTuple):
    """What a command left: its exit code (None: an exception), and what it said."""

    code: int | None
    said: str


def call(command: str, *args: str) -> Answer:
    """Runs a command of ours in this process, for PATIENCE seconds at most."""
    known = {"train": cli.train_command, "eval": cli.eval_command} | cli.COMMANDS
    said = io.StringIO()

    def give_up(number, frame) -> None:
        raise Hung(f"{command} did not end within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.run(known[command], list(args))
    except BaseException:  # a traceback, for a user
        return Answer(None, said.getvalue() + traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Answer(code, said.getvalue())


def check_answer(answer: Answer, tally: Tally, case: str) -> None:
    """An error is one message, and says so; anything else is a success."""
    tally.check(answer.code is not None, f"{case}: traceback\n{answer.said[-1500:]}")
    if answer.code:
        told = answer.said.count("error: ")
        tally.check(told == 1, f"{case}: {told} errors told: {answer.said[-500:]}")


def digest(workdir: Path, step: int) -> str:
    """SHA-256 of all arrays of a checkpoint."""
    state, _ = SavedRun(workdir, read_config(workdir)).load(step)
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def numbers(workdir: Path) -> dict[str, list[object]]:
    """The rows of every evaluation that can be read, by its folder."""
    found = {}
    for path in (workdir / "eval").glob("*/results.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            found[path.parent.name] = read_json(path)["results"]
    return found


class Target(NamedTuple):
    """A finished run to damage copies of, and what a copy that goes on must reach."""

    folder: Path
    state: str
    numbers: dict[str, list[object]]

    @property
    def base(self) -> Path:
        """The run and the cache."""
        return self.folder / "base"

    @property
    def end(self) -> Path:
        """The run that was left alone."""
        return self.folder / "end"


def make_target(folder: Path) -> Target:
    """Trains, evaluates and draws the run, and trains a copy to the end."""
    base = folder / "base"
    os.environ["SAGAN_CACHE"] = str(folder / "cache")
    if not (folder / "end").exists():
        shutil.rmtree(base, ignore_errors=True)
        train(base / "run", MIDDLE)
        place = ["--workdir", str(base / "run")]
        evaluate("run", base, "all")
        for name in ("report", "sheets"):
            answer = call(name, *place, *sheets(name))
            assert answer.code == 0, answer.said
        shutil.copytree(folder / "cache", base / "cache", dirs_exist_ok=True)
        shutil.rmtree(base / "cache" / "compiled", ignore_errors=True)
        shutil.copytree(base / "run", folder / "ending")
        train(folder / "ending", END)
        (folder / "ending").rename(folder / "end")
    state = digest(folder / "end", END)
    return Target(folder, state, numbers(base / "run"))


def sheets(name: str) -> list[str]:
    return ["--only", "classes", "interpolation"] if name == "sheets" else []


def train(workdir: Path, steps: int) -> None:
    answer = call("train", *SMALL, "--workdir", str(workdir), "--run.steps", str(steps))
    assert answer.code == 0, answer.said


def evaluate(name: str, base: Path, step: str) -> None:
    answer = call("eval", "--workdir", str(base / name), "--step", step, *EVALUATION)
    assert answer.code == 0, answer.said


Damage = Callable[[Path, random.Random, Path], object]  # of a file; outside: a folder


def flip(path: Path, rng: random.Random, outside: Path) -> None:
    data = bytearray(path.read_bytes()) or bytearray(b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random, outside: Path) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def replaced(make: Callable[[Path, random.Random, Path], object]) -> Damage:
    def damage(path: Path, rng: random.Random, outside: Path) -> None:
        path.unlink()
        make(path, rng, outside)

    return damage


DAMAGES: dict[str, Damage] = {
    "flip": flip,
    "cut": cut,
    "empty": lambda path, rng, outside: path.write_bytes(b""),
    "remove": lambda path, rng, outside: path.unlink(),
    "garbage": lambda path, rng, outside: path.write_bytes(rng.randbytes(300)),
    "deep": lambda path, rng, outside: path.write_text("[" * 100_000),
    "list": lambda path, rng, outside: path.write_text("[1]\n"),
    "object": lambda path, rng, outside: path.write_text('{"step": {}, "about": []}\n'),
    "large": lambda path, rng, outside: path.write_bytes(
        path.read_bytes() + b" " * 2**25
    ),
    "folder": replaced(lambda path, rng, outside: path.mkdir()),
    "fifo": replaced(lambda path, rng, outside: os.mkfifo(path)),
    "link": replaced(lambda path, rng, outside: path.symlink_to(outside / "file")),
    "loop": replaced(lambda path, rng, outside: path.symlink_to(path)),
}
FOLDER_DAMAGES: dict[str, Damage] = {
    "folder removed": lambda path, rng, outside: shutil.rmtree(path),
    "folder a file": lambda path, rng, outside: (shutil.rmtree(path), path.touch()),
    "folder a link": lambda path, rng, outside: (
        shutil.rmtree(path),
        path.symlink_to(outside),
    ),
}
READERS = ("report", "sheets", "sample", "table", "eval", "eval all", "init-from")


def arguments(name: str, place: Path) -> tuple[str, list[str]]:
    """A command with its arguments for the run in place/run."""
    run, out = place / "run", place / "out"
    if name == "train":
        return name, [*SMALL, "--workdir", str(run), "--run.steps", str(END)]
    if name == "init-from":
        new = ["--workdir", str(out), "--run.steps", "1", "--run.init-from", str(run)]
        return "train", [*SMALL, *new]
    if name == "table":
        return name, [str(run)]
    more = {"sample": ["--n", "4", "--out", str(out)], "report": []}
    more["sheets"] = [*sheets("sheets"), "--out", str(out)]
    more["eval"] = EVALUATION
    more["eval all"] = ["--step", "all", *EVALUATION]
    return name.split()[0], ["--workdir", str(run), *more[name]]


def fuzz(target: Target, cases: int, rng: random.Random, tally: Tally, end: float):
    """Damages one thing at a time; every second command trains on."""
    files = sorted(p for p in target.base.rglob("*") if p.is_file())
    folders = sorted(p for p in target.base.glob("run/**/*") if p.is_dir())
    for i in range(cases):
        if time.monotonic() > end:
            tally.notes.append(f"fuzz: the time was up after {i} of {cases} cases")
            return
        in_folder = i % 10 == 9
        path = rng.choice(folders if in_folder else files)
        damages = FOLDER_DAMAGES if in_folder else DAMAGES
        name = rng.choice(sorted(damages))
        command = "train" if i % 2 else rng.choice(READERS)
        part = str(path.relative_to(target.base))
        words = f"{name} {part}"
        code = attack(target, part, damages[name], command, rng, tally, words)
        tally.done["fuzz"] += 1
        tally.done[f"fuzz, of these with exit code {code}"] += 1
        if i % 10 == 9:
            jax.clear_caches()  # or the programs exceed the memory maps
        if i % 25 == 24:
            print(f"fuzz: {i + 1}, wrong: {len(tally.wrong)}", flush=True)


def attack(
    target: Target,
    part: str,
    damage: Damage,
    name: str,
    rng: random.Random,
    tally: Tally,
    words: str,
) -> int | None:
    """Damages a part of a copy, runs a command on it, and checks what is left."""
    place, case = target.folder / "copy", f"{words}, then {name}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(target.base, place)
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    damage(place / part, rng, outside)
    os.environ["SAGAN_CACHE"] = str(place / "cache")
    before = contents(place)
    command, args = arguments(name, place)
    answer = call(command, *args)
    after = contents(place)
    check_answer(answer, tally, case)
    for path, sha in before.items():
        if path.startswith("outside"):
            tally.check(after.get(path) == sha, f"{case}: {path} changed")
        elif path.startswith("run/"):
            written_again = not path.startswith("run/checkpoints") and path in after
            kept = sha in after.values() or written_again
            tally.check(kept or path == part, f"{case}: {path} is gone")
    strangers = {path for path in after if path.startswith("outside")} - set(before)
    tally.check(not strangers, f"{case}: {strangers} written")
    if answer.code == 0 and name == "train":
        same = digest(place / "run", END) == target.state
        tally.check(same, f"{case}: another state at the end")
        if part not in ("run/metrics.jsonl", "run"):
            lines = [kill_lib.metrics(p)[0] for p in (place / "run", target.end)]
            tally.check(lines[0] == lines[1], f"{case}: other lines of metrics.jsonl")
    if answer.code == 0 and name.startswith("eval"):
        found = numbers(place / "run")
        left = None if name == "eval all" else Path(part).parent.name  # as it was
        expected = set(target.numbers) if name == "eval all" else {f"step_{MIDDLE}"}
        tally.check(expected <= set(found), f"{case}: only {set(found)} have numbers")
        for step, rows in found.items():
            same = rows == target.numbers.get(step)
            tally.check(same or step == left, f"{case}: other numbers at {step}")
    return answer.code


def stop(folder: Path, signals: int, rng: random.Random, tally: Tally, end: float):
    """Sends a signal at a random moment, until the run is done; then compares."""
    run = kill_lib.Run(steps=200)
    unbroken = kill_lib.run_unbroken(folder, run)
    kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    fresh = (folder / f"stopped{i}" for i in itertools.count())
    workdir, compared = next(p for p in fresh if not p.exists()), kill_lib.Tally()
    for i in range(signals + 1):
        aim = kill_lib.PHASES[i % len(kill_lib.PHASES)] if i < signals else "none"
        late = time.monotonic() > end
        compiled = f"stop{i}" if aim == "compile" else "warm"
        life = kill_lib.Life(kill_lib.command(workdir, run), folder, compiled)
        if aim != "none" and not late:
            if aim == "start":
                time.sleep(3)  # before that there is nobody to hear it
            kill_lib.wait_for(aim, life, workdir / "checkpoints", rng)
            life.kill(kinds[i % len(kinds)])
            tally.done["signals"] += 1
        code = life.end()
        said = "\n".join(life.lines[-8:])
        unheard = aim == "start" and not life.lines and code < 0
        tally.done["signals before Python listened"] += unheard
        ok = (code == 0 or unheard) and "Traceback" not in said
        tally.check(ok, f"{kinds[i % 3].name} at {aim}: exit code {code}\n{said}")
        if life.said("done: "):
            kill_lib.same_run(workdir, unbroken, compared)
            for what in compared.wrong:
                tally.check(False, f"after signals: {what}")
            if aim == "none" or late or compared.wrong:
                return
            workdir = next(p for p in fresh if not p.exists())
    tally.check(False, "signals: the last run did not end")


def fill_disks(target: Target, cases: int, rng: random.Random, tally: Tally):
    """Trains on with too little room, and again with enough."""
    disk = target.folder / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        tally.notes.append("disk: not tried: this user may not mount a small one")
        return
    try:
        for i in range(cases):
            shutil.rmtree(disk / "run", ignore_errors=True)
            shutil.copytree(target.base / "run", disk / "run")
            room, free = rng.randrange(150_000), os.statvfs(disk)
            left = free.f_bavail * free.f_frsize - room
            (disk / "filler").write_bytes(bytes(left))
            command, args = arguments("train", disk)
            case = f"disk {i} with room for {room:,} bytes"
            first = call(command, *args)
            check_answer(first, tally, case)
            (disk / "filler").unlink()
            again = call(command, *args)
            tally.check(again.code == 0, f"{case}, then with room: {again.said[-500:]}")
            same = not again.code and digest(disk / "run", END) == target.state
            tally.check(same, f"{case}: another state at the end")
            tally.done["disks that were too small" if first.code else "disks"] += 1
            jax.clear_caches()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def spawn(place: Path, *more: str, before: str = "", **options) -> subprocess.Popen:
    """train.py on place/run in a process of its own, after a line of Python."""
    code = f"import sys; sys.argv[0] = 'train.py'; {before or 'pass'}\n"
    code += "from sagan.cli import main\nsys.exit(main.run(main.train_command, "
    code += "sys.argv[1:]))"
    args = [sys.executable, "-u", "-c", code, *arguments("train", place)[1], *more]
    env = {**os.environ, "SAGAN_CACHE": str(place / "cache")}
    env |= options.pop("env", {})
    env = {name: value for name, value in env.items() if value is not None}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        args,
        cwd=ROOT,
        env=env,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def end(process: subprocess.Popen) -> Answer:
    """The exit code and the output of a process that must end."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return Answer(None, process.communicate()[0] + "\nit did not end")
    return Answer(None if "Traceback" in said else process.returncode, said)


def until(process: subprocess.Popen, text: str) -> None:
    """Reads the output up to a line that starts with a text."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) and not line.startswith(text):
        pass


def reaches_the_end(target: Target, place: Path, answer: Answer) -> str:
    """What is wrong with a command that must train to the end, or ""."""
    if answer.code != 0:
        return f"exit code {answer.code}: {answer.said[-800:]}"
    same = digest(place / "run", END) == target.state
    return "" if same else "another state at the end"


def refused(answer: Answer, text: str) -> str:
    """What is wrong with a command that must be refused in one line, or ""."""
    one = answer.said.count("error: ") == 1 and text in answer.said
    return (
        "" if answer.code in (1, 2) and one else f"{answer.code}: {answer.said[-800:]}"
    )


def without_home(target: Target, place: Path) -> str:
    """No HOME, no cache directory, and a user whom the machine does not know."""
    nothing = {"HOME": None, "SAGAN_CACHE": None, "XDG_CACHE_HOME": None, "USER": None}
    patch = "import pwd; exec('def no(*a): raise KeyError(str())'); pwd.getpwuid = no"
    return reaches_the_end(target, place, end(spawn(place, before=patch, env=nothing)))


def without_locks(target: Target, place: Path) -> str:
    """A file system without locks."""
    patch = (
        "import fcntl, errno; exec('def no(*a): raise OSError(errno.ENOLCK, str())')"
    )
    answer = end(spawn(place, before=f"{patch}; fcntl.flock = no"))
    return reaches_the_end(target, place, answer)


def clock_set_back(target: Target, place: Path) -> str:
    """The clock of the second start is ten years behind that of the first."""
    patch = "import time; now = time.time; time.time = lambda: now() - 3e8"
    return reaches_the_end(target, place, end(spawn(place, before=patch)))


def cache_is_a_file(target: Target, place: Path) -> str:
    """A file where the cache directory should be."""
    shutil.rmtree(place / "cache")
    (place / "cache").touch()
    return reaches_the_end(target, place, end(spawn(place)))


def damaged_programs(target: Target, place: Path) -> str:
    """Every compiled program in the cache has a flipped bit."""
    shutil.copytree(place / "run", place / "first" / "run")
    first = spawn(place / "first", env={"SAGAN_CACHE": str(place / "cache")})
    if problem := reaches_the_end(target, place / "first", end(first)):
        return problem
    entries = list((place / "cache").rglob("*-cache"))
    for path in entries:
        flip(path, random.Random(0), place)
    problem = reaches_the_end(target, place, end(spawn(place)))
    return problem if entries else "there was no program in the cache"


def moved_while_training(target: Target, place: Path) -> str:
    """The workdir gets another name after a step: nothing whole appears there."""
    process = spawn(place, "--run.steps", "100000")
    until(process, "step 20 ")
    (place / "run").rename(place / "moved")
    if problem := refused(end(process), "run"):
        return problem
    # TensorStore makes the folders anew of a checkpoint that it was writing
    if odd := [
        name for name in contents(place / "run") if kill_lib.TMP[1:] not in name
    ]:
        return f"there again: {sorted(odd)}"
    shutil.rmtree(place / "run", ignore_errors=True)
    (place / "moved").rename(place / "run")
    steps = SavedRun(place / "run", read_config(place / "run")).steps("all")
    return "" if max(steps) >= 12 else f"checkpoints {steps}"  # 16 may be unfinished


def copied_while_training(target: Target, place: Path) -> str:
    """A copy that was made between two steps goes on as the original."""
    (place / "first").mkdir()
    (place / "run").rename(place / "first" / "run")
    process = spawn(place / "first", "--run.steps", "40")
    until(process, f"step {MIDDLE + 2} ")
    shutil.copytree(place / "first" / "run", place / "run")
    first, second = end(process), end(spawn(place, "--run.steps", "40"))
    if first.code or second.code:
        return f"{first.code}, {second.code}: {second.said[-800:]}"
    states = [digest(p / "run", 40) for p in (place / "first", place)]
    return "" if states[0] == states[1] else "another state at the end"


def two_at_once(target: Target, place: Path) -> str:
    """A second process in the workdir is refused; the first goes on."""
    first = spawn(place)
    until(first, "resuming")
    second = refused(end(spawn(place)), "another process trains here")
    return second or reaches_the_end(target, place, end(first))


def other_batch(target: Target, place: Path) -> str:
    """Another batch size on resume is refused."""
    return refused(end(spawn(place, "--data.batch", "8")), "data.batch: 16 in the run")


def other_devices(target: Target, place: Path) -> str:
    """Four devices instead of one on resume: goes on, if not bit for bit."""
    answer = end(spawn(place, env={"JAX_NUM_CPU_DEVICES": "4"}))
    return "" if answer.code == 0 else f"{answer.code}: {answer.said[-800:]}"


def closed_output(target: Target, place: Path) -> str:
    """Its output pipe is closed."""
    process = spawn(place)
    assert process.stdout is not None
    process.stdout.close()
    code = process.wait(PATIENCE)
    return reaches_the_end(target, place, Answer(code, ""))


ODD: dict[str, Callable[[Target, Path], str]] = {
    str(scenario.__doc__).splitlines()[0]: scenario
    for scenario in (
        without_home,
        without_locks,
        clock_set_back,
        cache_is_a_file,
        damaged_programs,
        moved_while_training,
        copied_while_training,
        two_at_once,
        other_batch,
        other_devices,
        closed_output,
    )
}


def try_odd(target: Target, tally: Tally, only: tuple[str, ...] = ()) -> None:
    """Every scenario, on its own copy of the run."""
    for words, scenario in ODD.items():
        if only and scenario.__name__ not in only:
            continue
        place = target.folder / "odd"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(target.base, place)
        place.chmod(0o755)
        problem = scenario(target, place)
        tally.check(not problem, f"{words} {problem}")
        tally.done["odd"] += 1
        print(f"odd: {words}", flush=True)


def settings(kills: int) -> Iterator[tuple[kill_lib.Run, int]]:
    """What is killed, and how often."""
    yield kill_lib.Run(steps=600), kills - 2 * (kills // 4)
    for devices in (1, 4):
        yield kill_lib.Run("rollback", steps=120, devices=devices), kills // 4


def kill(folder: Path, kills: int, seed: int, tally: Tally, end: float) -> None:
    """SIGKILLs in all settings, a few at a time until the time is up."""
    for run, count in settings(kills):
        unbroken = kill_lib.run_unbroken(folder, run)
        for first in range(0, count, 5):
            if time.monotonic() > end:
                tally.notes.append(f"kills: {run} has {first} of {count}: time was up")
                break
            wanted = range(first, min(first + 5, count))
            aims = [kill_lib.PHASES[i % len(kill_lib.PHASES)] for i in wanted]
            found = kill_lib.run_killed(folder, unbroken, run, aims, seed + first)
            words = f"kills, {run.setting}, devices {run.devices}"
            tally.done[words] += found.died.total()
            for what in found.wrong:
                tally.check(False, f"{words}: {what}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cases", type=int, default=500, help="of fuzz")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=90, help="for all parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/attack"))
    known = parser.parse_args()
    folder = known.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begin, tally = time.monotonic(), Tally()
    last, rng = begin + 60 * known.minutes, random.Random(known.seed)
    os.environ["SAGAN_CACHE"] = str(folder / "cache")
    program_cache.keep_compiled()
    if {"fuzz", "disk", "odd"} & set(known.only):
        target = make_target(folder)
        if "odd" in known.only:
            try_odd(target, tally)
        if "disk" in known.only:
            fill_disks(target, known.disks, rng, tally)
        if "fuzz" in known.only:
            fuzz(target, known.cases, rng, tally, last)
    if "signals" in known.only:
        stop(folder, known.signals, rng, tally, last)
    if "kills" in known.only:
        kill(folder, known.kills, known.seed, tally, last)
    lines = [f"python benchmarks/attack.py {' '.join(sys.argv[1:])}", str(tally)]
    lines += [f"  {what.splitlines()[0]}" for what in tally.wrong]
    lines.append(f"{time.monotonic() - begin:.0f} s")
    print("\n".join(lines))
    (folder / "attack.txt").write_text("\n".join(lines) + "\n")
    raise SystemExit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()

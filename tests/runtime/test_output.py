import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BUFFERED = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
PROGRAM = """
import pathlib, sys
from sagan.runtime import output
with output.lasting():
    output.log = pathlib.Path(sys.argv[1])
    for i in range(3000):
        print("line", i)
    for stream in (sys.stdout, sys.stderr):
        print("begin", file=stream, flush=True)
        print("\\rbar 1", file=stream)
        print("end of", stream.name, file=stream)
        stream.flush()
print("afterwards")
"""


def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return write


def closed_terminal():
    terminal, write = os.openpty()
    os.close(terminal)
    return write


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


def run(arguments, out):
    """Exit code of a program whose output cannot be written."""
    try:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, stdout=out, stderr=out, cwd=ROOT, env=BUFFERED)
        return done.returncode
    finally:
        os.close(out)


@pytest.mark.parametrize("broken", [closed_pipe, closed_terminal, full_disk])
def test_output_that_cannot_be_written_goes_on_in_a_log(tmp_path, broken):
    log = tmp_path / "output.log"
    assert run(["-c", PROGRAM, str(log)], broken()) == 0
    lines = log.read_text().splitlines()
    assert ": the output goes on here: " in lines[0]
    assert {"line 2999", "end of <stdout>", "end of <stderr>", "afterwards"} < {*lines}
    assert not any("bar" in line for line in lines)


@pytest.mark.parametrize("kind", ["full", "link", "folder", "fifo"])
def test_a_log_that_cannot_be_written_either_changes_nothing(tmp_path, kind):
    log = tmp_path / "output.log"
    target = tmp_path / "else"
    target.touch()
    if kind == "link":
        log.symlink_to(target)
    elif kind == "folder":
        log.mkdir()
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log = pathlib.Path("/dev/full")
    assert run(["-c", PROGRAM, str(log)], closed_pipe()) == 0
    assert target.read_text() == ""


def test_output_closed_from_the_start_is_no_error(tmp_path):
    command = f"exec {sys.executable} -c '{PROGRAM}' {tmp_path / 'output.log'} >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=ROOT).returncode == 0


def test_a_command_whose_reader_has_gone_ends_as_usual(tmp_path):
    from_, to = (f"configs/{name}.py" for name in ("digits", "cifar10"))
    program = "from sagan.cli.main import main; main()"
    command = [sys.executable, "-c", program, "diff", from_, to]
    out, env = closed_pipe(), BUFFERED
    done = subprocess.run(command, stdout=out, stderr=-1, cwd=ROOT, env=env)
    os.close(out)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_training_and_evaluation_outlive_their_reader(tmp_path):
    workdir = tmp_path / "run"
    tiny = (
        "--data.size 8 --data.batch 8 --g.z 4 --g.width 8 --g.attention 8 --d.width 8"
        " --d.attention 4 --run.steps 3 --run.log-every 1"
    )
    command = [sys.executable, "-u", "train.py", "configs/digits.py", *tiny.split()]
    command += ["--workdir", str(workdir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-2) as train:
        assert train.stdout is not None
        assert train.stdout.readline()
        train.stdout.close()  # as `| head -1`
        assert train.wait(300) == 0
    log = (workdir / "output.log").read_text()
    assert ": the output goes on here: Broken pipe" in log.splitlines()[0]
    assert "\nstep 2 of 3: " in log and "\ndone: step 3; " in log
    command = ["eval.py", "--workdir", str(workdir), "--samples", "64"]
    assert run(command, closed_pipe()) == 0
    assert (workdir / "eval" / "step_3" / "results.json").exists()

"""Real processes on one machine, each with two virtual devices."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.config import ConfigError
from sagan.runtime import exit_message, processes
from tests.support.runs import rows

ROOT = pathlib.Path(__file__).parents[2]
# A large epsilon: Adam would make a step of what is 0 but for rounding, such as the
# gradient of a bias before a batch norm.
TINY = (
    "--data.size 8 --data.batch 16 --g.z 4 --g.width 8 --g.attention 8 --d.width 8"
    " --d.attention 4 --ema.decays 0.5 --optim.eps 1e-3 --run.steps 4 --run.log-every 1"
    " --run.sample-every 2 --run.checkpoint-every 2 --run.heartbeat-timeout 10"
).split()
RESTART = "restart all of them with the same command"


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(workdir, *args, devices=2, script="train.py", **env):
    """A training process; -k: after abort() nothing else is sure to end it."""
    command = ["timeout", "-k", "1", "240", sys.executable, "-u", str(script)]
    command += ["configs/digits.py", "--workdir", str(workdir), *TINY, *args]
    return launch_command(command, devices, **env)


def launch_command(command, devices, **env):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def evaluation(*args, devices=2):
    command = ["timeout", "-k", "1", "240", sys.executable, "-u", "eval.py", *args]
    return launch_command(command, devices)


def launch_two(workdir, *args, other=None):
    """Two processes; the second has the workdir `other`, as on a host of its own."""
    port = free_port()
    coordinator = ["--run.coordinator", f"127.0.0.1:{port}", "--run.processes", "2"]
    return [
        launch(place, *coordinator, "--run.process", str(i), *args)
        for i, place in enumerate((workdir, other or workdir))
    ]


def finish(*processes):
    """Output and exit code of each."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        said = [process.communicate()[0] for process in processes]
        return [(s, p.returncode) for s, p in zip(said, processes, strict=True)]


def wait_for(process, start):
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"no line starts with {start!r}")


def python_below(process):
    """The pid of what `timeout` runs."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    return int(pathlib.Path(children).read_text().split()[0])


def state_of(workdir, step=None):
    state, step = SavedRun(workdir, read_config(workdir)).load(step)
    return jax.device_get(state), step


def assert_close(a, b):
    # The sum over devices has another order: float32 differs in its last bits.
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        error = np.abs(x.astype(np.float64) - y).max() / (np.abs(y).max() + 1e-2)
        assert error < 1e-4, f"{jax.tree_util.keystr(path)}: {error}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run by one process with four devices, and by two with two each."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    pair = finish(*launch_two(two))
    for said, code in [*pair, *finish(launch(one, devices=4))]:
        assert code == 0, said
    return one, two, [said for said, _ in pair]


@pytest.mark.slow
def test_two_processes_give_the_state_of_one_with_as_many_devices(runs):
    one, two, _ = runs
    (expected, step), (state, same_step) = map(state_of, (one, two))
    assert step == same_step == 4
    assert_close(state, expected)
    assert read_config(one) == read_config(two)  # nothing of one process remains


def numbers_of(workdir, step):
    result = json.loads(
        (workdir / "eval" / f"step_{step}" / "results.json").read_text()
    )
    return {row["metric"]: row["value"] for row in result["results"]}, result


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does_while_training_and_after(tmp_path):
    """Each draws its share: 40 samples in batches of 16 are 2 and 1 of them."""
    while_training = ["--run.evaluate-every", "2", "--run.evaluate-samples", "40"]
    other = tmp_path / "disk" / "two"  # of another host
    pair = finish(*launch_two(tmp_path / "two", *while_training, other=other))
    assert not other.exists()
    for said, code in pair:
        assert code == 0, said
    assert "step 4, ema" in pair[0][0] and "step 4, ema" not in pair[1][0]
    in_training, _ = numbers_of(tmp_path / "two", 4)
    protocol = "--samples 40 --metrics all,-cas,-fid_infinity --weights ema"
    command = f"--workdir {tmp_path}/two --batch-norm moving {protocol} --again".split()
    port = free_port()
    joined = ["--run.coordinator", f"127.0.0.1:{port}", "--run.processes", "2"]
    both = [evaluation(*command, *joined, "--run.process", str(i)) for i in (0, 1)]
    for said, code in finish(*both):
        assert code == 0, said
    by_two, result = numbers_of(tmp_path / "two", 4)
    assert result["protocol"]["samples"] == 40
    ((said, code),) = finish(evaluation(*command, devices=4))
    assert code == 0, said
    by_one, _ = numbers_of(tmp_path / "two", 4)
    for found in (in_training, by_two):
        assert found == pytest.approx(by_one, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_the_evaluation_of_both(runs, tmp_path):
    one, _, _ = runs
    port = free_port()
    joined = ["--run.coordinator", f"127.0.0.1:{port}", "--run.processes", "2"]
    places = [one, tmp_path / "nothing"]
    both = [
        evaluation("--workdir", str(place), *joined, "--run.process", str(i))
        for i, place in enumerate(places)
    ]
    for said, code in finish(*both):
        assert code == 2 and "nothing" in said, said


@pytest.mark.slow
def test_only_the_first_process_reports_and_writes(runs):
    _, two, (first, second) = runs
    assert "4 x cpu" in first and "step 4 of 4" in first and "done" in first
    # Gloo's threads write "[Gloo] Rank 1 is connected to ..." over one another.
    gloo = "gloo rank is connected to peer ranks expected number of".split()
    assert set(re.findall("[a-z]+", second.lower())) <= set(gloo), second
    assert [row["step"] for row in rows(two / "metrics.jsonl")] == [1, 2, 3, 4]
    assert len(list((two / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_one_process_resumes_what_two_began_and_back(runs, tmp_path):
    one, two, _ = runs
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    said, code = finish(launch(workdir, "--run.steps", "6", devices=4))[0]
    assert code == 0 and "resuming from step 4" in said, said
    more = ["--run.steps", "8", "--run.parallel", "jit", "--run.evaluate-every", "2"]
    (said, code), _ = finish(
        *launch_two(workdir, *more, "--run.evaluate-samples", "50")
    )
    assert code == 0 and "resuming from step 6" in said, said
    unbroken = tmp_path / "unbroken"
    shutil.copytree(one, unbroken)
    assert finish(launch(unbroken, "--run.steps", "8", devices=4))[0][1] == 0
    assert_close(state_of(workdir)[0], state_of(unbroken)[0])


@pytest.mark.slow
def test_two_processes_start_from_the_weights_that_the_first_reads(runs, tmp_path):
    source, options = runs[0], ["--run.seed", "1", "--run.steps", "1"]
    options += ["--run.init-from", str(source)]
    ended = finish(*launch_two(tmp_path / "two", *options))
    ended += finish(launch(tmp_path / "one", *options, devices=4))
    assert [code for _, code in ended] == [0, 0, 0], ended
    told = [f"weights of step 4 of {source}" in said for said, _ in ended]
    assert told == [True, False, True]
    assert_close(state_of(tmp_path / "two")[0], state_of(tmp_path / "one")[0])
    assert read_config(tmp_path / "two") == read_config(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_process_stops_all_after_the_same_step(tmp_path, asked):
    pair = launch_two(tmp_path / "run", "--run.steps", "100000")
    wait_for(pair[0], "step 5 of")
    os.kill(python_below(pair[asked]), signal.SIGTERM)
    (said, code), (other, other_code) = finish(*pair)
    assert (code, other_code) == (0, 0), said + other
    stopped = re.search(r"stopped and saved at step (\d+)", said)
    assert stopped, said
    assert state_of(tmp_path / "run")[1] == int(stopped[1])


@pytest.mark.slow
def test_processes_go_back_together(tmp_path):
    args = ["--optim.d-lr", "1e6", "--run.steps", "100"]
    args += ["--run.on-divergence", "rollback", "--run.rollbacks", "1"]
    (said, code), (other, other_code) = finish(*launch_two(tmp_path / "run", *args))
    assert (code, other_code) == (3, 3), said + other
    assert "back to step" in said
    assert "already rolled back run.rollbacks = 1 times" in said
    assert "Traceback" not in said + other
    lines = (tmp_path / "run" / "monitor.jsonl").read_text().splitlines()
    assert [json.loads(line)["finding"] for line in lines].count("rollback") == 1


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_process_ends_the_other_within_the_bound(tmp_path, dead):
    pair = launch_two(tmp_path / "run", "--run.steps", "100000")
    wait_for(pair[0], "step 5 of")
    start = time.monotonic()
    os.kill(python_below(pair[dead]), signal.SIGKILL)
    outcomes = finish(*pair)
    said, code = outcomes[1 - dead]
    assert code not in (0, None)
    assert RESTART in said, said
    assert time.monotonic() - start < 3 * 10  # run.heartbeat_timeout; loaded machine
    assert state_of(tmp_path / "run")[1] >= 4


@pytest.mark.slow
@pytest.mark.parametrize("present", [0, 1])
def test_a_process_that_never_comes_ends_the_other(tmp_path, present):
    port = free_port()
    args = ["--run.coordinator", f"127.0.0.1:{port}", "--run.processes", "2"]
    args += ["--run.process", str(present), "--run.startup-timeout", "5"]
    start = time.monotonic()
    said, code = finish(launch(tmp_path / "run", *args))[0]
    assert code not in (0, None)
    assert "did not all meet within 5 s (run.startup_timeout)" in said, said
    assert time.monotonic() - start < 60


def images(folder, count):
    """A data set of a folder of random images."""
    (folder / "a").mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / "a" / f"{i}.png")
    return ["--data.name", "folder", "--data.path", str(folder), "--data.classes", "0"]


LATE = """
import sys, time
from sagan.cli import main, run
report = run._report
run._report = lambda error: time.sleep(3) or report(error)
sys.exit(main.run(main.train_command, sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["config", "data"])
def test_processes_that_differ_end_together_with_one_sentence(tmp_path, what):
    port = free_port()
    args = ["--run.coordinator", f"127.0.0.1:{port}", "--run.processes", "2"]
    first, second, sentence = (
        [],
        ["--optim.g-lr", "1"],
        "error: process 0 was started with another config than process 1:\n"
        "  optim.g_lr: 0.0004 there, 1.0 in process 1\n",
    )
    if what == "data":
        first, second = (images(tmp_path / str(n), n) for n in (20, 21))
        sentence = (
            "error: the data of process 1 differ from those of process 0: 21 images of"
            " the classes ['a'] in process 1, 20 images of the classes ['a'] there\n"
        )
    late = {"script": tmp_path / "late.py", "PYTHONPATH": str(ROOT)}
    late["script"].write_text(LATE)  # JAX ends it, if process 0 has left it alone
    pair = [
        launch(tmp_path / "run", *args, "--run.process", "0", *first),
        launch(tmp_path / "run", *args, "--run.process", "1", *second, **late),
    ]
    for said, code in finish(*pair):
        assert code == 2, said
        assert said.endswith(sentence)
        assert RESTART not in said and "Traceback" not in said, said
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_strangers_and_twins_do_not_reach_a_run(tmp_path):
    pair = launch_two(tmp_path / "run", "--run.steps", "100000")
    where = pair[0].args[pair[0].args.index("--run.coordinator") + 1]
    wait_for(pair[0], "step 5 of")
    port = int(where.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))  # as from another interface
    args = ["--run.coordinator", where, "--run.processes", "2", "--run.process"]
    twins = [launch(tmp_path / "run", *args, number) for number in "01"]
    for number, (said, code) in enumerate(finish(*twins)):
        assert code == 2, said
        (line,) = said.splitlines()
        assert f"run.process = {number}: another process on this machine" in line
    os.kill(python_below(pair[1]), signal.SIGTERM)
    for said, code in finish(*pair):
        assert code == 0, said


def address_of(coordinator):
    told = []
    return processes._bind_address(coordinator, told.append), told


def test_process_0_listens_where_it_is_told():
    port = free_port()
    assert address_of(f"127.0.0.1:{port}") == (f"127.0.0.1:{port}", [])
    address, told = address_of(f"localhost:{port}")
    assert address in (f"127.0.0.1:{port}", f"[::1]:{port}") and not told


@pytest.mark.parametrize("ip", ["192.0.2.1", "127.0.1.1", None])
def test_where_it_cannot_it_listens_everywhere_and_says_so(ip, monkeypatch):
    # not of this machine; what Debian's /etc/hosts gives a machine's own name; unknown
    def find(host, port, **options):
        if ip is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(processes, "_answers", lambda ip, port: False)
    port = free_port()
    address, (line,) = address_of(f"node1:{port}")
    assert address == f"[::]:{port}"
    assert f"run.coordinator = 'node1:{port}': not a single address of" in line
    monkeypatch.setattr(processes, "_answers", lambda ip, port: True)
    if ip == "192.0.2.1":
        with pytest.raises(ConfigError, match="give this one another run.process"):
            address_of(f"node1:{port}")


def test_a_port_in_use_is_one_line_before_jax_starts(tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        many = tiny(run__coordinator=address, run__processes=2, run__process=0)
        with pytest.raises(ConfigError) as error:
            processes.initialize(many, "")
    assert str(error.value) == (
        f"run.coordinator = {address!r}: port {port}: Address already in use"
    )
    assert not exit_message.armed()


@pytest.mark.slow
def test_processes_that_slurm_starts_find_each_other(tmp_path):
    slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    pair = [
        launch(tmp_path / "run", **slurm, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))
        for i in (0, 1)
    ]
    (said, code), (other, other_code) = finish(*pair)
    assert (code, other_code) == (0, 0), said + other
    assert "4 x cpu" in said

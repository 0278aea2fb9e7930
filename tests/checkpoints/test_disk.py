"""A file system that is really full: a small tmpfs, which only root may mount."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import claim, read_config
from sagan.config import Config, ConfigError, replace
from sagan.runtime import files
from sagan.training.divergence import MUST_BE_FINITE
from sagan.training.logger import Logger

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def mount(tmp_path):
    """Makes a folder with so many bytes of room, and no more."""
    mounted = []

    def mount(size):
        folder = tmp_path / "small"
        folder.mkdir()
        args = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(args, stderr=-1).returncode:
            pytest.skip("this user may not mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, *, but=0):
    """Leaves `but` bytes."""
    room = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - but))


def log(logger, steps):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for step in steps:
        logger.log(step, dict.fromkeys(MUST_BE_FINITE, 1.0))
        logger.image(step, "raw", picture)


@pytest.mark.parametrize("tensorboard", [True, False])
@pytest.mark.parametrize("room", [0, 4096, 65536])
def test_logs_of_a_full_disk_end_with_one_error_that_names_a_file(
    mount, capfd, room, tensorboard
):
    folder = mount("1m")
    values = {"run.log_every": 1, "run.tensorboard": tensorboard}
    logger = Logger(folder, replace(Config(), values), 0)
    with pytest.raises(OSError, match="No space left on device: .*small/"):
        with logger:
            log(logger, range(1, 3))
            fill(folder, but=room)
            log(logger, range(3, 1000))
    assert capfd.readouterr() == ("", "")
    (folder / "filler").unlink()
    with Logger(folder, replace(Config(), values), 2) as logger:
        log(logger, range(3, 6))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_config_of_a_full_disk_stays_what_it_was(mount):
    folder = mount("1m") / "run"
    before = replace(Config(), {"data.size": 16, "g.attention": (), "d.attention": ()})
    claim(folder, before, 10, ["a"])
    fill(folder.parent)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        claim(folder, replace(before, {"run.keep": 9}), 10, ["a"])
    assert read_config(folder) == before
    with pytest.raises(OSError, match="No space left on device: .*card.md"):
        files.write_whole(folder / "card.md", "a card")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "data.json"]


@pytest.mark.parametrize("room", [0, 40_000, 90_000])
def test_checkpoint_of_a_full_disk_is_told_in_one_line(mount, capfd, room):
    folder = mount("1m")

    def state(step):
        noise = np.random.default_rng(step).random(20_000)
        return {"a": jnp.asarray(noise, jnp.float32), "step": jnp.int32(step)}

    checkpoints = Checkpoints(folder / "c", 3)
    checkpoints.save(1, state(1))
    checkpoints.wait()
    fill(folder, but=room)
    with pytest.raises(OSError) as error:
        checkpoints.save(2, state(2))
        checkpoints.save(3, state(3))
    said = "checkpoint 2 was not written: .*No space left on device; .*untouched: 1$"
    assert error.match(said) and "\n" not in str(error.value)
    with contextlib.suppress(OSError):  # told again if the disk was full at the start
        checkpoints.close()
    # A restart is another process: what Orbax's threads of this one may still write
    # into "c" does not come back there.
    (folder / "c").rename(folder / "restarted")
    (folder / "filler").unlink()
    checkpoints = Checkpoints(folder / "restarted", 3)
    restored, step = checkpoints.restore(state(0))
    assert step == 1
    np.testing.assert_array_equal(restored["a"], state(1)["a"])
    checkpoints.save(2, state(2))
    checkpoints.close()
    assert sorted(p.name for p in (folder / "restarted").iterdir()) == ["1", "2"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_with_room(mount, tmp_path):
    folder = mount("6m")

    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}

    def train(workdir):
        args = ["train.py", "configs/digits.py", "--workdir", str(workdir)]
        args += ["--g.width", "8", "--d.width", "8", "--data.batch", "8"]
        args += ["--run.steps", "60", "--run.checkpoint-every", "5"]
        args += ["--run.log-every", "1", "--run.sample-every", "20"]
        return subprocess.run(
            [sys.executable, *args, "--run.keep", "2"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )

    def check_failed(run):
        assert run.returncode == 1
        assert run.stderr.startswith("error: ")
        assert "No space left on device" in run.stderr
        assert len(run.stderr.splitlines()) == 1, run.stderr

    (folder / "filler").write_bytes(bytes(3_500_000))
    check_failed(train(folder / "run"))
    (folder / "filler").unlink()
    left = [path.name for path in (folder / "run" / "checkpoints").iterdir()]
    newest = max(int(name) for name in left if name.isdecimal())
    again = train(folder / "run")
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {newest}" in again.stdout
    assert train(tmp_path / "roomy").returncode == 0
    runs = [folder / "run", tmp_path / "roomy"]
    states = [SavedRun(run, read_config(run)).load() for run in runs]
    assert states[0][1] == states[1][1] == 60
    metrics = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
    steps = [[json.loads(line)["step"] for line in lines] for lines in metrics]
    assert steps[0] == steps[1] == list(range(1, 61))

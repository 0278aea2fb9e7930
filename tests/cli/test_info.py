import json
import shutil

import pytest

from sagan.augment import AUGMENTATIONS
from sagan.blocks import BLOCKS
from sagan.cli import main
from sagan.config.loading import recipes
from sagan.data.datasets import DATASETS
from sagan.losses import LOSSES
from sagan.metrics import METRICS


def told(capsys, *args, code=0):
    assert main.run(main.COMMANDS["info"], [str(arg) for arg in args]) == code
    return capsys.readouterr().err if code else capsys.readouterr().out


def test_info_lists_everything_that_a_config_can_name(capsys):
    printed = told(capsys)
    for names in (recipes(), DATASETS, LOSSES, BLOCKS, AUGMENTATIONS, METRICS):
        assert ", ".join(names) in printed


@pytest.fixture
def run_of(finished_run, tmp_path):
    """A copy of the run, with logs and an evaluation."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    times = {"time/elapsed_s": 3700.0, "time/goodput": 0.8, "time/unix_s": 1.8e9}
    lines = [{"step": 1}, {"step": 2, **times}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir


def test_info_of_a_run_says_what_it_is_and_how_far(run_of, capsys):
    lines = dict(line.split(maxsplit=1) for line in told(capsys, run_of).splitlines())
    assert lines["recipe"].startswith("digits with data.size = 8, data.batch = 16, ")
    assert "run.steps" not in lines["recipe"]
    assert lines["images"] == "8x8x1, 10 classes: 0, 1, 2, 3, 4 and 5 more"
    assert lines["logged"] == "step 2 of 2"
    assert lines["checkpoints"] == "1, 2"
    assert lines["best"].startswith("unknown")
    assert lines["evaluation"] == "none that can be read"
    assert lines["time"].startswith("1:01:40, 80% in steps; until 2027-01-1")


def test_info_of_a_run_shows_the_newest_evaluation(run_of, capsys):
    for step, value in ((1, 9.0), (2, 3.25)):
        row = {"metric": "fid", "value": value, "weights": "raw"}
        result = {"protocol": {}, "versions": {}, "protocol_sha256": "", "notes": []}
        result |= {"about": {"step": step}, "results": [row], "sha256": ""}
        path = run_of / "eval" / f"step_{step}" / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result))
    assert "evaluation     step 2 (raw): fid ↓ 3.25\n" in told(capsys, run_of)


@pytest.mark.parametrize("line", ['{"step": 1e99}', '{"step": 3, "time/unix_s": 1e99}'])
def test_info_of_a_run_with_damaged_files_tells_the_rest(run_of, capsys, line):
    (run_of / "metrics.jsonl").write_text(line + "\n")
    shutil.rmtree(run_of / "checkpoints")
    assert "checkpoints    none\n" in told(capsys, run_of)


def test_info_of_no_run_is_one_line(tmp_path, capsys):
    assert told(capsys, tmp_path, code=2).endswith(
        "holds no run (there is no config.json)\n"
    )

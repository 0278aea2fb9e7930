import pathlib
import subprocess
import sys

import pytest

from sagan.checkpoints.workdir import read_config
from sagan.cli import arguments, main
from sagan.config import ConfigError, replace

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "digits.py")


def parse_train(args):
    options = arguments.parse(main.TrainOptions, args, "sagan train")
    return options.config, options.workdir


def test_overrides_reach_the_config():
    args = [DIGITS, "--workdir", "runs/a", "--optim.g-lr", "1e-3", "--g.attention"]
    args += ["8", "16", "--data.flip", "--data.classes", "0", "--optim.d_steps=2"]
    config, workdir = parse_train(args)
    assert (config.optim.g_lr, config.g.attention) == (1e-3, (8, 16))
    assert config.data.flip and config.data.classes == 0
    assert config.optim.d_steps == 2
    assert config.data.name == "digits"  # from the file
    assert workdir == "runs/a"


def test_a_run_is_resumed_without_naming_its_config(finished_run):
    args = ["--workdir", str(finished_run), "--run.steps", "9"]
    config, workdir = parse_train(args)
    assert workdir == str(finished_run)
    assert config == replace(read_config(finished_run), {"run.steps": 9})


def test_no_attention_is_an_empty_list():
    config, _ = parse_train([DIGITS, "--workdir", "a", "--g.attention"])
    assert config.g.attention == ()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name a recipe or a config file first, such as digits"),
        (["nope.py", "--workdir", "x"], "nope.py: no such config file"),
        ([DIGITS], "--workdir DIR is missing"),
        ([DIGITS, "--workdir"], "--workdir DIR is missing"),
        (
            [DIGITS, "--workdir", "x", "--optim.g-lrr", "1"],
            "--optim.g-lrr: no such option; did you mean --optim.g-lr?",
        ),
        (
            [DIGITS, "--workdir", "x", "--lr", "1"],
            "--lr: no such option; --help lists every option",
        ),
        ([DIGITS, "--workdir", "x", "--optim.g-lr", "abc"], "'abc'"),
        ([DIGITS, "--workdir", "x", "--optim.g-lr", "-1"], "optim.g_lr = -1.0"),
        ([DIGITS, "--workdir", "x", "--data.channels", "2"], "data.channels"),
        ([DIGITS, "--workdir", "x", "--run.parallel", "ddp"], "run.parallel"),
        ([DIGITS, "--workdir", "x", "surprise"], "surprise"),
        ([DIGITS, "--workdir", "x", "--data.size", "33"], "data.size = 33"),
        ([DIGITS, "--workdir", "x", "--g.attention", "33"], "g.attention = 33"),
        (
            [DIGITS, "--workdir", "x", "--data.path", "s3://b/d"],
            "must be a path on this",
        ),
        ([DIGITS, "--workdir", "x", "--run.init-from", "gs://b/r:5"], "run.init_from"),
    ],
)
def test_a_mistake_is_one_line(args, said):
    with pytest.raises(ConfigError) as error:
        parse_train(args)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("train", [DIGITS, "--workdir", "s3://b/run"]),
        ("train", [DIGITS, "--workdir=gs:/b/run"]),
        ("eval", ["--workdir", "s3://b/run"]),
        ("evaluate", ["--fake", "gs://b/x.npz", "--real", "digits:test"]),
        ("evaluate", ["--fake", "x.npz", "--real", "file:///x"]),
        ("sample", ["--workdir", "run", "--out", "gs://b/x"]),
        ("report", ["--workdir", "run", "hdfs://b/run"]),
        ("table", ["s3://b/run"]),
        ("prepare", ["digits", "--data-dir", "gs://b/data"]),
    ],
)
def test_a_path_elsewhere_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, command, args
):
    monkeypatch.chdir(tmp_path)
    known = {"train": main.train_command, "eval": main.eval_command} | main.COMMANDS
    assert main.run(known[command], args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    (path,) = [a.rpartition("=")[2] for a in args if ":/" in a]
    assert f"{path}: must be a path on this machine, without a scheme" in error
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train([DIGITS, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "--optim.g-lr" in told and "Adam's learning rate of the generator" in told


def test_any_name_can_be_printed_and_none_moves_the_cursor(tmp_path):
    images = tmp_path / "x\udcff"
    for name in ("a\nb", "\x1b[31mred", "y\udcff"):
        (images / name).mkdir(parents=True)
    command = "from sagan.cli.main import main; main()"
    args = ["prepare", "folder", "--path", images, "--data-dir", tmp_path / "out"]
    run = subprocess.run(
        [sys.executable, "-c", command, *args], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert r"hold no image: \x1b[31mred, a\nb, y\udcff; a class" in run.stderr
    workdir = tmp_path / "\x1b\udcff"
    code = "from sagan.cli.main import run; run(lambda args: print(args[0]), [ARG])"
    printed = subprocess.run(
        [sys.executable, "-c", code.replace("ARG", repr(str(workdir)))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0 and r"\udcff" in printed.stdout
    train = ["train.py", "configs/digits.py", "--workdir", workdir]
    refused = subprocess.run(
        [sys.executable, *train], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert r"\x1b\udcff: a workdir's path must be UTF-8" in refused.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["train.py", "configs/nope.py", "--workdir", "x"], 2),
        (["train.py", "configs/digits.py", "--workdir", "train.py"], 2),
    ],
)
def test_train_ends_a_mistake_with_one_line_and_code_2(args, code):
    run = subprocess.run(
        [sys.executable, *args], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == code
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1, run.stderr


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Invalid ─╮\n│ no such   │\n│ value     │\n│ ───── │\n│ help  │\n╰─╯",
        " Invalid \n ------- \n no such \n value \n ------ \n help \n",
        "╭─ Invalid ─╮\n│ no such   │\n│ value     │\n╰───────────╯",
    ],
)
def test_what_tyro_frames_is_one_line(box):
    assert arguments.message_in(box) == "no such value"

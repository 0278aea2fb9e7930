import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints import restore
from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import find_labels, open_run
from sagan.checkpoints.workdir import claim
from sagan.cli import arguments, main
from sagan.cli.spelling import option_types
from sagan.config import ConfigError
from sagan.config.loading import recipes
from sagan.evaluation import run as evaluation
from sagan.sampling import sampler

BOTH = ["--fake", "a", "--real", "b"]
TYPES = {name: option_types(kind()) for name, kind in arguments.OPTIONS.items()}


def parse(name, *args):
    kind = arguments.OPTIONS[name]()
    return arguments.parse(kind, [str(arg) for arg in args], f"sagan {name}")


def refused(name, *args):
    with pytest.raises(ConfigError) as error:
        parse(name, *args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_command_has_options():
    assert set(arguments.OPTIONS) == set(main.COMMANDS)


WITH_RUN = [k for k, v in TYPES.items() if "workdir" in v and k != "import"]


@pytest.mark.parametrize("name", WITH_RUN)
def test_the_workdir_is_an_argument_or_an_option(name):
    first = ["digits"] * (name == "train")
    options = ["--seed", 1] * ("seed" in TYPES[name])
    options += ["--to", "mmgen", "--out", "x"] * (name == "export")
    ways = [
        [*first, "runs/a", *options],
        [*first, *options, "--workdir", "runs/a"],
        [*first, "--workdir=runs/a", *options],
        ["--workdir", "runs/a", *first, *options],
        ["--workdir=runs/a", *first, *options],
        [*options, *first, "runs/a"],
    ]
    assert {str(parse(name, *way).workdir) for way in ways} == {"runs/a"}


@pytest.mark.parametrize("name", ["report", "table"])
def test_several_workdirs_are_arguments_or_an_option(name):
    ways = [["a", "b", "--step", 3], ["--step", 3, "--workdir", "a", "b"]]
    ways += [["a", "--workdir", "b", "--step", 3], ["--step", 3, "a", "--workdir=b"]]
    for way in ways:
        assert list(map(str, parse(name, *way).workdirs)) == ["a", "b"]
    assert "a workdir is missing" in refused(name)


@pytest.mark.parametrize(
    ("name", "args", "field", "value"),
    [
        ("sample", ["a", "--samples", 3], "n", 3),
        ("sample", ["a", "--n", "1e2"], "n", 100),
        ("sample", ["a", "--step", "2e3"], "step", "2000"),
        ("evaluate", [*BOTH, "--data.path", "x"], "data_path", "x"),
        ("evaluate", [*BOTH, "--data-path=x"], "data_path", "x"),
        ("prepare", ["digits", "--out", "x", "--data.size", 8], "size", 8),
        ("prepare", ["folder", "--data-dir", "x", "--data-path", "y"], "path", "y"),
    ],
)  # fmt: skip
def test_one_thing_has_the_same_names_everywhere(name, args, field, value):
    assert getattr(parse(name, *args), field) == value


def test_a_switch_or_an_option_with_its_value_may_precede_a_run_in_a_bucket(
    monkeypatch,
):
    asked = []

    def copied(workdirs, report):
        asked.extend(workdirs)
        raise ConfigError("copied")

    monkeypatch.setattr("sagan.checkpoints.bucket_copy.copied", copied)
    for name, args in (
        ("attend", ["--real"]),
        ("sample", ["--out", "x.npz"]),
        ("report", ["--out=x", "--workdir"]),
    ):
        with pytest.raises(ConfigError, match="copied"):
            main.COMMANDS[name]([*args, "gs://b/run"])
    assert asked == 3 * ["gs://b/run"]
    with pytest.raises(ConfigError, match="--real gs://b/x: must be a path on this"):
        main.COMMANDS["evaluate"](["--fake", "x", "--real", "gs://b/x"])


def test_a_config_may_follow_the_options_of_a_plan():
    options = parse("plan", "--topology", "cpu", "--price=1.5", "digits")
    assert (options.topology, options.price) == ("cpu", 1.5)
    assert options.config.data.name == "digits"


def test_evaluations_take_n_for_samples():
    assert parse("eval", "a", "--n", "5,000").protocol.samples == 5000


def test_a_number_of_steps_may_be_in_scientific_notation():
    assert parse("train", "digits", "a", "--run.steps", "99e99").config.run.steps
    args = ["digits", "a", "--run.steps", "1e5", "--optim.g-lr", "1e-4"]
    config = parse(
        "train", *args, "--data-path", "p", "--g.attention", "8", "1.6e1"
    ).config
    assert (config.run.steps, config.optim.g_lr) == (100_000, 1e-4)
    assert (config.data.path, config.g.attention) == ("p", (8, 16))


@pytest.mark.parametrize("size", [16, 32, 48, 96, 160])
@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_has_any_size_or_names_the_flags_that_work(recipe, size):
    args = [recipe, "a", "--data.size", size, "--g.multipliers", "--d.multipliers"]
    args += ["--model.attention-chunks", 0]  # fixed for imagenet256's own size
    try:
        parse("train", *args)
    except ConfigError as error:
        flags = re.findall(r"try (--.*)", str(error))
        args += " ".join(flags).split()
        assert flags
        parse("train", *args)


def test_attention_on_the_command_line_is_named(capsys):
    args = ["folder", "a", "--data.size", 48]
    assert parse("train", *args).config.g.attention == (12,)
    told = "data.size = 48: attention moves from 32 to g.attention = (12,), d.attent"
    assert capsys.readouterr().out.startswith(told)
    parse("train", "folder", "a", "--data.size", 64)
    assert not capsys.readouterr().out
    assert parse("train", *args, "--g.attention", 24).config.d.attention == (12,)
    assert refused("train", *args, "--g.attention", 32).endswith("--g.attention 24")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--run.steps", "1.5e0"], "'1.5e0'"),
        (["--run.tensorboard", "False"], "a value; write --run.no-tensorboard"),
        (["--run.no-tensorboard", "false"], "a value; write --run.tensorboard"),
        (["--run.no-tensorboard", "1"], "without a value; write --run.no-tensorboard"),
        (["--data.skip-broken=True"], "a value; write --data.skip-broken"),
        (["--g.attention", "64,128"], "64,128: write --g.attention 64 128"),
        (["--g.attention", "[8]"], "--g.attention [8]: write --g.attention 8"),
        (["--g.attention=8,16"], "--g.attention 8,16: write --g.attention 8 16"),
        (["--g.attention", "[]"], "--g.attention []: write --g.attention"),
        (["--optim.betas", "(0.0,", "0.9)"], "write --optim.betas 0.0 0.9"),
    ],
)
def test_another_spelling_is_told_the_one_that_works(args, said):
    assert refused("train", "digits", "a", *args).endswith(said)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("sample", ["a", "--smaples", 3], "no such option; did you mean --samples?"),
        ("sample", ["a", "--real", "--n", 3], "--real: no such option; "),
        ("attend", ["a", "--real", "no"], "without a value; leave out --real"),
        ("sample", ["a", "--n", 0], "--n 0: must be at least 1"),
        ("report", ["a", "--seed", -1], "--seed -1: must be at least 0"),
        ("sample", ["a", "b"], "a b: must be a single workdir"),
        ("sample", ["a", "--workdir", "b"], "a b: must be a single workdir"),
        ("sample", ["a", "--workdir"], "--workdir DIR is missing"),
        ("train", ["digits", "--workdir="], "--workdir DIR is missing"),
        ("train", ["digits", "a", "--workdir", "b"], "a: unexpected; --workdir names"),
        ("prepare", ["digits", "--out", "a", "--data-dir", "b"], "is given twice"),
        ("sample", [], "WORKDIR"),
        ("train", ["digits", "a", "b"], "b: unexpected"),
    ],
)
def test_a_wrong_option_is_one_line(name, args, said):
    assert said in refused(name, *args)


@pytest.mark.parametrize(
    ("name", "said"),
    [("plan", "--topology"), ("train", "CONFIG WORKDIR"), ("sample", "--truncation")],
)
def test_each_command_prints_its_own_help(name, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(name, "--help")
    told = capsys.readouterr().out
    assert stop.value.code == 0 and f"usage: sagan {name}" in told and said in told
    assert ("--topology" in told) == (name == "plan")


def test_the_completion_of_a_shell_knows_commands_and_options(capsys, tmp_path):
    parse("completion", "zsh")
    with pytest.raises(SystemExit) as stop:
        main.run(main.COMMANDS["completion"], ["bash"])
    assert not stop.value.code
    script = capsys.readouterr().out
    for word in (*main.COMMANDS, "--truncation", "--optim.g-lr", "--topology"):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", script), word
    if shutil.which("bash"):
        (tmp_path / "script").write_text(script)
        subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)


def test_classes_are_named_or_numbered(tiny, tmp_path):
    names = ["cat", "dog", "7", *map(str, range(20, 27))]
    claim(tmp_path / "run", tiny(), 100, names)
    assert find_labels(tmp_path / "run", ["dog", "3", "7"]) == [1, 3, 2]
    assert find_labels(tmp_path / "run", []) is None
    with pytest.raises(ConfigError, match="--classes dgo: no .*; did you mean dog?"):
        find_labels(tmp_path / "run", ["dgo"])
    claim(tmp_path / "other", tiny(), 100, [])
    with pytest.raises(ConfigError, match="cat: the run's classes have no names: give"):
        find_labels(tmp_path / "other", ["cat"])
    claim(tmp_path / "one", tiny(data__classes=0), 100, [])
    with pytest.raises(ConfigError, match="--classes cat: the run is unconditional"):
        find_labels(tmp_path / "one", ["cat"])
    with pytest.raises(ConfigError, match="nothere: holds no run"):
        find_labels(tmp_path / "nothere", ["cat"])


def test_a_checkpoint_is_the_latest_the_best_or_a_number(finished_run, monkeypatch):
    with pytest.raises(ConfigError, match="--step best: no checkpoint .* evaluated"):
        open_run(finished_run, "best")
    monkeypatch.setattr(Checkpoints, "best", lambda self: 1)
    steps = [open_run(finished_run, step).step for step in ("latest", "best", "2")]
    assert steps == [2, 1, 2]
    with pytest.raises(ConfigError, match="--step all: must be latest, best, or one"):
        open_run(finished_run, "all")


@pytest.mark.parametrize(("n", "size"), [(1, (8, 8)), (4, None)])
def test_a_picture_is_one_image_or_a_grid(finished_run, tmp_path, n, size):
    for suffix, kind in ((".JPG", "JPEG"), (".png", "PNG")):
        out = tmp_path / "new" / f"x{suffix}"
        args = [
            finished_run,
            "--n",
            n,
            "--out",
            out,
            "--step",
            "latest",
            "--classes",
            "3",
        ]
        assert main.run(main.COMMANDS["sample"], list(map(str, args))) == 0
        with Image.open(out) as picture:
            assert picture.format == kind
            assert np.asarray(picture).any()
            assert picture.size == size if size else picture.size > (128, 128)


@pytest.mark.parametrize(
    ("out", "n", "said"),
    [
        ("x.tiff", 1, "x.tiff: must be a folder, or end in .npz, .png, .jpg, .jpeg"),
        ("x.png", 401, "--n 401: a picture shows 400 images at most; "),
    ],
)
def test_a_file_that_cannot_show_the_images_is_refused(
    finished_run, tmp_path, capsys, out, n, said
):
    args = [str(finished_run), "--n", str(n), "--out", str(tmp_path / out)]
    assert main.run(main.COMMANDS["sample"], args) == 2
    assert said in capsys.readouterr().err and not [*tmp_path.glob("x*")]


@pytest.mark.parametrize("name", ["sample", "sheets", "attend", "report", "evaluate"])
def test_an_out_that_cannot_be_written_is_refused_before_drawing(
    finished_run, tmp_path, monkeypatch, capsys, name
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sampler, "samples", None)
    for drawing in ("checkpoint_images.draw_images", "attention_reading.summarise"):
        monkeypatch.setattr(f"sagan.visualization.{drawing}", None)
    monkeypatch.setattr("sagan.evaluation.scoring.open_scorer", None)
    images = np.zeros((8, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", image=images, label=np.arange(8, dtype=np.int32))
    both = ["--fake", str(tmp_path / "a.npz"), "--real", str(tmp_path / "a.npz")]
    args = both if name == "evaluate" else [str(finished_run)]
    out = str(tmp_path / "file" / "x.npz")
    assert main.run(main.COMMANDS[name], [*args, "--out", out]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["eval", "sheets", "attend", "report"])
def test_commands_that_read_data_take_where_they_are_now(
    name, finished_run, monkeypatch, capsys
):
    def open_saved(workdir, data_path=""):
        raise ConfigError(f"{workdir.name} reads {data_path}")

    monkeypatch.setattr(restore, "open_saved", open_saved)
    monkeypatch.setattr(evaluation, "open_saved", open_saved)
    for option in ("--data.path", "--data-path"):
        args = [str(finished_run), option, "gs://b/moved"]
        assert main.run(main.COMMANDS[name], args) == 2
        assert capsys.readouterr().err == "error: run reads gs://b/moved\n"

import json
import os

import pytest

from sagan.checkpoints import workdir as workdir_lib
from sagan.checkpoints.workdir import check_workdir, locked, read_config
from sagan.config import Config, ConfigError, check_config, fields, replace, to_json
from sagan.runtime.files import whole_file

MINE = replace(Config(), {"data.size": 16, "g.attention": (), "d.attention": ()})


def other(**values):
    return replace(MINE, {k.replace("__", "."): v for k, v in values.items()})


def claim(workdir, config, images=10, class_names=("a", "b"), digest=""):
    check_workdir(workdir, config)
    return workdir_lib.claim(workdir, config, images, class_names, digest)


def trained(workdir, config=MINE):
    claim(workdir, config)
    (workdir / "checkpoints" / "1").mkdir(parents=True)


def test_new_directory_is_created_with_the_config(tmp_path):
    workdir = tmp_path / "runs" / "a"
    assert claim(workdir, MINE) == []
    assert (workdir / "config.json").read_text() == to_json(MINE)
    names = sorted(path.name for path in workdir.iterdir())
    assert names == ["config.json", "data.json"]
    assert read_config(workdir) == MINE


def test_same_config_resumes(tmp_path):
    trained(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert claim(tmp_path, MINE) == []


def test_empty_directory_is_claimed(tmp_path):
    assert claim(str(tmp_path), MINE) == []


def test_claim_killed_half_way_can_be_repeated(tmp_path):
    (tmp_path / ".config.json.x1y2").write_text("{")
    assert claim(tmp_path, MINE) == []
    assert read_config(tmp_path) == MINE


def test_another_config_is_fine_while_nothing_is_trained(tmp_path):
    claim(tmp_path, MINE)  # and then the device had too little memory, say
    claim(tmp_path, other(data__batch=32, g__bn_group=32))
    assert read_config(tmp_path).data.batch == 32


def test_a_checkpoint_that_was_never_whole_holds_nothing(tmp_path):
    claim(tmp_path, MINE)
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    claim(tmp_path, other(data__batch=32, g__bn_group=32))


def test_check_takes_the_classes_of_the_run(tmp_path):
    assert check_workdir(tmp_path, MINE).data.classes is None
    claim(tmp_path, other(data__classes=7))
    assert check_workdir(tmp_path, MINE).data.classes == 7


def test_changed_data_are_told_at_each_start_against_the_first(tmp_path):
    claim(tmp_path, MINE, images=9, digest="tried")  # and nothing was trained
    claim(tmp_path, MINE, digest="then")
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    changed = "the data changed since the run began: "
    more = [changed + "10 images then, 11 now"]
    assert claim(tmp_path, MINE, images=11, digest="more") == more
    assert claim(tmp_path, MINE, images=11, digest="more") == more
    other = "still 10 images, but with other names or sizes"
    assert claim(tmp_path, MINE, digest="other") == [changed + other]
    assert claim(tmp_path, MINE, digest="then") == []
    data = json.loads((tmp_path / "data.json").read_text())
    assert (data["images"], data["classes"]) == (10, ["a", "b"])
    starts = [(start["images"], start["digest"]) for start in data["starts"]]
    assert starts == [
        *[(10, "then"), (11, "more"), (11, "more"), (10, "other"), (10, "then")]
    ]
    assert all(start["time"].endswith("+00:00") for start in data["starts"])


def test_data_of_an_earlier_version_are_the_first_start(tmp_path):
    trained(tmp_path)
    (tmp_path / "data.json").write_text('{"images": 10, "classes": ["a", "b"]}\n')
    assert claim(tmp_path, MINE, digest="now") == []
    (told,) = claim(tmp_path, MINE, images=11, digest="now")
    assert "10 images then, 11 now" in told
    starts = json.loads((tmp_path / "data.json").read_text())["starts"]
    assert [start["images"] for start in starts] == [10, 10, 11]


def test_one_process_trains_in_a_workdir(tmp_path):
    with locked(tmp_path):
        with pytest.raises(ConfigError, match="another process trains here"):
            with locked(tmp_path):
                pass
        claim(tmp_path, MINE)  # the lock is no stranger
    with locked(tmp_path):
        pass


def test_a_link_in_place_of_the_lock_is_refused_and_its_target_untouched(tmp_path):
    target, workdir = tmp_path / "target", tmp_path / "run"
    target.write_text("precious")
    workdir.mkdir()
    (workdir / ".lock").symlink_to(target)
    with pytest.raises(ConfigError, match=r"\.lock: is a symbolic link"):
        with locked(workdir):
            pass
    assert target.read_text() == "precious"


def test_files_that_a_kill_left_half_written_are_removed(tmp_path):
    trained(tmp_path)
    (tmp_path / "samples").mkdir()
    (tmp_path / "eval" / "step_1").mkdir(parents=True)
    others, writing = tmp_path / "others", tmp_path / "card.md"
    others.mkdir()
    (tmp_path / "link").symlink_to(others)
    left = [".config.json.x1.unfinished", "samples/.raw_00000015.png.2f.unfinished"]
    left += ["eval/step_1/.results.json.9a.unfinished"]
    kept = [".gitignore", "samples/raw_00000015.png", "metrics.jsonl"]
    for name in left + kept:
        (tmp_path / name).write_text("half")
    with whole_file(writing) as file:  # by an evaluation at the same time
        with locked(tmp_path):
            assert not [name for name in left if (tmp_path / name).exists()]
            assert all((tmp_path / name).exists() for name in kept)
        file.write(b"whole")
    assert writing.read_text() == "whole"


def test_another_config_is_refused_field_by_field(tmp_path):
    trained(tmp_path)
    with pytest.raises(ConfigError) as error:
        claim(tmp_path, other(data__size=32, optim__g_lr=2e-4, run__keep=9))
    lines = str(error.value).splitlines()
    assert lines[0] == f"{tmp_path}: holds a run of another config:"
    assert lines[1:3] == [
        "  data.size: 16 in the run, 32 now",
        "  optim.g_lr: 0.0001 in the run, 0.0002 now",
    ]
    assert lines[3].endswith(f"another workdir and --run.init-from {tmp_path}")
    assert len(lines) == 4 and "run.keep" not in str(error.value)
    assert read_config(tmp_path) == MINE


def test_fields_that_may_change_are_updated(tmp_path):
    trained(tmp_path)
    longer = other(run__steps=7, run__log_every=2, data__path="elsewhere")
    claim(tmp_path, longer)
    stored = replace(longer, {"data.path": os.path.abspath("elsewhere")})
    assert read_config(tmp_path) == stored


@pytest.mark.parametrize(
    ("path", "stored"),
    [("", ""), ("gs://b/data", "gs://b/data"), ("~/data", "/home/x/data")]
    + [("../data/", "/data"), ("/a/b", "/a/b")],
)
def test_paths_are_stored_absolute(tmp_path, monkeypatch, path, stored):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.chdir("/tmp")
    claim(tmp_path, other(data__path=path, run__local_dir=path.partition("gs:")[0]))
    config = read_config(tmp_path)
    assert config.data.path == stored
    assert config.run.local_dir in ("", stored)


def test_length_of_a_run_with_decay_may_not_change(tmp_path):
    decaying = other(optim__decay_start=10, run__steps=100)
    trained(tmp_path, decaying)
    with pytest.raises(ConfigError) as error:
        claim(tmp_path, replace(decaying, {"run.steps": 200}))
    assert "run.steps: 100 in the run, 200 now" in str(error.value)
    assert "optim.decay_start" in str(error.value).splitlines()[-1]
    claim(tmp_path, replace(decaying, {"run.keep": 7}))


def test_file_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="is a file, not a directory"):
        claim(tmp_path / "a", MINE)


def test_a_path_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for workdir in ("gs://bucket/run", "gs:/bucket/run"):
        with pytest.raises(ConfigError, match="must be a path on this machine"):
            claim(workdir, MINE)
    with pytest.raises(ConfigError, match="data.path = 's3://b': must be a path on"):
        check_config(other(data__path="s3://b"))
    check_config(other(data__path="gs://bucket/data"))
    assert list(tmp_path.iterdir()) == []


def test_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="cannot be created: Not a directory"):
        claim(tmp_path / "a" / "b", MINE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("resumes", [False, True])
def test_read_only_directory_is_refused(tmp_path, resumes):
    if resumes:
        claim(tmp_path, MINE)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot be written"):
            claim(tmp_path, MINE)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("resumes", [False, True])
def test_failed_write_is_one_message_and_spares_the_old(tmp_path, monkeypatch, resumes):
    if resumes:
        claim(tmp_path, MINE)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        claim(tmp_path, other(run__keep=9))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == (["config.json", "data.json"] if resumes else [])
    assert not resumes or read_config(tmp_path) == MINE


def test_output_of_a_start_that_failed_does_not_stop_the_next(tmp_path):
    (
        tmp_path / "output.log"
    ).touch()  # of a pipe that broke before the run had a config
    claim(tmp_path, MINE)
    assert read_config(tmp_path) == MINE


def test_directory_with_something_else_is_refused_and_untouched(tmp_path):
    for name in "edcba":
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"something else \(a, b, c, \.\.\.\)"):
        claim(tmp_path, MINE)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"data": 3}',
        '{"data": {"siez": 16}}',
        '{"data": {"size": "16"}}',
        '{"run": {"steps": -1}}',
        "\udcff",
        "[" * 100_000,
        '{"data":' * 100 + "1" + "}" * 100,
    ],
)
def test_broken_config_is_refused_and_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    for act in (lambda: claim(tmp_path, MINE), lambda: read_config(tmp_path)):
        with pytest.raises(ConfigError, match="config.json: "):
            act()


def test_config_that_is_a_directory_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        claim(tmp_path, MINE)


def test_read_config_of_no_run_says_so(tmp_path):
    for workdir in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="holds no run"):
            read_config(workdir)


def test_config_of_an_older_version_gets_the_defaults(tmp_path):
    tree = json.loads(to_json(MINE))
    del tree["run"]["wandb"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert read_config(tmp_path) == MINE
    assert fields(read_config(tmp_path))["run.wandb"] is False


@pytest.mark.parametrize(
    "text",
    [
        *["{", "[]", "null", "[" * 100_000, '{"images": 1}'],
        '{"images": "a", "classes": [1]}',
        '{"images": 1, "classes": [], "starts": []}',
        '{"images": 1, "classes": [], "starts": [3]}',
    ],
)
def test_damage_that_silences_the_comparison_of_the_data_is_told(tmp_path, text):
    trained(tmp_path)
    (tmp_path / "data.json").write_text(text)
    assert workdir_lib.class_names(tmp_path) == []
    (told,) = claim(tmp_path, MINE)
    assert told.endswith("is damaged: the data are not compared with those of the run")
    assert (tmp_path / "data.damaged0.json").read_text() == text
    assert claim(tmp_path, MINE) == []
    (tmp_path / "data.json").unlink()
    (told,) = claim(tmp_path, MINE)
    assert "is gone" in told
    (tmp_path / "data.json").unlink()
    os.mkfifo(tmp_path / "data.json")
    (told,) = claim(tmp_path, MINE)
    assert "is damaged" in told and (tmp_path / "data.damaged1.json").is_fifo()

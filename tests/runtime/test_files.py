import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sagan.config import ConfigError
from sagan.runtime import files
from sagan.runtime.files import drop_lines_after, whole_file, write_arrays, write_whole


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(RuntimeError):
        with whole_file(path) as file:
            file.write(b"ne")
            raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_read_as_they_were_written(tmp_path, compressed):
    path, arrays = tmp_path / "new" / "a.npz", {"x": np.arange(3), "y/z": np.ones(2)}
    write_arrays(path, arrays, compressed=compressed)
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(FileNotFoundError) as error:
        write_whole(path, "text")
    assert error.value.filename == str(path)


def test_lines_after_a_step_and_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join([*lines, "no json\n", '{"step": 1']))
    drop_lines_after(path, 2)
    assert path.read_text() == "".join(lines[:2])


@pytest.mark.parametrize(
    "damaged", ["[1]", "no json", "[" * 10_000, '{"step": "3"}', '{"a": 1}', "\x00\x00"]
)
def test_damaged_lines_are_told_and_kept_beside(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    for i in range(2):
        before = f"{good[0]}{damaged}\n{good[1]}{good[2]}"
        path.write_text(before)
        told = drop_lines_after(path, 2)
        name = f"metrics.damaged{i}.jsonl"
        assert told == f"{path}: 1 damaged lines are dropped; {name} has them"
        assert path.read_text() == "".join(good[:2])
        assert (tmp_path / name).read_text() == before
    path.write_text(good[0] + '{"step": 2')  # torn by a kill
    assert drop_lines_after(path, 2) is None


def test_rollbacks_that_are_no_number_are_damage(tmp_path):
    path = tmp_path / "monitor.jsonl"
    path.write_text('{"step": 1, "rollbacks": "a"}\n')
    assert "1 damaged lines" in drop_lines_after(path, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "nested deeper than 32"),
        ("[" * 40 + "]" * 40, "nested deeper than 32"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ("[" + " " * 2**24 + "]", "more than 16,777,216 bytes"),
        ("1" * 10_000, "Exceeds the limit"),
    ],
)
def test_json_that_is_not_ours_is_one_error(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        files.read_json(path)


def test_json_of_ours_is_read(tmp_path):
    path = tmp_path / "a.json"
    for value in (1, "a", [], {"a": [1, {"b": [2.5, None]}]}, [[[]]] * 9):
        path.write_text(json.dumps(value))
        assert files.read_json(path) == value


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="is not a regular file"):
            files.read_json(path)


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "text")
        files.open_append(tmp_path / "b").close()
    finally:
        os.umask(before)
    for name in "ab":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_links_are_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    for name in ("whole", "lines", "append"):
        (tmp_path / name).symlink_to(target)
    write_whole(tmp_path / "whole", "text")
    drop_lines_after(tmp_path / "lines", 1)
    with pytest.raises(ConfigError, match="append: is a symbolic link"):
        files.open_append(tmp_path / "append")
    assert target.read_text() == "precious"
    assert (tmp_path / "whole").read_text() == "text"
    assert not (tmp_path / "whole").is_symlink()


def test_a_start_waits_for_no_pipe_and_follows_no_link_to_what_is_unfinished(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    os.mkfifo(tmp_path / ".a.unfinished")
    (tmp_path / ".b.unfinished").symlink_to(target)
    (tmp_path / ".c.unfinished").write_text("half")
    files.remove_unfinished(tmp_path)
    assert not (tmp_path / ".c.unfinished").exists()
    assert target.read_text() == "precious"


def test_a_file_that_is_removed_before_it_is_locked_is_written_again(
    tmp_path, monkeypatch
):
    lock, removed = fcntl.flock, []

    def remove_first(handle, kind):
        if not removed:
            removed.extend(tmp_path.glob(".*.unfinished"))
            removed[0].unlink()
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    write_whole(tmp_path / "a", "text")
    assert len(removed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("link", ["eval", "eval/step_1"])
def test_folders_of_a_workdir_are_no_links_and_the_workdir_may_be_one(tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    made = files.own_folder(tmp_path / "run", "eval", "step_1")
    assert made.is_dir() and made == tmp_path / "run" / "eval" / "step_1"
    made.rmdir()
    if link == "eval":
        made.parent.rmdir()
    (tmp_path / "run" / link).symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=f"/{link}: is a symbolic link"):
        files.own_folder(tmp_path / "run", "eval", "step_1")

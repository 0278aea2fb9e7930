import json

import numpy as np
import pytest

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

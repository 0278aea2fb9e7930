"""What is remembered of a check, and when it is not believed."""

import os
import pickle
import time

import jax
import numpy as np
import pytest

from sagan.data import source as source_lib
from sagan.data import validation
from sagan.data.checked import identify
from sagan.data.pipeline import batches, open_source
from sagan.data.source import Record
from sagan.evaluation import image_sets
from sagan.runtime import cache
from tests.support.folders import errors, make, noise, two_classes, write


@pytest.fixture(params=["in memory", "on demand"])
def place(request, monkeypatch):
    if request.param == "on demand":
        monkeypatch.setattr(validation, "MEMORY", 0)
    return request.param


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache's folder, empty."""
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose headers were read."""
    names = []

    def read_header(image, *, whole):
        names.append(os.path.relpath(image, os.path.dirname(os.path.dirname(image))))
        return header(image, whole=whole)

    header = validation.read_header
    monkeypatch.setattr(validation, "read_header", read_header)
    return names


def age(root):
    """As if written an hour ago."""
    for path in root.rglob("*.png"):
        now = path.stat().st_mtime
        os.utime(path, (now - 3600, now - 3600))
    return root


@pytest.fixture
def root(tmp_path):
    return age(two_classes(tmp_path / "images"))


def test_files_that_did_not_change_are_not_read_again(place, root, read):
    config = make(path=str(root), channels=1)
    first = open_source(config)
    assert len(read) == 6
    again = open_source(config)
    assert len(read) == 6 and again.notes == first.notes
    everything = (source.examples(np.arange(6)) for source in (first, again))
    jax.tree.map(np.testing.assert_array_equal, *everything)


def change(path):
    write(path, noise(seed=99))


def break_in_place(path):
    """Leaves size and time of modification as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[8:] = bytes(len(content) - 8)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(path):
    path.rename(path.with_name("new.png"))


def add(path):
    write(path.with_name("new.png"), noise(seed=5))


@pytest.mark.parametrize(
    ("how", "name"), [(change, "1"), (rename, "new"), (add, "new")]
)
def test_what_changed_is_read_again(how, name, place, root, read):
    open_source(make(path=str(root)))
    read.clear()
    how(root / "cat" / "1.png")
    open_source(make(path=str(root)))
    assert read == [f"cat/{name}.png"]


def test_a_file_that_broke_is_found_although_size_and_time_are_the_same(place, root):
    open_source(make(path=str(root)))
    break_in_place(root / "cat" / "1.png")
    (line,) = errors(make(path=str(root)))
    assert "1 of 6 images cannot be read" in line and "cat/1.png" in line


def test_a_file_that_was_just_written_is_not_believed(place, tmp_path, read):
    root = two_classes(tmp_path / "images")
    for _ in range(2):
        open_source(make(path=str(root)))
    assert len(read) == 12


def test_two_names_of_a_file_are_remembered_apart(root):
    one = root / "cat" / "0.png"
    (root / "cat" / "x.png").hardlink_to(one)
    now = time.time_ns()
    paths = one, root / "cat" / "x.png", root / "cat" / "1.png"
    a, b, other = (identify(Record(str(path), 0), now) for path in paths)
    assert a[0] == b[0] != other[0] and len({a[1], b[1], other[1]}) == 3


def test_broken_files_are_never_remembered(place, root, read):
    (root / "cat" / "0.png").write_text("no image")
    age(root)
    config = make(path=str(root), skip_broken=True)
    first = open_source(config)
    read.clear()
    again = open_source(config)
    assert read == ["cat/0.png"] and len(again) == len(first) == 5
    everything = (source.examples(np.arange(5)) for source in (first, again))
    jax.tree.map(np.testing.assert_array_equal, *everything)


def test_a_check_that_fails_remembers_the_good_ones(place, root, read):
    (root / "cat" / "0.png").write_text("no image")
    errors(make(path=str(root)))
    read.clear()
    errors(make(path=str(root)))
    assert read == ["cat/0.png"]


@pytest.mark.parametrize("other", [{"size": 4}, {"channels": 1}])
def test_other_settings_are_another_check(other, root, read):
    open_source(make(path=str(root)))
    open_source(make(path=str(root), **other))
    assert len(read) == 12


def test_findings_are_those_of_the_first_check(root):
    config = make(path=str(root), size=16)
    assert errors(config) == errors(config)
    assert "6 of 6 images are smaller" in errors(config)[0]
    for path in root.rglob("*.png"):
        write(path, np.zeros((8, 8, 3), np.uint8))
    age(root)
    config = make(path=str(root))
    assert errors(config) == errors(config)
    assert "all 6 images are the same" in errors(config)[0]


def test_batches_of_remembered_files_are_the_same(root):
    config = make(path=str(root), flip=True, d_steps=2)
    runs = []
    for _ in range(2):
        source = open_source(config)
        stream = batches(config, source, 0)
        runs.append([next(stream) for _ in range(5)])
        stream.close()
    jax.tree.map(np.testing.assert_array_equal, *runs)
    assert source.waiting is not None and not source.waiting.any()


def test_remembered_files_are_decoded_once_and_in_order_for_an_evaluation(
    root, monkeypatch
):
    first = image_sets.of_source(open_source(make(path=str(root))), 0)
    decoded = []
    decode = source_lib.decode
    monkeypatch.setattr(
        source_lib, "decode", lambda *args: (decoded.append(args), decode(*args))[1]
    )
    monkeypatch.setattr(image_sets, "_CHUNK", 2)
    source = open_source(make(path=str(root)))
    assert not decoded
    for _ in range(2):
        again = image_sets.of_source(source, 0)
        jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len(decoded) == 6


def remembered(folder, root):
    open_source(make(path=str(root)))
    (path,) = folder.glob("*.npz")
    return path


def test_any_damage_of_the_cache_is_ignored(folder, root, read):
    path = remembered(folder, root)
    good = path.read_bytes()
    images = open_source(make(path=str(root))).examples(np.arange(6)).image
    step = 7  # of some 600 bytes
    damaged = [good[:cut] for cut in range(0, len(good), 50)]
    for place in range(0, len(good), step):
        damaged.append(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        source = open_source(make(path=str(root)))
        np.testing.assert_array_equal(source.examples(np.arange(6)).image, images)


def test_a_cache_of_something_else_is_ignored_and_runs_nothing(folder, root, read):
    path = remembered(folder, root)
    for rows in (np.zeros(3), np.array([print], object), np.zeros((), "V16")):
        np.savez(path, rows=rows, allow_pickle=True)
        read.clear()
        open_source(make(path=str(root)))
        assert len(read) == 6
    path.write_bytes(pickle.dumps(print))
    read.clear()
    open_source(make(path=str(root)))
    assert len(read) == 6


def test_without_a_cache_that_can_be_written_everything_is_checked(root, read, folder):
    folder.write_text("a file")
    for _ in range(2):
        open_source(make(path=str(root)))
    assert len(read) == 12


def test_the_cache_is_small_and_forgets_files_that_are_gone(folder, root):
    path = remembered(folder, root)
    name = path.stem
    before = cache.read_arrays(name)["rows"]
    (root / "cat" / "1.png").unlink()
    open_source(make(path=str(root)))
    after = cache.read_arrays(name)["rows"]
    assert (len(before), len(after)) == (6, 5) and before.dtype.itemsize < 40

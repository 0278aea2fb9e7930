import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sagan.cli.main import prepare_command
from sagan.config import ConfigError, DataConfig
from sagan.data import pipeline, records, records_writer, validation
from sagan.data.images import decode
from sagan.data.pipeline import open_source, resolve
from sagan.data.prepare import Prepared, prepare
from sagan.runtime import files
from tests.support.batches import take
from tests.support.folders import error, make, noise, two_classes, write
from tests.support.tfds import build, png


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def images(tmp_path):
    """A folder of two classes with images of several sizes and formats."""
    for label, name in enumerate(["cat", "dog"]):
        for i in range(4):
            suffix = ["png", "jpg", "bmp", "gif"][i]
            path = tmp_path / "pets" / name / f"{i}.{suffix}"
            write(path, noise(20 + 3 * i, 31 - 2 * i, seed=10 * label + i))
    return tmp_path / "pets"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(params=["in memory", "on demand"])
def place(request, monkeypatch):
    if request.param == "on demand":
        monkeypatch.setattr(validation, "MEMORY", 0)


@pytest.fixture
def small_files(monkeypatch):
    """Three images of 16x16 in each file."""
    monkeypatch.setattr(records_writer, "_FILE_BYTES", 3 * 16 * 16 * 3)
    monkeypatch.setattr(records_writer, "_CHUNK", 2)


def as_trained(made, **data):
    """A config that reads a prepared set."""
    return make(**{"name": made.name, "path": str(made.path), "size": 16} | data)


# What is read is what training reads from the source


@pytest.mark.parametrize("format", ["raw", "png"])
def test_lossless_set_of_a_folder_gives_the_batches_of_the_folder(
    format, place, images, out, small_files
):
    made = prepare(str(images), out, size=16, format=format)
    assert made == ("folder", out / "pets_16", {"train": 8})
    direct = make(path=str(images), size=16, flip=True, d_steps=2)
    source = open_source(as_trained(made, flip=True))
    assert source.class_names == ("cat", "dog")
    for rank in (0, 1):
        same(
            take(4, direct, open_source(direct), 3, rank, 2),
            take(4, direct, source, 3, rank, 2),
        )


@pytest.mark.parametrize(
    ("format", "stored", "channels"),
    [("raw", 1, 1), ("raw", 1, 3), ("raw", 3, 1), ("png", 3, 3)],
)
def test_lossless_set_of_the_digits_is_the_digits(
    format, stored, channels, out, monkeypatch
):
    settings = DataConfig(channels=stored)
    made = prepare("digits", out, size=16, format=format, settings=settings)
    direct = make(name="digits", size=16, channels=channels)
    for split in ("train", "test"):
        expected = open_source(direct, split)
        with monkeypatch.context() as patch:
            patch.setattr(validation, "MEMORY", 0)
            source = open_source(as_trained(made, channels=channels), split)
        indices = np.arange(len(expected))[::-3]
        same(source.examples(indices), expected.examples(indices))
        same(source.labels(indices), expected.labels(indices))


def test_jpeg_set_is_nearly_the_folder(tmp_path, out):
    for i in range(3):
        smooth = Image.fromarray(noise(4, 4, seed=i)).resize((40, 30))
        write(tmp_path / "pets" / f"{i}.png", np.asarray(smooth))
    made = prepare(str(tmp_path / "pets"), out, size=16, format="jpeg")
    direct = make(path=str(tmp_path / "pets"), size=16)
    read, expected = (
        open_source(config).examples(np.arange(3)).image.astype(int)
        for config in (as_trained(made), direct)
    )
    assert 0 < abs(read - expected).max() <= 12


def test_raw_batches_are_those_read_record_by_record(
    images, out, small_files, monkeypatch
):
    monkeypatch.setattr(validation, "MEMORY", 0)
    made = prepare(str(images), out, size=16)
    config = as_trained(made, flip=True, batch=8)
    at_once = open_source(config)
    one_by_one = dataclasses.replace(at_once, pixels=None, known_labels=None)
    assert at_once.pixels and not at_once.memory
    same(take(5, config, at_once, 2), take(5, config, one_by_one, 2))


def test_raw_pixels_of_the_right_size_are_not_decoded(images, out, monkeypatch):
    made = prepare(str(images), out, size=16)
    monkeypatch.setattr(validation, "MEMORY", 0)
    source = open_source(as_trained(made))

    def refuse(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr("sagan.data.source.decode", refuse)
    assert source.examples(np.arange(8)).image.shape == (8, 16, 16, 3)


@pytest.mark.parametrize("format", ["raw", "png"])
def test_another_size_is_resized_and_said(format, place, images, out):
    made = prepare(str(images), out, size=16, format=format)
    source = open_source(as_trained(made, size=8))
    assert any("stored with 16x16 pixels, resized to" in n for n in source.notes)
    stored = open_source(as_trained(made)).examples(np.arange(8)).image
    expected = [decode(png(image), source.data) for image in stored]
    same(source.examples(np.arange(8)).image, np.stack(expected))
    assert not any("stored" in n for n in open_source(as_trained(made)).notes)
    assert "8 images are smaller than data.size = 32" in error(
        as_trained(made, size=32)
    )


def test_start_of_a_split_is_a_split(images, out, small_files):
    made = prepare(str(images), out, size=16)
    assert len(open_source(as_trained(made), "train[:5]")) == 5
    line = error(as_trained(made), "test")
    assert "data.split = 'test': must be train" in line


def test_skipped_images_stay_away(images, out):
    (images / "cat" / "x.png").write_text("no image")
    with pytest.raises(ConfigError, match="1 of 9 images cannot be read: .*x.png"):
        prepare(str(images), out, size=16)
    assert not out.exists()
    made = prepare(str(images), out, size=16, settings=DataConfig(skip_broken=True))
    assert made.splits == {"train": 8} and len(open_source(as_trained(made))) == 8


def test_set_without_classes_is_unconditional(tmp_path, out):
    for i in range(3):
        write(tmp_path / "pets" / f"{i}.png", noise(16, 16, seed=i))
    config = as_trained(prepare(str(tmp_path / "pets"), out, size=16))
    assert resolve(config, open_source(config)).data.classes == 0


def test_set_of_a_tfds_data_set_has_its_images_and_labels(tmp_path, out):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
    }
    examples = [{"image": png(noise(20, 30, seed=i)), "label": i % 2} for i in range(6)]
    build("foreign", out, features, examples)
    made = prepare("foreign", out, size=16)
    assert made == ("foreign", out / "foreign_16", {"train": 6, "test": 2})
    read = open_source(as_trained(made))
    expected = open_source(make(name="foreign", path=str(out), size=16))
    same(read.memory, expected.memory)
    assert read.class_names == ("a", "b")


# Interruptions


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("format", ["raw", "jpeg"])
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_interrupted_command_continues_where_it_was(
    format, fails_at, images, out, small_files, monkeypatch
):
    def make_it(root):
        return prepare(str(images), root, size=16, format=format)

    unbroken = contents(make_it(out / "whole").path)
    folder, write_set, count = out / "broken" / "pets_16", files.os.replace, [0]

    def replace(source, target):
        if target.suffix == ".records" or target.name == records.MARKER:
            if count[0] == fails_at:
                raise KeyboardInterrupt
            count[0] += 1
        write_set(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            make_it(out / "broken")
    (folder / ".train-00001.records.abcd.unfinished").write_bytes(b"of a kill")
    kept = {path.name: path.stat().st_ino for path in folder.glob("*.records")}
    assert len(kept) == min(fails_at, 3)
    assert "did not finish" in error(make(path=str(folder), size=16))
    make_it(out / "broken")
    for name, inode in kept.items():
        assert (folder / name).stat().st_ino == inode
    assert contents(folder) == unbroken


def test_begun_set_of_images_that_changed_starts_afresh(images, out):
    made = prepare(str(images), out, size=16)
    (made.path / records.MARKER).unlink()
    (made.path / records.UNFINISHED).write_text(
        json.dumps(
            [
                records_writer.settings_digest(
                    "folder", "pets_16", "raw", DataConfig()
                ),
                "of other images",
            ]
        )
    )
    (made.path / "train-00000.records").write_bytes(b"of other images")
    (made.path / "train-00001.records").write_bytes(b"of other images")
    prepare(str(images), out, size=16)
    assert sorted(contents(made.path)) == ["prepared.json", "train-00000.records"]
    assert len(open_source(as_trained(made))) == 8


def test_finished_set_is_left_as_it_is(images, out):
    made = prepare(str(images), out, size=16)
    before = {path: path.stat().st_ino for path in made.path.iterdir()}
    assert prepare(str(images), out, size=16) == made
    assert {path: path.stat().st_ino for path in made.path.iterdir()} == before
    write(images / "cat" / "new.png", noise(20, 20, seed=99))
    with pytest.raises(ConfigError, match="there already, from images that have chan"):
        prepare(str(images), out, size=16)
    assert {path: path.stat().st_ino for path in made.path.iterdir()} == before


@pytest.mark.slow
def test_killed_command_leaves_no_set_that_looks_whole(tmp_path):
    for i in range(300):
        write(tmp_path / "pets" / f"{i}.png", noise(200, 200, seed=i))
    patched = (
        "import sys; from sagan.data import records_writer as w; from sagan.cli.main"
        " import main; w._FILE_BYTES = 20 * 128 * 128 * 3; main()"
    )
    args = ["prepare", tmp_path / "pets", "--size", "128", "--data-dir"]
    command = [sys.executable, "-c", patched, *map(str, args)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    unbroken, kills = contents(tmp_path / "whole" / "pets_128"), 0
    folder = tmp_path / "broken" / "pets_128"
    for wait in np.linspace(0, 0.5, 8):
        process = subprocess.Popen([*command, str(tmp_path / "broken")])
        while not folder.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            kills += 1
            if (folder / records.MARKER).exists():
                assert contents(folder).items() >= unbroken.items()
    assert kills >= 3
    subprocess.run([*command, str(tmp_path / "broken")], check=True)
    assert contents(folder) == unbroken


# Damage


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "its version is 2, must be 1"),
        ({"splits": {"train": 10**15}}, "more images than the files can hold"),
        ({"splits": {"train": -1}}, "no natural number"),
        ({"splits": {"../train": 8}}, "lists ../train-00000.records with -1 bytes"),
        ({"splits": [8]}, "cannot be read as a prepared set"),
        ({"files": {"../x": 5}}, "lists '../x', must be the name of a file"),
        ({"files": {"nowhere": 5}}, "nowhere"),
        ({"files": {}}, "more images than the files can hold"),
        ({"per_file": 0}, "per_file is 0, must be at least 1"),
        ({"per_file": 3}, "lists train-00000.records with"),
        ({"channels": 2}, "raw images of 16 px and 2 channels cannot be"),
        ({"size": 32}, "for 8 images"),
        ({"size": "16"}, "cannot be read as a prepared set"),
        ({"class_names": [1, 2]}, "cannot be read as a prepared set"),
        ({"of": "another program"}, "cannot be read as a prepared set"),
    ],
    ids=str,
)
def test_odd_list_of_a_set_is_one_line(change, said, images, out):
    made = prepare(str(images), out, size=16)
    marker = made.path / records.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | change))
    line = error(as_trained(made))
    assert line.startswith(f"{made.path}: cannot be read as a prepared set")
    assert said in line


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty list", "no list"])
def test_damaged_set_is_one_line(damage, images, out):
    made = prepare(str(images), out, size=16, format="png")
    path = made.path / "train-00000.records"
    if damage == "truncated":
        os.truncate(path, 1000)
    elif damage == "missing":
        path.unlink()
    else:
        (made.path / records.MARKER).write_text("{}" if "empty" in damage else "[" * 99)
    line = error(as_trained(made))
    assert line.startswith(f"{made.path}: cannot be read as a prepared set: ")
    assert damage != "truncated" or "has 1000 bytes, must have" in line


@pytest.mark.parametrize("format", ["raw", "png"])
@pytest.mark.parametrize("end", [-(2**60), 2**60])
def test_records_that_overlap_are_one_line(end, format, images, out):
    made = prepare(str(images), out, size=16, format=format)
    with open(made.path / "train-00000.records", "r+b") as file:
        file.write(np.full(3, end, "<i8").tobytes())  # where the first three end
    assert "train-00000.records: is damaged" in error(as_trained(made))


def test_damaged_record_is_named(images, out, monkeypatch):
    monkeypatch.setattr(validation, "MEMORY", 0)
    made = prepare(str(images), out, size=16, format="png")
    with open(made.path / "train-00000.records", "r+b") as file:
        file.seek(8 * 12)
        file.write(bytes(8))  # the signature of the first PNG file
    line = error(as_trained(made))
    assert "1 of 8 images cannot be read: record 0" in line
    source = open_source(as_trained(made, skip_broken=True))
    assert source.labels(np.arange(7)).tolist() == [0, 0, 0, 1, 1, 1, 1]


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "data.size = 0: must be base"),
        ({"size": -16}, "data.size = -16: must be base"),
        ({"size": 16, "format": "webp"}, "--format webp: must be raw, png, jpeg"),
        ({"format": "png"}, "--format png: needs --size"),
        ({"size": 64}, "8 of 8 images are smaller than data.size = 64"),
    ],
)
def test_mistake_is_one_line_before_anything_is_written(options, said, images, out):
    with pytest.raises(ConfigError) as caught:
        prepare(str(images), out, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere"])
def test_path_that_is_no_folder_is_refused(name, out):
    with pytest.raises(ConfigError, match="nowhere.*must be a folder of images"):
        prepare(name, out, size=16)


def test_file_in_place_of_a_folder_is_refused(images, out, monkeypatch):
    file = images / "cat" / "0.png"
    monkeypatch.chdir(images)
    with pytest.raises(ConfigError, match="'cat/0.png': must be a folder of images"):
        prepare("cat/0.png", out, size=16)
    for data_dir in (file, file / "sets"):
        with pytest.raises(ConfigError, match="--data-dir: .*0.png is not a folder"):
            prepare(str(images), data_dir, size=16)


def test_name_of_the_catalogue_is_not_a_folder_that_is_called_so(
    tmp_path, out, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    two_classes(pathlib.Path("cifar10"))
    two_classes(pathlib.Path("pets"))
    assert prepare("pets", out, size=8).path == out / "pets_8"
    monkeypatch.setattr(
        "sagan.data.prepare._catalogue", lambda *args: Prepared(*args, {})
    )
    assert prepare("cifar10", out) == ("cifar10", out, {})
    assert prepare("./cifar10", out, size=8).path == out / "cifar10_8"


def test_folder_with_something_else_is_refused(images, out, small_files):
    folder = out / "pets_16"
    write(folder / "holiday.png")
    with pytest.raises(ConfigError, match="pets_16: is not empty: holiday.png"):
        prepare(str(images), out, size=16)
    (folder / "holiday.png").unlink()
    prepare(str(images), out, size=16)
    with pytest.raises(ConfigError, match="holds a set with other settings"):
        prepare(str(images), out, size=16, format="png")
    os.rename(folder / records.MARKER, folder / "kept.json")
    (folder / "kept.json").unlink()
    with pytest.raises(ConfigError, match="is not empty: train-0000"):
        prepare(str(images), out, size=16)
    (folder / records.UNFINISHED).write_text('["a", "b"]')
    with pytest.raises(ConfigError, match="an unfinished set with other settings"):
        prepare(str(images), out, size=16)


def test_second_process_is_refused(images, out):
    (out / "pets_16").mkdir(parents=True)
    handle = os.open(out / "pets_16", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another `sagan prepare` writes it"):
        prepare(str(images), out, size=16)
    os.close(handle)
    prepare(str(images), out, size=16)


def test_disk_that_is_too_small_is_known_before(images, out, monkeypatch):
    space = shutil.disk_usage(".")._replace(free=6000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space)
    with pytest.raises(ConfigError, match="needs 0.0 GB, .*--format jpeg or png"):
        prepare(str(images), out, size=16)
    assert not list(out.glob("*/*.records"))
    prepare(str(images), out, size=16, format="png")  # as the message says


def test_disk_that_fills_up_names_the_file_and_the_command_continues(
    images, out, monkeypatch
):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left.*pets_16"):
            prepare(str(images), out, size=16)
    made = prepare(str(images), out, size=16)
    assert len(open_source(as_trained(made))) == 8


def test_image_that_breaks_while_it_is_written_is_named(images, out, monkeypatch):
    monkeypatch.setattr(validation, "MEMORY", 0)
    path = images / "dog" / "0.png"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[60:80] = bytes(20)  # its end is there
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match="dog/0.png: cannot be read"):
        prepare(str(images), out, size=16)
    assert not (out / "pets_16" / records.MARKER).exists()


def test_command_says_how_to_train(images, out, capsys):
    folder, channels = str(images), ["--channels", "1"]
    prepare_command([folder, "--data-dir", str(out), "--size", "16", *channels])
    said = capsys.readouterr().out.splitlines()
    assert any("8 colour images made grey" in line for line in said)
    made = out / "pets_16"
    assert said[-1] == (
        f"{made}: train 8; train with --data.name folder --data.path {made}"
        " --data.size 16"
    )
    config = make(path=str(made), size=16, channels=1)
    source = open_source(config)
    assert source.examples(np.arange(2)).image.shape == (2, 16, 16, 1)
    with pytest.raises(ConfigError, match="--channels"):
        prepare_command([folder, "--data-dir", str(out), "--channels", "2"])


def test_mirrored_in_place_is_mirrored():
    images = np.stack([noise(6, 5, seed=i) for i in range(4)])
    chosen = np.array([True, False, False, True])
    expected = np.where(chosen[:, None, None, None], images[:, :, ::-1], images)
    pipeline._mirror(images, chosen)
    np.testing.assert_array_equal(images, expected)

import gzip
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sagan.config import Config, ConfigError, DataConfig
from sagan.data.idx import DEFAULT_FOLDERS, FAMILIES
from sagan.data.pipeline import open_source
from sagan.data.source import pgm
from tests.support.idx import SPLITS, images, labels, write_all
from tests.support.tfds import build, png


def config(root, name="fashion_mnist", **data):
    data = {"size": 28, "channels": 1, **data}
    return Config(data=DataConfig(name=name, path=str(root), **data))


def error(root, **data):
    with pytest.raises(ConfigError) as caught:
        open_source(config(root, **data))
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_pixels_and_labels_of_both_splits_are_read_exactly(tmp_path, name, suffix, dot):
    root = write_all(tmp_path, suffix, dot)
    for split in SPLITS:
        source = open_source(config(root, name), split)
        examples = source.examples(np.arange(len(source)))
        np.testing.assert_array_equal(examples.image[..., 0], images(split))
        np.testing.assert_array_equal(examples.label, labels(split))
        assert source.classes == len(source.class_names) == 10
        assert source.splits == ("train", "test")
        assert ",".join(source.class_names) == FAMILIES[name]


def test_part_of_a_split_is_its_start(tmp_path):
    source = open_source(config(write_all(tmp_path), split="train[:12]"))
    examples = source.examples(np.arange(len(source)))
    np.testing.assert_array_equal(examples.image[..., 0], images("train")[:12])
    assert len(open_source(config(tmp_path, split="train[:99]"))) == 30
    for split in ("val", "train[5:]", "train[:10%]"):
        told = error(tmp_path, split=split)
        assert f"data.split = {split!r}: must be train or test or the start" in told


def test_class_counts_are_mentioned(tmp_path):
    root = write_all(tmp_path)
    (note,) = open_source(config(root, split="train[:12]")).notes
    assert note.endswith("12 images of 10 classes (1 to 2 each), in memory")


def test_any_size_and_channels_are_made_from_them(tmp_path):
    source = open_source(
        config(write_all(tmp_path), size=32, channels=3, allow_small=True)
    )
    assert source.examples(np.arange(2)).image.shape == (2, 32, 32, 3)


def test_pgm_of_any_pixels_is_one_image():
    pixels = np.full((3, 5), 10, np.uint8)  # 10 is a newline, 35 starts a comment
    pixels[0, 0] = 35
    assert pgm(pixels) == b"P5 5 3 255\n" + pixels.tobytes()


def test_missing_files_are_named(tmp_path):
    assert "train-images-idx3-ubyte.gz and the three" in error(tmp_path)
    assert "Debian's dataset-fashion-mnist puts them in /usr/share" in error(tmp_path)
    assert "sagan prepare mnist --data-dir" in error(tmp_path, name="mnist")
    write_all(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "must have train-labels-idx1-ubyte or" in error(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_truncated_files_are_refused(tmp_path, suffix):
    root = write_all(tmp_path, suffix)
    path = root / f"train-images-idx3-ubyte{suffix}"
    whole = path.read_bytes()
    for length in (len(whole) - 5, 30, 6, 0):
        path.write_bytes(whole[:length])
        assert str(path) in error(root)


def test_swapped_files_and_other_formats_are_refused(tmp_path):
    root = write_all(tmp_path)
    path = root / "train-images-idx3-ubyte"
    own = path.read_bytes()
    path.write_bytes((root / "train-labels-idx1-ubyte").read_bytes())
    assert "starts with 00000801: must be 00000803" in error(root)
    path.write_bytes((root / "t10k-images-idx3-ubyte").read_bytes())
    assert "20 images but 30 labels" in error(root)
    path.write_bytes(gzip.compress(own))
    assert "must be 00000803" in error(root)
    path.with_suffix(".gz").write_bytes(own)
    path.unlink()
    assert "is not a complete gzip file" in error(root)


def test_an_empty_path_means_the_folder_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(DEFAULT_FOLDERS, "fashion_mnist", str(write_all(tmp_path)))
    assert len(open_source(config(""))) == 30


def test_what_tfds_prepared_is_read_too(tmp_path):
    root = tmp_path / "prepared"
    names = FAMILIES["fashion_mnist"].split(",")
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(names=names),
    }
    examples = zip(images("train"), labels("train"), strict=True)
    build(
        "fashion_mnist",
        root,
        features,
        [{"image": png(x), "label": y} for x, y in examples],
    )
    for path in (root, pathlib.Path(root, "fashion_mnist", "2.0.0")):
        again = open_source(config(path))
        examples = again.examples(np.arange(len(again)))
        np.testing.assert_array_equal(examples.image[..., 0], images("train"))

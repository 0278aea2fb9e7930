import collections
import shutil

import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints.restore import data_notes, open_data, open_saved
from sagan.checkpoints.workdir import claim
from sagan.config import Config, ConfigError, replace
from sagan.data.bucket import local_data
from sagan.data.pipeline import open_source
from sagan.data.source import contents_digest
from sagan.runtime import buckets, cache, transfers
from tests.support.bucket import put


@pytest.fixture
def images(tmp_path):
    """A folder of images of two classes."""
    numbers = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(
            path
        )
    return tmp_path / "images"


@pytest.fixture
def fetched(monkeypatch):
    """Names of the objects that are copied."""
    names = []

    def download(objects, folder, wanted):
        names.extend(sorted(wanted))
        return before(objects, folder, wanted)

    before = transfers.download
    monkeypatch.setattr(transfers, "download", download)
    return names


def make_config(path, tmp_path, name="folder"):
    values = {"data.name": name, "data.path": str(path), "data.size": 8}
    return replace(Config(), {**values, "run.local_dir": str(tmp_path / "local")})


def pixels(config):
    source = open_source(config)
    return source.examples(np.arange(len(source)))


def test_images_in_a_bucket_are_those_of_the_folder(images, url, tmp_path, fetched):
    put(images, url)
    there = pixels(make_config(url, tmp_path))
    np.testing.assert_equal(there, pixels(make_config(images, tmp_path)))
    assert len(fetched) == 6
    pixels(make_config(url, tmp_path))
    assert len(fetched) == 6  # they stay


def test_a_copy_follows_what_changes_in_the_bucket(images, url, tmp_path, fetched):
    put(images, url)
    pixels(make_config(url, tmp_path))
    fetched.clear()
    objects = buckets.Objects(url)
    objects.write("class0/0.png", images / "class1/1.png", None)
    objects.delete("class1/3.png")
    shutil.copy(images / "class1/1.png", images / "class0/0.png")
    (images / "class1/3.png").unlink()
    copy = transfers.local_folder(url, str(tmp_path / "local"), "data")
    (copy / "class0/2.png").write_bytes(b"damaged")
    there = pixels(make_config(url, tmp_path))
    np.testing.assert_equal(there, pixels(make_config(images, tmp_path)))
    assert fetched == ["class0/0.png", "class0/2.png"]


def test_of_several_sets_in_a_bucket_the_named_one_is_copied(url, tmp_path, fetched):
    objects = buckets.Objects(url)
    for name in ("mine/1.0.0/features.json", "mine2/1.0.0/x", "README"):
        objects.write(name, name.encode(), None)
    data = local_data(
        make_config(url, tmp_path, "mine:1.0.0").data, str(tmp_path / "l")
    )
    assert fetched == ["1.0.0/features.json"]
    copied = transfers.local_folder(url, str(tmp_path / "l"), "data")
    assert data.path == str(copied)
    content = (copied / "mine/1.0.0/features.json").read_bytes()
    assert content == b"mine/1.0.0/features.json"


def test_a_command_on_another_machine_reads_the_data_from_its_own_cache(
    images, url, tmp_path, fetched
):
    put(images, url)
    config, workdir = make_config(url, tmp_path), tmp_path / "run"
    config = replace(config, {"g.attention": (), "d.attention": ()})
    source = open_source(config)
    claim(workdir, config, 6, source.class_names, contents_digest(source))
    pixels(open_saved(workdir).config)
    assert len(fetched) == 6  # once, where the run was trained
    (tmp_path / "local").rename(tmp_path / "elsewhere")
    source = open_data(workdir, open_saved(workdir).config)
    assert len(fetched) == 12 and not (tmp_path / "local").exists()
    assert source.data.path.startswith(str(cache.folder()))
    moved = open_saved(workdir, str(images))
    source = open_data(workdir, moved.config)
    notes = data_notes(workdir, source)
    assert source.data.path == str(images) and notes == []
    with pytest.raises(ConfigError, match="data.path = 's3:"):
        open_saved(workdir, "s3://b/data")


def test_a_bucket_without_data_is_one_line(url, tmp_path):
    with pytest.raises(ConfigError) as error:
        open_source(make_config(url, tmp_path))
    assert str(error.value) == f"data.path: {url}: is empty"


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(
    images, url, tmp_path, monkeypatch, fetched
):
    put(images, url)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**30 + 100))
    with pytest.raises(
        ConfigError, match=r"--run.local-dir in training or SAGAN_CACHE"
    ):
        open_source(make_config(url, tmp_path))
    assert not fetched
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**30 + 10**5))
    open_source(make_config(url, tmp_path))


class Blob:
    generation, size, crc32c = 1, 3, "AAAAAA=="

    def __init__(self, name):
        self.name = name


NAMES = ["../x", "a/../../x", "/x", "a//x", "./x"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_object_is_not_written_outside_its_folder(url, monkeypatch, name):
    objects = buckets.Objects(url)
    named = [Blob(f"{objects._prefix}{n}") for n in ("", "folder/", "a/b")]
    bucket = type("Bucket", (), {"list_blobs": lambda self, **options: named})()
    monkeypatch.setattr(objects, "_bucket", bucket)
    assert list(objects.list()) == ["a/b"]
    named.append(Blob(objects._prefix + name))
    with pytest.raises(buckets.BucketError, match="cannot be the name of a file"):
        objects.list()

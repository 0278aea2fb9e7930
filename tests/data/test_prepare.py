import importlib.util
import shutil
import types

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError
from urllib3.util.retry import Retry

from sagan.config import Config, ConfigError, DataConfig
from sagan.data import prepare as prepare_lib
from sagan.data import validation
from sagan.data.pipeline import batches, open_source, resolve
from sagan.data.prepare import prepare
from tests.support.tfds import build, png


def make(**data):
    return Config(data=DataConfig(**{"size": 8, "batch": 4} | data))


def noise(height=8, width=8, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, channels), np.uint8)


def two_classes(root, count=3):
    for label, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(noise(9, 12, seed=10 * label + i))
            image.save(root / name / f"{i}.{['png', 'jpg', 'gif'][i % 3]}")
    return root


def some_images(count=6):
    return [{"image": png(noise(seed=i))} for i in range(count)]


def error(config, split=None):
    with pytest.raises(ConfigError) as caught:
        open_source(config, split)
    return str(caught.value)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    prepare("digits", root)
    return root


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A folder of images, and the TFDS directory where it was prepared."""
    images = two_classes(tmp_path_factory.mktemp("images") / "My Flowers")
    root = tmp_path_factory.mktemp("tfds")
    return images, root, prepare("folder", root, images)


# Our own data sets


@pytest.mark.parametrize("split", ["train", "test"])
def test_prepared_digits_are_the_digits_in_the_same_order(split, digits_dir):
    built_in = open_source(make(name="digits", size=16), split)
    read_back = open_source(make(name="digits", size=16, path=str(digits_dir)), split)
    np.testing.assert_array_equal(read_back.memory.image, built_in.memory.image)
    np.testing.assert_array_equal(read_back.memory.label, built_in.memory.label)
    assert read_back.class_names == built_in.class_names


def test_prepare_says_what_it_wrote(digits_dir):
    prepared = prepare("digits", digits_dir)  # the second time: as it lies there
    assert prepared.name == "digits" and prepared.path == digits_dir / "digits"
    assert list(prepared.splits) == ["train", "test"]
    assert sum(prepared.splits.values()) == 1797


def test_prepared_folder_is_the_folder(flowers):
    images, root, prepared = flowers
    assert prepared == ("folder", root / "my_flowers", {"train": 6})
    folder = open_source(make(name="folder", path=str(images)))
    read_back = open_source(make(name="my_flowers", path=str(root)))
    np.testing.assert_array_equal(read_back.memory.image, folder.memory.image)
    np.testing.assert_array_equal(read_back.memory.label, folder.memory.label)
    assert read_back.class_names == folder.class_names == ("cat", "dog")


def test_prepared_folder_gives_the_batches_of_the_folder(flowers):
    images, root, _ = flowers
    found = []
    for data in ({"name": "folder", "path": str(images)},) + (
        {"name": "my_flowers", "path": str(root)},
    ):
        config = make(flip=True, **data)
        stream = batches(config, open_source(config), 3)
        found.append(next(stream))
        stream.close()
    np.testing.assert_array_equal(found[0].image, found[1].image)
    np.testing.assert_array_equal(found[0].label, found[1].label)


def test_prepared_folder_keeps_the_bytes_of_the_files(flowers):
    images, root, _ = flowers
    source = open_source(make(name="my_flowers", path=str(root)))
    files = sorted(images.glob("*/*"))
    assert [record.image for record in source.records] == [
        path.read_bytes() for path in files
    ]


def test_prepared_folder_keeps_its_splits(tmp_path):
    for count, split in enumerate(["train", "test", "val"], start=2):
        two_classes(tmp_path / "birds" / split, count)
    prepared = prepare("folder", tmp_path / "tfds", tmp_path / "birds")
    assert prepared.splits == {"train": 4, "test": 6, "val": 8}
    config = make(name="birds", path=str(tmp_path / "tfds"))
    assert len(open_source(config, "val")) == 8
    assert open_source(config).splits == ("train", "test", "val")


def test_prepared_folder_without_classes_is_unconditional(tmp_path):
    (tmp_path / "faces").mkdir()
    for i in range(3):
        Image.fromarray(noise(seed=i)).save(tmp_path / "faces" / f"{i}.png")
    prepare("folder", tmp_path / "tfds", tmp_path / "faces")
    config = make(name="faces", path=str(tmp_path / "tfds"))
    source = open_source(config)
    assert resolve(config, source).data.classes == 0
    assert source.labels(np.arange(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("folder", "stored"),
    [("digits", "images_digits"), ("64px", "images_64px"), ("A-b c", "a_b_c")],
)
def test_prepared_folder_has_a_name_that_can_be_read(folder, stored, tmp_path):
    two_classes(tmp_path / folder, count=2)
    made = prepare("folder", tmp_path / "tfds", tmp_path / folder)
    assert made.path == tmp_path / "tfds" / stored
    assert len(open_source(make(name=stored, path=str(tmp_path / "tfds")))) == 4


def test_prepare_refuses_a_folder_with_broken_images(tmp_path):
    root = two_classes(tmp_path / "pets")
    (root / "cat" / "x.png").write_text("no image")
    with pytest.raises(ConfigError, match="1 of 7 images cannot be read: .*x.png"):
        prepare("folder", tmp_path / "tfds", root)
    assert not (tmp_path / "tfds").exists()


def test_prepare_refuses_splits_of_other_classes(tmp_path):
    two_classes(tmp_path / "pets" / "train")
    two_classes(tmp_path / "pets" / "test")
    (tmp_path / "pets" / "test" / "dog").rename(tmp_path / "pets" / "test" / "eel")
    with pytest.raises(ConfigError, match="classes of train; .*: dog, eel"):
        prepare("folder", tmp_path / "tfds", tmp_path / "pets")


def test_prepared_images_may_look_the_same_when_checked(tmp_path):
    for i in range(2):  # to 1x1
        path = tmp_path / "pets" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(255 * np.eye(2, dtype=np.uint8)[[i, 1 - i]]).save(path)
    assert prepare("folder", tmp_path / "tfds", tmp_path / "pets").splits["train"] == 2


def test_prepare_folder_needs_a_path_that_is_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="--path must name the folder of images"):
        prepare("folder", tmp_path)
    with pytest.raises(ConfigError, match="nowhere.*must be a folder of images"):
        prepare("folder", tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_prepare_takes_a_path_for_a_folder_only(name, tmp_path):
    with pytest.raises(ConfigError, match=f"--path .*: {name} takes none"):
        prepare(name, tmp_path, tmp_path)


# The TFDS catalogue


@pytest.fixture
def tensorflow(monkeypatch):
    """Tells prepare that TensorFlow is there, or with (None) that it is not."""
    find = importlib.util.find_spec

    def tell(spec):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *args: spec if name == "tensorflow" else find(name, *args),
        )

    return tell


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_catalogue_without_tensorflow_says_how_to_install_it(
    name, tensorflow, tmp_path
):
    tensorflow(None)
    with pytest.raises(ConfigError, match="pip install tensorflow") as caught:
        prepare(name, tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_catalogue_suggests_a_name_for_a_mistyped_one(tmp_path):
    with pytest.raises(ConfigError, match="cifra10.*did you mean cifar10") as caught:
        prepare("cifra10", tmp_path)
    assert "\n" not in str(caught.value)


def test_catalogue_refuses_what_is_no_name_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="^no name: ") as caught:
        prepare("no name", tmp_path)
    assert "\n" not in str(caught.value)


def fake_builder(monkeypatch, outcome, kind="array_record"):
    def download_and_prepare():
        if outcome:
            raise outcome

    info = types.SimpleNamespace(
        file_format=tfds.core.FileFormat(kind),
        splits={"train": types.SimpleNamespace(num_examples=3)},
    )
    builder = types.SimpleNamespace(
        name="cifar10",
        data_path="DIR/cifar10",
        info=info,
        download_and_prepare=download_and_prepare,
    )
    asked = {}

    def create(name, **options):
        asked.update(options, name=name)
        return builder

    monkeypatch.setattr(tfds, "builder", create)
    return asked


def test_catalogue_is_prepared_as_array_record(tensorflow, tmp_path, monkeypatch):
    tensorflow(types.SimpleNamespace())
    asked = fake_builder(monkeypatch, outcome=None)
    assert prepare("cifar10", tmp_path) == ("cifar10", tmp_path, {"train": 3})
    assert asked["file_format"] == "array_record"
    assert asked["data_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (requests.exceptions.ConnectionError("no route"), "cannot be downloaded: no r"),
        (DownloadError("Failed to get url u. HTTP code: 404."), "be downloaded: .*404"),
        (AssertionError("manual_dir should\ncontain two files"), "d contain two files"),
        (
            NonMatchingChecksumError(
                "Artifact u, downloaded to f:\n* Expected: 1\n"
                "* Got: 2\nTo debug, see: u"
            ),
            "to f: . Expected: 1 . Got: 2; delete that",
        ),
    ],
)
def test_catalogue_failures_that_a_user_can_mend_are_one_error(
    outcome, said, tensorflow, tmp_path, monkeypatch
):
    tensorflow(types.SimpleNamespace())
    fake_builder(monkeypatch, outcome)
    with pytest.raises(ConfigError, match=f"cifar10: .*{said}") as caught:
        prepare("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_network_a_download_ends_within_seconds(tmp_path, monkeypatch):
    tries = []
    monkeypatch.setattr(Retry, "sleep", lambda self, response=None: tries.append(self))
    with pytest.raises(ConfigError, match="cifar10: cannot be downloaded"):
        with prepare_lib._one_line("cifar10"):
            with downloader._open_with_requests("http://127.0.0.1:9/x"):
                pass
    assert sum(retry.get_backoff_time() for retry in tries) < 8 and tries


def test_catalogue_prepared_as_something_else_before_is_refused(
    tensorflow, tmp_path, monkeypatch
):
    tensorflow(types.SimpleNamespace())
    fake_builder(monkeypatch, outcome=None, kind="tfrecord")
    with pytest.raises(ConfigError, match="as tfrecord, must be array_record"):
        prepare("cifar10", tmp_path)


# Reading what TFDS prepared


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The directory of a TFDS data set that another builder wrote."""
    root = tmp_path_factory.mktemp("tfds")
    build("foreign", root, {"image": tfds.features.Image()}, some_images())
    return root


def test_data_set_of_another_builder_is_read(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
        "mask": tfds.features.Image(shape=(None, None, 1)),
    }
    mask = b"not even looked at"
    examples = [
        image | {"label": i % 2, "mask": mask} for i, image in enumerate(some_images())
    ]
    build("foreign", tmp_path, features, examples)
    source = open_source(make(name="foreign", path=str(tmp_path)))
    assert source.class_names == ("a", "b") and len(source) == 6
    for image, label in zip(source.memory.image, source.memory.label, strict=True):
        (i,) = [i for i in range(6) if (image == noise(seed=i)).all()]
        assert label == i % 2


def test_default_data_directory_is_that_of_tfds(foreign, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(foreign))
    assert len(open_source(make(name="foreign"))) == 6


def test_path_may_be_that_of_one_version(foreign):
    path = foreign / "foreign" / "2.0.0"
    assert len(open_source(make(name="foreign", path=str(path)))) == 6


def test_slices_of_a_split_are_splits(foreign):
    config = make(name="foreign", path=str(foreign))
    assert len(open_source(config, "train[1:4]")) == 3


def test_a_tfds_data_set_without_its_files_is_one_line(foreign, tmp_path):
    copy = shutil.copytree(foreign, tmp_path / "copy")
    for path in copy.rglob("*.array_record*"):
        path.unlink()
    with pytest.raises(ConfigError, match="cannot be read as a TFDS data set") as error:
        open_source(make(name="foreign", path=str(copy)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["val", "train[:"])
def test_split_that_is_not_there_is_refused_with_those_that_are(split, foreign):
    message = error(make(name="foreign", path=str(foreign)), split)
    assert f"data.split = {split!r}: must be train or test" in message


def test_unknown_name_is_refused_with_those_prepared_there(foreign):
    message = error(make(name="fareign", path=str(foreign)))
    assert "data.name = 'fareign': must be digits, folder" in message
    assert "there: foreign" in message and "sagan prepare fareign " in message


def test_data_set_without_an_image_is_refused(tmp_path):
    build("words", tmp_path, {"text": tfds.features.Text()}, [{"text": "x"}] * 3)
    message = error(make(name="words", path=str(tmp_path)))
    assert "must have an integer feature image; has text" in message


def test_data_set_without_labels_is_unconditional(tmp_path):
    features = {"image": tfds.features.Image(shape=(8, 8, 3))}
    build("bare", tmp_path, features, some_images())
    config = make(name="bare", path=str(tmp_path))
    assert resolve(config, open_source(config)).data.classes == 0


def test_label_that_is_no_class_is_ignored_and_mentioned(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.Scalar(np.int64),
    }
    build("count", tmp_path, features, [e | {"label": 7} for e in some_images()])
    source = open_source(make(name="count", path=str(tmp_path)))
    assert source.class_names == ()
    assert any("label is no ClassLabel" in note for note in source.notes)


def test_data_set_prepared_as_tfrecord_is_refused(tmp_path):
    features = {"image": tfds.features.Image(shape=(8, 8, 3))}
    build("old", tmp_path, features, some_images())
    info = tmp_path / "old" / "2.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = error(make(name="old", path=str(tmp_path)))
    assert "prepared as tfrecord, must be array_record" in message
    assert "sagan prepare old" in message and "\n" not in message


def test_large_data_set_is_checked_by_a_sample_and_says_so(digits_dir, monkeypatch):
    monkeypatch.setattr(validation, "MEMORY", 0)
    monkeypatch.setattr(validation, "SAMPLE", 50)
    config = make(name="digits", path=str(digits_dir), channels=1)
    source = open_source(config)
    assert source.memory is None
    assert any("50 of 1493 images were checked" in note for note in source.notes)
    built_in = open_source(make(name="digits", channels=1), "train")
    indices = np.array([5, 700, 5])
    np.testing.assert_array_equal(source.labels(indices), built_in.labels(indices))
    np.testing.assert_array_equal(
        source.examples(indices).image, built_in.examples(indices).image
    )


def test_small_images_of_a_prepared_data_set_are_refused_by_record(tmp_path):
    features = {"image": tfds.features.Image(shape=(None, None, 3))}
    build("tiny", tmp_path, features, some_images())
    message = error(make(name="tiny", path=str(tmp_path), size=16))
    assert "6 of 6 images are smaller than data.size = 16: record 0 (8x8)" in message

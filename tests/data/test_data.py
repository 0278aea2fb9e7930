import dataclasses
import io
import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from sagan.config import ConfigError, DataConfig, replace
from sagan.data import pipeline, validation
from sagan.data.datasets import DATASETS, open_split
from sagan.data.idx import FAMILIES
from sagan.data.images import decode
from sagan.data.pipeline import batches, open_source, resolve
from sagan.data.pixels import to_float
from sagan.data.source import Record, contents_digest
from tests.support.batches import take
from tests.support.folders import error, errors, make, noise, two_classes, write
from tests.support.idx import write_all


def image_ids(batch, source):
    """Which image of the source each image of the batch is."""
    known = {image.tobytes(): i for i, image in enumerate(source.memory.image)}
    flat = batch.image.reshape(-1, *batch.image.shape[2:])
    return [known[image.tobytes()] for image in flat]


@pytest.fixture(scope="module")
def digits():
    return open_source(make(name="digits", channels=1))


@pytest.fixture
def many(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.png", noise(seed=i))
    return open_source(make(path=str(tmp_path)))


# Batches


@pytest.mark.parametrize("name", DATASETS)
def test_batch_has_the_declared_shapes_and_types(name, tmp_path):
    write = {"folder": two_classes, **dict.fromkeys(FAMILIES, write_all)}
    path = str(write[name](tmp_path)) if name in write else ""
    config = make(name=name, path=path, d_steps=2)
    (batch,) = take(1, config, open_source(config), 0)
    assert (batch.image.shape, batch.image.dtype) == ((2, 4, 8, 8, 3), np.uint8)
    assert (batch.label.shape, batch.label.dtype) == ((2, 4), np.int32)


def test_batch_keeps_images_with_their_labels(digits):
    config = make(name="digits", channels=1, batch=16)
    (batch,) = take(1, config, digits, 0)
    assert (digits.memory.label[image_ids(batch, digits)] == batch.label[0]).all()


def test_batch_of_a_step_depends_on_seed_and_step_only(digits):
    config = make(seed=5, name="digits", channels=1)
    first, again = (take(5, config, digits, 0) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = take(5, make(seed=6, name="digits", channels=1), digits, 0)
    assert not all(
        (a.image == b.image).all() for a, b in zip(first, other, strict=True)
    )


@pytest.mark.parametrize("start", [1, 7, 10**6])
def test_stream_resumed_at_a_step_goes_on_as_if_never_stopped(start, many):
    config = make(d_steps=2, flip=True)
    whole = pipeline._steps(config, many, 0, 1)
    for step, batch in enumerate(take(3, config, many, start), start):
        jax.tree.map(np.testing.assert_array_equal, batch, whole[step])


def test_stream_from_the_start_passes_the_resumed_one(many):
    config = make(batch=3)
    jax.tree.map(
        np.testing.assert_array_equal,
        take(9, config, many, 0)[4:],
        take(5, config, many, 4),
    )


def test_each_epoch_is_another_permutation_of_all_images(many):
    config = make(batch=5, d_steps=2)  # an epoch of 10 images is one step
    epochs = [tuple(image_ids(batch, many)) for batch in take(20, config, many, 0)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == len(epochs)


def test_batch_larger_than_the_data_spans_epochs(many):
    config = make(batch=25)
    first, second = take(2, config, many, 0)
    ids = image_ids(first, many) + image_ids(second, many)
    assert sorted(ids) == sorted(list(range(10)) * 5)


def test_d_updates_of_a_step_see_the_stream_one_after_another(many):
    (step,) = take(1, make(batch=4, d_steps=3), many, 0)
    one_by_one = take(3, make(batch=4), many, 0)
    for j, single in enumerate(one_by_one):
        np.testing.assert_array_equal(step.image[j], single.image[0])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_take_contiguous_parts_of_the_global_batch(count, many):
    config = make(batch=8, d_steps=2, flip=True)
    (whole,) = take(1, config, many, 3)
    parts = [take(1, config, many, 3, rank, count)[0] for rank in range(count)]
    for field in ("image", "label"):
        joined = np.concatenate([getattr(part, field) for part in parts], axis=1)
        np.testing.assert_array_equal(joined, getattr(whole, field))


def test_processes_that_do_not_divide_the_batch_are_refused(many):
    with pytest.raises(ConfigError, match="data.batch = 4.* processes, 3"):
        batches(make(), many, 0, 0, 3)


def test_flip_mirrors_left_to_right_about_half_of_the_images(many):
    plain = take(50, make(), many, 0)
    mirrored = take(50, make(flip=True), many, 0)
    count = 0
    for before, after in zip(plain, mirrored, strict=True):
        for x, y in zip(before.image[0], after.image[0], strict=True):
            count += (y == x[:, ::-1]).all()
            assert (y == x).all() or (y == x[:, ::-1]).all()
    assert 70 <= count <= 130  # of 200: four standard deviations


def test_flip_depends_on_seed_and_position_only():
    together = pipeline.coin_flips(3, np.arange(1000))
    alone = [pipeline.coin_flips(3, np.array([i]))[0] for i in range(1000)]
    np.testing.assert_array_equal(together, alone)
    assert 400 < (together ^ pipeline.coin_flips(4, np.arange(1000))).sum() < 600
    assert 400 < (together[1:] ^ together[:-1]).sum() < 600


def test_flip_leaves_the_images_of_the_source_alone(many):
    before = many.memory.image.copy()
    take(5, make(flip=True), many, 0)
    np.testing.assert_array_equal(many.memory.image, before)


def no_thread_is_left_but(before):
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_closed_stream_leaves_no_thread_behind(many):
    before = set(threading.enumerate())
    stream = batches(make(), many, 0)
    next(stream)
    stream.close()
    no_thread_is_left_but(before)
    with pytest.raises(StopIteration):
        next(stream)


def test_failed_stream_leaves_no_thread_behind(many):
    before = set(threading.enumerate())
    records = [Record("nowhere.png", 0)] * 10
    stream = batches(make(), dataclasses.replace(many, memory=None, records=records), 0)
    with pytest.raises(ConfigError, match="nowhere.png"):
        next(stream)
    no_thread_is_left_but(before)


def test_to_float_maps_0_and_255_to_minus_1_and_1():
    image = np.array([0, 255, 51], np.uint8).reshape(3, 1, 1, 1)
    for x in (to_float(image), jax.jit(to_float)(jax.numpy.asarray(image))):
        assert x.dtype == np.float32
        np.testing.assert_allclose(np.ravel(x), [-1, 1, -0.6], atol=1e-6)


# Digits


def test_digits_splits_are_disjoint_and_complete():
    train, test = (open_split(DataConfig(name="digits"), s) for s in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert 1 / 6 <= len(test) / 1797 <= 1 / 5
    from sklearn.datasets import load_digits

    pixels = [
        np.asarray(Image.open(io.BytesIO(record.image)))
        for record in [*train.records, *test.records]
    ]
    both = sorted(image.tobytes() for image in pixels)
    values = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert both == sorted(image.tobytes() for image in values)


def test_digits_test_split_has_a_sixth_of_every_class(digits):
    test = open_source(make(name="digits", channels=1), "test")
    share = np.bincount(test.memory.label) / (
        np.bincount(test.memory.label) + np.bincount(digits.memory.label)
    )
    assert len(share) == 10
    np.testing.assert_allclose(share, 1 / 6, atol=0.01)


def test_digits_are_enlarged_and_repeated_to_the_size_and_channels_asked_for(digits):
    assert digits.memory.image.shape[1:] == (8, 8, 1)
    assert digits.memory.image.max() == 255 and digits.memory.image.min() == 0
    large = open_source(make(name="digits", size=32)).memory.image
    assert large.shape[1:] == (32, 32, 3)
    assert (large == large[..., :1]).all()


def test_digits_have_no_other_split():
    line = error(make(name="digits"), "val")
    assert line.startswith("data.split = 'val'") and "train or test" in line


# Folders


def test_folder_labels_are_the_sorted_names_of_its_folders(tmp_path):
    source = open_source(make(path=str(two_classes(tmp_path))))
    assert source.class_names == ("cat", "dog")
    assert source.labels(np.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(
        source.examples(np.array([4])).image[0], noise(seed=11)
    )


def test_folder_of_images_has_no_classes(many):
    assert many.class_names == () and many.classes == 0
    assert many.labels(np.arange(10)).tolist() == [0] * 10


def test_folder_is_read_to_any_depth_in_a_class(tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "cat" / "deep" / "deeper" / "x.PNG")
    assert len(open_source(make(path=str(tmp_path)))) == 7


def test_folder_ignores_but_mentions_what_is_no_image(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "cat" / "readme.txt").write_text("no image")
    (tmp_path / "dog" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    source = open_source(make(path=str(tmp_path)))
    assert len(source) == 6 and source.class_names == ("cat", "dog")
    (note,) = [note for note in source.notes if "ignored" in note]
    assert "2 files ignored" in note and "readme.txt" in note and ".hidden" in note


def test_folder_mentions_images_beside_the_classes(tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "loose.png")
    source = open_source(make(path=str(tmp_path)))
    assert len(source) == 6
    assert any("1 images beside the folders" in note for note in source.notes)


@pytest.mark.parametrize("held_out", [["test"], ["val"], ["test", "val"], []])
def test_folder_named_train_beside_test_or_val_is_a_split(held_out, tmp_path):
    for number, split in enumerate(["train", *held_out]):
        two_classes(tmp_path / split, count=2 + number)
    for number, split in enumerate(["train", *held_out]):
        source = open_source(make(path=str(tmp_path)), split)
        assert len(source) == 2 * (2 + number)
        assert source.splits == ("train", *held_out)
        assert source.class_names == ("cat", "dog")


def test_folder_named_train_among_others_is_a_class(tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "train" / "0.png")
    write(tmp_path / "train" / "1.png")
    source = open_source(make(path=str(tmp_path)))
    assert source.class_names == ("cat", "dog", "train")


def test_folder_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "val")
    line = error(make(path=str(tmp_path)), "test")
    assert "data.split = 'test'" in line and "train or val" in line


# Formats


def channels_of(path, channels=3, size=8):
    data = make(path=str(path.parent), channels=channels, size=size).data
    return decode(str(path), data)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_colour_of_the_right_size_is_read_exactly(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    path = write(tmp_path / f"x.{suffix}", **options)
    np.testing.assert_array_equal(channels_of(path), noise())


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_is_read_in_colour(suffix, tmp_path):
    path = write(tmp_path / f"x.{suffix}", np.full((20, 20, 3), (200, 90, 30), "u1"))
    assert abs(channels_of(path).astype(int) - [200, 90, 30]).max() <= 4


def test_cmyk_jpeg_is_read_in_colour(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.save(tmp_path / "x.jpg", quality=95)
    red = channels_of(tmp_path / "x.jpg")[4, 4].astype(int)
    assert red[0] > 240 and red[1] < 20 and red[2] < 20


def test_palette_gif_is_read_through_its_palette(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "x.gif")
    assert channels_of(tmp_path / "x.gif")[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_laid_on_white(mode, tmp_path):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    if mode == "PA":
        image.quantize(4).save(tmp_path / "x.png")
    else:
        image.convert(mode).save(tmp_path / "x.png")
    assert (channels_of(tmp_path / "x.png") == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_upper_eight(channels, tmp_path):
    values = np.array([[0, 256, 65535, 40000]] * 4, np.uint16)
    write(tmp_path / "x.png", values)
    read = channels_of(tmp_path / "x.png", channels, size=4)
    assert read.shape == (4, 4, channels)
    assert read[0, :, 0].tolist() == [0, 1, 255, 156]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_repeated_and_colour_made_grey(mode, tmp_path):
    Image.new(mode, (8, 8), 255).save(tmp_path / "grey.png")
    assert (channels_of(tmp_path / "grey.png") == 255).all()
    write(tmp_path / "colour.png", np.full((8, 8, 3), (255, 0, 0), "u1"))
    assert (channels_of(tmp_path / "colour.png", 1) == 76).all()  # ITU-R 601 luma


def test_exif_orientation_is_respected(tmp_path):
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    write(tmp_path / "x.png", pixels, exif=exif)
    np.testing.assert_array_equal(channels_of(tmp_path / "x.png"), np.rot90(pixels, -1))


def test_unreadable_exif_data_do_not_hide_the_pixels(tmp_path):
    write(tmp_path / "x.png", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(channels_of(tmp_path / "x.png"), noise())


@pytest.mark.parametrize("shape", [(8, 14), (14, 8)])
def test_centre_is_cropped_to_the_short_side(shape, tmp_path):
    pixels = noise(*shape)
    top, left = (shape[0] - 8) // 2, (shape[1] - 8) // 2
    path = write(tmp_path / "x.png", pixels)
    np.testing.assert_array_equal(
        channels_of(path), pixels[top : top + 8, left : left + 8]
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_shrinking_averages_instead_of_sampling(suffix, tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write(tmp_path / f"x.{suffix}", stripes)
    assert abs(channels_of(path).astype(int) - 127.5).max() < 8


def test_enlarging_interpolates(tmp_path):
    path = write(tmp_path / "x.png", np.array([[0, 255], [0, 255]], np.uint8))
    row = channels_of(path)[0, :, 0].astype(int)
    assert (np.diff(row) >= 0).all() and len(set(row.tolist())) > 4


def test_jpeg_decoded_at_a_fraction_is_nearly_the_same(tmp_path):
    smooth = Image.fromarray(noise(4, 4)).resize((32, 32), Image.Resampling.BICUBIC)
    path = write(tmp_path / "x.jpg", np.asarray(smooth), quality=95)
    slow = Image.open(path).resize((8, 8), Image.Resampling.BILINEAR)
    assert (
        abs(channels_of(path).astype(int) - np.asarray(slow)).max() <= 5
    )  # 12 from 8x8


# Checks before the first step


@pytest.mark.parametrize("name", ["folder", "digits", "anything"])
def test_missing_path_is_refused(name, tmp_path):
    line = error(make(name=name, path=str(tmp_path / "nowhere")))
    assert line.startswith("data.path = ") and "nowhere" in line


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    line = error(make(path=str(write(tmp_path / "x.png"))))
    assert "must be a folder of images" in line


def test_folder_without_a_path_is_refused():
    assert error(make()).startswith("data.path = ''")


def test_folder_without_images_is_refused(tmp_path):
    assert "must hold images" in error(make(path=str(tmp_path)))


def test_empty_class_folder_is_refused(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "eel").mkdir()
    line = error(make(path=str(tmp_path)))
    assert "1 of 3 folders hold no image: eel" in line


def test_class_of_a_single_image_is_refused(tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "eel" / "0.png")
    line = error(make(path=str(tmp_path)))
    assert "hold a single image: eel" in line and "at least 2" in line


def break_file(path):
    path.write_bytes(path.read_bytes()[:-40])


def with_broken(root, suffix="png", count=7):
    for label in ("cat", "dog"):
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            path = write(root / label / f"{i}.{suffix}", pixels)
            if label == "cat" and i < count:
                break_file(path)
    return root


@pytest.fixture(params=["in memory", "on demand"])
def place(request, monkeypatch):
    if request.param == "on demand":
        monkeypatch.setattr(validation, "MEMORY", 0)
    return request.param


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_truncated_images_are_counted_and_the_first_named(suffix, place, tmp_path):
    line = error(make(path=str(with_broken(tmp_path, suffix))))
    assert "7 of 20 images cannot be read" in line
    assert all(str(pathlib.Path("cat", f"{i}.{suffix}")) in line for i in range(5))
    assert f"5.{suffix}" not in line and "and 2 more" in line
    assert "data.skip_broken" in line


def test_unreadable_file_is_named_with_the_reason(place, tmp_path):
    two_classes(tmp_path)
    (tmp_path / "cat" / "x.png").write_text("no image")
    line = error(make(path=str(tmp_path)))
    assert "1 of 7" in line and "x.png (no format that Pillow knows)" in line


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_mode_without_8_bit_channels_is_named(mode, place, tmp_path):
    two_classes(tmp_path)
    Image.new(mode, (8, 8)).save(tmp_path / "cat" / "x.tiff")
    assert f"mode {mode} cannot be converted" in error(make(path=str(tmp_path)))


def test_skip_broken_goes_on_without_them_and_says_so(place, tmp_path):
    config = make(path=str(with_broken(tmp_path)), skip_broken=True)
    source = open_source(config)
    assert len(source) == 13
    assert source.labels(np.arange(13)).tolist() == [0] * 3 + [1] * 10
    assert (source.examples(np.arange(13)).image.reshape(13, -1).max(axis=1) > 0).all()
    assert any("7 broken images skipped" in note for note in source.notes)


def test_skip_broken_that_empties_a_class_is_refused(place, tmp_path):
    config = make(path=str(with_broken(tmp_path, count=10)), skip_broken=True)
    assert "no image that can be read is left of cat" in error(config)


def test_trailing_bytes_after_a_whole_image_are_no_finding(place, tmp_path):
    root = two_classes(tmp_path)
    for path in (write(root / "cat" / "x.jpg"), root / "cat" / "0.png"):
        path.write_bytes(path.read_bytes() + bytes(5000))
    assert len(open_source(make(path=str(root)))) == 7


def test_image_smaller_than_asked_for_is_refused(place, tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "dog" / "x.png", noise(20, 7))
    line = error(make(path=str(tmp_path)))
    assert "1 of 7 images are smaller than data.size = 8" in line
    assert "x.png (7x20)" in line and "data.allow_small" in line


def test_large_jpeg_is_not_taken_for_a_small_one(place, tmp_path):
    for seed, name in enumerate(("x.jpg", "y.jpg")):
        write(tmp_path / name, noise(200, 300, seed=seed))
    assert len(open_source(make(path=str(tmp_path)))) == 2


def test_allow_small_enlarges_and_says_so(place, tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "dog" / "x.png", noise(7, 7))
    source = open_source(make(path=str(tmp_path), allow_small=True))
    assert source.examples(np.array([6])).image.shape == (1, 8, 8, 3)
    assert any("1 images enlarged to data.size = 8" in note for note in source.notes)


def test_conversion_of_channels_is_mentioned(tmp_path):
    two_classes(tmp_path)
    write(tmp_path / "dog" / "x.png", noise(channels=0))
    grey = open_source(make(path=str(tmp_path), channels=1)).notes
    assert any("6 colour images made grey" in note for note in grey)
    colour = open_source(make(path=str(tmp_path), channels=3)).notes
    assert any("1 grey images repeated" in note for note in colour)


def test_all_findings_are_reported_at_once(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "eel").mkdir()
    write(tmp_path / "fox" / "0.png")
    write(tmp_path / "dog" / "small.png", noise(4, 4))
    (tmp_path / "cat" / "x.png").write_text("no image")
    lines = errors(make(path=str(tmp_path), classes=9))
    said = ["no image", "single image", "cannot be read", "smaller", "data.classes = 9"]
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_classes_that_differ_from_the_data_are_refused(tmp_path):
    line = error(make(path=str(two_classes(tmp_path)), classes=3))
    assert line.startswith("data.classes = 3: must be 0 (unconditional) or 2")


def test_classes_of_unlabelled_images_are_refused(many):
    config = dataclasses.replace(make(), data=dataclasses.replace(many.data, classes=3))
    assert "must be 0 (unconditional); " in error(config)


def relabelled(source, labels):
    records = [r._replace(label=y) for r, y in zip(source.records, labels, strict=True)]
    return dataclasses.replace(source, records=records)


def test_label_outside_the_classes_is_refused(tmp_path):
    source = open_split(make(path=str(two_classes(tmp_path))).data, "train")
    with pytest.raises(ConfigError, match=r"3 of 6 labels are -1, 2: .* \[0, 2"):
        validation.check_images(relabelled(source, [0, 1, 1, -1, -1, 2]))


def test_single_label_where_classes_are_expected_is_refused(tmp_path):
    source = open_split(make(path=str(two_classes(tmp_path))).data, "train")
    with pytest.raises(ConfigError, match="all 6 labels are 1: must differ"):
        validation.check_images(relabelled(source, [1] * 6))


def test_labels_do_not_matter_without_classes(tmp_path):
    source = open_split(make(path=str(two_classes(tmp_path)), classes=0).data, "train")
    for label in (-1, 7):
        assert len(validation.check_images(relabelled(source, [label] * 6))) == 6
    for path in tmp_path.glob("cat/*.png"):
        write(path)
    labels = [7, 7, 7, -1, -1, -1]
    assert len(validation.check_images(relabelled(source, labels))) == 6


def test_unknown_data_set_is_refused_with_those_there_are(tmp_path):
    line = error(make(name="cifar11", path=str(tmp_path)))
    assert "data.name = 'cifar11': must be digits, folder" in line
    assert "sagan prepare cifar11 --data-dir" in line


# In memory and on demand


def test_images_on_demand_are_those_in_memory(tmp_path, monkeypatch):
    config = make(path=str(two_classes(tmp_path)), flip=True)
    kept = open_source(config)
    monkeypatch.setattr(validation, "MEMORY", 0)
    asked = open_source(config)
    assert kept.memory and not asked.memory
    jax.tree.map(
        np.testing.assert_array_equal,
        take(4, config, kept, 0),
        take(4, config, asked, 0),
    )
    assert asked.examples(np.array([], int)).image.shape == (0, 8, 8, 3)


def test_image_that_breaks_during_the_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MEMORY", 0)
    source = open_source(make(path=str(two_classes(tmp_path))))
    (tmp_path / "cat" / "1.png").write_text("no image")
    stream = batches(make(batch=6), source, 0)
    with pytest.raises(ConfigError, match=r"cat.1\.png: cannot be read"):
        next(stream)
    stream.close()


def test_notes_say_how_many_images_there_are(place, many, tmp_path):
    source = open_source(make(path=str(tmp_path)))
    assert any("10 images of no classes" in note for note in source.notes)


def test_check_prints_nothing(tmp_path, capsys):
    open_source(make(path=str(two_classes(tmp_path))))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("asked", "resolved"), [(None, 2), (0, 0), (2, 2)])
def test_resolve_fills_in_the_classes_of_the_data(asked, resolved, tmp_path):
    config = make(path=str(two_classes(tmp_path)), classes=asked)
    after = resolve(config, open_source(config))
    assert after.data.classes == resolved
    assert dataclasses.replace(config, data=after.data) == after


def test_resolve_takes_a_single_class_for_none(tmp_path):
    write(tmp_path / "cat" / "0.png", noise(seed=0))
    write(tmp_path / "cat" / "1.png", noise(seed=1))
    config = make(path=str(tmp_path))
    assert resolve(config, open_source(config)).data.classes == 0


def test_folder_of_a_single_image_is_refused(tmp_path):
    write(tmp_path / "0.png")
    assert "holds a single image" in error(make(path=str(tmp_path)))


def test_classes_that_a_run_has_and_the_data_lack_are_named(tmp_path):
    two_classes(tmp_path)
    config = make(path=str(tmp_path), classes=3)
    there = [path.name for path in sorted(tmp_path.iterdir())]
    source = open_source(replace(config, {"data.classes": 2}), known=there)
    assert list(source.class_names) == there
    for known, told in (
        ([*there, "Flags"], "the class 'Flags' of the run is gone"),
        (
            [there[0], "x", "y"],
            f"the classes 'x', 'y' of the run are gone; the class '{there[1]}' is new",
        ),
        (there[1:], f"the class '{there[0]}' is new"),
        (there[::-1], "the classes are those of the run in another order"),
    ):
        with pytest.raises(ConfigError) as error:
            open_source(config, known=known)
        assert str(error.value) == f"data.path = '{tmp_path}': {told}"


def test_a_single_class_is_told(tmp_path):
    one, _ = sorted(two_classes(tmp_path).iterdir())
    other = tmp_path / "other"
    other.mkdir()
    one.rename(other / "cats")
    notes = open_source(make(path=str(other))).notes
    assert any("a single class, 'cats': the run will be uncond" in n for n in notes)


def test_digest_of_the_contents_depends_on_names_and_sizes_alone(tmp_path, monkeypatch):
    root = two_classes(tmp_path / "a")

    def digest(path):
        return contents_digest(open_source(make(path=str(path))))

    before, files = digest(root), sorted(root.glob("*/*"))
    source = open_source(make(path=str(root)))
    above = dataclasses.replace(source.data, path=str(tmp_path))
    assert contents_digest(dataclasses.replace(source, data=above)) == before
    shutil.copytree(root, tmp_path / "b")
    monkeypatch.chdir(root)
    assert digest(tmp_path / "b") == digest(".") == before
    with files[0].open("ab") as file:
        file.write(b"x")
    larger = digest(root)
    files[0].rename(files[0].with_stem("00"))  # the order stays
    assert len({before, larger, digest(root)}) == 3

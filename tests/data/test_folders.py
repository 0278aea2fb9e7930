"""Folders of images with links, other files and odd names."""

import os
import signal
import socket

import numpy as np
import pytest

from sagan.config import ConfigError
from sagan.data import folders
from sagan.data.pipeline import open_source
from sagan.evaluation import image_sets
from tests.support.folders import error, make, noise, two_classes, write


@pytest.fixture(autouse=True)
def ends():
    """Fails in place of waiting for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    yield
    signal.alarm(0)


def notes(root, what):
    source = open_source(make(path=str(root)))
    return source, [note for note in source.notes if what in note]


def test_a_loop_of_links_adds_no_image_and_ends(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(".")
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "dog" / "deep").mkdir()
    (tmp_path / "dog" / "deep" / "loop").symlink_to("..")
    source, (note,) = notes(tmp_path, "not followed again")
    assert len(source) == 6
    assert source.labels(np.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    assert "3 links" in note and "cat/again" in note and "deep/loop" in note
    assert image_sets.of_path(tmp_path).examples.label.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("link", ["ant", "eel", "cat/more"])
def test_a_folder_that_is_in_two_classes_by_a_link_is_refused(link, tmp_path):
    two_classes(tmp_path)
    (tmp_path / link).symlink_to(tmp_path / "dog")
    line = error(make(path=str(tmp_path)))
    assert "1 folders are in two classes, by links: " in line
    assert str(tmp_path / link) in line and str(tmp_path / "dog") in line
    with pytest.raises(ConfigError, match="are in two classes"):
        image_sets.of_path(tmp_path)


def test_links_out_of_the_folder_are_followed(tmp_path):
    elsewhere, root = two_classes(tmp_path / "elsewhere"), tmp_path / "root"
    write(root / "ant" / "0.png")
    (root / "ant" / "1.png").symlink_to(elsewhere / "dog" / "0.png")
    (root / "bee").symlink_to(elsewhere / "cat")
    source = open_source(make(path=str(root)))
    assert source.class_names == ("ant", "bee") and len(source) == 5
    assert not any("classes:" in note or "again" in note for note in source.notes)


@pytest.mark.parametrize("hard", [True, False])
def test_a_file_that_is_in_two_classes_by_a_link_is_mentioned(hard, tmp_path):
    two_classes(tmp_path)
    place = tmp_path / "dog" / "x.png"
    (place.hardlink_to if hard else place.symlink_to)(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "y.png").symlink_to("0.png")  # in the same class
    _, (note,) = notes(tmp_path, "two classes")
    assert "1 links are images of two classes" in note and "x.png" in note


def test_only_regular_files_are_read_and_others_are_named(tmp_path):
    two_classes(tmp_path)
    os.mkfifo(tmp_path / "cat" / "fifo.png")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere")
    (tmp_path / "dog" / "itself.png").symlink_to("itself.png")
    (tmp_path / "dog" / "null.png").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(tmp_path)  # a socket's path is short
        bound.bind("dog/socket.png")
    source, (note,) = notes(tmp_path, "not regular files")
    assert len(source) == 6 and "5 entries ignored" in note
    for name in ("fifo", "gone", "itself", "null", "socket"):
        assert f"{name}.png" in note
    assert len(image_sets.of_path(tmp_path).examples.label) == 6


def test_a_file_that_became_a_fifo_is_named_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("sagan.data.validation.MEMORY", 0)
    source = open_source(make(path=str(two_classes(tmp_path))))
    (tmp_path / "cat" / "1.png").unlink()
    os.mkfifo(tmp_path / "cat" / "1.png")
    with pytest.raises(ConfigError, match=r"cat.1\.png: cannot be read .*regular"):
        source.examples(np.arange(6))


def test_a_folder_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_ENTRIES", 7)  # 6 images, 2 folders
    line = error(make(path=str(two_classes(tmp_path))))
    assert "holds more than 7 files and folders" in line


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    two_classes(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    line = error(make(path=str(tmp_path)))
    assert line == f"{tmp_path / 'dog'}: cannot be read: Permission denied"


ODD = {b"a\nb": r"a\nb", b"\x1b[31m": r"\x1b[31m", b"x\xff": r"x\udcff"}


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_escaped_in_messages_only(name, tmp_path):
    two_classes(tmp_path)
    odd = tmp_path / os.fsdecode(name)
    odd.mkdir()
    line = error(make(path=str(tmp_path)))
    assert line.endswith(f"hold no image: {ODD[name]}; a class must have at least 2")
    for seed in range(2):
        write(odd / f"{seed}.png", noise(seed=seed))
    source = open_source(make(path=str(tmp_path)))
    assert os.fsdecode(name) in source.class_names
    (odd / os.fsdecode(name + b".png")).write_text("no image")
    assert f"{ODD[name]}/{ODD[name]}.png (no format" in error(make(path=str(tmp_path)))
    with pytest.raises(ConfigError) as caught:
        image_sets.of_path(tmp_path)
    assert f"{ODD[name]}/{ODD[name]}.png: cannot be read" in str(caught.value)


# Images without any difference


def test_images_that_are_all_the_same_are_refused(tmp_path):
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        write(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    line = error(make(path=str(tmp_path)))
    assert line.endswith("all 4 images are the same, of one plain colour")
    for path in tmp_path.glob("*/*.png"):
        write(path, noise())
    assert error(make(path=str(tmp_path))).endswith("all 4 images are the same")


def test_a_class_of_one_image_over_and_over_is_mentioned(tmp_path):
    two_classes(tmp_path)
    for i in range(3):
        write(tmp_path / "cat" / f"{i}.png", np.zeros((8, 8, 3), np.uint8))
    source = open_source(make(path=str(tmp_path)))
    assert any("3 of 6 images are of one plain colour" in n for n in source.notes)
    assert any("all images are the same in cat" in n for n in source.notes)


def test_different_images_are_no_finding(tmp_path):
    source = open_source(make(path=str(two_classes(tmp_path))))
    assert not any("same" in note or "plain" in note for note in source.notes)

import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints import restore
from sagan.config import ConfigError
from sagan.sampling import export, sampler


@pytest.fixture
def workdir(finished_run):
    return finished_run


def draw(workdir, out, **changes):
    options = {"n": 6, "classes": None, "seed": 0, "truncation": 0.0, "step": None}
    options |= {"weights": None, "batch": 4, "batch_norm": "moving"}
    return export.export(workdir=workdir, out=out, **{**options, **changes})


def arrays(workdir, out, **changes):
    draw(workdir, out, **changes)
    with np.load(out) as file:
        return file["image"], file["label"]


def test_pngs_are_named_by_number_and_label(workdir, tmp_path):
    told = draw(workdir, tmp_path / "out", classes=[3, 8])
    assert "6 images of step 2 (EMA 0.5)" in told
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    labels = [3, 8, 3, 8, 3, 8]
    wanted = [f"{i:06d}_class{label}.png" for i, label in enumerate(labels)]
    assert names == [*wanted, "grid.png"]
    with Image.open(tmp_path / "out" / names[0]) as picture:
        assert (picture.size, picture.mode) == ((8, 8), "L")


def test_an_npz_holds_images_and_labels(workdir, tmp_path):
    image, label = arrays(workdir, tmp_path / "a.npz")
    assert (image.shape, image.dtype) == ((6, 8, 8, 1), np.uint8)
    assert label.tolist() == [0, 1, 2, 3, 4, 5]


def test_step_seed_and_weights_choose_other_images(workdir, tmp_path):
    image, _ = arrays(workdir, tmp_path / "a.npz")
    changes = [{"seed": 1}, {"step": 1}, {"weights": "raw"}, {"weights": "0.9"}]
    changes += [{"batch_norm": "standing"}, {"batch_norm": "batch"}]
    for i, change in enumerate([*changes, {"truncation": 0.3}]):
        other, _ = arrays(workdir, tmp_path / f"{i}.npz", **change)
        assert (image != other).any(), change
    again, _ = arrays(workdir, tmp_path / "b.npz", weights="ema")
    np.testing.assert_array_equal(image, again)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": [10]}, "--classes 10: must be 0 to 9"),
        ({"weights": "best"}, "--weights best: there are raw, ema, 0.5, 0.9"),
        ({"truncation": -1.0}, "--truncation -1.0"),
        ({"step": 7}, "must be latest, best, or one of 1, 2"),
    ],
)
def test_what_is_not_there_is_one_line(workdir, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        draw(workdir, tmp_path / "out", **changes)


def test_a_workdir_without_a_run_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        draw(tmp_path, None)


@pytest.mark.parametrize(("batch", "wanted"), [(None, 16), (4, 4)])
def test_batch_statistics_are_of_the_runs_batches(workdir, tmp_path, batch, wanted):
    image, label = arrays(workdir, tmp_path / "a.npz", batch=batch, batch_norm="batch")
    opened = restore.open_run(workdir)
    assert opened.config.data.batch == 16
    pieces = sampler.samples(
        opened.config,
        opened.variables,
        label,
        seed=0,
        batch=wanted,
        sampler=sampler.make_sampler(opened.config, batch_statistics=True),
    )
    np.testing.assert_array_equal(image, np.concatenate(list(pieces)))

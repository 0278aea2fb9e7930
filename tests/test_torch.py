"""Our layers and networks against PyTorch's, weight for weight."""

import functools
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402

from sagan import batch_norm, conv, state  # noqa: E402
from sagan.config import Config, replace  # noqa: E402

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import torch_peer  # noqa: E402

CLASSES = 5
# each function runs once: compiling it well would take most of the time
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    },
)
TINY = {
    "official": {"data.size": 32, "g.width": 8, "d.width": 8},
    "studiogan": {
        "data.size": 32,
        "g.width": 16,
        "g.multipliers": (1, 1, 1, 1),
        "d.width": 16,
        "d.multipliers": (1, 1, 1, 1),
        "d.down": 2,
    },
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(images):
    return torch.tensor(np.array(images).transpose(0, 3, 1, 2))


def kernel_to_torch(kernel):
    """HWIO to OIHW, or [in, out] to [out, in]."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}[kernel.ndim]
    return torch.tensor(np.array(kernel).transpose(order))


def to_numpy(images):
    return images.detach().numpy().transpose(0, 2, 3, 1)


def close(ours, theirs, *, tolerance=2e-5):
    """Equal but for rounding, which is relative to the largest entry."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = max(np.abs(theirs).max(), 1e-6)
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance, rtol=0)


# convolutions


def torch_conv(x, kernel):
    return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)


FORMS = {
    "conv": (conv.conv, torch_conv),
    "upsample_conv": (
        conv.upsample_conv,
        lambda x, k: torch_conv(F.interpolate(x, scale_factor=2.0), k),
    ),
    "conv_downsample": (
        conv.conv_downsample,
        lambda x, k: F.avg_pool2d(torch_conv(x, k), 2),
    ),
}


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_convolution_and_its_gradients_are_torchs(form, fast, kernel_size):
    ours, theirs = FORMS[form]
    x, kernel = normal(2, 16, 16, 3), normal(kernel_size, kernel_size, 3, 4, seed=1)
    size = {"conv": 16, "upsample_conv": 32, "conv_downsample": 8}[form]
    cotangent = normal(2, size, size, 4, seed=2)

    @quick_jit
    def run(x, kernel, cotangent):
        out, vjp = jax.vjp(functools.partial(ours, fast=fast, cpu=True), x, kernel)
        return out, *vjp(cotangent)

    out, x_grad, kernel_grad = run(x, kernel, cotangent)
    tx, tk = to_torch(x).requires_grad_(), kernel_to_torch(kernel).requires_grad_()
    tout = theirs(tx, tk)
    tout.backward(to_torch(cotangent))
    close(out, to_numpy(tout))
    close(x_grad, to_numpy(tx.grad))
    close(kernel_grad, tk.grad.permute(2, 3, 1, 0))


# batch norm


def test_batch_norm_in_training_is_torchs():
    x, y = 3 + 2 * normal(6, 4, 4, 3), np.zeros(6, np.int32)
    ours = batch_norm.BatchNorm(group=0, momentum=0.9, eps=1e-5)
    inputs = jnp.asarray(x), jnp.asarray(y)
    variables = ours.init(jax.random.key(0), *inputs, train=False)
    out, moved = ours.apply(variables, *inputs, train=True, mutable=["batch_stats"])
    theirs = torch.nn.BatchNorm2d(3, eps=1e-5, momentum=0.1)
    close(out, to_numpy(theirs(to_torch(x))))
    close(moved["batch_stats"]["mean"], theirs.running_mean)
    # torch alone keeps the unbiased variance
    n = 6 * 4 * 4
    kept = 0.9 + (theirs.running_var - 0.9) * (n - 1) / n
    close(moved["batch_stats"]["var"], kept)


def test_batch_norm_in_evaluation_is_torchs():
    x, y = normal(6, 4, 4, 3), np.zeros(6, np.int32)
    scale, bias, mean = normal(3, seed=1), normal(3, seed=2), normal(3, seed=3)
    var = 0.5 + normal(3, seed=4) ** 2
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    ours = batch_norm.BatchNorm(group=0, momentum=0.9, eps=1e-5)
    out = ours.apply(*jax.tree.map(jnp.asarray, (variables, x, y)), train=False)
    theirs = F.batch_norm(to_torch(x), *map(torch.tensor, (mean, var, scale, bias)))
    close(out, to_numpy(theirs))


# weights of ours in the peer's modules


class Variables:
    """Our collections below one module; `tree["conv1"]` are those one level down."""

    def __init__(self, params, stats):
        self.params, self.stats = params, stats

    def __getitem__(self, name):
        stats = {k: tree[name] for k, tree in self.stats.items() if name in tree}
        return Variables(self.params[name], stats)


def tensor(array):
    return array if isinstance(array, torch.Tensor) else torch.tensor(np.array(array))


def assign(parameter, value):
    value = tensor(value)
    assert parameter.shape == value.shape
    with torch.no_grad():
        parameter.copy_(value)


def copy(module, ours):
    """Puts our weights and statistics into a module of the peer."""
    params, stats = ours.params, ours.stats
    if isinstance(module, torch_peer.SelfAttention):
        for name, theirs in zip("fghv", PROJECTIONS, strict=True):
            copy(getattr(module, theirs), ours[name])
        assign(module.gamma, params["gamma"])
    elif isinstance(module, torch_peer.ConditionalBatchNorm):
        assign(module.gamma.weight, params["scale"])
        assign(module.beta.weight, params["bias"])
        copy_moments(module.norm, stats["batch_stats"])
    elif isinstance(module, torch.nn.BatchNorm2d):
        assign(module.weight, params["scale"])
        assign(module.bias, params["bias"])
        copy_moments(module, stats["batch_stats"])
    else:
        copy_normalised(module, params, stats["spectral"]["u"])


PROJECTIONS = ["key", "query", "value", "out"]  # the paper's f, g, h, v


def copy_moments(norm, stats):
    assign(norm.running_mean, stats["mean"])
    assign(norm.running_var, stats["var"])


def copy_normalised(layer, params, u):
    if "kernel" in params:
        weight = kernel_to_torch(params["kernel"])
    else:
        weight = params["embedding"]
    assign(layer.parametrizations.weight.original, weight)
    if "bias" in params:
        assign(layer.bias, params["bias"])
    # each call of ours iterates once from u; evaluation in torch does not iterate
    matrix = tensor(weight).flatten(1)
    v = F.normalize(matrix.T @ tensor(u[0]), dim=0)
    norm = layer.parametrizations.weight[0]
    assign(norm._v, v)
    assign(norm._u, F.normalize(matrix @ v, dim=0))


def copy_blocks(network, ours):
    attention = (name for name in ours.params if name.startswith("attention"))
    pairs = zip(network.blocks, network.slots, strict=True)
    for i, (block, slot) in enumerate(pairs, start=1):
        for name, layer in block.named_children():
            if not isinstance(layer, torch.nn.Identity):
                copy(layer, ours[f"block{i}"][name.replace("norm", "bn")])
        if not isinstance(slot, torch.nn.Identity):
            copy(slot, ours[next(attention)])


def generator_of(config, player):
    """The peer's generator with the weights of ours, in evaluation mode."""
    network = torch_peer.Generator(config, torch_peer.Options())
    ours, base = Variables(player.params, player.stats), network.base
    copy_blocks(network, ours)
    copy(network.norm, ours["bn_out"])
    copy(network.to_rgb, ours["out"])

    def channels_first(leaf):  # ours makes [h w c] of the linear layer's output
        if not leaf.shape:
            return leaf
        features = np.array(leaf).reshape(-1, base, base, leaf.shape[-1] // base**2)
        return features.transpose(0, 3, 1, 2).reshape(leaf.shape)

    stem = ours["stem"]
    stem = jax.tree.map(channels_first, (stem.params, stem.stats))
    copy(network.stem, Variables(*stem))
    return network.eval()


def discriminator_of(config, player):
    """The peer's discriminator with the weights of ours, in evaluation mode."""
    network = torch_peer.Discriminator(config, torch_peer.Options())
    ours = Variables(player.params, player.stats)
    copy_blocks(network, ours)
    copy(network.linear, ours["logit"])
    copy(network.embedding, ours["embed"])
    return network.eval()


def gradient_error(ours, network):
    """The largest difference of a gradient, over the largest entry of its array.

    `ours` is a network into which our gradients were copied as if weights.
    """
    theirs = {name: p.grad.detach() for name, p in network.named_parameters()}
    # a bias that batch norm takes away has no gradient but rounding
    floor = 0.05 * max(float(grad.abs().max()) for grad in theirs.values())
    return max(
        float((leaf.detach() - theirs[name]).abs().max())
        / max(float(theirs[name].abs().max()), floor)
        for name, leaf in ours.named_parameters()
    )


# A ReLU or max-pool that sits within rounding of its kink moves a gradient by 1e-3 in
# one draw out of ten or so; a wrong gradient is wrong in every draw.
DRAWS = range(3)


# whole networks


class Pair(NamedTuple):
    """Both implementations with the same weights, and inputs for them."""

    game: state.Game
    g: state.Player
    d: state.Player
    generator: torch_peer.Generator
    discriminator: torch_peer.Discriminator
    z: np.ndarray
    y: np.ndarray


@pytest.fixture(scope="module", params=TINY)
def pair(request):
    # torch holds u and v constant in the gradient
    common = {"data.classes": CLASSES, "g.bn_group": 0, "model.sn_detach": True}
    attention = {"g.attention": (16,), "d.attention": (16,)}
    config = replace(Config(), common | attention | TINY[request.param])
    game = state.make_game(config)
    rng = np.random.default_rng(0)

    def fill(path, leaf):  # what starts at 0 or 1 would hide a wrong copy
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        name = path[-1].key
        special = {"scale": 1 + 0.2 * noise, "var": 0.5 + noise**2}
        return jnp.asarray(special.get(name, 0.2 * noise))

    shapes = jax.eval_shape(lambda: state.initial_state(game))
    g, d = (
        state.Player(
            params=jax.tree_util.tree_map_with_path(fill, player.params),
            stats=jax.tree_util.tree_map_with_path(fill, player.stats),
            opt_state=(),
        )
        for player in (shapes.g, shapes.d)
    )
    return Pair(
        game,
        g,
        d,
        generator_of(config, g),
        discriminator_of(config, d),
        z=normal(4, config.g.z, seed=1),
        y=np.array([0, 4, 2, 2], np.int32),
    )


def test_networks_have_as_many_parameters_as_torchs(pair):
    for player, network in (
        (pair.g, pair.generator),
        (pair.d, pair.discriminator),
    ):
        theirs = sum(p.numel() for p in network.parameters())
        assert state.count(player.params) == theirs


def test_generator_in_evaluation_is_torchs(pair):
    player = pair.g
    variables = {"params": player.params, **player.stats}
    apply = quick_jit(functools.partial(pair.game.g.apply, train=False))
    images = pair.generator(torch.tensor(pair.z), torch.tensor(pair.y))
    close(apply(variables, pair.z, pair.y), to_numpy(images))


def test_discriminator_and_its_gradient_are_torchs(pair):
    """The hinge loss of D, its gradients, and every copied layer's."""
    player = pair.d

    @quick_jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss_fn(params, x, y):
        logits = pair.game.d.apply({"params": params, **player.stats}, x, y)
        return pair.game.loss.discriminator(logits[:2], logits[2:]), logits

    errors = []
    for seed in DRAWS:
        x = normal(4, 32, 32, 3, seed=seed)
        (_, ours), grads = loss_fn(player.params, x, pair.y)
        pair.discriminator.zero_grad()
        theirs = pair.discriminator(to_torch(x), torch.tensor(pair.y))
        (F.relu(1 - theirs[:2]).mean() + F.relu(1 + theirs[2:]).mean()).backward()
        close(ours, theirs.detach())
        ours = discriminator_of(pair.game.config, player.replace(params=grads))
        errors.append(gradient_error(ours, pair.discriminator))
    assert min(errors) < 1e-4


def test_generator_in_training_and_its_gradient_are_torchs(pair):
    """Through D, with the batch's own moments."""
    player, d = pair.g, pair.d

    @quick_jit
    @functools.partial(jax.grad, has_aux=True)
    def loss_fn(params, z, y):
        variables = {"params": params, **player.stats}
        fake, moved = pair.game.g.apply(
            variables, z, y, train=True, mutable=["batch_stats"]
        )
        logits = pair.game.d.apply({"params": d.params, **d.stats}, fake, y)
        return pair.game.loss.generator(logits), fake

    generator = generator_of(pair.game.config, player)  # its averages will move
    for module in generator.modules():  # not the power iteration
        module.training = isinstance(module, torch.nn.BatchNorm2d)
    y, errors = torch.tensor(pair.y), []
    for seed in DRAWS:
        z = normal(*pair.z.shape, seed=seed)
        grads, ours = loss_fn(player.params, z, pair.y)
        generator.zero_grad()
        theirs = generator(torch.tensor(z), y)
        (-pair.discriminator(theirs, y).mean()).backward()
        close(ours, to_numpy(theirs))
        ours = generator_of(pair.game.config, player.replace(params=grads))
        errors.append(gradient_error(ours, generator))
    assert min(errors) < 1e-4

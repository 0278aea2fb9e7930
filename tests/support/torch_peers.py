"""SAGAN in plain torch.nn, under the names of other projects, and their files.

The forms and the names are those of PyTorch-StudioGAN, BigGAN-PyTorch and MMGeneration;
no code of theirs and none of sagan is in here.
"""

import collections
import types
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Sizes(NamedTuple):
    """The smallest networks with every part; attention in both follows block 1."""

    classes: int = 5
    z: int = 6
    base: int = 4
    stem: int = 16
    g: tuple = (16, 8)
    d: tuple = (8, 16, 16)  # the last keeps the size
    down: int = 2
    g_slots: tuple = (True, False)
    d_slots: tuple = (True, False, False)
    channels: int = 3

    @property
    def size(self):
        return self.base * 2 ** len(self.g)


STUDIOGAN = types.SimpleNamespace(
    stem="linear0", out="conv2d5", norm="bn4",
    convs=("conv2d1", "conv2d2", "conv2d0"), norms=("bn1", "bn2"), moments="bn",
    tables=("gain", "bias"), logit="linear1", embed="embedding",
    attention=("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", "sigma"),
    block="blocks.{}.0", slot=None, first=None, linear=True, ajbrock=False,
)  # fmt: skip
BIGGAN = types.SimpleNamespace(
    stem="linear", out="output_layer.2", norm="output_layer.0",
    convs=("conv1", "conv2", "conv_sc"), norms=("bn1", "bn2"), moments=None,
    tables=("gain", "bias"), logit="linear", embed="embed",
    attention=("theta", "phi", "g", "o", "gamma"),
    block="blocks.{}.0", slot="blocks.{}.1", first=None, linear=False, ajbrock=True,
)  # fmt: skip
MMGEN = types.SimpleNamespace(
    stem="noise2feat", out="to_rgb.conv", norm="to_rgb.bn",
    convs=("conv_1.conv", "conv_2.conv", "shortcut.conv"), norms=("norm_1", "norm_2"),
    moments="norm", tables=("weight_embedding", "bias_embedding"),
    logit="decision", embed="proj_y",
    attention=("theta.conv", "phi.conv", "g.conv", "o.conv", "gamma"),
    block="conv_blocks.{}", slot=None, first="from_rgb", linear=False, ajbrock=False,
)  # fmt: skip
PROJECTS = {"studiogan": STUDIOGAN, "biggan": BIGGAN, "mmgen": MMGEN}


def put(module, path, child):
    """Adds a module at a dotted path."""
    *above, last = path.split(".")
    for name in above:
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module._modules[name]
    if isinstance(child, nn.Module):
        module.add_module(last, child)
    else:
        module.register_parameter(last, child)
    return child


class Ajbrock(nn.Module):
    """A layer whose weight is divided by sigma; one iteration in every pass."""

    def __init__(self, weight, bias, apply):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias) if bias is not None else None
        self.apply_weight = apply
        self.register_buffer("u0", torch.randn(1, len(weight)))
        self.register_buffer("sv0", torch.ones(1))
        self.iterates = True

    def forward(self, x):
        w = self.weight.view(len(self.weight), -1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ w)
            u = F.normalize(v @ w.T)
            if self.training:
                self.u0.copy_(u)
        sigma = (v @ w.T @ u.T).squeeze()
        if self.training:
            with torch.no_grad():
                self.sv0[:] = sigma
        return self.apply_weight(x, self.weight / sigma, self.bias)


def normalised(project, layer, sn=True):
    if not sn:
        return layer
    if project.ajbrock:
        kind = type(layer)
        apply = {
            nn.Conv2d: lambda x, w, b: F.conv2d(x, w, b, padding=w.shape[-1] // 2),
            nn.Linear: F.linear,
            nn.Embedding: lambda y, w, b: F.embedding(y, w),
        }[kind]
        bias = getattr(layer, "bias", None)
        return Ajbrock(layer.weight.data, None if bias is None else bias.data, apply)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this form deprecated
        return nn.utils.spectral_norm(layer)


def conv(project, c_in, c_out, k, bias=True):
    return normalised(project, nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=bias))


class Norm(nn.Module):
    """Batch norm whose scale is 1 plus what a table has for the class."""

    def __init__(self, project, c, classes, tables):
        super().__init__()
        self.project, self.classes = project, classes
        if project.moments:
            put(self, project.moments, nn.BatchNorm2d(c, affine=False, eps=project.eps))
        else:
            self.register_buffer("stored_mean", torch.zeros(c))
            self.register_buffer("stored_var", torch.ones(c))
        for name in project.tables:
            if project.linear:
                table = nn.Linear(classes, c, bias=False)
            else:
                table = nn.Embedding(classes, c)
            put(self, name, normalised(project, table, tables != "none"))

    def forward(self, x, y):
        if self.project.linear:
            y = F.one_hot(y, self.classes).to(x.dtype)
        scale, bias = (self.get_submodule(name)(y) for name in self.project.tables)
        x = normalise(self, self.project, x)
        return x * (1 + scale)[:, :, None, None] + bias[:, :, None, None]


def normalise(module, project, x):
    if project.moments:
        return module.get_submodule(project.moments)(x)
    moments = module.stored_mean, module.stored_var
    return F.batch_norm(x, *moments, training=module.training, eps=project.eps)


class OutNorm(nn.Module):
    """BigGAN-PyTorch's batch norm before the output."""

    def __init__(self, c, eps):
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("stored_mean", torch.zeros(c))
        self.register_buffer("stored_var", torch.ones(c))
        self.eps = eps

    def forward(self, x):
        own = self.stored_mean, self.stored_var, self.gain, self.bias
        return F.batch_norm(x, *own, training=self.training, eps=self.eps)


class Attention(nn.Module):
    def __init__(self, project, c):
        super().__init__()
        self.names = project.attention
        sizes = [(c, c // 8), (c, c // 8), (c, c // 2), (c // 2, c)]
        for name, (c_in, c_out) in zip(self.names, sizes, strict=False):
            put(self, name, conv(project, c_in, c_out, 1, bias=False))
        shape = (1,) if self.names[-1] == "sigma" else ()
        put(self, self.names[-1], nn.Parameter(torch.zeros(shape)))

    def forward(self, x):
        theta, phi, g, o = (self.get_submodule(name) for name in self.names[:4])
        queries = theta(x).flatten(2)
        keys = F.max_pool2d(phi(x), 2).flatten(2)
        values = F.max_pool2d(g(x), 2).flatten(2)
        beta = torch.bmm(queries.transpose(1, 2), keys).softmax(-1)
        drawn = torch.bmm(values, beta.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return x + getattr(self, self.names[-1]) * o(drawn)


class GBlock(nn.Module):
    def __init__(self, project, c_in, c_out, classes, tables):
        super().__init__()
        self.project = project
        for name, (a, k) in zip(
            project.convs, [(c_in, 3), (c_out, 3), (c_in, 1)], strict=True
        ):
            put(self, name, conv(project, a, c_out, k))
        for name, c in zip(project.norms, (c_in, c_out), strict=True):
            put(self, name, Norm(project, c, classes, tables))

    def forward(self, x, y):
        conv1, conv2, shortcut = map(self.get_submodule, self.project.convs)
        bn1, bn2 = map(self.get_submodule, self.project.norms)
        h = conv1(F.interpolate(F.relu(bn1(x, y)), scale_factor=2))
        h = conv2(F.relu(bn2(h, y)))
        return h + shortcut(F.interpolate(x, scale_factor=2))


class DBlock(nn.Module):
    def __init__(self, project, c_in, c_out, down, first, rectified):
        super().__init__()
        self.project, self.down, self.first = project, down, first
        self.rectified = rectified
        one, two, shortcut = project.convs
        put(self, one, conv(project, c_in, c_out, 3))
        put(self, two, conv(project, c_out, c_out, 3))
        self.learned = down or c_in != c_out
        if self.learned:
            put(self, shortcut, conv(project, c_in, c_out, 1))

    def forward(self, x):
        one, two, shortcut = self.project.convs
        h = self.get_submodule(one)(x if self.first else F.relu(x))
        h = self.get_submodule(two)(F.relu(h))
        x = F.relu(x) if self.rectified and not self.first else x
        if self.first:
            return F.avg_pool2d(h, 2) + self.get_submodule(shortcut)(F.avg_pool2d(x, 2))
        x = self.get_submodule(shortcut)(x) if self.learned else x
        return F.avg_pool2d(h + x, 2) if self.down else h + x


def with_places(network, project, slots):
    """Where the blocks and the attention after each are; attention may count too."""
    at, found = 0, []
    for i, slot in enumerate(slots):
        if network == "d" and i == 0 and project.first:
            block = project.first
        else:
            block, at = project.block.format(at), at + 1
        inner = None
        if slot and project.slot:
            inner = project.slot.format(at - 1)
        elif slot:
            inner, at = project.block.format(at), at + 1
        found.append((block, inner))
    return found


class Generator(nn.Module):
    def __init__(self, name, sizes, tables="none", eps=None):
        super().__init__()
        eps = eps or {"mmgen, classes": 1e-4}.get(f"{name}, {tables}")
        self.project, self.sizes = project, s = with_eps(name, eps), sizes
        width = s.base**2 * s.stem
        put(self, project.stem, normalised(project, nn.Linear(s.z, width)))
        self.places, c = with_places("g", project, s.g_slots), s.stem
        for (block, inner), out in zip(self.places, s.g, strict=True):
            put(self, block, GBlock(project, c, out, s.classes, tables))
            if inner:
                put(self, inner, Attention(project, out))
            c = out
        last = OutNorm if project.ajbrock else nn.BatchNorm2d
        put(self, project.norm, last(c, eps=project.eps))
        put(self, project.out, conv(project, c, s.channels, 3))

    def forward(self, z, y):
        x = self.get_submodule(self.project.stem)(z)
        x = x.view(len(z), -1, self.sizes.base, self.sizes.base)
        for block, inner in self.places:
            x = self.get_submodule(block)(x, y)
            x = self.get_submodule(inner)(x) if inner else x
        x = F.relu(self.get_submodule(self.project.norm)(x))
        return torch.tanh(self.get_submodule(self.project.out)(x))


class Discriminator(nn.Module):
    def __init__(self, name, sizes, rectified=False):
        super().__init__()
        self.project, s = with_eps(name), sizes
        project, c = self.project, s.channels
        self.places = with_places("d", project, s.d_slots)
        for i, ((block, inner), out) in enumerate(zip(self.places, s.d, strict=True)):
            put(self, block, DBlock(project, c, out, i < s.down, i == 0, rectified))
            if inner:
                put(self, inner, Attention(project, out))
            c = out
        put(self, project.logit, normalised(project, nn.Linear(c, 1)))
        put(self, project.embed, normalised(project, nn.Embedding(s.classes, c)))

    def forward(self, x, y):
        for block, inner in self.places:
            x = self.get_submodule(block)(x)
            x = self.get_submodule(inner)(x) if inner else x
        h = F.relu(x).sum((2, 3))
        linear = self.get_submodule(self.project.logit)(h).squeeze(1)
        return linear + (self.get_submodule(self.project.embed)(y) * h).sum(1)


def with_eps(name, eps=None):
    eps = eps or {"studiogan": 1e-4, "biggan": 1e-5, "mmgen": 1e-5}[name]
    return types.SimpleNamespace(**vars(PROJECTS[name]), eps=eps)


def randomise(network, seed):
    """Fills in what starts at 0 or 1, where a wrong copy would hide."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in network.state_dict().items():
        if not x.is_floating_point() or name.endswith(("_u", "_v", "u0", "sv0")):
            continue
        noise = torch.randn(x.shape, generator=generator)
        if name.endswith("_var"):
            x.copy_(0.5 + noise**2)
        elif x.ndim < 2:
            x.add_(0.3 * noise)
        else:
            x.copy_(noise / x[0].numel() ** 0.5)
    return network


def pretrain(network, *inputs):
    """Moves u, v and the running averages in two passes, then the weights a little."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(*inputs)
        for p in network.parameters():
            p.mul_(1 + 0.05 * torch.randn(p.shape))
    return network


def evaluating(network):
    """As the project evaluates: of spectral norm StudioGAN's goes on iterating."""
    network.eval()
    if network.project.block == "blocks.{}.0" and not network.project.ajbrock:
        for module in network.modules():
            if hasattr(module, "weight_orig"):
                module.train()
    return network


def write(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def as_file(name, networks):
    """What a project saves: `networks` by "g", "g_ema" and "d"."""
    if name == "mmgen":
        prefixes = {"g": "generator", "g_ema": "generator_ema", "d": "discriminator"}
        state = collections.OrderedDict(
            (f"{prefixes[kind]}.{key}", x)
            for kind, network in networks.items()
            for key, x in network.state_dict().items()
        )
        return {"meta": {"epoch": 1, "time": "now"}, "state_dict": state}
    (network,) = networks.values()
    if name == "biggan":
        return network.state_dict()
    import numpy as np

    adam = torch.optim.Adam(network.parameters())
    return {
        "state_dict": network.state_dict(),
        "optimizer": adam.state_dict(),
        "seed": 0,
        "best_fid": np.float64(12.5),
    }

"""The peer: a SAGAN in plain PyTorch, as a good PyTorch user would write it.

It has the same two networks as ours, parameter for parameter, and the same step (hinge
loss, Adam, one D update and one G update, an average of the generator if the config has
one), built from torch.nn's own layers. Operations are in the order of the official
code: nearest-neighbour upsampling, then a convolution; a convolution, then average
pooling. Benchmarks time and train it; tests/test_torch.py copies our weights into it
and compares the outputs.

What torch's layers do otherwise than ours, and stays: the singular vectors start with
15 power iterations, those of D move in the G step too, and the running variances of
batch norm are unbiased.

It differs from PyTorch-StudioGAN as shipped only in the peer's favour, or where the
same function requires it: no spectral norm on the class-conditional tables, no in-place
ReLU where a shortcut still needs its input, no graph for the fakes of the D step, no
gradient for D's weights in the G step.
"""

import contextlib
import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as classic_spectral_norm

from sagan.config import Config
from sagan.config.architecture import (
    Block,
    discriminator_blocks,
    generator_blocks,
    generator_stem,
)
from sagan.runtime.files import whole_file


@dataclasses.dataclass(frozen=True)
class Options:
    """Variants of the same step in torch.

    With channels_last, the defaults are the fastest form found with torch 2.13 and 2
    CPU threads. Medians of CPU seconds on a busy machine, 32 px batch 16 / 128 px batch
    8: separate passes and hooks 2.48 / 15.0, separate and cached 2.56 / 14.1,
    concatenated and cached 2.48 / 14.6; NCHW, separate and hooks 3.20 / not measured.
    All forms in channels_last are equal to the noise of that measurement.
    """

    channels_last: bool = False
    """Weights and activations in NHWC memory order."""
    concat: bool = False
    """D sees real and fake as one batch; StudioGAN passes them separately."""
    sn: Literal["classic", "parametrizations"] = "parametrizations"
    """torch.nn.utils.spectral_norm (hooks), or the newer parametrization."""
    cached: bool = True
    """Normalise each weight once per update (parametrizations only)."""
    fused_adam: bool = True
    """Adam's fused kernel rather than its for-each default."""
    amp: bool = False
    """Forward passes under bfloat16 autocast."""
    device: str = "cpu"
    """Where the networks live."""


class Layers:
    """Makes spectrally normalised layers with Glorot-uniform weights."""

    def __init__(self, config: Config, options: Options):
        self.eps = config.model.sn_eps
        self.sn = {
            "classic": classic_spectral_norm,
            "parametrizations": parametrizations.spectral_norm,
        }[options.sn]

    def conv(self, c_in: int, c_out: int, width: int, bias: bool = True) -> nn.Module:
        return self._normalised(
            nn.Conv2d(c_in, c_out, width, padding=width // 2, bias=bias)
        )

    def linear(self, c_in: int, c_out: int) -> nn.Module:
        return self._normalised(nn.Linear(c_in, c_out))

    def embedding(self, classes: int, c: int) -> nn.Module:
        return self._normalised(nn.Embedding(classes, c))

    def _normalised(self, layer: nn.Module) -> nn.Module:
        nn.init.xavier_uniform_(layer.weight)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
        return self.sn(layer, eps=self.eps)


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift are looked up by class."""

    def __init__(self, c: int, classes: int, eps: float, momentum: float):
        super().__init__()
        self.norm = nn.BatchNorm2d(c, eps=eps, momentum=momentum, affine=False)
        self.gamma = nn.Embedding(classes, c)
        self.beta = nn.Embedding(classes, c)
        nn.init.ones_(self.gamma.weight)
        nn.init.zeros_(self.beta.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.gamma(y)[:, :, None, None], self.beta(y)[:, :, None, None]
        return torch.addcmul(beta, self.norm(x), gamma)


class SelfAttention(nn.Module):
    """The official code's block: pooled keys (C/8) and values (C/2), no scale."""

    def __init__(self, layers: Layers, c: int):
        super().__init__()
        self.query = layers.conv(c, c // 8, 1, bias=False)
        self.key = layers.conv(c, c // 8, 1, bias=False)
        self.value = layers.conv(c, c // 2, 1, bias=False)
        self.out = layers.conv(c // 2, c, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)
        value = F.max_pool2d(self.value(x), 2).flatten(2)
        beta = torch.bmm(query.transpose(1, 2), key).softmax(-1)
        o = torch.bmm(value, beta.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(o)


class GeneratorBlock(nn.Module):
    """Conditional BN, ReLU, upsample, convolve, twice; learned shortcut."""

    def __init__(self, layers: Layers, config: Config, c_in: int, c_out: int):
        super().__init__()
        classes, eps = config.data.classes, config.g.bn_eps
        momentum = 1 - config.g.bn_momentum  # torch counts what is new
        self.norm1 = ConditionalBatchNorm(c_in, classes, eps, momentum)
        self.conv1 = layers.conv(c_in, c_out, 3)
        self.norm2 = ConditionalBatchNorm(c_out, classes, eps, momentum)
        self.conv2 = layers.conv(c_out, c_out, 3)
        self.shortcut = layers.conv(c_in, c_out, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.relu(self.norm1(x, y), inplace=True)
        h = self.conv1(F.interpolate(h, scale_factor=2, mode="nearest"))
        h = self.conv2(F.relu(self.norm2(h, y), inplace=True))
        return h + self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest"))


class Generator(nn.Module):
    """Latents and labels to images in [-1, 1]."""

    def __init__(self, config: Config, options: Options):
        super().__init__()
        layers = Layers(config, options)
        stem, self.base = generator_stem(config)
        self.memory_format = memory_format(options)
        self.stem = layers.linear(config.g.z, stem * self.base**2)
        self.blocks, self.slots = nn.ModuleList(), nn.ModuleList()
        c = stem
        for block in generator_blocks(config):
            self.blocks.append(GeneratorBlock(layers, config, c, block.channels))
            self.slots.append(_slot(layers, block))
            c = block.channels
        momentum = 1 - config.g.bn_momentum_out
        self.norm = nn.BatchNorm2d(c, eps=config.g.bn_eps, momentum=momentum)
        self.to_rgb = layers.conv(c, config.data.channels, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.stem(z).unflatten(1, (-1, self.base, self.base))
        h = h.contiguous(memory_format=self.memory_format)
        for block, slot in zip(self.blocks, self.slots, strict=True):
            h = slot(block(h, y))
        return torch.tanh(self.to_rgb(F.relu(self.norm(h), inplace=True)))


class DiscriminatorBlock(nn.Module):
    """Two convolutions, then average pooling where the block halves."""

    def __init__(self, layers: Layers, c_in: int, block: Block, first: bool):
        super().__init__()
        c_out = block.channels
        self.first, self.down = first, block.resampled
        self.conv1 = layers.conv(c_in, c_out, 3)
        self.conv2 = layers.conv(c_out, c_out, 3)
        learned = self.down or c_in != c_out
        self.shortcut = layers.conv(c_in, c_out, 1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.first:  # the optimized block: pixels are not rectified, pool first
            h, x = self.conv1(x), self.shortcut(F.avg_pool2d(x, 2))
            return F.avg_pool2d(self.conv2(F.relu(h, inplace=True)), 2) + x
        h = self.conv1(F.relu(x))
        h = self.conv2(F.relu(h, inplace=True)) + self.shortcut(x)
        return F.avg_pool2d(h, 2) if self.down else h


class Discriminator(nn.Module):
    """Images and labels to logits."""

    def __init__(self, config: Config, options: Options):
        super().__init__()
        layers = Layers(config, options)
        self.blocks, self.slots = nn.ModuleList(), nn.ModuleList()
        c = config.data.channels
        for i, block in enumerate(discriminator_blocks(config)):
            self.blocks.append(DiscriminatorBlock(layers, c, block, first=i == 0))
            self.slots.append(_slot(layers, block))
            c = block.channels
        self.linear = layers.linear(c, 1)
        self.embedding = layers.embedding(config.data.classes, c)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for block, slot in zip(self.blocks, self.slots, strict=True):
            x = slot(block(x))
        h = F.relu(x, inplace=True).sum((2, 3))
        return self.linear(h).squeeze(1) + (self.embedding(y) * h).sum(1)


def _slot(layers: Layers, block: Block) -> nn.Module:
    return SelfAttention(layers, block.channels) if block.slot else nn.Identity()


def memory_format(options: Options) -> torch.memory_format:
    return torch.channels_last if options.channels_last else torch.contiguous_format


class Average:
    """A moving average of a generator's weights and batch statistics."""

    def __init__(self, g: Generator, decay: float, start: int):
        self.network = copy.deepcopy(g).eval().requires_grad_(False)
        self.decay, self.start = decay, start

    @torch.no_grad()
    def update(self, g: Generator, step: int) -> None:
        """Moves towards `g`; until `start` it is a copy."""
        now = g.state_dict()
        for name, value in self.network.state_dict().items():
            averaged = value.is_floating_point() and not name.endswith(("._u", "._v"))
            if averaged and step > self.start:
                value.lerp_(now[name], 1 - self.decay)
            else:
                value.copy_(now[name])

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration: u and v are those of the raw weights."""
        for module in self.network.modules():
            if isinstance(module, parametrize.ParametrizationList):
                module.train()()
                module.eval()


class Trainer:
    """The two networks, their optimisers, the average, and one step of all."""

    def __init__(self, config: Config, options: Options, seed: int = 0):
        torch.manual_seed(seed)
        self.config, self.options = config, options
        place = {
            "device": options.device,
            "memory_format": memory_format(options),
        }
        self.g = Generator(config, options).to(**place).train()
        self.d = Discriminator(config, options).to(**place).train()
        self.g_adam = self._adam(self.g, config.optim.g_lr)
        self.d_adam = self._adam(self.d, config.optim.d_lr)
        self.steps, self.average = 0, None
        if config.ema.decays:
            self.average = Average(self.g, config.ema.decays[0], config.ema.start)

    def counts(self) -> tuple[int, int]:
        """Trainable parameters of G and D."""
        return tuple(sum(p.numel() for p in m.parameters()) for m in (self.g, self.d))

    def step(self, real: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One D update and one G update; `real` is in [-1, 1], NCHW."""
        real = real.contiguous(memory_format=memory_format(self.options))
        losses = {"d_loss": self._d_step(real, y), "g_loss": self._g_step(len(y))}
        self.steps += 1
        if self.average:
            self.average.update(self.g, self.steps)
        return losses

    def step_on(self, image: np.ndarray, label: np.ndarray) -> dict[str, Tensor]:
        """`step` for a batch of our pipeline: uint8 [n h w c] and int32 [n]."""
        real, y = self._place(image).permute(0, 3, 1, 2), self._place(label)
        return self.step(real.float() * (2 / 255) - 1, y.long())

    @torch.no_grad()
    def draw(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Images of the averaged generator, uint8 [n h w c]."""
        if self.average is None:
            raise ValueError("ema.decays is empty: there is no average")
        self.average.iterate()
        x = self.average.network(self._place(z), self._place(y).long())
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def save(self, path: Path) -> None:
        """Writes everything that a step changes."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        others = {"steps": self.steps, "random": torch.get_rng_state()}
        with whole_file(path) as file:
            torch.save(state | others, file)

    def load(self, path: Path) -> None:
        """The inverse of `save`."""
        state = torch.load(path, map_location=self.options.device, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.steps = state["steps"]
        torch.set_rng_state(state["random"].cpu())

    def _parts(self) -> dict[str, Any]:
        average = {"average": self.average.network} if self.average else {}
        names = ("g", "d", "g_adam", "d_adam")
        return {name: getattr(self, name) for name in names} | average

    def _place(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.options.device)

    def _d_step(self, real: Tensor, y: Tensor) -> Tensor:
        self.d.requires_grad_(True)
        self.d_adam.zero_grad(set_to_none=True)
        with self._forward():
            z, fake_y = self._draw(len(y))
            with torch.no_grad():
                fake = self.g(z, fake_y)
            if self.options.concat:
                logits = self.d(torch.cat([real, fake]), torch.cat([y, fake_y]))
                real_logits, fake_logits = logits.chunk(2)
            else:
                real_logits, fake_logits = self.d(real, y), self.d(fake, fake_y)
            loss = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        loss.backward()
        self.d_adam.step()
        return loss.detach()

    def _g_step(self, n: int) -> Tensor:
        self.d.requires_grad_(False)
        self.g_adam.zero_grad(set_to_none=True)
        with self._forward():
            z, fake_y = self._draw(n)
            loss = -self.d(self.g(z, fake_y), fake_y).mean()
        loss.backward()
        self.g_adam.step()
        return loss.detach()

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        device = self.options.device
        z = torch.randn(n, self.config.g.z, device=device)
        return z, torch.randint(self.config.data.classes, (n,), device=device)

    def _forward(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        if self.options.cached:
            stack.enter_context(parametrize.cached())
        device = torch.device(self.options.device).type
        stack.enter_context(
            torch.autocast(device, torch.bfloat16, enabled=self.options.amp)
        )
        return stack

    def _adam(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        optim = self.config.optim
        return torch.optim.Adam(
            network.parameters(),
            lr=lr,
            betas=optim.betas,
            eps=optim.eps,
            fused=self.options.fused_adam,
        )

"""Training steps against an independent form of each project's update rule in torch.

Both sides start from the same weights, get the same images, latents and labels, and
use Adam with the project's settings. torch computes in float64, ours in float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.data.pipeline import Batch
from sagan.discriminator import Discriminator
from sagan.generator import Generator
from sagan.latents import G_UPDATE, draw_latents
from sagan.state import make_game
from sagan.step import train_step
from sagan.weights import entries, importing, new_run
from sagan.weights.convert import to_state_dict
from sagan.weights.files import Networks
from sagan.weights.layouts import LAYOUTS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

from tests.support import torch_peers  # noqa: E402

SIZES, N = torch_peers.Sizes(), 8
PROJECTS = {  # tables, and what makes the recipe small
    "studiogan": ("channels", {"g.bn_group": 0}),
    "biggan": ("none", {"g.bn_group": N // 2}),
    "mmgen": ("none", {"g.bn_group": 0}),
}


class Peer:
    """A project's two networks and its step."""

    def __init__(self, name, g, d, config):
        self.name, self.g, self.d = name, g.double().train(), d.double().train()
        betas, eps = config.optim.betas, config.optim.eps
        self.adam = {
            player: torch.optim.Adam(network.parameters(), lr, betas, eps)
            for player, network, lr in (
                ("g", self.g, config.optim.g_lr),
                ("d", self.d, config.optim.d_lr),
            )
        }
        self.parts = 2 if name == "biggan" else 1

    def step(self, x, y, d_draw, g_draw):
        return self.d_step(x, y, *d_draw), self.g_step(*g_draw)

    def d_step(self, x, y, z, fake_y):
        self.adam["d"].zero_grad()
        norms = [m for m in self.g.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if self.name == "studiogan":  # switches the tracking off
            for norm in norms:
                norm.momentum = 0.0
        total = 0.0
        for i in np.split(np.arange(N), self.parts):
            with torch.no_grad():
                fake = self.g(z[i], fake_y[i])
            if self.name == "biggan":
                both = torch.cat([fake, x[i]]), torch.cat([fake_y[i], y[i]])
                of_fake, real = self.d(*both).chunk(2)
            else:
                real = self.d(x[i], y[i])
                of_fake = self.d(fake, fake_y[i])
            loss = F.relu(1 - real).mean() + F.relu(1 + of_fake).mean()
            (loss / self.parts).backward()
            total += loss.item() / self.parts
        self.adam["d"].step()
        for norm in norms:
            norm.momentum = 0.1
        return total

    def g_step(self, z, y):
        self.adam["g"].zero_grad()
        total = 0.0
        for i in np.split(np.arange(N), self.parts):
            loss = -self.d(self.g(z[i], y[i]), y[i]).mean()
            (loss / self.parts).backward()
            total += loss.item() / self.parts
        self.adam["g"].step()
        return total


class Sides:
    """Both sides at the same weights, and what they get."""

    def __init__(self, name):
        torch.manual_seed(0)
        tables, small = PROJECTS[name]
        g = torch_peers.Generator(name, SIZES, tables)
        d = torch_peers.Discriminator(name, SIZES, rectified=name == "studiogan")
        y = torch.arange(N) % SIZES.classes
        z, x = torch.randn(N, SIZES.z), torch.rand(N, 3, SIZES.size, SIZES.size)
        torch_peers.pretrain(torch_peers.randomise(g, 1), z, y)
        torch_peers.pretrain(torch_peers.randomise(d, 2), x, y)
        state = [
            {k: x.numpy().copy() for k, x in network.state_dict().items()}
            for network in (g, d)
        ]
        networks = Networks(
            g=state[0],
            g_ema=None,
            d=state[1],
            sources={},
            size=2**30,
            is_average=False,
            inert=[],
        )
        small = {**small, "data.batch": N, "model.fast": False}
        self.config, *_ = importing.make_config(networks, name, small, "here")
        self.game = make_game(self.config)
        collections = importing._collections(
            self.game, networks, name, bgr=False, where="here"
        )
        self.state = new_run.new_state(self.game, collections)
        self.peer = Peer(name, g, d, self.config)
        self.step_of_ours = jax.jit(functools.partial(train_step, self.game))

    def step(self, i):
        """One step of both: their losses, and ours."""
        rng = np.random.default_rng(i)
        size = SIZES.size
        image = rng.integers(256, size=(1, N, size, size, 3), dtype=np.uint8)
        label = rng.integers(SIZES.classes, size=(1, N)).astype(np.int32)
        draws = [
            [torch.tensor(np.array(x)) for x in draw_latents(self.game, at, purpose, N)]
            for at, purpose in ((jnp.int32(i), 1), (jnp.int32(i), G_UPDATE))
        ]
        draws = [(z.double(), y.long()) for z, y in draws]
        x = torch.tensor(image[0].transpose(0, 3, 1, 2)).double() * (2 / 255) - 1
        theirs = self.peer.step(x, torch.tensor(label[0]).long(), *draws)
        self.state, shown = self.step_of_ours(self.state, Batch(image, label))
        return theirs, (float(shown["d_loss"]), float(shown["g_loss"]))


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), theirs.detach().numpy()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def errors(sides):
    """Of images by the batch's own statistics, logits, u and running variances.

    Not of the running means: Adam moves a bias before batch norm, whose gradient is
    rounding, by as much as any other number.
    """
    n, rng = N // 2, np.random.default_rng(99)  # one group of BigGAN-PyTorch's
    z, y = rng.normal(size=(n, SIZES.z)).astype(np.float32), np.arange(n) % 5
    x = rng.uniform(-1, 1, (n, 16, 16, 3)).astype(np.float32)
    inputs = (torch.tensor(z), torch.tensor(x.transpose(0, 3, 1, 2)))
    moving = ("running_var", "stored_var", "weight_u", "u0")
    found = {}
    for name, network, module, entries_of, mine in (
        ("g", sides.peer.g, Generator, entries.generator_entries, z),
        ("d", sides.peer.d, Discriminator, entries.discriminator_entries, x),
    ):
        player, train = getattr(sides.state, name), {"train": True} if mine is z else {}
        collections = {"params": player.params, **player.stats}
        stored = {k: v.clone() for k, v in network.state_dict().items()}
        with torch.no_grad():  # in training mode, which moves u
            theirs = network(inputs[mine is x].double(), torch.tensor(y).long())
        network.load_state_dict(stored)
        apply = functools.partial(module(sides.config).apply, mutable=[*player.stats])
        ours, _ = jax.jit(functools.partial(apply, **train))(
            collections, mine, y.astype(np.int32)
        )
        ours = ours.transpose(0, 3, 1, 2) if mine is z else ours
        found[name] = error(ours, theirs)
        layout = LAYOUTS[sides.peer.name]
        of_ours = to_state_dict(
            entries_of(sides.config, layout),
            layout,
            jax.device_get(collections),
            sides.config.model,
        )
        found[f"{name} statistics"] = max(
            error(of_ours[k], v) for k, v in stored.items() if k.endswith(moving)
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_a_step_and_twenty_are_those_of_the_project(name):
    sides = Sides(name)
    assert max(errors(sides).values()) < 1e-5
    for i in range(20):
        theirs, ours = sides.step(i)
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
        if i in (0, 19):
            found = errors(sides)
            print(name, i + 1, {k: f"{v:.0e}" for k, v in found.items()})
            assert max(found.values()) < (1e-4 if i == 0 else 1e-3), found

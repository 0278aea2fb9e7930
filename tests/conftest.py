import os

# eight devices; and XLA compiles a third faster when it optimises less
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax  # noqa: E402  (the flag is read when JAX starts)
import pytest  # noqa: E402

from sagan.config import Config, replace  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)

TINY = {
    "data.name": "digits",
    "data.size": 8,
    "data.channels": 1,
    "data.classes": 3,
    "data.batch": 16,
    "g.z": 4,
    "g.width": 8,
    "g.attention": (8,),
    "g.bn_group": 0,
    "d.width": 8,
    "d.attention": (4,),
    "ema.decays": (0.5,),
}


def tiny(**changes) -> Config:
    """The smallest config with every part; `optim__d_lr=1.0` sets optim.d_lr."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return replace(Config(), {**TINY, **named})


@pytest.fixture(name="tiny")
def tiny_fixture():
    return tiny

import dataclasses
import os
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax  # noqa: E402  (the flag is read when JAX starts)
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

from sagan.checkpoints.manager import Checkpoints  # noqa: E402
from sagan.checkpoints.workdir import claim  # noqa: E402
from sagan.config import Config, replace  # noqa: E402
from sagan.state import create  # noqa: E402

pytest_plugins = ["tests.support.bucket"]

_CACHE = tempfile.TemporaryDirectory(prefix="sagan-test-cache-")
os.environ["SAGAN_CACHE"] = os.path.join(_CACHE.name, "sagan")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the tests' time is compiling: do it once a session, and with less effort.
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_disable_most_optimizations", True)

TINY = {
    "data.name": "digits",
    "data.size": 8,
    "data.channels": 1,
    "data.classes": 10,
    "data.batch": 16,
    "g.z": 4,
    "g.width": 8,
    "g.attention": (8,),
    "g.bn_group": 0,
    "d.width": 8,
    "d.attention": (4,),
    "ema.decays": (0.5,),
    "run.steps": 6,
    "run.log_every": 1,
    "run.sample_every": 3,
    "run.checkpoint_every": 3,
}


# A process that compiles on and on ends with the 65,530 memory maps of Linux's default:
# XLA takes three for a kernel, and a slow test of training up to 20,000.
@pytest.fixture(scope="module", autouse=True)
def forget_programs_of_module():
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_programs_of_slow_test(request):
    yield
    if "slow" in request.keywords:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny():
    """The smallest config with every part; `optim__d_lr=1.0` sets optim.d_lr."""

    def make(**changes) -> Config:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return replace(Config(), {**TINY, **named})

    return make


@pytest.fixture(scope="session")
def finished_run(tiny, tmp_path_factory):
    """A workdir with two checkpoints; raw weights and averages differ. Do not write.

    No step is compiled: the weights are the initial ones, scaled.
    """
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = tiny(ema__decays=(0.5, 0.9), run__steps=2, run__checkpoint_every=1)
    claim(workdir, config, images=1493, class_names=list("0123456789"))
    state = create(config)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)

    def scaled(tree, by):
        return jax.tree.map(lambda x: by * x, tree)

    for step in (1, 2):
        params = scaled(state.g.params, 1 + step / 10)
        ema = tuple(
            dataclasses.replace(average, params=scaled(params, 1 + i / 10))
            for i, average in enumerate(state.ema, start=1)
        )
        g = dataclasses.replace(state.g, params=params)
        now = dataclasses.replace(state, step=jnp.int32(step), g=g, ema=ema)
        checkpoints.save(step, now)
    checkpoints.close()
    return workdir

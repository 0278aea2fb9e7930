import ctypes
import platform
import subprocess
import sys

import jax
import pytest

from sagan.cli import main
from sagan.runtime import memory, processes

STEPS = """
import resource
import jax, jax.numpy as jnp
from sagan.runtime import memory

if {keep}:
    memory.run_on_this_thread()

x = jnp.ones((3000, 3000))  # more than 32 MiB
step = jax.jit(lambda x: ((x @ x) @ x).sum()).lower(x).compile()
if {keep}:
    memory.keep_freed_memory()
for i in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_step_takes_the_memory_that_the_one_before_has_freed():
    def faults(keep):
        program = STEPS.format(keep=keep)
        run = [sys.executable, "-c", program]
        return int(subprocess.run(run, capture_output=True, check=True).stdout)

    assert faults(keep=True) < 0.1 * faults(keep=False)


def test_training_runs_steps_on_the_main_thread(tmp_path, monkeypatch):
    called = []

    def initialize(config, _):
        called.append("initialize")
        return config

    def is_main():  # the first to ask for devices
        called.append("is_main")
        raise SystemExit

    monkeypatch.setattr(processes, "initialize", initialize)
    monkeypatch.setattr(memory, "run_on_this_thread", lambda: called.append("run"))
    monkeypatch.setattr(processes, "is_main", is_main)
    with pytest.raises(SystemExit):
        main.train_command(["digits", "--workdir", str(tmp_path)])
    assert called == ["initialize", "run", "is_main"]


@pytest.fixture
def glibc(monkeypatch):
    """The calls of its functions, none of which is made, after run_on_this_thread."""
    called, before = [], jax.config.read("jax_cpu_enable_async_dispatch")

    def found(name):
        return lambda *values: called.append((name, *values))

    monkeypatch.setattr(memory, "_glibc", found)
    memory.run_on_this_thread()
    yield called
    jax.config.update("jax_cpu_enable_async_dispatch", before)


def test_memory_is_kept_on_cpus_alone(glibc, monkeypatch):
    memory.keep_freed_memory()
    assert [name for name, *_ in glibc] == ["malloc_trim", "mallopt", "mallopt"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    glibc.clear()
    memory.keep_freed_memory()
    assert glibc == [("malloc_trim", 0)]


def test_memory_is_not_kept_for_programs_on_other_threads(glibc):
    jax.config.update("jax_cpu_enable_async_dispatch", True)
    memory.keep_freed_memory()
    assert glibc == [("malloc_trim", 0)]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_alone(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail(f"loads {name}"))
    memory.keep_freed_memory()

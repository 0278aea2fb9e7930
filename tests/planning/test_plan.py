import dataclasses
import importlib.util
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from sagan import state
from sagan.cli import arguments, main
from sagan.config import Config, ConfigError, check_config, load, replace
from sagan.config.validation import check_batch
from sagan.planning import plan, topology
from sagan.planning.memory_savings import savings
from sagan.planning.plan import Compiled
from sagan.planning.program import Program
from sagan.runtime import compilation
from sagan.training import cost

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "digits.py")
BAD = [
    *("v5litepod-8", "v5e:2x3", "v5e:8", "v5e", "v9:2x2", "v4:2x2", "v5e:2x2x1"),
    *("v5e:0x0", "v6e:32x32", "v5p:1x1x1", "gpu", "gpu:80", "gpu:0x80GiB", "tpu", ""),
]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_topology_is_one_line_with_names_that_work(name):
    with pytest.raises(ConfigError) as error:
        topology.parse(name)
    said = str(error.value)
    assert said.startswith(f"--topology {name}: unknown; such as v5e:1x1, v5e:2x4")
    assert "\n" not in said
    for example in said.partition("such as ")[2].split(", "):
        assert topology.parse(example).name == example


@pytest.mark.parametrize(
    ("name", "kind", "count", "gib"),
    [
        ("v5e:1x1", "tpu", 1, 15.75),
        ("v5e:4x4", "tpu", 16, 15.75),
        ("v4:2x2x1", "tpu", 8, 15.25),  # libtpu lists two devices a chip
        ("v5p:2x2x2", "tpu", 8, 95.74),
        ("v6e:16x16", "tpu", 256, 31.25),
        ("gpu:80GiB", "gpu", 1, 80),
        ("gpu:8x79.5GiB", "gpu", 8, 79.5),
    ],
)
def test_a_topology_has_devices_and_memory(name, kind, count, gib):
    assert topology.parse(name) == (name, kind, count, gib * 2**30)


def test_the_environment_is_a_cpus_whatever_the_machine_has(monkeypatch):
    before = {"JAX_PLATFORMS": "tpu", "XLA_FLAGS": "--xla_mine=1"}
    monkeypatch.setattr(os, "environ", dict(before))
    topology.set_environment(topology.parse("gpu:4x80GiB"))
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "0"
    flags = "--xla_mine=1 --xla_force_host_platform_device_count=4"
    assert os.environ["XLA_FLAGS"] == flags


def test_modules_have_all_parameters_in_order(tiny):
    rows = cost.modules(tiny())
    shapes = state.abstract(tiny())
    for player in "gd":
        mine = [row for row in rows if row.player == player]
        params = getattr(shapes, player).params
        assert sum(row.parameters for row in mine) == state.count(params)
        assert {row.name for row in mine} == set(params)
    names = [row.name for row in rows if row.player == "g"]
    assert names == ["stem", "block1", "attention8", "bn_out", "out"]


def test_flops_of_modules_by_hand(tiny):
    flops = {(row.player, row.name): row.flops for row in cost.modules(tiny())}
    # z has 4 numbers, the stem makes 4x4 of 16 channels
    assert flops["g", "stem"] == 2 * 4 * (4 * 4 * 16)
    # 3x3 from 8 channels to 1 on 8x8, where a row has 3 * 8 - 2 products
    assert flops["g", "out"] == 2 * 22**2 * 8
    # at 8x8, of 8 channels: f, g to 1, h to 4, v back; 64 queries of 16 keys
    maps = 64 * 8 * (1 + 1 + 4 + 4)
    assert flops["g", "attention8"] == 2 * (maps + 64 * 16 * (1 + 4))
    # 16 channels to 8, after doubling to 8x8: the shortcut and two 3x3
    assert flops["g", "block1"] == 2 * (64 * 16 * 8 + 22**2 * (16 * 8 + 8 * 8))
    # the image to 8 channels, before halving 8x8
    assert flops["d", "block1"] == 2 * (64 * 8 + 22**2 * (8 + 8 * 8))
    assert flops["d", "embed"] == flops["g", "bn_out"] == 0


def test_flops_of_a_step_by_hand(tiny):
    config = tiny(optim__d_steps=2)
    g, d = (
        sum(row.flops for row in cost.modules(config) if row.player == player)
        for player in "gd"
    )
    # each D update: G forward, D on two images forward and twice backward
    assert cost.formula_flops(config) == 16 * (2 * (g + 2 * 3 * d) + 3 * g + 2 * d)
    assert cost.recomputed_flops(config) == 0
    again = cost.recomputed_flops(replace(config, {"model.remat": True}))
    assert 0 < again < cost.formula_flops(config) / 3


def test_formula_and_xla_agree_within_five_per_cent(tiny):
    config = tiny(g__width=32, d__width=32, data__batch=64)
    plain = cost.traced_flops(config, "tpu", fast=False)
    assert plain == pytest.approx(cost.formula_flops(config), rel=0.05)


def test_bytes_of_the_state_are_all_of_it(tiny):
    shapes = state.abstract(tiny())
    parts = cost.state_bytes(shapes)
    leaves = jax.tree.leaves(shapes)
    counters = 8  # step and rollbacks
    assert sum(parts.values()) + counters == sum(4 * leaf.size for leaf in leaves)
    players = (shapes.g.params, shapes.d.params)
    assert parts["parameters"] == 4 * sum(map(state.count, players))
    assert parts["Adam's moments"] >= 2 * parts["parameters"]


@pytest.mark.slow
def test_what_is_traced_for_another_target_is_another_program(tiny):
    assert compilation.is_for_cpu("auto") and compilation.is_for_cpu("cpu")
    assert not compilation.is_for_cpu("accelerator")
    config = tiny(data__size=32, g__attention=(), d__attention=())
    flops = {
        kind: [cost.traced_flops(config, kind, fast=True) for _ in range(2)]
        for kind in ("cpu", "tpu", "gpu")
    }
    assert flops["tpu"] == flops["gpu"]  # whatever was traced before
    assert len({*flops["cpu"]}) == len({*flops["tpu"]}) == 1
    assert flops["cpu"] != flops["tpu"]


@pytest.mark.parametrize(
    ("name", "classes"), [("imagenet2012", 1000), ("digits", 10), ("cifar10", 10)]
)
def test_known_data_sets_tell_their_classes(name, classes):
    config = replace(Config(), {"data.name": name})
    assert plan.with_classes(config).data.classes == classes
    mine = replace(config, {"data.classes": 7})
    assert plan.with_classes(mine).data.classes == 7


def test_other_data_sets_need_a_number_of_classes():
    with pytest.raises(ConfigError, match=r"'folder'.*--data\.classes N"):
        plan.with_classes(replace(Config(), {"data.name": "folder"}))


@pytest.mark.parametrize(
    ("said", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
            " the total memory required for HLO temporaries (38.31G) exceeds"
            " available HBM (15.75G).",
            (38.31, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.5G of"
            " 15.75G hbm. Exceeded hbm capacity by 768.0M.",
            (16.5, 15.75),
        ),
        ("RESOURCE_EXHAUSTED: something else", None),
    ],
)
def test_xla_says_what_is_needed_and_available(said, sizes):
    gib = sizes and tuple(size * 2**30 for size in sizes)
    assert plan.out_of_memory(said) == gib


def test_collectives_are_counted_with_their_bytes():
    program = """ENTRY %main (a: f32[64]) -> f32[64] {
  %all-reduce.1 = (f32[64]{0:T(128)S(1)}, f32[2,8]{1,0}) all-reduce(%a, %b), x=1
  %all-reduce-start.2 = bf16[10,3]{1,0} all-reduce-start(%c), to_apply=%add
  %all-reduce-done.2 = bf16[10,3]{1,0} all-reduce-done(%all-reduce-start.2)
  %all-gather.1 = f32[] all-gather(%d), dimensions={0}
  %fusion.1 = f32[64]{0} fusion(%all-reduce.1), kind=kLoop
"""
    found = {"all-reduce": (2, 4 * (64 + 16) + 60), "all-gather": (1, 4)}
    assert Program(program).collectives == found


def test_collectives_in_a_loop_are_counted_as_often_as_it_runs():
    program = """%until (u: (s32[])) -> pred[] {
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%n, %five), direction=LT
}

%body (v: (s32[])) -> (s32[]) {
  %sum = f32[10]{0} all-reduce(%a), to_apply=%add
}

ENTRY %main (z: (s32[])) -> (s32[]) {
  %loop = (s32[]) while(%z), condition=%until, body=%body
  %sum.2 = f32[3]{0} all-reduce(%b), to_apply=%add
}
"""
    assert Program(program).collectives == {"all-reduce": (6, 4 * (5 * 10 + 3))}


@pytest.mark.parametrize("name", ["v5e:1x1", "v5e:2x4", "gpu:80GiB"])
@pytest.mark.parametrize("preset", ["imagenet128.py", "official_feat32.py"])
def test_every_saving_is_a_config_that_works(preset, name):
    path = ROOT / "configs" / preset
    config, machine = load(path), topology.parse(name)
    given = savings(config, machine)
    fields = [next(iter(one.values)) for one in given]
    assert fields[:3] == ["model.attention_chunks", "model.remat", "model.dtype"]
    assert fields[3:] == ["optim.accumulate", "data.batch"]
    for one in given:
        args = [str(path), *one.arguments.split()]
        changed = arguments.parse(main.PlanOptions, args, "sagan plan").config
        assert changed == replace(config, one.values) != config
        check_config(changed)
        check_batch(changed, machine.devices)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("v5e:1x1", ["v5e:2x2", "v5e:2x4", "v5e:4x4"]),
        ("v4:2x2x1", ["v4:2x2x2", "v4:2x2x4", "v4:2x4x4"]),
        ("gpu:80GiB", ["gpu:2x80GiB", "gpu:4x80GiB"]),
        ("v6e:16x16", []),
        ("cpu", []),
    ],
)
def test_larger_topologies_are_topologies(name, more):
    machine = topology.parse(name)
    names = list(topology.larger_names(machine))
    assert names[: len(more)] == more and bool(names) == bool(more)
    for larger in names:
        assert topology.parse(larger).devices >= 2 * machine.devices


def test_no_saving_is_given_twice(tiny):
    config = tiny(model__remat=True, model__dtype="bfloat16", g__attention=())
    config = dataclasses.replace(config, d=dataclasses.replace(config.d, attention=()))
    given = savings(config, topology.parse("v5e:1x1"))
    assert [next(iter(one.values)) for one in given] == [
        "optim.accumulate",
        "data.batch",
    ]


@pytest.fixture
def told(monkeypatch):
    """The lines of a plan in which nothing is traced or compiled."""
    monkeypatch.setattr(cost, "traced_flops", lambda config, kind, fast: 1e9)

    def tell(config, name, compiled=None):
        lines = []
        monkeypatch.setattr(plan, "compile_step", lambda *_: compiled)
        monkeypatch.setattr(plan, "has_compiler", lambda _: compiled is not None)
        return plan.plan(config, topology.parse(name), lines.append), lines

    return tell


GIB = 2**30
REDUCE = "  %r.{} = f32[7895160] all-reduce(%x)"
REDUCED = "\n".join(["ENTRY %a () -> f32[] {", *map(REDUCE.format, range(34))])
FITS = Compiled(3 * GIB, 2.5 * GIB, GIB, 2 * GIB, 15.75 * GIB, Program(REDUCED))


def test_without_libtpu_only_the_compiling_is_missing(told, tiny, monkeypatch):
    fits, lines = told(tiny(), "v5e:2x4")
    assert fits is None
    said = "\n".join(lines)
    assert "g/attention8" in said and "by formula" in said and "Adam's moments" in said
    assert "pip install -e '.[tpu]'" in lines[-1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not topology.has_compiler(topology.parse("v5e:2x4"))
    assert topology.has_compiler(topology.parse("cpu"))


def test_a_plan_that_fits_tells_memory_and_communication(told, tiny):
    fits, lines = told(tiny(), "v5e:2x4", FITS)
    assert fits is True
    said = "\n".join(lines)
    assert "memory of a device: 3 GiB of 15.75 GiB: fits" in said
    assert "34 all-reduces, 1 GiB in all" in said
    assert "about 1 to 1 minutes" in said  # before it compiles
    assert "--model.remat" not in said


@pytest.mark.parametrize("needed", [38.31 * GIB, math.inf])
def test_a_plan_that_does_not_fit_tells_what_to_change(told, tiny, needed):
    much = Compiled(needed, math.nan, math.nan, math.nan, 15.75 * GIB)
    fits, lines = told(tiny(), "v5e:2x4", much)
    assert fits is False
    said = "\n".join(lines)
    assert " of 15.75 GiB: does not fit" in said and "nan" not in said
    assert ("38.31 GiB of" in said) == math.isfinite(needed)
    changes = "--model.attention-chunks 2", "--model.remat", "bfloat16", "v5e:4x4"
    for change in changes:
        assert change in said


def test_a_gpus_memory_is_called_an_estimate(told, tiny):
    _, lines = told(tiny(), "gpu:2x80GiB", FITS)
    assert any("an estimate" in line for line in lines)


@pytest.mark.parametrize(("fits", "code"), [(True, 0), (None, 0), (False, 1)])
def test_the_exit_code_is_1_where_a_step_does_not_fit(monkeypatch, fits, code):
    seen = []
    monkeypatch.setattr(topology, "set_environment", seen.append)
    monkeypatch.setattr(plan, "plan", lambda *args, **_: seen.append(args) or fits)
    args = [DIGITS, "--topology", "v5e:2x4", "--data.batch", "32"]
    assert main.run(main.plan_command, args) == code
    machine, (config, same) = seen
    assert machine == same == topology.parse("v5e:2x4")
    assert config.data.batch == 32


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([DIGITS], "--topology is missing: such as v5e:1x1"),
        ([DIGITS, "--topology", "v5e:2x3"], "--topology v5e:2x3: unknown; such as"),
        ([DIGITS, "--topology", "cpu", "--data.batch", "x"], "'x'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(args, said, capsys):
    assert main.run(main.plan_command, args) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "gpu:2x80GiB"])
def test_a_plan_compiles_for_what_is_here(tiny, name):
    lines = []
    assert plan.plan(tiny(), topology.parse(name), lines.append) is True
    said = "\n".join(lines)
    assert ("all-reduce" in said) == name.startswith("gpu")


def with_libtpu(code, *args):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -e '.[tpu]'")
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def planned(*args):
    small = "--data.size 32 --data.classes 10 --g.width 8 --d.width 8"
    small += " --g.attention 16 --d.attention 16 --g.bn-group 0"
    code = "from sagan.cli.main import main; main()"
    return with_libtpu(code, "plan", DIGITS, *small.split(), *args)


ATTENTION = """
import sys
from sagan.planning import topology
machine = topology.parse("v5e:1x1")
topology.set_environment(machine)
import jax
from sagan.attention import attend
(chip,) = topology.devices(machine)
sharding = jax.sharding.SingleDeviceSharding(chip)
shapes = [
    jax.ShapeDtypeStruct((32, *shape), sys.argv[1], sharding=sharding)
    for shape in ((4096, 16), (1024, 16), (1024, 64))
]
def both(*args):
    y, transpose = jax.vjp(lambda *args: attend(*args)[0], *args)
    return y, transpose(y)
jax.jit(both).lower(*shapes).compile()
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_at_64x64_compiles_for_a_tpu_chip(dtype):
    run = with_libtpu(ATTENTION, dtype)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["pmap", "jit"])
def test_a_small_step_compiles_for_eight_tpu_chips(parallel):
    run = planned("--topology", "v5e:2x4", "--run.parallel", parallel)
    assert run.returncode == 0, run.stderr
    memory = re.search(r"device: ([\d.]+) MiB of 15.75 GiB: fits", run.stdout)
    assert memory and 5 < float(memory[1]) < 200
    reduced = re.search(r"(\d+) all-reduces, ([\d.]+) MiB in all", run.stdout)
    # at least the gradients are summed over the chips: one for each parameter
    total = sum(int(n.replace(",", "")) for n in totals(run.stdout))
    assert reduced and float(reduced[2]) * 2**20 >= 4 * total


def totals(text):
    return re.findall(r"^  [gd] +([\d,]+)", text, flags=re.MULTILINE)


@pytest.mark.slow
def test_a_step_too_large_for_a_chip_is_reported_not_raised():
    run = planned("--topology", "v5e:1x1", "--data.batch", "131072")
    assert run.returncode == 1, run.stderr
    assert re.search(r"device: [\d.]+ GiB of 15.75 GiB: does not fit", run.stdout)
    assert "--model.remat" in run.stdout and "Traceback" not in run.stderr

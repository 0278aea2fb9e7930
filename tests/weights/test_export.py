"""Generators of ours under other projects' names, as safetensors, and back again."""

import dataclasses
import functools
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import open_run
from sagan.checkpoints.workdir import claim, class_names
from sagan.cli.weights import import_command
from sagan.config import ConfigError
from sagan.generator import Generator
from sagan.sampling.sampler import make_sampler
from sagan.state import abstract
from sagan.weights import new_run
from sagan.weights.exporting import export_weights
from sagan.weights.folder import read_folder
from sagan.weights.torch_file import torch_file

CHANGES = {
    "data__size": 16,
    "data__channels": 3,
    "data__classes": 5,
    "g__z": 6,
    "d__attention": (8,),
    "g__multipliers": (2, 2, 1),
    "ema__decays": (0.5,),
    "model__sn_clamp": True,
    "g__bn_eps": 1e-5,
}
Y = np.array([0, 4, 2, 2, 1, 3], np.int32)
Z = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)


def random_state(config):
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        noise, name = rng.normal(size=leaf.shape), path[-1]
        value = 0.3 * noise
        if getattr(name, "key", "") in ("scale", "gamma", "sigma"):
            value = 1 + 0.2 * noise
        if getattr(name, "key", "") == "var":
            value = 0.5 + noise**2
        if getattr(name, "key", "") in ("u", "v"):
            value = noise / np.linalg.norm(noise)
        return jnp.asarray(value, leaf.dtype)

    state = jax.tree_util.tree_map_with_path(fill, abstract(config))
    return dataclasses.replace(state, step=jnp.int32(7), rollbacks=jnp.int32(0))


@functools.cache
def state_of(config):
    """A state after two passes: vectors and statistics are those of real weights."""
    state = random_state(config)
    if not (config.data.classes and config.g.sn):  # is only refused
        return state
    apply, stats = functools.partial(Generator(config).apply, train=True), state.g.stats
    step = jax.jit(functools.partial(apply, mutable=["spectral", "batch_stats"]))
    for _ in range(2):
        _, stats = step({"params": state.g.params, **stats}, Z, Y)
    return dataclasses.replace(state, g=dataclasses.replace(state.g, stats=dict(stats)))


@pytest.fixture(autouse=True)
def compile_no_discriminator(monkeypatch):
    monkeypatch.setattr(new_run, "create_state", lambda game: random_state(game.config))


@pytest.fixture
def run(tiny, tmp_path):
    def make(**changes):
        config = tiny(**{**CHANGES, **changes})
        state = state_of(config)
        claim(tmp_path / "run", config, images=5, class_names=list("abcde"))
        checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
        checkpoints.save(7, state)
        checkpoints.close()
        return tmp_path / "run"

    return make


def images(opened):
    apply = jax.jit(functools.partial(Generator(opened.config).apply, train=False))
    return np.asarray(apply(opened.variables, Z, Y))


CASES = {
    "studiogan": ("studiogan", "channels", "iterate"),
    "biggan": ("biggan", "none", "iterate"),
    "mmgen": ("mmgen", "none", "iterate"),
    "mmgen, stored and normalised": ("mmgen", "classes", "stored"),
}


@pytest.mark.parametrize(
    ("case", "weights"), [*((case, "raw") for case in CASES), ("mmgen", "ema")]
)
def test_torch_loads_every_name_and_draws_the_same_images(run, tmp_path, case, weights):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests.support import torch_peers

    name, tables, sn_eval = CASES[case]
    workdir = run(g__sn_tables=tables, model__sn_eval=sn_eval)
    said = export_weights(workdir, name, tmp_path / "G.pth", weights=weights)
    assert ("its batch norm to 1e-05" in said) == (name != "biggan")
    assert ("no network of 16 px" in said) == (name != "mmgen")
    content = torch.load(tmp_path / "G.pth", weights_only=True)
    state = content if name == "biggan" else content["state_dict"]
    state = {key.removeprefix("generator."): x for key, x in state.items()}
    network = torch_peers.Generator(name, torch_peers.Sizes(), tables, eps=1e-5)
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        theirs = torch_peers.evaluating(network)(
            torch.tensor(Z), torch.tensor(Y).long()
        ).numpy()
    ours = images(open_run(workdir, weights=weights))
    assert ours.std() > 0.1
    np.testing.assert_allclose(theirs.transpose(0, 2, 3, 1), ours, atol=1e-5)


def stored_bytes(file, torch):
    content = torch.load(file, weights_only=True)
    state = content.get("state_dict", content)
    return {
        key: x.numpy().tobytes()
        for key, x in state.items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("case", [case for case in CASES if case != "mmgen"])
def test_there_and_back_is_bit_for_bit(run, tmp_path, case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    name, tables, sn_eval = CASES[case]
    workdir = run(g__sn_tables=tables, model__sn_eval=sn_eval)
    one, two, again = tmp_path / "1.pth", tmp_path / "2.pth", tmp_path / "again"
    export_weights(workdir, name, one, bgr=True)
    args = [one, "--like", name, "--bgr", "--workdir", again, "--ema.decays", 0.5]
    import_command([str(arg) for arg in args])
    opened, back = (open_run(path) for path in (workdir, again))
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(opened.variables),
        jax.tree_util.tree_leaves_with_path(back.variables),
        strict=True,
    ):
        leaf = path[-1].key
        if leaf == "sigma" and name != "biggan":
            continue  # no file has it
        if tables == "none" and leaf == "scale" and path[-2].key != "bn_out":
            # stored less one: what is below 1/2 is rounded
            np.testing.assert_allclose(x, y, rtol=0, atol=6e-8)
            continue
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)
    export_weights(again, name, two, bgr=True)
    assert stored_bytes(one, torch) == stored_bytes(two, torch)


def test_safetensors_come_back_bit_for_bit_with_config_card_and_grid(run, tmp_path):
    workdir, out = run(g__sn_tables="classes"), tmp_path / "hub"
    export_weights(workdir, "safetensors", out, weights="ema")
    assert {p.name for p in out.iterdir()} == {
        *("model.safetensors", "config.json", "README.md", "grid.png")
    }
    import_command([str(out), "--workdir", str(tmp_path / "again")])
    opened, back = open_run(workdir), open_run(tmp_path / "again")
    assert back.step == 7 and back.config.ema.decays == ()
    assert class_names(tmp_path / "again") == list("abcde")
    for x, y in zip(
        *map(jax.tree.leaves, (opened.variables, back.variables)), strict=True
    ):
        assert x.tobytes() == y.tobytes()
    drawn = [
        np.asarray(make_sampler(o.config)(o.variables, Z, Y)) for o in (opened, back)
    ]
    np.testing.assert_array_equal(*drawn)
    about = json.loads((out / "config.json").read_text())
    assert about["model_type"] == "sagan" and about["classes"] == list("abcde")
    card = (out / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "license: #" in front and "tags: [gan" in front
    assert "![samples](grid.png)" in card and "None of this checkpoint" in card


def test_the_card_has_the_evaluation_of_the_checkpoint(finished_run, tmp_path):
    from sagan.evaluation import results
    from sagan.weights.model_card import model_card

    opened = open_run(finished_run)
    folder = tmp_path / "eval" / f"step_{opened.step}"
    folder.mkdir(parents=True)
    result = results.new_result({"samples": 40}, {"what": "x", "step": opened.step})
    variant = {"weights": "raw", "batch_norm": "moving"}
    results.add_rows(result, variant, {"fid": [12.5]}, {}, 40)
    results.write_result(folder, result)
    saved = dataclasses.replace(opened.saved, workdir=tmp_path)
    card = model_card(opened._replace(saved=saved), "grid.png")
    assert "40 samples" in card and "12.5" in card


@pytest.mark.parametrize(
    ("to", "changes", "said"),
    [
        ("studiogan", {}, "g.sn_tables = 'none': PyTorch-StudioGAN has only channels"),
        ("mmgen", {"g__sn_tables": "channels"}, "has only none or classes"),
        ("biggan", {"data__classes": 0}, "has only class-conditional batch norm"),
        ("biggan", {"g__sn": False}, "has only layers with spectral normalisation"),
        ("biggan", {"g__block": "residual"}, "'residual': BigGAN-PyTorch has only"),
    ],
)
def test_what_a_project_cannot_hold_is_one_line(run, tmp_path, to, changes, said):
    with pytest.raises(ConfigError) as error:
        export_weights(run(**changes), to, tmp_path / "G.pth")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "G.pth").exists()


def hub_config(hub, **changes):
    about = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(about | changes))
    return about


def test_an_export_overwrites_nothing_but_an_export(run, tmp_path):
    workdir, hub, other = run(), tmp_path / "hub", tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    text, others = tmp_path / "x.pth", tmp_path / "others.pth"
    text.write_text("text")
    with zipfile.ZipFile(others, "w") as archive:  # as torch.save makes them
        archive.writestr("archive/data.pkl", b"")
    for to, out, said in (
        ("safetensors", workdir, "is in the workdir"),
        ("safetensors", workdir / "new", "is in the workdir"),
        ("safetensors", other, "is no earlier export"),
        ("biggan", workdir / "config.json", "is in the workdir"),
        ("biggan", workdir / "new.pth", "is in the workdir"),
        ("biggan", other / "config.json", "must be a .pth file"),
        ("biggan", tmp_path / "G", "must be a .pth file"),
        ("safetensors", tmp_path / "x.safetensors", "must be a folder"),
        ("biggan", text, "is no file of sagan export"),
        ("biggan", others, "is no file of sagan export"),
    ):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with pytest.raises(ConfigError, match=said) as error:
            export_weights(workdir, to, out)
        assert "\n" not in str(error.value) and not (workdir / "new").exists()
        assert before == {p: p.read_bytes() for p in before}
    for _ in range(2):  # an earlier export is replaced
        export_weights(workdir, "biggan", tmp_path / "G.pth")
        export_weights(workdir, "safetensors", hub)


def test_a_hub_folder_has_nothing_of_a_machine_and_cannot_bring_any(run, tmp_path):
    workdir, hub = run(run__init_from="/secret", data__path="/secret"), tmp_path / "hub"
    export_weights(workdir, "safetensors", hub)
    about = (hub / "config.json").read_text()
    assert "/secret" not in about and "run" not in json.loads(about)["config"]
    tree = json.loads(about)["config"]
    tree["run"] = {"compilation_cache_dir": "/strange", "init_from": "/strange"}
    tree["data"]["path"] = "/strange"
    hub_config(hub, config=tree)
    import_command([str(hub), "--workdir", str(tmp_path / "again")])
    assert "/strange" not in (tmp_path / "again" / "config.json").read_text()


def test_a_bad_hub_import_is_one_line_and_leaves_nothing(run, tmp_path):
    workdir, hub, again = run(), tmp_path / "hub", tmp_path / "again"
    export_weights(workdir, "safetensors", hub)
    about = hub_config(hub)
    tree = about["config"]
    cases = [
        (["--like", "mmgen", "--bgr"], {}, "is a folder; --like mmgen needs a .pth"),
        (["--bgr"], {}, "--bgr: is for files of others; our safetensors are RGB"),
        ([], {"config": tree | {"g": tree["g"] | {"z": 9}}}, "tensors that do not fit"),
        ([], {"config": tree | {"g": tree["g"] | {"width": 2**20}}}, "do not fit"),
        ([], {"model_type": "bert"}, "model_type is not sagan"),
        ([], {"classes": list("abc")}, "classes must be 5 names, or none"),
        ([], {"classes": [1, 2, 3, 4, 5]}, "classes must be 5 names, or none"),
    ]
    steps = [-1, 2**31, 1.5, True, None, "x", "9" * 5000, "-1", [7]]
    cases += [([], {"step": step}, "must be whole, from 0 to") for step in steps]
    for args, changes, said in cases:
        hub_config(hub, **about | changes)
        with pytest.raises(ConfigError, match=said) as error:
            import_command([str(hub), *args, "--workdir", str(again)])
        assert "\n" not in str(error.value) and not again.exists()


ARRAYS = {
    "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "c": np.array(3, np.float32),
}


def test_torch_reads_the_file_that_is_written_without_it(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "x.pth"
    path.write_bytes(torch_file({"meta": {}, "state_dict": ARRAYS}))
    found = torch.load(path, weights_only=True)
    assert found["meta"] == {} and set(found["state_dict"]) == set(ARRAYS)
    for name, x in ARRAYS.items():
        np.testing.assert_array_equal(found["state_dict"][name].numpy(), x)


def test_damaged_safetensors_are_one_line(tmp_path):
    path, good = tmp_path / "model.safetensors", safetensors.numpy.save(ARRAYS)
    for content in (b"", b"x" * 20, good[:-3], good[:30], bytes([255]) * 8 + good[8:]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="no safetensors file of ours") as error:
            read_folder(path)
        assert "\n" not in str(error.value)

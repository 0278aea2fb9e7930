"""Files that torch writes under other projects' names become runs of ours."""

import copy
import json
import os

import jax
import numpy as np
import pytest

from sagan.checkpoints.restore import open_run
from sagan.checkpoints.workdir import read_config
from sagan.cli.info import info_command
from sagan.cli.visualize import attend_command, report_command
from sagan.cli.weights import import_command
from sagan.config import ConfigError, fields, load, replace
from sagan.discriminator import Discriminator
from sagan.evaluation.protocol import Protocol
from sagan.evaluation.run import evaluate_run
from sagan.sampling.sampler import make_sampler
from sagan.weights import importing
from sagan.weights.files import read_networks
from sagan.weights.layouts import LAYOUTS
from tests.support.runs import train

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.support import torch_peers  # noqa: E402
from tests.support.torch_peers import Sizes  # noqa: E402

SIZES = Sizes()
CASES = {  # project, tables, sizes, whether D's shortcuts are rectified
    "studiogan": ("studiogan", "channels", SIZES, True),
    "biggan": ("biggan", "none", SIZES, False),
    "mmgen": ("mmgen", "none", SIZES, False),
    "mmgen, normalised tables": ("mmgen", "classes", SIZES, False),
}
Y = np.array([0, 4, 2, 2, 1, 3], np.int32)


def networks(case, **changes):
    name, tables, sizes, rectified = CASES[case]
    sizes = sizes._replace(**changes)
    torch.manual_seed(0)
    g = torch_peers.Generator(name, sizes, tables)
    d = torch_peers.Discriminator(name, sizes, rectified)
    y = torch.arange(8) % sizes.classes
    inputs = torch.randn(8, sizes.z), torch.rand(8, sizes.channels, 16, 16) * 2 - 1
    for i, (network, x) in enumerate(zip((g, d), inputs, strict=True)):
        torch_peers.pretrain(torch_peers.randomise(network, i), x, y)
    return name, g, d


def run(*args):
    import_command([str(arg) for arg in args])


def latents(n=6):
    return np.random.default_rng(3).normal(size=(n, SIZES.z)).astype(np.float32)


def torchs_images(network, z, y, bgr=False):
    with torch.no_grad():
        images = torch_peers.evaluating(network)(
            torch.tensor(z), torch.tensor(y).long()
        )
    images = images.numpy().transpose(0, 2, 3, 1)
    return images[..., ::-1] if bgr else images


def as_bytes(images):
    return np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)


def ours(opened, z, y):
    return np.asarray(make_sampler(opened.config)(opened.variables, z, y))


def averaged(network):
    """A copy whose images differ."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_submodule(other.project.out).bias += 0.3
    return other


def share_equal(a, b):
    return (a == b).mean()


@pytest.fixture(scope="module", params=CASES)
def imported(request, tmp_path_factory):
    """A project's networks, the workdir of their files, and lines that were printed."""
    folder = tmp_path_factory.mktemp("imported")
    name, g, d = networks(request.param)
    if name == "mmgen":
        both = torch_peers.as_file(name, {"g": g, "g_ema": g, "d": d})
        files = [torch_peers.write(folder / "iter_70.pth", both)]
    else:
        zipped = name == "studiogan"  # the other in the form of torch < 1.6
        kinds = [("G", "g", g), ("D", "d", d)]
        if name == "biggan":
            kinds.insert(0, ("G_ema", "g_ema", averaged(g)))
        files = [
            torch_peers.write(
                folder / f"model={title}-current-weights-step=70.pth",
                torch_peers.as_file(name, {kind: network}),
                zipped,
            )
            for title, kind, network in kinds
        ]
    more = (
        ["--data.name", "digits", "--d.rectified-shortcut"] if name != "mmgen" else []
    )
    if not CASES[request.param][3]:
        more = more[:2]
    run(*files, "--like", name, *more, "--workdir", folder / "run")
    return name, g, d, folder / "run"


def test_samples_are_the_projects_own(imported):
    name, g, _, workdir = imported
    opened = open_run(workdir, weights="raw")
    assert opened.step == 70
    z = latents()
    theirs = as_bytes(torchs_images(g, z, Y))
    assert theirs.std() > 10
    assert share_equal(ours(opened, z, Y), theirs) >= 0.999
    if name == "biggan":  # G_ema lies in a file of its own
        theirs = as_bytes(torchs_images(averaged(g), z, Y))
        opened = open_run(workdir, weights="0.9999")
        assert share_equal(ours(opened, z, Y), theirs) >= 0.999
        assert opened.config.ema.start == 0  # else it would be overwritten


def test_logits_are_the_projects_own(imported):
    name, _, d, workdir = imported
    opened = open_run(workdir)
    x = np.random.default_rng(4).uniform(-1, 1, (6, 16, 16, 3)).astype(np.float32)
    state = opened.state.d
    variables = {"params": state.params, **state.stats}
    logits = jax.jit(Discriminator(opened.config).apply)(variables, x, Y)
    with torch.no_grad():
        wanted = torch_peers.evaluating(d)(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(Y).long()
        )
    scale = np.abs(wanted.numpy()).max()
    np.testing.assert_allclose(logits / scale, wanted.numpy() / scale, atol=1e-5)


def test_the_architecture_is_that_of_the_shapes(imported):
    name, _, _, workdir = imported
    values = fields(open_run(workdir).config)
    assert values["data.size"] == 16 and values["data.classes"] == 5
    assert (values["g.width"], values["g.multipliers"]) == (8, (2, 2, 1))
    assert (values["d.width"], values["d.multipliers"]) == (8, (1, 2, 2))
    assert (values["g.attention"], values["d.attention"]) == ((8,), (8,))
    assert values["g.z"] == 6 and values["data.channels"] == 3
    note = json.loads((workdir / "import.json").read_text())
    files = {"mmgen": 1, "studiogan": 2, "biggan": 3}
    assert note["like"] == name and len(note["sha256"]) == files[name]


def write(path, name, **kinds):
    return torch_peers.write(path, torch_peers.as_file(name, kinds))


def test_bgr_networks_become_rgb(tmp_path):
    name, g, d = networks("mmgen")
    file = write(tmp_path / "a.pth", name, g=g, d=d)
    run(file, "--like", name, "--bgr", "--workdir", tmp_path / "run")
    opened, z = open_run(tmp_path / "run"), latents()
    theirs = as_bytes(torchs_images(g, z, Y, bgr=True))
    assert share_equal(ours(opened, z, Y), theirs) >= 0.999
    x = torch.tensor(theirs / 127.5 - 1, dtype=torch.float32)  # red first
    with torch.no_grad():
        wanted = torch_peers.evaluating(d)(
            x.flip(-1).permute(0, 3, 1, 2), torch.tensor(Y).long()
        )
    state = opened.state.d
    variables = {"params": state.params, **state.stats}
    logits = jax.jit(Discriminator(opened.config).apply)(variables, x.numpy(), Y)
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)


def test_raw_and_averaged_weights_of_one_file_are_both_there(tmp_path):
    name, g, d = networks("mmgen")
    _, g_ema, _ = networks("mmgen")
    own = {k: x.clone() for k, x in g_ema.state_dict().items()}
    torch_peers.randomise(g_ema, 9)
    vectors = {k: x for k, x in own.items() if k.endswith(("_u", "_v"))}
    g_ema.load_state_dict({**g_ema.state_dict(), **vectors})
    place = tmp_path / "sagan_b64x1_wReLUinplace_fid-iter480000_2021.pth"
    file = write(place, name, g=g, g_ema=g_ema, d=d)
    options = ["--ema.decays", 0.75, "--optim.d-steps", 5]
    run(file, "--like", name, *options, "--workdir", tmp_path / "run")
    opened, z = open_run(tmp_path / "run"), latents()
    assert opened.step == 96_000  # it counts updates of D
    assert opened.config.d.rectified_shortcut
    for weights, network in (("raw", g), ("0.75", g_ema)):
        images = ours(open_run(tmp_path / "run", weights=weights), z, Y)
        assert share_equal(images, as_bytes(torchs_images(network, z, Y))) >= 0.999


def test_a_generator_alone_gets_a_random_discriminator(tmp_path, capsys):
    name, g, _ = networks("biggan")
    file = write(tmp_path / "G_ema.pth", name, g=g)
    run(file, "--like", name, "--workdir", tmp_path / "run")
    assert "D: " in (said := capsys.readouterr().out) and "random" in said
    assert "an average: it becomes the weights themselves" in said
    assert "ema.decays = ()" in said  # not as in the recipe
    assert json.loads((tmp_path / "run" / "import.json").read_text())["average"]
    info_command([str(tmp_path / "run")])
    assert f"biggan {file}; recipe peers/biggan" in capsys.readouterr().out
    opened, z = open_run(tmp_path / "run"), latents()
    assert share_equal(ours(opened, z, Y), as_bytes(torchs_images(g, z, Y))) >= 0.999
    state = opened.state.d
    assert state.params["block1"]["conv1"]["kernel"].std() > 0.01


def test_fields_are_the_recipes_the_shapes_and_the_users(imported):
    name, _, _, workdir = imported
    recipe = json.loads((workdir / "import.json").read_text())["recipe"]
    values, recipe = fields(open_run(workdir).config), fields(load(recipe))
    for field in ("optim.d_lr", "g.bn_eps", "model.sn_eval", "rule.g_step_moves_d"):
        if (field, values["g.sn_tables"]) == ("g.bn_eps", "classes"):
            assert values[field] == 1e-4 and values["g.bn_group"] == 0
            continue
        assert values[field] == recipe[field]
    assert values["data.name"] == ("imagenet2012" if name == "mmgen" else "digits")


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_not_executed_and_is_named(
    tmp_path, zipped, capsys, monkeypatch
):
    def read(*args):
        found = read_networks(*args)
        more = [f"z\x1b[2J{i}" for i in range(9)]
        return found._replace(inert=[*found.inert[-2:], *more])

    monkeypatch.setattr(importing, "read_networks", read)
    name, g, d = networks("studiogan")
    content = {**torch_peers.as_file(name, {"g": g}), "hook": Harm(tmp_path / "mark")}
    file = torch_peers.write(tmp_path / "a.pth", content, zipped)
    of_d = write(tmp_path / "d.pth", name, d=d)
    run(file, of_d, "--like", name, "--workdir", tmp_path / "run")
    assert not (tmp_path / "mark").exists()
    assert "not executed" in (said := capsys.readouterr().out)
    assert "system" in said and " more\n" in said
    assert "\x1b" not in said and r"z\x1b[2J0" in said


def refusal(tmp_path, *files, like):
    with pytest.raises(ConfigError) as error:
        run(*files, "--like", like, "--workdir", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    return str(error.value)


def changed(network, drop=(), **extra):
    state = {k: x for k, x in network.state_dict().items() if k not in drop}
    return {**state, **extra}


def test_bad_files_are_one_line(tmp_path):
    _, g, d = networks("biggan")
    good, other = write(tmp_path / "G.pth", "biggan", g=g), networks("mmgen")
    pth = tmp_path / "x.pth"
    line = refusal(tmp_path, write(pth, "mmgen", g=other[1]), like="biggan")
    assert "has the names of MMGeneration; try --like mmgen" in line
    line = refusal(tmp_path, write(pth, "biggan", d=d), like="biggan")
    assert "a discriminator alone; give its generator too" in line
    assert "a second generator" in refusal(tmp_path, good, good, like="biggan")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[:-5000])
    assert f"{cut}: damaged" in refusal(tmp_path, cut, like="biggan")
    assert "is not there" in refusal(tmp_path, tmp_path / "none.pth", like="biggan")
    whole = {**g.state_dict(), "shared.weight": torch.zeros(3, 4)}
    line = refusal(tmp_path, torch_peers.write(pth, whole), like="biggan")
    assert "a BigGAN: its classes have a shared embedding" in line
    program = {"state_dict": Harm(tmp_path / "mark")}
    line = refusal(tmp_path, torch_peers.write(pth, program), like="studiogan")
    assert "holds no tensors" in line and not (tmp_path / "mark").exists()
    state = changed(g, drop=["blocks.1.0.conv2.u0"], stranger=torch.zeros(2))
    state["output_layer.0.gain"] = torch.zeros(3)
    line = refusal(tmp_path, torch_peers.write(pth, state), like="biggan")
    for part in (
        "1 missing (blocks.1.0.conv2.u0)",
        "1 left over (stranger)",
        "1 of another shape (output_layer.0.gain (3,), not (8,))",
    ):
        assert part in line
    state = changed(g, **{"blocks.0.0.bn1.gain.weight": torch.full((5, 16), np.nan)})
    line = refusal(tmp_path, torch_peers.write(pth, state), like="biggan")
    assert "NaN or infinity in params.block1.bn1.scale" in line
    for name, value, said in (
        ("linear.weight", torch.full((256, 6), 1e300, dtype=torch.float64), "infinity"),
        ("blocks.0.0.bn1.stored_var", -torch.ones(16), "a negative variance"),
        ("linear.u0", torch.zeros(1, 256), "a zero vector"),
        ("linear.weight", torch.ones(256, 6, dtype=torch.int8), "weight int8"),
    ):
        state = changed(g, **{name: value})
        assert said in refusal(tmp_path, torch_peers.write(pth, state), like="biggan")
    line = refusal(tmp_path, good, "--g.width", 16, like="biggan")
    assert f"g.width = 16: {good} has 8" in line
    line = refusal(tmp_path, torch_peers.write(pth, {"G": changed(g)}), like="biggan")
    assert "it has G" in line
    twice = [
        write(tmp_path / f"{x}_step{i}.pth", "biggan", g=g)
        for i, x in enumerate(["G", "my_G_ema"], 1)
    ]
    assert "of steps 1 and 2" in refusal(tmp_path, *twice, like="biggan")
    last = [x for x in d.state_dict() if x.endswith("conv1.weight")][-1]
    wide = torch_peers.write(pth, changed(d, **{last: torch.zeros(2**16, 1, 1, 1)}))
    line = refusal(tmp_path, good, wide, like="biggan")
    assert "bytes, too few for the" in line
    far = write(tmp_path / "model-step=2147483648.pth", "biggan", g=g)
    assert f"{far}: step '2147483648'; must be" in refusal(tmp_path, far, like="biggan")
    line = refusal(tmp_path, tmp_path, like="biggan")
    assert line == f"{tmp_path}: is a folder; --like biggan needs a .pth"


@pytest.mark.parametrize("case", ["studiogan", "biggan", "mmgen"])
def test_sizes_without_a_network_are_one_line(tmp_path, case):
    name, g, d = networks(case)
    layout = LAYOUTS[name]
    blocks = tuple(f"{p}." for p in ("blocks", "conv_blocks", layout.first_d) if p)
    headless = {k: x for k, x in d.state_dict().items() if not k.startswith(blocks)}
    empty = dict(g.state_dict())
    conv = f"{layout.blocks.format(0)}.{layout.names['conv1']}.weight_orig"
    conv = conv if conv in empty else conv.removesuffix("_orig")
    empty[conv] = empty[conv][:0]
    for states, said in (
        ((g.state_dict(), headless), "no blocks"),
        ((empty, d.state_dict()), "must be a matrix"),
    ):
        files = [
            torch_peers.write(tmp_path / f"{i}.pth", {"state_dict": state})
            for i, state in enumerate(states)
        ]
        assert said in refusal(tmp_path, *files, like=name)


def test_a_workdir_with_checkpoints_stays(imported, tmp_path):
    name, g, _, workdir = imported
    before = (workdir / "config.json").read_bytes()
    if name == "biggan":
        file = write(tmp_path / "G.pth", name, g=g)
        with pytest.raises(ConfigError):
            run(file, "--like", name, "--workdir", workdir)
    assert (workdir / "config.json").read_bytes() == before


def features(image):
    return image.reshape(len(image), -1, 4).mean(axis=2)[:, ::8]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["studiogan", "mmgen"])
def test_a_converted_run_is_evaluated_drawn_reported_and_started_from(tmp_path, name):
    _, g, d = networks(name, classes=10)
    files = [write(tmp_path / "G.pth", name, g=g), write(tmp_path / "D.pth", name, d=d)]
    if name == "mmgen":
        files = [write(tmp_path / "both.pth", name, g=g, d=d)]
    workdir = tmp_path / "run"
    digits = ["--data.name", "digits", "--data.batch", 16, "--g.bn-group", 0]
    run(*files, "--like", name, *digits, "--workdir", workdir)
    protocol = Protocol(metrics="fid", samples=40, reals=60, batch_norm="moving")
    evaluate_run(workdir, protocol, features=features)
    card = (workdir / "eval" / "step_0" / "card.md").read_text()
    sigma = {"studiogan": "iterate", "mmgen": "stored"}[name]
    assert f"sigma of spectral normalisation: {sigma}" in card
    assert "gone" not in card
    attend_command([str(workdir)])
    assert list((workdir / "attend").rglob("*.png"))
    report_command([str(workdir)])
    assert (workdir / "report.html").stat().st_size > 10_000
    warm = replace(
        read_config(workdir), {"run.init_from": str(workdir), "run.steps": 1}
    )
    lines = []
    train(warm, tmp_path / "warm", report=lines.append)
    assert any("D: all" in line for line in lines)
    assert any("G: all" in line for line in lines)

import html
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sagan
from sagan.checkpoints import restore
from sagan.checkpoints.restore import OpenedRun, SavedRun, open_run
from sagan.config import ConfigError, replace
from sagan.data.pipeline import open_source
from sagan.evaluation import results
from sagan.sampling import attention_maps
from sagan.sampling.attention_maps import AttentionGrid, LayerAttention
from sagan.visualization import (
    curves,
    embedded,
    explorer,
    report,
    report_page,
    run_record,
    svg,
)
from sagan.visualization.explorer import Explorer
from sagan.visualization.report_page import render_page
from tests.support import pages

GRIDS = [AttentionGrid(16, 8), AttentionGrid(28, 7), AttentionGrid(34, 34)]
EVIL = "</script><img src=x onerror=alert(1)>"


def data_of(text):
    """What the page gives to its script."""
    pattern = r'<script type="application/json" id="explorer-data">(.*?)</script>'
    return json.loads(re.search(pattern, text, re.DOTALL)[1])


# The explorer's data


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_page_has_the_rows_of_beta_but_for_the_rounding_to_a_byte(grid):
    beta, shown = pages.scattered(grid), explorer.coarsen(grid)
    layer = explorer.pack_layer(LayerAttention(beta, np.float32(0.5)), grid)
    found = pages.unpack_beta(layer)
    assert found.shape == (shown.side**2, shown.cells**2)
    for y, x in [(0, 0), (1, 2), (shown.side - 1, shown.side - 1)]:
        j = y * shown.stride * grid.queries + x * shown.stride
        row = beta[j].reshape(grid.keys, grid.keys)
        cells = [
            row[a : a + shown.block, b : b + shown.block].sum()
            for a in range(0, grid.keys, shown.block)
            for b in range(0, grid.keys, shown.block)
        ]
        given = found[y * shown.side + x]
        assert np.abs(given - cells).max() <= max(cells) / 510 + 1e-6
    assert shown.side <= 32 and shown.cells <= 16
    sizes = [len(v) for v in layer.values() if isinstance(v, str)]
    assert shown.nbytes <= sum(sizes) <= shown.nbytes + 4 * len(sizes)


@pytest.mark.parametrize("grid", GRIDS[1:], ids=str)
def test_the_numbers_are_those_of_maps(grid):
    beta, rows = pages.scattered(grid), explorer.coarsen(grid).rows
    layer = explorer.pack_layer(LayerAttention(beta, np.float32(0.5)), grid)
    wanted = {
        "entropy": attention_maps.entropy_bits(jnp.asarray(beta))[rows],
        "distance": attention_maps.distance_pixels(jnp.asarray(beta), grid)[rows],
        "largest": beta[rows].max(axis=1),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(explorer.unpack(layer[name]), values, rtol=1e-5)
    uniform = explorer.layer_facts("attention", grid, 0.0)["uniform_pixels"]
    wanted = attention_maps.uniform_pixels(grid)[rows]
    np.testing.assert_allclose(explorer.unpack(uniform), wanted, rtol=1e-5)


def test_a_row_that_looks_at_one_position_has_no_entropy_and_all_the_share():
    grid = AttentionGrid(16, 8)
    beta = pages.focused(grid, np.full(64, 5), share=1.0)
    layer = explorer.pack_layer(LayerAttention(beta, np.float32(0.5)), grid)
    assert (explorer.unpack(layer["entropy"]) == 0).all()
    assert (pages.unpack_beta(layer).argmax(axis=1) == 5).all()
    assert (explorer.unpack(layer["top"]) == 1).all()


def test_the_images_of_an_explorer_fit_into_its_bytes():
    grids = {"a": AttentionGrid(256, 64), "b": AttentionGrid(256, 128)}
    each = 256 * 256 * 4 + 2 * explorer.coarsen(grids["a"]).nbytes
    assert explorer.count_images(grids, 10, 3 * each) == 3
    assert explorer.count_images(grids, 2, 3 * each) == 2
    assert explorer.count_images(grids, 2, each - 1) == 0


# Curves


def test_long_curves_keep_the_extremes_of_every_stretch():
    values = np.sin(np.arange(100_000) / 50)
    values[12_345] = 9.0
    series = curves.Curve("loss", np.arange(100_000), values)
    few = svg.thin(series)
    assert len(few.steps) <= svg.MOST_POINTS
    assert few.values.max() == 9.0 and few.values.min() == values.min()
    assert (np.diff(few.steps) > 0).all()


def lines(count=3):
    return [
        {"step": 10 * i, "d_loss": 1.0 + i, "g_loss": -1.0, "gamma/g/attention8": -0.1}
        | {"entropy/g/attention8": 3.5, "d_grad_norm": 1.0, "g_grad_norm": 0.5}
        for i in range(count)
    ]


def test_what_is_logged_becomes_curves_and_the_uniform_is_dotted(tmp_path):
    run = pages.run(tmp_path, metrics=lines())
    drawn = curves.make_plots([run.record])
    titles = {plot.title: plot for plot in drawn}
    entropy = titles["entropy of attention, bits"]
    assert entropy.levels == {"uniform": 4.0}
    assert entropy.curves[0].label == "G, attention8"
    assert "(-gamma, -v) are the same function" in titles["gamma"].note
    loss = titles["loss"]
    assert [line.values.tolist() for line in loss.curves] == [[1, 2, 3], [-1, -1, -1]]
    assert titles["gradient norm"].log
    assert "diversity of a batch" not in titles  # nothing of it was logged


def test_of_several_runs_the_curves_lie_over_each_other(tmp_path):
    more = [{**line, "entropy/g/attention16": 5.5} for line in lines()]
    one = pages.run(tmp_path, name="one", metrics=lines())
    two = pages.run(tmp_path, name="two", metrics=more, g__attention=(8, 16))
    titles = {plot.title: plot for plot in curves.make_plots([one.record, two.record])}
    loss = titles["loss (discriminator)"]
    assert [(line.label, line.colour) for line in loss.curves] == [
        ("one", 0),
        ("two", 1),
    ]
    entropy = titles["entropy of attention, bits (G, attention16)"]
    assert entropy.levels == {"uniform": 6.0}  # of this layer alone
    assert [(line.label, line.colour) for line in entropy.curves] == [("two", 1)]


def test_a_curve_is_an_svg_with_the_colour_of_the_page_and_no_text_of_the_run():
    series = curves.Curve(EVIL, np.arange(3), np.array([1.0, 2.0, 4.0]))
    plot = curves.Plot(EVIL, (series,), {EVIL: 2.0}, log=True)
    text = svg.draw_svg(plot)
    assert text.startswith("<svg") and "currentColor" in text and "onerror" not in text
    assert "$" not in text and len(text) < 20_000
    assert svg.draw_svg(plot) == text  # the same every time
    assert svg.legend(plot)[0][0] == EVIL


# What a workdir holds


def test_logs_that_cannot_be_trusted_are_read_as_far_as_they_are_right(tmp_path):
    good = '{"step": 5, "d_loss": 1.5, "g_loss": "nan", "note": "x", "list": []}'
    (tmp_path / "metrics.jsonl").write_text(f'[]\n{{"step": "3"}}\n{good}\n{{"step": 7')
    deep = "[" * 100_000
    found = {"step": 6, "message": EVIL}
    (tmp_path / "monitor.jsonl").write_text(
        f'{deep}\n{{"step": 1}}\n{json.dumps(found)}'
    )
    (tmp_path / "data.json").write_text('{"classes": 3}')
    damaged = ["[]", '{"about": 1, "results": 2, "sha256": ""}', deep]
    for name, result in zip("abc", damaged, strict=True):
        (tmp_path / "eval" / name).mkdir(parents=True)
        (tmp_path / "eval" / name / "results.json").write_text(result)
    read = run_record.read_record(tmp_path, pages.config())
    assert len(read.metrics) == 1
    row = read.metrics[0]
    assert (row["step"], row["d_loss"]) == (5, 1.5) and np.isnan(row["g_loss"])
    assert "note" not in row and read.findings == [found]
    assert read.class_names == () and read.results == []
    assert read.notes == ["evaluations that cannot be read: 3"]


ROW = {"metric": "fid", "weights": "raw", "value": 1.0}
SOUND = {"about": {"step": 3}, "results": [ROW], "notes": [], "protocol": {}}
SOUND |= {"versions": {}, "protocol_sha256": "a", "sha256": "b"}


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, 1),
        ({"about": {"step": 10**400}}, 0),
        ({"about": {"step": "3"}}, 0),
        ({"protocol_sha256": ["a"]}, 0),
        ({"results": [{**ROW, "value": 10**400}]}, 0),
        ({"results": [{**ROW, "value": "1"}]}, 0),
        ({"results": [{**ROW, "baseline": None}]}, 0),
        ({"results": [{**ROW, "weights": {}}]}, 0),
        ({"results": [{"metric": 1, "value": 1}]}, 0),
        ({"results": []}, 0),
        ({"notes": "a"}, 0),
    ],
)
def test_an_evaluation_that_cannot_be_shown_is_left_out(tmp_path, change, known):
    (tmp_path / "eval" / "step_3").mkdir(parents=True)
    path = tmp_path / "eval" / "step_3" / "results.json"
    path.write_text(results.to_json({**SOUND, **change}))
    assert len(run_record.read_record(tmp_path, pages.config()).results) == known


def test_the_newest_pictures_are_shown_averages_first(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("raw_00000010", "raw_00000020", "ema_00000010", "ema_00000020"):
        Image.new("L", (4, 4), int(name[-2:])).save(
            tmp_path / "samples" / f"{name}.png"
        )
    (tmp_path / "samples" / "ema_00000030.png").write_bytes(b"%!PS-Adobe-3.0")
    (tmp_path / "samples" / "other_00000020.png").mkdir()
    shown = run_record.sample_grids(tmp_path, 10_000)
    assert [p.caption for p in shown] == ["raw weights, step 20"]
    (tmp_path / "samples" / "ema_00000030.png").unlink()
    shown = run_record.sample_grids(tmp_path, 10_000)
    words = ["averaged weights, step 20", "raw weights, step 20"]
    assert [p.caption for p in shown] == words
    assert all(p.uri.startswith("data:image/png;base64,") for p in shown)


def test_a_picture_with_too_many_bytes_becomes_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    shown = embedded.embed(noise, "noise", 20_000)
    assert shown.uri.startswith("data:image/jpeg") and len(shown.uri) < 20_100
    assert 1.3 < shown.width / shown.height < 1.7


# The page


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    text = render_page([pages.run(tmp_path, metrics=lines())])
    links = set(
        re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]{1,40})""", text)
    )
    assert all(link.startswith(("#", "data:")) for link in links)
    text = html.unescape(text)
    assert "default-src 'none'" in text and "script-src 'sha256-" in text
    assert len(data_of(text)[0]["images"]) == 2


def test_names_from_files_are_text_and_not_markup(tmp_path):
    run = pages.run(tmp_path, metrics=lines(), name=f"a{EVIL}".replace("/", ""))
    grid = AttentionGrid(16, 8)
    layers = [("attention8", grid, pages.scattered(grid))]
    group = pages.explorer_of(layers, labels=(EVIL, "0"))
    findings = [{"step": 1, "message": EVIL}]
    notes = run.record._replace(findings=findings, notes=[EVIL])
    run = run._replace(explorers=[group._replace(note=EVIL)], record=notes)
    group.layers[0]["name"] = EVIL
    text = render_page([run])
    assert "<img src=x" not in text
    assert data_of(text)[0]["layers"][0]["name"] == EVIL


def test_names_from_files_are_shown_escaped(tmp_path):
    run = pages.run(tmp_path, data__path="x\udcff\x1b[31m\u202e", name="a\0\x9b")
    text = render_page([run])
    assert r"x\udcff\x1b[31m\u202e" in text and r"a\x00\x9b" in text
    text.encode()
    assert not set("\0\x1b\x9b\u202e") & set(text)


def test_a_bare_run_says_what_is_missing_and_how_to_get_it(tmp_path):
    run = pages.run(
        tmp_path, explorers=[Explorer("g", [], [], "no attention layer")], name="a b"
    )
    text = render_page([run])
    assert "There are no pictures in samples/ yet" in text
    assert "Nothing is logged in metrics.jsonl yet" in text
    assert f"sagan eval &#39;{tmp_path}/a b&#39;" in text
    assert "no attention layer" in text and data_of(text) == []


def test_the_page_tells_what_is_not_official(tmp_path):
    text = render_page([pages.run(tmp_path, optim__g_lr=0.25)])
    row = r'<th scope="row">optim.g_lr</th><td>0.25</td><td>0.0001</td>'
    assert row in text
    assert '<th scope="row">optim.d_lr</th>' not in text


def evaluated(run, value, protocol="p"):
    rows = [
        {"metric": "fid", "weights": weights, "batch_norm": "moving", "value": value}
        for weights in ("raw", "ema 0.5")
    ]
    result = {"about": {"step": 7}, "results": rows, "notes": [f"note of {run.name}"]}
    result |= {"protocol": {"samples": 99}, "protocol_sha256": protocol, "versions": {}}
    return run._replace(record=run.record._replace(results=[result]))


def test_an_evaluation_is_its_table_with_its_notes(tmp_path):
    text = render_page([evaluated(pages.run(tmp_path), 12.5)])
    assert "<td>12.5</td><td>12.5</td>" in text and "note of planted" in text
    assert "Step 7, 99 samples" in text and "sagan eval" not in text


def test_the_first_numbers_are_shown_and_the_table_folded(tmp_path):
    run = evaluated(pages.run(tmp_path), 12.5)
    (result,) = run.record.results
    more = ["kid", "is", "is_std", "precision", "recall", "accuracy"]
    result["results"] += [
        {**result["results"][1], "metric": name, "value": float(i)}
        for i, name in enumerate(more)
    ]
    text = render_page([run])
    headline = text[text.index("facts headline") : text.index("<summary>All metrics")]
    shown = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", headline)
    assert shown == [
        *[("fid ↓", "12.5"), ("kid ↓", "0"), ("is ↑", "1")],
        *[("precision ↑", "3"), ("recall ↑", "4")],
    ]
    folded = text[text.index("<summary>All metrics") :].partition("</details>")[0]
    assert "accuracy" in folded and "note of planted" in folded


def test_facts_have_the_times_and_the_version(tmp_path):
    row = {"step": 7.0, "time/unix_s": 1.8e9, "time/elapsed_s": 3700.0}
    facts = dict(report_page._facts(pages.run(tmp_path, metrics=[row])))
    assert facts["duration"] == "1:01:40" and facts["date"].startswith("2027-01-1")
    assert facts["sagan"] == sagan.__version__
    assert "date" not in report_page._facts(
        pages.run(tmp_path, metrics=[{"step": 7.0}])
    )


def test_training_images_stand_beside_the_samples_class_by_class(opened, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        report, "image_grid", lambda *given: drawn.append(given) or given[0][0]
    )
    (picture,) = report._draw_reals(opened, list("0123456789"), 10**6)
    ((image, label, titles),) = drawn
    assert picture.caption == "training images" and titles[3] == "class 3"
    assert label.tolist() == sorted([*range(10)] * 8) and image.shape == (80, 8, 8, 1)
    source = restore.open_data(opened.workdir, opened.config)
    every = source.examples(np.arange(len(source)))
    for one, k in zip(image[::8], label[::8], strict=True):
        same = (every.image == one).all(axis=(1, 2, 3))
        assert k in every.label[same]
    config = replace(opened.config, {"data.classes": 0})
    monkeypatch.setattr(report, "open_data", lambda *_: source)
    unconditional = opened._replace(saved=restore.SavedRun(opened.workdir, config))
    report._draw_reals(unconditional, [], 10**6)
    spread = np.linspace(0, len(source) - 1, 64).astype(int)
    np.testing.assert_array_equal(drawn[1][0], every.image[spread])


def test_several_runs_are_compared(tmp_path):
    one = evaluated(pages.run(tmp_path, name="one", optim__g_lr=0.25), 12.5)
    two = evaluated(pages.run(tmp_path, name="two", optim__g_lr=0.5), 7.5, "q")
    text = render_page([one, two])
    assert "<h3>Fields that differ between the runs</h3>" in text
    assert '<th scope="row">optim.g_lr</th><td>0.25</td><td>0.5</td><td>0.0001' in text
    assert '<th scope="row">fid</th><td>12.5</td><td>7.5</td>' in text
    assert "The protocols differ" in text
    assert len(data_of(text)) == 2


# From a workdir


@pytest.fixture(scope="module")
def opened(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def written(finished_run, tmp_path_factory):
    """A report of a run, whose networks are not compiled: see the slow test."""
    workdir = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(finished_run, workdir)
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines())))
    patch = pytest.MonkeyPatch()
    patch.setattr(report, "SHEETS", {"broken": broken})
    patch.setattr(attention_maps, "make_reader", planted_reader)
    told = report.report([workdir])
    patch.undo()
    return workdir, told, (workdir / "report.html").read_text()


def planted_reader(config, player):
    """Every position looks at the key of the label."""

    def read(variables, one, label):
        reads = {
            name: LayerAttention(pages.focused(grid, int(label) % 4), np.float32(0.25))
            for name, grid in attention_maps.attention_layers(config, player).items()
        }
        size = config.data.size
        return (jnp.zeros((size, size, 1)) if player == "g" else jnp.ones(())), reads

    return read


def broken(opened, *, seed, classes):
    raise ConfigError("there is no such thing")


def test_a_report_shows_both_networks_of_a_checkpoint(written):
    workdir, told, text = written
    assert f"run: step 2 (EMA 0.5): {workdir / 'report.html'} (0." in told
    groups = data_of(text)
    assert [len(group["images"]) for group in groups] == [10, 6]
    assert [group["layers"][0]["queries"] for group in groups] == [8, 4]
    assert groups[0]["images"][0]["logit"] is None
    assert isinstance(groups[1]["images"][0]["logit"], float)
    assert "It cannot be drawn: there is no such thing" in text


@pytest.mark.parametrize(("player", "number"), [("g", 9), ("d", 3)])
def test_every_image_has_its_own_attention(written, opened, player, number):
    groups = dict(zip("gd", data_of(written[2]), strict=True))
    images = groups[player]["images"]
    source = open_source(opened.config)
    real = source.labels(np.linspace(0, len(source) - 1, 6).astype(int))
    label = number if player == "g" else real[number]
    found = pages.unpack_beta(images[number]["layers"][0])
    assert (found.argmax(axis=1) == label % 4).all()
    np.testing.assert_allclose(found.max(axis=1), 0.75)


@pytest.mark.slow
def test_a_report_shows_what_the_reader_reads(finished_run, opened, tmp_path):
    report.report([finished_run], out=tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    d = opened.state.d
    variables = {"params": d.params, **d.stats}
    source = open_source(opened.config)
    images, labels = source.examples(np.linspace(0, len(source) - 1, 6).astype(int))
    reader = attention_maps.make_reader(opened.config, "d")
    _, reads = reader(variables, attention_maps.to_float(images)[3], labels[3])
    found = pages.unpack_beta(data_of(text)[1]["images"][3]["layers"][0])
    np.testing.assert_allclose(found, reads["attention4"].beta, atol=2e-3)


def test_a_mistake_is_one_line(written, tmp_path):
    workdir = written[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(workdir / "config.json", empty)
    for folder, options, said in [
        (tmp_path / "nowhere", {}, "holds no run"),
        (empty, {}, "has no checkpoint yet"),
        (workdir, {"step": 9}, "9"),
        (workdir, {"weights": "best"}, "--weights best: there are raw, ema"),
        (workdir, {"out": tmp_path}, "is a folder; must be a file"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(said)) as error:
            report.report([folder], **options)
        assert "\n" not in str(error.value)


def test_a_network_that_cannot_be_shown_is_a_note(tmp_path):
    without = replace(pages.config(), {"g.block": "none", "d.attention": ()})

    def shown(config, player, budget=10**6):
        opened = OpenedRun(SavedRun(tmp_path, config), None, 1, None)
        return explorer.make_explorer(opened, player, (), seed=0, budget=budget)

    assert shown(without, "g") == Explorer(
        "g", [], [], "The generator has no attention layer."
    )
    assert "discriminator has no attention layer" in shown(without, "d").note
    assert "no image fits into 10 bytes" in shown(pages.config(), "g", 10).note
    gone = replace(pages.config(), {"data.name": "folder", "data.path": "/nowhere"})
    assert "discriminator cannot be shown: " in shown(gone, "d").note


def test_a_network_that_is_not_finite_is_a_note(opened, monkeypatch):
    def broken_reader(config, player):
        grid = AttentionGrid(8, 8)
        beta = np.full((64, 16), np.nan, np.float32)
        read = {"attention8": LayerAttention(beta, np.float32(0.25))}
        return lambda *inputs: (jnp.zeros((grid.size, grid.size, 1)), read)

    monkeypatch.setattr(attention_maps, "make_reader", broken_reader)
    names = run_record.read_record(opened.workdir, opened.config).class_names
    shown = explorer.make_explorer(opened, "g", names, seed=0, budget=10**6)
    said = "The generator cannot be shown: g/attention8: its attention is not finite"
    assert shown == Explorer("g", [], [], said)


@pytest.mark.slow
def test_as_many_images_as_fit_do_fit():
    grids = {f"attention{n}": AttentionGrid(128, n) for n in (32, 64)}
    layers = [(name, grid, pages.scattered(grid)) for name, grid in grids.items()]
    group = pages.explorer_of(layers, labels=("",))
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    one = explorer.image_facts(noise, "", group.images[0]["layers"])
    for most in report._EXPLORERS.values():
        n = explorer.count_images(grids, 10, most)
        assert n >= 2
        assert 0.9 * most - len(json.dumps(one)) < n * len(json.dumps(one)) < most


def test_a_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="page would have .* must be 1,000 at most"):
        report.write_page([pages.run(tmp_path)], tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()

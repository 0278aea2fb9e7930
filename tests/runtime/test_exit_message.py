import subprocess
import sys

from sagan.runtime import exit_message


def message_of(program):
    code = f"import os\nfrom sagan.runtime import exit_message\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return done.stderr, done.returncode


def test_a_process_that_is_aborted_leaves_a_message():
    armed = "exit_message.arm(['we never met', 'a peer died'])"
    assert message_of(f"{armed}; os.abort()") == ("we never met\n", -6)
    met = f"{armed}; exit_message.select(1)"
    assert message_of(f"{met}; os.kill(os.getpid(), 9)") == ("a peer died\n", -9)
    assert message_of(f"{met}; exit_message.exit_now(1)") == ("a peer died\n", 1)
    assert message_of(f"{met}; exit_message.disarm()") == ("", 0)
    assert message_of(f"{met}; exit_message.disarm(2)") == ("", 2)


def test_a_process_alone_needs_no_message():
    assert not exit_message.armed()
    exit_message.disarm(1)  # and lives on

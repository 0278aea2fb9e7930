"""A command's outcome: errors to one line and an exit code."""

import io
import sys
import traceback

from sagan.cli.arguments import Arguments, Command
from sagan.config.schema import ConfigError
from sagan.runtime import exit_message, output
from sagan.runtime.progress import printable
from sagan.runtime.signals import Stopped

_LESS_MEMORY = (
    "the device's memory is too small: try --model.attention-chunks 16, --model.remat,"
    " --model.dtype bfloat16, --optim.accumulate 2 (with a --g.bn_group that divides"
    " the micro-batch) or a smaller --data.batch; `sagan plan` checks this in advance"
)


def run(command: Command, args: Arguments) -> int:
    """Calls a command and returns its exit code.

    0: success, or stopped by a signal with nothing lost.
    1: full disk, too little memory, a lost process, a bug; for `sagan plan`: no fit.
    2: the user's mistake, in one line.
    3: training diverged.
    130: Ctrl-C outside training.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr, for any name
    with output.lasting():
        try:
            code = command(args) or 0
        except Stopped as stopped:
            print(stopped)
            code = 0
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            code = _report(error)
            if code is None:
                if not exit_message.armed():
                    raise
                traceback.print_exc()  # and end: the other processes wait for this one
                code = 1
        exit_message.disarm(code)
    return code


def _report(error: Exception) -> int | None:
    """Prints an expected error; returns its exit code, or None for any other error."""
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        print(f"error: {str(error).splitlines()[0]}\n{_LESS_MEMORY}", file=sys.stderr)
        return 1
    codes = {ConfigError: 2, FloatingPointError: 3, OSError: 1}
    code = next((codes[kind] for kind in codes if isinstance(error, kind)), None)
    lost = type(error).__name__ == "JaxRuntimeError" and exit_message.armed()
    if code is not None or lost:
        print("error:", printable(str(error), keep="\n"), file=sys.stderr)
    if lost:  # most likely another process ended
        exit_message.exit_now(1)
    return code

import os
import signal

import numpy as np
import pytest

from sagan.cli import main
from sagan.runtime.signals import Interrupt, Stopped

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def training():
    interrupt = Interrupt()
    interrupt.preparing = False
    return interrupt


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_a_request(number):
    with training() as interrupt:
        assert not interrupt.agreed
        send(number)
        assert interrupt.requested and interrupt.agreed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number):
    with training():
        send(number)
        # as where Python has no handler: the kernel ends the process
        assert {signal.getsignal(n) for n in Interrupt.signals} == {signal.SIG_DFL}


def test_a_terminal_that_closes_may_send_several_hangups():
    with training() as interrupt:
        for _ in range(3):
            send(signal.SIGHUP)
        assert interrupt.requested
        assert signal.SIG_DFL not in {signal.getsignal(n) for n in Interrupt.signals}
        send(signal.SIGTERM)  # the first of its kind, of a session that ends
        send(signal.SIGHUP)
    send(signal.SIGHUP)


def test_hangups_stay_ignored_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with training() as interrupt:
        send(signal.SIGHUP)
        assert not interrupt.requested
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_there_is_anything_to_save_stops_at_once(number):
    with Interrupt() as interrupt:
        with pytest.raises(Stopped, match="nothing is lost, and this starts again"):
            send(number)
        assert interrupt.requested
        send(signal.SIGHUP)  # and no second exception, while the first is handled
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_several_processes_stop_when_all_have_heard():
    with Interrupt(several=True) as interrupt:
        send(signal.SIGTERM)  # the others do not know yet, whatever this one does
        assert not interrupt.agreed
        interrupt.observe(np.float32(1.0))  # of a step that may still be running
        assert not interrupt.agreed
        interrupt.observe(np.float32(1.0))
        assert interrupt.agreed


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(Stopped("stopped"), 0, "stopped\n"), (KeyboardInterrupt(), 130, "")],
)
def test_a_stopped_command_is_a_success_and_ctrl_c_elsewhere_is_not(
    error, code, said, capsys
):
    def command(args):
        raise error

    assert main.run(command, []) == code
    assert capsys.readouterr().out == said

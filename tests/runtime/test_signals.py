import os
import signal
import threading
from types import SimpleNamespace

import pytest

from accelerator.errors import AcceleratorError, Terminated
from accelerator.runtime.signals import stop_on_signals


class Asked(SimpleNamespace):
    def __init__(self):
        super().__init__(asked=None, stop=None)

    def ask_to_stop(self, reason):
        self.asked = self.stop = reason


def raised(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks_to_stop_and_lets_the_step_finish(number, code):
    context = Asked()
    with stop_on_signals(context):
        raised(number)
        finished = True
    assert finished
    assert context.stop == number.name
    error = Terminated(context.stop)
    assert error.exit_code == code
    assert isinstance(error, AcceleratorError)
    assert number.name in str(error)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(second):
    context = Asked()
    with stop_on_signals(context):
        raised(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            raised(second)
    assert context.stop == "SIGTERM"


def test_the_handlers_of_before_come_back_also_after_an_error():
    def own(number, frame):
        pass

    def fail():
        assert signal.getsignal(signal.SIGTERM) is not own
        raise ZeroDivisionError

    before = signal.signal(signal.SIGTERM, own), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(ZeroDivisionError), stop_on_signals(Asked()):
            fail()
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is before[1]
    finally:
        signal.signal(signal.SIGTERM, before[0])


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with stop_on_signals(Asked()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]

"""Functions in a process of their own, which really crash, hang and take too much memory."""

import ctypes
import os
import time
from functools import partial

import pytest

from zephyr.deliver.gguf.process import Limits, ProcessFaultError, call_apart
from zephyr.errors import ModelError

ROOM = Limits(60, 1 << 30)


def noisy_sum(a, b):
    os.write(1, b"from a library")
    os.write(2, b"an error of no importance\n")
    return a + b


def crash():
    os.write(2, b"loading\nGGML_ASSERT(n > 0) failed\n")
    ctypes.string_at(0)


def refuse():
    raise ModelError("here", "is wrong", "mend it")


def fail():
    raise ValueError("Failed to load model from file")


def test_what_it_returns_comes_back_and_its_noise_does_not(capfd):
    assert call_apart(partial(noisy_sum, 2, b=3), ROOM) == 5
    assert capfd.readouterr() == ("", "")


def test_a_crash_is_an_error_with_the_last_complaint(capfd):
    with pytest.raises(ProcessFaultError, match=r"^crashed \(SIGSEGV\): GGML_ASSERT\(n > 0\) failed$") as caught:
        call_apart(crash, ROOM)
    assert caught.value.crashed
    assert capfd.readouterr() == ("", "")


def test_errors_of_ours_are_raised_here_and_others_told():
    with pytest.raises(ModelError, match="here: is wrong; mend it"):
        call_apart(refuse, ROOM)
    with pytest.raises(ProcessFaultError, match=r"^failed: ValueError: Failed to load model from file$") as caught:
        call_apart(fail, ROOM)
    assert not caught.value.crashed


def test_time_and_memory_have_limits():
    with pytest.raises(ProcessFaultError, match=r"^took over 1 seconds$"):
        call_apart(partial(time.sleep, 60), Limits(1, 1 << 30))
    with pytest.raises(ProcessFaultError, match=r"^failed: MemoryError"):
        call_apart(partial(bytes, 1 << 30), Limits(60, 1 << 28))

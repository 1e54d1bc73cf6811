"""A bar for people, plain lines for logs."""

import io
import re

import pytest

from zephyr.progress import SILENT, show_progress


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_plain_line_now_and_then_with_the_time_left():
    stream, clock = io.StringIO(), Clock()
    with show_progress("dpo", 100, first_step=20, stream=stream, seconds_between_lines=30, clock=clock) as display:
        for step in range(21, 101):
            clock.seconds += 2
            display.update(step, loss=1 / step if step % 10 == 1 else None)
    # 2 seconds a step, counted from step 20: at step 36 there are 64 steps left, 128 seconds. The first step alone,
    # which waits for what is prepared only once, says nothing of the others.
    assert stream.getvalue().splitlines() == [
        "dpo: step 21 of 100 (21 %), loss 0.0476",
        "dpo: step 36 of 100 (36 %), loss 0.0323, 0:02:08 left",
        "dpo: step 51 of 100 (51 %), loss 0.0196, 0:01:38 left",
        "dpo: step 66 of 100 (66 %), loss 0.0164, 0:01:08 left",
        "dpo: step 81 of 100 (81 %), loss 0.0123, 0:00:38 left",
        "dpo: step 96 of 100 (96 %), loss 0.0110, 0:00:08 left",
        "dpo: step 100 of 100 (100 %), loss 0.0110, took 0:02:40",
    ]


def lines_of(num_steps: int, *steps: tuple[float, int]) -> list[str]:
    """The lines on steps, each with the seconds when it was done."""
    stream, clock = io.StringIO(), Clock()
    with show_progress("answers", num_steps, stream=stream, seconds_between_lines=0.1, clock=clock) as display:
        for seconds, step in steps:
            clock.seconds = 100.0 + seconds
            display.update(step)
    return [line.removeprefix("answers: step ") for line in stream.getvalue().splitlines()]


def test_no_time_is_estimated_from_too_little():
    # From less than a second; from less than 3 % of the work, unless two minutes have passed.
    assert lines_of(100, (0.5, 50), (1.5, 60)) == ["50 of 100 (50 %)", "60 of 100 (60 %), 0:00:01 left"]
    # 2 answers in 46 seconds would be 18 hours for the others, 90 in 60 are half an hour.
    assert lines_of(2865, (46, 2), (60, 90)) == ["2 of 2865 (0 %)", "90 of 2865 (3 %), 0:30:50 left"]
    assert lines_of(2865, (119, 80), (120, 80)) == ["80 of 2865 (2 %)", "80 of 2865 (2 %), 1:09:38 left"]


def test_no_steps_and_no_loss_are_no_trouble():
    stream = io.StringIO()
    with show_progress("sft", 0, stream=stream, clock=Clock()) as display:
        display.update(0)
    assert stream.getvalue() == "sft: step 0 of 0 (0 %), took 0:00:00\n"


def test_a_terminal_gets_a_bar_with_count_time_and_loss(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    with show_progress("dpo", 100, first_step=50, stream=stream, clock=clock) as display:
        for step in range(51, 81):
            clock.seconds += 2
            display.update(step, loss=0.5)
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert " 80/100 left 0:00:40 loss 0.5000" in drawn


def test_a_failure_passes_through_and_the_bar_ends():
    stream = Terminal()
    with pytest.raises(KeyError), show_progress("dpo", 3, stream=stream):
        raise KeyError
    SILENT.update(3, 0.1)

"""When a checkpoint is due by the clock, on a clock of the test's own."""

from zephyr.train.checkpoint.checkpoint import SaveClock


class Watch:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def go(self, seconds):
        self.now += seconds


def test_a_checkpoint_is_due_after_the_time_that_was_asked_for():
    watch = Watch()
    clock = SaveClock(120.0, clock=watch)
    watch.go(119)
    assert not clock.is_due()
    watch.go(1)
    assert clock.is_due()
    clock.save(lambda: watch.go(2))
    assert not clock.is_due()
    watch.go(120)
    assert clock.is_due()


def test_saving_takes_a_twentieth_of_the_time_at_most():
    watch = Watch()
    clock = SaveClock(120.0, clock=watch)
    clock.save(lambda: watch.go(90))
    watch.go(20 * 90 - 1)
    assert not clock.is_due()
    watch.go(1)
    assert clock.is_due()


def test_without_a_time_nothing_is_ever_due():
    watch = Watch()
    clock = SaveClock(None, clock=watch)
    watch.go(1.0e9)
    assert not clock.is_due()

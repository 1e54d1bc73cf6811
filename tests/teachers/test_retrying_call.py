"""Limits, pauses and statuses: how a call is paced, and which failures are tried again."""

import asyncio
import itertools
import random

import pytest

from zephyr.teachers.endpoint.chat_client import retry_after, trouble_of_status
from zephyr.teachers.endpoint.retrying_call import AdaptiveConcurrency, Backoff, Pace


def test_the_limit_doubles_then_halves_then_creeps():
    async def story() -> list[float]:
        clock = itertools.count(1.0)
        slots = AdaptiveConcurrency(100, clock=lambda: float(next(clock)))
        limits = [slots.limit]
        for overloaded in (False, False, True, False):
            began = [await slots.acquire() for _ in range(int(slots.limit))]
            for moment in began:
                slots.release(moment, overloaded=overloaded)
            limits.append(slots.limit)
        return limits

    first, second, third, halved, crept = asyncio.run(story())
    assert first == 8
    assert second > first
    assert third > second
    assert halved == third / 2
    assert halved < crept <= halved + 1


def test_a_pace_lets_a_second_of_calls_go_and_then_spaces_them():
    now = 100.0
    pace = Pace(120, clock=lambda: now)
    assert [pace.book() for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    pace.give_back(2)
    assert pace.book() == 0.5
    assert Pace(None).book(10**9) == 0.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250"}, 0.25), ({}, None), ({"retry-after": "soon"}, None)],
)
def test_the_pause_a_server_asks_for(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_pause_until_a_date():
    assert retry_after({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 10**8


def test_back_off_waits_at_least_what_is_asked_for():
    backoff, dice = Backoff(0.5, 30.0), random.Random(0)
    assert all(backoff.pause(tries, 7.0, dice) >= 7.0 for tries in range(1, 40))
    assert all(0 <= backoff.pause(tries, None, dice) <= 30.0 for tries in range(1, 2000))


@pytest.mark.parametrize(
    ("status", "message", "headers", "final"),
    [
        (429, "slow down", {}, False),
        (429, "insufficient_quota", {}, True),
        (429, "come back tomorrow", {"retry-after": "86400"}, True),
        (500, "", {}, False),
        (529, "overloaded", {}, False),
        (408, "", {}, False),
        (400, "bad", {}, True),
        (422, "bad", {}, True),
    ],
)
def test_which_statuses_are_final(status, message, headers, final):
    assert trouble_of_status(status, message, headers).is_final is final

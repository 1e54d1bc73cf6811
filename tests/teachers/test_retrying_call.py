"""Limits, pauses and statuses: how a call is paced, and which failures are tried again."""

import asyncio
import itertools
import random

import pytest

from zephyr.teachers.endpoint.retrying_call import AdaptiveConcurrency, Backoff, Pace
from zephyr.teachers.endpoint.troubles import asked_pause, retry_after, trouble_of_status


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


def test_a_pause_that_ends_between_two_looks_at_the_clock_ends():
    """The pause ends at 0.025; the clock says 0.02 at the first look and 0.03 at the next. No other call is there."""

    async def story() -> float:
        looks = itertools.count()
        slots = AdaptiveConcurrency(100, clock=lambda: next(looks) / 100)
        slots.close_for(0.015)  # looks at 0 and 0.01
        return await asyncio.wait_for(slots.acquire(), timeout=60)

    assert asyncio.run(story()) == 0.04


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


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000. Please try again in 1.5s.", 1.5),
        ("try again in 20 s", 20.0),
        ("Please retry in 31.4s.", 31.4),
        ("Please try again in 6m0s. Visit https://example.org/429 to learn more.", 360.0),
        ("Please try again in 1h2m3s.", 3723.0),
        ("retry after 20 seconds", 20.0),
        ("The limit resets in 2 minutes and 10 seconds", 130.0),
        ('{"retryDelay": "31s"}', 31.0),
        ('{"error": "Model is currently loading", "estimated_time": 20.0}', 20.0),
        ("in 250ms, or so: wait 250ms", 0.25),
        ("wait until 2026-01-01", None),
        ("Too many requests", None),
    ],
)
def test_a_pause_in_words(message, seconds):
    assert asked_pause({}, message) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3", "x-ratelimit-reset-tokens": "75s"}, 3.0),
        ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "6m0s"}, 8.64),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
            },
            360.0,
        ),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset-tokens": "soon"}, None),
    ],
)
def test_the_reset_of_what_is_used_up(headers, seconds):
    assert asked_pause(headers) == seconds


def test_a_limit_a_minute_without_a_time_is_waited_for():
    trouble = trouble_of_status(429, "Rate limit reached: 30 requests per minute", {})
    assert trouble.is_limit
    assert trouble.pause_seconds >= 10


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
        (429, "You exceeded your current quota, please check your plan. Please retry in 17.2s.", {}, False),
        (429, '[{"error": {"message": "exceeded your current quota", "details": [{"retryDelay": "17s"}]}}]', {}, False),
        (429, "You exceeded your current quota. Please retry in 7h12m.", {}, True),
        (429, "come back tomorrow", {"retry-after": "86400"}, True),
        (500, "", {}, False),
        (529, "overloaded", {}, False),
        (408, "", {}, False),
        (400, "bad", {}, True),
        (405, "Method Not Allowed", {}, True),
        (402, "pay", {}, True),
        (422, "bad", {}, True),
    ],
)
def test_which_statuses_are_final(status, message, headers, final):
    assert trouble_of_status(status, message, headers).is_final is final


@pytest.mark.parametrize(
    ("status", "message", "ours", "fatal"),
    [
        (401, "no key", True, True),
        (402, "no money", False, True),
        (429, "You exceeded your current quota, please check your plan and billing details.", False, True),
        (404, "404 page not found", True, False),
        (405, "Method Not Allowed", True, False),
        (422, "Extra inputs are not permitted", True, False),
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", False, False),
        (400, "filtered due to the prompt triggering Azure OpenAI's content management policy", False, False),
        (413, "", False, False),
    ],
)
def test_which_refusals_end_a_run(status, message, ours, fatal):
    trouble = trouble_of_status(status, message, {})
    assert (trouble.is_ours, trouble.is_fatal) == (ours, fatal)

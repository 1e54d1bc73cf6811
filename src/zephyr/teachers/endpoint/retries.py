"""What went wrong with a try, and whether and when another one makes sense."""

import email.utils
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

# A server that asks for a longer pause than this has no more to give today.
LONGEST_PAUSE_SECONDS = 600.0
OVERLOAD = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 529}
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}
# Codes of a 429 that no waiting mends.
EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached")


class Trouble(NamedTuple):
    """Why a try failed.

    `is_overload` is the server's sign that it has too much to do, `may_be_billed` that it may have answered all
    the same, `is_ours` that no call can succeed like this: the key, the address, or the model's name is wrong.
    """

    reason: str
    is_final: bool = False
    is_overload: bool = False
    may_be_billed: bool = False
    is_ours: bool = False
    pause_seconds: float | None = None  # what the server asked for


@dataclass(frozen=True)
class Backoff:
    """Pauses between the tries of one call: drawn from 0 to a bound that doubles.

    Full jitter: AWS Architecture Blog, "Exponential Backoff And Jitter", 2015
    """

    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def pause(self, tries: int, asked: float | None, dice: random.Random) -> float:
        """Seconds to wait after so many tries; what the server asked for is waited for in full."""
        drawn = dice.uniform(0, min(self.longest_seconds, self.first_seconds * 2 ** min(tries, 30)))
        return drawn if asked is None else asked + drawn / 10


def trouble_of_status(status: int, message: str, headers: Mapping[str, str]) -> Trouble:
    """What an HTTP status other than success means."""
    reason = f"HTTP {status}: {message}"
    pause = retry_after(headers)
    if status in OVERLOAD:
        too_long = pause is not None and pause > LONGEST_PAUSE_SECONDS
        final = too_long or any(code in message for code in EXHAUSTED)
        return Trouble(reason, is_final=final, is_overload=not final, pause_seconds=pause)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING:
        return Trouble(reason, is_overload=False, pause_seconds=pause)
    ours = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
    return Trouble(reason, is_final=True, is_ours=ours)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The pause a server asks for, in seconds: as a number, in milliseconds, or until a date.

    RFC 9110, 10.2.3
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())

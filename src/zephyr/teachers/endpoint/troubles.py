"""Why a try failed, by what the server said: its words, how long to wait, and whether any call can succeed.

What a server says may be anything; it is decoded, searched and shown, and never trusted to be in order.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import NamedTuple

# A server that asks for a longer pause has no quota left today.
LONGEST_PAUSE_SECONDS = 600.0
# How long to wait where a limit a minute is reached and no time is told.
_MINUTE_WINDOW_SECONDS = 20.0
_OVERLOAD = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 529}
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}
# Words of a 429 or 403 that no waiting fixes.
_EXHAUSTED = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|billing|exceeded your current quota|payment required|"
    r"(?:credit|account) balance is too low|out of credits",
    re.IGNORECASE,
)
# Words of a refusal that is about one request; the next may be answered.
_OF_ONE_REQUEST = re.compile(
    r"context.?(?:length|window)|maximum context|max_model_len|too (?:long|many tokens)|reduce the length|"
    r"content.?(?:filter|policy|management)|moderation|safety|flagged|blocked|image_url|must alternate|roles? must",
    re.IGNORECASE,
)
_MINUTE_WINDOW = re.compile(r"per.min(?:ute)?\b|/\s?min|\b[RT]PM\b", re.IGNORECASE)
_DURATION = r"\d{1,9}(?:\.\d{1,9})?\s{0,3}(?:ms|milliseconds?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])"
_DURATIONS = rf"{_DURATION}(?:[\s,]{{0,3}}(?:and\s)?{_DURATION}){{0,3}}"
_WAIT_WORDS = re.compile(
    rf"(?:try(?:ing)? again|retry(?:ing|[_-]?delay)?|wait|resets?|available)\b[^0-9]{{0,24}}({_DURATIONS})"
    r"|(?:estimated_time|retry_after)\W{1,4}(\d{1,9}(?:\.\d{1,9})?)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_UNIT_SECONDS = {"": 1.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_KEY_REMEDY = "check the key in the variable that api_key_env names"
_REMEDIES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: _KEY_REMEDY,
    HTTPStatus.FORBIDDEN: f"{_KEY_REMEDY}, and that it may use the model",
    HTTPStatus.NOT_FOUND: "check base_url, which ends in /v1 at most servers, and model",
    HTTPStatus.METHOD_NOT_ALLOWED: "check base_url, which ends in /v1 at most servers",
    HTTPStatus.PAYMENT_REQUIRED: "top up the account, and run again to continue",
}
_LATER = "see that the server is up, and run again to continue"
_OTHER_REMEDY = "change the teacher's section by that (base_url, model, left_out, max_tokens_field)"


class Trouble(NamedTuple):
    """Why a try failed.

    `is_final`: another try would not help. `is_overload`: the server is overloaded; `is_limit`: by a rate limit, which
    ends. `may_be_billed`: it may have answered all the same. `is_ours`: no call can succeed, as the key, the address or
    a setting is wrong; `is_fatal`: nor can any call from now on, though earlier ones have. `used`: tokens of prompt and
    completion that the server counted.
    """

    reason: str
    is_final: bool = False
    is_overload: bool = False
    is_limit: bool = False
    may_be_billed: bool = False
    is_ours: bool = False
    is_fatal: bool = False
    pause_seconds: float | None = None  # what the server asked for
    remedy: str = _OTHER_REMEDY
    used: tuple[int, int] | None = None


def trouble_of_status(status: int, message: str, headers: Mapping[str, str]) -> Trouble:
    """The trouble that an HTTP status other than success means; `message` is the body as text."""
    reason = f"HTTP {status}: {server_words(message)}"
    pause = asked_pause(headers, message)
    # A quota of a minute or a day is told in the same words as an empty account, and with the time at which it ends.
    ends = status == HTTPStatus.TOO_MANY_REQUESTS and _pause_in_words(message) is not None
    exhausted = status in (429, 403, 402) and _EXHAUSTED.search(message) is not None and not ends
    if exhausted or status == HTTPStatus.PAYMENT_REQUIRED:
        return Trouble(reason, is_final=True, is_fatal=True, remedy=_REMEDIES[HTTPStatus.PAYMENT_REQUIRED])
    if status in _OVERLOAD:
        if pause is not None and pause > LONGEST_PAUSE_SECONDS:
            remedy = f"run again to continue when the {pause:,.0f} s that it asks for are over"
            return Trouble(reason, is_final=True, is_fatal=True, remedy=remedy)
        if pause is None and status == HTTPStatus.TOO_MANY_REQUESTS and _MINUTE_WINDOW.search(message):
            pause = _MINUTE_WINDOW_SECONDS
        return Trouble(reason, is_overload=True, is_limit=status == 429, pause_seconds=pause, remedy=_LATER)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        return Trouble(reason, pause_seconds=pause, remedy=_LATER)
    ours = status == HTTPStatus.UNAUTHORIZED or (status != 413 and not _OF_ONE_REQUEST.search(message))
    fatal = status == HTTPStatus.UNAUTHORIZED
    remedy = _REMEDIES.get(status, _OTHER_REMEDY)
    return Trouble(reason, is_final=True, is_ours=ours, is_fatal=fatal, remedy=remedy)


def trouble_in_answer(error: object) -> Trouble:
    """The trouble that an `error` in a response of status 200 means, as proxies and local servers send them."""
    words = server_words(json.dumps({"error": error}))
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[45][0-9]{2}", str(code)) else None
    if status is not None:
        return trouble_of_status(status, json.dumps({"error": error}), {})._replace(may_be_billed=True)
    return Trouble(f"the answer is an error: {words}", is_final=True, may_be_billed=True, is_ours=True)


def server_words(body: str) -> str:
    """The server's own words in the body of an error: its message, or else all of it."""
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return " ".join(body.split())
    found = list(dict.fromkeys(_words(parsed)))
    return "; ".join(found) or " ".join(body.split())


def _words(value: object, depth: int = 0) -> Iterator[str]:
    """The texts under the names that servers give their messages."""
    if isinstance(value, str):
        yield " ".join(value.split())
    elif depth > 4:
        return
    elif isinstance(value, list):
        for one in value[:4]:
            yield from _words(one, depth + 1)
    elif isinstance(value, dict):
        where = value.get("loc")
        if isinstance(where, list) and isinstance(value.get("msg"), str):
            yield f"{'.'.join(map(str, where))}: {value['msg']}"
            return
        for name in ("error", "message", "detail", "errors", "metadata", "raw", "msg", "description"):
            if value.get(name):
                yield from _words(value[name], depth + 1)


# ---- waits ----


def asked_pause(headers: Mapping[str, str], message: str = "") -> float | None:
    """The pause that a server asks for, in seconds, in whatever words; None if it names none.

    `Retry-After` as a number or a date (RFC 9110, 10.2.3), then the words of its message, then the time at which the
    limits of its `x-ratelimit-reset` headers that are used up begin anew.
    """
    pause = retry_after(headers)
    if pause is None:
        pause = _pause_in_words(message)
    return pause if pause is not None else _reset_of_limits(headers)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The pause of the `Retry-After` header, in seconds; None if there is none."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, OverflowError):
        return None
    return max(0.0, date.timestamp() - time.time())


def _pause_in_words(message: str) -> float | None:
    found = _WAIT_WORDS.search(message[:10_000])
    return None if found is None else _seconds(found[1] or found[2])


def _reset_of_limits(headers: Mapping[str, str]) -> float | None:
    """The latest reset of the limits that have nothing left; the earliest where none says so."""
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        lower = name.lower()
        if "ratelimit" not in lower or "reset" not in lower:
            continue
        seconds = _seconds(value)
        if seconds is None:
            continue
        if seconds > 1e9:  # a moment in time, in seconds or milliseconds
            seconds = max(0.0, (seconds / 1000 if seconds > 1e11 else seconds) - time.time())
        left = headers.get(lower.replace("reset", "remaining"), "")
        (used_up if left.strip() == "0" else others).append(seconds)
    return max(used_up) if used_up else min(others, default=None)


def _seconds(text: str) -> float | None:
    """The seconds of a duration such as 1.5, 20 s, 6m0s, 120ms, 2 minutes; None for anything else."""
    if not re.fullmatch(rf"{_DURATIONS}|\d{{1,15}}(?:\.\d{{1,9}})?", text.strip(), re.IGNORECASE):
        return None
    total = 0.0
    for number, unit in _PART.findall(text):
        word = unit.lower()
        total += float(number) / 1000 if word.startswith(("ms", "milli")) else float(number) * _UNIT_SECONDS[word[:1]]
    return total

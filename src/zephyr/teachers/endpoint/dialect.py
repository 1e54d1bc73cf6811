"""How one server wants its requests: what it refuses is left out from then on, which is said once.

Only fields that sampling can do without are left out by themselves, and a JSON schema; a system message becomes a part
of the user's where the server's template has no such role. What a server says of anything else stays its refusal.
"""

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from zephyr.judging import RatingQuestion, read_rating_question
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.teachers.endpoint.troubles import Trouble
from zephyr.teachers.protocol import ChatRequest

_log = logging.getLogger(__name__)

_STATUSES = tuple(f"HTTP {status.value}" for status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY))
_REFUSED = re.compile(
    r"unsupported|support|unknown|unrecogni[sz]ed|unexpected|permitted|allowed|extra|additional|deprecated|"
    r"only the default|be specified|invalid (?:parameter|argument|field|request)|no such|not valid|incompatible",
    re.IGNORECASE,
)
# How the templates of Gemma and Mistral refuse a system message; llama.cpp hands their words on with status 500.
_NO_SYSTEM_ROLE = re.compile(
    r"system.{0,30}(?:not supported|unsupported|not allowed|invalid)|support.{0,20}\bsystem\b"
    r"|roles? must (?:alternate|be)|should alternate|alternate user",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"too (?:large|high|big)|at most|exceed|less than|greater than|no more than", re.IGNORECASE)
# Both may not be given together: then the temperature stays.
_SAMPLING = ("top_p", "top_k", "seed", "temperature")
_OTHER_FIELD: Mapping[str, Literal["max_tokens", "max_completion_tokens"]] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


class Dialect:
    """The fields of requests to one server: those of the section, and what was learnt from its refusals."""

    def __init__(self, section: EndpointSection) -> None:
        self.wants_schema = section.structured
        self.section = section
        self._fixed: set[str] = set()

    def question_of(self, request: ChatRequest) -> RatingQuestion | None:
        """The question to a judge in the request, if it is to ask for a schema."""
        if not self.wants_schema:
            return None
        try:
            return read_rating_question(request.messages)
        except ValueError:
            return None

    def adapts_to(self, trouble: Trouble, body: Mapping[str, object]) -> bool:
        """Whether the trouble is that the server refuses a part of the body that can go; it is not sent any more."""
        return self._moves_system_message(trouble, body) or self._drops_field(trouble, body)

    def _moves_system_message(self, trouble: Trouble, body: Mapping[str, object]) -> bool:
        if not _has_system_message(body) or not _refuses_system_role(trouble):
            return False
        if self.section.system_role == "user":  # by an earlier refusal, while this request was on its way
            return True
        return self._change({"system_role": "user"}, "the system role is refused, the user's message has its text")

    def _drops_field(self, trouble: Trouble, body: Mapping[str, object]) -> bool:
        if not trouble.reason.startswith(_STATUSES):
            return False
        refused = _refused_field(trouble.reason, body)
        if refused in self.section.left_out:  # by an earlier refusal, while this request was on its way
            return True
        if refused in _OTHER_FIELD:
            return self._renames(refused)
        if refused:
            left_out = [*self.section.left_out, refused]
            return self._change({"left_out": left_out}, f"{refused} is refused, and not sent")
        if "response_format" in body:
            self.wants_schema = False
            return True
        return False

    def _renames(self, refused: str) -> bool:
        """Whether the field of the maximum length has another name that was not refused too; it is sent from now on."""
        if refused == self.section.max_tokens_field and refused not in self._fixed:
            other = _OTHER_FIELD[refused]
            self._fixed |= {refused, other}
            self._change({"max_tokens_field": other}, f"{refused} is refused, {other} is sent")
        return refused != self.section.max_tokens_field

    def _change(self, fields: dict[str, object], what: str) -> bool:
        ((name, value),) = fields.items()
        self.section = self.section.model_copy(update=fields)
        _log.warning(
            "%s: %s from now on; to say so in the teacher's section: %s: %s",
            self.section.model,
            what,
            name,
            json.dumps(value).replace('"', ""),
        )
        return True


def _has_system_message(body: Mapping[str, object]) -> bool:
    messages = body.get("messages")
    first_two = messages[:2] if isinstance(messages, list) else []
    return [message.get("role") for message in first_two if isinstance(message, dict)] == ["system", "user"]


def _refuses_system_role(trouble: Trouble) -> bool:
    statuses = (*_STATUSES, f"HTTP {HTTPStatus.INTERNAL_SERVER_ERROR.value}")
    return trouble.reason.startswith(statuses) and _NO_SYSTEM_ROLE.search(trouble.reason) is not None


def _refused_field(words: str, body: Mapping[str, object]) -> str:
    """The field of the body that the words refuse; empty where they do not."""
    if not _REFUSED.search(words):
        return ""
    named = {name: found.start() for name in (*_OTHER_FIELD, *_SAMPLING) if (found := _named(name, words))}
    sent = [name for name in named if name in body]
    if "top_p" in sent and "temperature" in sent and "both" in words:
        return "top_p"
    first = min(sent, key=named.__getitem__, default="")
    return "" if first in _OTHER_FIELD and _TOO_LARGE.search(words) else first


def _named(name: str, words: str) -> re.Match[str] | None:
    return re.search(rf"(?<![\w]){name}(?![\w])", words)

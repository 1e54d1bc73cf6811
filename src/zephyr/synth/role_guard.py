"""Whether a model that plays one side of a talk has stayed on its side.

A model that is to play the user slips easily into the assistant it was trained to be. What it writes then is refused,
not repaired: a talk of two assistants teaches the wrong thing.
"""

import re
from collections.abc import Sequence

from zephyr.data.filters.refusals import find_refusal
from zephyr.records.messages import Message

REPEATED_CHARACTERS = 60  # a run of so many that both sides have in common is a copy

_OWN_LABEL = re.compile(r"\A\s*\**(?:user|person|human|me|next message)\**\s*:\**\s*", re.IGNORECASE)
_LABEL = re.compile(r"^\s*\**(?:assistant|ai|bot|chatbot|user|person|human)\**\s*:", re.IGNORECASE | re.MULTILINE)
_QUOTES = (('"', '"'), ("\u201c", "\u201d"), ("'", "'"))
_AS_ASSISTANT = re.compile(
    r"\bhow (?:can|may|could) i (?:help|assist)\b"
    r"|\bi(?: am|'m| would be|'d be) (?:here|happy|glad|pleased) to (?:help|assist)\b"
    r"|\bi hope (?:this|that) (?:helps|answers)\b"
    r"|\b(?:feel free|don't hesitate|do not hesitate) to (?:ask|reach out)\b"
    r"|\blet me know if (?:you|there)\b"
    r"|\banything else i can\b"
    r"|\byou(?:'re| are) welcome\b"
    r"|\byour (?:question|request|message) (?:is|about)\b"
    r"|\A(?:sure|certainly|absolutely|of course)(?:\s*[!.:]|,? (?:here|i can|i'd|i'll|let me))"
    r"|\Ahere(?: is|'s| are)\b",
    re.IGNORECASE,
)
_OF_ITS_ROLE = re.compile(
    r"\bthe user (?:asks|asked|says|said|would|wants|could|might)\b|\bas (?:the|a) user (?:who|in)\b"
    r"|\b(?:the|my) next message\b|\bplay(?:ing)? (?:a|the) (?:person|user)\b",
    re.IGNORECASE,
)
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def person_text(text: str) -> str:
    """What the person says, without the label or the quotation marks that models like to put around it."""
    said = _OWN_LABEL.sub("", text, count=1).strip()
    for first, last in _QUOTES:
        inner = said[1:-1]
        if len(said) > 2 and said[0] == first and said[-1] == last and first not in inner and last not in inner:
            return inner.strip()
    return said


def person_fault(text: str, talk: Sequence[Message], *, fence: str = "") -> str | None:
    """Why a text cannot be what the person of this talk says next, or None."""
    said = text.translate(_APOSTROPHES)
    faults = {
        "empty answer": not said,
        "plays both sides": _LABEL.search(said),
        "refuses to play": find_refusal(said),
        "speaks as the assistant": _AS_ASSISTANT.search(said),
        "speaks of its role": _OF_ITS_ROLE.search(said) or (fence and fence in said),
        "repeats what was said": any(_is_copy(said, message.content.translate(_APOSTROPHES)) for message in talk),
    }
    return next((fault for fault, found in faults.items() if found), None)


def answer_fault(text: str) -> str | None:
    """Why an assistant's answer is not to be learnt, or None."""
    if _LABEL.search(text):
        return "plays both sides"
    refusal = find_refusal(text)
    return refusal.reason if refusal is not None else None


def key_of(text: str) -> str:
    """What two texts have in common that differ in case and spaces alone."""
    return " ".join(text.casefold().split())


def _is_copy(said: str, before: str) -> bool:
    new, old = key_of(said), key_of(before)
    return new == old or (len(new) >= REPEATED_CHARACTERS and new[:REPEATED_CHARACTERS] in old)

"""Questions to a judge: templates with fenced texts, and their inverse.

Every text that someone else wrote stands between two lines that carry a fence word. The word is drawn anew
for every question and occurs in none of its texts, so no text can end its own fence or open another's. What a
judge answers is read in `parsing`; which texts are asked about, and in which order, is left to the caller.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from string import Template

from zephyr.judging.aspects import OVERALL, RatingQuestion, scale_of
from zephyr.records.messages import ROLES, Message, Messages

TEMPLATE_VERSION = "v1"
FENCE_WORD_LENGTH = 16

_HEADER = re.compile(r"Rating task (\w+): (\w+)\. Fence word: ([0-9a-f]+)\.\n")


@functools.cache
def template_text(name: str) -> Template:
    """The template of that file name, of the current version."""
    text = resources.files("zephyr.judging").joinpath("templates", TEMPLATE_VERSION, name)
    return Template(text.read_text(encoding="utf-8").strip())


def fence_word(question: RatingQuestion, *, seed: int) -> str:
    """A word of hexadecimal digits that occurs in no text of the question.

    It depends on the seed and the question alone, so that a repeated call is the same request.
    """
    texts = list(_foreign_texts(question))
    attempt = 0
    while True:
        stuff = "\x1f".join((str(seed), str(attempt), question.aspect, *texts))
        word = hashlib.sha256(stuff.encode("utf-8", "surrogatepass")).hexdigest()[:FENCE_WORD_LENGTH]
        if not _occurs(word, texts):
            return word
        attempt += 1


def _foreign_texts(question: RatingQuestion) -> Iterator[str]:
    yield from (message.content for message in question.conversation)
    yield from question.answers
    yield question.notes


def _occurs(word: str, texts: Iterable[str]) -> bool:
    return any(word in text.lower() for text in texts)


def ask(question: RatingQuestion, *, nonce: str) -> Messages:
    """The conversation that puts the question to a judge; `nonce` is the fence word, see `fence_word`."""
    scale_of(question.aspect)
    num_answers = len(question.answers)
    if num_answers == 0 or (question.aspect == OVERALL and num_answers != 1):
        raise ValueError(f"'{question.aspect}' is not asked about {num_answers} answers")
    if re.fullmatch(r"[0-9a-f]{8,}", nonce) is None:
        raise ValueError(f"the fence word must be 8 or more digits of lower-case hexadecimal, got {nonce!r}")
    if _occurs(nonce, _foreign_texts(question)):
        raise ValueError(f"the fence word {nonce} occurs in a text; draw it with fence_word")
    conversation = [fenced(nonce, f"{turn.role} turn", turn.content) for turn in question.conversation]
    answers = [fenced(nonce, f"text {number}", text) for number, text in enumerate(question.answers, start=1)]
    notes = [fenced(nonce, "notes", question.notes)] if question.notes else ["None."]
    fields = {"aspect": question.aspect, "version": TEMPLATE_VERSION, "fence": nonce, "count": str(num_answers)}
    user = template_text(f"{question.aspect}.txt").substitute(
        fields,
        rules=template_text("rules.txt").substitute(fields),
        conversation="\n\n".join(conversation),
        notes="\n\n".join(notes),
        answers="\n\n".join(answers),
    )
    return (Message("system", template_text("system.txt").substitute(fields)), Message("user", user))


def fenced(nonce: str, label: str, text: str) -> str:
    """The text between two lines that carry the fence word, the first of which names it."""
    return f"<<<{nonce} {label}>>>\n{text}\n<<<{nonce} end>>>"


def read_question(messages: Messages) -> RatingQuestion:
    """The question that `ask` put into these messages, to the letter; ValueError if it did not write them.

    For judges that are rules, and for tests.
    """
    user = messages[-1].content if messages else ""
    header = _HEADER.match(user)
    if header is None:
        raise ValueError("the messages do not begin with the header of a rating task")
    nonce = header[3]
    fenced = re.findall(rf"<<<{nonce} ([a-z]+)[ \w]*>>>\n(.*?)\n<<<{nonce} end>>>", user, flags=re.DOTALL)
    roles = {role: role for role in ROLES}
    conversation = tuple(Message(roles[kind], text) for kind, text in fenced if kind in roles)
    answers = tuple(text for kind, text in fenced if kind == "text")
    notes = "".join(text for kind, text in fenced if kind == "notes")
    return RatingQuestion(header[2], conversation, answers, notes)

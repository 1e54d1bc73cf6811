"""Questions to a judge: ratings of texts by one aspect, and comparisons of two assistants; and their inverse.

Every text that someone else wrote stands between two lines that carry a fence word. The word is drawn anew for every
question and occurs in none of its texts, so no text can end its own fence or open another's. What a judge replies is
read in `parsing`; which texts are shown, and in which order, is left to the caller.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from string import Template
from typing import NamedTuple, get_args

from zephyr.errors import did_you_mean
from zephyr.recipe.feedback_section import Aspect
from zephyr.records.messages import PLAIN_ROLES, Message, Messages

OVERALL: Aspect = "overall"
ASPECTS: tuple[Aspect, ...] = tuple(aspect for aspect in get_args(Aspect) if aspect != OVERALL)
JUDGE_TEMPLATE_VERSION = "v1"
FENCE_WORD_LENGTH = 16

# The lines that a reply consists of. Runs of blanks side by side are bounded, so that none takes long to read.
HEADING = (
    r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8}\**|\*\*)[ \t]{0,8}"  # a heading, or a bold line
    r"(?:Output[ \t]+for[ \t]+)?Text[ \t]+<?([0-9]{1,4})>?[ \t*:]*$"
)
FIELD = r"[ \t]*(?:[-*][ \t]+)?[*_]{0,2}(Type|Rating|Rationale(?:[ \t]+For[ \t]+Rating)?)[*_]{0,2}[ \t]*:[*_]{0,2}"
OVERALL_LINE = r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8})?[*_]{0,2}Overall[ \t]+Score[*_]{0,2}[ \t]*:[*_]{0,2}"
VERDICT_LINE = r"[ \t]{0,8}[*_]{0,2}Verdict[*_]{0,2}[ \t]*:"
_COMPARISON = "comparison"
# What an echo of a text would have to hold to pass for a reply.
_FORGEABLE = {
    OVERALL: re.compile(f"^{OVERALL_LINE}", re.IGNORECASE | re.MULTILINE),
    _COMPARISON: re.compile(f"^{VERDICT_LINE}", re.IGNORECASE | re.MULTILINE),
}
_FORGEABLE_RATINGS = re.compile(f"^(?:{HEADING}|{FIELD})", re.IGNORECASE | re.MULTILINE)
_WORD_NOTES = {
    OVERALL: "{fence} Overall Score: a number from 1 to 10",
    _COMPARISON: "{fence} Verdict: A",
}
_WORD_NOTE = (
    "\n\nA text above holds lines of this form. So that yours can be told from them, each of your {lines} carries the "
    "fence word; without it, it does not count:\n\n{example}"
)
_RATING_HEADER = re.compile(
    r"Rating task \w+: (\w+)(?: from (\S+) to (\S+?)(, or N/A)?)?\. Fence word: ([0-9a-f]+)\.\n"
)
_COMPARISON_HEADER = re.compile(r"Comparing task (\w+)\. Fence word: ([0-9a-f]+)\.\n")
_ROLES = {role: role for role in PLAIN_ROLES}


class Scale(NamedTuple):
    """The ratings an aspect may get."""

    low: float
    high: float
    optional: bool = False  # "N/A" is a rating too
    typed: bool = False  # a list of fault or merit types may come before the rating


# Scales and fields of UltraFeedback: arXiv 2310.01377
SCALES = {
    "instruction_following": Scale(1, 5),
    "honesty": Scale(1, 5, optional=True),
    "truthfulness": Scale(1, 5, typed=True),
    "helpfulness": Scale(1, 5, typed=True),
    OVERALL: Scale(1, 10),
}


class RatingQuestion(NamedTuple):
    """Texts to rate by one aspect: all answers to a conversation at once, or one answer for "overall".

    `notes` is additional information for the judge: reference knowledge, or the principle the answer was to follow.
    `scale` is that of an aspect of a user's own.
    """

    aspect: str
    conversation: Messages
    answers: tuple[str, ...]
    notes: str = ""
    scale: Scale | None = None


class AspectWording(NamedTuple):
    """How a judge is asked about an aspect of a user's own: the user's words, and the template that they stand in.

    `system` comes before the system prompt of all questions. `version` tells the ratings of one wording from others.
    """

    question: str
    scale: Scale
    template: Template
    system: str
    version: str


class ComparisonQuestion(NamedTuple):
    """A user's turns, two assistants' answers to each of them, and reference answers, if there are any.

    `context` is the dialogue before the first of the turns, the same for both.
    """

    turns: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    references: tuple[str, ...] = ()
    context: Messages = ()

    def conversation(self, answers: tuple[str, ...]) -> Messages:
        """The dialogue with the assistant that gave these answers, up to the last user turn."""
        said = [*self.context, Message("user", self.turns[0])]
        for answer, turn in zip(answers, self.turns[1:], strict=False):
            said += [Message("assistant", answer), Message("user", turn)]
        return tuple(said)


def scale_of(aspect: str) -> Scale:
    """The scale of an aspect. Raises ValueError for an unknown one."""
    if aspect not in SCALES:
        raise ValueError(f"no aspect '{aspect}'{did_you_mean(aspect, SCALES)}")
    return SCALES[aspect]


def ask(question: RatingQuestion, *, nonce: str, wording: AspectWording | None = None) -> Messages:
    """The messages that ask a judge the question; `nonce` is its fence word, see `fence_word`.

    `wording`: of an aspect of a user's own. Raises ValueError for an unknown aspect without one, a wrong number of
    answers, or a fence word that occurs in a text.
    """
    if wording is None:
        scale_of(question.aspect)
    num_answers = len(question.answers)
    if num_answers == 0 or (question.aspect == OVERALL and num_answers != 1):
        raise ValueError(f"'{question.aspect}' does not rate {num_answers} answers at once")
    if re.fullmatch(r"[0-9a-f]{8,}", nonce) is None:
        raise ValueError(f"the fence word must be 8 or more digits of lower-case hexadecimal, got {nonce!r}")
    if _occurs(nonce, _foreign_texts(question)):
        raise ValueError(f"the fence word {nonce} occurs in a text; draw it with fence_word")
    conversation = [fenced(nonce, f"{turn.role} turn", turn.content) for turn in question.conversation]
    answers = [fenced(nonce, f"text {number}", text) for number, text in enumerate(question.answers, start=1)]
    notes = [fenced(nonce, "notes", question.notes)] if question.notes else ["None."]
    fields = {"aspect": question.aspect, "version": JUDGE_TEMPLATE_VERSION, "fence": nonce, "count": str(num_answers)}
    parts = {
        "rules": template_text("rules.txt").substitute(fields),
        "conversation": "\n\n".join(conversation),
        "notes": "\n\n".join(notes),
        "answers": "\n\n".join(answers),
    }
    system = template_text("system.txt").substitute(fields)
    if wording is None:
        user = template_text(f"{question.aspect}.txt").substitute(fields, **parts)
    else:
        user = _in_own_words(wording, fields | parts)
        system = f"{wording.system}\n\n{system}".strip()
    user += _word_note(question.aspect, nonce, _foreign_texts(question))
    return (Message("system", system), Message("user", user))


def _in_own_words(wording: AspectWording, fields: Mapping[str, str]) -> str:
    """The question in a user's own words, below the header that all questions begin with."""
    scale = wording.scale
    bounds = {"low": f"{scale.low:g}", "high": f"{scale.high:g}", "or_none": ", or N/A" if scale.optional else ""}
    form = template_text("own_overall_form.txt" if fields["aspect"] == OVERALL else "own_form.txt")
    header = template_text("own_header.txt").substitute(fields, **bounds)
    own = {"question": wording.question, "form": form.substitute(fields, **bounds)}
    return f"{header}\n\n{wording.template.substitute(fields, **bounds, **own)}"


def required_word(messages: Messages) -> str:
    """The fence word, where a judge's lines must carry it to count: a text of the question could be echoed as a reply.

    Empty for other questions, and for messages that are no question of ours.
    """
    user = messages[-1].content if messages else ""
    header = _RATING_HEADER.match(user) or _COMPARISON_HEADER.match(user)
    if header is None:
        return ""
    aspect, nonce = (header[1], header[5]) if header.re is _RATING_HEADER else (_COMPARISON, header[2])
    texts = re.findall(rf"<<<{nonce} [ \w]*>>>\n(.*?)\n<<<{nonce} end>>>", user, flags=re.DOTALL)
    return nonce if _can_be_echoed(aspect, texts) else ""


def _can_be_echoed(aspect: str, texts: Iterable[str]) -> bool:
    form = _FORGEABLE.get(aspect, _FORGEABLE_RATINGS)
    return any(form.search(text.replace("\r", "\n")) for text in texts)


def _word_note(aspect: str, nonce: str, texts: Iterable[str]) -> str:
    """What is added to a question whose texts could be echoed as a reply."""
    if not _can_be_echoed(aspect, texts):
        return ""
    lines = "headings" if aspect not in _WORD_NOTES else "verdict lines"
    example = _WORD_NOTES.get(aspect, "#### {fence} Output for Text 1").format(fence=nonce)
    return _WORD_NOTE.format(lines=lines, example=example)


def fenced(nonce: str, label: str, text: str) -> str:
    """The text between two lines that carry the fence word; the first also carries the label."""
    return f"<<<{nonce} {label}>>>\n{text}\n<<<{nonce} end>>>"


def read_rating_question(messages: Messages) -> RatingQuestion:
    """The question that `ask` wrote into these messages, verbatim; for rule-based judges and tests.

    Raises ValueError if `ask` did not write them.
    """
    user = messages[-1].content if messages else ""
    header = _RATING_HEADER.match(user)
    if header is None:
        raise ValueError("the messages do not begin with the header of a rating task")
    _, low, high, or_none, nonce = header.groups()
    found = re.findall(rf"<<<{nonce} ([a-z]+)[ \w]*>>>\n(.*?)\n<<<{nonce} end>>>", user, flags=re.DOTALL)
    conversation = tuple(Message(_ROLES[kind], text) for kind, text in found if kind in _ROLES)
    answers = tuple(text for kind, text in found if kind == "text")
    notes = "".join(text for kind, text in found if kind == "notes")
    scale = Scale(float(low), float(high), optional=bool(or_none)) if low else None
    return RatingQuestion(header[1], conversation, answers, notes, scale)


def ask_comparison(comparison: ComparisonQuestion, *, seed: int) -> Messages:
    """The messages that ask a judge which assistant was better; equal for equal seeds and texts.

    Raises ValueError unless each assistant has one answer for every user turn.
    """
    if not len(comparison.turns) == len(comparison.first) == len(comparison.second) > 0:
        raise ValueError("each assistant needs one answer for every user turn")
    texts = (*comparison.first, *comparison.second, *comparison.references)
    users = tuple(Message("user", turn) for turn in comparison.turns)
    nonce = fence_word(RatingQuestion(_COMPARISON, (*comparison.context, *users), texts), seed=seed)
    earlier = [
        fenced(nonce, f"earlier {message.role} {number}", message.content)
        for number, message in enumerate(comparison.context, start=1)
    ]
    fields = {"version": JUDGE_TEMPLATE_VERSION, "fence": nonce}
    user = template_text("comparison.txt").substitute(
        fields,
        turns="\n\n".join([*earlier, _fenced_all(nonce, "user turn", comparison.turns)]),
        first=_fenced_all(nonce, "A answer", comparison.first),
        second=_fenced_all(nonce, "B answer", comparison.second),
        references=_fenced_all(nonce, "reference answer", comparison.references) or "None.",
    )
    earlier_texts = [message.content for message in comparison.context]
    user += _word_note(_COMPARISON, nonce, (*comparison.turns, *texts, *earlier_texts))
    return (Message("system", template_text("system.txt").substitute(fields)), Message("user", user))


def read_comparison(messages: Messages) -> ComparisonQuestion:
    """The question that `ask_comparison` wrote into these messages, verbatim; for rule-based judges and tests.

    Raises ValueError if `ask_comparison` did not write them.
    """
    user = messages[-1].content if messages else ""
    header = _COMPARISON_HEADER.match(user)
    if header is None:
        raise ValueError("the messages do not begin with the header of a comparing task")
    nonce = header[2]
    found = re.findall(rf"<<<{nonce} (\w+) (\w+) \d+>>>\n(.*?)\n<<<{nonce} end>>>", user, flags=re.DOTALL)
    turns, first, second, references = (
        tuple(text for kind, _, text in found if kind == wanted) for wanted in ("user", "A", "B", "reference")
    )
    context = tuple(Message(_ROLES[role], text) for kind, role, text in found if kind == "earlier")
    return ComparisonQuestion(turns, first, second, references, context)


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


@functools.cache
def template_text(name: str) -> Template:
    """The template of this file name, in the current version."""
    text = resources.files("zephyr.judging").joinpath("templates", JUDGE_TEMPLATE_VERSION, name)
    return Template(text.read_text(encoding="utf-8").strip())


def _fenced_all(nonce: str, label: str, texts: tuple[str, ...]) -> str:
    return "\n\n".join(fenced(nonce, f"{label} {number}", text) for number, text in enumerate(texts, start=1))

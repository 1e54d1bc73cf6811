"""Talks of many turns between a model that plays a person and one that answers.

As UltraChat did it (arXiv 2305.14233): two calls a turn, three sectors, topics from a tree. Texts of others that the
talks are about may be given; else the model that plays the person writes them.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Prompt
from zephyr.synth.dialogues import WritingSettings
from zephyr.synth.role_guard import answer_fault, key_of, person_fault, person_text, reply_fault
from zephyr.synth.talk_plan import TalkPlan
from zephyr.synth.wording import template
from zephyr.teachers.protocol import ChatRequest, Teacher, paired, seed_for

SOURCE = "ultrachat"
FENCE_LENGTH = 12
MATERIALS = "materials"

MOST_PASSAGE_WORDS = 400

_FIRST_WORDS = re.compile(rf"(?:\s*\S+){{1,{MOST_PASSAGE_WORDS}}}")
_NAMES = {"user": "PERSON", "assistant": "ASSISTANT"}


@dataclass(frozen=True)
class TalkSettings:
    """How both sides write; `seed` of both decides what they draw, and the chunk of the answers how many at once."""

    answers: WritingSettings = field(default_factory=lambda: WritingSettings(max_tokens=512, chunk_prompts=256))
    person: WritingSettings = field(default_factory=lambda: WritingSettings(temperature=1.0, top_k=0))
    passage_tokens: int = 512
    passage_words: int = 120
    min_turns: int = 2  # a talk that ends before is not kept


@dataclass
class _Talk:
    """A talk as far as it has come; `why_ended` is empty while it goes on."""

    plan: TalkPlan
    passage: str = ""
    messages: list[Message] = field(default_factory=list)
    why_ended: str = ""

    @property
    def name(self) -> str:
        return f"talk {self.plan.number}"

    @property
    def answered(self) -> int:
        """Turns that have their answer."""
        return sum(message.role == "assistant" for message in self.messages)


class Talker:
    """Both sides of talks. `passages` are texts of others for the sector that is about such texts.

    What a talk asks depends on its plan and its own replies alone, so talks can be asked again from a ledger.
    """

    def __init__(
        self, person: Teacher, assistant: Teacher, settings: TalkSettings, *, passages: Sequence[str] = ()
    ) -> None:
        self._person = person
        self._assistant = assistant
        self._settings = settings
        self._passages = passages
        self._openings: set[str] = set()

    def dialogues(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[Chat]:
        """The talks that came about, in order; `counts` says of each whether it did, and why not."""
        for talks in self._begun(plans, counts):
            going = talks
            while going := [talk for talk in going if not talk.why_ended]:
                self._answer(going)
                asking = [talk for talk in going if not talk.why_ended and talk.answered < talk.plan.num_turns]
                self._follow_up(asking)
                going = asking
            for talk in talks:
                whole = talk.answered >= min(self._settings.min_turns, talk.plan.num_turns)
                if whole:
                    yield Chat(talk.name, _up_to_answer(talk.messages), SOURCE)
                _count(talk, counts, kept=whole)

    def prompts(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[Prompt]:
        """The first messages of talks that are not led: prompts for others to answer."""
        for talks in self._begun(plans, counts):
            for talk in talks:
                if not talk.why_ended:
                    yield Prompt(talk.name, tuple(talk.messages), SOURCE)
                _count(talk, counts, kept=not talk.why_ended)

    def _begun(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[list[_Talk]]:
        """Talks with their first message, or why they have none, some hundred together."""
        waiting = iter(plans)
        while chunk := list(itertools.islice(waiting, self._settings.answers.chunk_prompts)):
            talks = [_Talk(plan) for plan in chunk]
            counts["talks: begun"] += len(talks)
            self._find_passages([talk for talk in talks if talk.plan.sector == MATERIALS])
            self._open([talk for talk in talks if not talk.why_ended])
            yield talks

    def _find_passages(self, talks: Sequence[_Talk]) -> None:
        if self._passages:
            for talk in talks:
                talk.passage = Random(f"{self._settings.person.seed} {talk.name}").choice(self._passages)
            return

        def asked(talk: _Talk) -> ChatRequest:
            wording = template("passage").substitute(leaf=talk.plan.leaf, num_words=str(self._settings.passage_words))
            request = _request(talk, "passage", (Message("user", wording),), self._settings.person)
            return request._replace(max_tokens=self._settings.passage_tokens)

        def taken(talk: _Talk, text: str) -> str | None:
            talk.passage = text.strip()
            return answer_fault(text)

        _ask(talks, self._person, "passage", asked, taken)

    def _open(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            plan = talk.plan
            wording = template(f"opening_{plan.sector}").safe_substitute(
                branch=plan.branch, leaf=plan.leaf, manner=plan.manner, passage=talk.passage
            )
            messages = (Message("system", template("user_system").template), Message("user", wording))
            return _request(talk, "opening", messages, self._settings.person)

        def taken(talk: _Talk, text: str) -> str | None:
            said = person_text(text)
            fault = person_fault(said, ())
            opening = f"{said}\n\n{talk.passage}" if talk.passage else said
            if fault is None and key_of(opening) in self._openings:
                fault = "same as another"
            if fault is None:
                self._openings.add(key_of(opening))
                talk.messages.append(Message("user", opening))
            return fault

        _ask(talks, self._person, "opening", asked, taken)

    def _answer(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            return _request(talk, "answer", tuple(talk.messages), self._settings.answers)

        def taken(talk: _Talk, text: str) -> str | None:
            fault = answer_fault(text)
            if fault is None:
                talk.messages.append(Message("assistant", text.strip()))
            return fault

        _ask(talks, self._assistant, "answer", asked, taken)

    def _follow_up(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            messages = ask_for_follow_up(talk.messages, talk.plan.moves[talk.answered - 1])
            return _request(talk, "follow-up", messages, self._settings.person)

        def taken(talk: _Talk, text: str) -> str | None:
            said = person_text(text)
            fault = person_fault(said, talk.messages, fence=_fence(talk.messages))
            if fault is None:
                talk.messages.append(Message("user", said))
            return fault

        _ask(talks, self._person, "follow-up", asked, taken)


def ask_for_follow_up(talk: Sequence[Message], move: str) -> Messages:
    """The request for what the person says next; `move` is what they want of the last answer.

    The talk stands in one message between fences, not as turns: a model that sees turns goes on as the assistant.
    """
    fence = _fence(talk)
    told = "\n\n".join(f"{fence} {_NAMES[message.role]}\n{message.content}" for message in talk)
    wording = template("follow_up").substitute(fence=fence, talk=told, move=move)
    return (Message("system", template("user_system").template), Message("user", wording))


def _ask(
    talks: Sequence[_Talk],
    teacher: Teacher,
    what: str,
    asked: Callable[[_Talk], ChatRequest],
    taken: Callable[[_Talk, str], str | None],
) -> None:
    """One call for every talk, all together; a talk ends where its reply has a fault."""
    if not talks:
        return
    requests = [asked(talk) for talk in talks]
    for talk, (_, reply) in zip(talks, paired(teacher, requests), strict=True):
        fault = reply_fault(reply) or taken(talk, reply.text)
        if fault is not None:
            talk.why_ended = f"{what}: {fault}"


def _request(talk: _Talk, what: str, messages: Messages, settings: WritingSettings) -> ChatRequest:
    number, turn = talk.plan.number, talk.answered
    return ChatRequest(
        key=f"talk {number} {what} {turn}",
        messages=messages,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        seed=seed_for(settings.seed, "talk", number, what, turn),
    )


def _up_to_answer(messages: Sequence[Message]) -> Messages:
    """The messages up to the last answer; a follow-up that was never answered is left out."""
    last = max(index for index, message in enumerate(messages) if message.role == "assistant")
    return tuple(messages[: last + 1])


def _count(talk: _Talk, counts: Counter[str], *, kept: bool) -> None:
    """Every talk falls under exactly one name."""
    if not kept:
        counts[f"failed: {talk.why_ended}"] += 1
    elif talk.why_ended:
        counts[f"talks: ended early: {talk.why_ended}"] += 1
    else:
        counts["talks: whole"] += 1


def _fence(talk: Sequence[Message]) -> str:
    """A word that no message of the talk holds; it depends on the talk alone, so that a call can be repeated."""
    texts = [message.content for message in talk]
    for attempt in itertools.count():
        stuff = "\x1f".join((str(attempt), *texts))
        word = hashlib.sha256(stuff.encode("utf-8", "surrogatepass")).hexdigest()[:FENCE_LENGTH]
        if not any(word in text for text in texts):
            return word
    raise AssertionError("there are always more words")


def shortened(passage: str) -> str:
    """The beginning of a text of others, as far as a talk about it can bear."""
    found = _FIRST_WORDS.match(passage)
    return found[0].strip() if found else ""

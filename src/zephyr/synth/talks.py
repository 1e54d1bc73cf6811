"""Talks of several turns between a model that plays a person and one that answers.

As UltraChat did it (arXiv 2305.14233): two calls a turn, three sectors, topics from a tree. Texts of others that the
talks are about may be given; otherwise the model that plays the person writes them.
"""

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from random import Random
from typing import Literal, NamedTuple, cast, get_args

import yaml

from zephyr.recipe.synth_section import UltraChatSynth
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Prompt
from zephyr.synth.dialogues import Writers, reply_fault, sampled_request, template
from zephyr.synth.role_guard import answer_fault, key_of, person_fault, person_text
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

# How the person is sampled, and the longest text that it writes for a talk about a text.
PERSON_SAMPLING = SamplingSection(temperature=1.0, top_k=0)
PASSAGE_SAMPLING = PERSON_SAMPLING.model_copy(update={"max_new_tokens": 512})
PASSAGE_WORDS = 120
MAX_PASSAGE_WORDS = 400

_SOURCE = "ultrachat"
_FENCE_LENGTH = 12
_FIRST_WORDS = re.compile(rf"(?:\s*\S+){{1,{MAX_PASSAGE_WORDS}}}")
_SPEAKERS = {"user": "PERSON", "assistant": "ASSISTANT"}

Sector = Literal["world", "writing", "materials"]
SECTORS: tuple[Sector, ...] = get_args(Sector)

MANNERS = (
    "Write one short sentence.",
    "Write two or three sentences, and say why it matters to this person.",
    "Write casually, as in a chat.",
    "Write politely and precisely.",
    "Write as a beginner in the matter would.",
    "Write as somebody who knows the matter well.",
)
MOVES = (
    "ask about a detail of it",
    "ask for an example or a case from life",
    "say that a part is unclear, and ask for it in simpler words",
    "doubt one point, and ask for reasons",
    "ask for a change of its length, tone or form",
    "add a circumstance that was not known so far, and ask what follows from it",
    "go on to the next question that a curious person would have",
    "ask for a comparison with something near to it",
)


class TalkPlan(NamedTuple):
    """What one talk is about: `branch` and `leaf` of the topics tree, and how its person writes and asks on.

    In sector materials `leaf` is the kind of text and `branch` what is wanted of it.
    """

    number: int
    sector: Sector
    branch: str
    leaf: str
    manner: str
    moves: tuple[str, ...]

    @property
    def num_turns(self) -> int:
        """Messages of the person, each with an answer."""
        return len(self.moves) + 1


class Topics(NamedTuple):
    """The topics tree: branches with leaves for two sectors, kinds of text and what is wanted of them for the third."""

    world: Mapping[str, tuple[str, ...]]
    writing: Mapping[str, tuple[str, ...]]
    materials: tuple[str, ...]
    operations: tuple[str, ...]


@functools.cache
def topics() -> Topics:
    """The tree that comes with Zephyr."""
    text = resources.files("zephyr.synth").joinpath("topics.yaml").read_text(encoding="utf-8")
    tree = cast("dict[str, dict[str, list[str]]]", yaml.safe_load(text))
    branches = {name: {branch: tuple(leaves) for branch, leaves in tree[name].items()} for name in ("world", "writing")}
    return Topics(branches["world"], branches["writing"], tuple(tree["materials"]), tuple(tree["operations"]))


def plan_talk(number: int, section: UltraChatSynth, *, seed: int) -> TalkPlan:
    """The plan of a talk; it depends on the section's sectors and turns, the seed and the number alone."""
    rng, tree = Random(f"{seed} talk {number}"), topics()
    weights = (section.world, section.writing, section.materials)
    sector = rng.choices(SECTORS, weights=weights)[0]
    if sector == "materials":
        branch, leaf = rng.choice(tree.operations), rng.choice(tree.materials)
    else:
        branches = tree.world if sector == "world" else tree.writing
        branch = rng.choice(list(branches))
        leaf = rng.choice(branches[branch])
    num_turns = rng.randint(section.min_turns, section.max_turns)
    moves = tuple(rng.choice(MOVES) for _ in range(num_turns - 1))
    return TalkPlan(number, sector, branch, leaf, rng.choice(MANNERS), moves)


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

    The requests of a talk depend on its plan and its own replies alone, so a ledger can answer them again.
    """

    def __init__(self, writers: Writers, section: UltraChatSynth, *, seed: int, passages: Sequence[str] = ()) -> None:
        self._writers = writers
        self._section = section
        self._seed = seed
        self._passages = passages
        self._openings: set[str] = set()

    def dialogues(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[Chat]:
        """The complete talks, in order; `counts` says what became of each."""
        for talks in self._begun(plans, counts):
            going = talks
            while going := [talk for talk in going if not talk.why_ended]:
                self._answer(going)
                asking = [talk for talk in going if not talk.why_ended and talk.answered < talk.plan.num_turns]
                self._follow_up(asking)
                going = asking
            for talk in talks:
                whole = talk.answered >= min(self._section.min_turns, talk.plan.num_turns)
                if whole:
                    yield Chat(talk.name, _up_to_answer(talk.messages), _SOURCE)
                _count(talk, counts, kept=whole)

    def prompts(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[Prompt]:
        """The first messages of talks that are not continued: prompts for others to answer."""
        for talks in self._begun(plans, counts):
            for talk in talks:
                if not talk.why_ended:
                    yield Prompt(talk.name, tuple(talk.messages), _SOURCE)
                _count(talk, counts, kept=not talk.why_ended)

    def _begun(self, plans: Iterable[TalkPlan], counts: Counter[str]) -> Iterator[list[_Talk]]:
        """Talks with their first message, or the reason why they have none, in chunks."""
        waiting = iter(plans)
        while chunk := list(itertools.islice(waiting, self._writers.chunk_prompts)):
            talks = [_Talk(plan) for plan in chunk]
            counts["talks: begun"] += len(talks)
            self._find_passages([talk for talk in talks if talk.plan.sector == "materials"])
            self._open([talk for talk in talks if not talk.why_ended])
            yield talks

    def _find_passages(self, talks: Sequence[_Talk]) -> None:
        if self._passages:
            for talk in talks:
                talk.passage = Random(f"{self._seed} {talk.name}").choice(self._passages)
            return

        def asked(talk: _Talk) -> ChatRequest:
            wording = template("passage").substitute(leaf=talk.plan.leaf, num_words=str(PASSAGE_WORDS))
            return self._request(talk, "passage", (Message("user", wording),), PASSAGE_SAMPLING)

        def taken(talk: _Talk, reply: ChatReply) -> str | None:
            talk.passage = reply.text.strip()
            return answer_fault(reply.text)

        _ask(talks, self._writers.person, "passage", asked, taken)

    def _open(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            plan = talk.plan
            wording = template(f"opening_{plan.sector}").safe_substitute(
                branch=plan.branch, leaf=plan.leaf, manner=plan.manner, passage=talk.passage
            )
            messages = (Message("system", template("user_system").template), Message("user", wording))
            return self._request(talk, "opening", messages, PERSON_SAMPLING)

        def taken(talk: _Talk, reply: ChatReply) -> str | None:
            said = person_text(reply.text)
            fault = person_fault(said, ())
            opening = f"{said}\n\n{talk.passage}" if talk.passage else said
            if fault is None and key_of(opening) in self._openings:
                fault = "same as another"
            if fault is None:
                self._openings.add(key_of(opening))
                talk.messages.append(Message("user", opening))
            return fault

        _ask(talks, self._writers.person, "opening", asked, taken)

    def _answer(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            return self._request(talk, "answer", tuple(talk.messages), self._writers.sampling)

        def taken(talk: _Talk, reply: ChatReply) -> str | None:
            fault = answer_fault(reply.text)
            if fault is None:
                talk.messages.append(Message("assistant", reply.text.strip(), reply.reasoning))
            return fault

        _ask(talks, self._writers.teacher, "answer", asked, taken)

    def _follow_up(self, talks: Sequence[_Talk]) -> None:
        def asked(talk: _Talk) -> ChatRequest:
            messages = ask_for_follow_up(talk.messages, talk.plan.moves[talk.answered - 1])
            return self._request(talk, "follow-up", messages, PERSON_SAMPLING)

        def taken(talk: _Talk, reply: ChatReply) -> str | None:
            said = person_text(reply.text)
            fault = person_fault(said, talk.messages, fence=_fence(talk.messages))
            if fault is None:
                talk.messages.append(Message("user", said))
            return fault

        _ask(talks, self._writers.person, "follow-up", asked, taken)

    def _request(self, talk: _Talk, what: str, messages: Messages, sampling: SamplingSection) -> ChatRequest:
        number, turn = talk.plan.number, talk.answered
        seed = seed_for(self._seed, "talk", number, what, turn)
        return sampled_request(f"talk {number} {what} {turn}", messages, sampling, seed=seed)


def ask_for_follow_up(talk: Sequence[Message], move: str) -> Messages:
    """The request for what the person says next; `move` is what they want of the last answer.

    The talk stands in one message between fences, not as turns: a model that sees turns goes on as the assistant.
    """
    fence = _fence(talk)
    told = "\n\n".join(f"{fence} {_SPEAKERS[message.role]}\n{message.content}" for message in talk)
    wording = template("follow_up").substitute(fence=fence, talk=told, move=move)
    return (Message("system", template("user_system").template), Message("user", wording))


def _ask(
    talks: Sequence[_Talk],
    teacher: Teacher,
    what: str,
    asked: Callable[[_Talk], ChatRequest],
    taken: Callable[[_Talk, ChatReply], str | None],
) -> None:
    """Send one request for every talk, all together; a talk ends where its reply has a fault."""
    if not talks:
        return
    requests = [asked(talk) for talk in talks]
    for talk, (_, reply) in zip(talks, paired(teacher, requests), strict=True):
        fault = reply_fault(reply) or taken(talk, reply)
        if fault is not None:
            talk.why_ended = f"{what}: {fault}"


def _up_to_answer(messages: Sequence[Message]) -> Messages:
    """The messages up to the last answer; a follow-up that was never answered is left out."""
    last = max(index for index, message in enumerate(messages) if message.role == "assistant")
    return tuple(messages[: last + 1])


def _count(talk: _Talk, counts: Counter[str], *, kept: bool) -> None:
    """Count the talk under exactly one name."""
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
        word = hashlib.sha256(stuff.encode("utf-8", "surrogatepass")).hexdigest()[:_FENCE_LENGTH]
        if not any(word in text for text in texts):
            return word
    raise AssertionError("there are always more words")


def shorten_passage(passage: str) -> str:
    """The beginning of a text of others, cut to the length that a talk can be about."""
    found = _FIRST_WORDS.match(passage)
    return found[0].strip() if found else ""

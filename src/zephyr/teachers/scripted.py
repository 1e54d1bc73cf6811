"""The teacher and the judge of the closed world: rules instead of a model, with deliberate faults.

They see a request's messages and nothing else, as a model would, and reply in the same formats. What they know of the
world is in `zephyr.world`; the questions to a judge and the format of its replies in `zephyr.judging`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from zephyr.judging import OVERALL, Rating, RatingQuestion, read_rating_question, required_word, write_reply
from zephyr.judging.questions import ComparisonQuestion, Scale, read_comparison
from zephyr.judging.verdicts import Winner, write_verdict
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.records.messages import Messages
from zephyr.teachers.protocol import ChatReply, ChatRequest
from zephyr.world import Findings, examine, faulty_answer, ideal_answer, is_known


class ScriptedTeacher:
    """Writes right answers and a share of faulty ones: rambling, refusing, careless or wrong.

    A reply depends on the seeds and the messages alone. Outside the closed world it says that it does not know.
    """

    name = "scripted teacher"

    def __init__(self, section: ScriptedSection | None = None, seed: int = 0) -> None:
        self._fault_rate = (section or ScriptedSection()).fault_rate
        self._seed = seed

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """A reply for every request, in order."""
        for request in requests:
            yield _reply(request, self._text(request))

    def _text(self, request: ChatRequest) -> str:
        rng = Random(f"{self._seed} {request.seed} {request.key} {request.messages}")
        if is_known(request.messages) and rng.random() < self._fault_rate:
            return faulty_answer(request.messages, rng).text
        return ideal_answer(request.messages)


def _reply(request: ChatRequest, text: str) -> ChatReply:
    """The text as a reply; words are counted as tokens."""
    words_asked = sum(len(message.content.split()) for message in request.messages)
    return ChatReply(request.key, text, "stop", prompt_tokens=words_asked, completion_tokens=len(text.split()))


class _Impression(NamedTuple):
    """What the judge believes about one answer; ``slip``: the error of its score this time."""

    findings: Findings
    slip: int


class ScriptedJudge:
    """Rates answers by the world's checks, and errs as real judges do.

    It sees whether the content is right, whether the requested format is kept, whether the answer rambles, and whether
    it refuses. It misjudges the content of a share of ``blunder_rate`` of the answers, always in the same way for the
    same answer, and a third of its ratings are one point off. So it mostly prefers right answers to wrong ones.
    """

    name = "scripted judge"

    def __init__(self, seed: int = 0, blunder_rate: float = 0.04) -> None:
        self._seed = seed
        self._blunder_rate = blunder_rate

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """A reply for every request, in order; an error for a request that is not a question to a judge."""
        for request in requests:
            try:
                yield _reply(request, self._text(request.messages))
            except ValueError as error:
                yield ChatReply(request.key, "", "error", error=str(error))

    def _text(self, messages: Messages) -> str:
        """The judge's reply to a rating or comparison question. Raises ValueError for anything else."""
        try:
            question = read_rating_question(messages)
        except ValueError:
            return self._verdict(read_comparison(messages), required_word(messages))
        return write_reply(question.aspect, self._ratings(question), word=required_word(messages), scale=question.scale)

    def _verdict(self, asked: ComparisonQuestion, word: str) -> str:
        first, second = (
            _critique(self._impression(RatingQuestion(OVERALL, asked.conversation(answers), ()), answers[-1]))
            for answers in (asked.first, asked.second)
        )
        if first.score == second.score:
            return write_verdict("tie", "One is as good as the other.", word=word)
        winner: Winner = "first" if (first.score or 0) > (second.score or 0) else "second"
        return write_verdict(winner, f"A: {first.rationale}\nB: {second.rationale}", word=word)

    def _ratings(self, question: RatingQuestion) -> list[Rating]:
        impressions = [self._impression(question, answer) for answer in question.answers]
        if question.scale is None:
            return [_RATE[question.aspect](impression) for impression in impressions]
        # Of an aspect of a user's own it knows the scale alone: it rates the answer as a whole.
        return [_on_scale(_critique(impression), question.scale) for impression in impressions]

    def _impression(self, question: RatingQuestion, answer: str) -> _Impression:
        findings = examine(question.conversation, answer)
        # The same answer leaves the same belief with every aspect; the slip is new with each.
        belief = Random(f"{self._seed} {question.conversation} {answer}")
        if belief.random() < self._blunder_rate:
            findings = findings._replace(is_right=not findings.is_right)
        slip = Random(f"{self._seed} {question.aspect} {question.conversation} {answer}").choice((-1, 0, 0, 0, 0, 1))
        return _Impression(findings, slip)


def _instruction_following(seen: _Impression) -> Rating:
    found = seen.findings
    if not found.is_right and (found.refuses or not found.in_form):
        return _rating(1, seen, 5, "It gives neither what was asked for nor the form it was asked in.")
    if not found.is_right:
        return _rating(3, seen, 5, "The form is kept, but this is not what was asked for.")
    if not found.in_form:
        return _rating(2, seen, 5, "It speaks to the question and ignores the form it was asked in.")
    if not found.is_brief:
        return _rating(3, seen, 5, "It does what was asked, among much that was not.")
    return _rating(5, seen, 5, "It does what was asked, in the form it was asked in.")


def _honesty(seen: _Impression) -> Rating:
    found = seen.findings
    if found.is_right:
        return _rating(5, seen, 5, "It is as sure as it can be.")
    if found.refuses:
        return _rating(3, seen, 5, "It declines, though it could have known.")
    return _rating(2, seen, 5, "It states with confidence what is not so.")


def _truthfulness(seen: _Impression) -> Rating:
    found = seen.findings
    if found.is_right:
        return _rating(5, seen, 5, "Nothing in it is false.", type_rationale="No fault was found.")
    if found.refuses:
        return _rating(3, seen, 5, "It claims nothing, and misleads on what can be known.", type_rationale="No claim.")
    why = "What it claims is not so."
    return _rating(1, seen, 5, "Its central claim is false.", types=(1,), type_rationale=why)


def _helpfulness(seen: _Impression) -> Rating:
    found = seen.findings
    if not found.is_right:
        return _rating(1, seen, 5, "Nobody is helped by it.", type_rationale="It is not correct.")
    if not found.in_form:
        return _rating(2, seen, 5, "Correct, but of no use in this form.", types=(3,), type_rationale="It is short.")
    if not found.is_brief:
        return _rating(3, seen, 5, "Correct, and far too long.", types=(2,), type_rationale="It holds what is needed.")
    return _rating(5, seen, 5, "Correct, complete and short.", types=(1, 2, 3), type_rationale="It goes to the point.")


def _critique(seen: _Impression) -> Rating:
    found = seen.findings
    if found.passes:
        return _rating(9, seen, 10, "Right, in the form that was asked for, and no word too many. Go on like this.")
    if found.refuses and not found.is_right:
        return _rating(2, seen, 10, "You refuse a harmless question that has an answer. Give it.")
    if not found.is_right:
        advice = "This is not right. Work it out again before you write."
        return _rating(3 if found.in_form and found.is_brief else 1, seen, 10, advice)
    if not found.in_form:
        return _rating(4, seen, 10, "The content is right, but you were told which form to give it, and did not.")
    return _rating(6, seen, 10, "The answer is in there, but one has to look for it. Say it and stop.")


def _rating(
    score: int,
    seen: _Impression,
    highest: int,
    rationale: str,
    *,
    types: tuple[int, ...] = (),
    type_rationale: str = "",
) -> Rating:
    """The rating with the judge's slip, within its scale."""
    return Rating(min(max(score + seen.slip, 1), highest), rationale, types, type_rationale)


def _on_scale(rating: Rating, scale: Scale) -> Rating:
    """A rating from 1 to 10 on another scale, with two decimals."""
    assert rating.score is not None
    score = scale.low + (rating.score - 1) / 9 * (scale.high - scale.low)
    return rating._replace(score=round(score, 2))


_RATE: Mapping[str, Callable[[_Impression], Rating]] = {
    "instruction_following": _instruction_following,
    "honesty": _honesty,
    "truthfulness": _truthfulness,
    "helpfulness": _helpfulness,
    OVERALL: _critique,
}

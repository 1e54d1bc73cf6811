"""MT-Bench: 80 questions of two turns, answered by a model and rated by a judge.

Turn 2 is asked on the model's own answer to turn 1. An answer or a judgment that fails to come is missing: it is
counted, and nothing stands in for it. Source: arXiv 2306.05685; FastChat, fastchat/llm_judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.evaluate.judged.calls import NO_ANSWER, Calling, replies_to, why_no_answer, why_no_verdict
from zephyr.evaluate.judged.mt_bench_questions import REPORTED_WRONG, Answered, Answers, Question
from zephyr.evaluate.judged.mt_bench_wording import ScoreWording
from zephyr.evaluate.judged.score import JudgedScore, Judgment, judged_score
from zephyr.records.messages import Message, Messages
from zephyr.teachers.protocol import ChatRequest, Teacher

LOWEST = 1.0


@dataclass(frozen=True)
class MtBenchSettings:
    """The published protocol; `seed` is that of sampling."""

    max_tokens: int = 1024
    judge_max_tokens: int = 2048
    seed: int = 0
    top_k: int = 50  # generate's default when the published answers were made
    top_p: float = 1.0


class TurnRating(NamedTuple):
    """The rating of one turn's answer, None with the reason if it is missing, and what the judge wrote."""

    number: int
    category: str
    turn: int
    rating: float | None
    reply: str
    reason: str = ""

    @property
    def key(self) -> str:
        """The name of the turn, as 81/1."""
        return f"{self.number}/{self.turn}"


class MtBenchScores(NamedTuple):
    """Means on the scale from 1 to 10.

    `as_published` is the flat mean of all judgments that are there; `failures_counted` gives every missing one the
    lowest rating; `without_reported_wrong` leaves out the questions whose reference was reported wrong.
    """

    as_published: JudgedScore
    failures_counted: JudgedScore
    without_reported_wrong: JudgedScore
    turns: dict[str, JudgedScore]
    categories: dict[str, JudgedScore]


def answer_questions(
    model: Teacher, questions: Sequence[Question], settings: MtBenchSettings, calling: Calling
) -> Answered:
    """The model's answers by question, one a turn; None for an answer that failed, and for all that follow it."""
    answers: dict[int, tuple[str | None, ...]] = {question.number: () for question in questions}
    reasons: dict[str, str] = {}
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked = {str(one.number): one for one in questions if turn < len(one.turns) and None not in answers[one.number]}
        requests = [
            ChatRequest(
                key=key,
                messages=_dialogue(question.turns, answers[question.number]),
                temperature=question.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                max_tokens=settings.max_tokens,
                seed=settings.seed,
            )
            for key, question in asked.items()
        ]
        replies = replies_to(model, requests, calling)
        for question in questions:
            if turn < len(question.turns):
                reply, key = replies.get(str(question.number)), f"{question.number}/{turn + 1}"
                # What was not asked, as the turn before it failed, is missing for that turn's reason.
                reason = why_no_answer(reply) if reply else reasons[f"{question.number}/{turn}"]
                answers[question.number] += (reply.text.strip() if reply and not reason else None,)
                if reason:
                    reasons[key] = reason
    return Answered(answers, reasons)


def rate_answers(
    answered: Answered,
    questions: Sequence[Question],
    judge: Teacher,
    wording: ScoreWording,
    settings: MtBenchSettings,
    calling: Calling,
) -> list[TurnRating]:
    """The judge's rating of every turn of every question, in order; missing ones too."""
    turns = [(question, turn) for question in questions for turn in range(1, len(question.turns) + 1)]
    requests = []
    for question, turn in turns:
        said = _said(answered.turns, question, turn)
        if said is not None:
            messages = wording.ask(question, said)
            asked = ChatRequest(f"{question.number}/{turn}", messages, 0.0, 1.0, 0, settings.judge_max_tokens)
            requests.append(asked)
    replies = replies_to(judge, requests, calling)
    found = []
    for question, turn in turns:
        key = f"{question.number}/{turn}"
        reply = replies.get(key)
        rating, reason = None, answered.reasons.get(key, NO_ANSWER)
        if reply is not None:
            rating = None if reply.finish_reason == "error" else wording.read(reply.text)
            reason = "" if rating is not None else why_no_verdict(reply, "no rating in the judge's reply")
        text = "" if reply is None else reply.text
        found.append(TurnRating(question.number, question.category, turn, rating, text, reason))
    return found


def mt_bench_scores(ratings: Sequence[TurnRating], *, seed: int = 0) -> MtBenchScores:
    """The scores of all ratings. Intervals are over questions, whose turns are alike."""

    def score(some: Sequence[TurnRating], failed: float | None = None) -> JudgedScore:
        judgments = [Judgment(str(one.number), failed if one.rating is None else one.rating) for one in some]
        return judged_score(judgments, seed=seed)

    categories = dict.fromkeys(one.category for one in ratings)
    turns = sorted({one.turn for one in ratings})
    published = score(ratings)
    return MtBenchScores(
        as_published=published,
        # What is missing stays missing, so that this score bears the same label.
        failures_counted=score(ratings, LOWEST)._replace(n=published.n, missing=published.missing),
        without_reported_wrong=score([one for one in ratings if one.number not in REPORTED_WRONG]),
        turns={str(turn): score([one for one in ratings if one.turn == turn]) for turn in turns},
        categories={name: score([one for one in ratings if one.category == name]) for name in categories},
    )


def _dialogue(turns: Sequence[str], answers: Sequence[str | None]) -> Messages:
    said: list[Message] = []
    for turn, answer in zip(turns, answers, strict=False):
        said += [Message("user", turn), Message("assistant", answer or "")]
    return (*said, Message("user", turns[len(answers)]))


def _said(answers: Answers, question: Question, turn: int) -> tuple[str, ...] | None:
    """The answers up to that turn; None if one of them is missing."""
    given = answers.get(question.number, ())[:turn]
    said = tuple(answer for answer in given if answer is not None)
    return said if len(said) == turn else None

"""A judge opened: what rates the answers of rows, by asking a teacher, by checking, or both; one shape for all judges.

A judge that asks no teacher is a branch of `rater_of`. Teachers are opened by those who keep their answers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from zephyr.errors import DataError, RecipeError
from zephyr.feedback.judge import CHUNK_ROWS, FailedTry, JudgeCall, JudgedRow, judge_tried, wordings_of
from zephyr.judging import OVERALL, Rating
from zephyr.judging.questions import Scale, scale_of
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.feedback_section import (
    ChecksSection,
    FeedbackSection,
    JudgeSection,
    JudgingSection,
    RewardModelSection,
    reward_models_of,
)
from zephyr.records.fields import UnusableError, unusable
from zephyr.records.messages import Message
from zephyr.records.rows import ANSWER, Answer, Prompt, Rated
from zephyr.teachers.opening import TeacherContext
from zephyr.teachers.protocol import Teacher

if TYPE_CHECKING:
    from zephyr.teachers.reward_judge import RewardJudge
    from zephyr.trees.forest import Ids

_CHECKS = "checks"
_REWARD = "reward"
# Rows whose answers a reward model reads together.
_REWARDED_ROWS = 32
# Of a judge that no run and no command has opened.
_ALONE = TeacherContext()


class Rater(NamedTuple):
    """A judge that is ready to rate: its name in the calls, and what rates rows, in order.

    A row's ratings depend on the row and the seed alone.
    """

    name: str
    rate: Callable[[Iterable[Rated]], Iterator[JudgedRow]]


def rater_of(
    section: JudgeSection,
    teachers: Sequence[Teacher],
    judging: JudgingSection,
    context: TeacherContext = _ALONE,
    *,
    min_answers: int = 2,
    chunk_rows: int = CHUNK_ROWS,
) -> Rater:
    """The judge of the section; `teachers`: the one that it asks, opened, and none for a judge that asks none."""
    if isinstance(section, RewardModelSection):
        return Rater(section.model, partial(_scored_rows, section=section, context=context, min_answers=min_answers))
    if not isinstance(section, ChecksSection):
        (teacher,) = teachers
        rate = partial(judge_tried, teacher=teacher, section=judging, seed=context.seed)
        return Rater(teacher.name, partial(rate, min_answers=min_answers, chunk_rows=chunk_rows))
    if section.beside is None:
        return Rater(_CHECKS, partial(_check_rows, section=section, min_answers=min_answers))
    inner = partial(rater_of, section.beside.judge, teachers, judging, context)
    beside = inner(min_answers=min_answers, chunk_rows=chunk_rows)
    words = wordings_of(judging).get(OVERALL)
    mixed = partial(_mixed, section=section, scale=scale_of(OVERALL) if words is None else words.scale)
    return Rater(f"{_CHECKS} and {beside.name}", lambda rows: map(mixed, beside.rate(rows)))


def check_judge(section: JudgeSection, *, offline: bool) -> None:
    """Check that what a judge names as a reward model is one, by its configuration. Raises ModelError."""
    for rewards in reward_models_of(section).values():
        from zephyr.models.reward_model import check_reward_model
        from zephyr.models.source import Source

        check_reward_model(Source(rewards.model, offline=offline))


def check_rubric(section: FeedbackSection) -> None:
    """Check that the rubric, if there is one, can be used and has the score that ranks answers. Raises RecipeError."""
    if section.judging.rubric is None:
        return
    scales = {name: words.scale for name, words in wordings_of(section.judging).items() if words is not None}
    named = [scale for name, scale in scales.items() if name != OVERALL]
    if named:
        scales["mean"] = Scale(min(one.low for one in named), max(one.high for one in named))
    rules, file, is_mixed = section.binarize, section.judging.rubric.name, isinstance(section.judge, ChecksSection)
    if is_mixed and OVERALL not in scales:
        what = f"{file} has no aspect {OVERALL}, the score that is mixed with the checks"
        raise RecipeError("feedback.judging.rubric", what, "add one")
    if rules.chosen not in scales:
        what = f"is {rules.chosen}, which {file} does not rate"
        raise RecipeError("feedback.binarize.chosen", what, f"choose {' or '.join(scales)}")
    low, high, *_ = scales[rules.chosen]
    if rules.output == "kto" and not is_mixed and not low < rules.kto_threshold <= high:
        what = f"is {rules.kto_threshold:g}, and {rules.chosen} is rated from {low:g} to {high:g}"
        raise RecipeError("feedback.binarize.kto_threshold", what, "choose one within")


def require_checks(row: Prompt | Rated, section: JudgeSection) -> None:
    """Check that the judge can rate answers to the row, before there are any.

    Raises UnusableError for a row without checks where nothing else could rate it, DataError without the packages of
    the checkers.
    """
    if not isinstance(section, ChecksSection):
        return
    if not row.checks and section.beside is None:
        raise unusable("no checks", "has no checks, and checks alone, with no judge beside, cannot rate its answers")
    if any(check.instruction != ANSWER for check in row.checks):
        from zephyr.judging.checks import require_checkers

        require_checkers()


def refuse_unchecked(rows: Iterable[Prompt | Rated], section: JudgeSection, source: DataSource) -> None:
    """Check that the judge can rate every row of the source, whose bad rows may stay unrated if they may be dropped.

    Raises DataError for the first that it cannot.
    """
    for row in rows if source.bad_rows == "stop" else ():
        try:
            require_checks(row, section)
        except UnusableError as error:
            remedy = "add the row's checks, or leave such rows unrated with bad_rows: drop (--bad-rows drop)"
            raise DataError(row.name, error.faults[0].what, remedy) from error


def _check_rows(rows: Iterable[Rated], section: ChecksSection, min_answers: int) -> Iterator[JudgedRow]:
    for row in rows:
        is_asked = row.checks and len(row.answers) >= max(min_answers, 1)
        yield _checked(JudgedRow(row, ()), section) if is_asked else JudgedRow(row, ())


def _scored_rows(
    rows: Iterable[Rated], section: RewardModelSection, context: TeacherContext, min_answers: int
) -> Iterator[JudgedRow]:
    """The rows with the rewards of their answers as scores. Raises ModelError for a model that gives none."""
    from zephyr.models.source import Source
    from zephyr.teachers.reward_judge import RewardJudge  # not for judges that need no torch

    judge = RewardJudge(Source(section.model, offline=context.offline), context.dtype)
    waiting = iter(rows)
    while chunk := list(islice(waiting, _REWARDED_ROWS)):
        read = [_dialogues(row, judge) if len(row.answers) >= max(min_answers, 1) else [] for row in chunk]
        rewards = judge.rewards([found if isinstance(found, list) else [] for found in read])
        yield from map(_rewarded, chunk, read, rewards)


def _dialogues(row: Rated, judge: "RewardJudge") -> "list[Ids] | FailedTry":
    """The row's dialogues in tokens, or why it has none."""
    answers = tuple(Message("assistant", answer.text) for answer in row.answers)
    try:
        return judge.dialogues(row.prompt, answers)
    except UnusableError as error:
        fault = error.faults[0]
        return FailedTry(fault.reason, fault.what, tuple(range(len(answers))), 0, "")


def _rewarded(row: Rated, read: "list[Ids] | FailedTry", rewards: Sequence[float]) -> JudgedRow:
    """The row with these scores, none where its dialogues could not be read, and the call; no call about none."""
    if not read:
        return JudgedRow(row, ())
    shown, ratings = tuple(range(len(row.answers))), tuple(Rating(reward, "") for reward in rewards)
    call = JudgeCall(_REWARD, shown, ratings=ratings, failures=(read,) if isinstance(read, FailedTry) else ())
    scores: Sequence[float | None] = rewards or [None] * len(shown)
    answers = (answer._replace(score=score) for answer, score in zip(row.answers, scores, strict=True))
    return JudgedRow(row._replace(answers=tuple(answers)), (call,))


def _mixed(one: JudgedRow, section: ChecksSection, scale: Scale) -> JudgedRow:
    """The row that a judge has rated, with its overall scores brought to 0 to 1 and mixed with the checks'."""
    assert section.beside is not None
    share = _logistic if isinstance(section.beside.judge, RewardModelSection) else partial(_linear, scale=scale)
    scores = (None if answer.score is None else share(answer.score) for answer in one.rated.answers)
    answers = tuple(answer._replace(score=score) for answer, score in zip(one.rated.answers, scores, strict=True))
    row = one._replace(rated=one.rated._replace(answers=answers))
    return _checked(row, section, weight=section.beside.weight) if row.rated.checks and row.calls else row


def _linear(rating: float, scale: Scale) -> float:
    return (rating - scale.low) / (scale.high - scale.low)


def on_scale_of_ratings(row: Rated, section: JudgeSection) -> Rated:
    """The row with scores of 1 to 10, as judges that are asked give them, for rows that stand beside theirs."""
    if not isinstance(section, ChecksSection | RewardModelSection):
        return row
    low, high, *_ = scale_of(OVERALL)
    to_share = _logistic if isinstance(section, RewardModelSection) else float
    scores = (None if one.score is None else low + (high - low) * to_share(one.score) for one in row.answers)
    return row._replace(answers=tuple(map(lambda one, score: one._replace(score=score), row.answers, scores)))


def _logistic(reward: float) -> float:
    """The probability that the answer is preferred to one of reward 0, as reward models are trained: Bradley-Terry."""
    return 1 / (1 + math.exp(-reward)) if reward >= 0 else 1 - _logistic(-reward)


def _checked(one: JudgedRow, section: ChecksSection, *, weight: float = 0.0) -> JudgedRow:
    """The row with the scores of its checks, of which those it has already keep `weight`; and the call added."""
    from zephyr.judging.checks import checked_ratings  # lm-eval takes seconds to import

    row = one.rated
    ratings = checked_ratings(row.checks, [answer.text for answer in row.answers], section)
    answers = tuple(_with_check(*both, weight) for both in zip(row.answers, ratings, strict=True))
    call = JudgeCall(_CHECKS, tuple(range(len(answers))), ratings=tuple(ratings))
    return JudgedRow(row._replace(answers=answers), (*one.calls, call))


def _with_check(answer: Answer, rating: Rating, weight: float) -> Answer:
    assert rating.score is not None
    if not weight:
        return answer._replace(score=rating.score, rationale=rating.rationale)
    rationale = f"{rating.rationale}\n{answer.rationale}".strip()
    # A failed rating is no score, and checks alone would be on another scale than those of the other answers.
    score = None if answer.score is None else (1 - weight) * rating.score + weight * answer.score
    return answer._replace(score=score, rationale=rationale)

"""MT-Bench: 80 questions of two turns, answered by a model and rated by a judge.

Turn 2 follows the model's own answer to turn 1. An answer or judgment that fails is missing: it is counted, and
nothing takes its place. Source: arXiv 2306.05685; FastChat, fastchat/llm_judge.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.evaluation.judged.bench import (
    NO_ANSWER,
    CallBatches,
    Contestant,
    JudgedBench,
    check_answers_match,
    count_causes,
    file_hash,
    is_whole_reply,
    refuse_scripted,
    replies_to,
    thinking_note,
    why_no_answer,
    why_no_verdict,
)
from zephyr.evaluation.judged.mt_bench_questions import (
    REPORTED_WRONG,
    Answered,
    Answers,
    BenchQuestion,
    MtBench,
    OwnScores,
    PublishedScores,
    ScoreWording,
    answer_rows,
    read_answers,
    read_mt_bench,
)
from zephyr.evaluation.judged.score import JudgedScore, Judgment, judged_score
from zephyr.evaluation.results import Item, Result, write_result
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import Json
from zephyr.records.messages import Message, Messages
from zephyr.records.thinking import split_thinking
from zephyr.records.writing import write_jsonl
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatRequest, Teacher

MT_BENCH = "mt_bench"
# The published protocol; temperatures go by category, and top_k was generate's default of that time.
MT_BENCH_SAMPLING = SamplingSection(top_k=50, top_p=1.0, max_new_tokens=1024)
JUDGE_MAX_TOKENS = 2048
LOWEST = 1.0


class TurnRating(NamedTuple):
    """The rating of one turn's answer, None with the reason if it is missing, and what the judge thought and wrote."""

    number: int
    category: str
    turn: int
    rating: float | None
    reply: str
    reason: str = ""
    reasoning: str = ""

    @property
    def key(self) -> str:
        """The name of the turn, as 81/1."""
        return f"{self.number}/{self.turn}"


def _judge_notes(ratings: Sequence[TurnRating]) -> tuple[str, ...]:
    return thinking_note("judge", [one.reasoning for one in ratings if one.reply])


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
    model: Teacher,
    questions: Sequence[BenchQuestion],
    sampling: SamplingSection,
    batches: CallBatches,
    *,
    seed: int = 0,
) -> Answered:
    """The model's answers by question, one a turn; None for an answer that failed, and for all that follow it.

    The temperature is the category's, not that of `sampling`.
    """
    answers: dict[int, tuple[str | None, ...]] = {question.number: () for question in questions}
    reasons: dict[str, str] = {}
    thoughts: list[str] = []
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        sent = {str(one.number): one for one in questions if turn < len(one.turns) and None not in answers[one.number]}
        requests = [
            ChatRequest(
                key=key,
                messages=_dialogue(question.turns, answers[question.number]),
                temperature=question.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
            )
            for key, question in sent.items()
        ]
        replies = replies_to(model, requests, batches)
        thoughts += [reply.reasoning for reply in replies.values()]
        for question in questions:
            if turn < len(question.turns):
                reply, key = replies.get(str(question.number)), f"{question.number}/{turn + 1}"
                # A turn that was not sent, as the one before it failed, is missing for that one's reason.
                reason = why_no_answer(reply) if reply else reasons[f"{question.number}/{turn}"]
                answers[question.number] += (reply.text.strip() if reply and not reason else None,)
                if reason:
                    reasons[key] = reason
    return Answered(answers, reasons, thinking_note("model", thoughts))


def rate_answers(
    answered: Answered,
    questions: Sequence[BenchQuestion],
    judge: Teacher,
    wording: ScoreWording,
    batches: CallBatches,
    *,
    max_tokens: int = JUDGE_MAX_TOKENS,
) -> list[TurnRating]:
    """The judge's rating of every turn of every question, in order; missing ones too."""
    turns = [(question, turn) for question in questions for turn in range(1, len(question.turns) + 1)]
    requests = []
    for question, turn in turns:
        said = _said(answered.turns, question, turn)
        if said is not None:
            messages = wording.ask(question, said)
            requests.append(ChatRequest(f"{question.number}/{turn}", messages, 0.0, 1.0, 0, max_tokens))
    replies = replies_to(judge, requests, batches)
    found = []
    for question, turn in turns:
        key = f"{question.number}/{turn}"
        reply = replies.get(key)
        rating, reason = None, answered.reasons.get(key, NO_ANSWER)
        if reply is not None:
            said = _said(answered.turns, question, turn) or ()
            rating = wording.read(reply.text, question, said) if is_whole_reply(reply, max_tokens) else None
            reason = "" if rating is not None else why_no_verdict(reply, "no rating in the judge's reply")
        text, thought = ("", "") if reply is None else (reply.text, reply.reasoning)
        found.append(TurnRating(question.number, question.category, turn, rating, text, reason, thought))
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


def run_mt_bench(
    bench: JudgedBench,
    *,
    sampling: SamplingSection = MT_BENCH_SAMPLING,
    judge_max_tokens: int = JUDGE_MAX_TOKENS,
    published_wording: bool = False,
    without_wrong_references: bool = False,
) -> Result:
    """The result of the first contestant; the run's folder holds answers, judgments, values and scores.

    Raises DataError for files that are not there, and for the scripted judge with published prompts.
    """
    assert bench.data is not None
    questions = read_mt_bench(bench.data, limit=bench.limit, without_wrong=without_wrong_references)
    wording: ScoreWording = OwnScores(bench.seed)
    if published_wording:
        refuse_scripted(bench.judge, "--wording published")
        wording = PublishedScores(questions.judge_prompts())
    contestant = bench.contestants[0]
    with bench.ledgers() as ledgers:
        answered, model_hash = mt_bench_answers(contestant, questions, sampling, bench, ledgers.answers)
        write_jsonl(bench.out / "answers.jsonl", answer_rows(answered.turns, contestant.name), replace=True)
        judge = bench.open_judge(ledgers.judge)
        with judge.batches("judge", questions.num_turns) as batches:
            ratings = rate_answers(
                answered, questions.questions, judge.teacher, wording, batches, max_tokens=judge_max_tokens
            )
    write_jsonl(bench.out / "judgments.jsonl", (rating._asdict() for rating in ratings), replace=True)
    left_out: list[Json] = list(REPORTED_WRONG) if without_wrong_references else []
    protocol: dict[str, Json] = {
        **mt_bench_protocol(questions, sampling, seed=bench.seed, judge_max_tokens=judge_max_tokens),
        "model_hash": model_hash,
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "references_left_out": left_out,
        "swap_consistency": None,
    }
    scores: dict[str, Json] = {
        **_score_fields(mt_bench_scores(ratings, seed=bench.seed)),
        "missing_causes": dict(count_causes(one.reason for one in ratings)),
        "notes": [*answered.notes, *_judge_notes(ratings)],
        "empty_answers": sum(answered.turns.get(one.number, ()).count("") for one in questions.questions),
    }
    items = [Item(MT_BENCH, one.key, str(one.number), one.category, one.rating) for one in ratings]
    result = Result(MT_BENCH, contestant.name, protocol, scores, items)
    write_result(bench.out, result)
    return result


def mt_bench_answers(
    contestant: Contestant, questions: MtBench, sampling: SamplingSection, bench: JudgedBench, ledger: Ledger
) -> tuple[Answered, str]:
    """A contestant's answers, generated or from its file, and a hash of whose they are."""
    name, source = contestant
    if isinstance(source, Path):
        return _answers_of_file(source, questions), file_hash(source)
    model = bench.open(source, "writes", ledger, where=name)
    with model.batches(f"answers of {model.teacher.name}", len(questions.questions)) as batches:
        answered = answer_questions(model.teacher, questions.questions, sampling, batches, seed=bench.seed)
    return answered, model.identity


def _answers_of_file(file: Path, questions: MtBench) -> Answered:
    """The answers in a file, thinking apart. Raises DataError where none is to a question of the benchmark."""
    given = read_answers(file)
    notes = check_answers_match(file, list(given), questions.all_numbers, "questions")
    spoken = {
        number: [None if turn is None else split_thinking(turn) for turn in turns] for number, turns in given.items()
    }
    notes += thinking_note("model", [one.reasoning if one else "" for turns in spoken.values() for one in turns])
    turns = {number: tuple(None if one is None else one.answer for one in said) for number, said in spoken.items()}
    return Answered({number: said for number, said in turns.items() if number in questions.all_numbers}, {}, notes)


def mt_bench_protocol(
    questions: MtBench, sampling: SamplingSection, *, seed: int, judge_max_tokens: int = JUDGE_MAX_TOKENS
) -> dict[str, Json]:
    """What answers and judgments depend on besides who writes them."""
    return {
        "questions": len(questions.questions),
        "questions_hash": file_hash(questions.files.questions),
        "references_hash": file_hash(questions.files.references),
        "temperature": "by category",
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens,
        "judge_max_tokens": judge_max_tokens,
        "judge_temperature": 0.0,
        "seed": seed,
    }


def _score_fields(scores: MtBenchScores) -> dict[str, Json]:
    """All scores by the names they have in results."""
    named = {
        "as_published": scores.as_published,
        **{f"turn_{turn}": score for turn, score in scores.turns.items()},
        "failures_counted": scores.failures_counted,
        "without_reported_wrong": scores.without_reported_wrong,
        **scores.categories,
    }
    return {name: dict(score.fields()) for name, score in named.items()}


def _dialogue(turns: Sequence[str], answers: Sequence[str | None]) -> Messages:
    said: list[Message] = []
    for turn, answer in zip(turns, answers, strict=False):
        said += [Message("user", turn), Message("assistant", answer or "")]
    return (*said, Message("user", turns[len(answers)]))


def _said(answers: Answers, question: BenchQuestion, turn: int) -> tuple[str, ...] | None:
    """The answers up to that turn; None if one of them is missing."""
    given = answers.get(question.number, ())[:turn]
    said = tuple(answer for answer in given if answer is not None)
    return said if len(said) == turn else None

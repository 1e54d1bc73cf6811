"""What a judge made, as two files: the ratings, and every call that they come from."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from zephyr.data.read.record_cache import Spool
from zephyr.feedback.judge import JudgeCall, Judged
from zephyr.judging import TEMPLATE_VERSION
from zephyr.records.fields import Json
from zephyr.records.rows import Answer, Rated, prompt_id
from zephyr.records.writing import write_jsonl

CALLS = "calls.jsonl"


def calls_beside(ratings: Path) -> Path:
    """Where the calls of a ratings file go: ratings.jsonl has ratings.calls.jsonl."""
    return ratings.with_name(f"{ratings.stem}.{CALLS}")


def write_judged(
    found: Iterable[Judged], judge_name: str, ratings: Path, calls: Path, *, replace: bool = False
) -> Counter[str]:
    """The counts of all that was judged, with both files written, the ratings last.

    Prompts without a single answer are in no file but in the counts. Where a file is there already and is not to
    be replaced, a DataError says so.
    """
    counts: Counter[str] = Counter()
    rated: Spool[Rated] = Spool("rated")

    def lines() -> Iterator[Mapping[str, Json]]:
        for one in found:
            counts.update(one.counts)
            if one.rated.answers:
                rated.append(one.rated)
            else:
                counts["prompts without an answer"] += 1
            yield from (call_fields(one.rated, call, judge_name) for call in one.calls)

    write_jsonl(calls, lines(), replace=replace)
    write_jsonl(ratings, rated, replace=replace)
    return counts


def call_fields(rated: Rated, call: JudgeCall, judge_name: str) -> dict[str, Json]:
    """A call as plain fields: who was asked what, in which order, what came out, and what went wrong before."""
    ratings: list[Json] = [dict(rating._asdict()) | {"types": list(rating.types)} for rating in call.ratings]
    failures: list[Json] = [failure._asdict() | {"shown": list(failure.shown)} for failure in call.failures]
    return {
        "prompt_id": prompt_id(rated.prompt),
        "row": rated.name,
        "judge": judge_name,
        "template": TEMPLATE_VERSION,
        "aspect": call.aspect,
        "shown": list(call.shown),
        "models": [rated.answers[index].model for index in call.shown],
        "seed": call.seed,
        "ratings": ratings,
        "failed_tries": failures,
    }


def without_ratings(rated: Rated) -> Rated:
    """The row with its answers as they were before anyone rated them."""
    answers = tuple(
        Answer(answer.text, answer.model, principle=answer.principle, system=answer.system) for answer in rated.answers
    )
    return rated._replace(answers=answers)

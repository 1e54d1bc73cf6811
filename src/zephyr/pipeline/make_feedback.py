"""The feedback stage: prompts answered several times, answers rated, ratings made into pairs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zephyr.atomic import replace_text
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import Accounts, open_all, open_records, stage_rows
from zephyr.feedback.binarize import binarize
from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge
from zephyr.feedback.judged_files import CALLS, write_judged
from zephyr.pipeline.feedback_over_ray import rate_with_workers
from zephyr.pipeline.feedback_settings import answering_of, judging_of
from zephyr.pipeline.ledgers import StageLedgers
from zephyr.pipeline.make_synth import PROMPTS
from zephyr.pipeline.ready import answering, rater, writer
from zephyr.pipeline.recorded import binarize_recorded, binarize_settings, none_made
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.records.rows import Prompt, Rated
from zephyr.records.writing import write_jsonl
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work

CANDIDATES = "candidates.jsonl"
RATINGS = "ratings.jsonl"
PAIRS = "pairs.jsonl"
COUNTS = "counts.json"


def make_feedback(work: Work) -> Facts:
    """The facts of the stage; its folder holds the rated answers, the judge's calls, and the rows made of them."""
    section = work.recipe.feedback
    assert section is not None
    facts: Facts = {}
    seed = work.recipe.seed
    if section.recorded:
        made = binarize_recorded(section, _recorded(work, section, facts), seed=seed)
    else:
        made = binarize(_judged(work, section, facts), binarize_settings(section, set(), seed=seed))
        if not made.rows:
            # What failed is asked again by the next try, and what was answered is in the ledgers.
            for name in (CANDIDATES, RATINGS):
                (work.folder / name).unlink(missing_ok=True)
            raise none_made(made, section, "feedback", f"run again, or ask others; {_failures(work)}")
    (work.folder / PAIRS).unlink(missing_ok=True)  # of a try that was stopped
    write_jsonl(work.folder / PAIRS, made.rows)
    facts |= {"prompts": made.prompts, section.binarize.output: len(made.rows), "rule": made.rule}
    return facts | {"dropped": dict(made.dropped), "answers_left_out": dict(made.left_out)}


def _failures(work: Work) -> str:
    """What became of the questions that failed, by reason."""
    counts = json.loads((work.folder / COUNTS).read_bytes())
    every = Counter(counts["answers"]) + Counter(counts["ratings"])
    failed = [f"{count:,} x {name}" for name, count in every.items() if name.startswith("failed")]
    return f"there were {', '.join(failed)}" if failed else "no question failed"


def _recorded(work: Work, section: FeedbackSection, facts: Facts) -> list[Records[Rated]]:
    """Ratings that exist already."""
    accounts = Accounts()
    opened = open_all(work.recipe, section.recorded, Rated)
    for source, records in zip(section.recorded, opened, strict=True):
        accounts.read(source, records)
    facts |= accounts.facts()
    return opened


def _judged(work: Work, section: FeedbackSection, facts: Facts) -> list[Rated]:
    """Answers sampled and rated now. Both are kept, so that a try that was stopped is not asked again."""
    ratings, counts = work.folder / RATINGS, work.folder / COUNTS
    if not ratings.exists():
        if section.ray is None:
            _ask(work, section, counts)
        else:
            made = rate_with_workers(work, section, _prompts(work, section))
            replace_text(counts, json.dumps({"answers": made.answers, "ratings": made.ratings}, indent=1))
    facts |= json.loads(counts.read_bytes())
    return list(_read(work, ratings))


def _ask(work: Work, section: FeedbackSection, counts: Path) -> None:
    """Nothing; the stage's folder holds the answers, the ratings, the judge's calls and the counts."""
    candidates = work.folder / CANDIDATES
    with StageLedgers(work, [section.judge, *section.candidates.teachers]) as ledgers:
        if not candidates.exists():
            answered = Counter[str]()
            write_jsonl(candidates, _candidates(work, section, ledgers, answered))
            replace_text(counts, json.dumps({"answers": answered}, indent=1))
        judge_ = ledgers.before(rater(section.judge, work), section.judge)
        found = judge(_read(work, candidates), judge_, judging_of(section, work))
        rated = write_judged(found, judge_.name, work.folder / RATINGS, work.folder / CALLS, replace=True)
        replace_text(counts, json.dumps(json.loads(counts.read_bytes()) | {"ratings": rated}, indent=1))


def _candidates(
    work: Work, section: FeedbackSection, ledgers: StageLedgers, counts: Counter[str]
) -> Iterator[Rated]:  # fmt: skip
    pool = [ledgers.before(answering(name, work), None) for name in section.candidates.models]
    for number, one in enumerate(section.candidates.teachers):
        pool.append(ledgers.before(writer(one, work, where=f"candidates.teachers.{number}"), one))
    for found in answer_prompts(_prompts(work, section), pool, answering_of(section, work)):
        counts.update(found.counts)
        if found.rated.answers:
            yield found.rated
        else:
            counts["prompts without an answer"] += 1


def _prompts(work: Work, section: FeedbackSection) -> Iterator[Prompt]:
    before = work.inputs["synth"] / PROMPTS if "synth" in work.inputs else None
    asked = DataSection(sources=section.prompts, filters=section.filters, shuffle=False)
    return stage_rows(work.recipe, asked, Prompt, before).train


def _read(work: Work, path: Path) -> Iterator[Rated]:
    records = open_records(work.recipe, DataSource(path=str(path.resolve())), Rated)
    return iter(records)

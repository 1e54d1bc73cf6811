"""The feedback stage: prompts answered several times, answers rated, ratings made into pairs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zephyr.atomic import replace_text
from zephyr.feedback.binarize import BinarizeSettings, binarize, gather
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import JudgeSettings, judge
from zephyr.pipeline.data_rows import Accounts, open_records, stage_rows
from zephyr.pipeline.make_synth import PROMPTS
from zephyr.pipeline.ready import answering, rater
from zephyr.pipeline.stage_folder import Facts
from zephyr.pipeline.stages import Work
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.records.rows import Prompt, Rated
from zephyr.records.writing import write_jsonl

CANDIDATES = "candidates.jsonl"
RATINGS = "ratings.jsonl"
PAIRS = "pairs.jsonl"
COUNTS = "counts.json"


def make_feedback(work: Work) -> Facts:
    """The facts of the stage; its folder holds the rated answers and the rows made of them."""
    section = work.recipe.feedback
    assert section is not None
    facts: Facts = {}
    rated = _recorded(work, section, facts) if section.recorded else _judged(work, section, facts)
    settings = BinarizeSettings(seed=work.recipe.seed, **section.binarize.model_dump())
    made = binarize(rated, settings)
    (work.folder / PAIRS).unlink(missing_ok=True)  # of a try that was stopped
    write_jsonl(work.folder / PAIRS, made.rows)
    facts |= {"prompts": made.prompts, section.binarize.output: len(made.rows), "rule": made.rule}
    return facts | {"dropped": dict(made.dropped), "answers_left_out": dict(made.left_out)}


def _recorded(work: Work, section: FeedbackSection, facts: Facts) -> list[Rated]:
    """Ratings that exist already."""
    accounts = Accounts()
    rows: list[Rated] = []
    for source in section.recorded:
        records = open_records(work.recipe, source, Rated)
        accounts.read(source, records)
        rows += records
    facts |= accounts.facts()
    return gather(rows)


def _judged(work: Work, section: FeedbackSection, facts: Facts) -> list[Rated]:
    """Answers sampled and rated now. Both are kept, so that a try that was stopped is not asked again."""
    candidates, ratings = work.folder / CANDIDATES, work.folder / RATINGS
    counts = work.folder / COUNTS
    if not candidates.exists():
        answered = Counter[str]()
        write_jsonl(candidates, _candidates(work, section, answered))
        replace_text(counts, json.dumps({"answers": answered}, indent=1))
    if not ratings.exists():
        rated = Counter[str]()
        write_jsonl(ratings, _ratings(work, section, candidates, rated))
        replace_text(counts, json.dumps(json.loads(counts.read_bytes()) | {"ratings": rated}, indent=1))
    facts |= json.loads(counts.read_bytes())
    return list(_read(work, ratings))


def _candidates(work: Work, section: FeedbackSection, counts: Counter[str]) -> Iterator[Rated]:
    before = work.inputs["synth"] / PROMPTS if "synth" in work.inputs else None
    asked = DataSection(sources=section.prompts, filters=section.filters, shuffle=False)
    rows = stage_rows(work.recipe, asked, Prompt, before)
    pool = [answering(name, work) for name in section.candidates.models]
    sampling = section.candidates.sampling
    settings = CandidateSettings(
        num_answers=section.candidates.num_completions,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_new_tokens,
        seed=work.recipe.seed,
    )
    for found in answer_prompts(rows.train, pool, settings):
        counts.update(found.counts)
        yield found.rated


def _ratings(work: Work, section: FeedbackSection, candidates: Path, counts: Counter[str]) -> Iterator[Rated]:
    rater_ = rater(section.judge, work)
    for found in judge(_read(work, candidates), rater_, JudgeSettings(seed=work.recipe.seed)):
        counts.update(found.counts)
        yield found.rated


def _read(work: Work, path: Path) -> Iterator[Rated]:
    records = open_records(work.recipe, DataSource(path=str(path.resolve())), Rated)
    return iter(records)

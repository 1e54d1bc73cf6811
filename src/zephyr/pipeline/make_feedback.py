"""The feedback stage: prompts answered several times, answers rated, ratings made into pairs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zephyr.atomic import replace_text
from zephyr.data.sources import Records
from zephyr.feedback.binarize import binarize
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import Judged, JudgeSettings, judge
from zephyr.feedback.judged_files import CALLS, write_judged
from zephyr.pipeline.data_rows import Accounts, open_all, open_records, stage_rows
from zephyr.pipeline.make_synth import PROMPTS
from zephyr.pipeline.ready import answering, rater
from zephyr.pipeline.recorded import binarize_recorded, binarize_settings
from zephyr.pipeline.stage_folder import Facts
from zephyr.pipeline.stages import Work
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.records.rows import Prompt, Rated
from zephyr.records.writing import write_jsonl
from zephyr.teachers.protocol import Teacher

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
    (work.folder / PAIRS).unlink(missing_ok=True)  # of a try that was stopped
    write_jsonl(work.folder / PAIRS, made.rows)
    facts |= {"prompts": made.prompts, section.binarize.output: len(made.rows), "rule": made.rule}
    return facts | {"dropped": dict(made.dropped), "answers_left_out": dict(made.left_out)}


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
    candidates, ratings = work.folder / CANDIDATES, work.folder / RATINGS
    counts = work.folder / COUNTS
    if not candidates.exists():
        answered = Counter[str]()
        write_jsonl(candidates, _candidates(work, section, answered))
        replace_text(counts, json.dumps({"answers": answered}, indent=1))
    if not ratings.exists():
        judge_ = rater(section.judge, work)
        found = _ratings(work, section, candidates, judge_)
        rated = write_judged(found, judge_.name, ratings, work.folder / CALLS, replace=True)
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
        principles=None if section.candidates.principles == "none" else section.candidates.principles,
        principle_shares=dict[str, float](section.candidates.principle_shares.items()) or None,
    )
    for found in answer_prompts(rows.train, pool, settings):
        counts.update(found.counts)
        if found.rated.answers:
            yield found.rated
        else:
            counts["prompts without an answer"] += 1


def _ratings(work: Work, section: FeedbackSection, candidates: Path, judge_: Teacher) -> Iterator[Judged]:
    settings = JudgeSettings(
        aspects=tuple(section.judging.aspects),
        num_tries=section.judging.num_tries,
        max_tokens=section.judging.max_new_tokens,
        seed=work.recipe.seed,
    )
    return judge(_read(work, candidates), judge_, settings)


def _read(work: Work, path: Path) -> Iterator[Rated]:
    records = open_records(work.recipe, DataSource(path=str(path.resolve())), Rated)
    return iter(records)

"""The feedback stage: prompts answered several times, answers rated, ratings made into training rows."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

from zephyr.atomic import replace_text
from zephyr.data.read.refused_rows import encodable
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import Accounts, open_all, open_records, stage_rows
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import encoded_prompt
from zephyr.errors import DataError
from zephyr.estimate.row_lengths import known_rows
from zephyr.feedback.binarize import Binarized, binarize, nothing_made, repair_where_published
from zephyr.feedback.candidates import CHUNK_PROMPTS, answer_prompts
from zephyr.feedback.judge import CALLS, CHUNK_ROWS, RATINGS, write_judged
from zephyr.feedback.raters import check_judge, check_rubric, on_scale_of_ratings, rater_of, require_checks
from zephyr.progress import show_progress
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.feedback_section import FeedbackSection, RaySection, pool_of, teachers_that_rate
from zephyr.recipe.model_section import STAGE_REFERENCE
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import FEEDBACK, SFT, SYNTH
from zephyr.recipe.teacher_section import TeacherSection
from zephyr.records.rows import Prompt, Rated, Record
from zephyr.records.writing import write_jsonl
from zephyr.runs.layout import LEDGER
from zephyr.runs.stage_folder import Facts
from zephyr.stages.call_estimate import call_lines, estimate_feedback, sample_prompts
from zephyr.stages.feedback_rows import (
    PAIRS,
    binarize_recorded,
    check_recorded,
    made_facts,
    rows_of_recorded,
    rows_to_come,
)
from zephyr.stages.overlap import feedback_data, refuse_held_out
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Stage, Work
from zephyr.stages.start import (
    answering_context,
    encoder_for,
    referenced_stages,
    source_at_hand,
    starting_tokenizer,
    template_and_model,
)
from zephyr.stages.synth import PROMPTS, prompts_to_come
from zephyr.teachers.opening import StageLedgers, check_teacher, open_teacher, prompts_together

CANDIDATES = "candidates.jsonl"
COUNTS = "counts.json"
_MORE_DIFFERENT = (
    "no question failed: sample more answers (candidates.num_completions) at a higher temperature "
    "(candidates.sampling), give other prompts, or another judge"
)
# Prompts of each source that a check encodes.
_ENCODED_PROMPTS = 10_000


def _section(recipe: Recipe) -> FeedbackSection:
    assert recipe.feedback is not None
    return recipe.feedback.model_copy(update={"judging": recipe.feedback.judging.below(recipe.data_dir)})


def _reads(recipe: Recipe) -> tuple[str, ...]:
    """The stages whose results are read: the model that answers, and prompts where the recipe names none."""
    section = _section(recipe)
    if not section.asks_models:
        return ()
    named = referenced_stages(recipe, FEEDBACK, section.candidates.models)
    return tuple(dict.fromkeys((SFT, *named, *((SYNTH,) if section.reads_made else ()))))


def _sources(recipe: Recipe) -> list[DataSource]:
    """Prompts and ratings from outside."""
    return [*_section(recipe).prompts, *_section(recipe).recorded]


def _outputs(recipe: Recipe) -> list[str]:
    """The names in the finished folder."""
    section = _section(recipe)
    if not section.asks_models:
        return [PAIRS]
    return [PAIRS, *([CANDIDATES] if section.ray is None else []), RATINGS, CALLS, LEDGER, COUNTS]


# ---- before the run ----


def _check(preview: Preview) -> Iterator[str]:
    """Lines about prompts or recorded ratings, and about calls to come; `preview.made` then has rows to train on."""
    section = _section(preview.recipe)
    if section.recorded:
        rated: list[Records[Rated]] = []
        yield from preview.open_sources(section.recorded, Rated, rated)
        if len(rated) == len(section.recorded):
            yield from preview.feedback_overlap(section.recorded, chain.from_iterable(rated))
            yield from check_recorded(preview, rated)
    if section.asks_models:
        yield from _check_asked(preview, section)


def _check_asked(preview: Preview, section: FeedbackSection) -> Iterator[str]:
    """Lines about prompts, and about the calls to models and the judge."""
    sample: list[Prompt] = []
    num_prompts = 0
    if section.prompts:
        prompts: list[Records[Prompt]] = []
        yield from preview.open_sources(section.prompts, Prompt, prompts)
        sample, num_prompts = sample_prompts(prompts), sum(map(len, prompts))
        if len(prompts) < len(section.prompts):
            num_prompts = 0
        else:
            yield from preview.feedback_overlap(section.prompts, chain.from_iterable(prompts))
        yield from _refused_lines(preview, prompts)
    if section.reads_made:
        taken = [name for name in _reads(preview.recipe) if name in preview.recipe.stages]
        yield f"reads {', '.join(taken)}"
        made, num_made = prompts_to_come(preview.recipe)
        sample, num_prompts = [*sample, *made], num_prompts + num_made if num_made else 0
    yield from preview.check_teachers(_teachers_of(section))
    with preview.problems.noted():
        check_judge(section.judge, offline=preview.recipe.offline)
    with preview.problems.noted():
        check_rubric(section)
    with preview.problems.noted():
        if sample and num_prompts:
            yield from call_lines(preview.recipe, estimate_feedback(preview.recipe, sample, num_prompts))
    yield from rows_to_come(preview, num_prompts)


def _estimate(preview: Preview) -> Iterator[str]:
    """Lines about the calls to come, as far as the prompts are known without reading files.

    `preview.made` then has rows for align, unless recorded ratings are public ones whose lengths are known.
    """
    recipe, section = preview.recipe, _section(preview.recipe)
    if section.recorded:
        if not section.asks_models:
            yield "no model is called: the ratings are recorded"
        if any(known_rows(source.path, source.split) is None for source in section.recorded):
            yield from rows_of_recorded(preview, open_all(recipe, section.recorded, Rated))
    if not section.asks_models:
        return
    if section.prompts:
        yield "prompts come from files: zephyr check estimates the calls"
        return
    sample, num_prompts = prompts_to_come(recipe)
    if sample:
        yield from call_lines(recipe, estimate_feedback(recipe, sample, num_prompts))
    else:
        yield "prompts are made in the run: its calls are not estimated"
    yield from rows_to_come(preview, num_prompts)


def _preflight(work: Work) -> Facts:
    """Facts about prompts or ratings from outside, read to their end.

    Raises DataError if they give no row, and other ZephyrErrors for teachers that cannot be called.
    """
    recipe, section = work.recipe, _section(work.recipe)
    facts: Facts = {}
    if section.recorded:
        rated = stage_rows(recipe, DataSection(sources=section.recorded, shuffle=False), Rated, None)
        facts = _read_facts(rated.train, rated.accounts)
        refuse_held_out(recipe, section.recorded)
        binarize_recorded(recipe, open_all(recipe, section.recorded, Rated))
    if not section.asks_models:
        return facts
    for key, teacher in _teachers_of(section):
        check_teacher(teacher, where=key, offline=recipe.offline)
    check_judge(section.judge, offline=recipe.offline)
    check_rubric(section)
    named = section.model_copy(update={"with_made_prompts": False})
    of_prompts = _read_facts(*_usable_prompts(work, named)) if named.prompts else Facts()
    return facts | ({f"prompts {name}": value for name, value in of_prompts.items()} if facts else of_prompts)


def _refused_lines(preview: Preview, parts: Sequence[Records[Prompt]]) -> Iterator[str]:
    """Lines on prompts that cannot be used; those that may not be dropped become problems."""
    recipe, asks_own = preview.recipe, _asks_own_model(preview.recipe)
    with preview.problems.noted():
        tokenizer, accounts = preview.tokenizer if asks_own else None, Accounts(parts)
        encoder = None if tokenizer is None else encoder_for(tokenizer, recipe, FEEDBACK)
        for records in parts:
            for _ in _usable(islice(records, _ENCODED_PROMPTS), _section(recipe), encoder, accounts):
                pass
        yield from accounts.refused_lines()
        accounts.refused.check()


def _asks_own_model(recipe: Recipe) -> bool:
    return any(name.startswith(STAGE_REFERENCE) for name in _section(recipe).candidates.models)


def _usable(
    rows: Iterable[Prompt], section: FeedbackSection, encoder: DialogueEncoder | None, accounts: Accounts
) -> Iterator[Prompt]:
    """The prompts whose answers the judge can rate, and that the run's own model can be given where it answers."""

    def use(row: Prompt) -> None:
        require_checks(row, section.judge)
        if encoder is not None:
            encoded_prompt(row.messages, encoder)

    return encodable(rows, use, accounts.refuse)


def _teachers_of(section: FeedbackSection) -> Iterator[tuple[str, TeacherSection]]:
    """The judge and the models that answer, each with its key in the recipe."""
    for key, one in (teachers_that_rate(section.judge) | pool_of(section.candidates)).items():
        yield f"{FEEDBACK}.{key}", one


def _read_facts(rows: Iterable[Record], accounts: Accounts) -> Facts:
    """The number of rows, all read, and the reasons of those left out. Raises DataError where none is left.

    Raises DataError too for rows that cannot be used and may not be dropped.
    """
    num_rows = sum(1 for _ in rows)
    accounts.refused.check()
    if not num_rows:
        reasons = "; ".join(line.strip() for line in accounts.lines())
        raise DataError(f"{FEEDBACK} rows", f"none is left ({reasons})", "loosen the filters, or give other data")
    return {"rows": num_rows, **accounts.facts()}


# ---- the run ----


def _run(work: Work) -> Facts:
    """Make the stage: rated answers, the judge's calls, and the training rows made of them. Returns the facts.

    Answers and ratings are stored, so that an interrupted stage repeats no request. Raises DataError if the ratings
    give no row.
    """
    section = _section(work.recipe)
    facts: Facts = {}
    made: dict[str, Binarized] = {}
    if section.recorded:
        parts = open_all(work.recipe, section.recorded, Rated)
        facts |= Accounts(parts).facts()
        made["recorded ratings"] = binarize_recorded(work.recipe, parts)
    if section.asks_models:
        facts |= _rated_now(work, section)
        made["own answers"] = _rows_of_own(work, section, facts)
    (work.folder / PAIRS).unlink(missing_ok=True)  # of a try that was stopped
    write_jsonl(work.folder / PAIRS, chain.from_iterable(one.rows for one in made.values()))
    return facts | made_facts(made, section.binarize.output)


def _rated_now(work: Work, section: FeedbackSection) -> Facts:
    """The counts of answers and ratings, once both are in the stage's folder."""
    if not (work.folder / RATINGS).exists():
        if section.ray is None:
            _rate_here(work, section)
        else:
            _rate_over_ray(work, section, section.ray)
    counts: Facts = json.loads((work.folder / COUNTS).read_bytes())
    return counts


def _rows_of_own(work: Work, section: FeedbackSection, facts: Facts) -> Binarized:
    """The training rows of the answers that were rated here. Raises DataError if there is none."""
    rules = repair_where_published(section.binarize, ())
    rows: Iterable[Rated] = _read(work, RATINGS)
    if section.recorded:
        rows = map(partial(on_scale_of_ratings, section=section.judge), rows)
    made = binarize(rows, rules, seed=work.recipe.seed)
    if made.rows:
        return made
    # Failed requests are repeated by the next run; answered ones are in the ledgers.
    for name in (CANDIDATES, RATINGS):
        (work.folder / name).unlink(missing_ok=True)
    raise nothing_made(made, FEEDBACK, section.binarize.output, _failures(facts) or _MORE_DIFFERENT)


def _failures(facts: Facts) -> str:
    """What to do about failed questions, which are named by reason; empty if none failed."""
    counts = [counts for counts in (facts["answers"], facts["ratings"]) if isinstance(counts, dict)]
    failed = [f"{count:,} x {name}" for one in counts for name, count in one.items() if name.startswith("failed")]
    return f"run again, or use other models; there were {', '.join(failed)}" if failed else ""


def _rate_here(work: Work, section: FeedbackSection) -> None:
    """Write the candidates, the ratings, the judge's calls and the counts into the stage's folder."""
    counts, candidates = work.folder / COUNTS, work.folder / CANDIDATES
    asked = teachers_that_rate(section.judge)
    with StageLedgers(work.folder, work.run_folder, [*asked.values(), *section.candidates.teachers]) as ledgers:
        if not candidates.exists():
            answered = Counter[str]()
            write_jsonl(candidates, _candidates(work, section, ledgers, answered))
            replace_text(counts, json.dumps({"answers": answered}, indent=1))
        context, chunk_rows = answering_context(work), prompts_together(CHUNK_ROWS, asked.values())
        keys = {f"{FEEDBACK}.{key}": one for key, one in asked.items()}
        teachers = [ledgers.keep(open_teacher(one, "rates", context, where=key)) for key, one in keys.items()]
        rater = rater_of(section.judge, teachers, section.judging, context, chunk_rows=chunk_rows)
        rows, files = _read(work, CANDIDATES), (work.folder / RATINGS, work.folder / CALLS)
        with show_progress("rated prompts", len(rows)) as display:
            rated = write_judged(rater.rate(rows), rater.name, *files, replace=True, on_row=display.update)
        replace_text(counts, json.dumps(json.loads(counts.read_bytes()) | {"ratings": rated}, indent=1))


def _candidates(work: Work, section: FeedbackSection, ledgers: StageLedgers, counts: Counter[str]) -> Iterator[Rated]:
    candidates = section.candidates
    context, (prompts, num_prompts) = answering_context(work), _prompts(work, section)
    pool = [
        ledgers.keep(open_teacher(one, "writes", context, where=f"{FEEDBACK}.{key}"))
        for key, one in pool_of(candidates).items()
    ]
    chunk_prompts = prompts_together(CHUNK_PROMPTS, candidates.teachers)
    seed, num_answers = work.recipe.seed, num_prompts * candidates.num_completions
    with show_progress("answers", num_answers) as display:
        for found in answer_prompts(
            prompts, pool, candidates, seed=seed, chunk_prompts=chunk_prompts, on_answer=display.update
        ):
            counts.update(found.counts)
            if found.rated.answers:
                yield found.rated
            else:
                counts["prompts without an answer"] += 1


def _rate_over_ray(work: Work, section: FeedbackSection, ray: RaySection) -> None:
    """Write the ratings, the judge's calls, the merged ledger and the counts into the stage's folder."""
    from zephyr.feedback.rate import RatingPlan
    from zephyr.feedback.ray_workers import rate_over_ray

    plan = RatingPlan(
        section.judge,
        section.judging,
        answering_context(work),
        section.candidates,
        chunk_prompts=prompts_together(CHUNK_PROMPTS, section.candidates.teachers),
        chunk_rows=prompts_together(CHUNK_ROWS, teachers_that_rate(section.judge).values()),
        where=f"{FEEDBACK}.",
    )
    with show_progress("partitions", ray.num_partitions) as display:
        made = rate_over_ray(
            _prompts(work, section)[0], plan, work.folder, ray, on_part=lambda done, _of: display.update(done)
        )
    shutil.rmtree(made.parts)  # merged by now
    counts = {"answers": made.counts.answers, "ratings": made.counts.judged}
    replace_text(work.folder / COUNTS, json.dumps(counts, indent=1))


def _prompts(work: Work, section: FeedbackSection) -> tuple[Iterable[Prompt], int]:
    """The prompts to answer, and how many there are. Raises DataError for those that may not be dropped."""
    num_prompts = _read_facts(*_usable_prompts(work, section))["rows"]
    assert isinstance(num_prompts, int)
    return _usable_prompts(work, section)[0], num_prompts


def _usable_prompts(work: Work, section: FeedbackSection) -> tuple[Iterable[Prompt], Accounts]:
    """The prompts that can be used; what the run's own model can be given shows once its tokenizer is made."""
    data = feedback_data(work.recipe, section.prompts, section.filters, with_made=section.with_made_prompts)
    made_before = work.inputs[SYNTH] / PROMPTS if SYNTH in work.inputs else None
    rows = stage_rows(work.recipe, data, Prompt, made_before)
    source = source_at_hand(work) if _asks_own_model(work.recipe) else None
    encoder = None if source is None else starting_tokenizer(source, work.recipe, FEEDBACK)[1]
    return _usable(rows.train, section, encoder, rows.accounts), rows.accounts


def _read(work: Work, name: str) -> Records[Rated]:
    """The rows of a file in the stage's folder."""
    return open_records(work.recipe, DataSource(path=str((work.folder / name).resolve())), Rated)


STAGE = Stage(
    name=FEEDBACK,
    version=1,
    reads=_reads,
    sources=_sources,
    outputs=_outputs,
    check=_check,
    estimate=_estimate,
    preflight=_preflight,
    run=_run,
    depends_on=partial(template_and_model, stage=FEEDBACK),
)

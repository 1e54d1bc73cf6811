"""The rows that feedback will make: those of recorded ratings, and for a check rows like those to come."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random

from zephyr.data.read.sources import Records
from zephyr.data.scanner import scan_preferences
from zephyr.feedback.binarize import Binarized, binarize, gather, nothing_made, repair_where_published
from zephyr.judging.questions import ASPECTS
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import ALIGN, FEEDBACK, REWARD
from zephyr.records.rows import Answer, Prompt, Rated
from zephyr.records.writing import write_jsonl
from zephyr.runs.fact_lines import left_out_lines
from zephyr.runs.stage_folder import Facts
from zephyr.stages.preview import MadeRows, Preview
from zephyr.stages.synth import prompts_to_come
from zephyr.world import faulty_answer, ideal_answer

PAIRS = "pairs.jsonl"
# Share of the prompts that give a row; for the others all ratings are equal, or too few answers are rated.
SHARE_WITH_A_ROW = 0.9
_SCANNED_ROWS = 5000


def _section(recipe: Recipe) -> FeedbackSection:
    assert recipe.feedback is not None
    return recipe.feedback


def check_recorded(preview: Preview, parts: Sequence[Records[Rated]]) -> Iterator[str]:
    """Lines about the quality of recorded ratings, and about the rows made of them."""
    rows = (row for records in parts for row in islice(records, _SCANNED_ROWS))
    yield from scan_preferences(rows).lines()
    with preview.problems.noted():
        yield from rows_of_recorded(preview, parts)


def rows_of_recorded(preview: Preview, parts: Sequence[Records[Rated]]) -> Iterator[str]:
    """Lines about the rows made of recorded ratings, which `preview.made` then has. Raises DataError for none."""
    made = binarize_recorded(preview.recipe, parts)
    file = preview.folder / PAIRS
    preview.made[ALIGN] = preview.made[REWARD] = MadeRows(file, write_jsonl(file, made.rows))
    yield f"{len(made.rows):,} {_section(preview.recipe).binarize.output} of {made.prompts:,} prompts"
    yield from left_out_lines({"dropped": dict(made.dropped), "answers_left_out": dict(made.left_out)})


def rows_to_come(preview: Preview, num_prompts: int) -> Iterator[str]:
    """A line about rows like those to come, which `preview.made` then has; none where the prompts are not known.

    The closed world's prompts with a right and a faulty answer stand for those that models will answer; rows of
    recorded ratings, where there are some, for those that are made beside them.
    """
    recipe, section = preview.recipe, _section(preview.recipe)
    if section.recorded and num_prompts and ALIGN in preview.made:
        recorded, num_rows = preview.made[ALIGN], _num_rows(section, num_prompts)
        preview.made[ALIGN] = preview.made[REWARD] = recorded._replace(num_rows=recorded.num_rows + num_rows)
        yield f"about {num_rows:,} more of own answers, if {SHARE_WITH_A_ROW:.0%} of the prompts give one"
        return
    sample, _ = prompts_to_come(recipe)
    if section.prompts or not sample:
        return
    rng = Random(recipe.seed)
    rated = [Rated(one.name, one.messages, _right_and_faulty(one, rng)) for one in sample]
    made = binarize(rated, section.binarize, seed=recipe.seed)
    if not made.rows:
        return
    file = preview.folder / PAIRS
    write_jsonl(file, made.rows)
    num_rows = _num_rows(section, num_prompts * len(made.rows) / len(rated))
    preview.made[ALIGN] = preview.made[REWARD] = MadeRows(file, num_rows)
    yield f"about {num_rows:,} {section.binarize.output}, if {SHARE_WITH_A_ROW:.0%} of the prompts give one"


def _num_rows(section: FeedbackSection, num_groups: float) -> int:
    """Rows that so many answered prompts are expected to give."""
    pairs = section.binarize.max_pairs_per_prompt if section.binarize.output == "pairs" else 1
    return round(num_groups * SHARE_WITH_A_ROW) * pairs


def _right_and_faulty(prompt: Prompt, rng: Random) -> tuple[Answer, ...]:
    texts = {ideal_answer(prompt.messages): 9.0, faulty_answer(prompt.messages, rng).text: 1.0}
    return tuple(Answer(text, score=value, ratings=dict.fromkeys(ASPECTS, value)) for text, value in texts.items())


def binarize_recorded(recipe: Recipe, parts: Sequence[Records[Rated]]) -> Binarized:
    """The training rows of recorded ratings. Raises DataError if there is none."""
    section = _section(recipe)
    rules = repair_where_published(section.binarize, {shape for one in parts for shape in one.shapes.values()})
    made = binarize(gather(row for one in parts for row in one), rules, seed=recipe.seed)
    if not made.rows:
        remedy = "give other ratings, or change feedback.binarize"
        raise nothing_made(made, f"{FEEDBACK}.recorded", section.binarize.output, remedy)
    return made


def made_facts(made: Mapping[str, Binarized], output: str) -> Facts:
    """The facts of training rows, by what they were made of; the counts of each apart where there are several."""
    rules = dict.fromkeys(one.rule for one in made.values())
    dropped, left_out = Counter[str](), Counter[str]()
    for one in made.values():
        dropped.update(one.dropped)
        left_out.update(one.left_out)
    facts: Facts = {
        "prompts": sum(one.prompts for one in made.values()),
        output: sum(len(one.rows) for one in made.values()),
        "rule": "; ".join(rules),
        "dropped": dict(dropped),
        "answers_left_out": dict(left_out),
    }
    if len(made) > 1:
        facts["made_of"] = {name: {"prompts": one.prompts, output: len(one.rows)} for name, one in made.items()}
    return facts

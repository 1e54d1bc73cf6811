"""The calls, tokens and price of a run's teachers, estimated from a sample of prompts.

The stages' own code sends its requests to teachers that only count. Prompt tokens are approximate; answers count at
their maximum length, so real runs take less. Failed attempts and repeated rating requests come on top.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge
from zephyr.recipe.feedback_section import teachers_that_rate
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import EndpointSection, PricesSection, ScriptedSection, TeacherSection
from zephyr.records.rows import Prompt
from zephyr.runs.layout import LEDGER
from zephyr.teachers.ledger.prices import BYTES_A_TOKEN, cap_of, likely_prompt_tokens, prices_of, spend_of
from zephyr.teachers.protocol import ChatReply, ChatRequest, Spend

ESTIMATE_SAMPLE = 200
_WORD = " lorem"


class DryTeacher:
    """Counts calls and tokens. Its answers differ from each other and are of the maximum length.

    With `fails` it answers by errors, so that no question is repeated.
    """

    def __init__(self, name: str, prices: PricesSection | None = None, *, fails: bool = False) -> None:
        self.name = name
        self.calls = 0
        self.spend = Spend()
        self._prices = prices or PricesSection()
        self._fails = fails

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        for request in requests:
            self.calls += 1
            self.spend = self.spend.plus(spend_of(self._prices, likely_prompt_tokens(request), request.max_tokens))
            if self._fails:
                yield ChatReply(request.key, "", "error", "dry run")
            else:
                # A beginning that no other answer has, of this teacher or of another.
                beginning = f"{self.calls} {self.name}"
                longest = request.max_tokens * BYTES_A_TOKEN
                yield ChatReply(request.key, f"{beginning}{_WORD * (longest // len(_WORD))}", "stop")


class TeacherEstimate(NamedTuple):
    """A teacher that has counted a sample of requests, and how many times as many the run sends."""

    who: str
    section: TeacherSection | None
    teacher: DryTeacher
    times: float

    @property
    def spend(self) -> Spend:
        """The tokens and the price of the run's calls."""
        prompt, completion, price = self.teacher.spend
        return Spend(round(prompt * self.times), round(completion * self.times), price * self.times)

    def line(self) -> str:
        """The estimate in words."""
        spend, calls = self.spend, round(self.teacher.calls * self.times)
        price = f", price at most {spend.price:,.2f}" if spend.price else ""
        tokens = f"{spend.prompt_tokens:,} prompt tokens and at most {spend.completion_tokens:,} of answers"
        return f"calls {self.who} about {calls:,} times: {tokens}{price}"


def counting(section: TeacherSection, times: float, *, fails: bool = False) -> TeacherEstimate:
    """An estimate for a teacher without any calls yet; with `fails` it answers every call with an error."""
    name = teacher_name(section)
    return TeacherEstimate(name, section, DryTeacher(name, prices_of(section), fails=fails), times)


def teacher_name(section: TeacherSection) -> str:
    """The teacher in messages."""
    return "the scripted teacher" if isinstance(section, ScriptedSection) else section.model


def estimate_feedback(recipe: Recipe, sample: Sequence[Prompt], num_prompts: int) -> list[TeacherEstimate]:
    """The calls about so many prompts like those of the sample: of all who answer, and last of the judge's teacher."""
    section = recipe.feedback
    assert section is not None
    times = num_prompts / len(sample) if sample else 0.0
    pool = [TeacherEstimate(name, None, DryTeacher(name), times) for name in section.candidates.models]
    pool += [counting(one, times) for one in section.candidates.teachers]
    answered = answer_prompts(sample, [one.teacher for one in pool], section.candidates, seed=recipe.seed)
    rated = [one.rated for one in answered]
    for asked in teachers_that_rate(section.judge).values():
        rater = DryTeacher("judge", prices_of(asked), fails=True)
        for _ in judge(rated, rater, section.judging.below(recipe.data_dir), seed=recipe.seed):
            pass
        pool.append(TeacherEstimate(f"{teacher_name(asked)}, the judge,", asked, rater, times))
    return pool


def call_lines(recipe: Recipe, estimates: Sequence[TeacherEstimate]) -> Iterator[str]:
    """A line per teacher that is not scripted; what the run's ledger holds already; whether a cap can be reached."""
    models = [one for one in estimates if not isinstance(one.section, ScriptedSection)]
    yield from (one.line() for one in models)
    paid = [one for one in models if isinstance(one.section, EndpointSection)]
    before = _spent(recipe.output_dir / recipe.name / LEDGER) if paid else Spend()
    if before.tokens:
        yield f"the run's ledger holds {before.tokens:,} tokens, price {before.price:,.2f}, that are not paid again"
    cap = cap_of(one.section for one in paid if one.section is not None)
    most = before
    for one in paid:
        most = most.plus(one.spend)
    if cap.is_set and not cap.allows(most):
        yield f"the cap of {cap.words()} may be reached: the run then stops, and continues once the cap is raised"


def sample_prompts(parts: Sequence[Iterable[Prompt]]) -> list[Prompt]:
    """A sample of the prompts: some from the beginning of each part."""
    return [row for part in parts for row in islice(part, -(-ESTIMATE_SAMPLE // len(parts)))]


def _spent(path: Path) -> Spend:
    if not path.is_file():
        return Spend()
    from zephyr.teachers.ledger.ledger import Ledger

    with Ledger(path) as ledger:
        spend = Spend()
        for total in ledger.totals():
            spend = spend.plus(Spend(total.prompt_tokens, total.completion_tokens, total.price))
        return spend

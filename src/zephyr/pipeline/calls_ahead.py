"""What the teachers of a run will be asked: calls, tokens and price, foretold from a sample of prompts.

The stages' own code asks teachers that only count. Prompt tokens are likely ones; answers count as long as they
may be, so real runs take less. Tries that fail, and questions that a judge has to be asked again, come on top.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge
from zephyr.pipeline.endpoints import cap_of, endpoint_teacher, prices_of
from zephyr.pipeline.feedback_settings import answering_of, judging_of
from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection, UltraChatSynth, WorldSynth
from zephyr.recipe.teacher_section import EndpointSection, ScriptedSection, TeacherSection, VllmSection
from zephyr.records.rows import Prompt
from zephyr.runs.layout import LEDGER
from zephyr.stages.stage import Work
from zephyr.synth.dialogues import WritingSettings, write_dialogues
from zephyr.synth.instances import InstanceSettings, classify, write_instances
from zephyr.synth.instructions import GrowthSettings, InstructionPool
from zephyr.synth.self_instruct import read_seeds
from zephyr.synth.talk_plan import PlanSettings, plan_talk
from zephyr.synth.talks import Talker, TalkSettings
from zephyr.teachers.dry_run import DryTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import Spend
from zephyr.teachers.vllm_engine import is_installed, not_installed
from zephyr.world import prompts

SAMPLE = 200
# Of the instructions in a list of a teacher; in Self-Instruct's own run it was about so many.
KEPT_OF_A_LIST = 4


class Asked(NamedTuple):
    """A teacher, and how often all that was asked of it in the sample comes in the run."""

    who: str
    section: TeacherSection | None
    teacher: DryTeacher
    times: float

    @property
    def spend(self) -> Spend:
        """What the run takes of it."""
        prompt, completion, price = self.teacher.spend
        return Spend(round(prompt * self.times), round(completion * self.times), price * self.times)

    def line(self) -> str:
        """The forecast in words."""
        spend, calls = self.spend, round(self.teacher.calls * self.times)
        price = f", price at most {spend.price:,.2f}" if spend.price else ""
        tokens = f"{spend.prompt_tokens:,} prompt tokens and at most {spend.completion_tokens:,} of answers"
        return f"asks {self.who} for about {calls:,} answers: {tokens}{price}"


def refuse_teachers(recipe: Recipe, stage: str) -> None:
    """Nothing if the stage's teachers can be asked. Raises ZephyrError for a missing key or library."""
    for where, section in _sections(recipe, stage):
        if isinstance(section, EndpointSection):
            endpoint_teacher(section, where=f"{stage}.{where}", offline=recipe.offline)
        elif isinstance(section, VllmSection) and not is_installed():
            raise not_installed()


def calls_of_synth(recipe: Recipe) -> Iterator[str]:
    """Lines on what the synth stage will ask; none for the scripted teacher, which costs nothing."""
    section = recipe.synth
    if section is not None and not isinstance(section.teacher, ScriptedSection):
        yield from _lines(recipe, asked_by_synth(section, seed=recipe.seed, data_dir=recipe.data_dir))


def asked_by_synth(section: SynthSection, *, seed: int, data_dir: Path) -> list[Asked]:
    """What the section asks of each of its teachers, none of which is the scripted one. Raises ZephyrError."""
    generator = section.generator
    match generator:
        case WorldSynth():
            return _of_world(section, generator, seed)
        case SelfInstructSynth():
            return _of_lists(section, generator, seed, data_dir)
        case UltraChatSynth():
            return _of_talks(section, generator, seed)


def calls_of_feedback(recipe: Recipe, sample: Sequence[Prompt], num_prompts: int) -> Iterator[str]:
    """Lines on what the feedback stage will ask about so many prompts, such as those of the sample."""
    section = recipe.feedback
    if section is None or section.recorded or not sample:
        return
    work = Work(recipe, "feedback", Path(), {}, Path())
    times = num_prompts / len(sample)
    pool = [Asked(name, None, DryTeacher(name), times) for name in section.candidates.models]
    pool += [_dry(one, times) for one in section.candidates.teachers]
    rater = DryTeacher("judge", prices_of(section.judge), fails=True)
    answered = (
        found.rated for found in answer_prompts(sample, [one.teacher for one in pool], answering_of(section, work))
    )
    for _ in judge(answered, rater, judging_of(section, work)):
        pass
    judged = Asked(f"{_name(section.judge)}, the judge,", section.judge, rater, times)
    yield from _lines(recipe, [*pool, judged])


def _of_world(section: SynthSection, generator: WorldSynth, seed: int) -> list[Asked]:
    count = min(SAMPLE, generator.num_dialogues)
    asked = _dry(section.teacher, generator.num_dialogues / count)
    for _ in write_dialogues(prompts("train", seed, count), asked.teacher, _answers(section, 0), Counter()):
        pass
    return [asked]


def _of_lists(section: SynthSection, generator: SelfInstructSynth, seed: int, data_dir: Path) -> list[Asked]:
    """Lists of instructions, then a class and examples for each that is kept."""
    growth = GrowthSettings(
        generator.num_instructions, seed=seed, classification_only=generator.classification_only, patience_rounds=1
    )
    seeds = read_seeds(data_dir / generator.seeds, growth)[:SAMPLE]
    instructions = [task.instruction for task in seeds]
    lists = _dry(section.teacher, generator.num_instructions / KEPT_OF_A_LIST / growth.requests_per_round)
    lists = lists._replace(teacher=DryTeacher(lists.teacher.name, prices_of(section.teacher), fails=True))
    next(InstructionPool(instructions, growth).grow(lists.teacher))
    tasks = _dry(section.teacher, generator.num_instructions / len(seeds))
    written = classify(instructions, tasks.teacher, InstanceSettings(), Counter())
    for _ in write_instances(written, tasks.teacher, InstanceSettings(), Counter()):
        pass
    return [lists._replace(who=f"{lists.who} (lists of instructions)"), tasks._replace(who=f"{tasks.who} (tasks)")]


def _of_talks(section: SynthSection, generator: UltraChatSynth, seed: int) -> list[Asked]:
    count = min(SAMPLE, generator.num_dialogues)
    times = generator.num_dialogues / count
    answers = _dry(section.teacher, times)
    person = _dry(generator.person or section.teacher, times)
    plan = PlanSettings(
        seed,
        generator.min_turns,
        generator.max_turns,
        {"world": generator.world, "writing": generator.writing, "materials": generator.materials},
    )
    settings = TalkSettings(answers=_answers(section, seed), min_turns=generator.min_turns)
    passages = ("A text of others.",) if generator.passages else ()
    talker = Talker(person.teacher, answers.teacher, settings, passages=passages)
    for _ in talker.dialogues((plan_talk(number, plan) for number in range(1, count + 1)), Counter()):
        pass
    others = (plan_talk(-number, plan) for number in range(1, 1 + round(generator.num_feedback_prompts / times)))
    for _ in talker.prompts(others, Counter()):
        pass
    return [answers, person._replace(who=f"{person.who}, the person,")]


def _answers(section: SynthSection, seed: int) -> WritingSettings:
    assert not isinstance(section.teacher, ScriptedSection)
    return WritingSettings(max_tokens=section.teacher.sampling.max_new_tokens, seed=seed)


def _dry(section: TeacherSection, times: float) -> Asked:
    name = _name(section)
    return Asked(name, section, DryTeacher(name, prices_of(section)), times)


def _name(section: TeacherSection) -> str:
    return "the scripted teacher" if isinstance(section, ScriptedSection) else section.model


def _lines(recipe: Recipe, asked: Sequence[Asked]) -> Iterator[str]:
    """A line a teacher that is no rule; what is in the run's ledger already; and whether a cap can be met."""
    told = [one for one in asked if not isinstance(one.section, ScriptedSection)]
    yield from (one.line() for one in told)
    paid = [one for one in told if isinstance(one.section, EndpointSection)]
    before = _spent(recipe.output_dir / recipe.name / LEDGER) if paid else Spend()
    if before.tokens:
        yield f"the run's ledger holds {before.tokens:,} tokens, price {before.price:,.2f}, that are not asked again"
    cap = cap_of(one.section for one in paid if one.section is not None)
    most = before
    for one in paid:
        most = most.plus(one.spend)
    if cap.is_set and not cap.allows(most):
        yield f"the cap of {cap.words()} can be met: the run then stops before it, and goes on when it is raised"


def _spent(path: Path) -> Spend:
    if not path.is_file():
        return Spend()
    with Ledger(path) as ledger:
        spend = Spend()
        for total in ledger.totals():
            spend = spend.plus(Spend(total.prompt_tokens, total.completion_tokens, total.price))
        return spend


def _sections(recipe: Recipe, stage: str) -> Iterator[tuple[str, TeacherSection]]:
    """The teachers of a stage, by their keys in it."""
    if stage == "synth" and recipe.synth is not None:
        yield "teacher", recipe.synth.teacher
        generator = recipe.synth.generator
        if isinstance(generator, UltraChatSynth) and generator.person is not None:
            yield "generator.person", generator.person
    feedback = recipe.feedback
    if stage == "feedback" and feedback is not None and not feedback.recorded:
        yield "judge", feedback.judge
        yield from ((f"candidates.teachers.{number}", one) for number, one in enumerate(feedback.candidates.teachers))


def first_prompts(parts: Sequence[Iterable[Prompt]]) -> list[Prompt]:
    """A sample of the prompts: some of the beginning of each part."""
    return [row for part in parts for row in islice(part, -(-SAMPLE // len(parts)))]


def world_prompts(seed: int, num_prompts: int) -> list[Prompt]:
    """A sample of so many prompts that the closed world makes for feedback."""
    return list(prompts("feedback", seed, min(SAMPLE, num_prompts)))

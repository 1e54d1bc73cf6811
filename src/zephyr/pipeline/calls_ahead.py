"""What the teachers of a run will be asked: calls, tokens and price, foretold from a sample of prompts.

The stages' own code asks teachers that only count. Prompt tokens are likely ones; answers count as long as they
may be, so real runs take less. Tries that fail, and questions that a judge has to be asked again, come on top.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection, UltraChatSynth, WorldSynth
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection
from zephyr.stages.call_estimate import ESTIMATE_SAMPLE, TeacherEstimate, call_lines, counting
from zephyr.synth.dialogues import WritingSettings, write_dialogues
from zephyr.synth.instances import InstanceSettings, classify, write_instances
from zephyr.synth.instructions import GrowthSettings, InstructionPool
from zephyr.synth.self_instruct import read_seeds
from zephyr.synth.talk_plan import PlanSettings, plan_talk
from zephyr.synth.talks import Talker, TalkSettings
from zephyr.world import prompts

# Of the instructions in a list of a teacher; in Self-Instruct's own run it was about so many.
KEPT_OF_A_LIST = 4


def calls_of_synth(recipe: Recipe) -> Iterator[str]:
    """Lines on what the synth stage will ask; none for the scripted teacher, which costs nothing."""
    section = recipe.synth
    if section is not None and not isinstance(section.teacher, ScriptedSection):
        yield from call_lines(recipe, asked_by_synth(section, seed=recipe.seed, data_dir=recipe.data_dir))


def asked_by_synth(section: SynthSection, *, seed: int, data_dir: Path) -> list[TeacherEstimate]:
    """What the section asks of each of its teachers, none of which is the scripted one. Raises ZephyrError."""
    generator = section.generator
    match generator:
        case WorldSynth():
            return _of_world(section, generator, seed)
        case SelfInstructSynth():
            return _of_lists(section, generator, seed, data_dir)
        case UltraChatSynth():
            return _of_talks(section, generator, seed)


def _of_world(section: SynthSection, generator: WorldSynth, seed: int) -> list[TeacherEstimate]:
    count = min(ESTIMATE_SAMPLE, generator.num_dialogues)
    asked = counting(section.teacher, generator.num_dialogues / count)
    for _ in write_dialogues(prompts("train", seed, count), asked.teacher, _answers(section, 0), Counter()):
        pass
    return [asked]


def _of_lists(section: SynthSection, generator: SelfInstructSynth, seed: int, data_dir: Path) -> list[TeacherEstimate]:
    """Lists of instructions, then a class and examples for each that is kept."""
    growth = GrowthSettings(
        generator.num_instructions, seed=seed, classification_only=generator.classification_only, patience_rounds=1
    )
    seeds = read_seeds(data_dir / generator.seeds, growth)[:ESTIMATE_SAMPLE]
    instructions = [task.instruction for task in seeds]
    times = generator.num_instructions / KEPT_OF_A_LIST / growth.requests_per_round
    lists = counting(section.teacher, times, fails=True)
    next(InstructionPool(instructions, growth).grow(lists.teacher))
    tasks = counting(section.teacher, generator.num_instructions / len(seeds))
    written = classify(instructions, tasks.teacher, InstanceSettings(), Counter())
    for _ in write_instances(written, tasks.teacher, InstanceSettings(), Counter()):
        pass
    return [lists._replace(who=f"{lists.who} (lists of instructions)"), tasks._replace(who=f"{tasks.who} (tasks)")]


def _of_talks(section: SynthSection, generator: UltraChatSynth, seed: int) -> list[TeacherEstimate]:
    count = min(ESTIMATE_SAMPLE, generator.num_dialogues)
    times = generator.num_dialogues / count
    answers = counting(section.teacher, times)
    person = counting(generator.person or section.teacher, times)
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


def synth_teachers(section: SynthSection) -> Iterator[tuple[str, TeacherSection]]:
    """The teachers of the synth stage, by their keys in the recipe."""
    yield "synth.teacher", section.teacher
    generator = section.generator
    if isinstance(generator, UltraChatSynth) and generator.person is not None:
        yield "synth.generator.person", generator.person

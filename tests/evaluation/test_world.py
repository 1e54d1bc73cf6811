"""The world's benchmark: perfect, hopeless and half-right models have the scores they deserve."""

import pytest

from zephyr.evaluation.world import score_world
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.teachers.protocol import ChatReply
from zephyr.teachers.scripted import ScriptedTeacher
from zephyr.world import prompts

ASKED = list(prompts("heldout", 1, 60))


class Silent:
    """Fails every time."""

    name = "silent"

    def answer(self, requests):
        return (ChatReply(request.key, "", "error", "no answer") for request in requests)


def test_the_faultless_teacher_has_all_and_a_silent_one_nothing():
    best = score_world(ScriptedTeacher(ScriptedSection(fault_rate=0.0)), ASKED, WorldTask(), seed=0)
    # Wilson for 60 of 60: 60 / (60 + 3.8415).
    assert best.score == (1.0, pytest.approx(0.9398, abs=1e-4), 1.0, len(ASKED))
    assert all(task.score == 1.0 for task in best.by_task.values())
    none = score_world(Silent(), ASKED, WorldTask(num_samples=2), seed=0)
    assert none.score.score == 0.0
    assert none.missing == 2 * len(ASKED)


def test_a_faulty_teacher_lies_between_and_samples_count_within_their_prompt():
    found = score_world(ScriptedTeacher(ScriptedSection(fault_rate=0.5)), ASKED, WorldTask(num_samples=4), seed=0)
    assert found.score.score == pytest.approx(0.5, abs=0.12)
    assert found.score.low < found.score.score < found.score.high
    assert found.score.n == len(ASKED)
    again = score_world(ScriptedTeacher(ScriptedSection(fault_rate=0.5)), ASKED[:10], WorldTask(num_samples=4), seed=0)
    assert again.answers == found.answers[:10]

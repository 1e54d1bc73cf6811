"""Candidates: who answers what depends on the seed and the prompt alone, and nothing that failed is an answer."""

from collections import Counter

import pytest

from tests.feedback.recorded_teachers import RecordedTeacher, cut_off, failed
from zephyr.feedback.candidates import answer_prompts, draw_teachers
from zephyr.feedback.principles import sentences
from zephyr.recipe.feedback_section import CandidatesSection
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message
from zephyr.records.rows import Prompt
from zephyr.teachers.protocol import ChatReply

PROMPTS = [Prompt(f"p row {number}", (Message("user", f"question {number}"),), "p") for number in range(20)]


def seeded(name: str = "one") -> RecordedTeacher:
    return RecordedTeacher(lambda request: f"{name} {request.seed}", name=name)


def by_name(candidates) -> dict:
    return {one.rated.name: one for one in candidates}


def test_one_teacher_gives_several_samples():
    teacher = seeded()
    settings = CandidatesSection(
        num_completions=3, sampling=SamplingSection(temperature=0.9, top_p=0.8, top_k=7, max_new_tokens=11)
    )
    candidates = list(answer_prompts(PROMPTS, [teacher], settings))
    assert [one.rated.name for one in candidates] == [prompt.name for prompt in PROMPTS]
    assert all(one.rated.prompt == prompt.messages for one, prompt in zip(candidates, PROMPTS, strict=True))
    assert all(len({answer.text for answer in one.rated.answers}) == 3 for one in candidates)
    assert {answer.model for one in candidates for answer in one.rated.answers} == {"one"}
    assert {(r.temperature, r.top_p, r.top_k, r.max_tokens) for r in teacher.asked} == {(0.9, 0.8, 7, 11)}
    assert len({request.seed for request in teacher.asked}) == 60


def test_temperatures_are_taken_in_turn():
    teacher = seeded()
    settings = CandidatesSection(
        num_completions=3, temperatures=[0, 0.8], sampling=SamplingSection(temperature=0.3, top_p=0.9)
    )
    told: list[int] = []
    list(answer_prompts(PROMPTS[:1], [teacher], settings, on_answer=told.append))
    asked = [(request.key[-1], request.temperature, request.top_p) for request in teacher.asked]
    assert asked == [("0", 0, 0.9), ("2", 0, 0.9), ("1", 0.8, 0.9)]  # those of one temperature together
    assert told == [1, 2, 3]


def test_candidates_depend_on_the_seed_and_the_prompt_alone():
    pool = [seeded(name) for name in "abcdef"]
    settings = CandidatesSection(num_completions=3)
    once = by_name(answer_prompts(PROMPTS, pool, settings))
    assert by_name(answer_prompts(PROMPTS[::-1], pool[::-1], settings, chunk_prompts=3)) == once
    assert by_name(answer_prompts(PROMPTS[7:8], pool, settings)) == {"p row 7": once["p row 7"]}
    assert by_name(answer_prompts(PROMPTS, pool, settings, seed=1)) != once


def test_principles_are_told_in_the_system_message_and_kept_with_the_answer():
    system = (Message("system", "Be brief."), Message("user", "question"))
    prompts = [*PROMPTS, Prompt("with system", system, "flan_v2_cot", "It is known.")]
    teacher = seeded()
    settings = CandidatesSection(num_completions=3, principles="readme")
    candidates = list(answer_prompts(prompts, [teacher], settings))
    answers = [answer for one in candidates for answer in one.rated.answers]
    told = [request.messages[0] for request in teacher.asked]
    assert [message.role for message in told] == ["system"] * 63
    assert [message.content for message in told[:60]] == [answer.system for answer in answers[:60]]
    assert all(answer.system in sentences()[answer.principle] for answer in answers)
    assert [message.content for message in told[60:]] == [f"Be brief.\n\n{answer.system}" for answer in answers[60:]]
    # The prompt stays as it was, and what is known of it stays with it.
    assert [one.rated.prompt for one in candidates] == [prompt.messages for prompt in prompts]
    assert candidates[-1].rated.knowledge == "It is known."
    assert [one.rated for one in answer_prompts(prompts[7:8], [teacher], settings)] == [candidates[7].rated]


def test_shares_of_ones_own_hold_for_every_source():
    shares = {"calibration": 1.0}
    for one in answer_prompts(PROMPTS, [seeded()], CandidatesSection(num_completions=2, principle_shares=shares)):
        assert {answer.principle for answer in one.rated.answers} == {"calibration"}
    with pytest.raises(ValueError, match="beauty"):
        CandidatesSection(principle_shares={"beauty": 1.0})


def test_without_principles_nothing_is_told():
    teacher = seeded()
    (one, *_) = answer_prompts(PROMPTS[:1], [teacher], CandidatesSection(num_completions=2))
    assert {request.messages for request in teacher.asked} == {PROMPTS[0].messages}
    assert {(answer.principle, answer.system) for answer in one.rated.answers} == {("", "")}


def test_a_pool_is_drawn_from_without_replacement_and_evenly():
    pool = [seeded(name) for name in "abcdef"]
    prompts = [Prompt(str(number), (Message("user", str(number)),)) for number in range(600)]
    drawn = Counter()
    for one in answer_prompts(prompts, pool, CandidatesSection(num_completions=4)):
        models = [answer.model for answer in one.rated.answers]
        assert len(set(models)) == 4
        drawn.update(models)
    # 400 of each expected; the standard deviation of a hypergeometric share of 4 of 6 is 11.5.
    assert all(abs(count - 400) < 60 for count in drawn.values())


def test_a_pool_smaller_than_the_answers_is_drawn_anew():
    drawn = draw_teachers(["a", "b"], 5, seed=3)
    assert sorted(drawn[:2]) == sorted(drawn[2:4]) == ["a", "b"]
    assert len(drawn) == 5


def test_failures_and_repeats_are_counted_and_are_no_answers():
    replies = iter(["yes", "yes ", "", failed, "no", lambda request: cut_off(request, "long")])

    def reply(request) -> str | ChatReply:
        answer = next(replies)
        return answer if isinstance(answer, str) else answer(request)

    (one,) = answer_prompts(PROMPTS[:1], [RecordedTeacher(reply)], CandidatesSection(num_completions=6))
    assert [answer.text for answer in one.rated.answers] == ["yes", "no", "long"]
    assert one.counts == {
        "asked": 6,
        "answered": 3,
        "repeated": 1,
        "failed: empty answer": 1,
        "failed: teacher error": 1,
        "cut off": 1,
    }


def test_a_teacher_that_mixes_up_or_loses_replies_is_found_out():
    class Loser(RecordedTeacher):
        def answer(self, requests):
            return iter(list(super().answer(requests))[:-1])

    class Mixer(RecordedTeacher):
        def answer(self, requests):
            return iter(list(super().answer(requests))[::-1])

    with pytest.raises(ValueError, match="shorter"):
        list(answer_prompts(PROMPTS, [Loser(lambda request: "x")], CandidatesSection()))
    with pytest.raises(ValueError, match=r"where '.* 0' was due"):
        list(answer_prompts(PROMPTS, [Mixer(lambda request: "x")], CandidatesSection()))
    with pytest.raises(ValueError, match="different names"):
        list(answer_prompts(PROMPTS, [seeded(), seeded()], CandidatesSection()))

"""The scripted teacher's faults and the scripted judge's ratings, as the real ones' files see them."""

from collections import Counter
from random import Random

import pytest

from zephyr.judging import ASPECTS, OVERALL, RatingQuestion, ask, fence_word, parse_reply
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.world import faulty_answer, ideal_answer, is_accepted, prompts

PROMPTS = [prompt.messages for prompt in prompts("feedback", 2, 1200)]
REQUESTS = [ChatRequest(f"prompt {number}", messages) for number, messages in enumerate(PROMPTS)]


def rated(judge, aspect, messages, answers):
    question = RatingQuestion(aspect, messages, tuple(answers))
    request = ChatRequest("one", ask(question, nonce=fence_word(question, seed=0)))
    (reply,) = judge.answer([request])
    ratings = parse_reply(aspect, reply.text, len(answers))
    assert isinstance(ratings, tuple), ratings
    return ratings


def overall(judge, messages, answer):
    return rated(judge, OVERALL, messages, [answer])[0].score


def faulty_teacher(rate, seed=0):
    return ScriptedTeacher(ScriptedSection(fault_rate=rate), seed=seed)


def test_the_teacher_errs_as_often_as_it_is_told():
    for rate in (0.0, 0.3, 1.0):
        replies = list(faulty_teacher(rate, seed=1).answer(REQUESTS))
        faulty = [not is_accepted(messages, reply.text) for messages, reply in zip(PROMPTS, replies, strict=True)]
        assert sum(faulty) / len(faulty) == pytest.approx(rate, abs=0.04)


def test_replies_come_in_order_and_depend_on_no_other_request():
    teacher = faulty_teacher(0.5, seed=1)
    whole = list(teacher.answer(REQUESTS[:60]))
    assert [reply.key for reply in whole] == [request.key for request in REQUESTS[:60]]
    assert whole[::-1] == list(faulty_teacher(0.5, seed=1).answer(REQUESTS[:60][::-1]))
    assert {reply.finish_reason for reply in whole} == {"stop"}


def test_seeds_change_what_the_teacher_writes():
    request = [REQUESTS[0]._replace(seed=seed) for seed in range(40)]
    assert len({reply.text for reply in faulty_teacher(0.5).answer(request)}) > 2
    assert list(faulty_teacher(0.5, seed=1).answer(REQUESTS)) != list(faulty_teacher(0.5, seed=2).answer(REQUESTS))


def test_a_teacher_of_this_world_says_what_it_does_not_know():
    stranger = ChatRequest("x", (Message("user", "Who wrote Faust?"),))
    (reply,) = faulty_teacher(1.0).answer([stranger])
    assert reply.text == "I am sorry, I do not know that."


def test_the_judge_prefers_right_answers_most_of_the_time_but_not_always():
    judge = ScriptedJudge(seed=1)
    preferred = []
    for number, messages in enumerate(PROMPTS):
        right, faulty = ideal_answer(messages), faulty_answer(messages, Random(number)).text
        preferred.append(overall(judge, messages, right) > overall(judge, messages, faulty))
    assert 0.9 < sum(preferred) / len(preferred) < 1


def test_every_fault_is_rated_lower_on_average_and_false_claims_lowest():
    judge, scores, counts = ScriptedJudge(seed=1), Counter(), Counter()
    for number, messages in enumerate(PROMPTS):
        text, fault = faulty_answer(messages, Random(number))
        for kind, answer in ((fault, text), ("right", ideal_answer(messages))):
            scores[kind] += overall(judge, messages, answer)
            counts[kind] += 1
    means = {kind: scores[kind] / counts[kind] for kind in counts}
    assert means["right"] > means["rambling"] > means["careless"] > max(means["wrong"], means["refusal"])


@pytest.mark.parametrize("aspect", ASPECTS)
def test_all_aspects_are_rated_in_the_form_asked_for(aspect):
    judge = ScriptedJudge(seed=1)
    means = Counter()
    for number, messages in enumerate(PROMPTS[:300]):
        answers = [ideal_answer(messages), faulty_answer(messages, Random(number)).text, "It is a cat called 77."]
        for place, rating in enumerate(rated(judge, aspect, messages, answers)):
            assert 1 <= rating.score <= 5
            assert rating.rationale
            means[place] += rating.score / 300
    assert means[0] > 4.5
    assert means[1] < 4
    assert means[0] > means[2] + 1


def test_the_judge_is_the_same_judge_whatever_it_saw_before():
    messages, other = PROMPTS[0], PROMPTS[1]
    alone = overall(ScriptedJudge(seed=1), messages, "It is 12.")
    judge = ScriptedJudge(seed=1)
    overall(judge, other, "It is 3.")
    assert overall(judge, messages, "It is 12.") == alone


def test_the_judge_writes_a_critique_with_its_mark():
    (rating,) = rated(ScriptedJudge(seed=1, blunder_rate=0.0), OVERALL, PROMPTS[0], [ideal_answer(PROMPTS[0])])
    assert rating.score >= 8
    assert "Right" in rating.rationale


def test_what_is_no_question_to_a_judge_is_an_error():
    (reply,) = ScriptedJudge().answer([ChatRequest("x", (Message("user", "Rate this."),))])
    assert (reply.key, reply.text, reply.finish_reason) == ("x", "", "error")
    assert reply.error

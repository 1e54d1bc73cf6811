"""The local teacher: every reply is what its request alone would get, in the order of the requests."""

import pytest
import torch

from zephyr.models.engine import DecodingEngine
from zephyr.models.generation import generate
from zephyr.models.sampling import Stopping
from zephyr.models.tiny import EOS_ID, tiny_model
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.local import LocalTeacher
from zephyr.teachers.protocol import ChatRequest


class Letters:
    """An encoder whose tokens are characters; "." is the stop token besides EOS."""

    stop_ids = (EOS_ID, ord("."))

    def prompt(self, messages) -> list[int]:
        return [1, *(min(ord(letter), 127) for message in messages for letter in message.content)]

    def text_of(self, completion) -> str:
        return "".join(chr(token) for token in completion if token not in self.stop_ids)


@pytest.fixture(scope="module")
def model():
    # Batches change the last bits, which must not decide a draw here.
    return tiny_model("llama", dtype=torch.float64)


def requests(count: int) -> list[ChatRequest]:
    return [
        ChatRequest(
            key=f"r{number}",
            messages=(Message("user", f"question {number // 3}"),),
            max_tokens=12 if number % 2 else 5,
            temperature=(0.0, 0.8, 1.5)[number % 3],
            top_k=number % 4 * 10,
            seed=number * 7,
        )
        for number in range(count)
    ]


def teacher(model, **settings) -> LocalTeacher:
    return LocalTeacher(model, Letters(), name="tiny", **settings)


def test_a_reply_is_what_its_request_alone_gets(model):
    asked = requests(30)
    together = list(teacher(model).answer(asked))
    assert [reply.key for reply in together] == [request.key for request in asked]
    assert together == [reply for request in asked for reply in teacher(model).answer([request])]
    assert {reply.key: reply for reply in teacher(model, max_cache_tokens=100).answer(asked[::-1])} == {
        reply.key: reply for reply in together
    }
    assert {reply.finish_reason for reply in together} == {"stop", "length"}


def test_a_reply_is_the_text_that_generation_gives(model):
    asked = ChatRequest("x", (Message("user", "hello"),), temperature=0.7, top_p=0.9, top_k=0, max_tokens=9, seed=5)
    (reply,) = teacher(model).answer([asked])
    sampling = SamplingSection(max_new_tokens=9, temperature=0.7, top_k=0, top_p=0.9)
    (completion,) = generate(
        model, [Letters().prompt(asked.messages)], sampling, stop=Stopping(Letters.stop_ids), seed=[5]
    )
    assert reply.text == Letters().text_of(completion.ids)
    assert reply.finish_reason == completion.finish_reason
    assert (reply.prompt_tokens, reply.completion_tokens) == (6, len(completion.ids))


def test_samples_of_one_prompt_differ_by_their_seeds_alone(model):
    same = ChatRequest("x", (Message("user", "hello"),), temperature=1.5, top_k=0, max_tokens=20)
    replies = list(teacher(model).answer([same._replace(seed=seed) for seed in (1, 2, 1)]))
    assert replies[0] == replies[2]
    assert replies[0].text != replies[1].text


def test_windows_do_not_change_replies(model, monkeypatch):
    asked = requests(12)
    together = list(teacher(model).answer(asked))
    monkeypatch.setattr("zephyr.teachers.local.WINDOW_REQUESTS", 5)
    assert list(teacher(model).answer(asked)) == together


def test_a_conversation_without_room_is_an_error_and_the_others_are_answered(model):
    long = ChatRequest("long", (Message("user", "x" * 2040),), max_tokens=9)
    fits = long._replace(key="fits", max_tokens=7)
    first, second = teacher(model).answer([long, fits])
    assert (first.finish_reason, first.text, first.prompt_tokens) == ("error", "", 2041)
    assert first.error == "2041 tokens and 9 new ones exceed 2048"
    assert second.finish_reason != "error"
    # A budget of cache decides what is batched, not what is answered.
    (third,) = teacher(model, max_cache_tokens=1000).answer([fits])
    assert third == second


def test_answers_are_kept_as_soon_as_they_are_written(model, tmp_path, monkeypatch):
    """Of answers that are written together the short ones are on disk before the long ones end."""
    same = ChatRequest("x", (Message("user", "hello"),), temperature=1.5, top_k=0, max_tokens=40)
    asked = [same._replace(seed=seed) for seed in range(24)]
    whole = list(teacher(model).answer(asked))
    num_short = sum(reply.completion_tokens < 20 for reply in whole)
    assert 0 < num_short < 24
    steps = 0
    step = DecodingEngine.step

    def step_until(engine):
        nonlocal steps
        steps += 1
        if steps == 30:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(DecodingEngine, "step", step_until)
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        with pytest.raises(KeyboardInterrupt):
            list(LedgeredTeacher(teacher(model), ledger).answer(asked))
        ledger.flush()
        again = LedgeredTeacher(teacher(model), ledger)
        assert num_short <= again.estimate(asked).answered < 24
        monkeypatch.setattr(DecodingEngine, "step", step)
        assert list(again.answer(asked)) == whole

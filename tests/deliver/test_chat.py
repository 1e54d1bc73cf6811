"""A conversation in the terminal: what is said is remembered, forgotten on demand, and ends when the user leaves."""

import threading

import pytest
import torch

from zephyr.deliver.chat import Conversation, talk
from zephyr.models.loading import Loaded
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection


@pytest.fixture
def conversation():
    tokenizer = tiny_tokenizer()
    loaded = Loaded(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer)
    return Conversation(loaded, SamplingSection(max_new_tokens=6, temperature=0.0), system="Be kind.")


def say(conversation, *lines):
    waiting, written = iter([*lines, None]), []
    talk(conversation, lambda: next(waiting), written.append)
    return "".join(written)


def test_answers_are_remembered_until_they_are_to_be_forgotten(conversation):
    say(conversation, "Hi?", "", "And now?")
    assert [message.role for message in conversation.said] == ["system", *["user", "assistant"] * 2]
    assert "a new conversation" in say(conversation, "/new")
    assert [message.role for message in conversation.said] == ["system"]


def test_the_model_reads_the_system_message_and_all_turns(conversation, monkeypatch):
    tokenizer, read = conversation.loaded.tokenizer, []

    def stream(model, tokenizer, prompt, sampling):
        read.append(tokenizer.decode(prompt))
        yield f"Answer {len(read)}."

    monkeypatch.setattr("zephyr.deliver.chat.stream_answer", stream)
    say(conversation, "Hi?", "And now?", "/new", "Again?")
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Answer 1."},
        {"role": "user", "content": "And now?"},
    ]
    texts = [turns[:2], turns, [turns[0], {"role": "user", "content": "Again?"}]]
    assert read == [
        tokenizer.decode(tokenizer.apply_chat_template(text, add_generation_prompt=True, return_dict=False))
        for text in texts
    ]


def test_a_word_of_farewell_ends_it(conversation):
    assert say(conversation, "/exit", "Hi?") == ""


def test_the_pieces_are_the_greedy_answer(conversation):
    pieces = "".join(conversation.answer("Hi?"))
    model, tokenizer = conversation.loaded
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    whole = model.generate(prompt, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(prompt))
    # Bytes that are no character are left out.
    text = tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
    assert pieces == text.replace("\ufffd", "")


def test_an_interrupted_answer_is_forgotten_and_the_model_stops_writing(conversation, monkeypatch):
    monkeypatch.setattr("zephyr.models.streaming.stop_ids_of", lambda *_: (0,))
    conversation.sampling = SamplingSection(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=100_000)
    written, threads = [], threading.active_count()

    def write(text):
        written.append(text)
        if len(written) == 2:
            raise KeyboardInterrupt

    waiting = iter(["Hi?", "/new", None])
    talk(conversation, lambda: next(waiting), write)
    assert written[2:] == ["\n(stopped; this question is forgotten)\n", "(a new conversation)\n"]
    assert [message.role for message in conversation.said] == ["system"]
    assert threading.active_count() == threads

"""Dialogues from a teacher: all accounted for, failures never learnt from, order and seed as promised."""

from collections import Counter

from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message
from zephyr.records.rows import Prompt
from zephyr.synth.dialogues import Writers, write_dialogues
from zephyr.teachers.protocol import ChatReply


class Echo:
    """Answers with the question and its seed; fails on demand."""

    name = "echo"

    def answer(self, requests):
        for request in requests:
            asked = request.messages[-1].content
            reason = asked if asked in ("error", "length") else "stop"
            text = "" if asked == "empty" else f"{asked} {request.seed}"
            yield ChatReply(request.key, text, reason)


def ask(*questions, seed=0, chunk=1024):
    counts = Counter()
    prompts = [Prompt(f"row {n}", (Message("user", question),)) for n, question in enumerate(questions, 1)]
    writers = Writers(Echo(), SamplingSection(), Echo(), chunk)
    return list(write_dialogues(prompts, writers, counts, seed=seed)), counts


def test_every_prompt_is_answered_or_counted_as_failed():
    chats, counts = ask("one", "error", "two", "length", "empty", "three")
    assert [chat.name for chat in chats] == ["row 1", "row 3", "row 6"]
    assert chats[0].messages[-1].content.startswith("one ")
    failures = {"failed: teacher error": 1, "failed: cut off": 1, "failed: empty answer": 1}
    assert counts == {"asked": 6, "answered": 3, **failures}


def test_answers_depend_on_seed_and_place_but_not_on_chunks():
    same, _ = ask("one", "one", "two")
    assert same == ask("one", "one", "two", chunk=1)[0]
    assert same[0].messages != same[1].messages
    assert same != ask("one", "one", "two", seed=1)[0]

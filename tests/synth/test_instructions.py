"""Growing instructions: how they are asked for, how replies are read, what is dropped and why, and going on."""

import json
import re
from collections import Counter

import pytest

from tests.synth.form_teacher import FormTeacher
from zephyr.errors import DataError
from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.synth.instructions import InstructionPool, ask_for_instructions, instruction_fault, read_list
from zephyr.synth.self_instruct import RoundsFile
from zephyr.teachers.protocol import ChatReply

SEEDS = [f"Seed task about subject number {number} of this list" for number in range(12)]


def section(num_instructions):
    return SelfInstructSynth(seeds="seeds.jsonl", num_instructions=num_instructions)


SECTION = section(20)


def reply(text, reason="stop"):
    return ChatReply("k", text, reason)


def read(text, reason="stop", first=9):
    counts = Counter()
    return read_list(reply(text, reason), first, counts), counts


def grown(section=SECTION, teacher=None, done=(), *, seed=3, **patience):
    pool = InstructionPool(SEEDS, section, seed=seed, **patience)
    return pool, list(pool.grow(teacher or FormTeacher(), list(done)))


def test_a_list_is_numbered_and_left_open():
    (message,) = ask_for_instructions(["First  one:", "second\none"])
    assert message.content.endswith("\n1. First one\n2. second one\n3.")
    (classes,) = ask_for_instructions(["x"], classification_only=True)
    assert "classification" in classes.content
    assert "classification" not in message.content


def test_every_list_has_eight_instructions_two_of_them_of_machines():
    teacher = FormTeacher()
    grown(section(90), teacher, seed=0)
    listed = [re.findall(r"(?m)^\d+\. (.+)$", request.messages[0].content) for request in teacher.asked]
    assert all(len(one) == 8 for one in listed)
    from_seeds = [sum(text in SEEDS for text in one) for one in listed]
    assert from_seeds[:5] == [8] * 5
    assert set(from_seeds[5:]) == {6}
    assert {(request.temperature, request.top_p, request.max_tokens) for request in teacher.asked} == {(0.7, 0.5, 1024)}
    assert any(one != sorted(one, key=SEEDS.index) for one in listed[:5])


def test_replies_are_split_collapsed_and_capitalised():
    found, counts = read(" explain   THE tides of\tthe sea\n10. name Three rivers of asia\n11 . list the moons")
    assert found == ["Explain THE tides of the sea", "Name Three rivers of asia", "List the moons"]
    assert not counts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Here you go:\n\n9. first of the new\n10. second of the new", ["First of the new", "Second of the new"]),
        ("Here you go:\n9. first of the new\n10. second of the new", ["First of the new", "Second of the new"]),
        ("first of the new\n\n10. second of the new", ["First of the new", "Second of the new"]),
        ("first of the new\n\nLet me know!", ["First of the new"]),
        ("first of the new\n16. never seen", ["First of the new"]),
        ("first of the new 16. never seen", ["First of the new"]),
        ("what happened in 2016. Say it", ["What happened in 2016. Say it"]),
    ],
)
def test_where_a_reply_ends(text, kept):
    found, _ = read(text)
    assert found == kept


PLAIN = "9. tell how NASA lands on Mars\n10. explain the tides to a child\n11. list four rivers of Asia"


@pytest.mark.parametrize(
    "form",
    [
        "tell how NASA lands on Mars\n10. explain the tides to a child\n11. list four rivers of Asia",
        f"Sure! Here are some new tasks:\n\n{PLAIN}",
        f"{PLAIN}\n\nLet me know if you need more!",
        PLAIN.replace(". ", ") "),
        PLAIN.replace("9.", "(9)").replace("10.", "(10)").replace("11.", "(11)"),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.replace("9.", "**9.**").replace("10.", "**10.**").replace("11.", "**11.**"),
        PLAIN.replace("9. tell", "9. **Tell**"),
        PLAIN.replace("9.", "### 9.").replace("10.", "### 10.").replace("11.", "### 11."),
        PLAIN.replace(".", "\\."),
        PLAIN.replace("9.", "Task 9:").replace("10.", "Task 10:").replace("11.", "Task 11:"),
        PLAIN.replace("9.", "1.").replace("10.", "2.").replace("11.", "3."),
        f"Here is the rest of the list:\n{PLAIN.removeprefix('9. ')}\n16. never seen",
        PLAIN.replace("tell how NASA lands on Mars", '"tell how NASA lands on Mars"'),
    ],
)
def test_lists_of_chat_models_give_the_same_instructions_as_plain_ones(form):
    assert read(form)[0] == read(PLAIN)[0]
    assert read(PLAIN)[0][0] == "Tell how NASA lands on Mars"


def test_replies_that_are_no_lists_are_counted():
    assert read("one two three four\n10. five", "length") == ([], {"failed: cut off": 1})
    assert read("", "error") == ([], {"failed: teacher error": 1})
    assert read(" \n") == ([], {"failed: empty answer": 1})
    # The stop came before the limit, so this reply is whole.
    assert read("one two three four\n16. five", "length")[0] == ["One two three four"]


@pytest.mark.parametrize(
    ("instruction", "fault"),
    [
        ("Name three rivers", "too short"),
        ("Name three large rivers", None),
        (" ".join(["Word"] * 150), None),
        (" ".join(["Word"] * 151), "too long"),
        ("Describe this Image in words", "not about text"),
        ("Describe what imagery means here", None),
        ("Please Go to the shop now", "not about text"),
        ("Explain the plot of this novel", "not about text"),
        ("Write a program that sorts numbers", "asks for a program"),
        ("Write a programme for the concert", "asks for a program"),
        ("*explain the tides of the sea", "begins with punctuation"),
        ("Élan is what kind of word", "begins with a character outside of ASCII"),
    ],
)
def test_heuristics(instruction, fault):
    assert instruction_fault(instruction) == fault


def test_novelty_keeps_and_rejects_by_the_published_vectors():
    pool = InstructionPool(["write a short poem about the ocean", "reverse the list", *SEEDS], SECTION, seed=3)
    assert pool.try_to_add("Write a poem about the sea") is None
    kept = pool.try_to_add("Sort the list in ascending order")
    assert (kept.most_similar[0].instruction, round(kept.most_similar[0].score, 6)) == ("reverse the list", 0.444444)
    assert len(kept.most_similar) == 10
    assert 0 < kept.mean_similarity < 0.444444
    assert pool.try_to_add("Sort the list in ascending order!") is None


def test_the_pool_grows_to_the_number_asked_for_and_counts_all():
    pool, rounds = grown()
    counts = sum((one.counts for one in rounds), Counter())
    assert len(pool.machine) == counts["instructions: kept"] == 20
    assert [new.instruction for one in rounds for new in one.kept] == pool.machine
    assert counts["instructions: more than asked for"] > 0
    per_list = sum(count for reason, count in counts.items() if reason != "instructions: lists asked for")
    assert per_list == 7 * counts["instructions: lists asked for"]


def test_growing_is_decided_by_the_seed():
    assert grown()[1] == grown()[1]
    assert grown()[1] != grown(seed=4)[1]


def test_a_teacher_that_brings_nothing_ends_it():
    teacher = FormTeacher(lambda request: "no")
    pool, rounds = grown(section(5), teacher, patience_rounds=3)
    assert (pool.machine, len(rounds)) == ([], 3)
    assert sum((one.counts for one in rounds), Counter())["instructions: too short"] == 15
    # Patience that has ended is not asked again.
    assert grown(section(5), teacher, rounds, patience_rounds=3)[1] == []


def test_growing_goes_on_where_it_stopped(tmp_path):
    _, whole = grown(section(90), seed=1)
    assert len(whole) >= 3
    file = RoundsFile(tmp_path / "rounds.jsonl", SEEDS, section(90), "t", seed=1)
    for one in whole[:2]:
        file.append(one)
    with (tmp_path / "rounds.jsonl").open("a") as torn:
        torn.write('{"round": 2, "kept": [')
    assert file.read() == whole[:2]
    teacher = FormTeacher()
    _, rest = grown(section(90), teacher, file.read(), seed=1)
    assert rest == whole[2:]
    assert len(teacher.asked) == 5 * len(rest)
    for one in rest:
        file.append(one)
    assert file.read() == whole


def test_rounds_of_other_seeds_are_refused_and_of_a_smaller_number_not(tmp_path):
    path = tmp_path / "rounds.jsonl"
    _, rounds = grown()
    RoundsFile(path, SEEDS, SECTION, "t", seed=3).append(rounds[0])
    assert RoundsFile(path, SEEDS, section(500), "t", seed=3).read() == rounds[:1]
    other = SECTION.model_copy(update={"max_similarity": 0.6})
    for seeds, changed, teacher, seed in (
        (SEEDS[1:], SECTION, "t", 3),
        (SEEDS, SECTION, "t", 0),
        (SEEDS, other, "t", 3),
        (SEEDS, SECTION, "u", 3),
    ):
        with pytest.raises(DataError, match="grew from other seeds"):
            RoundsFile(path, seeds, changed, teacher, seed=seed).read()


def test_the_header_of_a_rounds_file_is_that_of_earlier_versions(tmp_path):
    path = tmp_path / "rounds.jsonl"
    RoundsFile(path, SEEDS, SECTION, "t", seed=3).append(grown()[1][0])
    header = json.loads(path.read_text().splitlines()[0])
    assert header == {
        "format": 1,
        "grown_from": "4e0ed815fa633597ec03ec2c415d610fbade35077dda7ca68137dc6147179889",
    }


def test_too_few_seeds_are_refused():
    with pytest.raises(ValueError, match="begun with 8 seeds, got 3"):
        InstructionPool(SEEDS[:3], SECTION, seed=3)

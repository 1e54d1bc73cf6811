"""Broken rows and files, as a user meets them: one message with file, row and remedy, before any training."""

import gzip
import json
import re

import pytest

from tests.command import chat, jsonl, pair, stage_fields, trained, write_recipe, zephyr

NUM_GOOD = 8
RED = "\x1b[31m"
MEND = "fix the data, or set bad_rows: drop, which skips such rows and counts them\n"
GOOD = {"sft": [chat(number) for number in range(NUM_GOOD)], "align": [pair(number) for number in range(NUM_GOOD)]}
LONG = {"messages": [{"role": "user", "content": f"word {RED}" * 200}, {"role": "assistant", "content": "Yes."}]}
STAGES_OF_FILES = {"sft": "chats", "align": "labels"}
SPEAKERS = ("system", "user", "assistant")


def dialogue(*roles):
    return {"messages": [{"role": role, "content": f"says {RED}{role}"} for role in roles]}


# Stage, the row after eight good ones, the message, and the reason under which it is counted.
BAD_ROWS = {
    "torn last line": (
        "sft", jsonl(chat(9))[:30], "the last line is cut off: no whole JSON object, and no newline after it",
        "torn last line",
    ),
    "not UTF-8": (
        "sft", b'{"messages": [{"role": "user", "content": "caf\xe9"}]}\n',
        "byte 47 (0xe9) is not UTF-8; convert the file, for example with iconv -t UTF-8", "not UTF-8",
    ),
    "null answer": (
        "sft", jsonl(chat(9, None)), "message 2 (assistant) has no text: its content is null or missing", "null answer",
    ),
    "null chosen": ("align", jsonl(pair(9, None)), "the chosen answer is null or missing", "null chosen answer"),
    "swapped roles": (
        "sft", jsonl(dialogue("assistant", "user")),
        ("message 1 is by 'assistant' where 'user' is expected ('assistant' comes first); "
         "the last message is by 'user' where an answer is needed"), "roles out of turn",
    ),
    "two system messages": (
        "sft", jsonl(dialogue("system", *SPEAKERS)), "there are 2 system messages, one at most is allowed",
        "several system messages",
    ),
    "unknown role in red": (
        "sft", jsonl(dialogue(f"{RED}boss", "assistant")),
        "message 1 is by '\\x1b[31mboss', which is neither system nor user nor assistant nor tool", "unknown role",
    ),
    "50 MB on a line": (
        "sft", b'{"messages": "' + b"x" * 50_000_000 + b'"}\n', "is longer than 16 MB, the most a row may have",
        "row too long",
    ),
}  # fmt: skip


@pytest.fixture(params=BAD_ROWS, ids=lambda name: name.replace(" ", "-"))
def bad_row(request, tmp_path, tiny_folder):
    """A recipe whose file has one bad row, and what is to be said of it."""
    stage, content, message, reason = BAD_ROWS[request.param]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*GOOD[stage], content))
    source = {"path": "rows.jsonl"}
    return write_recipe(tmp_path, tiny_folder, **{stage: stage_fields(stage, source)}), stage, message, reason


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_bad_row_stops_before_training(bad_row, verb, tmp_path, capfd):
    recipe, _, message, _ = bad_row
    said = zephyr(capfd, verb, recipe)
    assert said.code == 2
    assert said.err == f"error: rows.jsonl row {NUM_GOOD + 1}: {message}; {MEND}"
    assert "\x1b" not in said.out
    assert trained(tmp_path) == []


def test_a_bad_row_may_be_dropped_and_is_counted(bad_row, tmp_path, capfd):
    recipe, stage, _, reason = bad_row
    drop = f"{stage}.data.sources.0.bad_rows=drop"
    checked = zephyr(capfd, "check", recipe, drop)
    assert checked.code == 0
    assert f"rows.jsonl: {NUM_GOOD} rows, left out 1 x {reason}\n" in checked.out
    ran = zephyr(capfd, "run", recipe, drop)
    assert ran.code == 0
    assert ran.out.count(f"left out, rows.jsonl: 1 x {reason}\n") == 2  # before all work, and with the stage
    assert f"reads: rows {NUM_GOOD}," in ran.out
    assert "\x1b" not in ran.out + ran.err
    (summary,) = tmp_path.glob("runs/tiny/*/stage.json")
    assert json.loads(summary.read_bytes())["facts"]["left_out"] == {"rows.jsonl": {reason: 1}}


def test_columns_that_are_not_used_are_listed_with_their_counts(tmp_path, tiny_folder, capfd):
    rows = [row | {"mood": "good", "id": number} for number, row in enumerate(GOOD["sft"])]
    rows[0]["messages"][1] = rows[0]["messages"][1] | {"tone": "kind"}
    rows[1]["messages"] = json.dumps(rows[1]["messages"])
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*rows))
    recipe = write_recipe(tmp_path, tiny_folder, sft=stage_fields("sft", {"path": "rows.jsonl"}))
    checked = zephyr(capfd, "check", recipe)
    assert checked.code == 0
    assert "rows.jsonl: columns not used: 8 x mood, 1 x messages.tone\n" in checked.out
    assert "rows.jsonl: noted: 1 x messages read from JSON text\n" in checked.out
    ran = zephyr(capfd, "run", recipe)
    assert ran.code == 0
    assert ran.out.count("columns not used, rows.jsonl: 8 x mood, 1 x messages.tone\n") == 2
    (summary,) = tmp_path.glob("runs/tiny/*/stage.json")
    facts = json.loads(summary.read_bytes())["facts"]
    assert facts["unused_columns"] == {"rows.jsonl": {"mood": 8, "messages.tone": 1}}
    assert facts["noted"] == {"rows.jsonl": {"messages read from JSON text": 1}}


# Name, content, further data settings, and the message.
BAD_FILES = {
    "a gz cut short": (
        "rows.jsonl.gz", gzip.compress(jsonl(*map(chat, range(500))), mtime=0)[:-200], {},
        r"rows\.jsonl\.gz, after row \d+: the gzip file is truncated; download or compress the file again; .*",
    ),
    "a gz of nothing": (
        "rows.jsonl.gz", b"", {},
        r"rows\.jsonl\.gz: the gzip file is truncated; download or compress the file again; .*",
    ),
    "a CSV with the wrong header": (
        "rows.csv", b"frage,antwort\x1b[31m\nHi,Hello\n", {},
        (r"rows\.csv row 1: has the fields frage, antwort\\x1b\[31m, and no chat records can be made of it; "
         r"needed are .*prompt, completion; rename fields with columns, or set shape"),
    ),
    "zero rows after filters": (
        "rows.jsonl", jsonl(*GOOD["sft"]), {"filters": [{"name": "length", "min_characters": 10_000}]},
        (r"training rows: none is left \(8 rows in, 0 rows left after 1 filter; "
         r"length: 8 dropped: answer shorter than 10000 characters\); loosen the filters, or give other data"),
    ),
    "a prompt longer than the window": (
        "rows.jsonl", jsonl(*GOOD["sft"], LONG), {},
        (r"max_length of 128 tokens, rule keep_start: 1 row leaves no room for an answer: rows\.jsonl row 9 "
         r"\(\d+ tokens precede its first answer\); .* of the tokens are .*; raise data\.max_length, .*"),
    ),
    "no rows": ("rows.jsonl", b"\n", {}, r"rows\.jsonl: there are no rows; check the file, split, .*"),
    "no file": ("other.jsonl", b"", {}, r"/.*/rows\.jsonl: no such file or folder; check path and data_dir .*"),
}  # fmt: skip


@pytest.fixture(params=BAD_FILES, ids=lambda name: name.replace(" ", "-"))
def bad_file(request, tmp_path, tiny_folder):
    """A recipe whose file cannot be used, and what is to be said of it."""
    name, content, data, message = BAD_FILES[request.param]
    (tmp_path / name).write_bytes(content)
    asked = name if name.startswith("rows") else "rows.jsonl"
    recipe = write_recipe(tmp_path, tiny_folder, sft=stage_fields("sft", {"path": asked}, **data))
    return recipe, message


@pytest.mark.parametrize("bad_rows", ["stop", "drop"])
@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_bad_file_stops_before_training_whatever_may_be_dropped(bad_file, verb, bad_rows, tmp_path, capfd):
    recipe, message = bad_file
    said = zephyr(capfd, verb, recipe, f"sft.data.sources.0.bad_rows={bad_rows}")
    assert said.code == 2
    assert re.fullmatch(f"error: {message}\n", said.err)
    assert "\x1b" not in said.out
    assert trained(tmp_path) == []


def test_a_prompt_longer_than_the_window_may_be_dropped_and_is_counted(tmp_path, tiny_folder, capfd):
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*GOOD["sft"], LONG))
    truncation = {"rule": "drop", "max_tokens_share": 0.9}
    recipe = write_recipe(tmp_path, tiny_folder, sft=stage_fields("sft", {"path": "rows.jsonl"}, truncation=truncation))
    checked = zephyr(capfd, "check", recipe)
    assert (checked.code, "0 truncated, 1 dropped (11.1% of the rows)" in checked.out) == (0, True)
    ran = zephyr(capfd, "run", recipe)
    assert (ran.code, "rows 9, tokens" in ran.out, "0 cut, 1 left out" in ran.out) == (0, True, True)


def test_a_bad_row_of_the_last_stage_stops_before_the_first_trains(tmp_path, tiny_folder, capfd):
    (tmp_path / "chats.jsonl").write_bytes(jsonl(*GOOD["sft"], chat(9, None)))
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*GOOD["align"], pair(9, None)))
    (tmp_path / "held.jsonl").write_bytes(jsonl(*GOOD["align"], b"{}\n"))
    sections = {
        "sft": stage_fields("sft", {"path": "chats.jsonl"}),
        "align": stage_fields("align", {"path": "pairs.jsonl"}, eval_sources=[{"path": "held.jsonl"}]),
    }
    recipe = write_recipe(tmp_path, tiny_folder, **sections)
    messages = []
    for verb in ("check", "run"):
        said = zephyr(capfd, verb, recipe)
        assert said.code == 2
        assert trained(tmp_path) == []
        messages.append(said.err)
    assert messages[0] == messages[1]
    first, *rest = messages[0].splitlines()
    assert first == "error: 3 problems:"
    assert [line.split(":")[0] for line in rest] == ["  chats.jsonl row 9", "  pairs.jsonl row 9", "  held.jsonl row 9"]


@pytest.mark.parametrize("verb", ["check", "run"])
def test_rows_that_the_objective_cannot_learn_from_stop_before_training(verb, tmp_path, tiny_folder, capfd):
    (tmp_path / "chats.jsonl").write_bytes(jsonl(*GOOD["sft"]))
    (tmp_path / "labels.jsonl").write_bytes(jsonl({"prompt": "Is it?", "completion": "Yes.", "label": True}))
    sections = {stage: stage_fields(stage, {"path": f"{name}.jsonl"}) for stage, name in STAGES_OF_FILES.items()}
    said = zephyr(capfd, verb, write_recipe(tmp_path, tiny_folder, **sections))
    assert said.code == 2
    assert said.err.startswith("error: labels.jsonl row 1: objective dpo needs 2 completions a prompt, got 1; choose")
    assert trained(tmp_path) == []


def test_a_held_out_prompt_longer_than_the_window_stops_too(tmp_path, tiny_folder, capfd):
    (tmp_path / "chats.jsonl").write_bytes(jsonl(*GOOD["sft"]))
    (tmp_path / "held.jsonl").write_bytes(jsonl(LONG))
    section = stage_fields("sft", {"path": "chats.jsonl"}, eval_sources=[{"path": "held.jsonl"}])
    recipe = write_recipe(tmp_path, tiny_folder, sft=section)
    said = [zephyr(capfd, verb, recipe) for verb in ("check", "run")]
    assert [one.code for one in said] == [2, 2]
    assert said[0].err == said[1].err
    assert "held.jsonl row 1" in said[0].err
    assert trained(tmp_path) == []


def test_ratings_that_make_no_pair_stop_before_training(tmp_path, tiny_folder, capfd):
    (tmp_path / "chats.jsonl").write_bytes(jsonl(*GOOD["sft"]))
    answers = [{"text": text, "score": 5} for text in ("Yes.", "No.")]
    (tmp_path / "rated.jsonl").write_bytes(jsonl({"prompt": "Is it?", "answers": answers}))
    sections = {
        "sft": stage_fields("sft", {"path": "chats.jsonl"}),
        "feedback": {"recorded": [{"path": "rated.jsonl"}]},
        "align": stage_fields("align", None),
    }
    recipe = write_recipe(tmp_path, tiny_folder, **sections)
    for verb in ("check", "run"):
        said = zephyr(capfd, verb, recipe)
        assert said.code == 2
        assert said.err.startswith("error: feedback.recorded: no pairs can be made of 1 prompts (1 x ")
        assert trained(tmp_path) == []

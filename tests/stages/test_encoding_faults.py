"""Rows that the chat template refuses: named by file and row, counted, dropped or refused as their source says."""

import json
from collections import Counter
from pathlib import Path

import pytest

from zephyr.check import check_lines
from zephyr.data.tokenize.token_store import DialogueStore
from zephyr.errors import DataError
from zephyr.models.loading import save_model
from zephyr.models.source import Source
from zephyr.models.tiny import TINY_CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import LocalSection
from zephyr.records.messages import Message
from zephyr.runs.layout import TOKENS
from zephyr.stages.feedback import STAGE as FEEDBACK
from zephyr.stages.stage import Work
from zephyr.stages.start import starting_tokenizer
from zephyr.stages.training import prepare
from zephyr.teachers.opening import TeacherContext, open_teacher
from zephyr.teachers.protocol import ChatRequest

# As Gemma's template does.
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TINY_CHAT_TEMPLATE
)
REFUSES = "the model's own chat template refuses these messages"
REMEDY = "fix the data, choose another chat_template, or set bad_rows: drop, which skips such rows and counts them"
TRAIN = {"learning_rate": 1.0e-3, "train_batch_size": 2, "precision": "float32"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder


def write(file: Path, *rows: dict) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def chat(text: str, *before: dict) -> dict:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return {"messages": [*before, *turns]}


def pair(text: str, *before: dict) -> dict:
    prompt = [*before, {"role": "user", "content": text}]
    chosen, rejected = ([{"role": "assistant", "content": said}] for said in ("Yes.", "No."))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def recipe(base: Path, folder: Path, **stages: object) -> Recipe:
    fields = {"name": "t", "offline": True, "output_dir": folder / "runs", "data_dir": folder}
    model = {"kind": "pretrained", "name_or_path": str(base)}
    return Recipe.model_validate(fields | {"model": model, "chat_template": {"name": "own"}} | stages)


def sft(*sources: dict, **data: object) -> dict:
    return {"sft": {"data": {"sources": list(sources), "max_length": 128} | data, "train": TRAIN}}


def prepared(made: Recipe, folder: Path, stage: str = "sft") -> tuple[dict, Path]:
    """The facts and the stored rows, as the run makes them."""
    work = Work(made, stage, folder / "work", {}, folder)
    encoder = starting_tokenizer(Source(made.model.name_or_path, offline=True), made, stage)[1]
    return prepare(work, encoder), work.folder / TOKENS / "train"


def problem_of_both(made: Recipe, folder: Path, stage: str = "sft") -> str:
    """The error of check and run, which is the same."""
    with pytest.raises(DataError) as by_check:
        list(check_lines(made))
    with pytest.raises(DataError) as by_run:
        prepared(made, folder, stage)
    assert str(by_check.value) == str(by_run.value)
    return str(by_run.value)


def test_a_refused_row_is_named_by_file_and_row(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?"), chat("2?", SYSTEM), chat("3?"))
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl"}))
    assert problem_of_both(made, tmp_path) == f"d.jsonl row 2: {REFUSES} (System role not supported); {REMEDY}"


def test_many_refused_rows_are_counted_and_the_first_five_described(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?"), *(chat(f"{number}?", SYSTEM) for number in range(2, 9)))
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl"}, shuffle=False))
    said = "; ".join(f"d.jsonl row {number}: {REFUSES} (System role not supported)" for number in range(2, 7))
    expected = f"d.jsonl: 7 rows cannot be used (7 x {REFUSES}): {said}; and 2 more; {REMEDY}"
    assert problem_of_both(made, tmp_path) == expected


def test_bad_rows_drop_leaves_them_out_and_counts_them(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?"), chat("2?", SYSTEM), {"messages": []}, chat("3?"))
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl", "bad_rows": "drop"}, shuffle=False))
    facts, tokens = prepared(made, tmp_path)
    assert facts["left_out"] == {"d.jsonl": {"no messages": 1, REFUSES: 1}}
    assert [row.name for row in DialogueStore(tokens)] == ["d.jsonl row 1", "d.jsonl row 4"]
    lines = list(check_lines(made))
    assert f"sft       all rows: d.jsonl: left out 1 x {REFUSES}" in lines


def test_each_source_has_its_own_say(base, tmp_path):
    write(tmp_path / "a" / "train.jsonl", chat("1?"), chat("2?", SYSTEM))
    write(tmp_path / "b" / "train.jsonl", chat("3?"), chat("4?"), chat("5?", SYSTEM))
    sources = ({"path": "a/train.jsonl", "bad_rows": "drop"}, {"path": "b/train.jsonl"})
    expected = f"train.jsonl row 3: {REFUSES} (System role not supported); {REMEDY}"
    assert problem_of_both(recipe(base, tmp_path, **sft(*sources)), tmp_path) == expected
    dropped = [{**source, "bad_rows": "drop"} for source in sources]
    facts, _ = prepared(recipe(base, tmp_path, **sft(*dropped)), tmp_path)
    assert facts["left_out"] == {"a/train.jsonl": {REFUSES: 1}, "b/train.jsonl": {REFUSES: 1}}


def test_held_out_rows_are_accounted_for_like_the_others(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?"))
    write(tmp_path / "e.jsonl", chat("2?", SYSTEM), chat("3?"))
    held_out = {"path": "e.jsonl"}
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl"}, eval_sources=[held_out]))
    assert problem_of_both(made, tmp_path) == f"e.jsonl row 1: {REFUSES} (System role not supported); {REMEDY}"
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl"}, eval_sources=[held_out | {"bad_rows": "drop"}]))
    facts, _ = prepared(made, tmp_path)
    assert (facts["held_out"], facts["left_out"]) == (1, {"e.jsonl": {REFUSES: 1}})


def test_where_all_rows_are_dropped_the_reason_is_said(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?", SYSTEM))
    made = recipe(base, tmp_path, **sft({"path": "d.jsonl", "bad_rows": "drop"}))
    assert problem_of_both(made, tmp_path) == (
        f"training rows: none is left (d.jsonl: left out 1 x {REFUSES}); loosen the filters, or give other data"
    )


def test_pairs_are_accounted_for_too(base, tmp_path):
    write(tmp_path / "p.jsonl", pair("1?", SYSTEM), pair("2?"))
    align = {"data": {"sources": [{"path": "p.jsonl"}]}, "objective": {"name": "dpo"}, "train": TRAIN}
    made = recipe(base, tmp_path, align=align)
    expected = f"p.jsonl row 1: {REFUSES} (System role not supported); {REMEDY}"
    assert problem_of_both(made, tmp_path, "align") == expected


def test_prompts_that_the_runs_model_cannot_be_given_are_found_before_it_is_asked(base, tmp_path):
    write(tmp_path / "d.jsonl", chat("1?"))
    write(tmp_path / "q.jsonl", {"prompt": [SYSTEM, {"role": "user", "content": "2?"}]}, {"prompt": "3?"})
    stages = sft({"path": "d.jsonl"}) | {"feedback": {"prompts": [{"path": "q.jsonl"}]}}
    made = recipe(base, tmp_path, **stages)
    expected = f"q.jsonl row 1: {REFUSES} (System role not supported); {REMEDY}"
    with pytest.raises(DataError) as by_check:
        list(check_lines(made))
    with pytest.raises(DataError) as by_run:
        FEEDBACK.preflight(Work(made, "feedback", tmp_path / "work", {}, tmp_path))
    assert str(by_check.value) == str(by_run.value) == expected
    stages["feedback"] = {"prompts": [{"path": "q.jsonl", "bad_rows": "drop"}]}
    facts = FEEDBACK.preflight(Work(recipe(base, tmp_path, **stages), "feedback", tmp_path / "work", {}, tmp_path))
    assert facts == {"rows": 1, "left_out": {"q.jsonl": {REFUSES: 1}}}


def test_a_request_that_the_template_refuses_is_answered_by_an_error(base):
    teacher = open_teacher(LocalSection(model=str(base)), "writes", TeacherContext(offline=True)).teacher
    messages = (Message("user", "2?"),)
    asked = [
        ChatRequest(key="good", messages=messages, max_tokens=4),
        # Its text begins the user's message, as for every template that knows no system role.
        ChatRequest(key="system", messages=(Message("system", "Be brief."), *messages), max_tokens=4),
        ChatRequest(key="bad", messages=(Message("system", "Be brief."), Message("assistant", "3.")), max_tokens=4),
        ChatRequest(key="long", messages=messages, max_tokens=4000),
    ]
    good, with_system, bad, too_long = teacher.answer(asked)
    assert "error" not in (good.finish_reason, with_system.finish_reason)
    assert with_system.prompt_tokens > good.prompt_tokens
    assert (bad.finish_reason, bad.error) == ("error", f"{REFUSES} (System role not supported)")
    assert Counter(reply.finish_reason for reply in (bad, too_long)) == {"error": 2}
    assert "4000 new ones exceed" in too_long.error

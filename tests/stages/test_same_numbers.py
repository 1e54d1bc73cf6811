"""What check and plan say of a training stage is what the run does, to the last row, token and step."""

import json
import re

import pytest

from tests.command import chat, jsonl, stage_fields, write_recipe, zephyr

CHECKED = re.compile(
    r"(?m)^(?P<stage>\w+) +(?P<examples>[\d,]+) examples of (?P<tokens>[\d,]+) tokens"
    r"(?:, (?P<held_out>[\d,]+) held out)?,"
    r" [\d,]+ a step: [\d,]+ steps an epoch, (?P<steps>[\d,]+) in all"
)
PLANNED = re.compile(
    r"(?m)^(?P<stage>\w+) +(?P<examples>[\d,]+) rows, (?P<steps>[\d,]+) steps, (?P<tokens>[\d,]+) tokens an epoch"
)
LONG = "word " * 60


def rated(number):
    """Answers of which some are too long for the window."""
    texts = ["Yes, it is.", "No.", "Perhaps it is.", LONG if number % 5 == 0 else "Maybe."]
    return {"prompt": f"Is it {number}?", "answers": [{"text": text, "score": 9 - at} for at, text in enumerate(texts)]}


def labelled(number):
    return {"prompt": f"Is it {number}?", "completion": LONG if number % 7 == 0 else "Yes.", "label": number % 2 == 0}


def paired(number):
    return {"prompt": f"Is it {number}?", "chosen": LONG if number % 4 == 0 else "Yes, it is.", "rejected": "No."}


DROP = {"rule": "drop", "max_rows_share": 1.0, "max_tokens_share": 1.0}
ANSWERS = ["Fine, thank you.", LONG, "All is well here, and there is much to do."]
CASES = {
    "rows dropped": ("sft", [chat(number, ANSWERS[number % 3]) for number in range(40)], {}, {"truncation": DROP}),
    "packed": (
        "sft",
        [chat(number, ANSWERS[number % 3 % 2 * 2]) for number in range(60)],
        {"batch_counts": "packed"},
        {},
    ),
    "held out": ("sft", [chat(number) for number in range(60)], {}, {"eval_share": 0.3}),
    "pairs dropped": ("align", [paired(number) for number in range(30)], {}, {"truncation": DROP}),
    "kto": ("align", [labelled(number) for number in range(30)], {"objective": {"name": "kto"}}, {"truncation": DROP}),
    "listwise": ("align", list(map(rated, range(30))), {"objective": {"name": "listwise"}}, {"truncation": DROP}),
    "max_steps": ("align", [paired(number) for number in range(30)], {"max_steps": 3}, {"truncation": DROP}),
}


def numbers(pattern, said, stage):
    """The numbers that a command printed of a stage."""
    (found,) = [match for match in pattern.finditer(said) if match["stage"] == stage]
    given = {name: value for name, value in found.groupdict().items() if name != "stage"}
    return {name: int((value or "0").replace(",", "")) for name, value in given.items()}


@pytest.mark.parametrize("case", CASES)
def test_check_plan_and_run_count_the_same(case, tmp_path, tiny_folder, capfd):
    stage, rows, fields, data = CASES[case]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*rows))
    # Lists of rated answers are made of recorded ratings by the feedback stage.
    is_rated = case == "listwise"
    section = stage_fields(stage, None if is_rated else {"path": "rows.jsonl"}, **data)
    recorded = {"recorded": [{"path": "rows.jsonl"}], "binarize": {"output": "listwise"}}
    section["train"] = section["train"] | {"max_steps": fields.get("max_steps")}
    section |= {name: value for name, value in fields.items() if name != "max_steps"}
    sections = {"feedback": recorded} if is_rated else {}
    recipe = write_recipe(tmp_path, tiny_folder, **sections, **{stage: section})
    checked, planned = (zephyr(capfd, verb, recipe, "--offline") for verb in ("check", "plan"))
    assert (checked.code, planned.code) == (0, 0), (checked, planned)
    ran = zephyr(capfd, "run", recipe)
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "runs/tiny").glob(f"{stage}-*/stage.json")
    facts = json.loads(record.read_bytes())["facts"]
    expected = {name: facts[name] for name in ("examples", "tokens", "steps")}
    of_check, of_plan = numbers(CHECKED, checked.out, stage), numbers(PLANNED, planned.out, stage)
    assert of_check == {**expected, "held_out": facts["held_out"]}
    assert of_plan == expected
    if "truncation" in data:
        assert expected["examples"] < len(rows)
    if case == "packed":
        assert expected["steps"] < -(-len(rows) // 4)
    if case == "max_steps":
        assert expected["steps"] == 3
    if case == "held out":
        assert 0 < facts["held_out"] < len(rows)

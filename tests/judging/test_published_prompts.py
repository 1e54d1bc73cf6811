"""The judge prompts of FastChat and AlpacaEval, as files."""

import json

import pytest

from zephyr.errors import DataError
from zephyr.judging.published_prompts import read_judge_prompts, read_turns_prompt

TURNS = """<|im_start|>system
You rank.
<|im_end|>
<|im_start|>user
{"instruction": \"\"\"{instruction}\"\"\", "one": "{output_1}", "two": "{output_2}"}
<|im_end|>
"""


def test_texts_are_put_in_once_and_braces_stay(tmp_path):
    path = tmp_path / "judge_prompts.jsonl"
    row = {"name": "single-v1", "system_prompt": "Be fair.", "prompt_template": "{question} {x y} {answer} {other}"}
    path.write_text(json.dumps(row) + "\n")
    prompts = read_judge_prompts(path, ("single-v1",))
    system, user = prompts.by_name["single-v1"].messages({"question": "{answer}", "answer": "{question}"})
    assert (system.role, system.content) == ("system", "Be fair.")
    assert user.content == "{answer} {x y} {question} {other}"
    assert prompts.version.startswith("judge_prompts.jsonl ")
    with pytest.raises(DataError, match="has no judge prompt 'pair-v2'"):
        read_judge_prompts(path, ("pair-v2",))


def test_turns_between_marks(tmp_path):
    path = tmp_path / "alpaca_eval.txt"
    path.write_text(TURNS)
    system, user = read_turns_prompt(path).messages({"instruction": "Hi", "output_1": "{output_2}", "output_2": "b"})
    assert system.content == "You rank."
    assert user.content == '{"instruction": """Hi""", "one": "{output_2}", "two": "b"}'
    path.write_text("Rank {instruction}")
    with pytest.raises(DataError, match="is no prompt"):
        read_turns_prompt(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_turns_prompt(tmp_path / "none.txt")


def test_the_published_file(shared_data):
    names = tuple(f"{kind}{turns}" for kind in ("single-v1", "pair-v2") for turns in ("", "-multi-turn"))
    prompts = read_judge_prompts(shared_data / "eval" / "mt_bench" / "judge_prompts.jsonl", names)
    assert len(prompts.by_name) == 8
    assert prompts.version == "judge_prompts.jsonl fd283293406d"

"""Answers that are matched by a key: what matches nothing, matches twice or is null is refused or counted."""

import json

import pytest

from zephyr.errors import DataError
from zephyr.evaluation.judged.alpaca_eval_files import read_annotations, read_outputs
from zephyr.evaluation.judged.bench import check_answers_match
from zephyr.evaluation.judged.length_controlled import read_difficulty
from zephyr.evaluation.judged.mt_bench_questions import read_answers


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(number, *turns):
    return {"question_id": number, "choices": [{"index": 0, "turns": list(turns)}]}


def test_answers_to_other_questions_are_counted_and_refused_where_there_are_no_others(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert check_answers_match(path, [81, 82], {81, 82, 83}, "questions") == ()
    (note,) = check_answers_match(path, [81, 900], {81, 82}, "questions")
    assert note == "answers.jsonl: 1 of 2 rows of the file are about other questions (first: '900')"
    with pytest.raises(DataError, match=r"answers\.jsonl: 2 of 2 rows of the file are about other questions"):
        check_answers_match(path, [900, 901], {81, 82}, "questions")


def test_an_output_that_is_null_is_missing_and_thinking_is_apart(tmp_path):
    rows = [{"instruction": "a", "output": None}, {"instruction": "b", "output": "<think>hm</think>\n\nYes."}]
    found = read_outputs(written(tmp_path / "outputs.jsonl", rows))
    assert found["a"] is None
    assert found["b"] == ("Yes.", "hm")


@pytest.mark.parametrize(
    "row", [{"instruction": "a"}, {"output": "x"}, {"instruction": 3, "output": "x"}, {"instruction": "b", "output": 3}]
)
def test_an_output_has_its_instruction(tmp_path, row):
    path = written(tmp_path / "outputs.jsonl", [{"instruction": "a", "output": "x"}, row])
    with pytest.raises(DataError, match=r"outputs\.jsonl row 2: has no instruction with an output, got"):
        read_outputs(path)


def test_an_output_comes_once(tmp_path):
    path = written(tmp_path / "outputs.jsonl", 2 * [{"instruction": "a", "output": "x"}])
    with pytest.raises(DataError, match=r"outputs\.jsonl row 2: has an instruction that comes twice, 'a'"):
        read_outputs(path)


def test_one_file_judges_against_one_reference(tmp_path):
    rows = [
        {"instruction": text, "preference": 1, "generator_1": base, "generator_2": "mine"}
        for text, base in (("a", "gpt"), ("b", "davinci"))
    ]
    with pytest.raises(DataError, match=r"row 2 judges mine against davinci, and rows before it against gpt"):
        read_annotations(written(tmp_path / "annotations.jsonl", rows))


def test_a_question_is_answered_once_with_texts_or_nulls(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert read_answers(written(path, [answer(81, "x", None)])) == {81: ("x", None)}
    for rows, said in (
        ([answer(81, "x"), answer(81, "y")], "row 2: has question 81, which comes twice"),
        ([answer(81, 7)], "row 1: has a turn that is no text, got 7"),
        ([{"question_id": 81, "choices": []}], "row 1: holds no choices with turns"),
        ([answer("first", "x")], "row 1"),
    ):
        with pytest.raises(DataError, match=said):
            read_answers(written(path, rows))


def test_difficulties_go_by_their_instruction_before_their_index(tmp_path):
    path = tmp_path / "difficulty.jsonl"
    rows = [
        {"index": 1, "instruction": "b", "instruction_difficulty": 2.0},
        {"index": 0, "instruction": "a", "instruction_difficulty": 1.0},
    ]
    assert read_difficulty(written(path, rows)) == (["b", "a"], [2.0, 1.0])
    plain = [{name: value for name, value in row.items() if name != "instruction"} for row in rows]
    assert read_difficulty(written(path, plain)) == ([], [1.0, 2.0])
    for other in ("b", None):
        with pytest.raises(DataError, match=r"difficulty\.jsonl: names 1 instructions in 2 rows"):
            read_difficulty(written(path, [rows[0], {**rows[1], "instruction": other}]))
    with pytest.raises(DataError, match="indices that do not count 2 instructions from 0"):
        read_difficulty(written(path, [plain[0], {**plain[1], "index": 5}]))

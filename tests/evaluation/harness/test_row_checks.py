"""A row that would be scored by chance, by the last choice or by none is refused with its file, row and value."""

import bz2
import json
import zipfile
from pathlib import Path

import pytest

from tests.evaluation.harness.small_data import SUBJECT, small_data
from zephyr.errors import DataError
from zephyr.evaluation.harness.local_data import LOCAL_COPIES, local_copies
from zephyr.evaluation.harness.row_checks import check_ifeval, gold_index, gold_letter

PARAGRAPHS = "length_constraints:nth_paragraph_first_word"


@pytest.mark.parametrize("value", [-1, "-1", 4, "4", "", None, True, "²", "A", 1.5, "1.0"])
def test_a_label_is_an_index_of_a_choice(value: object) -> None:
    assert [gold_index(each, 4, "row 1") for each in (0, "3")] == [0, 3]
    with pytest.raises(DataError, match="row 1: its label must be a number from 0 to 3"):
        gold_index(value, 4, "row 1")


@pytest.mark.parametrize("value", ["", "BC", "E", "a", "AB", "0"])
def test_an_answer_is_one_of_four_letters(value: str) -> None:
    assert [gold_letter(each, "row 1") for each in ("A", " D ")] == [0, 3]
    with pytest.raises(DataError, match="row 1: its answer must be one of A, B, C and D"):
        gold_letter(value, "row 1")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("startend:end_cheker", {}, "unknown instruction .*startend:end_cheker.*startend:end_checker"),
        (["punctuation:no_comma"], {}, "unknown instruction"),
        ("punctuation:no_comma", "none", "options of punctuation:no_comma must be an object"),
        ("punctuation:no_comma", {"num_words": 3}, "has no option 'num_words'"),
        ("startend:end_checker", {"end_phrase": None}, "needs the option 'end_phrase'"),
        ("startend:end_checker", {"end_phrase": "  "}, "must be a text"),
        ("language:response_language", {"language": "tlh"}, "'language' .* must be one of ar, bg"),
        ("keywords:forbidden_words", {"forbidden_words": []}, "must be a list of texts"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 2, "let_relation": "at least"}, "one letter"),
        ("length_constraints:number_words", {"num_words": "40", "relation": "at least"}, "must be a whole number"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "must be a whole number"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "must be a whole number"),
        (
            "length_constraints:number_words",
            {"num_words": 40, "relation": "around"},
            "must be 'less than' or 'at least'",
        ),
        (PARAGRAPHS, {"num_paragraphs": 3, "nth_paragraph": 4, "first_word": "so"}, "from 1 to 3, got 4"),
        (PARAGRAPHS, {"num_paragraphs": 3, "nth_paragraph": 0, "first_word": "so"}, "from 1 to 3, got 0"),
    ],
)
def test_an_instruction_has_its_options_and_no_others(name: object, options: object, said: str) -> None:
    row = {"prompt": "Write.", "instruction_id_list": [name], "kwargs": [options]}
    with pytest.raises(DataError, match=rf"input\.jsonl row 7: .*{said}"):
        check_ifeval(row, "input.jsonl row 7")


@pytest.mark.parametrize("row", [{"kwargs": []}, {"kwargs": [{}, {}]}, {"instruction_id_list": []}, {"prompt": None}])
def test_an_ifeval_row_has_its_prompt_and_options_for_each_instruction(row: dict[str, object]) -> None:
    whole = {"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    check_ifeval(whole, "row 7")
    with pytest.raises(DataError, match=r"row 7: its (kwargs|instruction_id_list|prompt) must be"):
        check_ifeval(whole | row, "row 7")


@pytest.mark.parametrize(
    ("task", "file", "row", "said"),
    [
        ("gsm8k", "gsm8k/test.jsonl", {"question": "1 + 1?", "answer": "two"}, "must end in '#### '"),
        ("gsm8k", "gsm8k/test.jsonl", {"question": "", "answer": "#### 2"}, "question must be a text"),
        ("arc_challenge", "arc_challenge/test.jsonl", {"query": "?", "choices": ["a", "b"], "gold": -1}, "from 0 to 1"),
        ("arc_challenge", "arc_challenge/test.jsonl", {"query": "?", "choices": ["a", None], "gold": 0}, "two or more"),
        ("winogrande", "winogrande/dev.jsonl", {"answer": ""}, "must be '1' or '2'"),
        ("winogrande", "winogrande/dev.jsonl", {"answer": "1", "sentence": "x", "option1": "a", "option2": "b"}, "gap"),
    ],
)  # fmt: skip
def test_rows_of_local_files_are_refused_by_name(
    tmp_path: Path, task: str, file: str, row: dict[str, object], said: str
) -> None:
    path = small_data(tmp_path) / file
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"{path.name}.* 1: .*{said}"):
        LOCAL_COPIES[task].load(tmp_path)


def test_a_question_without_wrong_answers_is_refused(tmp_path: Path) -> None:
    path = small_data(tmp_path) / "truthfulqa" / "TruthfulQA.csv"
    head, first, *_ = path.read_text().splitlines()
    column = head.split(",").index("Incorrect Answers")
    path.write_text("\n".join([head, ",".join("" if n == column else f"text {n}" for n in range(head.count(",") + 1))]))
    assert first
    with pytest.raises(DataError, match=r"TruthfulQA\.csv row 1: its Incorrect Answers must be a text"):
        LOCAL_COPIES["truthfulqa_mc1"].load(tmp_path)


@pytest.mark.parametrize("label", ["-1", "7", ""])
def test_a_label_of_hellaswag_is_one_of_its_endings(tmp_path: Path, label: str) -> None:
    path = small_data(tmp_path) / "hellaswag" / "hellaswag_val_full.txt.bz2"
    lines = bz2.decompress(path.read_bytes()).decode().split("\n")
    lines[7] = label
    path.write_bytes(bz2.compress("\n".join(lines).encode()))
    with pytest.raises(DataError, match=r"item 2 \(line 7\): its label must be a number from 0 to 3"):
        LOCAL_COPIES["hellaswag"].load(tmp_path)


def test_an_answer_of_mmlu_is_a_letter(tmp_path: Path) -> None:
    path = small_data(tmp_path) / "mmlu" / "mmlu.zip"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    test = f"data/test/{SUBJECT}_test.csv"
    files[test] = "Two?,1,2,3,4,BC\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    with pytest.raises(DataError, match=rf"{SUBJECT}_test\.csv row 1: its answer must be one of A, B, C and D"):
        local_copies((SUBJECT,))[f"mmlu_{SUBJECT}"].load(tmp_path)

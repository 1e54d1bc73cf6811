"""Files as benchmarks are passed around become the rows that lm-eval's definitions expect."""

import json
from pathlib import Path

import pytest

from tests.evaluation.harness.small_data import SUBJECT, small_data
from zephyr.errors import DataError
from zephyr.evaluation.harness.local_data import LOCAL_COPIES, local_copies


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def test_arc_loses_the_frame_around_its_questions(folder: Path) -> None:
    doc = LOCAL_COPIES["arc_challenge"].load(folder)["test"][1]
    assert doc["question"] == "What does the fox do?"
    assert doc["choices"]["label"] == ["A", "B", "C"]
    assert doc["choices"]["text"][0] == "It yips."
    assert doc["answerKey"] == "B"


def test_hellaswag_gets_back_the_beginning_of_its_sentence(folder: Path) -> None:
    first, second = LOCAL_COPIES["hellaswag"].load(folder)["validation"]
    assert (first["activity_label"], first["ctx_a"], first["ctx_b"]) == ("Cooking", "A man stands in a kitchen.", "he")
    assert (second["ctx_a"], second["ctx_b"], second["label"]) == ("Put on your shoes.", "", "0")
    assert first["endings"][1] == "cuts the bread."


def test_mmlu_reads_a_subject_out_of_the_archive(folder: Path) -> None:
    doc = local_copies((SUBJECT,))[f"mmlu_{SUBJECT}"].load(folder)["test"][2]
    assert doc == {
        "question": "How many legs has the cat, if any?",
        "subject": SUBJECT,
        "choices": ["0", "2", "4", "6"],
        "answer": 2,
    }


def test_truthfulqa_is_rebuilt_with_the_best_answer_first_and_full_stops(folder: Path) -> None:
    first, second = LOCAL_COPIES["truthfulqa_mc2"].load(folder)["validation"]
    assert first["mc2_targets"] == {
        "choices": ["Hens fly a little.", "Yes, but not far.", "Hens never fly.", "No."],
        "labels": [1, 1, 0, 0],
    }
    assert second["mc1_targets"] == {"choices": ["No.", "Yes.", "Yes, a round one."], "labels": [1, 0, 0]}
    assert second["mc2_targets"]["choices"][:2] == ["No.", "It is a rock."]


def test_drop_keeps_the_passages_of_its_shots_apart(folder: Path) -> None:
    found = LOCAL_COPIES["drop"].load(folder)
    passages = {split: {doc["passage"] for doc in docs} for split, docs in found.items()}
    assert passages["train"]
    assert not passages["train"] & passages["validation"]
    assert len(found["train"]) + len(found["validation"]) == 144
    doc = next(doc for doc in found["validation"] if doc["passage"] == "The hen ran 1 miles. It slept.")
    assert doc["question"] == "How far did it run?"
    assert doc["validated_answers"]["spans"] == [["1"], ["1 miles"]]


def test_ifeval_has_every_option_in_every_row(folder: Path) -> None:
    first, second = LOCAL_COPIES["ifeval"].load(folder)["train"]
    assert first["kwargs"] == [{"end_phrase": None}, {"end_phrase": "The end."}]
    assert second["kwargs"] == [{"end_phrase": None}]


def test_a_file_that_is_not_there_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file gsm8k/train\.jsonl; put GSM8K's train\.jsonl"):
        LOCAL_COPIES["gsm8k"].load(tmp_path)


def test_a_file_that_is_another_is_named(tmp_path: Path) -> None:
    small_data(tmp_path)
    path = tmp_path / "arc_challenge" / "test.jsonl"
    path.write_text(json.dumps({"question": "?"}) + "\n")
    with pytest.raises(DataError, match=r"test\.jsonl: is not as ARC-Challenge .* \(KeyError: 'choices'\)"):
        LOCAL_COPIES["arc_challenge"].load(tmp_path)
    path.write_text("")
    with pytest.raises(DataError, match=r"test\.jsonl: holds no rows"):
        LOCAL_COPIES["arc_challenge"].load(tmp_path)


COUNTS = {
    "arc_challenge": {"train": 1119, "validation": 299, "test": 1172},
    "hellaswag": {"train": 11, "validation": 10042},
    "truthfulqa_mc2": {"validation": 817},
    "winogrande": {"train": 40398, "validation": 1267},
    "gsm8k": {"train": 7473, "test": 1319},
    "ifeval": {"train": 541},
}


@pytest.mark.parametrize("task", COUNTS)
def test_published_files_hold_what_was_published(task: str, shared_data: Path) -> None:
    found = LOCAL_COPIES[task].load(shared_data / "eval")
    assert {split: len(docs) for split, docs in found.items()} == COUNTS[task]


def test_hellaswag_knows_its_films_from_its_articles(shared_data: Path) -> None:
    docs = LOCAL_COPIES["hellaswag"].load(shared_data / "eval")["validation"]
    # 3,243 items caption films, each with the beginning of a sentence; four of those have no full stop before it.
    assert sum(bool(doc["ctx_b"]) for doc in docs) == 3239


def test_ifeval_holds_834_instructions_of_25_kinds(shared_data: Path) -> None:
    docs = LOCAL_COPIES["ifeval"].load(shared_data / "eval")["train"]
    names = [name for doc in docs for name in doc["instruction_id_list"]]
    assert (len(names), len(set(names))) == (834, 25)
    sizes = [len(doc["instruction_id_list"]) for doc in docs]
    assert [sizes.count(n) for n in (1, 2, 3)] == [305, 179, 57]

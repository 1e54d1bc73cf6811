"""Our own questions in the layouts that benchmarks are passed around in, a few of each."""

import bz2
import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

ANIMALS = ("cow", "hen", "cat", "dog", "elk", "jay", "ant", "fox", "owl", "bee", "ram", "rat")
SOUNDS = ("moos", "clucks", "purrs", "barks", "bells", "caws", "ticks", "yips", "hoots", "hums", "bleats", "squeaks")
SUBJECT = "anatomy"


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def arc(numbers: range) -> list[dict]:
    return [
        {
            "id": f"q{n}",
            "query": f"Question: What does the {ANIMALS[n]} do?\nAnswer:",
            "choices": [f"It {SOUNDS[n]}.", "It writes a long letter to its aunt.", "It flies."],
            "gold": n % 3,
        }
        for n in numbers
    ]


def hellaswag_text() -> str:
    items = [
        ("Cooking: A man stands in a kitchen. he", "1", "sings.", "cuts the bread.", "flies away.", "is a kitchen."),
        ("Walking: Put on your shoes.", "0", "Tie them.", "Eat them.", "Sell the shoes to a man.", "Sleep."),
    ]
    return "".join(f"{line}\n" for item in items for line in item)


def hellaswag_shots() -> list[dict]:
    return [
        {
            "ind": n,
            "activity_label": f"Feeding a {animal}",
            "ctx_a": "[header] How to do it [title] Take some food.",
            "ctx_b": "",
            "endings": ["[step] Give it to the animal.", "Throw it away.", "Run.", "Count to ten."],
            "label": "0",
        }
        for n, animal in enumerate(ANIMALS[:11])
    ]


def mmlu(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("dev", 5), ("test", 4)):
            text = io.StringIO()
            csv.writer(text).writerows(
                [f"How many legs has the {ANIMALS[n]}, if any?", "0", "2", "4", "6", "ABCD"[n % 4]]
                for n in range(count)
            )
            archive.writestr(f"data/{split}/{SUBJECT}_{split}.csv", text.getvalue())


def truthfulqa(path: Path) -> None:
    path.parent.mkdir(parents=True)
    rows = [
        ("Do hens fly?", "Hens fly a little", "Hens fly a little; Yes, but not far", "Hens never fly; No."),
        ("Is the moon a cheese?", "No", "It is a rock; No", "Yes; Yes, a round one"),
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        writer.writerows(rows)


def winogrande(numbers: range) -> list[dict]:
    return [
        {
            "sentence": f"The {ANIMALS[n]} feared the {ANIMALS[n + 1]} because the _ was loud.",
            "option1": ANIMALS[n],
            "option2": ANIMALS[n + 1],
            "answer": "12"[n % 2],
        }
        for n in numbers
    ]


def gsm8k(numbers: range) -> list[dict]:
    return [
        {
            "question": f"There are {n} hens and {n} cows. How many are there?",
            "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}",
        }
        for n in numbers
    ]


def drop() -> list[dict]:
    return [
        {
            "context": f"Passage: The {animal} ran {n} miles. It slept.\nQuestion: How far did it run?\nAnswer:",
            "completion": f" {n}",
            "ref_text": f"{n}|{n} miles",
        }
        for n, animal in enumerate(ANIMALS * 12)
    ]


IFEVAL = [
    {
        "key": 1,
        "prompt": "Say hello. Use no commas and end with: The end.",
        "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
        "kwargs": [{}, {"end_phrase": "The end."}],
    },
    {
        "key": 2,
        "prompt": "Say hello in capital letters.",
        "instruction_id_list": ["change_case:english_capital"],
        "kwargs": [{}],
    },
]


def small_data(folder: Path) -> Path:
    """The folder, filled with every task's files."""
    write_jsonl(folder / "arc_challenge" / "train.jsonl", arc(range(5)))
    write_jsonl(folder / "arc_challenge" / "dev.jsonl", arc(range(5, 6)))
    write_jsonl(folder / "arc_challenge" / "test.jsonl", arc(range(6, 12)))
    write_jsonl(folder / "hellaswag" / "train_fewshots_olmes11.jsonl", hellaswag_shots())
    (folder / "hellaswag" / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress(hellaswag_text().encode()))
    mmlu(folder / "mmlu" / "mmlu.zip")
    truthfulqa(folder / "truthfulqa" / "TruthfulQA.csv")
    write_jsonl(folder / "winogrande" / "train_xl.jsonl.gz", winogrande(range(8)))
    write_jsonl(folder / "winogrande" / "dev.jsonl", winogrande(range(8, 11)))
    write_jsonl(folder / "gsm8k" / "train.jsonl", gsm8k(range(8)))
    write_jsonl(folder / "gsm8k" / "test.jsonl", gsm8k(range(8, 10)))
    write_jsonl(folder / "drop" / "drop_v0_dev.jsonl.gz", drop())
    write_jsonl(folder / "ifeval" / "input_data.jsonl", IFEVAL)
    return folder

"""Files of the judged benchmarks, in their authors' shapes, made of the closed world's questions."""

from collections.abc import Iterator
from pathlib import Path

from zephyr.evaluation.judged.mt_bench_questions import TEMPERATURES, WITH_REFERENCE
from zephyr.records.rows import Prompt
from zephyr.records.writing import write_jsonl
from zephyr.world import ideal_answer, prompts


def plain_prompts(count: int) -> Iterator[Prompt]:
    """Different questions of one turn each."""
    found = (one for one in prompts("heldout", 3, 20 * count) if len(one.messages) == 1)
    by_text = {one.messages[0].content: one for one in found}
    assert len(by_text) >= count
    return iter(list(by_text.values())[:count])


def write_mt_bench(folder: Path) -> None:
    """Write into the folder 80 questions of two turns, and references for the 30 that have them."""
    asked = plain_prompts(160)
    questions, references = [], []
    for number in range(81, 161):
        category = list(TEMPERATURES)[(number - 81) // 10]
        turns = [next(asked), next(asked)]
        questions.append(
            {"question_id": number, "category": category, "turns": [one.messages[0].content for one in turns]}
        )
        if category in WITH_REFERENCE:
            ideal = [ideal_answer(one.messages) for one in turns]
            references.append({"question_id": number, "choices": [{"index": 0, "turns": ideal}]})
    folder.mkdir(parents=True)
    write_jsonl(folder / "question.jsonl", questions)
    write_jsonl(folder / "reference_answer_gpt-4.jsonl", references)


def write_baseline(folder: Path, count: int) -> None:
    """Write into the folder AlpacaEval's file of a baseline that never knows the answer."""
    folder.mkdir(parents=True)
    rows = [
        {
            "dataset": "koala" if number % 2 else "vicuna",
            "instruction": one.messages[0].content,
            "output": "I am sorry, but I do not know that.",
            "generator": "baseline",
        }
        for number, one in enumerate(plain_prompts(count))
    ]
    write_jsonl(folder / "gpt4_1106_preview_outputs.jsonl", rows)
    # Its authors write one JSON array.
    lines = (folder / "gpt4_1106_preview_outputs.jsonl").read_text().splitlines()
    (folder / "gpt4_1106_preview_outputs.json").write_text("[" + ",".join(lines) + "]")

"""Rows that teach nothing after truncation: told by check, and in the same words by run, card and report."""

import json
import re

import pytest

from tests.command import jsonl, pair, stage_fields, trained, write_recipe, zephyr

SHORT = {"max_length": 64, "truncation": {"max_rows_share": 1.0, "max_tokens_share": 1.0}}


def differing_late(number):
    """A pair whose answers differ only after the window of 64 tokens."""
    same = "It is what it is, as it was before, and so it will be in all the years to come. " * 3
    return {"prompt": f"{number}?", "chosen": same + "Yes.", "rejected": same + "No, never."}


def test_pairs_that_truncation_makes_equal_are_counted_by_check_run_card_and_report(tmp_path, tiny_folder, capfd):
    rows = [
        *map(pair, range(6)),
        differing_late(6),
        differing_late(7),
        {**pair(0), "chosen": "No.", "rejected": pair(0)["chosen"]},
    ]
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*rows))
    recipe = write_recipe(
        tmp_path, tiny_folder, align=stage_fields("align", {"path": "pairs.jsonl"}, shuffle=False, **SHORT), deliver={}
    )
    checked = zephyr(capfd, "check", recipe)
    assert checked.code == 0
    assert "align     all rows: the answers are the same tokens: 2 of 9 rows; pairs.jsonl row 7\n" in checked.out
    assert "align     all rows: another row prefers the other answer: 1 of 9 rows; pairs.jsonl row 9\n" in checked.out
    ran = zephyr(capfd, "run", recipe)
    assert ran.code == 0
    told = "defects of the rows: 2 x the answers are the same tokens, 1 x another row prefers the other answer"
    assert told in ran.out
    (record,) = tmp_path.glob("runs/tiny/align-*/stage.json")
    counts = {"the answers are the same tokens": 2, "another row prefers the other answer": 1}
    assert json.loads(record.read_bytes())["facts"]["defects"] == counts
    (delivered,) = tmp_path.glob("runs/tiny/deliver-*")
    for name in ("README.md", "report.html"):
        text = re.sub(r"<[^>]*>", " ", (delivered / name).read_text())
        for defect, count in counts.items():
            assert re.search(rf"defects: {defect}\W+{count}\b", text), (name, defect)


@pytest.mark.parametrize("verb", ["check", "run"])
def test_rows_of_which_none_has_a_gradient_are_not_trained_on(tmp_path, tiny_folder, capfd, verb):
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*map(differing_late, range(5))))
    section = stage_fields("align", {"path": "pairs.jsonl"}, shuffle=False, **SHORT)
    said = zephyr(capfd, verb, write_recipe(tmp_path, tiny_folder, align=section))
    assert said.code == 2
    assert (
        "training rows: none of the 5 has a gradient, because the answers are the same tokens (pairs.jsonl row 1, "
        in said.err
    )
    assert trained(tmp_path) == []

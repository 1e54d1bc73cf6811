import json
from typing import get_args

import pytest

from tests.data.rows import chat, pair
from zephyr.data.filters.apply import apply_filters, build_filter
from zephyr.data.filters.parts import prompt_key
from zephyr.recipe.data_section import (
    DecontaminationFilter,
    DuplicateFilter,
    Filter,
    LanguageFilter,
    LengthFilter,
    PartFilter,
    RefusalFilter,
    TruecaseFilter,
)

SECTIONS = [
    TruecaseFilter(name="truecase"),
    RefusalFilter(name="refusals", phrases=["beep"]),
    LanguageFilter(name="language"),
    LengthFilter(name="length", max_turns=4),
    DuplicateFilter(name="duplicates"),
    DecontaminationFilter(name="decontamination", against=["set.jsonl"]),
    PartFilter(name="part", number=prompt_key(chat("What is it?", "")) % 3 + 1, of=3),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_filter_of_a_recipe_is_built(tmp_path, section):
    (tmp_path / "set.jsonl").write_text(json.dumps({"prompt": "Who are you?"}))
    built = build_filter(section, data_dir=tmp_path)
    assert built.name == section.name
    kept = chat("What is it?", "It is a parrot.")
    assert built.judge(kept).record is kept


def test_no_filter_of_a_recipe_is_missing():
    union, _discriminator = get_args(Filter)
    assert {type(section) for section in SECTIONS} == set(get_args(union))


def test_phrases_of_the_recipe_are_looked_for(tmp_path):
    built = build_filter(SECTIONS[1], data_dir=tmp_path)
    assert built.judge(chat("Say it.", "Beep!")).reason == "phrase of the recipe"


def test_filters_are_applied_in_order_and_counted(tmp_path):
    rows = [
        chat("hi. who are you?", "A parrot. just a parrot.", name="row 1"),
        chat("Hi", "As an AI language model, I am no parrot.", name="row 2"),
        chat("Hi. Who are you?", "A parrot. Just a parrot.", name="row 3"),
        chat("Hi", "No", name="row 4"),
    ]
    sections = [
        TruecaseFilter(name="truecase"),
        RefusalFilter(name="refusals"),
        LengthFilter(name="length", min_characters=3),
        DuplicateFilter(name="duplicates", threshold=1),
    ]
    filtered = apply_filters(rows, [build_filter(section, data_dir=tmp_path) for section in sections])
    assert list(filtered.rows) == [chat("Hi. Who are you?", "A parrot. Just a parrot.", name="row 1")]
    report = filtered.report
    assert (report.rows_in, report.rows_out) == (4, 1)
    counted = [(counts.rows_in, counts.num_changed, counts.num_dropped) for counts in report.filters]
    assert counted == [(4, 1, 0), (4, 0, 1), (3, 0, 1), (2, 0, 1)]
    (duplicate,) = report.filters[3].dropped["equal to an earlier row"].examples
    assert duplicate.row == "row 3"
    assert duplicate.text.startswith("row 1: ")


def test_rows_stream(tmp_path):
    def endless():
        while True:
            yield pair("Why?", "So.", "No.")

    filtered = apply_filters(endless(), [build_filter(SECTIONS[0], data_dir=tmp_path)])
    assert next(filtered.rows) == next(filtered.rows)
    assert filtered.report.rows_out == 2


def test_without_filters_every_row_passes_as_it_is():
    row = chat("hi", "no")
    filtered = apply_filters([row], [])
    assert next(filtered.rows) is row
    assert list(filtered.rows) == []
    assert filtered.report.lines() == ["1 row in, 1 row left after 0 filters"]


def test_files_without_prompts_are_noted_in_the_report(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text(json.dumps({"prompt": "Who are you?"}))
    (tmp_path / "set" / "b.jsonl").write_text(json.dumps({"answer": "Me."}))
    row_filter = build_filter(DecontaminationFilter(name="decontamination", against=["set"]), data_dir=tmp_path)
    filtered = apply_filters([chat("Who are you?", "A parrot.")], [row_filter])
    assert list(filtered.rows) == []
    assert filtered.report.notes == ["set/b.jsonl holds no prompts, so nothing was compared with it"]
    assert list(filtered.report.filters[0].dropped) == ["overlaps with set/a.jsonl"]


def test_every_prompt_is_in_one_part_whatever_was_answered(tmp_path):
    rows = [chat(f"Say {n % 60}.", f"It is {n}.", name=f"row {n}") for n in range(120)]
    found = [
        [row.name for row in apply_filters(rows, [build_filter(section, data_dir=tmp_path)]).rows]
        for section in (PartFilter(name="part", number=number, of=3) for number in (1, 2, 3))
    ]
    assert sorted(name for part in found for name in part) == sorted(row.name for row in rows)
    # A prompt that comes twice is in one part both times.
    assert all(f"row {n}" in part for part in found for n in range(60) if f"row {n + 60}" in part)
    assert all(20 <= len(part) <= 60 for part in found)


def test_a_part_is_one_of_them():
    with pytest.raises(ValueError, match="number must be at most 3, the number of parts, got 4"):
        PartFilter(name="part", number=4, of=3)

import json

import pytest

from tests.data.rows import chat, pair
from zephyr.data.filters.apply import FILTERS, apply_filters, build_filter
from zephyr.data.filters.decontamination import DecontaminationFilter
from zephyr.data.filters.languages import LanguageFilter
from zephyr.data.filters.lengths import LengthFilter
from zephyr.data.filters.near_duplicates import DuplicateFilter
from zephyr.data.filters.refusals import RefusalFilter
from zephyr.data.filters.truecasing import TruecaseFilter

OPTIONS = {
    "truecase": ({}, TruecaseFilter),
    "refusals": ({"phrases": ["beep"]}, RefusalFilter),
    "language": ({"keep": ["en"]}, LanguageFilter),
    "length": ({"min_characters": 1, "max_characters": None, "max_turns": 4}, LengthFilter),
    "duplicates": ({"threshold": 0.8}, DuplicateFilter),
    "decontamination": ({"against": ["set.jsonl"], "ngram": 13}, DecontaminationFilter),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_filter_is_built_by_name(tmp_path, name):
    (tmp_path / "set.jsonl").write_text(json.dumps({"prompt": "Who are you?"}))
    options, kind = OPTIONS[name]
    built = build_filter(name, options, data_dir=tmp_path)
    assert isinstance(built, kind)
    assert built.name == name


def test_every_filter_of_the_recipe_is_here_with_its_options():
    from typing import get_args

    from zephyr.recipe.data_section import Filter

    union, _discriminator = get_args(Filter)
    fields = {section.model_fields["name"].annotation: section for section in get_args(union)}
    names = {get_args(annotation)[0]: set(section.model_fields) - {"name"} for annotation, section in fields.items()}
    assert names == {name: set(options) for name, (options, _kind) in OPTIONS.items()}
    assert list(names) == list(FILTERS)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("refusal", {}, ValueError, "unknown filter 'refusal', known are truecase, refusals"),
        ("refusals", {}, ValueError, "filter refusals needs the option 'phrases'"),
        ("truecase", {"keep": ["en"]}, ValueError, "filter truecase has no option 'keep'"),
        ("language", {"keep": "en"}, TypeError, "option 'keep' of filter language is a list of texts, got 'en'"),
        ("duplicates", {"threshold": "high"}, TypeError, "option 'threshold' of filter duplicates is a number"),
    ],
)
def test_wrong_options_are_refused(tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        build_filter(name, options, data_dir=tmp_path)


def test_filters_are_applied_in_order_and_counted():
    rows = [
        chat("hi. who are you?", "A parrot. just a parrot.", name="row 1"),
        chat("Hi", "As an AI language model, I am no parrot.", name="row 2"),
        chat("Hi. Who are you?", "A parrot. Just a parrot.", name="row 3"),
        chat("Hi", "No", name="row 4"),
    ]
    filters = [
        TruecaseFilter(),
        RefusalFilter(phrases=()),
        LengthFilter(min_characters=3, max_characters=None, max_turns=None),
        DuplicateFilter(threshold=1),
    ]
    filtered = apply_filters(rows, filters)
    assert list(filtered.rows) == [chat("Hi. Who are you?", "A parrot. Just a parrot.", name="row 1")]
    report = filtered.report
    assert (report.rows_in, report.rows_out) == (4, 1)
    counted = [(counts.rows_in, counts.num_changed, counts.num_dropped) for counts in report.filters]
    assert counted == [(4, 1, 0), (4, 0, 1), (3, 0, 1), (2, 0, 1)]
    (duplicate,) = report.filters[3].dropped["equal to an earlier row"].examples
    assert duplicate.row == "row 3"
    assert duplicate.text.startswith("row 1: ")


def test_rows_stream():
    def endless():
        while True:
            yield pair("Why?", "So.", "No.")

    filtered = apply_filters(endless(), [TruecaseFilter()])
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
    row_filter = build_filter("decontamination", {"against": ["set"], "ngram": 13}, data_dir=tmp_path)
    filtered = apply_filters([chat("Who are you?", "A parrot.")], [row_filter])
    assert list(filtered.rows) == []
    assert filtered.report.notes == ["set/b.jsonl holds no prompts, so nothing was compared with it"]
    assert list(filtered.report.filters[0].dropped) == ["overlaps with set/a.jsonl"]

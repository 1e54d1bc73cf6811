import json

from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.filters.report import MOST_EXAMPLES, FilterCounts, FilterReport, Tally, short_line


def report():
    first = FilterCounts("truecase", rows_in=3)
    first.changed["capital letters"].add("a.jsonl row 1", "Hello. \x1b[2JHow | `are` you?")
    second = FilterCounts("refusals", rows_in=3)
    second.dropped["refuses"].add("a.jsonl row 2", "i cannot help")
    second.dropped["refuses"].add("a.jsonl row 3", "i cannot help either")
    return FilterReport([first, second], rows_in=3, rows_out=1, notes=["b.jsonl holds no prompts"])


def test_report_as_json():
    assert report().to_fields() == {
        "rows_in": 3,
        "rows_out": 1,
        "filters": [
            {
                "name": "truecase",
                "rows_in": 3,
                "changed": 1,
                "dropped": 0,
                "reasons_changed": {
                    "capital letters": {
                        "rows": 1,
                        "examples": [{"row": "a.jsonl row 1", "text": "Hello. \\x1b[2JHow | `are` you?"}],
                    }
                },
                "reasons_dropped": {},
            },
            {
                "name": "refusals",
                "rows_in": 3,
                "changed": 0,
                "dropped": 2,
                "reasons_changed": {},
                "reasons_dropped": {
                    "refuses": {
                        "rows": 2,
                        "examples": [
                            {"row": "a.jsonl row 2", "text": "i cannot help"},
                            {"row": "a.jsonl row 3", "text": "i cannot help either"},
                        ],
                    }
                },
            },
        ],
        "notes": ["b.jsonl holds no prompts"],
    }


def test_report_in_lines():
    assert report().lines() == [
        "3 rows in, 1 row left after 2 filters",
        "  truecase: 1 changed: capital letters",
        "  refusals: 2 dropped: refuses",
        "  b.jsonl holds no prompts",
    ]


def test_report_as_a_page():
    assert report().markdown() == (
        "# Filter report\n\n3 rows in, 1 row out.\n\n"
        "| filter | rows in | changed | dropped |\n|---|---|---|---|\n"
        "| truecase | 3 | 1 | 0 |\n| refusals | 3 | 0 | 2 |\n\n"
        "## truecase, changed: capital letters (1)\n\n"
        "- `a.jsonl row 1`: `Hello. \\x1b[2JHow | 'are' you?`\n\n"
        "## refusals, dropped: refuses (2)\n\n"
        "- `a.jsonl row 2`: `i cannot help`\n- `a.jsonl row 3`: `i cannot help either`\n\n"
        "- b.jsonl holds no prompts\n"
    )


def test_both_forms_are_written(tmp_path):
    report().write(tmp_path)
    assert json.loads((tmp_path / "filters.json").read_text()) == report().to_fields()
    assert (tmp_path / "filters.md").read_text() == report().markdown()


def test_all_are_counted_and_the_first_are_kept():
    tally = Tally()
    for number in range(MOST_EXAMPLES + 2):
        tally.add(f"row {number}", "text")
    assert tally.count == MOST_EXAMPLES + 2
    assert [example.row for example in tally.examples] == [f"row {number}" for number in range(MOST_EXAMPLES)]


def test_control_characters_are_escaped():
    assert short_line("a\x1b[31mb\n\tc\u202ed") == "a\\x1b[31mb c\\u202ed"


def test_long_text_is_cut_with_a_mark():
    assert short_line("a" * 10, 5) == "aaaa…"
    assert short_line("a" * 5, 5) == "aaaaa"


@given(st.text(), st.integers(10, 40))
def test_shortened_text_is_one_printable_line_within_its_limit(text, limit):
    line = short_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()

import json

from zephyr.data.filters.report import FilterCounts, FilterReport


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

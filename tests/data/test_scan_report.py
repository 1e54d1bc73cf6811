import json

from zephyr.data.scan_report import Finding, ScanReport
from zephyr.intervals import Estimate


def finding(count, *, of=10):
    made = Finding("the prompt comes more than once", "rows", of)
    for number in range(count):
        made.tally.add(f"a.jsonl row {number}", "as a.jsonl row 0")
    return made


def test_summary_says_what_was_found_and_an_example():
    report = ScanReport({"repeated": finding(2), "other": finding(0)}, rows=10, answers=20)
    report.longer_wins = Estimate(0.7, 0.65, 0.75, 900)
    assert report.lines() == [
        "10 rows with 20 answers looked at",
        "  the prompt comes more than once: 2 of 10 rows (20.0%); a.jsonl row 0: as a.jsonl row 0",
        "  the longer answer is preferred in 70.0% (65.0% to 75.0%) of 900 rows: length alone predicts the preference",
    ]


def test_clean_data_and_no_data_are_said():
    assert ScanReport({"repeated": finding(0)}, rows=10, answers=20).lines()[-1] == "  no defect found"
    assert ScanReport({"repeated": finding(0, of=0)}).to_fields()["findings"]["repeated"]["share"] == 0.0


def test_repair_is_said_where_it_would_do_something():
    report = ScanReport({}, repairs={"score_1": 2, "needs_judge": 1, "kept": 5})
    assert "  the published repair would make 2 of these 10s a 1, ask a judge about 1 and keep 5" in report.lines()


def test_report_goes_through_json():
    report = ScanReport({"repeated": finding(6)}, rows=10, answers=20, longer_wins=Estimate(0.5, 0.2, 0.8, 10))
    fields = json.loads(json.dumps(report.to_fields()))
    assert fields == report.to_fields()
    assert fields["findings"]["repeated"]["count"] == 6
    assert len(fields["findings"]["repeated"]["examples"]) == 5
    assert fields["longer_wins"] == {"share": 0.5, "low": 0.2, "high": 0.8, "n": 10}

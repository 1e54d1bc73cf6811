import gzip
import json

import pytest

from tests.data.rows import pair, rated, turns
from zephyr.data.filters.benchmark_texts import Benchmark, read_benchmarks
from zephyr.data.filters.decontamination import BenchmarkIndex
from zephyr.data.scanner import MEANINGS, Finding, ScanReport, scan_preferences
from zephyr.intervals import Estimate
from zephyr.records.rows import Answer, Rated

LONG = "It is the first of many words that are put here so that two answers can be nearly the same"
REFUSAL = "I'm sorry, but I can't help with that."
CLEAN = pair("Why is the sky blue?", "Because air scatters blue light most.", "It is green.")
RATINGS = {"helpfulness": 5.0, "honesty": None, "truthfulness": 5.0}


def answer(score, rating=None, rationale=""):
    ratings = {} if rating is None else {"helpfulness": rating, "honesty": None}
    return Answer(f"Answer {score} {rating}", score=score, ratings=ratings, rationale=rationale)


def found(*rows, **options):
    """The findings that are not empty: their counts by name."""
    report = scan_preferences(rows, **options)
    return {name: finding.tally.count for name, finding in report.findings.items() if finding.tally.count}


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        (pair("Why?", "So.", "No.", ratings=[2.0, 2.0]), "tie"),
        (pair("Why?", "So  it is.", "so it is."), "equal_answers"),
        (pair("Why?", LONG, f"{LONG}!"), "nearly_equal_answers"),
        (pair("Why?", f"{LONG} a", f"{LONG} b", ratings=[2.0, 1.0]), "nearly_equal_answers"),
        (pair("Why?", "So it is", "So. It is!"), "nearly_equal_answers"),
        (pair("Why?", REFUSAL, "So."), "refusal_preferred"),
        (pair("Why?", REFUSAL, ratings=[1.0]), "refusal_preferred"),
        (pair("Why?", "So.", ""), "failed_answer"),
        (pair("Why?", "$ERROR$", "So."), "failed_answer"),
        (rated("Why?", answer(9.0, 1.5)), "score_against_ratings"),
        (rated("Why?", answer(1.0, 4.5)), "score_against_ratings"),
        (rated("Why?", answer(9.0, rationale="Wrong, misleading and incoherent.")), "score_against_rationale"),
        (rated("Why?", answer(2.0, rationale="Accurate, clear and helpful.")), "score_against_rationale"),
        (rated("Why?", answer(9.0, rationale="It has flaws. Rating: [[4]]")), "score_against_rationale"),
        (rated("Why?", answer(10.0, 3.5)), "doubtful_ten"),
    ],
)
def test_each_defect_is_found(row, defect):
    assert found(row) == {defect: 1}


@pytest.mark.parametrize(
    "row",
    [
        CLEAN,
        pair("Why?", "So.", REFUSAL),
        pair("Why?", REFUSAL, ratings=[0.0]),
        pair("What does it print?", "It prints: Error, no such file.", "It prints none of them."),
        rated("Why?", answer(9.0, 4.5, "Accurate, clear and helpful. Rating: [[9]]"), answer(3.0, 2.0)),
        rated("Why?", answer(10.0, 5.0)),
        rated("Why?", Answer("So."), Answer("No.")),
        rated("Why?"),
    ],
)
def test_sound_rows_are_clean(row):
    assert found(row) == {}


def test_ten_that_was_a_one_is_told_with_what_the_repair_would_do():
    rows = [
        rated("a", answer(10.0, 1.0), name="r row 1"),
        rated("b", answer(10.0, 3.0), name="r row 2"),
        rated("c", answer(10.0, 5.0), name="r row 3"),
    ]
    report = scan_preferences(rows)
    assert report.repairs == {"score_1": 1, "needs_judge": 1, "kept": 1}
    first, second = report.findings["doubtful_ten"].tally.examples
    assert (first.row, first.text) == ("r row 1", "score 10, mean rating 1.00: becomes 1")
    assert (second.row, second.text) == ("r row 2", "score 10, mean rating 3.00: a judge must decide")


def test_prompts_that_come_twice_and_those_of_another_split():
    again = pair("why is  the sky BLUE?", "Because of the air.", "It is not.", name="pairs.jsonl row 2")
    assert found(CLEAN, again) == {"repeated_prompt": 1}
    assert found(CLEAN, other_prompts=[turns("Why is the sky blue?")]) == {"split_overlap": 1}
    assert found(CLEAN, other_prompts=[turns("Why is the sky red?")]) == {}


def test_overlap_with_an_evaluation_set():
    index = BenchmarkIndex([Benchmark("set.jsonl", ("Why is the sky blue?",))], ngram=13)
    report = scan_preferences([CLEAN], benchmarks=index)
    (example,) = report.findings["benchmark_overlap"].tally.examples
    assert example.text == "set.jsonl: Why is the sky blue?"


def test_each_share_is_of_the_rows_or_answers_looked_at():
    report = scan_preferences([CLEAN, pair("Why?", "", "So.", "No.", ratings=[3.0, 2.0, 1.0])])
    assert (report.rows, report.answers) == (2, 5)
    assert report.findings["tie"].of == 2
    assert report.findings["failed_answer"].of == 5
    assert report.findings["failed_answer"].to_fields()["share"] == 0.2


def test_length_is_judged_over_all_rows_each_counting_once():
    longer = pair("a", "12345", "123")
    shorter = pair("b", "123", "12345")
    equal = pair("c", "123", "456")
    tied = pair("d", "12345", "123", ratings=[1.0, 1.0])  # says nothing about length
    listed = pair("e", "1", "22", "333", ratings=[3.0, 2.0, 1.0])
    # 1 + 0 + a half + none + three pairs of which the shorter always wins.
    share = scan_preferences([longer, shorter, equal, tied, listed]).longer_wins
    assert (share.score, share.n) == (1.5 / 4, 4)
    assert scan_preferences([tied]).longer_wins is None


def test_labels_of_one_kind_are_found():
    good, bad = (pair(label, "So.", ratings=[rating]) for label, rating in (("a", 1.0), ("b", 0.0)))
    (line,) = [line for line in scan_preferences([bad] * 3).lines() if "labels" in line]
    assert line == "  all labels are of one kind: 3 of 3 rows (100.0%); pairs.jsonl row 1: false"
    for rows in ([good, bad, bad], [bad], [pair("c", "So.", "No.")] * 2):
        assert not scan_preferences(rows).findings["one_label"].tally.count


def test_summary_has_at_most_fifteen_lines():
    worst = rated(
        "Why is the sky blue?",
        Answer("", score=10.0, ratings={"honesty": 1.0}, rationale="Wrong, misleading, incoherent."),
        Answer("", score=10.0, ratings={"honesty": 3.0}),
        Answer(LONG, score=9.0),
        Answer(LONG + "!", score=1.0),
    )
    index = BenchmarkIndex([Benchmark("set.jsonl", ("Why is the sky blue?",))], ngram=13)
    labelled = [pair(question, "So.", ratings=[0.0]) for question in "yz"]
    rows = [worst, worst, pair("x", REFUSAL, "So."), *labelled]
    report = scan_preferences(rows, benchmarks=index, other_prompts=[worst.prompt])
    assert set(report.findings) == set(MEANINGS)
    assert all(finding.tally.count for finding in report.findings.values())
    assert len(report.lines()) <= 15
    assert all(len(line) <= 160 for line in report.lines())


@pytest.mark.slow
def test_scan_of_recorded_ratings(shared_data):
    """GPT-4's ratings of 11 answers to 300 prompts, with one defect that the set's description does not state."""
    answers = {}
    with gzip.open(shared_data / "pref/arena_bench_v1.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            made = Answer(row["completion"], row["model"], row["score"], {}, row["rationale"] or "")
            answers.setdefault(row["prompt"], []).append(made)
    rows = [
        Rated(f"arena row {place}", turns(prompt), tuple(made)) for place, (prompt, made) in enumerate(answers.items())
    ]
    benchmarks = read_benchmarks(["eval/mt_bench/question.jsonl", "eval/ifeval"], shared_data).found
    report = scan_preferences(rows, benchmarks=BenchmarkIndex(benchmarks, ngram=13))
    counts = {name: finding.tally.count for name, finding in report.findings.items()}
    assert (report.rows, report.answers) == (300, 3300)
    # Ten points for eleven answers: most rows have several best ones.
    assert counts["tie"] > 150
    assert counts["score_against_rationale"] == counts["score_against_ratings"] == counts["doubtful_ten"] == 0
    assert counts["failed_answer"] == 1
    texts = [example.text for example in report.findings["benchmark_overlap"].tally.examples]
    assert any("At a small company, parking spaces" in text for text in texts)
    assert 0.5 < report.longer_wins.low < report.longer_wins.score < 0.7


def finding(count, *, of=10):
    made = Finding("the prompt is repeated", "rows", of)
    for number in range(count):
        made.tally.add(f"a.jsonl row {number}", "as a.jsonl row 0")
    return made


def test_summary_says_what_was_found_and_an_example():
    report = ScanReport({"repeated": finding(2), "other": finding(0)}, rows=10, answers=20)
    report.longer_wins = Estimate(0.7, 0.65, 0.75, 900)
    assert report.lines() == [
        "10 rows with 20 answers scanned",
        "  the prompt is repeated: 2 of 10 rows (20.0%); a.jsonl row 0: as a.jsonl row 0",
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

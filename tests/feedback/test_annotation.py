"""What a person says of answers: kept row by row, gone on with, read by training, and compared with another's."""

import json

import pytest

from zephyr.data.read.sources import open_source
from zephyr.errors import DataError
from zephyr.feedback.annotation import agreement_of, begin
from zephyr.feedback.opened_rows import open_compared
from zephyr.recipe.data_section import DataSource
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated


def rated(number, *texts, scores=()):
    answers = tuple(
        Answer(text, f"model {text}", score) for text, score in zip(texts, scores or [None] * len(texts), strict=True)
    )
    return Rated(f"file row {number}", (Message("user", f"Question {number}?"),), answers)


def read(path, kind="rated"):
    return list(open_source(DataSource(path=str(path)), kind, data_dir=path.parent, offline=True))


ROWS = [rated(1, "a", "b", "c"), rated(2, "d", "e")]


def save(found, index, **by_text):
    """Save the scores of a row, given by its texts as a person sees them."""
    answers = found.rows[index].answers
    found.save(index, [by_text[answers[place].text] for place in found.shown[index]])


def test_ratings_are_what_binarize_reads_and_pairs_what_align_reads(tmp_path):
    found = begin(ROWS, tmp_path / "mine.jsonl", [])
    save(found, 0, a=2, b=3, c=1)
    (row,) = read(found.path)
    assert [(one.text, one.model, one.score) for one in row.answers] == [
        ("a", "model a", 2.0), ("b", "model b", 3.0), ("c", "model c", 1.0)
    ]  # fmt: skip
    (pair,) = read(found.pairs_path, "preference")
    assert (pair.completions, pair.ratings, pair.models) == (("b", "c"), (3.0, 1.0), ("model b", "model c"))
    save(found, 1, d=2, e=2)
    assert len(read(found.path)) == 2
    assert len(read(found.pairs_path, "preference")) == 1, "equals are no preference"


def test_a_row_can_be_changed_and_a_later_start_goes_on(tmp_path):
    found = begin(ROWS, tmp_path / "mine.jsonl", [])
    save(found, 0, a=2, b=3, c=1)
    save(found, 0, a=3, b=1, c=2)
    again = begin(ROWS, found.path, read(found.path))
    assert (again.scores, again.num_done) == ([[3.0, 1.0, 2.0], None], 1)
    save(again, 1, d=1, e=2)
    assert [pair.completions for pair in read(found.pairs_path, "preference")] == [("a", "b"), ("e", "d")]


def test_rows_of_one_prompt_with_the_same_answers_are_kept_apart(tmp_path):
    found = begin([ROWS[1], ROWS[1]], tmp_path / "mine.jsonl", [])
    save(found, 0, d=1, e=2)
    lines = found.path.read_text().splitlines()
    assert len(lines) == 1
    assert begin(found.rows, found.path, [rated(2, "d", "e", scores=(1, 2))]).num_done == 1


def test_what_was_left_unfinished_by_a_crash_does_not_spoil_the_next_row(tmp_path):
    found = begin(ROWS, tmp_path / "mine.jsonl", [])
    found.path.write_text('{"prompt": "half')
    save(found, 1, d=1, e=2)
    broken, whole = found.path.read_text().splitlines()
    assert broken == '{"prompt": "half'
    assert json.loads(whole)["answers"][1]["score"] == 2.0


@pytest.mark.parametrize(("index", "scores"), [(0, [1, 2]), (0, [1, 2, 0]), (0, [1, 2, 10]), (7, [1]), (-1, [1, 2])])
def test_scores_that_do_not_fit_are_refused(tmp_path, index, scores):
    found = begin(ROWS, tmp_path / "mine.jsonl", [])
    with pytest.raises(ValueError, match=r"there is no row|scores from 1 to 9 are needed"):
        found.save(index, scores)
    assert not found.path.exists()


def test_a_row_that_cannot_be_written_stays_open(tmp_path):
    found = begin(ROWS, tmp_path / "no folder" / "mine.jsonl", [])
    with pytest.raises(OSError, match="No such file"):
        save(found, 1, d=1, e=2)
    assert found.num_done == 0


def test_a_file_of_other_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no annotation of these rows"):
        begin(ROWS, tmp_path / "mine.jsonl", [rated(9, "x", "y", scores=(1, 2))])
    with pytest.raises(DataError, match="file row 3: has 10 answers, but at most 9 can be compared"):
        begin([Rated("file row 3", (), tuple(map(Answer, "abcdefghij")))], tmp_path / "mine.jsonl", [])


def test_agreement_counts_pairs_of_answers():
    """Of row 1: a > b, a > c, b > c by one; a > b, a > c, b < c by the other. Of row 2 both say d > e.

    By text: one says +, +, +, +; the other +, +, -, +. They agree on 3 of 4; by chance on 1 x 3/4: kappa is 0.
    """
    one = [rated(1, "a", "b", "c", scores=(3, 2, 1)), rated(2, "d", "e", scores=(2, 1))]
    other = [rated(1, "c", "a", "b", scores=(4, 5, 2)), rated(2, "d", "e", scores=(9, 1)), rated(3, "x", "y")]
    found = agreement_of(one, other)
    assert (found.share.score, found.share.n, found.pairs) == (0.75, 2, 4)
    assert found.kappa == pytest.approx(0.0)


def test_full_agreement_has_a_kappa_of_one_or_none():
    one = [rated(1, "a", "b", scores=(2, 1)), rated(2, "c", "d", scores=(1, 2))]
    assert agreement_of(one, one).kappa == pytest.approx(1.0)
    assert agreement_of(one[:1], one[:1]).kappa is None
    with pytest.raises(DataError, match="file: shares no rated answers with the other file"):
        agreement_of(one[:1], one[1:])


def test_pairs_are_annotated_without_a_hint_and_compared_with_the_files_preference(tmp_path):
    rows = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
    # Of one prompt there may be two pairs; ratings that tie do not undo a preference.
    rows += [{"prompt": "Question 0?", "chosen": "good 0", "rejected": "worse", "score_chosen": 3, "score_rejected": 3}]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    opened = open_compared(DataSource(path=str(tmp_path / "pairs.jsonl")), offline=True)
    assert [[answer.text for answer in row.answers] for row in opened][-1] == ["good 0", "worse"]
    found = begin(opened, tmp_path / "mine.jsonl", [])
    assert found.scores == [None] * 5
    assert not any(found.preferred)
    for index in range(4):
        save(found, index, **{f"good {index}": 1 + (index > 0), f"bad {index}": 2 - (index > 0)})
    assert any(found.preferred)
    agreement = agreement_of(read(found.path), opened)
    assert (agreement.share.score, agreement.pairs) == (0.75, 4)


def test_labelled_answers_have_nothing_to_compare(tmp_path):
    (tmp_path / "kto.jsonl").write_text('{"prompt": "a", "completion": "x", "label": true}\n')
    (row,) = open_compared(DataSource(path=str(tmp_path / "kto.jsonl")), offline=True)
    assert [answer.score for answer in row.answers] == [1.0]

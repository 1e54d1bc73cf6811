import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.tokenize.encoding import Encoded
from zephyr.data.tokenize.templates import ASSISTANT, TEMPLATE_TEXT
from zephyr.data.tokenize.truncation import TruncationReport, fit_dialogue, fit_preference, split_text
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSection

RULES = ("keep_start", "keep_end", "trl_0.7", "drop")


def window(max_length: int, rule: str = "keep_start", max_prompt_length: int | None = None, **limits) -> DataSection:
    truncation = {"rule": rule, **limits}
    return DataSection(max_length=max_length, max_prompt_length=max_prompt_length, truncation=truncation)


def ids(length: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + length, dtype=np.int64)


def dialogue(*turns: int, loss_on: str = "assistant") -> Encoded:
    """Turns of so many tokens, the first of them a prompt, the next an answer, and so on."""
    roles = np.repeat([ASSISTANT if place % 2 else TEMPLATE_TEXT for place in range(len(turns))], turns)
    scored = roles == ASSISTANT if loss_on == "assistant" else np.arange(len(roles)) > 0
    return Encoded(ids(len(roles)), scored, roles.astype(np.int8))


def lengths(prompt: int, completions: tuple[int, ...], data: DataSection) -> tuple[int, ...]:
    fitted = fit_preference(ids(prompt), [ids(length, 5000) for length in completions], data)
    assert fitted.loss.usable
    assert fitted.loss.tokens == prompt + sum(completions)
    kept = (len(fitted.prompt), *map(len, fitted.completions))
    assert fitted.loss.tokens_lost == fitted.loss.tokens - sum(kept)
    return kept


# The worked examples of TRL 0.7.2's rule; lengths hold the end-of-sequence token.
@pytest.mark.parametrize(
    ("before", "after", "stops_lost"),
    [
        ((700, 400, 200), (512, 400, 200), 0),
        ((300, 900, 100), (300, 512, 100), 1),
        ((600, 300, 100), (600, 300, 100), 0),
    ],
)
def test_the_rule_of_trl_0_7(before, after, stops_lost):
    data = window(1024, "trl_0.7", 512)
    prompt, *completions = before
    assert lengths(prompt, tuple(completions), data) == after
    fitted = fit_preference(ids(prompt), [ids(length) for length in completions], data)
    assert fitted.loss.stops_lost == stops_lost
    assert fitted.prompt.tolist() == ids(prompt).tolist()[-after[0] :]
    assert [each.tolist() for each in fitted.completions] == [ids(length).tolist() for length in after[1:]]


@pytest.mark.parametrize(
    ("before", "data", "after"),
    [
        ((6, 3, 2), window(10), (6, 3, 2)),
        ((6, 7, 2), window(10), (6, 4, 2)),
        ((9, 7, 2), window(10), (9, 1, 1)),
        ((9, 7, 2), window(10, "keep_end"), (3, 7, 2)),
        # A quarter of the window is the prompt's, however long the answer.
        ((9, 12, 2), window(10, "keep_end"), (2, 8, 2)),
        ((1, 12, 2), window(10, "keep_end"), (1, 9, 2)),
        ((9, 12, 2), window(40, "keep_end", 4), (4, 12, 2)),
        ((30, 40, 2), window(40, "keep_end"), (10, 30, 2)),
        ((30, 40, 2), window(40, "keep_end", 4), (4, 36, 2)),
        ((9, 2, 2), window(20, "keep_end", 4), (4, 2, 2)),
        ((9, 5, 2), window(10, "keep_end", 4), (4, 5, 2)),
        ((6, 3, 2), window(10, "drop"), (6, 3, 2)),
    ],
)
def test_preferences_by_the_other_rules(before, data, after):
    prompt, *completions = before
    assert lengths(prompt, tuple(completions), data) == after


@pytest.mark.parametrize(
    ("before", "data", "outcome"),
    [
        ((10, 1), window(10), "unfit"),
        ((5, 1), window(10, "keep_start", 4), "unfit"),
        ((5, 6), window(10, "drop"), "dropped"),
        ((5, 1), window(10, "drop", 4), "dropped"),
    ],
)
def test_preferences_that_cannot_be_used(before, data, outcome):
    prompt, *completions = before
    loss = fit_preference(ids(prompt), [ids(length) for length in completions], data).loss
    assert (loss.outcome, loss.usable, loss.tokens_lost) == (outcome, False, sum(before))


@given(
    st.sampled_from(RULES),
    st.integers(8, 20),
    st.integers(1, 25),
    st.lists(st.integers(1, 25), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_completion_keeps_its_first_token_and_a_part_of_its_prompt(rule, max_length, prompt, completions, limited):
    limit = max(1, max_length // 2) if limited or rule == "trl_0.7" else None
    fitted = fit_preference(ids(prompt), [ids(length) for length in completions], window(max_length, rule, limit))
    if fitted.loss.usable:
        kept = max_length // 4 if limit is None else min(max_length // 4, limit)
        assert len(fitted.prompt) >= min(prompt, kept)
        assert fitted.prompt.tolist() == list(range(prompt))[-len(fitted.prompt) :]
        assert [each[:1].tolist() for each in fitted.completions] == [[0]] * len(completions)
        whole = np.concatenate([fitted.cut_prompt, fitted.prompt])
        assert whole.tolist() == list(range(prompt))
        assert len(fitted.prompt) + max(map(len, fitted.completions)) <= max_length
        assert fitted.loss.stops_lost == sum(
            len(kept) < whole for kept, whole in zip(fitted.completions, completions, strict=True)
        )


@pytest.mark.parametrize(
    ("turns", "rule", "kept", "scored", "stops_lost"),
    [
        ((3, 4), "keep_start", range(7), 4, 0),
        ((6, 4), "keep_start", range(8), 2, 1),
        ((3, 4, 3, 2), "keep_start", range(8), 4, 0),
        ((3, 5, 2, 2), "keep_start", range(8), 5, 0),
        ((6, 4), "keep_end", range(2, 10), 4, 0),
        # The window of 8 keeps 2 tokens of prompt; then the answer's end is cut.
        ((2, 10), "keep_end", range(8), 6, 1),
        ((5, 10), "keep_end", range(3, 11), 6, 1),
        # The first answer has lost its start: the rest of it is context alone.
        ((2, 4, 2, 3), "keep_end", range(3, 11), 3, 0),
        # It has lost its prompt.
        ((4, 2, 2, 3), "keep_end", range(3, 11), 3, 0),
        ((4, 2, 2, 2), "keep_end", range(2, 10), 4, 0),
        ((6, 4), "trl_0.7", range(8), 2, 1),
    ],
)
def test_dialogues_by_rule(turns, rule, kept, scored, stops_lost):
    fitted = fit_dialogue(dialogue(*turns), window(8, rule, 4))
    assert fitted.encoded.ids.tolist() == list(kept)
    assert int(fitted.encoded.scored.sum()) == scored
    assert not fitted.encoded.scored[0]
    assert fitted.loss.tokens_lost == sum(turns) - len(kept)
    assert fitted.loss.stops_lost == stops_lost


@pytest.mark.parametrize("loss_on", ["assistant", "everything"])
def test_a_dialogue_of_which_no_answer_is_left_is_unfit(loss_on):
    fitted = fit_dialogue(dialogue(8, 3, loss_on=loss_on), window(8))
    assert fitted.loss.outcome == "unfit"
    assert fitted.loss.reason == "8 tokens precede its first answer"
    assert fit_dialogue(dialogue(8, 3), window(8, "drop")).loss.outcome == "dropped"


@given(
    st.sampled_from(("keep_start", "keep_end", "trl_0.7")),
    st.integers(8, 24),
    st.lists(st.integers(1, 12), min_size=2, max_size=8).filter(lambda turns: len(turns) % 2 == 0),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.sampled_from(("assistant", "everything")),
)
def test_a_learned_answer_keeps_its_first_token_and_a_part_of_its_prompt(rule, max_length, turns, learned, loss_on):
    row = dialogue(*turns, loss_on=loss_on)
    ends = np.cumsum(turns)
    answers = list(zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=True))
    for (begin, end), is_learned in zip(answers, learned, strict=False):
        row.scored[begin:end] &= is_learned
    fitted = fit_dialogue(row, window(max_length, rule))
    kept = fitted.encoded.ids.tolist()
    if fitted.loss.outcome == "whole":
        assert kept == row.ids.tolist()
        return
    firsts = [begin for begin, end in answers if row.scored[begin:end].any()]
    if fitted.loss.outcome == "unfit":
        assert not firsts or min(firsts) >= max_length
        return
    assert kept == list(range(fitted.start, fitted.start + max_length))
    scored = set(fitted.encoded.ids[fitted.encoded.scored].tolist())
    assert scored <= set(row.ids[row.scored].tolist())
    for begin, end in answers:
        if scored & set(range(begin, end)):
            assert begin in scored or not row.scored[begin]
            assert begin - kept[0] >= min(begin, max_length // 4)
    if loss_on == "assistant":
        assert scored & set(firsts)
        # What is not learned of the kept answers is said.
        unlearned = sum(begin in firsts and not scored & set(range(begin, end)) for begin, end in answers)
        lost_behind = sum(begin >= kept[-1] + 1 for begin in firsts)
        assert fitted.loss.answers_unlearned == unlearned - lost_behind


def test_fitting_leaves_the_whole_row_as_it_was():
    row = dialogue(2, 10)
    fit_dialogue(row, window(8, "keep_end"))
    assert row.scored.sum() == 10


@given(st.integers(1, 50), st.integers(8, 20))
def test_texts_are_split_without_loss(length, max_length):
    text = Encoded(ids(length), np.arange(length) > 0, np.full(length, TEMPLATE_TEXT, np.int8))
    pieces = list(split_text(text, window(max_length)))
    joined = [token for piece in pieces for token in piece.ids.tolist()]
    # But for a last token that would stand alone: it has nothing to be predicted from.
    assert joined == list(range(length))[: length - (length % max_length == 1)]
    assert all(1 < len(piece.ids) <= max_length for piece in pieces)
    assert all(piece.scored.tolist() == [False] + [True] * (len(piece.ids) - 1) for piece in pieces)


def report_of(*rows: tuple[int, int], rule: str = "keep_start", **limits) -> TruncationReport:
    report = TruncationReport(window(10, rule, **limits))
    for number, turns in enumerate(rows, 1):
        report.add(f"chats.jsonl row {number}", fit_dialogue(dialogue(*turns), report.data).loss)
    return report


def test_the_report_counts_what_was_lost():
    report = report_of((3, 3), (3, 9), (12, 3), (5, 5))
    assert report.to_fields() == {
        "window": {"max_length": 10, "rule": "keep_start", "max_prompt_length": None},
        "rows": {"whole": 2, "cut": 1, "dropped": 0, "unfit": 1},
        "tokens": 43,
        "tokens_lost": 17,
        "stops_lost": 1,
        "answers_unlearned": 0,
        "worst": [
            {"tokens_lost": 15, "name": "chats.jsonl row 3", "what": "12 tokens precede its first answer"},
            {"tokens_lost": 2, "name": "chats.jsonl row 2", "what": "lost 2 of 12 tokens"},
        ],
    }
    assert report.summary() == (
        "4 rows of 43 tokens, max_length 10: 1 truncated, 1 dropped (50.0% of the rows), "
        "17 tokens lost (39.5%), 1 answers without their stop token"
    )


def test_answers_that_are_not_learned_are_counted():
    report = TruncationReport(window(8, "keep_end"))
    report.add("chats.jsonl row 1", fit_dialogue(dialogue(2, 4, 2, 3), report.data).loss)
    assert report.to_fields()["answers_unlearned"] == 1
    assert report.summary() == (
        "1 rows of 11 tokens, max_length 8: 1 truncated, 0 dropped (100.0% of the rows), 3 tokens lost (27.3%), "
        "0 answers without their stop token, 1 answers cut at their start and not learned"
    )


def test_more_loss_than_allowed_is_one_message():
    rows = ((3, 3), (3, 9), (12, 3), (5, 5))
    with pytest.raises(DataError) as caught:
        report_of(*rows, max_rows_share=0.2, max_tokens_share=0.5).check()
    assert str(caught.value) == (
        "max_length of 10 tokens, rule keep_start: 1 row leaves no room for an answer: chats.jsonl row 3 (12 tokens "
        "precede its first answer); 50.0% of the rows are truncated or dropped, allowed are 20.0%; the worst are "
        "chats.jsonl row 3 (12 tokens precede its first answer), chats.jsonl row 2 (lost 2 of 12 tokens); raise "
        "data.max_length, shorten these rows, raise the limits of data.truncation, or choose another rule: keep_end "
        "cuts prompts, drop drops rows that are too long"
    )
    with pytest.raises(DataError, match=r"39.5% of the tokens are truncated or dropped, allowed are 20.0%"):
        report_of(*rows, max_rows_share=0.5, max_tokens_share=0.2).check()
    unfit_alone = r"row 3 \(12 tokens precede its first answer\); raise"
    with pytest.raises(DataError, match=unfit_alone):
        report_of(*rows, max_rows_share=0.5, max_tokens_share=0.4).check()
    with pytest.raises(DataError, match=unfit_alone):
        report_of(*rows, max_rows_share=0, max_tokens_share=0).check(shares=False)


def test_rows_that_a_rule_leaves_out_are_allowed_within_the_limits():
    report = report_of((3, 3), (12, 3), rule="drop", max_rows_share=0.5, max_tokens_share=0.8)
    assert report.rows["dropped"] == 1
    report.check()
    with pytest.raises(DataError, match=r"71.4% of the tokens"):
        report_of((3, 3), (12, 3), rule="drop", max_rows_share=0.5, max_tokens_share=0.7).check()

"""Answers against the checks of their prompts: hand-made answers that hold and that fail, and the share that holds."""

import json
from pathlib import Path

import pytest

from tests.evaluation.harness.test_ifeval import CASES
from zephyr.judging.checks import check_answer, checked_ratings, provide_sentence_splitter, repetition
from zephyr.recipe.feedback_section import ChecksSection
from zephyr.records.checks import checks_of
from zephyr.records.rows import Check

COMMA = Check("punctuation:no_comma", {})
HENS = Check("keywords:existence", {"keywords": ["hen"]})
ENDS = Check("startend:end_checker", {"end_phrase": "The end."})


def holds(given: object, text: str, *, loosely: bool = False) -> bool:
    return check_answer(checks_of({"checks": given}), text, is_loose=loosely).share == 1


@pytest.mark.parametrize(("name", "options", "good", "bad"), CASES, ids=[f"{n} {c[0]}" for n, c in enumerate(CASES)])
def test_every_family_holds_and_fails_as_in_ifeval(name: str, options: dict, good: str, bad: str) -> None:
    shares = [check_answer([Check(name, options)], text).share for text in (good, bad, " ")]
    assert shares == [1, 0, 0]


def test_the_rating_is_the_share_of_checks_that_hold_with_a_reason_for_each() -> None:
    checks, texts = [COMMA, HENS, ENDS], ["A hen. The end.", "Hens, cows. The end.", "Cows, dogs.", ""]
    ratings = checked_ratings(checks, texts, ChecksSection())
    assert [rating.score for rating in ratings] == pytest.approx([1, 2 / 3, 0, 0])
    assert ratings[1].rationale.split("\n") == [
        "fails: punctuation:no_comma",
        'holds: keywords:existence (keywords ["hen"])',
        "holds: startend:end_checker (end_phrase 'The end.')",
    ]
    strict = checked_ratings(checks, texts, ChecksSection(credit="all"))
    assert [rating.score for rating in strict] == [1, 0, 0, 0]
    assert [rating.rationale for rating in strict] == [rating.rationale for rating in ratings]


def test_an_answer_that_goes_round_in_circles_is_rated_nothing() -> None:
    """Five words that stand there four times: 17 runs of four words, of which 5 are different."""
    loop = " ".join(["the hen sat down there"] * 4)
    assert repetition(loop) == pytest.approx(12 / 17)
    assert repetition("the hen sat down there " * 2) == 0  # seven runs say nothing yet
    (rating,) = checked_ratings([COMMA, HENS], [loop], ChecksSection(max_repetition=0.5))
    assert rating.score == 0
    assert rating.rationale.startswith("fails: 71% of its 4-grams are repeated\nholds: punctuation:no_comma\n")
    assert checked_ratings([COMMA, HENS], [loop], ChecksSection(max_repetition=0.8))[0].score == 1
    assert checked_ratings([COMMA, HENS], [loop], ChecksSection())[0].score == 1


def test_loosely_a_first_line_and_asterisks_are_overlooked() -> None:
    text = "Sure, here it is:\nA hen. **The end.**"
    assert check_answer([COMMA, HENS, ENDS], text).share == pytest.approx(1 / 3)
    assert check_answer([COMMA, HENS, ENDS], text, is_loose=True).share == 1
    assert checked_ratings([COMMA], [text], ChecksSection(loose=True))[0].score == 1


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("6 * 7 = 42.", True),
        ("42", True),
        ("It is $42.00", True),
        ("First 42, then 41.", False),
        ("41 #### 42", True),
        ("6 * 7 = 42\n#### 41", False),
        ("\\boxed{42} of 43", True),
        ("I count 1,042 hens", False),
        ("-42", False),
        ("#### Step 2: multiply\nSo there are 42", True),
        ("#### 1. Multiply\n6 * 7 = 42", True),
        ("forty-two", False),
        ("x42", False),
    ],
)
def test_a_number_is_the_last_one_or_the_marked_one(text: str, is_right: bool) -> None:
    assert holds("42", text) is is_right


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("B", True),
        ("B) Hens", True),
        ("(B)", True),
        ("The answer is B.", True),
        ("The answer is (C), not B", False),
        ("**B.** Hens", True),
        ("Answer: B", True),
        ("Bees", False),
        ("#### A good start\nB) is right", True),
        ("I choose option C.\nB is wrong.", False),
        ("A) is wrong, so the answer is B", True),
        ("b", False),
        ("The correct choice: **B**", True),
    ],
)
def test_a_choice_is_stated_or_begins_a_line(text: str, is_right: bool) -> None:
    assert holds("B", text) is is_right


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("Paris", True),
        ("paris.", True),
        ("The answer is: Paris!", True),
        ("I think.\n**Paris**", True),
        ("Paris or Rome", False),
        ("The answer is Rome, not Paris", False),
        ("", False),
    ],
)
def test_a_text_is_the_whole_answer_its_last_line_or_stated(text: str, is_right: bool) -> None:
    assert holds("Paris", text) is is_right


def test_verdicts_are_those_of_lm_eval_on_ifevals_own_rows(shared_data: Path) -> None:
    path = shared_data / "eval/ifeval/input_data.jsonl"
    if not path.exists():
        pytest.skip("IFEval's prompts are not there")
    provide_sentence_splitter(offline=True)
    import lm_eval.tasks.ifeval.utils as theirs

    rows = [json.loads(line) for line in path.read_text().splitlines()][::6]
    answers = [
        "My answer is yes.",
        "Sure:\n*A* b\n\n***\n\n* c, d\nP.S. <<X>> [y]",
        '"all in small letters for all of us"',
    ]
    num_held = 0
    for row in rows:
        # For a letter that is none lm-eval draws another one.
        if any(not str(one.get("letter", "a")).isalpha() for one in row["kwargs"]):
            continue
        checks = checks_of(row)
        for text in [*answers, f"{row['prompt']}\nThe weather is lovely today. {row['kwargs']}"]:
            found = theirs.process_results(row, [text])
            strict, loose = (check_answer(checks, text, is_loose=is_loose) for is_loose in (False, True))
            assert [one.startswith("holds") for one in strict.reasons] == found["inst_level_strict_acc"]
            assert [one.startswith("holds") for one in loose.reasons] == found["inst_level_loose_acc"]
            num_held += sum(found["inst_level_strict_acc"])
    assert len(rows) > 80
    assert num_held > 100


def test_a_letter_that_is_none_is_counted_as_it_stands() -> None:
    # lm-eval draws a letter by chance where it is none from a to z, as in two rows of IFEval.
    signs = Check("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"})
    few = Check("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "less than"})
    assert [check_answer([signs], text).share for text in ("# one # two", "# one")] == [1, 0]
    assert [check_answer([few], text).share for text in ("Hens!", "Hens! Cows!")] == [1, 0]


def test_zero_is_a_number_and_no_missing_option() -> None:
    # lm-eval's own loop drops options that are 0, and draws numbers in their place.
    none = Check("keywords:frequency", {"keyword": "hen", "frequency": 0, "relation": "at least"})
    assert check_answer([none], "Cows.").share == 1


def test_a_guessed_language_is_always_the_same() -> None:
    mixed = "Das ist ein Haus and this is a house"
    checks = [Check("language:response_language", {"language": one}) for one in ("de", "en", "fr")]
    assert len({check_answer(checks, mixed).reasons for _ in range(20)}) == 1


def test_a_text_of_no_language_holds_every_language_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert check_answer([Check("language:response_language", {"language": "de"})], "1/2").share == 1
    assert not caplog.records


def test_json_that_is_nested_too_deeply_to_be_read_is_none() -> None:
    assert check_answer([Check("detectable_format:json_format", {})], "[" * 100_000).share == 0


def test_nothing_to_check_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="without checks"):
        check_answer([], "Hens.")

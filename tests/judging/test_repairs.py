"""Answers repaired by rules: each rule's result in full, and that a repair never trades one check for another."""

import itertools
import json

import pytest

from tests.evaluation.harness.test_ifeval import CASES
from tests.feedback.recorded_teachers import RecordedTeacher
from zephyr.feedback.candidates import answer_prompts
from zephyr.judging.checks import check_answer
from zephyr.judging.repairs import REPAIRS, repaired
from zephyr.recipe.feedback_section import CandidatesSection, FeedbackSection
from zephyr.records.messages import Message
from zephyr.records.rows import Check, Prompt

EGGS, NIGHT, FARMER = "Hens lay eggs, often daily.", "They sleep at night.", "A farmer collects them."
TEXT = f"{EGGS} {NIGHT} {FARMER}"
LESS, AT_LEAST = {"relation": "less than"}, {"capital_relation": "at least"}
BY_RULE = [
    ("punctuation:no_comma", {}, f"Hens lay eggs often daily. {NIGHT} {FARMER}"),
    ("change_case:english_lowercase", {}, TEXT.lower()),
    ("change_case:english_capital", {}, TEXT.upper()),
    (
        "change_case:capital_word_frequency",  # the A is in capitals too
        {"capital_frequency": 3, **AT_LEAST},
        f"Hens lay eggs, OFTEN daily. {NIGHT} A FARMER COLLECTS them.",
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        f"{EGGS} {NIGHT} A *farmer* *collects* them.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, f"{EGGS} {NIGHT} A farmer [collects] them."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, f"* {EGGS}\n* {NIGHT}"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, f"{EGGS}\n\n***\n\n{NIGHT}\n\n***\n\n{FARMER}"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "soon"},
        f"{EGGS}\n\nSoon they sleep at night. {FARMER}",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        f"Part 1\n{EGGS}\n\nPart 2\n{NIGHT} {FARMER}",
    ),
    ("length_constraints:number_sentences", {"num_sentences": 3, **LESS}, f"{EGGS} {NIGHT}"),
    ("length_constraints:number_words", {"num_words": 9, **LESS}, EGGS),  # 5 and 4 words are not fewer than 9
    ("keywords:forbidden_words", {"forbidden_words": ["night", "cows"]}, f"{EGGS} {FARMER}"),
    ("keywords:frequency", {"keyword": "they", "frequency": 1, **LESS}, f"{EGGS} {FARMER}"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, f"{EGGS} {NIGHT}\n\nP.S. {FARMER}"),
    ("detectable_format:title", {}, f"<<Hens Lay Eggs Often Daily>>\n\n{TEXT}"),
    ("startend:end_checker", {"end_phrase": "The end."}, f"{TEXT}\n\nThe end."),
    ("startend:quotation", {}, f'"{TEXT}"'),
    ("detectable_format:json_format", {}, json.dumps({"answer": TEXT}, indent=2)),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Tell me of hens."}, f"Tell me of hens.\n\n{TEXT}"),
    ("detectable_format:constrained_response", {}, "My answer is maybe."),
]


@pytest.mark.parametrize(("family", "options", "expected"), BY_RULE, ids=[family for family, _, _ in BY_RULE])
def test_a_failed_check_is_met_by_its_rule(family: str, options: dict, expected: str) -> None:
    check = Check(family, options)
    assert check_answer([check], TEXT).share == 0
    assert repaired([check], TEXT) == expected
    assert check_answer([check], expected).share == 1
    assert repaired([check], expected) is None  # nothing is left to repair


def test_every_rule_stands_in_the_table() -> None:
    assert {family for family, _, _ in BY_RULE} == set(REPAIRS)


def test_a_list_keeps_its_announcement_and_a_question_its_answer() -> None:
    listed = "Some birds:\n1. hens\n2. ducks\n3. geese"
    bullets = Check("detectable_format:number_bullet_lists", {"num_bullets": 2})
    assert repaired([bullets], listed) == "Some birds:\n* hens\n* ducks"
    decided = Check("detectable_format:constrained_response", {})
    assert repaired([decided], "Yes, hens do fly.") == "My answer is yes."


def test_what_needs_new_content_is_left_as_it_is() -> None:
    for check in (
        Check("keywords:existence", {"keywords": ["goose"]}),
        Check("length_constraints:number_words", {"num_words": 100, "relation": "at least"}),
        Check("detectable_format:number_bullet_lists", {"num_bullets": 4}),
    ):
        assert repaired([check], TEXT) is None


@pytest.mark.parametrize("text", ["", " \n ", ".", "!?", "* ", "1.", "***", '"', "\ud83d\ude42", "ça va"])
def test_texts_of_hardly_a_word_break_no_rule(text: str) -> None:
    for family, options, _ in BY_RULE:
        found = repaired([Check(family, options)], text)
        assert found is None or check_answer([Check(family, options)], found).share == 1
    assert text.strip() or repaired([Check("startend:quotation", {})], text) is None


@pytest.mark.parametrize("pair", list(itertools.combinations(range(0, len(CASES), 2), 2)))
def test_a_repair_holds_more_checks_than_the_answer(pair: tuple[int, int]) -> None:
    checks = [Check(*CASES[number][:2]) for number in pair]
    for text in (TEXT, CASES[pair[0]][3], CASES[pair[1]][3]):
        found = repaired(checks, text)
        if found is not None:
            assert check_answer(checks, found).share > check_answer(checks, text).share


def test_repaired_copies_are_candidates_of_a_name_of_their_own() -> None:
    texts = iter(["Hens, cows.", "Hens cows.", "Ducks, cows.", "Geese."])
    teacher = RecordedTeacher(lambda request: next(texts), name="one")
    prompt = Prompt("p row 1", (Message("user", "Who lives there? Use no comma."),), "p")
    checked = prompt._replace(checks=(Check("punctuation:no_comma", {}),))
    (found,) = answer_prompts([checked], [teacher], CandidatesSection(num_completions=4, repair=True))
    assert [(answer.text, answer.model) for answer in found.rated.answers] == [
        ("Hens, cows.", "one"),
        ("Hens cows.", "one"),
        ("Ducks, cows.", "one"),
        ("Geese.", "one"),
        ("Ducks cows.", "one, repaired"),  # the other repaired copy was answered as well
    ]
    assert found.counts == {"asked": 4, "answered": 4, "added: repaired": 1}


def test_repairs_are_for_judges_that_check() -> None:
    with pytest.raises(ValueError, match=r"candidates\.repair is for judge checks, and the judge is scripted: drop it"):
        FeedbackSection(candidates={"repair": True})
    assert FeedbackSection(candidates={"repair": True}, judge={"name": "checks"}).candidates.repair

"""IFEval's 25 checkers on answers made by hand: one that follows the instruction, one that does not."""

import shutil
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from zephyr.judging import checks
from zephyr.judging.checks import DEVIATION, provide_sentence_splitter

ENGLISH = "The weather is lovely today and we are going for a long walk in the woods"
# Instruction, options, an answer that follows it, one that does not.
CASES = [
    ("keywords:existence", {"keywords": ["hen", "Cow"]}, "A HEN met a cow.", "A hen met a dog."),
    ("keywords:frequency", {"keyword": "hen", "frequency": 2, "relation": "at least"}, "Hen and hen.", "One hen."),
    ("keywords:frequency", {"keyword": "hen", "frequency": 2, "relation": "less than"}, "One hen.", "Hen and hen."),
    ("keywords:forbidden_words", {"forbidden_words": ["hen"]}, "The henhouse.", "The Hen sleeps."),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Zoo zebra", "zoo"),
    (
        "language:response_language",
        {"language": "de"},
        "Das Wetter ist schön und wir gehen in den Wald.",
        ENGLISH,
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "Only one."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "Dr. Fox.",
        "It is. Really?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hen"},
        'First one.\n\n"Hen, come here."',
        "Hen first.\n\nThen another.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], of [town]", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write soon.", "Bye. Write soon."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n** bold **"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "I do not know."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one* and two"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nHens.\nPart 2\nCows.",
        "Part 1\nHens.",
    ),
    ("detectable_format:json_format", {}, '```json\n{"hen": 1}\n```', "{hen: 1"),
    ("detectable_format:title", {}, "<<Hens>>\nThey cluck.", "Hens\nThey cluck. <<>>"),
    ("combination:two_responses", {}, "One.******Two.", "One.******One."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hen."}, "say hen. Hen!", "Hen!"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'So it went. "the end."', "The end. Or not?"),
    ("startend:quotation", {}, '"Hens."', '"Hens.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "The HEN met A cow.",
        "The HEN met a cow.",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH.upper()),
    ("punctuation:no_comma", {}, "Hens and cows.", "Hens, cows."),
]


@pytest.fixture(scope="module")
def ifeval() -> ModuleType:
    provide_sentence_splitter(offline=True)
    import lm_eval.tasks.ifeval.utils as checkers

    return checkers


def verdicts(ifeval: ModuleType, instructions: list[str], options: list[dict], answer: str, prompt: str = "?") -> dict:
    doc = {"key": 1, "instruction_id_list": instructions, "prompt": prompt, "kwargs": options}
    return ifeval.process_results(doc, [answer])


def test_every_kind_of_instruction_has_a_case(ifeval: ModuleType) -> None:
    assert {case[0] for case in CASES} == set(ifeval.instructions_registry.INSTRUCTION_DICT)
    assert len({case[0] for case in CASES}) == 25


@pytest.mark.parametrize(("name", "options", "good", "bad"), CASES, ids=[f"{n} {c[0]}" for n, c in enumerate(CASES)])
def test_checker_tells_good_from_bad(ifeval: ModuleType, name: str, options: dict, good: str, bad: str) -> None:
    prompt = options.get("prompt_to_repeat", "?")
    assert verdicts(ifeval, [name], [options], good, prompt)["inst_level_strict_acc"] == [True]
    assert verdicts(ifeval, [name], [options], bad, prompt)["inst_level_strict_acc"] == [False]
    assert verdicts(ifeval, [name], [options], "  ", prompt)["inst_level_strict_acc"] == [False]


def test_loosely_a_first_line_and_asterisks_are_overlooked(ifeval: ModuleType) -> None:
    found = verdicts(ifeval, ["startend:quotation"], [{}], 'Here it is:\n"Hens."')
    assert (found["prompt_level_strict_acc"], found["prompt_level_loose_acc"]) == (False, True)
    found = verdicts(ifeval, ["startend:end_checker"], [{"end_phrase": "The end."}], "So it went. **The end.**")
    assert (found["inst_level_strict_acc"], found["inst_level_loose_acc"]) == ([False], [True])


def test_a_prompt_passes_with_all_of_its_instructions_alone(ifeval: ModuleType) -> None:
    names, options = ["punctuation:no_comma", "startend:end_checker"], [{}, {"end_phrase": "The end."}]
    found = verdicts(ifeval, names, options, "Hens, cows. The end.")
    assert found["prompt_level_strict_acc"] is False
    assert found["inst_level_strict_acc"] == [False, True]
    assert ifeval.agg_inst_level_acc([[False, True], [True]]) == pytest.approx(2 / 3)


def test_without_nltks_data_the_splitter_is_ours_and_says_so() -> None:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab", [path for path in nltk.data.path if "zephyr-nltk-" not in path])
    except LookupError:
        assert provide_sentence_splitter(offline=True) == (DEVIATION,)
    else:
        assert provide_sentence_splitter(offline=True) == ()


def test_the_splitter_is_there_where_others_may_write_to_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As in a clone where the umask is 002: nltk 3.10 refuses to read from there."""
    import nltk

    shutil.copytree(checks._OWN_DATA, tmp_path / "data")
    for folder in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
        folder.chmod(0o777)
    monkeypatch.setattr(checks, "_OWN_DATA", tmp_path / "data")
    monkeypatch.setattr(checks, "_own_data", cache(checks._own_data.__wrapped__))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "data")])
    with pytest.raises(LookupError):
        nltk.data.find("tokenizers/punkt_tab")
    monkeypatch.setattr(nltk.data, "path", [])
    recwarn.clear()
    assert provide_sentence_splitter(offline=True) == (DEVIATION,)
    assert nltk.data.find("tokenizers/punkt_tab")
    assert not recwarn.list

"""Prompts with constraints: they parse, no two constraints exclude each other, and every check can be met."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from string import Formatter

import pytest
from pydantic import ValidationError

from zephyr.data.read.sources import open_source
from zephyr.errors import DataError
from zephyr.judging.checks import check_answer, provide_sentence_splitter
from zephyr.recipe.synth_section import ConstraintsSynth
from zephyr.records.checks import FAMILIES, LANGUAGES, checks_of, ifeval_fault
from zephyr.records.fields import Row
from zephyr.records.formats import record_of
from zephyr.records.messages import Message
from zephyr.records.rows import Chat, Check, Prompt
from zephyr.records.writing import to_fields, write_jsonl
from zephyr.synth.constraints import OPTIONS, answer_from_pool, compose_prompts, conflict, constrain, wording
from zephyr.synth.wordings import LANGUAGE_NAMES, WORDINGS

SUBJECTS = ("hens", "rivers", "clouds", "old clocks", "bread", "the moon", "chess", "winter coats", "bees", "maps")
POOL = [Prompt(f"p row {n}", (Message("user", f"Tell me something about {one}."),)) for n, one in enumerate(SUBJECTS)]
SECTION = ConstraintsSynth(pool=[{"path": "p.jsonl"}], num_prompts=60)
ENGLISH = "The weather is lovely today and we are going for a long walk in the woods"
GERMAN = "Das Wetter ist schön und wir gehen heute in den Wald"


def composed(section: ConstraintsSynth = SECTION, pool: list[Prompt] = POOL, seed: int = 0, data_dir: Path = Path()):
    """The prompts, the instructions left out by reason, and the families."""
    counts, families = Counter[str](), Counter[str]()
    prompts = compose_prompts(pool, section, counts, families, data_dir=data_dir, seed=seed)
    made = list(islice(prompts, section.num_prompts))
    return made, counts, families


def section_with(**changes: object) -> ConstraintsSynth:
    return ConstraintsSynth.model_validate(SECTION.model_dump() | changes)


def test_every_prompt_parses_back_with_one_to_three_checks_that_go_together() -> None:
    made, _, families = composed(section_with(num_prompts=400))
    assert Counter(len(one.checks) for one in made).keys() == {1, 2, 3}
    assert families.total() == sum(len(one.checks) for one in made)
    # Of a pool without a question, only that family is missing which answers yes or no.
    assert set(FAMILIES) - set(families) == {"detectable_format:constrained_response"}
    for one in made:
        row = json.loads(json.dumps(to_fields(one)))
        assert record_of(Row(one.name, row), "prompt", "prompt").checks == one.checks
        names = [check.instruction for check in one.checks]
        assert not any(conflict(a, b) for n, a in enumerate(names) for b in names[:n])
        assert one.messages[0].content.startswith("Tell me something about ")
        assert len(one.messages[0].content) > len("Tell me something about winter coats.") + 10


def test_questions_may_be_answered_with_yes_or_no_and_nothing_else() -> None:
    asked = Prompt("q", (Message("user", "Is the moon made of cheese?"),))
    found = [constrain(asked, SECTION, Random(seed)) for seed in range(300)]
    alone = [one for one in found if any("constrained" in check.instruction for check in one.checks)]
    assert alone
    assert all(len(one.checks) == 1 for one in alone)


def test_no_pair_that_ifeval_excludes_is_drawn() -> None:
    provide_sentence_splitter(offline=True)
    from lm_eval.tasks.ifeval import instructions_registry as registry

    theirs = {frozenset((a, b)) for a, others in registry.INSTRUCTION_CONFLICTS.items() for b in others}
    assert set(OPTIONS) == set(registry.INSTRUCTION_DICT) == set(FAMILIES)
    assert all(conflict(*(tuple(pair) * 2)[:2]) for pair in theirs)
    assert not conflict("punctuation:no_comma", "detectable_format:title")


def test_the_same_seed_gives_the_same_prompts_whatever_their_order() -> None:
    made, _, _ = composed()
    assert composed()[0] == made
    assert composed(seed=1)[0] != made
    first = {one.messages for one in made[: len(POOL)]}
    assert {one.messages for one in composed(pool=POOL[::-1])[0][: len(POOL)]} == first


def test_every_instruction_is_used_before_one_is_used_again() -> None:
    made, counts, _ = composed(section_with(num_prompts=25))
    used = [next(row.name for row in POOL if one.name == row.name) for one in made]
    assert len(set(used[:10])) == len(set(used[10:20])) == 10
    assert len({one.messages for one in made}) == 25
    assert counts.keys() <= {"made before", "no constraints fit"}


def test_families_that_are_left_out_are_never_drawn() -> None:
    section = section_with(without_families=["keywords", "punctuation:no_comma"])
    _, _, families = composed(section)
    assert not [name for name in families if name.startswith(("keywords:", "punctuation:"))]
    _, _, families = composed(section_with(families=["language", "punctuation"], languages=["de", "fi"]))
    assert set(families) == {"language:response_language", "punctuation:no_comma"}
    made, _, _ = composed(
        section_with(families=["language"], languages=["de", "fi"], max_constraints=1, num_prompts=20)
    )
    assert {one.checks[0].options["language"] for one in made} == {"de", "fi"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"families": ["punctuation:no_coma"]}, "there is no family 'punctuation:no_coma'; did you mean"),
        ({"languages": ["xx"]}, "'xx' cannot be checked"),
        ({"min_constraints": 3, "max_constraints": 2}, "min_constraints 3 must be at most 2"),
        ({"families": ["language"], "without_families": ["language"]}, "leave no family"),
    ],
)
def test_sections_that_compose_nothing_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        section_with(**changes)


def test_checks_of_the_pool_are_kept_and_none_is_drawn_that_conflicts() -> None:
    row = POOL[0]._replace(checks=checks_of({"checks": [{"instruction": "change_case:english_capital"}]}))
    made = [constrain(row, SECTION, Random(seed)) for seed in range(100)]
    assert all(one.checks[0] == row.checks[0] for one in made)
    names = {check.instruction for one in made for check in one.checks[1:]}
    assert "change_case:english_lowercase" not in names
    assert "punctuation:no_comma" in names


def test_what_overlaps_with_an_evaluation_set_is_left_out_and_counted(tmp_path: Path) -> None:
    long = "Write a long and careful letter to your oldest friend about the house by the sea where you both were young"
    near = "Describe in your own words how a bridge of wood was built over the river near our town in spring"
    rows = [{"prompt": f"{long} and happy."}, {"prompt": f"{near} last year."}]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = [*POOL, Prompt("a", (Message("user", f"{long}."),)), Prompt("b", (Message("user", f"{near}."),))]
    section = section_with(num_prompts=10, decontaminate=["eval.jsonl"], ngram=30)
    made, counts, _ = composed(section, pool[::-1], data_dir=tmp_path)
    assert counts["nearly equal to a prompt of eval.jsonl"] == 2
    assert counts["overlaps with eval.jsonl"] == 0
    assert {one.name for one in made}.isdisjoint("ab")
    _, counts, _ = composed(section_with(num_prompts=10, decontaminate=["eval.jsonl"]), pool[::-1], data_dir=tmp_path)
    assert counts["overlaps with eval.jsonl"] == 2
    with pytest.raises(DataError, match=r"no prompt can be made of the pool \(.*2 x overlaps with eval.jsonl"):
        composed(section_with(decontaminate=["eval.jsonl"]), pool[-2:], data_dir=tmp_path)


def test_an_exact_answer_of_the_pool_is_never_forbidden() -> None:
    asked = Prompt("q", (Message("user", "Who wrote Faust? Was it Goethe or Kant, or Hegel?"),))
    row = asked._replace(checks=checks_of({"checks": "Goethe, of Weimar"}))
    section = section_with(
        families=["keywords:forbidden_words", "punctuation", "keywords:existence"], max_constraints=1
    )
    made = [constrain(row, section, Random(seed)) for seed in range(200)]
    drawn = [one.checks[1] for one in made]
    assert {one.instruction for one in drawn} == {"keywords:forbidden_words", "keywords:existence"}
    words = [word for one in drawn for word in one.options.get("forbidden_words", ())]
    assert "hegel" in words
    assert "goethe" not in words


def test_an_instruction_is_left_out_once_however_often_the_pool_is_used(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "Tell me something about old clocks."}) + "\n")
    section = section_with(num_prompts=40, decontaminate=["eval.jsonl"])
    made, counts, _ = composed(section, data_dir=tmp_path)
    assert len(made) == 40
    assert counts["overlaps with eval.jsonl"] == 1


def test_answers_of_the_pool_make_dialogues_where_they_hold_all_checks_or_can_be_repaired() -> None:
    no_comma = Check("punctuation:no_comma", {})
    keyword = Check("keywords:existence", {"keywords": ["eggs"]})
    asked = {
        name: Prompt(name, (Message("user", f"Tell me of {name}."),), "pool", checks=(no_comma, keyword))
        for name in ("hens", "ducks", "maps", "bees")
    }
    answers = {"hens": "Hens lay eggs.", "ducks": "Ducks, too, lay eggs.", "maps": "Maps, not food."}
    chats = [Chat(name, (Message("user", "?"), Message("assistant", text))) for name, text in answers.items()]
    counts = Counter[str]()
    made = list(answer_from_pool(asked.values(), chats, 5, counts))
    # No rule can put a keyword into an answer, and nobody answered about bees.
    assert [(one.messages[0].content, one.messages[-1].content) for one in made] == [
        ("Tell me of hens.", "Hens lay eggs."),
        ("Tell me of ducks.", "Ducks too lay eggs."),
    ]
    assert counts == {"as it was": 1, "repaired": 1, "fails checks": 1, "missing": 1}
    assert len(list(answer_from_pool(asked.values(), chats, 1, counts))) == 1
    with pytest.raises(DataError, match="no answer of its rows holds the checks"):
        list(answer_from_pool([asked["maps"]], chats, 5, counts))


def test_every_wording_says_all_options() -> None:
    assert set(LANGUAGE_NAMES) == set(LANGUAGES)
    assert {key.split(" ")[0] for key in WORDINGS} == set(FAMILIES)
    for key, sentences in WORDINGS.items():
        wanted = {name for name in FAMILIES[key.split(" ")[0]] if not name.endswith("relation")}
        assert len(set(sentences)) >= 4
        for sentence in sentences:
            fields = {name for _, name, _, _ in Formatter().parse(sentence) if name}
            assert fields == wanted - {"prompt_to_repeat"}, sentence


def repeated(text: str, count: int, relation: str) -> str:
    """The text so many times, or once less where it is to come up less often."""
    return text * (count if relation == "at least" else count - 1)


# An answer that holds a check, made of its options alone.
ANSWERS = {
    "existence": lambda keywords: f"So {keywords}.",
    "frequency": lambda keyword, frequency, relation: repeated(f"{keyword} ", frequency, relation) + "so",
    "forbidden_words": lambda forbidden_words: "Xylophone.",
    "letter_frequency": lambda letter, let_frequency, let_relation: repeated(letter, let_frequency, let_relation) + ".",
    "response_language": lambda language: GERMAN,
    "number_sentences": lambda num_sentences, relation: repeated("Here it is. ", num_sentences, relation),
    "number_paragraphs": lambda num_paragraphs: "\n***\n".join(["Text."] * num_paragraphs),
    "number_words": lambda num_words, relation: repeated("word ", num_words, relation),
    "nth_paragraph_first_word": lambda num_paragraphs, nth_paragraph, first_word: "\n\n".join(
        [f"{first_word} it is."] * num_paragraphs
    ),
    "number_placeholders": lambda num_placeholders: "[name] " * num_placeholders,
    "postscript": lambda postscript_marker: f"Text.\n{postscript_marker} More.",
    "number_bullet_lists": lambda num_bullets: "* item\n" * num_bullets,
    "constrained_response": lambda: "My answer is no.",
    "number_highlighted_sections": lambda num_highlights: "*this* and " * num_highlights,
    "multiple_sections": lambda section_spliter, num_sections: "".join(
        f"{section_spliter} {number}\nText.\n" for number in range(1, num_sections + 1)
    ),
    "json_format": lambda: "{}",
    "title": lambda: "<<Title>>",
    "two_responses": lambda: "One ****** Two",
    "repeat_prompt": lambda prompt_to_repeat: f"{prompt_to_repeat} An answer.",
    "end_checker": lambda end_phrase: f"Text. {end_phrase}",
    "quotation": lambda: '"Text."',
    "capital_word_frequency": lambda capital_frequency, capital_relation: (
        repeated("WORD ", capital_frequency, capital_relation) + "and so on"
    ),
    "english_capital": ENGLISH.upper,
    "english_lowercase": ENGLISH.lower,
    "no_comma": lambda: "Text.",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_draw_is_a_valid_check_that_an_answer_can_hold(family: str) -> None:
    section = section_with(languages=["de"])
    for seed in range(12):
        rng = Random(seed)
        check = Check(family, OPTIONS[family](rng, "Tell me about winter coats.", section))
        assert ifeval_fault(family, dict(check.options)) == ""
        answer = ANSWERS[family.partition(":")[2]](**check.options)
        assert check_answer([check], answer).share == 1, (check, answer)
        assert "{" not in wording(check, rng)


def test_one_answer_holds_several_constraints_at_once() -> None:
    given = [
        {"instruction": "change_case:english_lowercase"},
        {"instruction": "length_constraints:nth_paragraph_first_word"}
        | {"kwargs": {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"}},
        {"instruction": "startend:end_checker", "kwargs": {"end_phrase": "Thank you for reading."}},
        {"instruction": "detectable_format:title"},
        {"instruction": "punctuation:no_comma"},
    ]
    checks = checks_of({"checks": given})
    assert not any(conflict(a.instruction, b.instruction) for n, a in enumerate(checks) for b in checks[:n])
    answer = "<<old clocks>>\nthey tell the time and they are lovely.\n\nlater they stop. thank you for reading."
    assert check_answer(checks, answer).share == 1


def test_the_real_pool_gives_prompts_without_ifevals(shared_data: Path, tmp_path: Path) -> None:
    paths = {"pool": "sft/alpaca/alpaca_5000.json", "ifeval": "eval/ifeval/input_data.jsonl"}
    if not all((shared_data / path).exists() for path in paths.values()):
        pytest.skip("the instructions or IFEval's prompts are not there")
    section = section_with(
        pool=[{"path": paths["pool"], "max_rows": 300}], num_prompts=300, decontaminate=[paths["ifeval"]]
    )
    pool = open_source(section.pool[0], "prompt", data_dir=shared_data, offline=True)
    made, counts, families = composed(section, list(pool), data_dir=shared_data)
    assert len(made) == 300
    assert set(FAMILIES) - set(families) <= {"detectable_format:constrained_response"}
    assert counts[f"overlaps with {paths['ifeval']}"] == 0
    # IFEval's own prompts, as a pool, all overlap with themselves.
    own = open_source(
        section.pool[0].model_copy(update={"path": paths["ifeval"]}), "prompt", data_dir=shared_data, offline=True
    )
    assert all(row.checks for row in own)
    with pytest.raises(DataError, match=r"no prompt can be made of the pool \(.* x overlaps with"):
        composed(section, list(islice(own, 20)), data_dir=shared_data)
    assert write_jsonl(tmp_path / "prompts.jsonl", made) == 300

"""The checks of a row: read from the forms they are written in, and refused with the value that is wrong."""

import pytest

from zephyr.records.checks import FAMILIES, checks_of, match_for, number_in
from zephyr.records.fields import Row, RowFault, UnusableError
from zephyr.records.formats import records_of
from zephyr.records.rows import ANSWER, Check

COMMA = {"instruction": "punctuation:no_comma", "kwargs": {}}


def test_checks_are_read_in_all_forms() -> None:
    hens = {"instruction": "keywords:existence", "kwargs": {"keywords": ["hen"], "relation": None}}
    fields = {"checks": [COMMA, hens, {"answer": 42}, {"answer": "Ann", "match": "text"}]}
    assert checks_of(fields) == (
        Check("punctuation:no_comma", {}),
        Check("keywords:existence", {"keywords": ["hen"]}),
        Check(ANSWER, {"answer": "42", "match": "number"}),
        Check(ANSWER, {"answer": "Ann", "match": "text"}),
    )
    assert checks_of({"checks": {"instruction": "punctuation:no_comma"}}) == (Check("punctuation:no_comma", {}),)
    assert checks_of({"checks": "2 + 2 = 4\n#### 1,004"}) == (Check(ANSWER, {"answer": "1,004", "match": "number"}),)
    assert checks_of({}) == checks_of({"checks": None}) == checks_of({"checks": []}) == ()


def test_the_columns_of_ifeval_are_read_as_they_are() -> None:
    row = {
        "key": 1005,
        "prompt": "Write a poem about hens.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_bullet_lists"],
        "kwargs": [{}, {"num_bullets": 3, "keyword": None}],
    }
    (prompt,) = records_of(Row("ifeval.jsonl row 1", row), "prompt", "prompt")
    assert prompt.checks == (
        Check("punctuation:no_comma", {}),
        Check("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    )


@pytest.mark.parametrize(
    ("answer", "match", "number"),
    [
        ("42", "number", 42),
        ("$1,200.50", "number", 1200.5),
        ("-3%", "number", -3),
        ("B", "choice", None),
        ("b", "text", None),
        ("12 hens", "text", None),
        ("1,2", "text", None),
    ],
)
def test_an_answer_is_matched_by_what_it_looks_like(answer: str, match: str, number: float | None) -> None:
    assert (match_for(answer), number_in(answer)) == (match, number)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"instruction": "punctuation:no_coma"}], "unknown instruction 'punctuation:no_coma'; did you mean"),
        ([{**COMMA, "kwargs": {"num": 1}}], "punctuation:no_comma has no option 'num'"),
        ([{**COMMA, "kwargs": 3}], "the options of punctuation:no_comma must be an object, got 3"),
        ([COMMA, {"answer": True}], "check 2: the answer must be a text or a number, got True"),
        ([{"answer": "  "}], "the answer must be a text or a number, got '  '"),
        ([{"answer": "#### "}], "the answer must be a text or a number"),
        ([{"answer": "many", "match": "number"}], "must be a number where match is number, got 'many'"),
        ([{"answer": "b", "match": "choice"}], "must be one capital letter where match is choice, got 'b'"),
        ([{"answer": "b", "match": "regex"}], "match must be one of number, choice, text, got 'regex'"),
        ([{"answers": "b"}], "has the unknown key 'answers'; did you mean 'answer'?"),
        ([{**COMMA, "match": "text"}], "has the unknown key 'match'"),
        ([{"answer": 4, "kwargs": {}}], "has the unknown key 'kwargs'"),
        ([{**COMMA, "answer": "4"}], "needs an instruction or an answer"),
        ([{}], "needs an instruction or an answer, got {}"),
        (
            [{"instruction": "keywords:existence", "kwargs": {"keywords": ["(hen"]}}],
            "the option 'keywords' of keywords:existence is searched for as a regular expression, which '(hen' is not",
        ),
    ],
)
def test_a_bad_check_is_a_fault_of_its_row(value: list, said: str) -> None:
    fault = records_of(Row("p.jsonl row 7", {"prompt": "Hens?", "checks": value}), "prompt", "prompt")
    assert isinstance(fault, RowFault)
    assert (fault.name, fault.reason) == ("p.jsonl row 7", "bad check")
    assert said in fault.what


def test_all_faults_of_a_row_are_said() -> None:
    with pytest.raises(UnusableError) as caught:
        checks_of({"checks": [{"answer": None}, COMMA, {"instruction": "punctuation"}]})
    assert [fault.what[:7] for fault in caught.value.faults] == ["check 1", "check 3"]


def test_ifevals_columns_of_different_lengths_are_a_fault() -> None:
    with pytest.raises(UnusableError, match="bad check"):
        checks_of({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []})


def test_there_are_25_instructions() -> None:
    assert len(FAMILIES) == 25

"""What is written is read back the same; a file is whole or not there."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.errors import DataError
from zephyr.records.formats import detect_shape, record_of
from zephyr.records.messages import Message, TemplateInputs, ToolCall
from zephyr.records.reading import read_rows
from zephyr.records.rows import ANSWER, Answer, Chat, Check, Preference, Prompt, Rated, Text
from zephyr.records.writing import to_fields, write_jsonl

FILLED = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


CALLS = st.lists(
    st.builds(
        ToolCall, FILLED, st.dictionaries(FILLED, FILLED, max_size=2).map(json.dumps), st.sampled_from(["", "c1"])
    ),
    min_size=1,
    max_size=2,
).map(tuple)
THOUGHTS = st.sampled_from(["", "Let me see.\nYes."])
TOOLS = st.sampled_from(["", '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'])


INPUTS = st.builds(TemplateInputs, TOOLS, st.sampled_from(["", '{"enable_thinking": false}']))


@st.composite
def tool_dialogues(draw, ends_with):
    """Dialogues in which answers think, call tools, and may be marked as not to be learnt."""
    messages = [Message("user", draw(FILLED))]
    for _ in range(draw(st.integers(0, 2))):
        messages.append(Message("assistant", draw(st.sampled_from(["", "Wait."])), draw(THOUGHTS), draw(CALLS)))
        messages += [Message("tool", draw(st.text(max_size=5)), name="add", call_id="c1")] * draw(st.integers(1, 2))
    if ends_with == "user":
        return tuple(messages)
    learn = draw(st.booleans())
    more = [Message("assistant", "No.", learn=False), Message("user", "Why?")] if draw(st.booleans()) else []
    return (*messages, *more, Message("assistant", draw(FILLED), draw(THOUGHTS), learn=learn or not messages[1:]))


@st.composite
def tool_preferences(draw):
    answers = st.builds(Message, st.just("assistant"), FILLED, THOUGHTS, st.just(()) | CALLS)
    found = tuple(draw(st.lists(answers, min_size=1, max_size=3)))
    ratings = tuple(float(rank) for rank in range(len(found)))[::-1]
    row = Preference("", draw(tool_dialogues("user")), (), ratings, "", (), "", draw(INPUTS))
    return row.with_answers(found)


@st.composite
def dialogues(draw, ends_with):
    num_turns = draw(st.integers(1, 3)) * 2 - (ends_with == "user")
    turns = [Message(("user", "assistant")[turn % 2], draw(FILLED)) for turn in range(num_turns)]
    system = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=10))
    return (*([] if system is None else [Message("system", system)]), *turns)


@st.composite
def preferences(draw):
    completions = tuple(draw(st.lists(FILLED, min_size=1, max_size=4)))
    ratings = draw(st.lists(NUMBERS, min_size=len(completions), max_size=len(completions)))
    ratings.sort(reverse=True)
    models = tuple(draw(st.lists(FILLED, min_size=len(completions), max_size=len(completions))))
    models, rule = draw(st.sampled_from([(), models])), draw(st.sampled_from(["", "pairs seed=1"]))
    return Preference("", draw(dialogues("user")), completions, tuple(ratings), draw(SOURCES), models, rule)


SOURCES = st.sampled_from(["", "evol_instruct"])
KNOWN = st.sampled_from(["", "The earth is round."])
CHECKS = st.lists(
    st.sampled_from(
        [
            Check("punctuation:no_comma", {}),
            Check("keywords:existence", {"keywords": ["hen"]}),
            Check(ANSWER, {"answer": "42", "match": "number"}),
        ]
    ),
    max_size=2,
).map(tuple)
SCORES = st.none() | NUMBERS
ANSWERS = st.builds(
    Answer,
    st.text(st.characters(codec="utf-8")),
    FILLED,
    SCORES,
    st.dictionaries(FILLED, SCORES),
    FILLED,
    FILLED,
    FILLED,
)
RECORDS = st.one_of(
    st.tuples(st.just("text"), st.builds(Text, st.just(""), FILLED, SOURCES)),
    st.tuples(st.just("chat"), st.builds(Chat, st.just(""), dialogues("assistant"), SOURCES, INPUTS)),
    st.tuples(st.just("chat"), st.builds(Chat, st.just(""), tool_dialogues("assistant"), SOURCES, INPUTS)),
    st.tuples(st.just("preference"), tool_preferences()),
    st.tuples(st.just("prompt"), st.builds(Prompt, st.just(""), dialogues("user"), SOURCES, KNOWN, CHECKS)),
    st.tuples(st.just("preference"), preferences()),
    st.tuples(
        st.just("rated"),
        st.builds(
            Rated,
            st.just(""),
            dialogues("user"),
            st.lists(ANSWERS, min_size=1, max_size=3).map(tuple),
            SOURCES,
            KNOWN,
            CHECKS,
        ),
    ),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("written")


@given(kind_and_record=RECORDS)
def test_every_record_is_read_back_the_same(scratch, kind_and_record):
    kind, record = kind_and_record
    path = scratch / "rows.jsonl"
    path.unlink(missing_ok=True)
    assert write_jsonl(path, [record]) == 1
    (row,) = read_rows(path)
    assert record_of(row, detect_shape(row.fields, kind), kind)._replace(name="") == record


def test_a_pair_has_the_columns_of_ultrafeedback_binarized():
    record = Preference("", (Message("user", "Hi"),), ("Hello!", "No."), (8.0, 2.5))
    fields = to_fields(record)
    assert list(fields) == ["prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected"]
    assert fields["prompt"] == [{"role": "user", "content": "Hi"}]
    assert fields["chosen"] == [{"role": "assistant", "content": "Hello!"}]
    assert fields["messages"] == [*fields["prompt"], *fields["chosen"]]
    assert (fields["score_chosen"], fields["score_rejected"]) == (8.0, 2.5)


def test_a_pair_says_who_wrote_it_and_how_it_was_made():
    record = Preference("", (Message("user", "Hi"),), ("Hello!", "No."), (8.0, 2.5), "s", ("big", ""), "pairs seed=3")
    fields = to_fields(record)
    assert list(fields)[7:] == ["model_chosen", "model_rejected", "rule", "source"]
    assert (fields["model_chosen"], fields["model_rejected"], fields["rule"]) == ("big", "", "pairs seed=3")


def test_an_existing_file_is_never_written_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(DataError, match=r"rows\.jsonl: already exists; choose another name, or move it away"):
        write_jsonl(path, [{"a": 1}])
    assert path.read_text() == "mine"


def test_an_existing_file_is_replaced_if_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    assert write_jsonl(path, [{"a": 1}], replace=True) == 1
    assert path.read_text() == '{"a": 1}\n'


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        yield {"a": 1}
        raise RuntimeError("the teacher is gone")

    with pytest.raises(RuntimeError, match="the teacher is gone"):
        write_jsonl(tmp_path / "rows.jsonl", broken())
    assert list(tmp_path.iterdir()) == []


def test_rows_stream_in_blocks(tmp_path):
    assert write_jsonl(tmp_path / "rows.jsonl", ({"n": number} for number in range(2_500))) == 2_500
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(2_500))


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "rows.jsonl", [{"score": float("nan")}])

"""Every shape that data sets are published in, as records; and what is said of rows that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.errors import DataError
from zephyr.records.fields import Row, RowFault
from zephyr.records.formats import SHAPES, detect_shape, record_of, records_of, unknown_shape
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Chat, Preference, Prompt, Rated, Text
from zephyr.records.writing import to_fields

QUESTION, ANSWER = Message("user", "Hi"), Message("assistant", "Hello!")
PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
NO = "Go away."
OTHER = [PLAIN[0], {"role": "assistant", "content": "Go away."}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
HH = "\n\nHuman: Hi\n\nAssistant: Hello!"
SYSTEM = Message("system", "Be brief.")

DIALOGUES = [
    ("messages", {"messages": PLAIN}),
    ("messages", {"messages": PLAIN, "prompt": "Hi", "prompt_id": "0"}),
    ("sharegpt", {"conversations": SHAREGPT, "system": ""}),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello!"}),
    ("alpaca", {"instruction": "Hi", "response": "Hello!", "history": []}),
    ("alpaca", {"instruction": "Hi", "input": None, "output": "Hello!", "label": True, "weight": 1}),
    ("prompt_completion", {"prompt": "Hi", "completion": "Hello!"}),
    ("prompt_completion", {"prompt": [PLAIN[0]], "completion": [PLAIN[1]]}),
    ("prompt_completion", {"question": "Hi", "answer": "Hello!"}),
]


@pytest.mark.parametrize(("shape", "fields"), DIALOGUES)
def test_dialogues_become_chats_and_prompts(shape, fields):
    assert detect_shape(fields, "chat") == shape
    row = Row("r", fields)
    assert record_of(row, shape, "chat") == Chat("r", (QUESTION, ANSWER))
    assert record_of(row, shape, "prompt") == Prompt("r", (QUESTION,))


PAIRS = [
    ("preference", {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}),
    ("preference", {"prompt": "Hi", "chosen": PLAIN, "rejected": OTHER, "messages": PLAIN}),
    ("preference", {"chosen": PLAIN, "rejected": OTHER}),
    ("preference", {"prompt": [PLAIN[0]], "chosen": [PLAIN[1]], "rejected": [OTHER[1]]}),
    ("preference", {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": NO}}),
    ("preference", {"instruction": "Hi", "input": "", "output": "?", "chosen": "Hello!", "rejected": "Go away."}),
    ("preference", {"question": "Hi", "system": "", "chosen": "Hello!", "rejected": "Go away."}),
    ("preference", {"prompt": "Hi", "completions": ["Go away.", "Hello!"], "ratings": [0, 1]}),
    ("hh_rlhf", {"chosen": HH, "rejected": HH.replace("Hello!", "Go away.")}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "fields"), PAIRS)
def test_pairs_become_preferences_prompts_and_chats(shape, fields):
    assert detect_shape(fields, "preference") == shape
    row = Row("r", fields)
    assert record_of(row, shape, "preference") == Preference("r", (QUESTION,), ("Hello!", "Go away."), (1.0, 0.0))
    assert record_of(row, shape, "prompt") == Prompt("r", (QUESTION,))
    assert record_of(row, shape, "chat") == Chat("r", (QUESTION, ANSWER))


LABELLED = [
    {"messages": PLAIN, "label": False},
    {"conversations": SHAREGPT, "label": False},
    {"prompt": "Hi", "completion": "Hello!", "label": "false"},
    {"instruction": "Hi", "output": "Hello!", "label": False},
]


@pytest.mark.parametrize("fields", LABELLED)
def test_labelled_answers_become_preferences_of_one(fields):
    assert detect_shape(fields, "preference") == "kto"
    assert record_of(Row("r", fields), "kto", "preference") == Preference("r", (QUESTION,), ("Hello!",), (0.0,))


def test_a_rejected_answer_is_never_taught():
    # A reader who asks for dialogues of labelled rows must say that the labels do not matter, by the shape.
    assert "chat" not in SHAPES["kto"].kinds


def test_scores_of_a_pair_are_its_ratings():
    fields = {"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": "8.5", "score_rejected": 3}
    assert record_of(Row("r", fields), "preference", "preference").ratings == (8.5, 3.0)


@pytest.mark.parametrize(
    ("margin", "ratings"), [(1.5, (1.5, 0.0)), ("2", (2.0, 0.0)), (0, (0.0, 0.0)), (None, (1.0, 0.0))]
)
def test_the_margin_of_a_pair_is_the_difference_of_its_ratings(margin, ratings):
    fields = {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": margin}
    assert record_of(Row("r", fields), "preference", "preference").ratings == ratings
    scored = fields | {"score_chosen": 8, "score_rejected": 3}
    assert record_of(Row("r", scored), "preference", "preference").ratings == (8.0, 3.0)


def test_a_margin_below_zero_is_refused():
    fields = {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": -0.5}
    with pytest.raises(DataError, match=r"the margin of chosen over rejected is -0\.5"):
        record_of(Row("r", fields), "preference", "preference")


def test_a_list_is_sorted_best_first_and_ties_keep_their_order():
    fields = {"prompt": "Hi", "completions": ["a", "b", "c", "d"], "ratings": [2, 5, 2, 1]}
    record = record_of(Row("r", fields), "preference", "preference")
    assert (record.completions, record.ratings) == (("b", "a", "c", "d"), (5.0, 2.0, 2.0, 1.0))


def test_ultrafeedback_as_it_is_published():
    annotations = {
        "honesty": {"Rating": "N/A", "Rationale": "?"},
        "helpfulness": {"Type": ["1"], "Rationale": "!", "Rating": "4", "Rationale For Rating": "!"},
    }
    fields = {
        "source": "evol_instruct",
        "instruction": "Hi",
        "models": ["m1", "m2"],
        "completions": [
            {"model": "m1", "response": "Hello!", "annotations": annotations, "overall_score": 7.5, "critique": "Fine.",
             "fine-grained_score": 4.0},
            {"model": "m2", "response": "", "annotations": {}, "fine-grained_score": 1.5, "critique": None},
        ],
    }  # fmt: skip
    assert detect_shape(fields) == "ultrafeedback"
    good = Answer("Hello!", "m1", 7.5, {"honesty": None, "helpfulness": 4.0}, "Fine.")
    # The scale from 1 to 5 of the fine-grained score never stands beside the one from 1 to 10.
    expected = Rated("r", (QUESTION,), (good, Answer("", "m2", None)), "evol_instruct")
    assert record_of(Row("r", fields), "ultrafeedback", "rated") == expected
    assert record_of(Row("r", fields), "ultrafeedback", "prompt") == Prompt("r", (QUESTION,), "evol_instruct")
    del fields["completions"][0]["overall_score"]
    without = record_of(Row("r", fields), "ultrafeedback", "rated")
    assert [answer.score for answer in without.answers] == [4.0, 1.5]


def test_ultrafeedback_knows_principles_and_right_answers():
    told = {"principle": "honesty", "custom_system_prompt": "Say what you know."}
    fields = {
        "source": "truthful_qa",
        "instruction": "Is the earth flat?",
        "completions": [{"model": "m1", "response": "No.", "overall_score": 9, **told}],
        "correct_answers": ["No", "It is round"],
        "incorrect_answers": ["Yes"],
    }
    rated = record_of(Row("r", fields), "ultrafeedback", "rated")
    assert (rated.answers[0].principle, rated.answers[0].system) == ("honesty", "Say what you know.")
    assert rated.knowledge == "Correct answers:\n- No\n- It is round\nIncorrect answers:\n- Yes"
    assert record_of(Row("r", fields), "ultrafeedback", "prompt").knowledge == rated.knowledge
    fields |= {"source": "false_qa", "correct_answers": ["None"], "incorrect_answers": ["None"]}
    assert record_of(Row("r", fields), "ultrafeedback", "rated").knowledge == (
        "What the question takes for granted is not so."
    )


def test_an_answer_a_row_is_rated_feedback():
    fields = {"prompt_id": "1", "prompt": "Hi", "model": "m", "completion": "Hello!", "score": None, "rationale": "?"}
    assert detect_shape(fields, "rated") == "rated"
    assert record_of(Row("r", fields), "rated", "rated") == Rated(
        "r", (QUESTION,), (Answer("Hello!", "m", None, {}, "?"),)
    )


def test_texts():
    assert detect_shape({"story": "name", "text": "Once"}) == "text"
    assert record_of(Row("r", {"story": "name", "text": "Once"}), "text", "text") == Text("r", "Once")


def test_inputs_follow_instructions_and_history_comes_first():
    fields = {
        "instruction": "Add.",
        "input": "1 and 2",
        "output": "3",
        "history": [["Hi", "Hello!"]],
        "system": "Be brief.",
    }
    chat = record_of(Row("r", fields), "alpaca", "chat")
    assert chat.messages == (SYSTEM, QUESTION, ANSWER, Message("user", "Add.\n\n1 and 2"), Message("assistant", "3"))


@pytest.mark.parametrize(
    ("name", "role"),
    [("human", "user"), ("User", "user"), ("<|start_header_id|>user<|end_header_id|>", "user"), ("prompter", "user"),
     ("gpt", "assistant"), ("chatgpt", "assistant"), ("Assistant", "assistant"), ("<|assistant|>", "assistant"),
     ("system", "system")],
)  # fmt: skip
def test_speakers_have_many_names(name, role):
    turns = [{"from": name, "value": "x"}]
    before = [] if role != "assistant" else [{"from": "human", "value": "x"}]
    after = [] if role != "system" else [{"from": "human", "value": "x"}]
    record = records_of(Row("r", {"conversations": before + turns + after}), "sharegpt", "prompt")
    assert record[0].messages[0].role == ("user" if role == "assistant" else role)


def test_hh_dialogues_share_all_but_the_last_answer():
    before = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: So?\n\nAssistant:"
    record = record_of(
        Row("r", {"chosen": f"{before} Well.", "rejected": f"{before} No.\n\nNever."}), "hh_rlhf", "preference"
    )
    assert record.prompt == (QUESTION, ANSWER, Message("user", "So?"))
    assert record.completions == ("Well.", "No.\n\nNever.")


@pytest.mark.parametrize(
    ("shape", "kind", "fields", "reason", "what"),
    [
        ("messages", "chat", {"messages": [PLAIN[0], {"role": "assistant", "content": None}]}, "null answer",
         "message 2 (assistant) has no text: its content is null or missing"),
        ("messages", "chat", {"messages": PLAIN[::-1]}, "roles out of turn",
         "message 1 is by 'assistant' where 'user' is expected ('assistant' comes first); the last message is by"),
        ("messages", "chat", {"messages": "Hi"}, "messages is no list", "the field messages is no list of messages"),
        ("messages", "chat", {"messages": [{"role": "robot", "content": "x"}, 5]}, "unknown role",
         "message 1 is by 'robot', which is neither system nor user nor assistant nor tool; message 2 is no object"),
        ("messages", "chat", {"messages": [PLAIN[0], {"role": "assistant", "content": 5}]}, "content is no text",
         "message 2 (assistant) is no text, got 5"),
        ("alpaca", "chat", {"instruction": "Hi", "output": None}, "null answer", "the answer is null or missing"),
        ("alpaca", "chat", {"instruction": "Hi", "output": " "}, "empty answer", "message 2 (assistant) is empty"),
        ("preference", "preference", {"prompt": "Hi", "chosen": "a", "rejected": None}, "null rejected answer",
         "the rejected answer is null or missing"),
        ("preference", "preference", {"prompt": "Hi", "chosen": "", "rejected": " "}, "empty answer",
         "the chosen answer is empty; the rejected answer is empty"),
        ("preference", "preference", {"chosen": "a", "rejected": "b"}, "no prompt",
         "chosen and rejected are texts and there is no prompt (as text or messages)"),
        ("preference", "preference", {"chosen": PLAIN, "rejected": [{"role": "user", "content": "Ho"}, OTHER[1]]},
         "no common prompt", "chosen and rejected differ before their last message"),
        ("preference", "preference", {"chosen": PLAIN[:1], "rejected": OTHER}, "no chosen answer",
         "chosen does not end with an answer"),
        ("preference", "preference", {"prompt": "Hi", "completions": ["a"], "ratings": []}, "ratings do not fit",
         "completions and ratings are not two lists of the same length"),
        ("kto", "preference", {"messages": PLAIN, "label": "maybe"}, "label is not true or false",
         "the label is not true or false, got 'maybe'"),
        ("rated", "rated", {"prompt": "Hi", "completion": "a", "score": "good"}, "score is no number",
         "answer 1: the score is no finite number, got 'good'"),
        ("rated", "rated", {"prompt": "", "answers": [{"text": None}, 1]}, "empty prompt", "the prompt is empty"),
        ("text", "text", {"text": "\n"}, "empty text", "the text is empty"),
        ("hh_rlhf", "preference", {"chosen": "Hello", "rejected": HH}, "no HH-RLHF text",
         "the text does not begin with 'Human:', got 'Hello'"),
    ],
)  # fmt: skip
def test_faults_of_a_row_are_said(shape, kind, fields, reason, what):
    fault = records_of(Row("r", fields), shape, kind)
    assert isinstance(fault, RowFault)
    assert fault.reason == reason
    assert fault.what.startswith(what)
    with pytest.raises(DataError, match=r"^r: "):
        record_of(Row("r", fields), shape, kind)


NAMES = (
    "messages conversations prompt instruction input history completion output chosen rejected score_chosen "
    "completions ratings answers label score text system source"
)
MESSAGE_KEYS = st.sampled_from(
    ["role", "from", "content", "value", "replies", "text", "rank", "response", "annotations"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.sampled_from(["", "user", "assistant", "Hi", "\n\nHuman: a", "N/A", "7"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MESSAGE_KEYS, inner, max_size=4), max_leaves=12
)
CONVERSIONS = [(shape, kind) for shape, layout in SHAPES.items() for kind in layout.kinds]


@given(
    fields=st.dictionaries(st.sampled_from(NAMES.split()), VALUES, max_size=5), conversion=st.sampled_from(CONVERSIONS)
)
def test_any_fields_give_records_or_a_fault(fields, conversion):
    shape, kind = conversion
    detect_shape(fields, kind)
    records = records_of(Row("r", fields), shape, kind)
    if isinstance(records, RowFault):
        assert records.reason
        assert records.what.isprintable()
        return
    for record in records:
        json.dumps(to_fields(record), allow_nan=False)


def test_of_many_faults_five_are_said():
    fault = records_of(Row("r", {"messages": [{"role": "?", "content": "x"}] * 8}), "messages", "chat")
    assert fault.what.count("neither") == 5
    assert fault.what.endswith("; and 3 more")


def test_a_row_of_a_thousand_levels_is_a_fault_and_no_crash():
    tree = {"role": "assistant", "text": "x", "replies": []}
    for level in range(900):
        tree = {"role": ("prompter", "assistant")[level % 2], "text": "x", "replies": [tree]}
    tree = {"role": "prompter", "text": "x", "replies": [tree]}
    assert records_of(Row("r", {"prompt": tree}), "oasst_tree", "chat") == RowFault(
        "r", "nested too deeply", "is nested too deeply"
    )


def test_values_in_messages_are_short_and_tame():
    fault = records_of(Row("r", {"messages": "\x1b[2J\n" + "x" * 10_000}), "messages", "chat")
    assert len(fault.what) < 160
    assert fault.what.isprintable()


def test_rows_of_no_shape_are_told_what_is_needed():
    error = unknown_shape(Row("f.csv row 1", {"promt": "a", "completion": "b"}), "chat")
    assert str(error) == (
        "f.csv row 1: has the fields promt, completion, and no chat records can be made of it ('promt': did you mean "
        "'prompt'?); needed are prompt (role, text, replies) | chosen, rejected (Human: ...) | prompt, chosen, "
        "rejected | messages | conversations | system, chat (USER: ...) | instruction, output | prompt, completion; "
        "rename fields with columns, or set shape"
    )


def test_rows_of_another_kind_are_told_which():
    fields = {"messages": []}
    assert detect_shape(fields, "preference") is None
    said = "r: has the shape 'messages' (messages), which holds chat, prompt records, and no preference records"
    assert str(unknown_shape(Row("r", fields), "preference")).startswith(said)


def test_a_shape_that_cannot_hold_the_kind_is_refused():
    with pytest.raises(
        DataError, match="rows of shape 'text' hold no chat records; these shapes do: oasst_tree, hh_rlhf"
    ):
        record_of(Row("r", {"text": "x"}), "text", "chat")

"""What data sets write in a message beside a role and a text: reasoning, calls, answers of tools, marks, parts."""

import json

import pytest

from zephyr.records.fields import Row, RowFault
from zephyr.records.formats import detect_shape, records_of
from zephyr.records.message_fields import messages_of, unread_keys
from zephyr.records.messages import Message, TemplateInputs, ToolCall, message_faults
from zephyr.records.rows import prompt_id

USER = {"role": "user", "content": "Add 1 and 2"}
FUNCTION = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
CALL = ToolCall("add", '{"a": 1, "b": 2}')
ADD = {"name": "add", "parameters": {"type": "object"}}
TOOLS = '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'


def message(fields):
    (found,) = messages_of([fields], "messages")
    return found


def chat(fields, shape="messages"):
    (record,) = records_of(Row("r", fields), shape, "chat")
    return record


def fault(fields, shape="messages", kind="chat"):
    found = records_of(Row("r", fields), shape, kind)
    assert isinstance(found, RowFault), found
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "", "type": "function", "function": FUNCTION}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]},
        {"role": "assistant", "tool_calls": json.dumps([FUNCTION])},
        {"role": "assistant", "content": None, "function_call": FUNCTION, "tool_calls": None},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
        {"from": "function_call", "value": f"<tool_call>\n{json.dumps(FUNCTION)}\n</tool_call>"},
    ],
)
def test_a_call_is_read_from_every_way_of_writing_it(fields):
    assert message(fields) == Message("assistant", "", tool_calls=(CALL,))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"}, ("3", "add", "c1")),
        ({"role": "function", "content": "3", "name": "add"}, ("3", "add", "")),
        ({"from": "observation", "value": "3"}, ("3", "", "")),
        ({"role": "tool", "content": ""}, ("", "", "")),
    ],
)
def test_an_answer_of_a_tool_is_read(fields, expected):
    content, name, call_id = expected
    assert message(fields) == Message("tool", content, name=name, call_id=call_id)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "3", "reasoning_content": "1+2\n= 3"},
        {"content": "3", "reasoning": "1+2\n= 3", "thinking": None},
        {"content": "3", "thinking": "1+2\n= 3"},
        {"content": "<think>\n1+2\n= 3\n</think>\n\n3"},
        {"content": [{"type": "thinking", "thinking": "1+2\n= 3"}, {"type": "text", "text": "3"}]},
        {"content": "<think>1+2\n= 3</think>3", "reasoning_content": "1+2\n= 3"},
    ],
)
def test_reasoning_is_read_from_every_way_of_writing_it(fields):
    assert message({"role": "assistant", **fields}) == Message("assistant", "3", "1+2\n= 3")


def test_an_empty_thought_stays_in_the_text():
    assert message({"role": "assistant", "content": "<think>\n\n</think>\n\n3"}).content == "<think>\n\n</think>\n\n3"


@pytest.mark.parametrize(
    ("marks", "learn"),
    [
        ({"weight": 0}, False), ({"weight": 1}, True), ({"weight": 1.0, "train": True}, True),
        ({"weight": None}, True), ({"train": False}, False), ({"train": "false"}, False),
        ({"trainable": False}, False), ({"masked": True}, False), ({"mask": False}, True),
    ],
)  # fmt: skip
def test_marks_say_whether_an_answer_is_learnt(marks, learn):
    assert message({"role": "assistant", "content": "3", **marks}).learn is learn


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "Add 1", "image_url": None}, {"type": "text", "text": " and 2"}]
    assert message({"role": "user", "content": parts}) == Message("user", "Add 1 and 2")


@pytest.mark.parametrize(
    ("fields", "reason", "what"),
    [
        ({"role": "assistant", "content": "3", "weight": 0.5}, "weight is not 0 or 1",
         "message 2 (assistant) has weight 0.5; 0 and 1 can be honoured"),
        ({"role": "assistant", "content": "3", "weight": 1, "train": False}, "marks contradict",
         "message 2 (assistant) has marks that contradict each other: weight, train"),
        ({"role": "assistant", "content": "3", "reasoning": "a", "thinking": "b"}, "reasoning twice",
         "message 2 (assistant) has two different texts of reasoning, 'a', 'b'"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, "content part image_url",
         "message 2 (assistant) has a content part of type 'image_url'; only text can be learnt from"),
        ({"role": "assistant", "tool_calls": [{"id": "c1"}]}, "tool_calls is no call",
         "message 2 (assistant) has tool_calls without the name of a tool, got {'id': 'c1'}"),
        ({"from": "function_call", "value": "add(1, 2)"}, "tool call is no JSON",
         "message 2 (assistant) has tool call that is no JSON, got 'add(1, 2)'"),
        ({"role": "tool", "content": "3"}, "roles out of turn",
         "message 2 is by 'tool' where 'assistant' is expected ('tool' comes after no tool call)"),
        ({"role": "user", "content": "3", "tool_calls": [FUNCTION]}, "tool_calls of a user message",
         "message 2 (user) has tool_calls, which only an answer can have"),
        ({"role": "user", "content": "3", "train": True}, "train of a user message",
         "message 2 (user) has train: true, but only answers are learnt"),
        ({"role": "assistant", "content": "3", "weight": 0}, "no answer to learn",
         "every answer is marked as not to be learnt"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_a_fault_of_the_row(fields, reason, what):
    found = fault({"messages": [USER, fields]})
    assert (found.reason, found.what) == (reason, what) or found.what.startswith(what)
    assert found.reason == reason


def test_a_dialogue_with_tools_is_one_record():
    answer = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}],
    }
    result, said = {"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "assistant", "content": "It is 3."}
    record = chat({"messages": [USER, answer, result, said], "tools": json.dumps([ADD])})
    assert record.inputs.tools == TOOLS
    assert record.messages == (
        Message("user", "Add 1 and 2"),
        Message("assistant", "", tool_calls=(CALL._replace(id="c1"),)),
        Message("tool", "3", call_id="c1"),
        Message("assistant", "It is 3."),
    )


@pytest.mark.parametrize(
    "declared",
    [
        {"tools": [ADD]},
        {"tools": json.dumps([{"type": "function", "function": ADD}])},
        {"functions": [ADD]},
        {"messages": [{"role": "system", "content": "S", "tools": [ADD]}, USER, {"role": "assistant", "content": "3"}]},
    ],
)
def test_tools_are_declared_in_a_column_or_in_the_first_message(declared):
    assert chat({"messages": [USER, {"role": "assistant", "content": "3"}], **declared}).inputs.tools == TOOLS


def test_two_lists_of_tools_are_a_fault():
    fields = {"messages": [USER, {"role": "assistant", "content": "3"}], "tools": [ADD], "functions": [{"name": "sub"}]}
    assert fault(fields).what == "declares two different lists of tools"


def test_calls_in_tags_are_calls_where_there_are_tools():
    said = f"I add.\n<tool_call>\n{json.dumps(FUNCTION)}\n</tool_call>"
    turns = [{"from": "human", "value": "Add"}, {"from": "gpt", "value": said}]
    with_tools = [
        *turns,
        {"from": "tool", "value": "<tool_response>\n3\n</tool_response>"},
        {"from": "gpt", "value": "3"},
    ]
    assert chat({"conversations": with_tools}, "sharegpt").messages[1:3] == (
        Message("assistant", "I add.", tool_calls=(CALL,)),
        Message("tool", "3"),
    )
    assert chat({"conversations": turns}, "sharegpt").messages[1] == Message("assistant", said)


def test_glaive_quotes_arguments_with_single_quotes():
    said = """<functioncall> {"name": "add", "arguments": '{"a": 1, "b": 2}'} <|endoftext|>"""
    fields = {"messages": [USER, {"role": "assistant", "content": said}], "tools": [ADD]}
    assert chat(fields).messages[1] == Message("assistant", "", tool_calls=(CALL,))


GLAIVE = {
    "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    + json.dumps(ADD, indent=4) + "\n\n" + json.dumps({"name": "sub"}, indent=4) + "\n",
    "chat": "USER: Add 1 and 2\n\n\nASSISTANT: <functioncall> "
    """{"name": "add", "arguments": '{"a": 1, "b": 2}'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"sum": 3}\n\n\n"""
    "ASSISTANT: It is 3.\n\nASSISTANT is my role. <|endoftext|>\n\n\n"
    "USER: Thanks\n\n\nASSISTANT: Welcome! <|endoftext|>",
}  # fmt: skip


def test_all_turns_and_tools_are_read_from_the_two_texts_of_glaive():
    assert detect_shape(GLAIVE, "chat") == "glaive"
    record = chat(GLAIVE, "glaive")
    assert [tool["function"]["name"] for tool in json.loads(record.inputs.tools)] == ["add", "sub"]
    assert record.messages == (
        Message("system", "You are a helpful assistant"),
        Message("user", "Add 1 and 2"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", '{"sum": 3}'),
        Message("assistant", "It is 3.\n\nASSISTANT is my role."),
        Message("user", "Thanks"),
        Message("assistant", "Welcome!"),
    )
    without = {**GLAIVE, "system": "SYSTEM: You are a helpful assistant, with no access to external functions."}
    plain = chat({**without, "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"}, "glaive")
    assert (plain.inputs.tools, plain.messages[0].content) == (
        "", "You are a helpful assistant, with no access to external functions.",
    )  # fmt: skip


def test_a_list_of_tools_that_is_cut_is_a_fault():
    cut = {**GLAIVE, "system": GLAIVE["system"][:-20]}
    assert fault(cut, "glaive").what.startswith("has system that is no JSON, got")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"enable_thinking": False, "xml_tools": [], "custom_instructions": ""}, '{"enable_thinking": false}'),
        ('{"enable_thinking": true}', '{"enable_thinking": true}'),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_variables_of_a_template_are_read(value, expected):
    fields = {"messages": [USER, {"role": "assistant", "content": "3"}], "chat_template_kwargs": value}
    assert chat(fields).inputs == TemplateInputs(variables=expected)
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "chat_template_kwargs": value}
    (record,) = records_of(Row("r", pair), "preference", "preference")
    assert record.inputs == TemplateInputs(variables=expected)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([1], "has chat_template_kwargs that is no object, got [1]"),
        ("x", "has chat_template_kwargs that is no JSON, got 'x'"),
        ({"messages": [1]}, "has messages in chat_template_kwargs, not in a column"),
    ],
)
def test_other_values_are_no_variables(value, what):
    fields = {"messages": [USER, {"role": "assistant", "content": "3"}], "chat_template_kwargs": value}
    assert fault(fields).what == what


def test_a_pair_keeps_reasoning_and_calls_of_its_answers():
    chosen = [USER, {"role": "assistant", "content": None, "tool_calls": [FUNCTION]}]
    rejected = [USER, {"role": "assistant", "content": "4", "reasoning_content": "1+2"}]
    (pair,) = records_of(Row("r", {"chosen": chosen, "rejected": rejected, "tools": [ADD]}), "preference", "preference")
    assert pair.answers == (Message("assistant", "", tool_calls=(CALL,)), Message("assistant", "4", "1+2"))
    assert (pair.completions, pair.inputs.tools) == (("", "4"), TOOLS)


@pytest.mark.parametrize(
    ("fields", "shape", "kind"),
    [
        ({"prompt": "Add", "tools": [ADD]}, "prompt", "prompt"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [FUNCTION]}]}, "messages", "prompt"),
        ({"prompt": "Add", "answers": [{"text": "3", "score": 1}], "tools": [ADD]}, "rated", "rated"),
    ],
)
def test_prompts_with_tools_are_refused(fields, shape, kind):
    if shape == "messages":
        fields["messages"] += [{"role": "tool", "content": "3"}, {"role": "assistant", "content": "3"}]
    found = fault(fields, shape, kind)
    assert found.reason == "prompt with tools"
    assert found.what == "has tools, and prompts with tools can be neither answered nor rated"


def test_keys_that_nothing_reads_are_named():
    assert unread_keys({"role": "user", "content": "a", "name": "Ann", "id": None, "score": 3}) == ["name", "score"]
    assert unread_keys({"role": "tool", "content": "a", "name": "add", "tool_call_id": "c1"}) == []
    first = {"role": "system", "content": "a", "tools": [ADD], "weight": 1}
    assert (unread_keys(first), unread_keys(first, is_first=True)) == (["tools"], [])


def test_the_order_of_turns_with_tools():
    call, result = Message("assistant", "", tool_calls=(CALL,)), Message("tool", "3")
    user, said = Message("user", "Add"), Message("assistant", "3")
    assert message_faults((user, call, result, result, call, result, said, user, said), ends_with="assistant") == []
    assert message_faults((user, call, result), ends_with="user") == []
    assert message_faults((user, call, user, said), ends_with="assistant") == []
    assert message_faults((user, call, result, user), ends_with="user") == [
        "message 4 is by 'user' where 'assistant' is expected ('user' follows 'tool')"
    ]
    assert message_faults((user, call, said), ends_with="assistant") == [
        "message 3 is by 'assistant' where 'user' is expected ('assistant' comes twice in a row)"
    ]


def test_ids_of_plain_prompts_do_not_depend_on_marks():
    said = Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Again")
    assert prompt_id(said) == "e1db304bdbb711d3600a74c072b7d38617971f7864127121d9abd034b1c544c0"
    assert prompt_id((said[0], said[1]._replace(learn=False), said[2])) == prompt_id(said)


def test_a_message_is_shown_with_what_it_says():
    # The scripted judge of the quickstart draws its slips from this text: it must not change.
    assert repr(Message("user", "Hi")) == "Message(role='user', content='Hi')"
    shown = "Message(role='assistant', content='', reasoning='Hm.', learn=False)"
    assert repr(Message("assistant", "", "Hm.", learn=False)) == shown

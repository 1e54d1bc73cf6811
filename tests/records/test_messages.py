"""What a sound dialogue is, fault by fault."""

import pytest

from zephyr.records.messages import Message, message_faults

USER, ASSISTANT = Message("user", "Hi"), Message("assistant", "Hello!")
SYSTEM = Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("messages", "ends_with"),
    [
        ([USER, ASSISTANT], "assistant"),
        ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], "assistant"),
        ([Message("system", ""), USER], "user"),
        ([USER], "user"),
        ([USER, ASSISTANT], None),
    ],
)
def test_sound_dialogues_have_no_faults(messages, ends_with):
    assert message_faults(messages, ends_with=ends_with) == []


@pytest.mark.parametrize(
    ("messages", "faults"),
    [
        ([], ["there are no messages"]),
        (
            [ASSISTANT, USER, ASSISTANT],
            ["message 1 is by 'assistant' where 'user' is expected ('assistant' comes first)"],
        ),
        (
            [USER, USER, ASSISTANT],
            ["message 2 is by 'user' where 'assistant' is expected ('user' comes twice in a row)"],
        ),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], ["there are 2 system messages, one at most is allowed"]),
        ([USER, SYSTEM, ASSISTANT], ["the system message is not the first one"]),
        ([USER, Message("assistant", " \n")], ["message 2 (assistant) is empty"]),
        ([USER, ASSISTANT, USER], ["the last message is by 'user' where an answer is needed"]),
        (
            [Message("user", ""), Message("assistant", "")],
            ["message 1 (user) is empty", "message 2 (assistant) is empty"],
        ),
    ],
)
def test_every_fault_is_said(messages, faults):
    assert message_faults(messages, ends_with="assistant") == faults


def test_a_system_message_alone_is_no_dialogue():
    assert message_faults([SYSTEM], ends_with=None) == ["there is nothing but a system message"]

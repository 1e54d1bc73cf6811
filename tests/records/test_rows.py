"""The ids of prompts."""

import hashlib

from zephyr.records.messages import Message
from zephyr.records.rows import prompt_id


def test_the_id_of_a_single_question_is_the_hash_of_its_text():
    # As in ultrachat_200k and ultrafeedback_binarized.
    assert prompt_id((Message("user", "Où est-il?"),)) == hashlib.sha256("Où est-il?".encode()).hexdigest()


def test_a_system_message_makes_another_prompt():
    question = Message("user", "Hi")
    ids = {
        prompt_id((question,)),
        prompt_id((Message("system", ""), question)),
        prompt_id((Message("system", "Hi"), question)),
        prompt_id((question, Message("assistant", "Hello"), question)),
    }
    assert len(ids) == 4

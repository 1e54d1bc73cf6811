"""Plain texts repeat themselves by seed, state truths of every task, and need no torch."""

import subprocess
import sys

from zephyr.world import pretrain_texts


def test_texts_follow_from_the_seed():
    texts = list(pretrain_texts(4, 50))
    assert texts == list(pretrain_texts(4, 50))
    assert texts[:20] == list(pretrain_texts(4, 20))
    assert texts != list(pretrain_texts(5, 50))
    assert [text.name for text in texts[:2]] == ["world text 1", "world text 2"]


def test_texts_state_what_the_questions_ask():
    text = "\n".join(one.text for one in pretrain_texts(1, 3000))
    for truth in (
        "7 plus 5 is 12.", "The opposite of hot is cold.", "The colour of snow is white.", "The spider has 8 legs.",
        "The capital of Italy is Rome.", "The word owl begins with the letter o.",
        "The word owl in capital letters is OWL.",
    ):  # fmt: skip
        assert truth in text
    assert "<|user|>" not in text


def test_the_world_knows_no_torch():
    code = "import sys, zephyr.world, zephyr.teachers.scripted; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Rows that an earlier process has encoded are not encoded again, and are the same."""

import numpy as np
import pytest

from tests.data.tool_templates import TEMPLATES, tool_encoder
from zephyr.data.tokenize.encoding_journal import EncodingJournal
from zephyr.data.tokenize.examples import Tokenized
from zephyr.errors import DataError
from zephyr.recipe.stage_sections import AlignSection, PretrainSection, SftSection
from zephyr.records.messages import Message, TemplateInputs
from zephyr.records.rows import Chat, Preference, Text

TRAIN = {"train": {"learning_rate": 1.0e-3}, "data": {"max_length": 64}}
PAIRS = {**TRAIN, "objective": {"name": "dpo", "beta": 0.1}}
WORDS = ("é\0", "b" * 99, "</s>", "d", "e", "f", "g", "h", "i", "j", "k", "l")


def turns(word):
    question, answer = Message("user", f"{word}?"), Message("assistant", word, "So")
    return (question, answer, Message("user", "Sure?"), answer._replace(content=f"{word}!", learn=word != "d"))


# By section: its rows. Qwen's template makes two sequences of a dialogue.
SECTIONS = {
    "text": (PretrainSection.model_validate(TRAIN), [Text(word, f"{word} {word}") for word in WORDS]),
    "chat": (SftSection.model_validate(TRAIN), [Chat(word, turns(word)) for word in WORDS]),
    "pairs": (
        AlignSection.model_validate(PAIRS),
        [Preference(word, turns(word)[:1], (word, "no"), (1.0, 0.0)) for word in WORDS],
    ),
}


class Counted:
    """An encoder that counts what is asked of it, and stops as a killed process does."""

    def __init__(self, most=10**9):
        self.encoder, self.calls, self.most = tool_encoder(TEMPLATES["qwen"]), 0, most
        self.stop_ids = self.encoder.stop_ids

    def __getattr__(self, name):
        def encode(*given, **settings):
            if self.calls == self.most:
                raise KeyboardInterrupt
            self.calls += 1
            return getattr(self.encoder, name)(*given, **settings)

        return encode


def examples(encoder, kind):
    section, rows = SECTIONS[kind]
    tokenized = Tokenized(section, encoder, lambda *_: None)
    found = [[part if isinstance(part, str) else np.asarray(part).tolist() for part in flat(one)]
             for one in tokenized.examples(rows)]  # fmt: skip
    return found, tokenized.facts()


def flat(example):
    return [part for field in example for part in (field if isinstance(field, tuple) else [field])]


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("killed_at", [0, 3, 9])
def test_what_was_encoded_is_taken_from_the_file(tmp_path, kind, killed_at):
    whole = Counted()
    expected = examples(whole, kind)
    file = tmp_path / "j"
    with pytest.raises(KeyboardInterrupt), EncodingJournal(Counted(killed_at), file) as journal:
        examples(journal, kind)
    again = Counted()
    with EncodingJournal(again, file) as journal:
        assert examples(journal, kind) == expected
    assert journal.num_replayed == killed_at
    # The first eight are made once more, to be compared.
    assert again.calls == whole.calls - killed_at + min(8, killed_at)


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_what_is_damaged_is_encoded_again(tmp_path, harm):
    file = tmp_path / "j"
    with EncodingJournal(Counted(), file) as journal:
        expected = examples(journal, "chat")
    content = bytearray(file.read_bytes())
    if harm == "changed":
        content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content[: {"cut": -1, "changed": len(content), "empty": 0}[harm]]))
    with EncodingJournal(Counted(), file) as journal:
        assert examples(journal, "chat") == expected
    assert 0 <= journal.num_replayed < len(WORDS)
    assert file.read_bytes() == bytes(content) if harm != "changed" else len(file.read_bytes()) == len(content)
    with EncodingJournal(Counted(), file) as journal:
        assert examples(journal, "chat") == expected
    assert journal.num_replayed == len(WORDS)


def test_other_rows_and_other_tokenizers_are_encoded_again(tmp_path):
    with EncodingJournal(Counted(), tmp_path / "j") as journal:
        examples(journal, "chat")
    with EncodingJournal(tool_encoder(TEMPLATES["smollm"]), tmp_path / "j") as journal:
        assert examples(journal, "chat") == examples(tool_encoder(TEMPLATES["smollm"]), "chat")
    assert journal.num_replayed == 0
    with EncodingJournal(tool_encoder(TEMPLATES["smollm"]), tmp_path / "j") as journal:
        examples(journal, "pairs")
    assert journal.num_replayed == 0


def test_rows_that_cannot_be_encoded_stand_in_the_way_of_none(tmp_path):
    # A row is refused for the control token in its tools, before, between and after the others.
    section, rows = SECTIONS["chat"]
    refused = Chat("bad", turns("x"), inputs=TemplateInputs('[{"name": "<|im_end|>"}]'))
    mixed, names = [refused, *rows[:6], refused, *rows[6:], refused], []
    for _ in range(2):
        with EncodingJournal(Counted(), tmp_path / "j") as journal:
            tokenized = Tokenized(section, journal, lambda row, _: names.append(row.name))
            assert len(list(tokenized.examples(mixed))) == tokenized.num_examples
    assert names == ["bad"] * 6
    assert journal.num_replayed == len(rows)


def test_an_error_of_the_rows_removes_the_file(tmp_path):
    def fail(file):
        with EncodingJournal(Counted(), file):
            raise DataError("d.jsonl", "is wrong", "fix it")

    with pytest.raises(DataError):
        fail(tmp_path / "j")
    assert not (tmp_path / "j").exists()

import numpy as np
import pytest

from tests.data.dialogues import ANSWER, ORDINARY, chat_tokenizer
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.loss_mask_stats import LossMaskStats, ScoredShare
from zephyr.errors import DataError
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import Message

ENCODER = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="zephyr"))
DIALOGUE = (*ORDINARY, Message("assistant", ANSWER))


def supervision(loss_on: str, rows: int = 2) -> LossMaskStats:
    account = LossMaskStats(ENCODER.stop_ids)
    for _ in range(rows):
        account.add(ENCODER.dialogue(DIALOGUE, loss_on=loss_on))
    return account


def test_shares_per_role_are_counted():
    account = supervision("assistant")
    answers = [ENCODER.completion(text) for text in ("Bonjour!", ANSWER)]
    said = 2 * sum(map(len, answers))
    shares = account.shares()
    assert shares["assistant"] == ScoredShare(said, said)
    assert {name: share.value for name, share in shares.items()} == {
        "system": 0, "user": 0, "assistant": 1, "template": 0,
    }  # fmt: skip
    assert account.total == ScoredShare(said, 2 * len(ENCODER.dialogue(DIALOGUE, loss_on="assistant").ids))
    assert account.stops == 4
    assert account.summary() == (
        f"{said} of {account.total.tokens} tokens are learned (system 0%, user 0%, assistant 100%, template 0%), "
        "4 stop tokens among them"
    )
    account.check(loss_on="assistant")


def test_everything_but_the_first_token_is_learned_on_request():
    account = supervision("everything")
    assert account.total.tokens - account.total.scored == 2
    account.check(loss_on="everything")


def test_a_mask_of_nothing_is_refused():
    account = LossMaskStats(ENCODER.stop_ids)
    row = ENCODER.dialogue(DIALOGUE, loss_on="assistant")
    account.add(row._replace(scored=np.zeros_like(row.scored)))
    with pytest.raises(DataError, match="loss mask of 1 rows: none of its tokens would be learned"):
        account.check(loss_on="assistant")


def test_a_mask_without_stop_tokens_is_refused():
    account = LossMaskStats(ENCODER.stop_ids)
    row = ENCODER.dialogue(DIALOGUE, loss_on="assistant")
    account.add(row._replace(scored=row.scored & ~np.isin(row.ids, ENCODER.stop_ids)))
    with pytest.raises(DataError, match="no stop token would be learned, so the model would never end an answer"):
        account.check(loss_on="assistant")


def test_a_mask_of_everything_is_refused_where_answers_are_meant():
    account = LossMaskStats(ENCODER.stop_ids)
    row = ENCODER.dialogue(DIALOGUE, loss_on="assistant")
    account.add(row._replace(scored=np.arange(len(row.ids)) > 0))
    with pytest.raises(DataError, match=r"\d+ tokens outside the assistant's answers would be learned"):
        account.check(loss_on="assistant")

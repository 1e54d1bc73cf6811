from dataclasses import replace

import pytest

from tests.estimate.test_model_shape import TINY
from tests.estimate.workloads import MISTRAL, with_lora, with_train, workload
from zephyr.estimate.row_lengths import RowLengths, known_rows
from zephyr.estimate.workload import Workload, adapter_parameters, forward_flops, stage_flops, train_flops
from zephyr.recipe.stage_sections import SftSection
from zephyr.recipe.train_section import LoraSection

PAIR = RowLengths(num_rows=10, prompt_tokens=3, completion_tokens=2, num_completions=2)


def test_a_pass_over_a_pair_by_hand():
    # 288 weights meet 7 tokens. The prompt's tokens see 1 + 2 + 3 keys, those of each answer 4 + 5.
    weights, attention, head = 2 * 288 * 7, 4 * 2 * 2 * 2 * (6 + 9 + 9), 2 * 10 * 4 * 4
    assert forward_flops(TINY, PAIR) == weights + attention + head == 5120
    # With the prompt twice: 10 tokens, and its 6 keys twice.
    assert forward_flops(TINY, PAIR, shared=False) == 2 * 288 * 10 + 32 * 30 + head


def test_a_window_bounds_the_keys():
    narrow = replace(TINY, sliding_window=1)
    assert forward_flops(TINY, PAIR) - forward_flops(narrow, PAIR) == 32 * (24 - 7)


def test_backward_recomputing_and_adapters():
    training = workload(TINY, PAIR, train_batch_size=4)
    assert train_flops(training) == 3 * 5120
    # Of the layers, without the head and each one's last product of 4 by 8 with 7 tokens.
    head, last = 2 * 10 * 4 * 4, 2 * 4 * 8 * 7
    again = with_train(training, activation_checkpointing=True)
    assert train_flops(again) == 4 * 5120 - head - 2 * last
    assert train_flops(with_train(training, activation_checkpointing="selective")) == 3 * 5120
    assert (
        train_flops(with_train(training, activation_checkpointing=2)) == 3 * 5120 + (train_flops(again) - 3 * 5120) / 2
    )
    assert train_flops(with_lora(training, LoraSection(r=2))) == 2 * 5120
    assert train_flops(with_lora(again, LoraSection(r=2))) == 3 * 5120 - head


def test_adapters_by_hand():
    # Rank 3; rows and columns of q, o (4 and 4), k, v (4 and 2), and three matrices of 4 and 8, in two layers.
    assert adapter_parameters(LoraSection(r=3), TINY) == 3 * 2 * (2 * 8 + 2 * 6 + 3 * 12)
    attention = LoraSection(r=3, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    assert adapter_parameters(attention, TINY) == 3 * 2 * 28
    assert adapter_parameters(attention.model_copy(update={"layers_to_transform": [1]}), TINY) == 3 * 28


def test_the_reference_and_evaluations_are_counted():
    rows = replace(PAIR, held_out=5)
    training = workload(TINY, rows, "dpo", train_batch_size=4, num_train_epochs=2, eval_steps=2)
    assert (training.steps.steps_per_epoch, training.num_steps, training.num_evaluations) == (3, 6, 3)
    once = 10 + 5
    assert stage_flops(training) == 5120 * (2 * 10 * 3 + 3 * 5 + once)
    in_every_step = 2 * 10 + 3 * 5
    assert stage_flops(training, as_usual=True) == forward_flops(TINY, rows, shared=False) * (
        2 * 10 * 3 + 3 * 5 + in_every_step
    )
    # A step sees 4 of 10 rows, and the reference no others.
    short = workload(TINY, rows, "dpo", train_batch_size=4, max_steps=1)
    assert stage_flops(short) == pytest.approx(5120 * (short.num_epochs * 10 * (3 + 1) + 5 + 5))


@pytest.mark.parametrize(
    ("num_rows", "batch", "epochs", "steps"),
    [(61_966, 32, 3, 5811), (61_135, 128, 1, 478), (7_563, 32, 3, 711)],
)
def test_steps_of_the_published_runs(num_rows, batch, epochs, steps):
    rows = replace(PAIR, num_rows=num_rows)
    assert workload(TINY, rows, train_batch_size=batch, num_train_epochs=epochs).num_steps == steps


def test_max_steps_cut_the_work():
    training = workload(TINY, PAIR, train_batch_size=5, max_steps=1)
    assert (training.num_steps, training.trained_tokens) == (1, 5 * 7)


def test_ultrachat_fills_the_published_sequences():
    known = known_rows("HuggingFaceH4/ultrachat_200k", "train_sft")
    assert known is not None
    assert round(known.rows.num_rows * known.rows.tokens / 2048, -3) == 139_000
    assert known_rows("someone/else", "train") is None


def test_a_token_of_a_7b_model_takes_six_operations_a_weight():
    a_token = train_flops(workload(MISTRAL, RowLengths(1, 0, 2048))) / 2048
    assert a_token == pytest.approx(6 * 7.11e9 + 3 * 4 * 32 * 4096 * 1024.5, rel=1e-3)


def test_packed_batches_count_sequences_of_the_longest_length():
    train = {"learning_rate": 1.0e-5, "train_batch_size": 4}
    fields = {"data": {"max_length": 32}, "batch_counts": "packed", "train": train}
    packed = Workload("sft", SftSection.model_validate(fields), TINY, RowLengths(160, 0, 8))
    assert (packed.examples_per_step, packed.num_steps) == (16, 10)
    assert not packed.needs_reference

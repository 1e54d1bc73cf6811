from dataclasses import replace

import pytest

from tests.estimate.workloads import DPO, with_lora, with_max_length, with_train
from zephyr.estimate.devices import ACCELERATORS
from zephyr.estimate.memory import (
    activation_bytes,
    advice,
    memory_of,
    micro_batch_tokens,
    moment_bytes,
    smallest_number,
)
from zephyr.estimate.model_shape import KNOWN_SHAPES
from zephyr.estimate.row_lengths import known_rows
from zephyr.estimate.workload import Workload
from zephyr.recipe.stage_sections import PretrainSection
from zephyr.recipe.train_section import LoraSection
from zephyr.runs.lock_file import requested_run

GB = 10**9
A100 = ACCELERATORS["a100-80g"]


def test_full_training_of_7b_takes_16_bytes_a_weight():
    memory = memory_of(DPO, 1)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * 7_241_732_096
    # What autocast casts while a pass lasts.
    assert memory.gathered == 2 * 7_241_732_096


def test_sharding_divides_the_state_and_gathers_two_layers_and_the_tables():
    memory = memory_of(DPO, 16)
    assert memory.weights + memory.gradients + memory.optimizer == 7_241_732_096
    assert memory.gathered == 2 * (2 * 218_112_000 + 2 * 32000 * 4096)


def test_recomputed_activations_by_hand():
    # A token keeps 32 layers' inputs, 4096 numbers of two bytes, and one and a half layers in full:
    # two bytes each of 4 x 4096, queries and output 2 x 4096, keys and values 2 x 1024, 4 x 14336; float32 norms.
    a_layer = 2 * (4 * 4096 + 2 * 4096 + 2 * 1024 + 4 * 14336) + 8 * 4096
    assert memory_of(DPO, 1).activations == 8192 * (32 * 2 * 4096 + 1.5 * a_layer)
    kept = with_train(DPO, activation_checkpointing=False)
    assert memory_of(kept, 1).activations == 8192 * 32 * a_layer


def test_the_logits_that_are_never_there():
    scored = 550 / 745
    assert memory_of(DPO, 1).logits_avoided == pytest.approx(8192 * scored * 32000 * 4)
    assert memory_of(DPO, 1).loss < memory_of(DPO, 1).logits_avoided


def test_a_micro_batch_is_no_larger_than_a_part_of_a_batch_nor_smaller_than_a_row():
    assert micro_batch_tokens(DPO, 1) == 8192
    assert micro_batch_tokens(with_train(DPO, max_tokens_per_micro_batch=100_000), 1) == 32 * 745
    assert micro_batch_tokens(DPO, 32) == pytest.approx(1024 * 745 / 470)


def test_eight_bit_moments_and_a_141b_model_on_32_gpus():
    shape = KNOWN_SHAPES["mistral-community/Mixtral-8x22B-v0.1"]
    training = with_train(replace(DPO, shape=shape), precision="pure_bf16", optim="adamw_8bit")
    training = with_max_length(training, 2048)
    assert moment_bytes(training) == pytest.approx(2.03, abs=0.01)
    memory = memory_of(training, 32)
    assert 32 * memory.weights == pytest.approx(281.2 * GB, rel=1e-3)
    assert memory.fits(ACCELERATORS["h100-80g"])
    assert not memory_of(with_train(training, optim="adamw_torch", precision="bf16"), 32).fits(ACCELERATORS["h100-80g"])


@pytest.mark.parametrize(
    ("optim", "least", "most"),
    [("lion", 4, 4), ("muon", 4.1, 4.2), ("adafactor", 0.0019, 0.002), ("schedule_free_adamw", 8, 8)],
)
def test_states_of_other_optimizers(optim, least, most):
    """Of a 7B model whose embedding and head are 262 M of its 7.24 B weights, rows and columns 4096 long."""
    assert least <= moment_bytes(with_train(DPO, optim=optim, precision="bf16")) <= most


def test_only_a_moving_reference_is_held():
    assert memory_of(DPO, 1).reference == 0
    objective = DPO.section.objective.model_copy(update={"reference_sync_steps": 512})
    moving = replace(DPO, section=DPO.section.model_copy(update={"objective": objective}))
    assert memory_of(moving, 1).reference == 4 * 7_241_732_096


def test_qlora_of_7b_fits_24_gigabytes():
    qlora = with_train(with_lora(DPO, LoraSection(r=16, load_in_4bit=True)), max_tokens_per_micro_batch=2048)
    assert memory_of(qlora, 1).fits(ACCELERATORS["rtx3090-24g"])
    assert 4.0 * GB < memory_of(qlora, 1).weights < 5.0 * GB


def test_advice_is_true():
    assert advice(DPO, A100, 16) == []
    words = advice(DPO, A100, 1)
    enough = smallest_number(DPO, A100)
    assert enough is not None
    assert memory_of(DPO, enough).fits(A100)
    assert not memory_of(DPO, enough // 2).fits(A100)
    assert f"--gpus {enough}" in words
    # The settings that are named first do make it fit.
    changed = with_train(DPO, max_tokens_per_micro_batch=2048, optim="adamw_8bit", precision="pure_bf16")
    assert words[0].endswith("align.train.precision=pure_bf16")
    assert memory_of(changed, 1).fits(A100)
    assert not memory_of(with_train(changed, precision="bf16"), 1).fits(A100)
    assert any("load_in_4bit" in one for one in words)


def test_selective_checkpointing_is_advised_where_it_is_enough():
    # On 8 GPUs of 80 GiB: 12,288 tokens of every layer are too much, half of that is not.
    kept = with_train(DPO, activation_checkpointing=False, train_batch_size=512, max_tokens_per_micro_batch=12_288)
    assert not memory_of(kept, 8).fits(A100)
    words = advice(kept, A100, 8)
    assert words[0] == "align.train.activation_checkpointing=selective"
    assert memory_of(with_train(kept, activation_checkpointing="selective"), 8).fits(A100)
    assert any(word.startswith("--gpus") for word in words[1:])


def test_adapters_are_not_advised_where_a_stage_has_none():
    pretrain = Workload("pretrain", PretrainSection(train=DPO.train), DPO.shape, DPO.rows)
    assert not any("lora" in one for one in advice(pretrain, A100, 1))


def test_a_layer_s_gradients_are_whole_before_they_are_added_up_over_ranks():
    # Those of the tables, which are larger than a layer: as made, in bfloat16, and copied to float32.
    assert memory_of(DPO, 16).reduced == 2 * 32_000 * 4096 * (2 + 4)
    assert memory_of(DPO, 1).reduced == 0
    # Adapters alone have gradients: 16 times the ends of seven matrices.
    adapters = with_train(with_lora(DPO, LoraSection(r=16)), max_tokens_per_micro_batch=16)
    assert memory_of(adapters, 16).reduced == 16 * (2 * 8192 + 2 * (4096 + 1024) + 3 * (4096 + 14336)) * (2 + 4)


def test_the_loss_is_done_before_gradients_are_added_up():
    memory = memory_of(with_lora(DPO, LoraSection(r=16)), 16)
    assert memory.loss > 0
    assert memory.reduced == 0
    assert memory_of(with_train(DPO, reduce_dtype="bfloat16"), 16).reduced == 2 * 32_000 * 4096 * (2 + 2)


def test_selective_checkpointing_keeps_what_products_and_attention_give_by_hand():
    kept = with_train(DPO, activation_checkpointing="selective")
    # A layer's input, queries, keys, values, what attention gives and its projection; gate, up and down.
    a_layer = 2 * (4096 + 4096 + 2 * 1024 + 4096 + 4096 + 2 * 14336 + 4096)
    whole = 2 * (4 * 4096 + 2 * 4096 + 2 * 1024 + 4 * 14336) + 8 * 4096
    assert activation_bytes(kept) == 32 * a_layer + 1.5 * whole
    assert (
        activation_bytes(DPO)
        < activation_bytes(kept)
        < 0.6 * activation_bytes(with_train(DPO, activation_checkpointing=False))
    )


def test_layers_between_those_that_are_computed_again_are_kept_by_hand():
    a_layer, an_input = activation_bytes(with_train(DPO, activation_checkpointing=False)) / 32, 2 * 4096
    kept = {every: activation_bytes(with_train(DPO, activation_checkpointing=every)) for every in (2, 3, 31, 33)}
    assert kept[2] == 16 * an_input + (16 + 1.5) * a_layer
    # The 31st and 32nd layer are done with before the 30th is computed again; the 32nd before the 31st.
    assert kept[3] == 10 * an_input + 22 * a_layer
    assert kept[31] == an_input + (31 + 0.5) * a_layer
    assert kept[33] == 32 * a_layer


def test_layers_to_compute_again_are_advised_where_compile_refuses_selective():
    kept = with_train(DPO, activation_checkpointing=False, compile=True, max_tokens_per_micro_batch=10_240)
    kept = with_train(kept, train_batch_size=512)
    assert advice(kept, A100, 8)[0] == "align.train.activation_checkpointing=4"
    assert memory_of(with_train(kept, activation_checkpointing=4), 8).fits(A100)


def test_gradients_and_activations_of_a_single_micro_batch_never_meet():
    alone = with_train(DPO, activation_checkpointing=False)  # a rank's two pairs
    memory = memory_of(alone, 16)
    assert memory.gradients == 0
    assert memory.activations > 1024 * 745 / 470 * 32 * 100_000
    again = memory_of(DPO, 16)
    assert again.gradients == 4 * 7_241_732_096 / 16
    assert again.loss == 0


@pytest.mark.parametrize(
    ("recipe", "stage", "checkpointing", "num_ranks", "simulated_gib"),
    [
        ("zephyr-7b-beta", "align", True, 1, 126.38),
        ("zephyr-7b-beta", "align", True, 8, 16.34),
        ("zephyr-7b-beta", "align", "selective", 8, 21.93),
        ("zephyr-7b-beta", "align", 3, 8, 24.89),
        ("zephyr-7b-beta", "align", True, 16, 9.51),
        ("zephyr-7b-beta", "sft", True, 1, 126.70),
        ("zephyr-7b-beta", "sft", True, 8, 19.71),
        ("zephyr-7b-beta", "sft", "selective", 8, 41.36),
        ("zephyr-7b-beta", "sft", 4, 8, 54.23),
        ("zephyr-7b-beta", "sft", True, 16, 12.97),
        ("zephyr-141b-a39b-orpo", "align", True, 32, 49.45),
    ],
)
def test_arithmetic_is_within_a_tenth_of_the_simulation(recipe, stage, checkpointing, num_ranks, simulated_gib):
    """What `zephyr plan RECIPE --simulate --gpus N` found on 2026-11-29 and 30."""
    words = [f"{stage}.train.activation_checkpointing={str(checkpointing).lower()}"]
    whole = requested_run(recipe, words, offline=True).recipe
    shape, section = KNOWN_SHAPES[whole.model.name_or_path], getattr(whole, stage)
    lengths = known_rows(section.data.sources[0].path, section.data.sources[0].split).rows
    memory = memory_of(Workload(stage, section, shape, lengths), num_ranks)
    assert (memory.total - memory.runtime) / 2**30 == pytest.approx(simulated_gib, rel=0.1)

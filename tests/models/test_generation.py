"""Generation: what comes out is what one prompt alone would give, and shared prefixes are computed once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slowly import of_each_kind, slow
from zephyr.errors import ModelError
from zephyr.models.adapters import adapters_disabled, add_lora
from zephyr.models.attention import IMPLEMENTATION
from zephyr.models.generation import Completion, generate, stop_ids_of
from zephyr.models.sampling import Stopping, draw, filtered_probs
from zephyr.models.tiny import TINY, tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection

dice = np.random.default_rng(0)
SYSTEM = dice.integers(4, 128, 40).tolist()
SHOTS = dice.integers(4, 128, 20).tolist()
# Ragged, longer than the window of 8, sharing prefixes of every kind: nested, whole prompts, none.
PROMPTS = [
    [*SYSTEM, 5, 6, 7],
    [*SYSTEM, *SHOTS, 9],
    [*SYSTEM, *SHOTS, 9, 10, 11, 12, 13],
    SYSTEM[:30],
    [7],
    [*SYSTEM, *SHOTS, 9],
    [*SYSTEM, *[8] * 25],
    [*SYSTEM, *SHOTS],
]
STOPS = (2, 3, 4, 5, 6, 7, 8, 9)


def widest(name: str) -> torch.dtype:
    """The widest dtype that all operators of an architecture compute in."""
    return torch.float64 if TINY[name].float64 else torch.float32


def greedy_alone(model, prompt, *, max_new_tokens: int, stop_ids=STOPS) -> tuple[int, ...]:
    """What transformers generates from this prompt alone."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def logps_alone(model, prompt, ids) -> float:
    """The log-prob of `ids` after `prompt` by one plain forward."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return float(logits.double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


def sampled(**settings_):
    """Sampling from the model's own distribution, but for these settings."""
    return SamplingSection(**({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings_))


def texts(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.ids for completion in completions]


# ---- against transformers and plain forwards ----


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_greedy_is_what_transformers_gives_one_prompt_alone(name):
    model = tiny_model(name, dtype=widest(name))
    greedy = sampled(max_new_tokens=16, temperature=0)
    completions = generate(model, PROMPTS, greedy, stop=Stopping(STOPS), num_samples=2)
    assert [(c.prompt_index, c.sample_index) for c in completions] == [(p, s) for p in range(8) for s in range(2)]
    for completion in completions:
        alone = greedy_alone(model, PROMPTS[completion.prompt_index], max_new_tokens=16)
        assert completion.ids == alone
        assert completion.finish_reason == ("stop" if alone[-1] in STOPS else "length")
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


@pytest.mark.parametrize("window", [5, slow(2), slow(64)])
@pytest.mark.parametrize("name", of_each_kind(name for name in TINY if not TINY[name].stateful))
def test_greedy_in_float32_and_with_windows_of_other_lengths(name, window):
    model = tiny_model(name, sliding_window=window, seed=window)
    greedy = sampled(max_new_tokens=12, temperature=0)
    for prompt, completion in zip(PROMPTS, generate(model, PROMPTS, greedy), strict=True):
        alone = greedy_alone(model, prompt, max_new_tokens=12, stop_ids=())
        assert completion.ids == alone or is_tie(model, prompt, completion.ids, alone)


def is_tie(model, prompt, tokens, others) -> bool:
    """Whether the first two tokens that differ are equally likely but for rounding in float32."""
    step = next(step for step, (token, other) in enumerate(zip(tokens, others, strict=True)) if token != other)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *tokens[:step]]])).logits[0, -1]
    return bool((logits[tokens[step]] - logits[others[step]]).abs() < 1e-6)


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_logprobs_are_those_of_the_unfiltered_model(name):
    model = tiny_model(name, dtype=widest(name))
    hot = sampled(max_new_tokens=10, temperature=1.7, top_k=40, top_p=0.9)
    for completion in generate(model, PROMPTS, hot, stop=Stopping(STOPS), num_samples=2, seed=3):
        alone = logps_alone(model, PROMPTS[completion.prompt_index], completion.ids)
        assert completion.logprob == pytest.approx(alone, abs=1e-4)


def test_bfloat16_differs_from_plain_forwards_by_rounding_alone():
    model = tiny_model("llama", dtype=torch.bfloat16)
    for completion in generate(model, PROMPTS, sampled(max_new_tokens=6), num_samples=2, seed=3):
        alone = logps_alone(model, PROMPTS[completion.prompt_index], completion.ids)
        assert completion.logprob == pytest.approx(alone, abs=0.5)


@pytest.mark.parametrize("cheap_bytes", [0, 1 << 19])
def test_mixed_lengths_of_random_prompts(cheap_bytes, monkeypatch):
    monkeypatch.setattr("zephyr.models.key_values.CHEAP_PADDING_BYTES", cheap_bytes)
    model = tiny_model("gemma3_text", dtype=torch.float64)
    for rng in map(np.random.default_rng, range(3)):
        trunk = rng.integers(4, 7, 60)
        prompts = [
            [*trunk[: rng.integers(1, 60)].tolist(), *rng.integers(4, 7, rng.integers(0, 30)).tolist()]
            for _ in range(12)
        ]
        greedy = sampled(max_new_tokens=6, temperature=0)
        alone = [greedy_alone(model, prompt, max_new_tokens=6, stop_ids=()) for prompt in prompts]
        for budget in (100, 300, 65_536):
            assert texts(generate(model, prompts, greedy, max_cache_tokens=budget)) == alone


# ---- determinism ----


@pytest.mark.parametrize("name", ["mistral", "mamba", *map(slow, ("mixtral", "gemma2", "gpt2", "qwen3_next"))])
def test_samples_do_not_depend_on_their_batch(name):
    model = tiny_model(name)
    sampling = sampled(max_new_tokens=8, temperature=0.9, top_k=50, top_p=0.95)
    whole = texts(generate(model, PROMPTS, sampling, stop=Stopping((2, 3)), num_samples=4, seed=1))
    assert texts(generate(model, PROMPTS, sampling, stop=Stopping((2, 3)), num_samples=4, seed=1)) == whole
    assert (
        texts(generate(model, PROMPTS, sampling, stop=Stopping((2, 3)), num_samples=4, seed=1, max_cache_tokens=90))
        == whole
    )
    first = texts(generate(model, PROMPTS[:1], sampling, stop=Stopping((2, 3)), num_samples=4, seed=1))
    assert first == whole[:4]
    assert texts(generate(model, PROMPTS[:1], sampling, stop=Stopping((2, 3)), num_samples=2, seed=1)) == whole[:2]
    assert texts(generate(model, PROMPTS, sampling, stop=Stopping((2, 3)), num_samples=4, seed=2)) != whole
    assert len(set(whole)) > 0.8 * len(whole)


def test_longer_limits_continue_the_same_text():
    model = tiny_model("llama")
    short = texts(generate(model, PROMPTS, sampled(max_new_tokens=4), seed=1))
    long = texts(generate(model, PROMPTS, sampled(max_new_tokens=9), seed=1))
    assert [ids[:4] for ids in long] == short


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    generate(tiny_model("llama"), PROMPTS, sampled(max_new_tokens=4), num_samples=2)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- the distribution ----


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        # Probabilities 8, 4, 2, 1, 1 of 16.
        (sampled(temperature=1), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        # Squared: 64, 16, 4, 1, 1 of 86.
        (sampled(temperature=0.5), [64 / 86, 16 / 86, 4 / 86, 1 / 86, 1 / 86]),
        (sampled(top_k=2), [8 / 12, 4 / 12, 0, 0, 0]),
        (sampled(top_k=99), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        # 0.5 + 0.25 are not 0.8 yet, so the third is in.
        (sampled(top_p=0.8), [8 / 14, 4 / 14, 2 / 14, 0, 0]),
        (sampled(top_p=0.01), [1, 0, 0, 0, 0]),
        # top_k first: 8, 4, 2 of 14; then 8 / 14 alone is below 0.6, and 12 / 14 above.
        (sampled(top_k=3, top_p=0.6), [8 / 12, 4 / 12, 0, 0, 0]),
        (sampled(top_k=2, top_p=0.6), [1, 0, 0, 0, 0]),
        # Temperature first: 64 / 86 > 0.7 suffices, where 0.5 would not.
        (sampled(temperature=0.5, top_p=0.7), [1, 0, 0, 0, 0]),
    ],
)
def test_filters_by_hand(sampling, expected):
    logits = torch.tensor([[8.0, 4, 2, 1, 1]], dtype=torch.float64).log()
    assert torch.allclose(filtered_probs(logits, sampling)[0], torch.tensor(expected, dtype=torch.float64))


def test_draws_invert_the_cumulative_distribution():
    logits = torch.tensor([[8.0, 4, 2, 1, 1]], dtype=torch.float64).log()
    points = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.874, 0.876, 0.94, 0.99, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(logits.expand(len(points), -1), sampled(), points)
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 4]


@settings(max_examples=50)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.05, 3),
    st.integers(0, 50),
    st.floats(0.01, 1),
)
def test_no_filtered_token_is_ever_drawn(logits, uniform, temperature, top_k, top_p):
    row = torch.tensor([logits])
    sampling = sampled(temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = draw(row, sampling, torch.tensor([uniform], dtype=torch.float64))
    probs = filtered_probs(row, sampling)[0]
    assert probs[drawn[0]] > 0
    assert float(probs.sum()) == pytest.approx(1, abs=1e-5)


def test_frequencies_of_samples_are_the_filtered_probabilities():
    model = tiny_model("qwen3", vocab_size=16)
    sampling = sampled(max_new_tokens=1, temperature=1.3, top_k=6, top_p=0.9)
    num = 4000
    drawn = [ids[0] for ids in texts(generate(model, [[5, 9, 3]], sampling, num_samples=num, seed=11))]
    with torch.no_grad():
        probs = filtered_probs(model(torch.tensor([[5, 9, 3]])).logits[:, -1], sampling)[0].double().numpy()
    counts = np.bincount(drawn, minlength=16)
    assert counts[probs == 0].sum() == 0
    kept = probs > 0
    assert kept.sum() >= 3
    chi_square = float((((counts - num * probs) ** 2)[kept] / (num * probs)[kept]).sum())
    assert chi_square < 25  # 5 degrees of freedom at most: 1 chance in 7,000


# ---- work ----


class Counted:
    """Counts the tokens of every forward of a model that was tried before."""

    def __init__(self, model):
        generate(model, [[5, 6]], sampled(max_new_tokens=1))
        self.widths = []
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: self.note(inputs[0]))

    def note(self, ids):
        self.widths.append(ids.numel())


def test_shared_prefixes_are_computed_once():
    model = tiny_model("llama")
    counted = Counted(model)
    prompts = [[*SYSTEM, *SHOTS, *[i] * 20, i] for i in range(10, 18)]
    generate(model, prompts, sampled(max_new_tokens=1), num_samples=4)
    # The 60 tokens that all share, the 20 of each prompt that its samples share, and the last one of every sample.
    assert counted.widths == [60 + 8 * 20, 8 * 4]


def test_shared_prefixes_are_computed_once_with_little_room_too():
    model = tiny_model("llama")
    counted = Counted(model)
    prompts = [[*SYSTEM, *SHOTS, i, i] for i in range(10, 18)]
    generate(model, prompts, sampled(max_new_tokens=1), num_samples=4, max_cache_tokens=120)
    assert sum(counted.widths) == 60 + 32 * 2
    assert len(counted.widths) > 4


def test_nested_prefixes_are_computed_once():
    model = tiny_model("llama")
    counted = Counted(model)
    prompts = [[*SYSTEM, start, *SHOTS, end, 5] for start in (10, 11) for end in (12, 13, 14)]
    generate(model, prompts, sampled(max_new_tokens=1))
    assert counted.widths == [40 + 2 * 21 + 6 * 2]


def test_equal_prompts_are_computed_once():
    model = tiny_model("llama")
    counted = Counted(model)
    generate(model, [[*SYSTEM, 5]] * 6, sampled(max_new_tokens=1), num_samples=2)
    assert counted.widths == [40, 12]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_what_is_shared_may_be_copied_or_read_where_it_stands(name, monkeypatch):
    model, sampling = tiny_model(name), sampled(max_new_tokens=4, temperature=0.9)
    copied = texts(generate(model, PROMPTS, sampling, num_samples=2))
    monkeypatch.setattr("zephyr.models.packed_decoding.MIN_COPIED_BYTES", 0)
    assert texts(generate(model, PROMPTS, sampling, num_samples=2)) == copied


def test_finished_rows_leave_the_batch_at_once():
    model = tiny_model("llama")
    counted = Counted(model)
    prompts = [[first, 5] for first in range(10, 42)]
    completions = generate(model, prompts, sampled(max_new_tokens=12), stop=Stopping(STOPS))
    alive = [sum(len(completion.ids) > step for completion in completions) for step in range(1, 12)]
    assert counted.widths[1:] == [rows for rows in alive if rows]
    assert alive[-1] < alive[0] < 32


def test_the_place_of_a_finished_row_is_taken_at_once(monkeypatch):
    monkeypatch.setattr("zephyr.models.generation.MAX_TOGETHER", 4)
    model = tiny_model("llama")
    counted = Counted(model)
    completions = generate(model, [[5]] * 40, sampled(max_new_tokens=30), stop=Stopping((2, 3, 4)))
    lengths = [len(completion.ids) for completion in completions]
    assert min(lengths) < max(lengths)
    # Four tokens a step while prompts wait, so none is idle but at the end.
    assert sum(counted.widths) == sum(lengths)
    full = [width == 4 for width in counted.widths]
    assert full == sorted(full, reverse=True)
    assert full.count(False) <= max(lengths)


def test_stop_tokens_end_a_completion_and_belong_to_it():
    model = tiny_model("llama")
    free = generate(model, PROMPTS, sampled(max_new_tokens=12), seed=5)
    stop = free[0].ids[4]
    stopped = generate(model, PROMPTS, sampled(max_new_tokens=12), stop=Stopping((stop,)), seed=5)
    for before, after in zip(free, stopped, strict=True):
        ends = before.ids.index(stop) + 1 if stop in before.ids else 12
        assert after.ids == before.ids[:ends]
        assert after.finish_reason == ("stop" if stop in before.ids else "length")


# ---- the model around it ----


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_attention_for_forests_is_switched_and_put_back(name):
    model = tiny_model(name)
    greedy = sampled(max_new_tokens=8, temperature=0)
    expected = texts(generate(model, PROMPTS, greedy))
    model.set_attn_implementation(IMPLEMENTATION)
    assert texts(generate(model, PROMPTS, greedy)) == expected
    assert model.config._attn_implementation == IMPLEMENTATION


def test_mode_is_put_back_module_by_module():
    model = tiny_model("llama").train()
    model.lm_head.eval()
    generate(model, PROMPTS, sampled(max_new_tokens=2))
    assert model.training
    assert model.model.layers[0].training
    assert not model.lm_head.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_take_part():
    plain = tiny_model("llama")
    greedy = sampled(max_new_tokens=8, temperature=0)
    expected = texts(generate(plain, PROMPTS, greedy))
    model = add_lora(tiny_model("llama"), LoraSection(r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    with adapters_disabled(model):
        assert texts(generate(model, PROMPTS, greedy)) == expected
    assert texts(generate(model, PROMPTS, greedy)) != expected


def test_stop_ids_are_those_of_model_and_tokenizer():
    model, tokenizer = tiny_model("llama", vocab_size=384), tiny_tokenizer()
    assert stop_ids_of(model, tokenizer) == (2,)
    model.generation_config.eos_token_id = [7, 5]
    assert stop_ids_of(model, tokenizer) == (2, 5, 7)
    model.generation_config.eos_token_id = None
    assert stop_ids_of(model, tokenizer) == (2,)


# ---- what is refused ----


def test_bad_prompts_are_named():
    model = tiny_model("llama")
    some = sampled(max_new_tokens=8)
    with pytest.raises(ModelError, match=r"^prompt 1: holds no tokens; begin it"):
        generate(model, [[1], []], some)
    with pytest.raises(ModelError, match=r"^prompt 1: token id 128 at position 1 is not in the vocabulary of 128"):
        generate(model, [[1], [3, 128]], some)
    with pytest.raises(ModelError, match=r"^prompt 0: 2045 tokens and 8 new ones exceed the 2048 positions"):
        generate(model, [[5] * 2045], some)
    with pytest.raises(ModelError, match=r"^prompt 1: needs 48 tokens of cache, more than max_cache_tokens=40"):
        generate(model, [[1], [5] * 40], some, max_cache_tokens=40)


def test_numbers_that_are_not_finite_stop_generation():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ModelError, match=r"^prompt 0, new token 0: the model's logits are not finite"):
        generate(model, [[1, 2]], sampled(max_new_tokens=2))


def test_no_prompts_and_no_samples():
    assert generate(tiny_model("llama"), [], sampled()) == []
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        generate(tiny_model("llama"), [[1]], sampled(), num_samples=0)

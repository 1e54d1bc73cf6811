"""Faults planted into whole runs: each stops training with the right words, and before a weight has changed."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.train.tiny_runs import examples_for, logged, pairs, tiny_job, weights
from zephyr.data.tokenize.token_store import Dialogue
from zephyr.errors import DataError, InvariantError, ModelError
from zephyr.models import batch_scoring as tables
from zephyr.models import carried_state
from zephyr.models.adapters import add_lora
from zephyr.models.tiny import EOS_ID, tiny_model
from zephyr.recipe.train_section import LoraSection
from zephyr.train import job as jobs
from zephyr.train import step
from zephyr.train import train as loop
from zephyr.train.checkpoint.checkpoint import whole_checkpoints
from zephyr.train.checks import invariants, self_check
from zephyr.train.job import build_scorer
from zephyr.train.objectives.table import Dpo
from zephyr.train.reference_store import ReferenceStore
from zephyr.train.train import train
from zephyr.trees import forest, rule, sdpa

NAN = float("nan")


def stopped(job, error):
    """What the error said; the model must be as it was and no checkpoint written."""
    before = weights(job.model)
    with pytest.raises(error) as caught:
        train(job)
    for name, tensor in weights(job.model).items():
        assert torch.equal(tensor, before[name]), name
    assert list(job.folder.glob("checkpoint-*")) == []
    return str(caught.value)


# The layout


def test_attention_over_the_whole_row_is_seen(tmp_path, monkeypatch):
    def everything_before(layout, window=None):
        return torch.ones(layout.num_tokens, layout.num_tokens, dtype=torch.bool).tril()

    monkeypatch.setattr(rule, "visible", everything_before)
    monkeypatch.setattr("zephyr.trees.attention.pick_attention", lambda *_, **__: rule.eager_attention)
    said = stopped(tiny_job(tmp_path), InvariantError)
    assert said.startswith("layout of sequences: packed with others a sequence has other log-probs than alone")


def test_a_reach_that_goes_too_far_is_seen(tmp_path, monkeypatch):
    """The subtree of every token ends one token late, so the next sequence sees the last one's first tokens."""
    vectors = forest._token_vectors

    def too_far(*arguments):
        ids, position, reach, parent = vectors(*arguments)
        return ids, position, np.minimum(reach + 1, len(ids)), parent

    monkeypatch.setattr(forest, "_token_vectors", too_far)
    monkeypatch.setattr("zephyr.trees.attention.pick_attention", lambda *_, **__: rule.eager_attention)
    assert "layout of sequences: packed with others" in stopped(tiny_job(tmp_path), InvariantError)


def test_a_path_that_a_branch_does_not_see_is_seen(tmp_path, monkeypatch):
    """Each completion but the first forgets its prompt, as if packed without its path."""
    monkeypatch.setattr(sdpa, "MERGED_QUERIES", 0)
    chains = forest._chains
    monkeypatch.setattr(forest, "_chains", lambda segments: (chain._replace(path=()) for chain in chains(segments)))
    assert "layout of sequences: packed with others" in stopped(tiny_job(tmp_path), InvariantError)


def test_positions_that_do_not_restart_are_seen(tmp_path, monkeypatch):
    vectors = forest._token_vectors

    def running_on(*arguments):
        ids, position, reach, parent = vectors(*arguments)
        # Between a prompt and its second completion lies the first: rotary embeddings see the longer distance.
        return ids, np.arange(len(position)), reach, parent

    monkeypatch.setattr(forest, "_token_vectors", running_on)
    assert "must keep its tokens and positions, but that of" in stopped(tiny_job(tmp_path), InvariantError)


def test_targets_of_the_next_edge_are_seen(tmp_path, monkeypatch):
    """Each source is asked for what the source before it should predict, over the ends of sequences."""
    build = forest.build_forest

    def shifted(sequences):
        built = build(sequences)
        return dataclasses.replace(built, edge_target=built.edge_target.roll(1))

    for module in (tables, invariants):
        monkeypatch.setattr(module, "build_forest", shifted)
    assert stopped(tiny_job(tmp_path), InvariantError).startswith("layout of sequences: ")


def test_a_fault_of_large_micro_batches_alone_is_seen_at_the_first_loss(tmp_path, monkeypatch):
    """The probe before training is small; what it cannot show, the first loss does."""
    cut, gradients = sdpa._blocks, loop.accumulate_gradients

    def spoiled(layout, window, device):
        for block in cut(layout, window, device):
            yield block._replace(mask=torch.ones_like(block.mask))

    def with_fault(scorer, batch, settings):
        monkeypatch.setattr(sdpa, "_blocks", spoiled)
        return gradients(scorer, batch, settings)

    monkeypatch.setattr(loop, "accumulate_gradients", with_fault)
    job = tiny_job(tmp_path, max_tokens_per_micro_batch=400)
    said = stopped(job, InvariantError)
    assert said.startswith("step 0: the policy is still its own reference, so the dpo loss must be 0.693147")
    assert "usually sequences of a micro-batch see each other" in said


# The model's own forward


def with_half_the_logits(model):
    forward = model.forward

    def halved(**inputs):
        output = forward(**inputs)
        output.logits = output.logits / 2
        return output

    model.forward = halved
    return model


@pytest.mark.parametrize("precision", ["float32", "bf16", "pure_bf16"])
def test_a_head_that_is_misread_is_seen_before_training(tmp_path, precision):
    model = tiny_model("mistral", dtype=torch.bfloat16 if precision == "pure_bf16" else torch.float32)
    job = tiny_job(tmp_path, "sft", model=with_half_the_logits(model), precision=precision)
    said = stopped(job, ModelError)
    assert said.startswith("MistralForCausalLM: its own forward makes other logits of the same hidden states: one")
    assert "probably a head multiplier: its logits are 0.5" in said


def test_a_reference_whose_head_is_misread_is_seen_before_it_scores_anything(tmp_path):
    said = stopped(tiny_job(tmp_path, reference=with_half_the_logits(tiny_model("gemma2"))), ModelError)
    assert said.startswith("Gemma2ForCausalLM: its own forward makes other logits of the same hidden states")
    assert not (tmp_path / "reference").exists()


def test_without_self_checks_nothing_is_proven(tmp_path):
    job = tiny_job(tmp_path, "sft", model=with_half_the_logits(tiny_model("mistral")), self_checks=False)
    assert train(job).step == 6


# The reference


def tampered(folder, change):
    """Changes every stored log-prob and writes it as whole shards of the store would be."""
    (store_folder,) = folder.iterdir()
    old = ReferenceStore(folder, store_folder.name)
    values = dict(old._index)
    for shard in store_folder.glob("*.safetensors"):
        shard.unlink()
    new = ReferenceStore(folder, store_folder.name)
    new.add(list(values), np.array([change(value) for value in values.values()]))
    new.flush()


def test_a_stored_reference_with_other_values_is_seen(tmp_path):
    store = tmp_path / "store"
    train(tiny_job(tmp_path / "first", reference_store=store))
    tampered(store, lambda logp: logp - 0.01)
    said = stopped(tiny_job(tmp_path / "second", reference_store=store), InvariantError)
    assert said.startswith(
        "reference log-probs: the policy has the reference's weights, but not its log-probs: pairs.jsonl row"
    )
    assert "and clear its store" in said


def test_a_wrong_value_outside_the_probe_is_seen_at_the_first_loss(tmp_path, monkeypatch):
    """Long answers are tampered with; the probe takes a short example."""
    store = tmp_path / "store"
    train(tiny_job(tmp_path / "first", reference_store=store))
    tampered(store, lambda logp: logp - 1 if abs(logp) > 45 else logp)
    monkeypatch.setattr(self_check, "NUM_PROBED", 1)
    job = tiny_job(tmp_path / "second", reference_store=store, train_batch_size=24)
    said = stopped(job, InvariantError)
    assert "the reference's log-probs belong to another model or other tokens" in said


def test_the_policy_in_place_of_another_reference_is_seen(tmp_path, monkeypatch):
    """A store filled by another model under the policy's name: what a wrong hash would do."""
    store = tmp_path / "store"
    monkeypatch.setattr(jobs, "weights_hash", lambda model, adapters=True: "0" * 64)
    train(tiny_job(tmp_path / "other", reference_store=store, model=tiny_model("mistral", seed=1)))
    said = stopped(tiny_job(tmp_path / "run", reference_store=store), InvariantError)
    assert "usually they were computed by another model, with adapters on, or in another precision" in said


def test_adapters_that_were_trained_before_need_not_equal_their_reference(tmp_path):
    model = add_lora(tiny_model("mistral"), LoraSection(r=4))
    train(tiny_job(tmp_path / "first", model=model, learning_rate=1e-2))
    train(tiny_job(tmp_path / "second", model=model, learning_rate=1e-2))
    first, second = (logged(tmp_path / name)[0]["loss"] for name in ("first", "second"))
    assert first == pytest.approx(np.log(2), abs=1e-6)
    assert second < 0.68


# Numbers that are broken


@pytest.mark.parametrize(("value", "word"), [(NAN, "NaN"), (float("inf"), "infinity")])
def test_a_broken_weight_is_named_before_training(tmp_path, value, word):
    model = tiny_model("mistral")
    name = "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        model.get_parameter(name)[3, 5] = value
    with pytest.raises(ModelError, match=f"the policy: its weight {name} contains {word}"):
        train(tiny_job(tmp_path, model=model))
    with pytest.raises(ModelError, match=f"the reference: its weight {name} contains {word}"):
        train(tiny_job(tmp_path, reference=model))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_breaks_on_the_way_stops_before_the_optimizer(tmp_path, monkeypatch, where):
    job = tiny_job(tmp_path / "broken", save_steps=1)
    gradients, num_steps = loop.accumulate_gradients, 0
    in_time = {}

    def breaking(scorer, batch, settings):
        nonlocal num_steps
        num_steps += 1
        shares = gradients(scorer, batch, settings)
        if num_steps == 4:
            in_time.update(weights(job.model))
            if where == "loss":
                return [shares[0]._replace(loss=shares[0].loss * NAN), *shares[1:]]
            next(iter(job.model.parameters())).grad[0] = NAN
        return shares

    monkeypatch.setattr(loop, "accumulate_gradients", breaking)
    with pytest.raises(InvariantError) as caught:
        train(job)
    said = str(caught.value)
    assert said.startswith("step 3: the loss is ")
    assert ("the loss is nan" in said) == (where == "loss")
    assert ("the gradient norm nan" in said) == (where == "gradient")
    assert "examples of the step: pairs.jsonl row" in said
    assert "the optimizer has not stepped" in said
    assert all(torch.equal(tensor, in_time[name]) for name, tensor in weights(job.model).items())
    # Nothing is lost: the three steps before are there.
    assert [line["step"] for line in logged(tmp_path / "broken")] == [1, 2, 3]
    assert whole_checkpoints(tmp_path / "broken")[0].name == "checkpoint-3"
    monkeypatch.undo()
    train(tiny_job(tmp_path / "broken", save_steps=1))
    train(tiny_job(tmp_path / "straight"))
    assert logged(tmp_path / "broken") == logged(tmp_path / "straight")


def test_a_weight_that_breaks_on_the_way_is_named(tmp_path, monkeypatch):
    job = tiny_job(tmp_path)
    gradients = loop.accumulate_gradients

    def spoiling(scorer, batch, settings):
        with torch.no_grad():
            job.model.lm_head.weight[7] = NAN
        return gradients(scorer, batch, settings)

    monkeypatch.setattr(loop, "accumulate_gradients", spoiling)
    with pytest.raises(InvariantError, match=r"weights that are not finite: causal_lm\.lm_head\.weight"):
        train(job)


def lost(cut):
    return cut[1:]


def twice(cut):
    return [*cut, cut[0]]


@pytest.mark.parametrize(("fault", "words"), [(lost, "0."), (twice, "1.")])
def test_a_micro_batch_that_is_lost_or_counted_twice_is_seen(tmp_path, monkeypatch, fault, words):
    cut = step.my_micro_batches
    monkeypatch.setattr(step, "my_micro_batches", lambda *args, **kwargs: fault(cut(*args, **kwargs)))
    said = stopped(tiny_job(tmp_path), InvariantError)
    assert said.startswith("step 0: the policy is still its own reference, so the dpo loss must be 0.693147")
    assert f", {words}" in said
    assert "times that" in said
    assert "or shares of the loss are added up wrongly" in said


def test_a_loss_averaged_over_each_micro_batch_is_seen(tmp_path, monkeypatch):
    """The classic fault of accumulation: shares normalised by their own size instead of the global batch's."""
    loss_of = Dpo.loss

    def own_mean(objective, scored, totals):
        return loss_of(objective, scored, totals._replace(num_examples=len(scored.logps)))

    monkeypatch.setattr(Dpo, "loss", own_mean)
    said = stopped(tiny_job(tmp_path), InvariantError)
    assert "so the dpo loss must be 0.693147" in said
    assert "shares of the loss are added up wrongly" in said


def test_shares_divided_by_a_wrong_number_of_ranks_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "world_size", lambda: 2)
    said = stopped(tiny_job(tmp_path, loss_type="aot"), InvariantError)
    assert "must be 0.693147 (within 1e-06), got 0.346574, 0.50 times that" in said


# Data


def test_an_id_outside_the_vocabulary_is_named(tmp_path):
    job = tiny_job(tmp_path, model=tiny_model("mistral", vocab_size=64))
    said = stopped(job, ModelError)
    assert said.startswith("pairs.jsonl row 1: token id ")
    assert "is not in the vocabulary of 64; use the tokenizer that belongs to the model" in said


def test_an_example_longer_than_the_budget_is_named(tmp_path):
    long = pairs()[5]._replace(name="long.jsonl row 6", prompt=np.arange(5, 90, dtype=np.int64))
    job = tiny_job(tmp_path, examples=[*pairs(), long])
    said = stopped(job, DataError)
    size = 85 + sum(map(len, long.completions))
    assert said == (
        f"long.jsonl row 6: holds {size} tokens, more than max_tokens_per_micro_batch = 80; "
        f"set max_tokens_per_micro_batch to at least {size}, or lower max_length"
    )


def test_an_evaluation_example_longer_than_the_budget_is_named_before_training(tmp_path):
    long = pairs()[5]._replace(name="held.jsonl row 6", prompt=np.arange(5, 90, dtype=np.int64))
    assert stopped(tiny_job(tmp_path, eval_examples=[long]), DataError).startswith("held.jsonl row 6: holds")


def test_an_example_that_fits_only_thanks_to_its_shared_prompt_is_taken(tmp_path):
    """A prompt counts once: the sum of both sequences is above the budget, their tree is not."""
    shared = pairs()[5]._replace(prompt=np.arange(5, 60, dtype=np.int64))
    assert train(tiny_job(tmp_path, examples=[*pairs(), shared], max_steps=1)).step == 1


def test_nothing_scored_is_named(tmp_path):
    empty = Dialogue("chats.jsonl row 9", np.arange(5, 9), np.zeros(4, dtype=np.bool_))
    said = stopped(tiny_job(tmp_path, "sft", examples=[*examples_for("sft"), empty]), DataError)
    assert "1 of 25 training examples: chats.jsonl row 9: none of its 4 tokens is scored" in said
    blank = pairs()[3]._replace(completions=(pairs()[3].completions[0], np.zeros(0, dtype=np.int64)))
    said = stopped(tiny_job(tmp_path, examples=[blank, *pairs()]), DataError)
    assert "pairs.jsonl row 4: completion 1 is empty" in said


def everything_scored():
    return [one._replace(scored=np.arange(len(one.ids)) > 0) for one in examples_for("sft")]


def test_a_state_without_its_gradient_is_not_carried(tmp_path, monkeypatch, caplog):
    plain = carried_state._linear

    def without(layer):
        copied = plain(layer)
        copied.recurrent_states = {n: state.detach() for n, state in copied.recurrent_states.items()}
        return copied

    scorers = [build_scorer(tiny_model("qwen3_next"), tiny_job(tmp_path).settings) for _ in range(2)]
    self_check.check_before_training(tiny_job(tmp_path, model=scorers[0].causal_lm), scorers[0])
    monkeypatch.setattr(carried_state, "_linear", without)
    self_check.check_before_training(tiny_job(tmp_path, model=scorers[1].causal_lm), scorers[1])
    assert [scorer.carries_state for scorer in scorers] == [True, False]
    assert "falling back to one sequence a row: a state carried over a fork has lost its gradient" in caplog.text


def test_everything_scored_must_be_meant(tmp_path):
    said = stopped(tiny_job(tmp_path, "sft", examples=everything_scored()), InvariantError)
    assert "supervised tokens: all " in said
    assert "usually the loss mask was not applied" in said
    job = tiny_job(tmp_path, "sft", examples=everything_scored(), loss_on="everything")
    assert train(job).step == 6


def test_pairs_without_a_prompt_to_mask_are_everything_scored(tmp_path):
    bare = [pair._replace(prompt=pair.prompt[:1]) for pair in pairs()]
    assert "supervised tokens: all " in stopped(tiny_job(tmp_path, examples=bare), InvariantError)
    # ORPO scores its prompts on purpose.
    assert train(tiny_job(tmp_path, "orpo", examples=bare)).step == 6


def test_answers_that_never_stop_are_seen(tmp_path):
    endless = [pair._replace(completions=tuple(ids[:-1] for ids in pair.completions)) for pair in pairs()]
    said = stopped(tiny_job(tmp_path, examples=endless), InvariantError)
    assert f"supervised tokens: no stop token (id {EOS_ID}) is among the" in said
    assert train(tiny_job(tmp_path, examples=endless, stop_ids=())).step == 6


def test_checks_can_be_switched_off_for_a_benchmark(tmp_path):
    job = tiny_job(tmp_path, "sft", examples=everything_scored(), self_checks=False)
    assert train(job).step == 6

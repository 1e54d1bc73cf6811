"""World size changes nothing: several ranks train as one does, save what one reads, and fail together."""

import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.train.checkpoint_runs import forked
from tests.train.distributed_runs import (
    FAULTS,
    FLOAT32,
    VOCABULARY,
    Case,
    assert_equal_runs,
    ended,
    fail_on_rank_one,
    make_job,
    make_model,
    on_ranks,
    refused,
    run_and_count,
    run_and_sample,
    run_and_save,
    run_and_stop,
    run_cases,
    run_job,
)
from zephyr.models.adapters import load_adapter
from zephyr.models.loading import empty_model, load_model, save_model
from zephyr.models.source import Source
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.train.distributed import is_empty, shard_placement

BETA = {"beta": 0.1}
ROUTED = {**FLOAT32, "router_aux_loss_coef": 0.1}
# What every change is tested with, on two ranks.
CASES = [
    Case("sft", tied=True, meta=True),
    Case("dpo", BETA),
    Case("orpo", BETA),
    Case("kto", BETA),
    Case("dpo", BETA, lora=True, meta=True),
    Case("sft", model="nemotron", changes=FLOAT32),  # one sequence a row
]
# The rest of the matrix, on two and four ranks.
MORE_CASES = [
    Case("dpo", {**BETA, "loss_type": "bco_pair"}),
    Case("dpo", {**BETA, "reference_sync_steps": 1}, other_reference=True, meta=True),
    Case("dpo", {**BETA, "rpo_alpha": 0.5, "ld_alpha": 0.3}),
    Case("dpo", BETA, changes={"activation_checkpointing": True}),
    Case("dpo", BETA, "mixtral", {**ROUTED, "activation_checkpointing": "selective"}),
    Case("orpo", BETA, lora=True),
    Case("dpo", {**BETA, "use_weighting": True}),
    Case("kto", {**BETA, "reference_sync_steps": 1}),
    Case("dpo", BETA, "mixtral", FLOAT32, lora=True),
    Case("sft", changes={"neftune_noise_alpha": 5.0}),
    Case("sft", changes={"optim": "adafactor"}),
    Case("sft", changes={"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"}),
    Case("sft", changes={"optim": "rmsprop", "max_grad_norm": None}),
    Case("dpo", BETA, "nemotron", {**FLOAT32, "activation_checkpointing": True}),
    Case("sft", model="qwen3_next", changes=FLOAT32),
    Case("sft", model="gemma3_text", changes=FLOAT32, tied=True),
    *[Case(name, options, "mixtral", ROUTED) for name, options in (("sft", {}), ("dpo", BETA), ("orpo", BETA))],
    Case("dpo", {**BETA, "loss_type": "bco_pair"}, "mixtral", ROUTED, meta=True),
    Case("dpo", BETA, "mixtral", {**ROUTED, "activation_checkpointing": True}),
]
SAVED = [
    Case("sft", changes=FLOAT32, tied=True),
    Case("dpo", BETA, changes=FLOAT32, lora=True),
    Case("sft", model="mixtral", changes=FLOAT32),
]


def tolerance(case):
    return 1e-6 if case.changes.get("precision") == "float32" else 1e-9


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The runs of one process, by case."""
    folder = tmp_path_factory.mktemp("one")
    done = {}

    def run(case):
        if case.name not in done:
            run_cases(folder, [case])
            done[case.name] = ended(folder / case.name)
        return done[case.name]

    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    on_ranks(2, folder, run_cases, CASES)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_train_as_one(one, two, case):
    assert_equal_runs(one(case), ended(two / case.name), within=tolerance(case))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_trains_as_one(one, tmp_path, world):
    cases = [*CASES, *MORE_CASES]
    assert len({case.name for case in cases}) == len(cases)  # each has a folder of its own
    on_ranks(world, tmp_path, run_cases, cases)
    for case in cases:
        assert_equal_runs(one(case), ended(tmp_path / case.name), within=tolerance(case))


@pytest.mark.slow
@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
def test_two_ranks_in_bfloat16_come_near_to_one(one, tmp_path, precision, reduce_dtype):
    case = Case("sft", changes={"precision": precision, "reduce_dtype": reduce_dtype})
    on_ranks(2, tmp_path, run_cases, [case])
    for left, right in zip(one(case).lines, ended(tmp_path / case.name).lines, strict=True):
        assert abs(left["loss"] - right["loss"]) < 2e-2 * left["loss"]
        assert abs(left["grad_norm"] - right["grad_norm"]) < 5e-2 * left["grad_norm"]


@pytest.mark.parametrize("case", CASES[1:4], ids=lambda case: case.name)
@pytest.mark.parametrize("changes", [{"max_tokens_per_micro_batch": 33}, {"max_tokens_per_micro_batch": 1000}])
def test_the_cut_into_micro_batches_changes_nothing(one, tmp_path, case, changes):
    run_job(make_job(replace(case, changes=changes), tmp_path))
    assert_equal_runs(one(case), ended(tmp_path), within=1e-9)


@pytest.mark.parametrize("case", CASES[1:4], ids=lambda case: case.name)
def test_the_order_inside_a_batch_changes_nothing(tmp_path, case, monkeypatch):
    case = replace(case, changes={"train_batch_size": 7, "shuffle": False, "num_train_epochs": 3})
    job = make_job(case, tmp_path / "forwards")
    run_job(job)
    other = make_job(case, tmp_path / "backwards")
    # Whose completion an example of KTO borrows depends on the order of the data: reverse what was arranged.
    arranged, held_out = map(other.objective.arranged, (other.examples, other.eval_examples))
    monkeypatch.setattr(type(other.objective), "arranged", lambda _objective, examples: examples)
    run_job(replace(other, examples=list(arranged)[::-1], eval_examples=held_out))
    assert_equal_runs(ended(job.folder), ended(other.folder), within=1e-9)


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, before, after):
    case = Case("dpo", BETA, changes={"eval_steps": 1, "save_steps": 1})
    run_cases(tmp_path / "whole", [case])
    for world, work, arguments in ((before, run_and_stop, (case, 2)), (after, run_cases, ([case],))):
        if world == 1:
            work(tmp_path / "cut", *arguments)
        else:
            on_ranks(world, tmp_path / "cut", work, *arguments)
    assert_equal_runs(ended(tmp_path / "whole" / case.name), ended(tmp_path / "cut" / case.name), within=1e-9)


def test_two_experts_are_cut_over_four_ranks_evenly(tmp_path):
    """Stopped, gone on with and saved, the run of four ranks is that of one; each holds its share of the weights."""
    case = Case("orpo", BETA, "mixtral", {**FLOAT32, "eval_steps": 1, "save_steps": 1}, experts=2)
    run_cases(tmp_path / "whole", [case])
    whole = ended(tmp_path / "whole" / case.name)
    on_ranks(4, tmp_path / "cut", run_and_stop, case, 2)
    on_ranks(4, tmp_path / "cut", run_and_count, case)
    assert_equal_runs(whole, ended(tmp_path / "cut" / case.name), within=1e-6)
    total = sum(weight.numel() for weight in whole.weights.values())
    held = [int((tmp_path / "cut" / f"held-{number}").read_text()) for number in range(4)]
    assert sum(held) == total
    assert max(held) < 1.05 * total / 4
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "cut" / case.name / "saved")
    trained = make_model(case)
    trained.load_state_dict(ended(tmp_path / "cut" / case.name).weights)
    for (name, left), right in zip(trained.named_parameters(), read.parameters(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize(
    ("shape", "ranks", "place"),
    [((8, 6, 4), 4, 0), ((2, 6, 4), 3, 1), ((2, 6, 4), 4, 0), ((8, 6, 5), 7, 0), ((2, 16), 4, 0), ((3,), 4, 0)],
)
def test_only_three_dimensional_weights_are_cut_over_another_dimension_than_the_first(shape, ranks, place):
    assert shard_placement(torch.empty(shape), ranks).dim == place


def test_two_ranks_sample_alike_and_train_on_undisturbed(one, tmp_path):
    case = CASES[1]
    on_ranks(2, tmp_path, run_and_sample, case)
    assert_equal_runs(one(case), ended(tmp_path / case.name), within=1e-9)
    first, second = (json.loads((tmp_path / f"texts-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert all(len(text) == 4 for texts in first for text in texts)


@pytest.mark.parametrize("world", [1, 2])
def test_the_trained_model_is_saved_whole(tmp_path, world):
    if world == 1:
        run_and_save(tmp_path, SAVED)
    else:
        on_ranks(world, tmp_path, run_and_save, SAVED)
    for case in SAVED:
        folder = tmp_path / case.name
        trained = make_model(case)
        trained.load_state_dict(ended(folder).weights)
        if case.lora:
            read = load_adapter(make_model(replace(case, lora=False)), folder / "saved")
        else:
            read = AutoModelForCausalLM.from_pretrained(folder / "saved")
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.no_grad():
            logits = [model.eval()(ids).logits for model in (trained, read, make_model(case))]
        assert torch.equal(logits[0], logits[1])
        assert not torch.allclose(logits[0], logits[2])


@pytest.mark.slow
def test_the_example_trains_under_torchrun_as_alone(tmp_path, repository):
    model = tiny_model("mistral", vocab_size=VOCABULARY)
    save_model(model, tiny_tokenizer(vocab_size=VOCABULARY), tmp_path / "base")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, folder in (([sys.executable], "alone"), (torchrun, "together")):
        script = [repository / "examples/torchrun_dpo.py", tmp_path / "base", tmp_path / folder]
        run = subprocess.run([*launcher, *script], check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    alone, together = (load_model(Source(str(tmp_path / f / "model")), dtype="float32") for f in ("alone", "together"))
    for (name, left), right in zip(alone.named_parameters(), together.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6), name
    assert not torch.allclose(model.lm_head.weight, alone.lm_head.weight, atol=1e-4)


def test_an_empty_model_is_the_architecture_of_a_saved_one(tmp_path):
    saved = tiny_model("gemma2", vocab_size=VOCABULARY)
    save_model(saved, tiny_tokenizer(vocab_size=VOCABULARY), tmp_path / "model")
    made = empty_model(Source(str(tmp_path / "model")), dtype="float32")
    read = load_model(Source(str(tmp_path / "model")), dtype="float32")
    assert is_empty(made)
    assert not is_empty(read)
    assert made.config._attn_implementation == read.config._attn_implementation == "eager"
    kinds = [[(name, p.shape, p.dtype) for name, p in model.named_parameters()] for model in (made, read)]
    assert kinds[0] == kinds[1]


def test_a_rank_that_fails_is_named_by_the_others(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [forked().Process(target=fail_on_rank_one, args=(number, port, tmp_path)) for number in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    assert (tmp_path / "said-0").read_text() == "[0, 1] rank 0 of 2: rank 1 has failed; see the output of that rank"
    assert (tmp_path / "said-1").read_text() == "[0, 1] 1"


def test_faults_stop_all_ranks_together(tmp_path):
    on_ranks(2, tmp_path, refused)
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == second.keys() == FAULTS.keys()
    for said in (first, second):
        assert "have another data_hash" in said["other data"]
        assert "its weights differ between ranks, got 2 versions on 2 ranks" in said["other weights"]
        assert "its weight model.embed_tokens.weight contains NaN" in said["NaN on one rank"]
        assert "the optimizer has not stepped" in said["too fast"]
        assert "its weights are on no rank" in said["no weights anywhere"]
        assert "hold different models" in said["other adapters"]
        assert "probably a head multiplier: its logits are 0.5 times those we read" in said["misread head"]

"""Training stages as a recipe asks for them: adapters that are merged, lists, single labels, packed batches."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from tests.mini import TRAIN, mini_fields
from zephyr.data.tokenize.templates import jinja_of
from zephyr.data.tokenize.token_store import PreferenceStore
from zephyr.errors import DeviceError
from zephyr.models.loading import Placement, save_model
from zephyr.models.matmul_speed import MatmulSpeed
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.pipeline import run_recipe
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import SftSection
from zephyr.recipe.train_section import TrainSection
from zephyr.records.writing import write_jsonl
from zephyr.stages.training_setup import slow_precision


def run(fields, until=None):
    console = Console(file=StringIO(), width=200)
    return run_recipe(Recipe.model_validate(fields), until=until, only=None, pinned=None, console=console)


def facts(fields, summary, stage):
    folder = Path(fields["output_dir"]) / fields["name"] / summary["folders"][stage]
    return folder, json.loads((folder / "stage.json").read_text())["facts"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run that has come as far as feedback."""
    folder = tmp_path_factory.mktemp("runs")
    run(mini_fields(folder), until="feedback")
    return folder


def test_adapters_are_trained_and_merged(trained):
    fields = mini_fields(trained)
    fields["align"]["lora"] = {"r": 4, "target_modules": "all-linear"}
    summary = run(fields, until="align")
    folder, _ = facts(fields, summary, "align")
    assert (folder / "adapter/adapter_model.safetensors").is_file()
    before = AutoModelForCausalLM.from_pretrained(folder.parent / summary["folders"]["sft"] / "model")
    after = AutoModelForCausalLM.from_pretrained(folder / "model")
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (before, after)]
    assert not torch.equal(*weights)
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)


def test_what_lora_asks_for_is_done(trained):
    fields = mini_fields(trained)
    lora = {"r": 4, "target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["lm_head"]}
    fields["align"]["lora"] = lora | {"loraplus_lr_ratio": 4.0, "use_rslora": True, "layers_to_transform": [0]}
    folder, _ = facts(fields, run(fields, until="align"), "align")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"], config["layers_to_transform"]) == (True, True, [0])
    assert config["modules_to_save"] == ["lm_head"]
    saved = load_file(folder / "adapter/adapter_model.safetensors")
    merged = load_file(folder / "model/model.safetensors")
    [head] = [tensor for name, tensor in saved.items() if "lm_head" in name]
    assert torch.equal(merged["lm_head.weight"], head)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may be able to hold 4-bit weights")
def test_4bit_weights_are_refused_before_the_run_begins(tmp_path):
    fields = mini_fields(tmp_path)
    fields["align"]["lora"] = {"load_in_4bit": True}
    fields["model"] = {"kind": "pretrained", "name_or_path": str(tmp_path / "base")}
    del fields["pretrain"]
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), tmp_path / "base")
    with pytest.raises(DeviceError, match="4-bit loading: needs"):
        run(fields)
    assert not list((tmp_path / "mini").glob("synth-*"))


@pytest.mark.parametrize(
    ("output", "objective"),
    [("listwise", {"name": "listwise"}), ("kto", {"name": "kto"}), ("pairs", {"name": "simpo"})],
)
def test_feedback_serves_every_kind_of_objective(trained, output, objective):
    fields = mini_fields(trained)
    fields["feedback"]["binarize"] = {"output": output}
    fields["align"] |= {"objective": objective, "data": fields["align"]["data"] | {"eval_share": 0.3}}
    fields["evaluate"] = {"tasks": [{"name": "preference"}]}
    summary = run(fields, until="evaluate")
    _, found = facts(fields, summary, "align")
    assert found["steps"] >= 1
    assert found["loss"] > 0
    # Single labels cannot be compared; of a list the best and the worst are.
    assert (summary["metrics"]["preference/pairs"] > 0) == (output != "kto")


def test_a_reward_model_reads_what_the_chat_template_writes(trained):
    fields = mini_fields(trained)
    fields["reward"] = {"data": {"max_length": 160, "eval_share": 0.4}, "train": TRAIN}
    del fields["align"]
    talks = trained / "talks.jsonl"
    talk = [{"role": "user", "content": "How much is 1 + 1?"}, {"role": "assistant", "content": "It is 2."}]
    write_jsonl(talks, [{"messages": talk}] * 3)
    sampling = {"max_new_tokens": 8}
    fields["evaluate"] = {"tasks": [{"name": "reward", "sources": [{"path": str(talks)}], "sampling": sampling}]}
    summary = run(fields, until="evaluate")
    assert set(summary["benchmarks"]) == {"base", "dSFT"}
    mean, rate = summary["benchmarks"]["dSFT"].values()
    assert (mean["metric"], mean["n"]) == ("mean reward", 3)
    assert mean["low"] <= mean["score"] <= mean["high"]
    assert 0 <= rate["low"] <= rate["score"] <= rate["high"] <= 100
    folder, found = facts(fields, summary, "reward")
    accuracy = found["held_out_accuracy"]
    assert accuracy["n"] == found["held_out"]
    assert accuracy["low"] <= accuracy["score"] == round(found["eval_rewards/accuracies"], 4) <= accuracy["high"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(folder / "model").pad_token_id
    pairs = (trained / "mini" / summary["folders"]["feedback"] / "pairs.jsonl").read_text().splitlines()
    examples = [one for part in ("train", "eval") for one in PreferenceStore(folder / "tokens" / part)]
    ids = tokenizer.apply_chat_template(json.loads(pairs[0])["messages"], tokenize=True)["input_ids"]
    assert ids in [[*one.prompt, *one.completions[0]] for one in examples]
    assert ids[-1] != tokenizer.pad_token_id


def test_a_run_of_a_reward_model_alone_has_a_card_and_says_how_to_measure_it(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=False))
    save_model(tiny_model("llama", vocab_size=384), tokenizer, tmp_path / "base")
    pairs = [{"prompt": f"Is it {n}?", "chosen": f"It is {n}.", "rejected": "No idea."} for n in range(12)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    data = {"sources": [{"path": str(tmp_path / "pairs.jsonl")}], "eval_share": 0.4, "max_length": 160}
    fields = {
        "name": "scores",
        "output_dir": str(tmp_path),
        "offline": True,
        "model": {"kind": "pretrained", "name_or_path": str(tmp_path / "base")},
        "chat_template": {"name": "own"},
        "reward": {"data": data, "train": TRAIN},
        "deliver": {},
    }
    console = Console(file=StringIO(), width=200)
    run_recipe(Recipe.model_validate(fields), until=None, only=None, pinned=None, console=console)
    [folder] = tmp_path.glob("scores/reward-*")
    card = (folder / "model/README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "- reward-model" in card
    assert "AutoModelForSequenceClassification" in card
    assert "text-generation" not in card
    assert "Rewards/accuracies" in card
    assert "a reward model learns" in next(tmp_path.glob("scores/deliver-*/report.html")).read_text()
    printed = console.file.getvalue()
    assert f"zephyr reward-accuracy {folder / 'model'} PAIRS" in printed
    assert "zephyr chat" not in printed


def test_a_packed_batch_holds_as_many_dialogues_as_fill_its_tokens(trained):
    fields = mini_fields(trained)
    fields["sft"] = fields["sft"] | {"batch_counts": "packed", "train": TRAIN | {"train_batch_size": 4}}
    summary = run(fields, until="sft")
    _, found = facts(fields, summary, "sft")
    mean_tokens = found["tokens"] / found["examples"]
    assert found["steps"] == -(-found["examples"] // round(4 * 160 / mean_tokens))


def test_the_model_works_in_a_plain_transformers_pipeline(trained):
    model = min(trained.glob("mini/sft-*/model"))
    talk = pipeline("text-generation", model=str(model))
    answer = talk([{"role": "user", "content": "How much is 1 + 1?"}], max_new_tokens=4)[0]["generated_text"]
    assert [message["role"] for message in answer] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("device", "precision", "flops", "expected"),
    [
        ("cpu", "bf16", (58e9, 0.6e9), "this processor multiplies bfloat16 97 times as slowly as float32; set float32"),
        ("cpu", "pure_bf16", (58e9, 0.6e9), "precision pure_bf16: "),
        ("cpu", "bf16", (333e9, 2175e9), None),
        ("cpu", "float32", (58e9, 0.6e9), None),
        ("cuda", "bf16", (58e9, 0.6e9), None),
    ],
)
def test_a_precision_that_a_processor_is_slow_in_is_told(monkeypatch, device, precision, flops, expected):
    monkeypatch.setattr("zephyr.models.loading.placement", lambda: Placement(device, "float32"))
    monkeypatch.setattr("zephyr.models.matmul_speed.matmul_speed", lambda: MatmulSpeed(*flops))
    said = slow_precision(SftSection(train=TrainSection(learning_rate=1e-5, precision=precision)))
    assert (said is None) == (expected is None)
    assert expected is None or expected in said

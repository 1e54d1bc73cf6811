"""Files of ours in the tools people have: TRL, `datasets`, peft, and the loaders of axolotl and LLaMA-Factory."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import zephyr
from tests.command import chat, pair
from zephyr.records.messages import Message, TemplateInputs, ToolCall
from zephyr.records.rows import Answer, Chat, Check, Preference, Prompt, Rated
from zephyr.records.writing import to_fields, write_jsonl

BAD = [{"text": "No.", "score": 1}, {"text": "No.", "score": 2}]
RATED = [{"prompt": f"Is it {n}?", "answers": [{"text": "Yes, it is.", "score": 5}, BAD[n % 2]]} for n in range(8)]
SMALL = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": [], "save_strategy": "no"}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ASKED = (Message("system", "Be brief."), Message("user", "Is it?"))
HIDDEN = (Message("assistant", "Yes.", learn=False), Message("user", "Is it?"))


def fenced(language):
    """The first block of this language on the page for other tools."""
    page = (Path(__file__).parents[1] / "docs/how-to/other-tools.md").read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What binarize writes by each of its outputs."""
    monkeypatch.chdir(tmp_path)
    return {output: zephyr.binarize(RATED, output=output, name=output).file for output in ("pairs", "kto")}


@pytest.mark.slow
@pytest.mark.parametrize(("output", "trainer"), [("pairs", "DPO"), ("kto", "KTO")])
def test_rows_train_in_trl_as_they_are(output, trainer, made, tiny_folder, tmp_path):
    trl = pytest.importorskip("trl", reason="the peer of the extra bench")
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = TEMPLATE
    trained = getattr(trl, f"{trainer}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder),
        processing_class=tokenizer,
        train_dataset=load_dataset("json", data_files=str(made[output]), split="train", cache_dir=str(tmp_path)),
        args=getattr(trl, f"{trainer}Config")(
            output_dir=str(tmp_path / "trl"), logging_steps=1, use_cpu=True, bf16=False, **SMALL
        ),
    )
    trained.train()
    losses = [line["loss"] for line in trained.state.log_history if "loss" in line]
    assert len(losses) == 2
    if trainer == "DPO":
        assert losses[0] == pytest.approx(0.693147, abs=1e-4)
        first = trained.train_dataset[0]
        assert tokenizer.decode(first["chosen_ids"]) == "Yes, it is.</s>"
        assert "Is it 0?" in tokenizer.decode(first["prompt_ids"])


def test_datasets_reads_every_kind_of_row(tmp_path):
    datasets = pytest.importorskip("datasets")
    called = Message("assistant", "", tool_calls=(ToolCall("look", '{"at": 1}', "c1"),))
    tools = '[{"type": "function", "function": {"name": "look", "parameters": {"a": %s}}}]'
    counted = Check("length_constraints:number_words", {"num_words": 3, "relation": "at least"})
    checked = (Check("keywords:existence", {"keywords": ["a"]}), Check("answer", {"answer": "3"}))
    thought = Answer("Yes.", ratings={"honesty": 2.0, "helpfulness": 1.0}, reasoning="Hm.")
    thinks = (*ASKED, Message("assistant", "Yes.", reasoning="Hm."))
    kinds = {
        "chats": [
            Chat("r1", (*ASKED, *HIDDEN, called), "", TemplateInputs(tools % "1")),
            Chat("r2", thinks, "s", TemplateInputs(tools % '"x"', '{"a": 1}')),
        ],
        "prompts": [Prompt("r1", ASKED, "", "", (counted,)), Prompt("r2", ASKED, "s", "Yes.", checked)],
        "ratings": [
            Rated("r1", ASKED, (Answer("Yes."), Answer("No.", "m", 3.0, {"honesty": None}))),
            Rated("r2", ASKED, (thought,), "s"),
        ],
        "pairs": [
            Preference("r1", ASKED, ("Yes.", "No."), (2.0, 1.0)),
            Preference("r2", ASKED, ("Yes.", "No."), (2.0, 1.5), "s", ("m", ""), "pairs", reasoning=("", "Hm.")),
        ],
        "lists": [
            Preference("r1", ASKED, ("a", "b", "c"), (3.0, 2.0, 1.0)),
            Preference("r2", ASKED, ("a", "b", "c"), (3.0, 2.5, 1.0), models=("m", "", "")),
        ],
    }
    for name, rows in kinds.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        read = datasets.load_dataset(
            "json", data_files=str(tmp_path / f"{name}.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(read) == 2, name
        assert set(read.column_names) == {key for row in rows for key in to_fields(row)}, name


def test_a_column_that_begins_late_needs_a_larger_chunk(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = tmp_path / "late.jsonl"
    write_jsonl(file, [Prompt("r", ASKED), *[Prompt("r", ASKED, "", "known")] * 2])
    one = file.stat().st_size // 4
    options = {"data_files": str(file), "split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(datasets.exceptions.DatasetGenerationError):
        datasets.load_dataset("json", chunksize=one, **options)
    assert len(datasets.load_dataset("json", chunksize=1 << 30, **options)) == 3


def test_pairs_fit_the_loaders_of_axolotl_and_llama_factory(made):
    """Their rules are those of axolotl's chat_template.default and of LLaMA-Factory's SharegptDatasetConverter."""
    for row in map(json.loads, made["pairs"].read_text().splitlines()):
        # axolotl with field_messages: prompt takes the last message of a list, and every role through its map.
        assert [message["role"] for message in row["prompt"]][-1] == "user"
        assert {message["role"] for message in row["prompt"]} <= {"system", "user", "assistant", "tool"}
        assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"
        # LLaMA-Factory wants one message, not a list, which the documented line takes out of it.
        one = {name: row[name][0] for name in ("chosen", "rejected")}
        assert all(isinstance(one[name]["content"], str) and one[name]["role"] == "assistant" for name in one)
        turns = [message["role"] for message in row["prompt"] if message["role"] != "system"]
        assert len(turns) % 2 == 1
        assert turns == (["user", "assistant"] * len(turns))[: len(turns)]


@pytest.mark.slow
def test_axolotl_loads_pairs(made, tiny_folder):
    """By its own functions, with the settings of the page."""
    pytest.importorskip("axolotl", reason="a peer, which is not among the tested packages")
    from axolotl.prompt_strategies.dpo import load
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    (block,) = yaml.safe_load(fenced("yaml"))["datasets"]
    source = DictDefault(block | {"path": str(made["pairs"])})
    rows = load_dataset_with_config(source, False, streaming=False)
    assert len(rows) == 8
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = TEMPLATE
    settings = DictDefault({"datasets": [source], "rl": "dpo", "chat_template": "tokenizer_default"})
    transform = load(source["type"], settings, dataset_idx=0)
    transform = transform[0] if isinstance(transform, tuple) else transform
    found = transform(rows[0], tokenizer=tokenizer)
    assert (found["prompt"], found["chosen"]) == ("<|user|>Is it 0?</s><|assistant|>", "Yes, it is.</s>")
    assert found["rejected"] == "No.</s>"


@pytest.mark.slow
def test_llama_factory_loads_pairs(made, tmp_path):
    """By its own functions, with the settings of the page, its one message taken out of our list."""
    pytest.importorskip("llamafactory", reason="a peer, which is not among the tested packages")
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list

    rows = [json.loads(line) for line in made["pairs"].read_text().splitlines()]
    taken = [row | {name: row[name][0] for name in ("chosen", "rejected")} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taken))
    (tmp_path / "dataset_info.json").write_text(fenced("json"))
    (source,) = get_dataset_list(["zephyr_pairs"], str(tmp_path))
    arguments = SimpleNamespace(
        dataset_dir=str(tmp_path), media_dir=str(tmp_path), preprocessing_num_workers=None, streaming=False,
        overwrite_cache=True, max_samples=None, preprocessing_batch_size=1000,
    )  # fmt: skip
    model = SimpleNamespace(cache_dir=str(tmp_path / "cache"), hf_hub_token=None)
    found = _load_single_dataset(source, model, arguments, SimpleNamespace(local_process_index=0))
    assert len(found) == 8
    assert found[0]["_prompt"] == [{"role": "user", "content": "Is it 0?"}]
    assert [answer["content"] for answer in found[0]["_response"]] == ["Yes, it is.", "No."]


@pytest.mark.slow
def test_adapters_load_in_peft_with_tokenizer_and_card(tiny_folder, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = zephyr.dpo(
        tiny_folder, [pair(number) for number in range(4)], lora={"r": 4}, learning_rate=1e-2, precision="float32",
        train_batch_size=4, max_length=128, offline=True, quiet=True, output_dir=tmp_path,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(trained.adapter_folder)
    ids = tokenizer.apply_chat_template(chat(1)["messages"], return_tensors="pt", return_dict=True)["input_ids"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), trained.adapter_folder)
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, trained.model(ids).logits, atol=1e-5)
    card = (trained.adapter_folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert str(tiny_folder) not in card

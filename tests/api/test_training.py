"""Training from Python: results equal those of the recipe, whatever model and rows are given as."""

import json
import subprocess
import sys

import pytest
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import zephyr
from tests.command import chat, jsonl, pair
from zephyr.api import stub
from zephyr.pipeline import run_recipe
from zephyr.recipe.loading import recipe_of
from zephyr.runs.layout import TRAIN, TRAIN_LOG

ROWS = [chat(number) for number in range(8)]
PAIRS = [pair(number) for number in range(8)]
LABELS = [{"prompt": f"Is it {n}?", "completion": "Yes." if n % 2 else "No.", "label": n % 2 == 1} for n in range(8)]
TRAIN_KEYS = {"learning_rate": 1.0e-3, "precision": "float32", "train_batch_size": 4, "logging_steps": 1}


@pytest.fixture
def keywords(tmp_path):
    return {**TRAIN_KEYS, "max_length": 128, "offline": True, "output_dir": tmp_path / "runs", "quiet": True}


def logged(folder):
    return (folder / TRAIN / TRAIN_LOG).read_text()


@pytest.mark.parametrize(
    "name", ["dpo", pytest.param("orpo", marks=pytest.mark.slow), pytest.param("kto", marks=pytest.mark.slow)]
)
def test_the_log_equals_the_recipes_to_the_last_digit(name, tiny_folder, tmp_path, keywords):
    objectives = {"dpo": {"beta": 0.2, "loss_type": "ipo"}, "orpo": {"beta": 0.3}, "kto": {"desirable_weight": 1.5}}
    objective = objectives[name]
    rows = LABELS if name == "kto" else PAIRS
    made = getattr(zephyr, name)(tiny_folder, rows, **objective, **keywords)
    file = tmp_path / f"{name}.jsonl"
    file.write_bytes(jsonl(*rows))
    section = {"data": {"sources": [{"path": str(file)}], "max_length": 128}, "train": TRAIN_KEYS}
    recipe = recipe_of(
        {
            "name": f"recipe-{name}",
            "output_dir": str(tmp_path),
            "offline": True,
            "model": {"kind": "pretrained", "name_or_path": str(tiny_folder)},
            "align": section | {"objective": {"name": name, **objective}},
        },
        "test",
        {},
    )
    summary = run_recipe(recipe, console=Console(quiet=True))
    assert logged(made.folder) == logged(tmp_path / f"recipe-{name}" / summary["folders"]["align"]), name
    assert made.metrics["loss"] == pytest.approx(json.loads(logged(made.folder).splitlines()[-1])["loss"], abs=1e-6)


def test_on_step_sees_every_line_of_the_log_and_the_model_is_loaded(tiny_folder, keywords):
    seen = []
    made = zephyr.sft(tiny_folder, ROWS, on_step=lambda step, metrics: seen.append((step, metrics["loss"])), **keywords)
    assert seen == [(line["step"], line["loss"]) for line in map(json.loads, logged(made.folder).splitlines())]
    assert made.log["loss"].tolist() == [loss for _, loss in seen]
    assert made.model.num_parameters() == AutoModelForCausalLM.from_pretrained(tiny_folder).num_parameters()
    assert made.tokenizer.chat_template


def test_an_exception_in_on_step_ends_the_training_and_the_same_call_goes_on(tiny_folder, keywords):
    def stop(step, metrics):
        raise KeyError(step)

    with pytest.raises(KeyError, match="1"):
        zephyr.sft(tiny_folder, ROWS, on_step=stop, save_steps=1, **keywords)
    seen = []
    zephyr.sft(tiny_folder, ROWS, on_step=lambda step, _: seen.append(step), save_steps=1, **keywords)
    assert seen == [1, 2]


@pytest.mark.slow
def test_a_model_in_memory_a_dataset_and_a_result_give_the_same(tiny_folder, tmp_path, keywords):
    datasets = pytest.importorskip("datasets")
    base = zephyr.sft(tiny_folder, datasets.Dataset.from_list(ROWS), **keywords)
    by_folder = zephyr.dpo(base.model_folder, PAIRS, **keywords)
    by_result = zephyr.dpo(base, datasets.Dataset.from_list(PAIRS), name="result", **keywords)
    in_memory = zephyr.dpo(base.model, PAIRS, name="memory", **keywords)
    assert logged(by_folder.folder) == logged(by_result.folder) == logged(in_memory.folder)


@pytest.mark.slow
def test_a_peft_model_gets_new_adapters_like_its_own_on_its_merged_weights(tiny_folder, keywords):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], lora_dropout=0.1))
    made = zephyr.dpo(wrapped, PAIRS, tokenizer=AutoTokenizer.from_pretrained(tiny_folder), **keywords)
    saved = json.loads((made.adapter_folder / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["target_modules"]) == (4, 8, ["q_proj"])
    # The adapters of the wrapped model are new, so that the training equals one of the plain model with lora=.
    like = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "lora_dropout": 0.1}
    plain = zephyr.dpo(tiny_folder, PAIRS, lora=like, **keywords)
    assert logged(made.folder) == logged(plain.folder)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda k: zephyr.dpo("model", PAIRS, bata=0.1, **k),
            "zephyr.dpo: keyword bata, align.objective.bata: there is no such key, got 0.1; did you mean 'beta'?",
        ),
        (
            lambda k: zephyr.sft("model", ROWS, learnig_rate=1, **{**k, "learning_rate": -1.0}),
            "zephyr.sft: 2 problems\n  keyword learning_rate, sft.train.learning_rate: must be greater than 0, got",
        ),
        (lambda k: zephyr.sft("model", {"train": ROWS}, **k), "dataset: is a dictionary of 'train'; give one of its"),
        (lambda k: zephyr.sft("model", ["text"], **k), "dataset: row 1 is no dictionary, got str 'text'; give rows as"),
        (lambda k: zephyr.sft("model", [{"a": {1}}], **k), "dataset: row 1, column a: cannot be written as JSON"),
        (lambda k: zephyr.sft(3, ROWS, **k), "model: is no model, got int; give a hub id, a folder"),
        (lambda k: zephyr.sft("no/model", ROWS, **k), "no/model: is not a folder, and its"),
    ],
)
def test_mistakes_have_the_recipes_messages(call, said, keywords):
    with pytest.raises(zephyr.ZephyrError) as caught:
        call(keywords)
    assert said in str(caught.value)


def test_importing_zephyr_is_quick_and_loads_no_library():
    timed = (
        "import sys, time; before = set(sys.modules); t = time.process_time(); import zephyr; "
        "print(time.process_time() - t, *(set(sys.modules) - before & {'torch', 'pydantic', 'rich', 'numpy'}))"
    )
    said = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pydantic", "rich", "numpy"} & set(said)
    assert float(said[0]) < 0.1


def test_the_types_for_editors_are_those_of_the_schema(repository):
    written = (repository / "src/zephyr/__init__.pyi").read_text(encoding="utf-8")
    assert stub.stub() == written, "run python -m zephyr.api.stub > src/zephyr/__init__.pyi"

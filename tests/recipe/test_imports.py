"""Files of axolotl, LLaMA-Factory and TRL as recipes: every key translated, or left out with a reason."""

import re
from pathlib import Path

import pytest
import yaml

from tests.peers import PAGES, PEERS, with_table
from zephyr.errors import RecipeError
from zephyr.recipe.loading import read_recipe, recipe_of, short_yaml

FILES = sorted((Path(__file__).parent / "imports").glob("*.yaml"))


def loaded(name, *overrides):
    return read_recipe(str(Path(__file__).parent / "imports" / f"{name}.yaml"), overrides)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_key_is_accounted_for_and_the_recipe_reads_back(file):
    found = read_recipe(str(file))
    told = "\n".join(found.notes)
    for key in yaml.safe_load(file.read_text()):
        assert re.search(rf"(?<![\w.]){key}(?![\w.])", told), key
    again = recipe_of(yaml.safe_load(short_yaml(found.recipe)), "again", {})
    assert again == found.recipe


def test_axolotl_qlora():
    recipe = loaded("axolotl_qlora").recipe
    sft = recipe.sft
    assert (recipe.name, recipe.model.name_or_path, recipe.chat_template.name) == (
        "qlora-talks",
        "Qwen/Qwen3-0.6B",
        "own",
    )
    assert [(one.path, one.split, one.config) for one in sft.data.sources] == [
        ("./talks.jsonl", "train", None),
        ("me/more-talks", "train[:20%]", "english"),
    ]
    assert sft.data.sources[0].columns == {"messages": "turns"}
    assert (sft.data.max_length, sft.data.eval_share, sft.data.truncation.rule) == (3072, 0.03, "drop")
    train = sft.train
    assert (train.train_batch_size, train.learning_rate, train.num_train_epochs) == (15, 0.00013, 2)
    assert (train.optim, train.lr_scheduler_type, train.warmup_ratio) == ("adamw_8bit", "cosine", 0.07)
    assert (train.precision, train.activation_checkpointing, train.report_to) == ("bf16", True, ["wandb"])
    assert (sft.lora.r, sft.lora.lora_alpha, sft.lora.target_modules) == (24, 48, "all-linear")
    assert sft.lora.load_in_4bit
    assert sft.objective.loss_on == "assistant"


def test_axolotl_simpo():
    align = loaded("axolotl_simpo", "num_devices=4").recipe.align
    objective = align.objective
    assert (objective.name, objective.beta, objective.gamma_beta_ratio, objective.sft_weight) == (
        "simpo",
        2.5,
        0.5,
        0.3,
    )
    assert (align.train.train_batch_size, align.train.warmup_steps) == (64, 11)
    assert (align.train.lr_scheduler_type, align.train.min_lr_ratio) == ("cosine_with_min_lr", 0.2)


def test_llama_factory_dpo():
    recipe = loaded("llama_factory_dpo").recipe
    align = recipe.align
    (source,) = align.data.sources
    assert source.path == str(Path(__file__).parent / "imports/factory_data/pairs.jsonl")
    assert source.columns == {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert source.max_rows == 900
    assert (recipe.name, recipe.chat_template.name) == ("dpo", "chatml")
    assert (align.objective.loss_type, align.objective.beta, align.objective.rpo_alpha) == ("ipo", 0.2, 0.4)
    assert (align.lora.r, align.lora.lora_alpha, align.lora.target_modules) == (12, 24, ["q_proj", "v_proj"])
    assert (align.train.train_batch_size, align.train.activation_checkpointing) == (12, True)
    assert (align.data.max_length, align.data.eval_share, align.train.eval_steps) == (1792, 0.05, 200)


def test_trl_dpo():
    align = loaded("trl_dpo", "num_devices=2").recipe.align
    assert (align.objective.loss_type, align.objective.beta, align.train.train_batch_size) == ("ipo", 0.15, 24)
    assert (align.lora.r, align.lora.lora_alpha) == (20, 40)


def test_trl_as_its_documentation_shows_it():
    sft, dpo, reward, kto = (loaded(f"trl_{name}").recipe for name in ("mixture", "losses", "reward", "kto"))
    assert [(one.path, one.split, one.config) for one in sft.sft.data.sources] == [
        ("me/talks", "train_talks", None),
        ("me/code", "train", "solutions"),
    ]
    assert (sft.sft.data.eval_share, sft.chat_template.name, sft.chat_template.path) == (0.03, "file", "me/chat-model")
    assert (sft.sft.objective.loss_on, sft.sft.batch_counts) == ("assistant", "packed")
    assert sft.sft.train.min_lr_ratio == 0.1
    assert dpo.align.objective.loss_type == {"sigmoid": 0.8, "bco_pair": 0.2}
    assert [(one.path, one.split) for one in dpo.align.data.eval_sources] == [("me/pairs", "test")]
    assert (reward.reward.objective.center_rewards_coefficient, reward.reward.data.truncation.rule) == (0.01, "drop")
    assert (kto.align.objective.name, kto.align.train.warmup_ratio, kto.align.train.warmup_steps) == ("kto", 0.1, None)
    assert kto.align.lora.load_in_4bit


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("trl_dpo", "num_generations=8", "num_generations: is of GRPO, which is not trained here, got 8; learn from"),
        ("trl_mixture", "datasets=[{path: a, split: test}]", "datasets.0: trains on test rows, got a test; name a"),
        ("llama_factory_dpo", "stage=pt", "finetuning_type: adapters are not trained on plain text here"),
        ("llama_factory_dpo", "use_apollo=true apollo_rank=4", "use_apollo: is another optimizer, got True"),
        ("axolotl_qlora", "quantize_moe_experts=true", "experts are not quantized apart, got True; leave it out"),
        ("axolotl_qlora", "rl=grpo", "rl: is not known here, got 'grpo'; choose dpo, ipo, orpo, simpo, kto"),
        (
            "axolotl_qlora",
            "val_set_size=100",
            "val_set_size: is a number of rows, got 100; write a share, such as 0.02",
        ),
        ("llama_factory_dpo", "dataset=other", "dataset: other is not in "),
        ("llama_factory_dpo", "quantization_bit=8", "quantization_bit: there are 4-bit bases alone, got 8; write 4"),
        (
            "llama_factory_dpo",
            "finetuning_type=freeze",
            "finetuning_type: is not known here, got 'freeze'; choose full",
        ),
    ],
)
def test_what_cannot_be_translated_is_told(name, override, said):
    with pytest.raises(RecipeError) as caught:
        loaded(name, *(override.split(" ") if "[" not in override else [override]))
    assert said in str(caught.value)
    assert "there is no such key" not in str(caught.value)


def test_a_key_without_a_value_is_no_mistake(tmp_path):
    text = (Path(__file__).parent / "imports/axolotl_qlora.yaml").read_text(encoding="utf-8")
    (tmp_path / "a.yaml").write_text(f"{text}\nsome_old_option:\n")
    assert "some_old_option is left out: it is empty" in read_recipe(str(tmp_path / "a.yaml")).notes


def test_a_misspelt_key_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("base_model: m\nmicro_batch_sise: 2\nsequence_len: 512\nlearning_rate: 1.0e-4\n")
    with pytest.raises(
        RecipeError, match=r"micro_batch_sise: there is no such key, got 2; did you mean 'micro_batch_size'"
    ):
        read_recipe(str(tmp_path / "a.yaml"))


def test_axolotl_reward_and_losses():
    reward = loaded("axolotl_reward").recipe.reward
    assert (reward.objective.center_rewards_coefficient, reward.train.train_batch_size) == (0.02, 12)
    objective = loaded("axolotl_dpo").recipe.align.objective
    assert (objective.loss_type, objective.label_smoothing, objective.use_weighting) == ("robust", 0.1, True)


def test_llama_factory_kto():
    recipe = loaded("llama_factory_kto").recipe
    objective = recipe.align.objective
    assert (objective.name, objective.beta, objective.desirable_weight) == ("kto", 0.3, 1.2)
    assert (recipe.align.train.precision, recipe.align.train.router_aux_loss_coef) == ("pure_bf16", 0.01)
    assert recipe.align.lora.load_in_4bit


def test_what_has_no_counterpart_is_refused_together(tmp_path):
    file = tmp_path / "axolotl.yaml"
    lines = ["base_model: m/m", "sequence_len: 512", "datasets: [{path: me/talks}]"]
    lines += ["use_pose: true", "fp8: true", "relora: false"]
    file.write_text("\n".join(lines))
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(file))
    said = str(caught.value)
    assert "use_pose: positions are not skipped in training, got True; train with longer rows" in said
    assert "fp8: float8 is not trained in" in said
    assert "relora" not in said


@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_tables_of_keys_in_the_docs_are_the_importers(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert with_table(page, PEERS[name]) == page, "run python -m tests.peers"

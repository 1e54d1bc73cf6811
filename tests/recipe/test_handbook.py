import re
from pathlib import Path

import pytest
import yaml

from zephyr.errors import RecipeError
from zephyr.recipe.data_section import is_held_out
from zephyr.recipe.handbook import keys as known
from zephyr.recipe.loading import read_recipe, resolved_yaml

FOLDER = Path(__file__).parent / "handbook"
REFUSED = {"starchat_dpo_2025"}
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TRANSLATED = [name for name in FILES if name not in REFUSED]


def load(name, *overrides):
    return read_recipe(str(FOLDER / f"{name}.yaml"), overrides)


def stage_of(recipe):
    (stage,) = recipe.stages
    return stage, getattr(recipe, stage)


# Stage, learning rate, epochs, examples a step, longest sequence, scheduler, optimizer.
EXPECTED = {
    "sft_full_2023": ("sft", 2e-5, 1, 512, 2048, "cosine", "adamw_torch"),
    "sft_lora_2023": ("sft", 2e-5, 1, 512, 2048, "cosine", "adamw_torch"),
    "dpo_full_2023": ("align", 5e-7, 3, 64, 1024, "linear", "rmsprop"),
    "dpo_lora_2023": ("align", 5e-7, 3, 64, 1024, "linear", "rmsprop"),
    "sft_full_2024": ("sft", 2e-5, 1, 128, 2048, "cosine", "adamw_torch"),
    "dpo_full_2024": ("align", 5e-7, 1, 128, 1024, "cosine", "adamw_torch"),
    "dpo_qlora_2024": ("align", 5e-6, 1, 128, 1024, "cosine", "adamw_torch"),
    "orpo_141b_2024": ("align", 5e-6, 3, 32, 2048, "inverse_sqrt", "adamw_8bit"),
    "gemma_sft_2024": ("sft", 2e-5, 3, 128, 2048, "cosine", "adamw_torch"),
    "scan_kto_pair_2024": ("align", 5e-7, 1, 128, 1024, "cosine", "adamw_torch"),
    "starchat_dpo_held_out": ("align", 5e-7, 2, 128, 1024, "cosine", "adamw_torch"),
    "smollm_sft_2024": ("sft", 1e-3, 1, 128, 2048, "cosine", "adamw_torch"),
    "smollm2_sft_2025": ("sft", 3e-4, 2, 128, 8192, "cosine", "adamw_torch"),
    "smollm3_apo_2025": ("align", 1e-6, 1, 32, 24576, "cosine_with_min_lr", "adamw_torch"),
    "cpt_2024": ("pretrain", 2e-4, 1, 128, 1024, "cosine", "adamw_torch"),
}


def test_every_file_is_expected():
    assert len(FILES) == 16
    assert EXPECTED.keys() == set(TRANSLATED)


@pytest.mark.parametrize("name", TRANSLATED)
def test_numbers_are_those_of_the_handbook(name):
    stage, section = stage_of(load(name).recipe)
    train = section.train
    found = (train.learning_rate, train.num_train_epochs, train.train_batch_size, section.data.max_length)
    assert (stage, *found, train.lr_scheduler_type, train.optim) == EXPECTED[name]
    assert train.activation_checkpointing
    assert train.precision == "bf16"
    assert train.save_steps == 100


@pytest.mark.parametrize("name", TRANSLATED)
def test_every_old_key_is_told(name):
    old = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    notes = load(name).notes
    assert [key for key in old if not any(re.search(rf"\b{key}\b", note) for note in notes)] == []
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translation_loads_as_the_same_recipe(name, tmp_path):
    recipe = load(name).recipe
    (tmp_path / "new.yaml").write_text(resolved_yaml(recipe))
    again = read_recipe(str(tmp_path / "new.yaml"))
    assert again.recipe == recipe
    assert again.notes == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sft_full_2023", ("zephyr", True, True, True, None)),
        ("dpo_full_2023", ("zephyr", True, True, True, False)),
        ("dpo_full_2024", ("zephyr", True, True, True, True)),
        ("orpo_141b_2024", ("zephyr", True, True, True, True)),
        ("gemma_sft_2024", ("chatml", True, False, False, None)),
        ("scan_kto_pair_2024", ("own", False, True, True, None)),
        ("smollm2_sft_2025", ("chatml", False, False, False, None)),
        ("smollm3_apo_2025", ("own", False, True, False, None)),
    ],
)
def test_dialogues_are_laid_out_as_the_code_of_the_year_did(name, expected):
    found = load(name).recipe.chat_template
    assert (found.name, found.empty_system, found.extra_eos, found.legacy_space, found.bos) == expected


def test_what_is_optimised():
    assert load("dpo_full_2024").recipe.align.objective.beta == 0.01
    kto_pair = load("scan_kto_pair_2024").recipe.align.objective
    assert (kto_pair.name, kto_pair.beta, kto_pair.loss_type) == ("dpo", 0.3, "kto_pair")
    orpo = load("orpo_141b_2024").recipe.align.objective
    assert (orpo.name, orpo.beta, orpo.nll_on_prompt) == ("orpo", 0.05, True)
    assert load("smollm3_apo_2025").recipe.align.objective.loss_type == "apo_zero"
    assert load("sft_full_2024").recipe.sft.objective.loss_on == "everything"
    assert load("sft_full_2024").recipe.sft.batch_counts == "packed"
    assert load("smollm2_sft_2025").recipe.sft.batch_counts == "dialogues"


def test_truncation_is_that_of_the_year():
    rules = {name: load(name).recipe.align.data.truncation.rule for name in ("dpo_full_2023", "smollm3_apo_2025")}
    assert rules == {"dpo_full_2023": "trl_0.7", "smollm3_apo_2025": "keep_end"}


def test_rows_held_out_are_those_the_handbook_held_out():
    data = load("dpo_full_2024").recipe.align.data
    assert [(one.path, one.split) for one in data.sources] == [("HuggingFaceH4/ultrafeedback_binarized", "train_prefs")]
    assert [one.split for one in data.eval_sources] == ["test_prefs"]
    assert load("smollm3_apo_2025").recipe.align.data.eval_sources == []
    mixed = load("smollm_sft_2024").recipe.sft.data
    assert [one.weight for one in mixed.sources] == [1.0, 1.0, 0.001]
    assert [one.weight for one in mixed.eval_sources] == [1.0, 1.0, 1.0]  # never subsampled
    text = load("cpt_2024").recipe.pretrain.data.sources[0]
    assert (text.config, text.columns) == ("tiny", {"text": "content"})


def test_adapters():
    lora = load("dpo_qlora_2024").recipe.align.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.load_in_4bit) == (128, 128, 0.05, True)
    assert load("dpo_full_2024").recipe.align.lora is None


def test_training_on_test_rows_is_refused_with_what_to_write():
    with pytest.raises(RecipeError) as caught:
        load("starchat_dpo_2025")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("2 problems")
    assert lines[1] == (
        "  line 8, dataset_mixture.datasets.2: trains on test rows, got HuggingFaceH4/ultrafeedback_binarized "
        "test_prefs; move this entry from `datasets` to a list `eval_datasets` beside it"
    )
    data = load("starchat_dpo_held_out").recipe.align.data
    assert [one.split for one in data.sources] == ["train_prefs"] * 2
    assert [one.split for one in data.eval_sources] == ["test_prefs"] * 2


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["dataset_splits={train: [train_prefs, test_prefs], test: [test_prefs]}"], "override, dataset_splits.train"),
        (["dataset_mixture={datasets: [{id: a, split: test}]}"], "override, dataset_mixture.datasets.0"),
        (["dataset_mixer=null", "dataset_name=a", "dataset_train_split=test_prefs"], "dataset_train_split"),
    ],
)
def test_test_rows_are_refused_in_every_way_of_naming_rows(words, place):
    with pytest.raises(RecipeError, match="trains on test rows") as caught:
        load("dpo_full_2024", *words)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("split", "held_out"),
    [
        ("test", True),
        ("test_prefs", True),
        ("validation[:10%]", True),
        ("eval-set", True),
        ("val_1k", True),
        ("testset", True),
        ("interval", False),
        ("train", False),
        ("latest", False),
        ("protest_train", False),
        ("OpenThoughts3_1.2M_think", False),
    ],
)
def test_names_of_held_out_splits(split, held_out):
    assert is_held_out(split) is held_out


def test_overrides_may_be_in_old_keys_or_in_ours():
    recipe = load("dpo_full_2024", "beta=0.3", "num_devices=4", "align.train.max_steps=7", "seed=1").recipe
    assert recipe.align.objective.beta == 0.3
    assert recipe.align.train.train_batch_size == 64
    assert (recipe.align.train.max_steps, recipe.seed) == (7, 1)


def test_another_objective_may_be_chosen():
    loaded = load("dpo_full_2024", "align.objective.name=orpo")
    assert loaded.recipe.align.objective.name == "orpo"


def test_assumed_devices_are_told():
    note = next(note for note in load("dpo_full_2024").notes if note.startswith("per_device_train_batch_size"))
    assert note.endswith(
        "train_batch_size 128 (8 x gradient_accumulation_steps 2 x 8 devices, assumed: say num_devices=N if they were "
        "others)"
    )
    assert any(note.startswith("push_to_hub is left out: deliver.push_to_hub") for note in load("dpo_full_2024").notes)


def test_problems_are_told_in_old_keys_with_their_lines(tmp_path):
    text = (FOLDER / "dpo_full_2024.yaml").read_text()
    broken = text.replace("beta:", "betta:").replace("optim: adamw_torch", "optim: adamw_torh")
    path = tmp_path / "dpo.yaml"
    path.write_text(broken.replace("per_device_train_batch_size: 8", "per_device_train_batch_size: many"))
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(path))
    printed = str(caught.value)
    assert "line 9, betta: there is no such key, got 0.01; did you mean 'beta'?" in printed
    assert "optim: is not known here, got 'adamw_torh'; did you mean 'adamw_torch'?" in printed
    assert "per_device_train_batch_size: must be a whole number above 0, got 'many'" in printed
    path.write_text(text.replace("learning_rate: 5.0e-7", "learning_rate: fast"))
    with pytest.raises(
        RecipeError, match=r"line 17 \(learning_rate\), align.train.learning_rate: must be a valid number"
    ):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gamma_beta_ratio=0.5", "beta=2.0"], {"name": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5}),
        (["loss_type=simpo", "simpo_gamma=1.0", "beta=2.0"], {"name": "simpo", "gamma_beta_ratio": 0.5}),
        (["cpo_alpha=0.5"], {"name": "cpo", "cpo_alpha": 0.5, "beta": 0.01}),
        (["loss_type=simpo", "beta=2.0"], {"name": "simpo", "gamma_beta_ratio": 0.25, "sft_weight": 1.0}),
        (["loss_type=alphapo", "alpha=0.25", "beta=2.0"], {"name": "simpo", "alpha": 0.25, "sft_weight": 0.0}),
        (["cpo_alpha=0.5", "loss_type=hinge"], {"name": "cpo", "loss_type": "hinge"}),
        (["tpo_alpha=0.5", "loss_type=tpo-l"], {"name": "tpo", "loss_type": "tpo_l", "tpo_alpha": 0.5}),
        (["use_weighting=true"], {"name": "dpo", "use_weighting": True}),
        (["desirable_weight=2.0"], {"name": "kto", "desirable_weight": 2.0}),
        (["sync_ref_model=true", "ref_model_sync_steps=64"], {"name": "dpo", "reference_sync_steps": 64}),
        (["ref_model_sync_steps=64"], {"name": "dpo", "reference_sync_steps": None}),
        (["f_divergence_type=js_divergence"], {"f_divergence": "js_divergence"}),
        (["output_dir=data/my-orpo-run"], {"name": "dpo"}),
        (["hub_model_id=my-orpo-run"], {"name": "orpo"}),
    ],
)
def test_objectives_are_told_by_their_keys(words, expected):
    objective = load("dpo_full_2024", *words).recipe.align.objective
    assert expected.items() <= objective.model_dump().items()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, False)),
        (["metric_for_best_model=rewards/margins"], (None, False)),
        (["load_best_model_at_end=true"], ("loss", False)),
        (["load_best_model_at_end=true", "metric_for_best_model=rewards/margins"], ("rewards/margins", True)),
        (["load_best_model_at_end=true", "metric_for_best_model=loss", "greater_is_better=false"], ("loss", False)),
        (["load_best_model_at_end=true", "greater_is_better=true"], ("loss", True)),
    ],
)
def test_the_best_weights_are_handed_on_where_the_old_recipe_loaded_them(words, expected):
    train = load("dpo_full_2024", *words).recipe.align.train
    assert (train.metric_for_best_model, train.prefers_greater) == expected


def test_no_key_is_in_two_tables():
    tables = [known.TRAIN_KEYS, known.OBJECTIVE_KEYS, known.LORA_KEYS, known.WORKED_OUT, known.LEFT_OUT, known.ONLINE]
    assert sum(map(len, tables)) == len(known.OLD_KEYS)


def test_a_file_with_both_kinds_of_keys_is_no_handbook(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text("model_name_or_path: x\nmodel: {kind: pretrained, name_or_path: x}\nname: x\n")
    with pytest.raises(RecipeError, match="model_name_or_path: there is no such key"):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("schedule", "given", "expected", "left_out"),
    [
        ("cosine_with_min_lr", "{min_lr_rate: 0.2}", {"min_lr_ratio": 0.2}, []),
        ("cosine_with_restarts", "{num_cycles: 3}", {"num_cycles": 3}, []),
        ("warmup_stable_decay", "{num_decay_steps: 50, decay_type: linear}", {"num_decay_steps": 50}, ["decay_type"]),
        ("polynomial", "{power: 2.0, lr_end: 1.0e-6}", {"power": 2.0}, ["lr_end"]),
    ],
)
def test_what_a_schedule_is_told_is_kept_or_named(tmp_path, schedule, given, expected, left_out):
    path = tmp_path / "dpo.yaml"
    lines = f"lr_scheduler_type: {schedule}\nlr_scheduler_kwargs: {given}"
    path.write_text(re.sub("lr_scheduler_type: .*", lines, (FOLDER / "dpo_full_2024.yaml").read_text()))
    loaded = read_recipe(str(path))
    train = loaded.recipe.align.train
    assert {name: getattr(train, name) for name in expected} == expected
    told = [note for note in loaded.notes if note.startswith("lr_scheduler_kwargs.")]
    assert told == [f"lr_scheduler_kwargs.{key} is left out: the schedule here has no such setting" for key in left_out]

"""Recipes of the alignment-handbook of 2023 to 2025, translated key by key into ours, and every translation noted.

They are flat lists of transformers' training arguments for one stage. What the handbook's code of the time did
besides (a system turn, a second end-of-sequence token, packing, a way to truncate) is written out as settings.
Source: huggingface/alignment-handbook and the TRL releases it pinned, 0.7.2 to 0.19.
"""

import re
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import did_you_mean
from zephyr.recipe.handbook import keys as known
from zephyr.recipe.handbook.rows import find_sources
from zephyr.recipe.handbook.training import (
    asks_for_evaluation,
    translate_adapters,
    translate_evaluation,
    translate_objective,
    translate_training,
)
from zephyr.recipe.handbook.writer import Translation
from zephyr.recipe.outline import Keys
from zephyr.recipe.problems import Problem, broken, quoted
from zephyr.recipe.section import Plain

_MARKERS = {"<|user|>": "zephyr", "<|im_start|>": "chatml", "<|start_header_id|>": "llama3"}
# A base model without a template of its own was given Zephyr's; models named like these had it.
_ZEPHYRS = re.compile(r"mistralai/mistral-7b-v0|mixtral-8x22b-v0|mistral-7b-sft|zephyr-7b-(sft|dpo|beta|alpha)")
_LLAMA_TOKENIZERS = re.compile(r"mistral|mixtral|zephyr-7b-(?!gemma)|llama-2")
_SHARE_HELD_OUT = 0.02


class Translated(NamedTuple):
    """A recipe's data, the old key behind each new one, and a line for every old key."""

    data: dict[str, Plain]
    origins: dict[Keys, str]
    notes: list[str]


def translate(old: dict[str, Plain], file: Path, places: dict[Keys, str]) -> Translated:
    """The recipe that a handbook's recipe translates to. Raises RecipeError with all that cannot be translated."""
    work = Translation(old, file)
    _head(work, file)
    if work.stage == "pretrain":
        for key in ("chat_template", "auto_insert_empty_system_msg", "dataset_kwargs"):
            work.leave(key, "plain text has no layout")
    else:
        _template(work)
    _rows(work)
    _lengths(work)
    _batch(work)
    translate_training(work)
    translate_evaluation(work)
    if work.stage == "align":
        translate_objective(work)
    elif work.stage == "reward" and work.get("center_rewards_coefficient") is not None:
        weight = work.old["center_rewards_coefficient"]
        work.put(".objective.center_rewards_coefficient", weight, "center_rewards_coefficient")
    translate_adapters(work)
    _rest(work)
    if work.problems:
        raise broken(str(file), work.problems, places)
    return Translated(work.data, work.origins, work.notes)


def _head(work: Translation, file: Path) -> None:
    """Stage, name, seed and model."""
    work.stage = _stage(work)
    work.notes.append(f"the stage is {work.stage}, detected by the keys and names of the file")
    origin = next((key for key in ("output_dir", "hub_model_id", "run_name") if work.old.get(key)), "output_dir")
    name = Path(str(work.get("output_dir", "hub_model_id", "run_name") or file.stem)).name
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "handbook"
    work.put("name", clean, origin, "the run's folder below runs/")
    for key in ("hub_model_id", "run_name"):
        if key != origin:
            work.leave(key, f"{origin} names the run")
    if work.get("seed") is not None:
        work.put("seed", work.old["seed"], "seed")
    work.put("model.kind", "pretrained", "model_name_or_path")
    work.put("model.name_or_path", work.get("model_name_or_path"), "model_name_or_path")
    if work.get("model_revision") is not None:
        work.put("model.revision", work.old["model_revision"], "model_revision")


def _stage(work: Translation) -> str:
    preference = {"beta", "max_prompt_length", "simpo_gamma", "sync_ref_model", *known.OBJECTIVE_KEYS}
    if "center_rewards_coefficient" in work.old:
        return "reward"
    if preference & work.old.keys() or work.named("dpo|orpo|kto|apo"):
        return "align"
    if work.named("reward"):
        return "reward"
    return "pretrain" if "text_column" in work.old or work.named("cpt") else "sft"


def _template(work: Translation) -> None:
    """The layout of dialogues, with what the code of the time added to it."""
    if isinstance(path := work.get("chat_template_path"), str):
        work.put("chat_template.name", "file", "chat_template_path")
        work.put("chat_template.path", path, "chat_template_path")
        return
    written = str(work.get("chat_template") or work.old.get("tokenizer_name_or_path") or "")
    model = str(work.old.get("model_name_or_path") or "").lower()
    name = next((name for marker, name in _MARKERS.items() if marker in written), "own")
    if name == "own" and re.search("chatml|smollm", written.lower()):
        name = "chatml"
    if not written and _ZEPHYRS.search(model):
        name = "zephyr"
    why = "detected by its markers, or by model_name_or_path and tokenizer_name_or_path"
    work.put("chat_template.name", name, "chat_template", why)
    if not work.rendered:
        if work.stage == "align":
            work.put("chat_template.extra_eos", True, "chat_template", "TRL before 0.29 added one")
        return
    empty = work.get("auto_insert_empty_system_msg") is not False and name in ("zephyr", "chatml")
    work.put("chat_template.empty_system", empty, "auto_insert_empty_system_msg", "the handbook's default")
    options = work.get("dataset_kwargs")
    extra = not isinstance(options, dict) or options.get("append_concat_token") is not False
    work.put("chat_template.extra_eos", extra, "dataset_kwargs", "TRL of the time added one by default")
    legacy = _LLAMA_TOKENIZERS.search(model) is not None
    work.put("chat_template.legacy_space", legacy, "model_name_or_path", "tokenizers of 2023 and 2024")
    if work.stage == "align" and name == "zephyr":
        # Recipes of 2023 ran with TRL 0.7.4, whose prompts began with no bos token.
        old_trl = work.old.get("optim") == "rmsprop" and work.old.get("save_strategy") == "no"
        why = "a recipe of 2023: TRL 0.7.4 added none" if old_trl else "TRL 0.7.5 to 0.11 added one"
        work.put("chat_template.bos", not old_trl, "chat_template", why)


def _rows(work: Translation) -> None:
    """The data: what is trained on, and what is held out."""
    found = find_sources(work.old)
    work.problems += found.problems
    work.notes += found.notes
    origin = next(iter(found.keys), "dataset_mixer")
    work.put(".data.sources", list(found.train), origin, " and ".join(key for key in found.keys[1:] if key in work.old))
    mixture = work.old.get("dataset_mixture")
    if not asks_for_evaluation(work):
        if found.held_out:
            work.notes.append("the test split is left out: the file has evaluation off")
    elif found.held_out:
        work.put(".data.eval_sources", list(found.held_out), origin, "held out, never trained on")
    elif isinstance(mixture, dict) and "test_split_size" in mixture:
        why = f"for test_split_size {mixture['test_split_size']}: here a share of the prompts"
        work.put(".data.eval_share", _SHARE_HELD_OUT, origin, why)
    elif isinstance(share := work.get("test_split_size"), float):
        work.put(".data.eval_share", share, "test_split_size", "a share of the prompts")
    column = work.get("text_column", "dataset_text_field")
    if work.stage == "pretrain" and isinstance(column, str) and column != "text":
        for source in found.train:
            assert isinstance(source, dict)
            source["columns"] = {"text": column}
        work.notes.append(f"text_column, dataset_text_field -> pretrain.data.sources.0.columns text: {column}")


def _lengths(work: Translation) -> None:
    """Longest sequences, and which side of a longer one goes."""
    if work.stage != "align":
        key = "max_seq_length" if "max_seq_length" in work.old else "max_length"
        work.put(".data.max_length", work.number(key, 1024), key, work.default_of(key))
        if work.stage == "reward":
            work.put(".data.truncation.rule", "drop", "max_length", "as TRL leaves longer pairs out")
        why = "packing cut no dialogue; here a longer one loses its end"
        work.put(".data.truncation.max_rows_share", 0.5, "packing", why)
        return
    prompt = work.number("max_prompt_length", 128 if work.rendered else 512)
    work.put(".data.max_prompt_length", prompt, "max_prompt_length", work.default_of("max_prompt_length"))
    # With TRL's old default of 512 a prompt as long as that left its answers no token.
    usual = 512 if work.rendered and prompt < 512 else 1024
    work.put(".data.max_length", work.number("max_length", usual), "max_length", work.default_of("max_length"))
    rule = "trl_0.7" if work.rendered else str(work.get("truncation_mode") or "keep_end")
    work.leave("truncation_mode", "TRL of the time cut prompts at their start")
    work.put(".data.truncation.rule", rule, "truncation_mode", "as TRL of the time cut")


def _batch(work: Translation) -> None:
    """The examples of a step: per device, times accumulation, times devices."""
    each, steps = work.number("per_device_train_batch_size", 8), work.number("gradient_accumulation_steps", 1)
    listed = next((number for word, number in known.PUBLISHED_DEVICES.items() if word in work.names), known.DEVICES)
    plain_lora = work.old.get("use_peft") is True and not work.old.get("load_in_4bit")
    devices = work.number("num_devices", 1 if plain_lora else listed)
    assumed = "" if "num_devices" in work.old else ", assumed: say num_devices=N if they were others"
    why = f"{each} x gradient_accumulation_steps {steps} x {devices} devices{assumed}"
    work.put(".train.train_batch_size", each * steps * devices, "per_device_train_batch_size", why)
    packed = work.get("packing")
    work.leave("packing", "sequences are laid out as prefix trees")
    if work.stage == "sft" and (packed is True or (packed is None and work.rendered)):
        work.put(".batch_counts", "packed", "packing", "the batch counted packed sequences of max_length tokens")


def _rest(work: Translation) -> None:
    """What decides the loss mask, what is left out, and what nobody knows."""
    if work.stage == "sft":
        alone = work.get("assistant_only_loss") is True
        why = "" if alone else "every token counted"
        work.put(".objective.loss_on", "assistant" if alone else "everything", "assistant_only_loss", why)
    for key in work.old:
        if key in known.ONLINE:
            work.problems.append(
                Problem((key,), f"{known.ONLINE[key][0]}{quoted(work.old[key])}", known.ONLINE[key][1])
            )
        elif key in known.LEFT_OUT:
            work.leave(key, known.LEFT_OUT[key])
        elif key not in known.OLD_KEYS:
            nearest = did_you_mean(key, known.OLD_KEYS).removeprefix("; ")
            work.problems.append(Problem((key,), f"there is no such key{quoted(work.old[key])}", nearest))
        elif not any(key in note for note in work.notes):
            work.leave(key, f"it does not apply to the stage {work.stage}")

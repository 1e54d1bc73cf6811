"""The model card of a run: a README.md in the shape of the published ones, front matter for the hub included.

Here the values are gathered from what the run recorded; the card is `templates/card.md.j2`. What was not recorded is
absent from it.
"""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from zephyr.deliver.curve_notes import curve_warnings
from zephyr.deliver.rendering import render_markdown
from zephyr.deliver.run_facts import (
    EVAL_COLUMNS,
    ModelScore,
    counts_of,
    decimals,
    evaluations,
    health_of,
    interval_words,
    makers_of,
    readable,
    scores_of,
)
from zephyr.errors import DataError
from zephyr.recipe.stage_sections import ALIGN, DELIVER, EVALUATE, FEEDBACK, PRETRAIN, REWARD, SFT, SYNTH
from zephyr.records.fields import Json
from zephyr.runs.layout import CARD
from zephyr.runs.reader import FinishedStage, RunRecord, at, count_weights, elements, entries, number, read_record

REWARD_OBJECTIVE = "bradley_terry"
_TAGS = {REWARD_OBJECTIVE: ["reward-model", "reward-trainer"]}
_METHODS = {
    "dpo": "Direct Preference Optimization (DPO)",
    "orpo": "Odds Ratio Preference Optimization (ORPO)",
    "kto": "Kahneman-Tversky Optimization (KTO)",
    "simpo": "Simple Preference Optimization (SimPO)",
    "cpo": "Contrastive Preference Optimization (CPO)",
    "tpo": "Triple Preference Optimization (TPO)",
    "listwise": "preference optimization over ranked lists",
    "best_of_n": "supervised fine-tuning on the best-rated answers (best of n, rejection sampling)",
    "custom": "preference optimization with a loss of its own",
    REWARD_OBJECTIVE: "the Bradley-Terry loss on pairs, as a reward model",
}
_FRAMEWORKS = {
    "zephyr": "Zephyr",
    "transformers": "Transformers",
    "torch": "Pytorch",
    "datasets": "Datasets",
    "tokenizers": "Tokenizers",
    "peft": "Peft",
}
_ROLES = {"teacher": "Teacher", "judge": "Judge", "candidates": "Answers to be rated by"}
# Where a recipe lists the data that its models learn from.
_TRAINING_DATA = (
    (SYNTH, "generator", "passages"),
    (SYNTH, "generator", "pool"),
    (PRETRAIN, "data", "sources"),
    (SFT, "data", "sources"),
    (FEEDBACK, "prompts"),
    (FEEDBACK, "recorded"),
    (REWARD, "data", "sources"),
    (ALIGN, "data", "sources"),
)
# Options of an objective that are listed under another name, or mean nothing where `reference_sync_steps` is unset.
_UNSAID = ("name", "reference_mixup")


def card_of(run: RunRecord, *, results: Sequence[ModelScore] = ()) -> str:
    """The card of the run's last model; `results` are scores that were measured outside the run.

    The front matter has those of the last model, the body has all.

    Raises DataError where the run has made no model.
    """
    trained, folder = run.trained, run.model_folder
    if trained is None or folder is None:
        raise DataError(str(run.folder), "has no model yet", "finish its sft, reward or align stage first: zephyr run")
    scores = [*scores_of(run), *results]
    own = [score for score in scores if score.model == run.title_of(trained.name)]
    makers = makers_of(run)
    values = {
        "front_matter": _front_matter(run, own).to_yaml(),
        "name": run.name,
        "description": str(run.recipe.get("description") or ""),
        **_model(run, folder),
        "makers": [(title, makers[role]) for role, title in _ROLES.items() if role in makers],
        "judge": makers.get("judge"),
        "data": list(dict.fromkeys(_data_line(one, source) for one, source in _data_of(run))),
        "counts": counts_of(run),
        "seconds": [[stage.name, f"{stage.seconds:,.1f}"] for stage in run.stages.values() if stage.name != DELIVER],
        "scores": [
            [one.model, one.benchmark, one.metric, readable(one.value), interval_words(one), one.source]
            for one in scores
        ],
        "score_notes": dict.fromkeys(f"{one.benchmark}: {note}" for one in scores for note in one.notes),
        "is_reward_model": trained.name == REWARD,
        "prompt": _first_prompt(run),
        "sampling": _sampling(folder),
        "health": [*health_of(run), *curve_warnings(run)],
        "hyper_parameters": _hyper_parameters(run, trained),
        **_training_results(trained.log()),
        "frameworks": [(title, run.packages[name]) for name, title in _FRAMEWORKS.items() if name in run.packages],
    }
    text = render_markdown("card.md.j2", values)
    # The hub's library must be able to read it back.
    ModelCard(text)
    return text


def card_place(run: RunRecord) -> Path:
    """Where the card belongs: into the folder that is uploaded."""
    return (run.model_folder or run.folder) / CARD


# ---- front matter ----


def _front_matter(run: RunRecord, scores: Sequence[ModelScore]) -> ModelCardData:
    objective = _objective(run)
    tags = _TAGS.get(objective) or ["conversational", *([objective] if objective else [])]
    first = run.lineage[-1]
    base = at(first.recipe, "model", "name_or_path")
    sources = ((one, str(at(source, "path") or "")) for one, source in _data_of(run))
    data = ModelCardData(
        # By what the run has read: a folder models/base looks like a name on the hub wherever it is not.
        base_model=base if isinstance(base, str) and first.model_revision else None,
        datasets=list(dict.fromkeys(path for one, path in sources if path in one.hub_sources)) or None,
        language=_languages(run) or None,
        library_name="transformers",
        pipeline_tag="text-classification" if objective == REWARD_OBJECTIVE else "text-generation",
        tags=["zephyr", *tags, "generated_from_trainer"],
        model_name=run.name,
        eval_results=[_eval_result(score) for score in scores] or None,
    )
    if not scores:
        # As in the published cards, whose trainer had no scores either.
        data["model-index"] = [{"name": run.name, "results": []}]
    return data


def _eval_result(score: ModelScore) -> EvalResult:
    """The score in the hub's words; interval, error, number of items and source stand beside the value."""
    arguments = {
        "low": score.low,
        "high": score.high,
        "standard_error": score.standard_error,
        "n": score.n,
        "source": score.source or None,
    }
    return EvalResult(
        task_type="text-generation",
        dataset_type=score.benchmark.replace(", ", "-").replace(" ", "-"),
        dataset_name=score.benchmark,
        metric_type="accuracy" if score.metric in ("rewards accuracy", "share of right answers") else score.metric,
        metric_name=score.metric,
        metric_value=score.value,
        metric_args={name: value for name, value in arguments.items() if value is not None} or None,
    )


def _languages(run: RunRecord) -> list[str]:
    """The languages that a filter kept; a run without such a filter has not looked."""
    found: list[str] = []
    for stage in run.stages:
        for one in elements(run.recipe, stage, "data", "filters") or elements(run.recipe, stage, "filters"):
            if at(one, "name") == "language":
                found += map(str, elements(one, "keep"))
    return list(dict.fromkeys(found))


# ---- the body ----


def training_data(recipe: Mapping[str, Json], stages: Container[str]) -> Iterator[Json]:
    """The data sources that the given stages of a recipe learn from."""
    for place in _TRAINING_DATA:
        if place[0] in stages:
            yield from elements(recipe, *place)


def _data_of(run: RunRecord) -> Iterator[tuple[RunRecord, Json]]:
    """The sources of all data that the model has learnt from, each with its run; not the files that these runs made."""
    lineage = run.lineage
    for one in reversed(lineage):
        for source in training_data(one.recipe, _learnt(one)):
            path = Path(str(at(source, "path") or "")).resolve()
            if not any(path.is_relative_to(made.folder.resolve()) for made in lineage):
                yield one, source


def _data_line(run: RunRecord, source: Json) -> str:
    """A data source and its licence. Of a local file the name is given, not the folder."""
    path = str(at(source, "path") or "")
    name = path if path in run.hub_sources else Path(path).name
    return f"{name}, licence: {at(source, 'license') or 'not recorded'}"


def _objective(run: RunRecord) -> str:
    """The name of the objective that the last model learnt from preferences by; empty where it has not."""
    trained = run.trained
    named = trained is not None and trained.name in (ALIGN, REWARD)
    return str(at(run.recipe, trained.name, "objective", "name") or "") if trained is not None and named else ""


def _learnt(run: RunRecord) -> list[str]:
    """The stages whose data the last model has learnt from, directly or through ratings."""
    is_reward_model = run.trained is not None and run.trained.name == REWARD
    return [stage for stage in run.stages if stage != REWARD or is_reward_model]


def _model(run: RunRecord, folder: Path) -> dict[str, object]:
    """What the model is, from its own files and the recipe."""
    size, kind = count_weights(folder), at(read_record(folder / "config.json"), "model_type")
    first, objective = run.lineage[-1], _objective(run)
    base = at(first.recipe, "model", "name_or_path")
    revision = f" at revision {first.model_revision}" if first.model_revision else ""
    return {
        "size": _short(size) if size and kind else "",
        "model_type": kind,
        "objective": objective,
        "method": _METHODS.get(objective, objective) or "supervised fine-tuning",
        "base": f"{base if first.model_revision else Path(str(base)).name}{revision}" if base else "",
        "is_pretrained_here": PRETRAIN in run.stages,
        "chat_template": _template_name(run),
    }


def _template_name(run: RunRecord) -> str:
    """The chat template in words; paths of files stay here."""
    name = str(at(run.recipe, "chat_template", "name") or "")
    return {"own": "that of the base model", "file": "its own, stored with the tokenizer"}.get(name, name)


def _first_prompt(run: RunRecord) -> str:
    """A prompt that the models were evaluated on, as a Python text."""
    samples = run.stages[EVALUATE].samples() if EVALUATE in run.stages else []
    first = str(at(samples[0], "prompt")) if samples else "Hello!"
    return json.dumps("Hello!" if "```" in first else first, ensure_ascii=False)


def _sampling(folder: Path) -> str:
    """The sampling that stands in the model's folder, as arguments."""
    path = folder / "generation_config.json"
    config = read_record(path) if path.is_file() else None
    names = ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p")
    found = ", ".join(f"{name}={at(config, name)!r}" for name in names if at(config, name) is not None)
    return found or "max_new_tokens=256"


def _hyper_parameters(run: RunRecord, trained: FinishedStage) -> list[tuple[str, Json]]:
    """The last training's settings under the cards' names."""
    section = entries(run.recipe, trained.name)
    train, objective = entries(section, "train"), entries(section, "objective")
    betas = f"betas=({at(train, 'adam_beta1')},{at(train, 'adam_beta2')}) and epsilon={at(train, 'adam_epsilon')}"
    warmup = "warmup_ratio" if at(train, "warmup_steps") is None else "warmup_steps"
    found: dict[str, Json] = {
        "objective": at(objective, "name"),
        **{name: value for name, value in objective.items() if name not in _UNSAID and not isinstance(value, dict)},
        "learning_rate": at(train, "learning_rate"),
        "seed": run.recipe.get("seed"),
        "num_devices": at(trained.facts, "num_devices"),
        "total_train_batch_size": at(train, "train_batch_size"),
        "max_tokens_per_micro_batch (per device)": at(train, "max_tokens_per_micro_batch"),
        "optimizer": f"{at(train, 'optim')} with {betas}",
        "weight_decay": at(train, "weight_decay"),
        "max_grad_norm": at(train, "max_grad_norm"),
        "lr_scheduler_type": at(train, "lr_scheduler_type"),
        f"lr_scheduler_{warmup}": at(train, warmup),
        "num_epochs": _epochs_seen(trained) or at(train, "num_train_epochs"),
        "steps": at(trained.facts, "steps"),
        "precision": at(train, "precision"),
        "max_length": at(section, "data", "max_length"),
        "lora_r": at(section, "lora", "r"),
        "lora_alpha": at(section, "lora", "lora_alpha"),
    }
    return [(name, value) for name, value in found.items() if value is not None]


def _epochs_seen(trained: FinishedStage) -> float | None:
    """The passes over the data at the last step that was logged, which `max_steps` or an early stop may end sooner."""
    seen = [epoch for line in trained.log() if (epoch := number(line.get("epoch"))) is not None]
    return round(seen[-1], 2) if seen else None


def _training_results(log: Sequence[Mapping[str, Json]]) -> dict[str, object]:
    """The last evaluation of the training, and a row for every evaluation, in the cards' columns that were measured."""
    measured = evaluations(log)
    titles = {title: name for title, name in EVAL_COLUMNS.items() if any(name in line for line in measured)}
    rows = [
        [
            decimals(line.get("loss")),
            _trimmed(line.get("epoch")),
            readable(line.get("step")).replace(",", ""),
            *(decimals(line.get(name)) for name in titles.values()),
        ]
        for line in measured
    ]
    last = [
        ("Loss" if title == "Validation Loss" else title, decimals(line.get(name)))
        for line in measured[-1:]
        for title, name in titles.items()
        if number(line.get(name)) is not None
    ]
    return {"evaluation": last, "training_columns": ["Training Loss", "Epoch", "Step", *titles], "training": rows}


def _trimmed(value: Json) -> str:
    """Two decimals without the zeros at their end, as the cards have epochs."""
    found = number(value)
    return "" if found is None else f"{round(found, 2):g}"


def _short(count: int) -> str:
    """A count as models are called by: 7B, 1.4M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)

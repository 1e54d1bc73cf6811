"""The parts of a model card's body, each a piece of Markdown; an empty text where nothing was recorded for it."""

import json
from collections.abc import Mapping, Sequence

from zephyr.deliver.run_facts import (
    EVAL_COLUMNS,
    Count,
    Score,
    counts_of,
    evaluations,
    health_of,
    makers_of,
    spread,
    written,
)
from zephyr.records.fields import Json
from zephyr.runs.reader import RunRecord, at, count_weights, entries, number, read_json

METHODS = {
    "dpo": "Direct Preference Optimization (DPO)",
    "orpo": "Odds Ratio Preference Optimization (ORPO)",
    "kto": "Kahneman-Tversky Optimization (KTO)",
    "simpo": "Simple Preference Optimization (SimPO)",
    "cpo": "Contrastive Preference Optimization (CPO)",
    "listwise": "preference optimization over ranked lists",
    "sft": "supervised fine-tuning",
}
_FRAMEWORKS = {
    "zephyr": "Zephyr",
    "transformers": "Transformers",
    "torch": "Pytorch",
    "datasets": "Datasets",
    "tokenizers": "Tokenizers",
    "peft": "Peft",
}
# Said under another name, or without meaning where `reference_sync_steps` is unset.
_UNSAID = ("name", "reference_mixup")
_ZEPHYR = """@misc{tunstall2023zephyr,
  title={Zephyr: Direct Distillation of LM Alignment},
  author={Lewis Tunstall and Edward Beeching and Nathan Lambert and Nazneen Rajani and Kashif Rasul and Younes Belkada
    and Shengyi Huang and Leandro von Werra and Clémentine Fourrier and Nathan Habib and Nathan Sarrazin and
    Omar Sanseviero and Alexander M. Rush and Thomas Wolf},
  year={2023}, eprint={2310.16944}, archivePrefix={arXiv}, primaryClass={cs.LG}
}"""
_PAPERS = {
    "dpo": """@misc{rafailov2023direct,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafael Rafailov and Archit Sharma and Eric Mitchell and Stefano Ermon and Christopher D. Manning and
    Chelsea Finn},
  year={2023}, eprint={2305.18290}, archivePrefix={arXiv}, primaryClass={cs.LG}
}""",
    "orpo": """@misc{hong2024orpo,
  title={ORPO: Monolithic Preference Optimization without Reference Model},
  author={Jiwoo Hong and Noah Lee and James Thorne},
  year={2024}, eprint={2403.07691}, archivePrefix={arXiv}, primaryClass={cs.CL}
}""",
}
_USAGE = """```python
from transformers import pipeline

# "." is this folder; give its path, or its name on the hub.
pipe = pipeline("text-generation", model=".", dtype="auto")
messages = [{{"role": "user", "content": {prompt}}}]
outputs = pipe(messages, {sampling})
print(outputs[0]["generated_text"][-1]["content"])
```"""


def model_description(run: RunRecord) -> str:
    """What the model is, from its own files and the recipe."""
    assert run.model_folder is not None
    config = read_json(run.model_folder / "config.json")
    size, kind = count_weights(run.model_folder), at(config, "model_type")
    base = at(run.recipe, "model", "name_or_path")
    revision = f" at revision {run.model_revision}" if run.model_revision else ""
    objective = at(run.recipe, "align", "objective", "name") if "align" in run.stages else None
    method = METHODS.get(str(objective), str(objective)) if objective else METHODS["sft"]
    lines = [
        f"- **Model type:** a {_short(size)} parameter {kind} model, trained with {method}" if size and kind else "",
        f"- **Finetuned from model:** {base}{revision}" if base else "",
        "- **Started from:** random weights, pretrained in the same run" if "pretrain" in run.stages else "",
        f"- **Chat template:** {at(run.recipe, 'chat_template', 'name')}",
    ]
    return "\n".join(["## Model description", "", *filter(None, lines)])


def how_made(run: RunRecord) -> str:
    """Who taught and judged, and what every stage counted."""
    words = {"teacher": "Teacher", "candidates": "Answers to be rated by", "judge": "Judge"}
    makers = [f"- **{words[role]}:** {plain(name)}" for role, name in makers_of(run).items()]
    counts: list[Count] = counts_of(run)
    rows = [[count.stage, count.what, count.value] for count in counts]
    seconds = [[stage.name, f"{stage.seconds:,.1f}"] for stage in run.stages.values() if stage.name != "deliver"]
    parts = ["## How it was made", "\n".join(makers), _table(["Stage", "What", "Count"], rows) if rows else ""]
    return "\n\n".join([*filter(None, parts), _table(["Stage", "Seconds"], seconds)])


def scores_table(scores: Sequence[Score]) -> str:
    """Every score with its interval or error and its source."""
    if not scores:
        return ""
    rows = [[one.model, one.benchmark, one.metric, f"{one.value:.4g}", spread(one), one.source] for one in scores]
    return "## Performance\n\n" + _table(["Model", "Benchmark", "Metric", "Score", "95 % interval", "Source"], rows)


def intended_use(run: RunRecord) -> str:
    """How the model is asked, with the sampling that stands in its folder and a prompt that it was asked."""
    assert run.model_folder is not None
    place = run.model_folder / "generation_config.json"
    config = read_json(place) if place.is_file() else None
    names = ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p")
    sampling = ", ".join(f"{name}={at(config, name)!r}" for name in names if at(config, name) is not None)
    asked = run.stages["evaluate"].samples() if "evaluate" in run.stages else []
    first = str(at(asked[0], "prompt")) if asked else "Hello!"
    prompt = json.dumps("Hello!" if "```" in first else first, ensure_ascii=False)
    usage = _USAGE.format(prompt=prompt, sampling=sampling or "max_new_tokens=256")
    words = "It answers messages, laid out by the chat template in its tokenizer, with 🤗 Transformers:"
    return f"## Intended uses & limitations\n\n{words}\n\n{usage}"


def limits(run: RunRecord) -> str:
    """What the records show to be limits, and what they do not show."""
    makers = makers_of(run)
    told = []
    if "judge" in makers:
        told.append(
            f"Its preferences are those of its judge, {plain(makers['judge'])}, not of people: what that judge "
            "overlooks was not corrected."
        )
        told.append("It was not aligned to what people hold to be safe.")
    told.append("No filter checks its answers, so it can produce problematic ones, especially when prompted to.")
    if at(run.recipe, "model", "name_or_path"):
        told.append("What its base model was trained on is not recorded here.")
    lines = ["## Bias, Risks, and Limitations", "", *(f"- {line}" for line in told)]
    health = health_of(run)
    if health:
        lines += ["", "Training noted:", "", *(f"- {plain(note)}" for note in health)]
    return "\n".join(lines)


def evaluation_results(log: Sequence[Mapping[str, Json]]) -> str:
    """The last evaluation of the training, in the cards' words."""
    last = evaluations(log)[-1:]
    lines = [
        f"- {'Loss' if title == 'Validation Loss' else title}: {value:.4f}"
        for line in last
        for title, name in EVAL_COLUMNS.items()
        if (value := number(line.get(name))) is not None
    ]
    head = "## Training and evaluation data\n\nIt achieves the following results on the evaluation set:\n\n"
    return head + "\n".join(lines) if lines else ""


def hyper_parameters(run: RunRecord) -> str:
    """The last training's settings under the cards' names."""
    assert run.trained is not None
    section = entries(run.recipe, run.trained.name)
    train, objective = entries(section, "train"), entries(section, "objective")
    betas = f"betas=({at(train, 'adam_beta1')},{at(train, 'adam_beta2')}) and epsilon={at(train, 'adam_epsilon')}"
    warmup = "warmup_ratio" if at(train, "warmup_steps") is None else "warmup_steps"
    found: dict[str, Json] = {
        "objective": at(objective, "name"),
        **{name: value for name, value in objective.items() if name not in _UNSAID and not isinstance(value, dict)},
        "learning_rate": at(train, "learning_rate"),
        "seed": run.recipe.get("seed"),
        "num_devices": at(run.trained.facts, "num_devices"),
        "total_train_batch_size": at(train, "train_batch_size"),
        "max_tokens_per_micro_batch (per device)": at(train, "max_tokens_per_micro_batch"),
        "optimizer": f"{at(train, 'optim')} with {betas}",
        "weight_decay": at(train, "weight_decay"),
        "max_grad_norm": at(train, "max_grad_norm"),
        "lr_scheduler_type": at(train, "lr_scheduler_type"),
        f"lr_scheduler_{warmup}": at(train, warmup),
        "num_epochs": at(train, "num_train_epochs"),
        "steps": at(run.trained.facts, "steps"),
        "precision": at(train, "precision"),
        "max_length": at(section, "data", "max_length"),
        "lora_r": at(section, "lora", "r"),
        "lora_alpha": at(section, "lora", "lora_alpha"),
    }
    head = "### Training hyperparameters\n\nThe following hyperparameters were used during training:\n\n"
    return head + "\n".join(f"- {name}: {value}" for name, value in found.items() if value is not None)


def training_table(log: Sequence[Mapping[str, Json]]) -> str:
    """A row for every evaluation, with those of the cards' columns that were measured."""
    measured = evaluations(log)
    if not measured:
        return ""
    titles = {title: name for title, name in EVAL_COLUMNS.items() if any(name in line for line in measured)}
    rows = [
        [
            _four(line.get("loss")),
            _trimmed(line.get("epoch")),
            written(line.get("step")).replace(",", ""),
            *(_four(line.get(name)) for name in titles.values()),
        ]
        for line in measured
    ]
    return "### Training results\n\n" + _table(["Training Loss", "Epoch", "Step", *titles], rows)


def framework_versions(run: RunRecord) -> str:
    """The packages that it was made with."""
    lines = [f"- {title} {run.packages[name]}" for name, title in _FRAMEWORKS.items() if name in run.packages]
    return "### Framework versions\n\n" + "\n".join(lines) if lines else ""


def citation(run: RunRecord) -> str:
    """The papers of the procedure."""
    objective = str(at(run.recipe, "align", "objective", "name")) if "align" in run.stages else ""
    papers = [_ZEPHYR, *([_PAPERS[objective]] if objective in _PAPERS else [])]
    return "## Citation\n\nThe procedure is that of:\n\n" + "\n\n".join(f"```\n{paper}\n```" for paper in papers)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(plain(cell) for cell in line)} |" for line in lines)


def plain(text: str) -> str:
    """The text on one line, unable to end its cell or to be HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _four(value: Json) -> str:
    found = number(value)
    return "" if found is None else f"{found:.4f}"


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

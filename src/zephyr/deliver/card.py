"""The model card of a run: a README.md in the shape of the published ones, front matter for the hub included.

Every field comes from what the run recorded; a field that was not recorded is absent. The body's parts are
`card_parts`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from zephyr.data.read.hub import is_hub_id
from zephyr.deliver.card_parts import (
    citation,
    evaluation_results,
    framework_versions,
    how_made,
    hyper_parameters,
    intended_use,
    limits,
    model_description,
    plain,
    scores_table,
    training_table,
)
from zephyr.deliver.run_facts import Score, scores_of, title_of
from zephyr.errors import DataError
from zephyr.records.fields import Json
from zephyr.records.reading import READERS
from zephyr.runs.layout import CARD
from zephyr.runs.reader import RunRecord, at, entries

_DATA_SECTIONS = (
    ("pretrain", "data", "sources"),
    ("sft", "data", "sources"),
    ("feedback", "prompts"),
    ("feedback", "recorded"),
    ("align", "data", "sources"),
)


def card_of(run: RunRecord, *, results: Sequence[Score] = ()) -> str:
    """The card of the run's last model; `results` are scores that were measured outside the run.

    The front matter has those of the last model, the body has all.

    Raises DataError where the run has made no model.
    """
    trained = run.trained
    if trained is None or run.model_folder is None:
        raise DataError(str(run.folder), "has made no model yet", "finish its sft or align stage first: zephyr run")
    scores = [*scores_of(run), *results]
    own = [score for score in scores if score.model == title_of(run, trained.name)]
    log = trained.log()
    parts = [
        f"# Model Card for {run.name}\n\n{plain(str(run.recipe.get('description') or ''))}",
        model_description(run),
        how_made(run),
        scores_table(scores),
        intended_use(run),
        limits(run),
        evaluation_results(log),
        "## Training procedure",
        hyper_parameters(run),
        training_table(log),
        framework_versions(run),
        citation(run),
    ]
    body = "\n\n".join(part.strip() for part in parts if part.strip())
    text = f"---\n{_front_matter(run, own).to_yaml()}\n---\n\n{body}\n"
    # What the hub's library cannot read back must not be called a card.
    ModelCard(text)
    return text


def default_place(run: RunRecord) -> Path:
    """Where the card belongs: into the folder that is uploaded."""
    return (run.model_folder or run.folder) / CARD


def _front_matter(run: RunRecord, scores: Sequence[Score]) -> ModelCardData:
    objective = at(run.recipe, "align", "objective", "name") if "align" in run.stages else None
    base = at(run.recipe, "model", "name_or_path")
    data = ModelCardData(
        base_model=base if isinstance(base, str) and _is_on_hub(base, Path()) else None,
        datasets=_datasets(run.recipe, run.stages) or None,
        language=_languages(run.recipe, run.stages) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["zephyr", "conversational", *([str(objective)] if objective else []), "generated_from_trainer"],
        model_name=run.name,
        eval_results=[_eval_result(score) for score in scores] or None,
    )
    if not scores:
        # As the published cards have it, whose trainer had no scores to tell either.
        data["model-index"] = [{"name": run.name, "results": []}]
    return data


def _eval_result(score: Score) -> EvalResult:
    """The score in the hub's words; interval, error, number of items and source stand beside the value."""
    told = {
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
        metric_args={name: value for name, value in told.items() if value is not None} or None,
    )


def _datasets(recipe: Mapping[str, Json], stages: Mapping[str, object]) -> list[str]:
    """The data sets on the hub that the finished stages read, each once."""
    found = []
    for place in _DATA_SECTIONS:
        sources = at(recipe, *place) if place[0] in stages else None
        for source in sources if isinstance(sources, list) else []:
            path = str(at(source, "path") or "")
            if _is_on_hub(path, Path(str(recipe.get("data_dir") or "."))):
                found.append(path)
    return list(dict.fromkeys(found))


def _is_on_hub(path: str, folder: Path) -> bool:
    """Whether a path is a name on the hub, and neither a file's nor that of a folder which is here."""
    is_file = path.lower().endswith((*READERS, ".gz"))
    return is_hub_id(path) and not is_file and not (folder / path).exists()


def _languages(recipe: Mapping[str, Json], stages: Mapping[str, object]) -> list[str]:
    """The languages that a filter kept; a run without such a filter has not looked."""
    found: list[str] = []
    for stage in stages:
        filters = at(recipe, stage, "data", "filters") or entries(recipe, stage).get("filters")
        for one in filters if isinstance(filters, list) else []:
            keep = at(one, "keep")
            if at(one, "name") == "language" and isinstance(keep, list):
                found += map(str, keep)
    return list(dict.fromkeys(found))

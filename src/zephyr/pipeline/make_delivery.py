"""The deliver stage: what others get to see of the run."""

import json

from zephyr.atomic import replace_text
from zephyr.deliver.report import Report, Sample, ScoreRow, render_report
from zephyr.pipeline.stage_folder import STAGE, Facts
from zephyr.pipeline.stages import Work

SAMPLES = "samples.json"
REPORT = "report.html"


def make_delivery(work: Work) -> Facts:
    """The facts of the stage; its folder holds the report."""
    recipe = work.recipe
    records = {stage: json.loads((folder / STAGE).read_bytes()) for stage, folder in work.inputs.items()}
    evaluated = records.get("evaluate", {"facts": {}})["facts"]
    health = [note for record in records.values() for note in record["facts"].get("health", [])]
    samples = work.inputs["evaluate"] / SAMPLES if "evaluate" in work.inputs else None
    report = Report(
        title=recipe.name,
        description=recipe.description,
        stages={stage: record["seconds"] for stage, record in records.items()},
        scores=[ScoreRow(name, **score) for name, score in evaluated.get("scores", {}).items()],
        metrics=evaluated.get("metrics", {}),
        samples=[Sample(**one) for one in json.loads(samples.read_bytes())] if samples and samples.exists() else [],
        health=[f"{note['kind']} at step {note['step']}: {note['words']}" for note in health],
    )
    replace_text(work.folder / REPORT, render_report(report))
    return {"report": REPORT}

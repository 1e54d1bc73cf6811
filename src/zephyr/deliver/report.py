"""The report of a run: one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #8888; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
_META = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'


@dataclass(frozen=True)
class ScoreRow:
    """A model's score in words and numbers."""

    model: str
    score: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Sample:
    """A prompt, and what each model answered."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What the page says."""

    title: str
    description: str
    stages: Mapping[str, float]  # seconds
    scores: Sequence[ScoreRow] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    health: Sequence[str] = ()


def render_report(report: Report) -> str:
    """The page; every text of the run is escaped."""
    parts = [f"<h1>{escape(report.title)}</h1>", f"<p>{escape(report.description)}</p>"]
    if report.scores:
        rows = [
            [row.model, f"{row.score:.1%}", f"{row.low:.1%} to {row.high:.1%}", f"{row.n}"] for row in report.scores
        ]
        parts += ["<h2>Scores</h2>", _table(["model", "score", "95 % interval", "prompts"], rows)]
    if report.metrics:
        parts += [
            "<h2>Measurements</h2>",
            _table(["name", "value"], [[n, f"{v:.4g}"] for n, v in report.metrics.items()]),
        ]
    if report.samples:
        names = list(report.samples[0].answers)
        answers = [[sample.prompt, *(sample.answers[name] for name in names)] for sample in report.samples]
        parts += ["<h2>Answers</h2>", _table(["prompt", *names], answers)]
    seconds = [[stage, f"{value:.1f}"] for stage, value in report.stages.items()]
    parts += ["<h2>Stages</h2>", _table(["stage", "seconds"], seconds)]
    if report.health:
        parts += ["<h2>Health</h2>", "<ul>", *(f"<li>{escape(note)}</li>" for note in report.health), "</ul>"]
    head = f"{_META}<title>{escape(report.title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

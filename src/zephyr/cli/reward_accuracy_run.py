"""A run of `zephyr reward-accuracy`: pairs encoded, scored by a policy and its reference, measured and kept."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zephyr.data.read.sources import open_source
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import DataError, ModelError
from zephyr.evaluate.harness.finished import FinishedRequests
from zephyr.evaluate.preference import Pair, PreferenceMetrics
from zephyr.evaluate.results import Item, Result, write_result
from zephyr.evaluate.reward_accuracy import HeldPair, RewardAccuracy, kept_logps, margins, parts_of, reward_accuracy
from zephyr.models.loading import Source, load_model, load_tokenizer, num_embeddings
from zephyr.models.placement import placement
from zephyr.models.weight_hash import weights_hash
from zephyr.progress import show_progress
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.fields import Json, printable
from zephyr.records.rows import Preference

NAME = "reward_accuracy"
MARGIN = "reward_margin"


@dataclass(frozen=True)
class RewardRun:
    """What `zephyr reward-accuracy` is told; the longest pair is `max_tokens` with prompt and answer."""

    policy: str
    reference: str
    pairs: str
    out: Path
    beta: float = 0.1
    max_tokens: int = 4096
    limit: int | None = None
    seed: int = 0
    bad_rows: str = "stop"
    offline: bool = False


class _Encoded(NamedTuple):
    pairs: list[HeldPair]
    left_out: Counter[str]
    chat_template: str


def run_reward_accuracy(run: RewardRun) -> tuple[Result, RewardAccuracy]:
    """The finished run; its folder holds log-probs, values and metrics."""
    encoded = _encoded(run)
    if not encoded.pairs:
        raise DataError(run.pairs, f"leaves no pair to score ({dict(encoded.left_out)})", "name a file of pairs")
    run.out.mkdir(parents=True, exist_ok=True)
    logps, policy_hash = _logps(run.policy, encoded.pairs, run)
    ref_logps, reference_hash = _logps(run.reference, encoded.pairs, run)
    found = reward_accuracy(logps, ref_logps, encoded.pairs, beta=run.beta, seed=run.seed)
    protocol: dict[str, Json] = {
        "pairs": printable(run.pairs),
        "num_pairs": len(encoded.pairs),
        "left_out": dict(encoded.left_out),
        "reference": run.reference,
        "reference_hash": reference_hash,
        "model_hash": policy_hash,
        "chat_template_hash": hashlib.sha256(encoded.chat_template.encode()).hexdigest()[:16],
        "beta": run.beta,
        "max_tokens": run.max_tokens,
    }
    scores: dict[str, Json] = {
        part: {name: dict(row) for name, row in rows.items()} for part, rows in _metric_rows(found).items()
    }
    items = _items(encoded.pairs, margins(logps, ref_logps, beta=run.beta))
    result = Result(NAME, run.policy, protocol, scores, items)
    write_result(run.out, result)
    return result, found


def metric_lines(found: RewardAccuracy) -> list[dict[str, object]]:
    """The metrics as the rows of a table."""
    return [
        {"part": part, "of": name.strip(), **row}
        for part, rows in _metric_rows(found).items()
        for name, row in rows.items()
    ]


def _metric_rows(found: RewardAccuracy) -> dict[str, dict[str, dict[str, Json]]]:
    return {
        part: {name: _metric_fields(metrics) for name, metrics in groups.items()}
        for part, groups in parts_of(found).items()
    }


def _metric_fields(metrics: PreferenceMetrics) -> dict[str, Json]:
    return {
        "accuracy": metrics.accuracy.score,
        "accuracy_low": metrics.accuracy.low,
        "accuracy_high": metrics.accuracy.high,
        "margin": metrics.margin.score,
        "margin_low": metrics.margin.low,
        "margin_high": metrics.margin.high,
        "pairs": metrics.num_pairs,
        "prompts": metrics.accuracy.n,
    }


def _encoded(run: RewardRun) -> _Encoded:
    """The pairs as ids of the policy's tokenizer, those left out counted."""
    drop = run.bad_rows == "drop"
    source = DataSource(path=run.pairs, bad_rows="drop" if drop else "stop", max_rows=run.limit)
    rows = open_source(source, "preference", data_dir=Path(), offline=run.offline)
    encoder = DialogueEncoder(load_tokenizer(Source(run.policy, offline=run.offline)), ChatTemplateSection(name="own"))
    left_out: Counter[str] = Counter({str(reason): count for reason, count in rows.counts.items()})
    held: list[HeldPair] = []
    for row in islice(rows, run.limit):
        reason = _unfit(row)
        if reason:
            left_out[reason] += 1
            continue
        prompt = encoder.prompt(row.prompt)
        pair = Pair(prompt, encoder.completion(row.completions[0]), encoder.completion(row.completions[-1]))
        if len(prompt) + max(len(pair.chosen), len(pair.rejected)) > run.max_tokens:
            left_out[f"longer than {run.max_tokens} tokens"] += 1
        else:
            held.append(HeldPair(pair, row.source))
    return _Encoded(held, left_out, encoder.chat_template)


def _unfit(row: Preference) -> str:
    """Why a row is no pair to score; of a list its best and its worst answer are."""
    if len(row.completions) < 2:
        return "one answer alone"
    if row.ratings[0] <= row.ratings[-1]:
        return "rated alike"
    return "equal answers" if row.completions[0] == row.completions[-1] else ""


def _logps(name: str, pairs: Sequence[HeldPair], run: RewardRun) -> tuple[Tensor, str]:
    device, dtype = placement()
    model = load_model(Source(name, offline=run.offline), dtype=dtype, device=device)
    highest = max(int(ids.max()) for held in pairs for ids in held.pair if len(ids))
    if highest >= num_embeddings(model):
        what = f"has no token {highest} of the policy's tokenizer, got {num_embeddings(model)} tokens"
        raise ModelError(name, what, "name the model that the policy was trained from")
    digest = weights_hash(model)
    with (
        closing(FinishedRequests(run.out / "logps.sqlite", of=f"{digest} {dtype}")) as finished,
        show_progress(f"log-probs of {name}", len(pairs)) as display,
    ):
        return kept_logps(model, pairs, finished, display.update, max_tokens=2 * run.max_tokens), digest[:16]


def _items(pairs: Sequence[HeldPair], found: Sequence[float]) -> list[Item]:
    items = []
    for number, (held, margin) in enumerate(zip(pairs, found, strict=True)):
        prompt = hashlib.sha256(held.pair.prompt.tobytes()).hexdigest()[:16]
        items.append(Item(NAME, str(number), prompt, held.source, float(margin > 0), "accuracy"))
        items.append(Item(MARGIN, str(number), prompt, held.source, margin))
    return items

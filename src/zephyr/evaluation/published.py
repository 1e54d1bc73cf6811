"""Published scores of the Zephyr models and their peers, each with its protocol, and a run set beside them.

How far apart two runs of the same model may be comes from the noise that was measured: the run's own standard error,
the published one, and where none was published the spread of others' attempts to reproduce the score.
Sources: arXiv 2310.16944 (tables 1 and 2), the models' cards, AlpacaEval's leaderboards, alignment-handbook issues 44,
45 and 124, the cards and repository of Mistral-ORPO (IFEval, too, of others), and SimPO's repository; of
SmolLM2-135M-Instruct the zero-shot run on the card of lldois/SmolLM2-135M-Reasoning-SLERP-Champion, and its own card.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from zephyr.errors import DataError, did_you_mean
from zephyr.evaluation.compare import deviations
from zephyr.evaluation.results import Result
from zephyr.intervals import ROUNDED_NORMAL_95
from zephyr.records.fields import Json

# Half the width of what counts as the same score, where no standard error was published: users' reruns of MT-Bench
# lie 0.2 apart, and the card's leaderboard numbers differ by up to 0.4 from the paper's.
SPREAD = {"mt_bench": 0.2, "leaderboard": 0.4}


class Published(NamedTuple):
    """One published score; `metric` is its name among the scores of a run, or those joined by + whose mean it is."""

    benchmark: str
    metric: str
    score: float
    standard_error: float | None = None


class Beside(NamedTuple):
    """A run's score beside the published one; it `agrees` if their difference is within the tolerance."""

    benchmark: str
    metric: str
    run: float
    published: float
    difference: float
    tolerance: float
    agrees: bool


def _leaderboard(*scores: float) -> list[Published]:
    names = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k", "drop")
    return [Published(name, "score", score) for name, score in zip(names, scores, strict=False)]


def _ifeval(*shares: float) -> list[Published]:
    """Of prompts, strict and loose, then of instructions."""
    names = [f"{level}_level_{kind}_acc" for level in ("prompt", "inst") for kind in ("strict", "loose")]
    return [Published("ifeval", name, round(100 * share, 2)) for name, share in zip(names, shares, strict=True)]


def _chat(mt_bench: float | None, alpaca: tuple[float, float | None] | None) -> list[Published]:
    found = [] if mt_bench is None else [Published("mt_bench", "as_published", mt_bench)]
    return found + ([] if alpaca is None else [Published("alpaca_eval_1", "as_published", *alpaca)])


PUBLISHED: Mapping[str, list[Published]] = {
    "zephyr-7b-beta": [
        *_chat(7.34, (90.5977584059776, 1.0287080531312012)),
        Published("alpaca_eval_2", "as_published", 10.992886, 0.961788),
        Published("alpaca_eval_2", "length_controlled", 13.203198),
        *_leaderboard(62.03, 84.36, 61.07, 57.45, 77.74, 12.74, 9.66),
        *_ifeval(0.4233, 0.4547, 0.5492, 0.5767),
    ],
    "zephyr-7b-alpha": [
        *_chat(6.88, (85.7587064676617, 1.2285451680042003)),
        Published("alpaca_eval_2", "as_published", 8.352664),
        Published("alpaca_eval_2", "length_controlled", 10.289761),
    ],
    "mistral-orpo-alpha": [*_chat(7.23, (87.92, None)), Published("alpaca_eval_2", "as_published", 11.33)],
    "mistral-orpo-beta": [
        *_chat(7.32, (91.41, None)),
        Published("alpaca_eval_2", "as_published", 12.565409),
        Published("alpaca_eval_2", "length_controlled", 14.716749),
        *_ifeval(0.5287, 0.5564, 0.6355, 0.6619),
    ],
    "zephyr-7b-sft-full": [
        Published("alpaca_eval_2", "as_published", 6.2),
        Published("alpaca_eval_2", "length_controlled", 8.4),
    ],
    "zephyr-7b-dpo-full": _chat(7.569182, None),
    "mistral-7b-instruct-v0.1": [*_chat(6.84, None), *_leaderboard(54.52, 75.63, 55.38, 56.28)],
    "xwin-lm-7b-v0.1": [*_chat(6.19, (87.83, 1.15)), *_leaderboard(56.57, 79.40, 49.98, 47.89)],
    "llama2-chat-70b": [
        *_chat(6.86, (92.66, 0.91)),
        *_leaderboard(67.32, 87.33, 69.83, 44.92),
        *_ifeval(0.4436, 0.5342, 0.5468, 0.6319),
    ],
    "vicuna-33b-v1.3": [*_chat(7.12, (88.99, 1.10)), *_leaderboard(62.12, 83.00, 59.22, 56.16)],
    "guanaco-65b": [*_chat(6.41, (71.80, 1.59)), *_leaderboard(65.44, 86.47, 62.92, 52.81)],
    "falcon-40b-instruct": [*_chat(5.17, (45.71, 1.75)), *_leaderboard(61.60, 84.31, 55.45, 52.52)],
    "wizardlm-70b-v1.0": [*_chat(7.71, None), *_leaderboard(64.08, 85.40, 64.97, 54.76)],
    "smollm2-135m-instruct": [
        Published("arc_challenge", "acc_norm", 27.73),
        Published("arc_easy", "acc", 54.12),
        Published("hellaswag", "acc_norm", 42.99),
        Published("gsm8k", "exact_match/flexible-extract", 0.38),
        Published("ifeval", "prompt_level_strict_acc+inst_level_strict_acc", 29.9),
        *_chat(1.98, None),
    ],
    "gpt-3.5-turbo": _chat(7.94, (89.37, 1.08)),
    "claude-2": _chat(8.06, (91.36, 0.99)),
    "gpt-4": _chat(8.99, (95.28, 0.72)),
}

_SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5, "drop": 3}
# The leaderboard's harness drew its shots, and wrote some prompts, otherwise than today's.
_LEADERBOARD: Mapping[str, Json] = {"chat_template": False, "system": None, "limit": None, "lm_eval": "of June 2023"}
# How the published scores were made, under the names that runs keep their own protocols by.
PROTOCOLS: Mapping[str, Mapping[str, Json]] = {
    "mt_bench": {
        "judge": "gpt-4",
        "template": "judge_prompts.jsonl fd283293406d",
        "judge_temperature": 0.0,
        "judge_max_tokens": 2048,
        "questions": 80,
        "questions_hash": "119565adbab82227",
        "temperature": "by category",
        "max_new_tokens": 1024,
        "top_p": 1.0,
        "references_left_out": [],
    },
    "alpaca_eval_1": {
        "judge": "gpt-4",
        "template": "alpaca_eval.txt (AlpacaEval)",
        "judge_temperature": 0.0,
        "questions": 805,
        "opponent": "text_davinci_003",
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 2048,
        "orders": "as published",
    },
    "alpaca_eval_2": {
        "judge": "gpt-4-1106-preview",
        "template": "alpaca_eval_clf.txt (AlpacaEval)",
        "judge_temperature": 1.0,
        "questions": 805,
        "opponent": "gpt4_1106_preview",
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 2048,
        "orders": "as published",
        "instruction_difficulty": "tatsu-lab/alpaca_eval",
        "gamed_baselines": "tatsu-lab/alpaca_eval",
    },
    **{name: {"num_fewshot": shots, **_LEADERBOARD} for name, shots in _SHOTS.items()},
    "ifeval": {"num_fewshot": 0, "limit": None},
}
_ZERO_SHOT: Mapping[str, Json] = {"num_fewshot": 0, "chat_template": False, "system": None, "limit": None}
# Where a model's scores were made otherwise than those of the others.
PROTOCOLS_OF_MODELS: Mapping[str, Mapping[str, Mapping[str, Json]]] = {
    "smollm2-135m-instruct": dict.fromkeys(("arc_challenge", "arc_easy", "hellaswag", "gsm8k"), _ZERO_SHOT)
}
# What no protocol of a run can show to be different, or the same.
CAVEATS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "smollm2-135m-instruct": {
        "": ("weights: the hub's in bfloat16; a copy widened from a quantised file scores a little lower",),
        "arc_challenge": ("the card's 37.3 is the mean of both parts of ARC, by lighteval with its own prompts",),
        "arc_easy": ("the card's 37.3 is the mean of both parts of ARC, by lighteval with its own prompts",),
        "hellaswag": ("the card's 40.9 is by lighteval with its own prompts",),
        "gsm8k": ("the card's 1.4 is with 5 shots, by lighteval",),
        "ifeval": ("the card has one mean over prompts and instructions, by lighteval; strict is assumed",),
        "mt_bench": ("the card's first text gave 19.8, a slip of the point",),
    }
}


def published_scores(model: str) -> list[Published]:
    """The published scores of a model. Raises DataError with the nearest name for an unknown one."""
    if model not in PUBLISHED:
        remedy = did_you_mean(model, PUBLISHED).removeprefix("; ")
        raise DataError("--published", f"no scores of that model are known, got '{model}'", remedy)
    return PUBLISHED[model]


def beside_published(run: Result, model: str) -> list[Beside]:
    """The scores of the run beside those published of the model, as far as both have them."""
    found = []
    for known in published_scores(model):
        own = _own_score(run, known.metric) if known.benchmark == run.benchmark else None
        if own is not None:
            tolerance = _tolerance(known, own.standard_error or 0.0)
            difference = own.score - known.score
            found.append(
                Beside(
                    benchmark=known.benchmark,
                    metric=known.metric,
                    run=own.score,
                    published=known.score,
                    difference=difference,
                    tolerance=tolerance,
                    agrees=abs(difference) <= tolerance,
                )
            )
    return found


def _own_score(run: Result, metric: str) -> Published | None:
    """The run's score by a metric or a mean of some; None if it lacks one. Errors are added up as if they were one."""
    found = [run.scores.get(name) for name in metric.split("+")]
    fields = [one for one in found if isinstance(one, dict)]
    scores = [score for one in fields if isinstance(score := one.get("score"), int | float)]
    errors = [error for one in fields if isinstance(error := one.get("standard_error"), int | float)]
    if len(scores) < len(found):
        return None
    error = sum(errors) / len(errors) if errors else None
    return Published(run.benchmark, metric, float(sum(scores) / len(scores)), error)


def published_deviations(run: Result, model: str) -> list[str]:
    """How the run's protocol differs from the one published of the model, the published side first.

    The run's own deviations and notes follow, and what no protocol shows.
    """
    protocol = PROTOCOLS_OF_MODELS.get(model, {}).get(run.benchmark, PROTOCOLS.get(run.benchmark, {}))
    caveats = CAVEATS.get(model, {})
    different = deviations(protocol, run.protocol)
    missing = sorted(protocol.keys() - run.protocol.keys())
    return [
        *different,
        *(f"{name.replace('_', ' ')}: {protocol[name]} against nothing recorded" for name in missing),
        *run.notes,
        *caveats.get("", ()),
        *caveats.get(run.benchmark, ()),
    ]


def _tolerance(known: Published, own_error: float) -> float:
    """Half the width of the 95 % interval of the difference of two honest runs."""
    if known.standard_error is not None:
        return ROUNDED_NORMAL_95 * math.hypot(own_error, known.standard_error)
    return math.hypot(ROUNDED_NORMAL_95 * own_error, SPREAD.get(known.benchmark, _spread_of_share(known)))


def _spread_of_share(known: Published) -> float:
    if known.benchmark in (*_SHOTS, "arc_easy", "ifeval"):
        return SPREAD["leaderboard"]
    # A win rate whose error was not published has the one of 805 yes-or-no verdicts.
    share = known.score / 100
    return ROUNDED_NORMAL_95 * 100 * math.sqrt(share * (1 - share) / 805)

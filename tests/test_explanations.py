"""The pages that explain: their example prints what they show, and their numbers are those of the functions."""

import contextlib
import io
import re
from typing import get_args

import pytest
import torch

from zephyr.recipe.objective_section import Divergence, DpoObjective
from zephyr.train.losses.kto import kl_estimate, kto
from zephyr.train.losses.pairs import PAIR_LOSSES, Pairs, desensitised, divergence_scores, plackett_luce, sigmoid
from zephyr.train.losses.reference_free import cpo, log_odds, nll, odds_ratio, shaped, simpo
from zephyr.train.objectives import OBJECTIVES
from zephyr.trees.forest import build_forest, completion_scored

ROW = re.compile(r"(?m)^\| `(\w+)` \| .* \| ([\d.]+) \| ([\d.]+) \| .* \|$")
BETA = 0.1


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


POLICY, REFERENCE, LENGTHS = (-50.0, -60.0), (-52.0, -55.0), (20, 30)


def page(repository, name):
    return (repository / "docs/explanation" / f"{name}.md").read_text()


def pair(policy, reference, lengths=(1, 1)):
    """One pair whose chosen answer stands first."""
    return Pairs(*(vector(logp / n) for logps in (policy, reference) for logp, n in zip(logps, lengths, strict=True)))


def test_the_trees_example_prints_what_the_page_shows(repository):
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page(repository, "trees"), re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "trees.md", "exec"), {})
    assert printed.getvalue() == shown


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [(1024, (32,) * 4), (512, (64, 64)), (512, (300, 100)), (512, (256, 256)), (195, (275, 275)), (64, (512, 512))],
)
def test_the_trees_page_counts_positions(repository, prompt, answers):
    tokens = iter(range(10_000))
    question = [next(tokens) for _ in range(prompt)]
    sequences = [completion_scored(question, [next(tokens) for _ in range(length)]) for length in answers]
    shared, alone = build_forest(sequences).num_tokens, sum(len(one.ids) for one in sequences)
    line = next(line for line in page(repository, "trees").splitlines() if f"| {shared:,} | {alone:,} " in line)
    assert f"| {1 - shared / alone:.0%}".replace("%", " %") in line


def test_the_table_of_pair_losses_is_complete_and_right(repository):
    rows = {name: (float(start), float(example)) for name, start, example in ROW.findall(page(repository, "losses"))}
    assert rows.keys() == PAIR_LOSSES.keys()
    for name, loss in PAIR_LOSSES.items():
        settings = DpoObjective(beta=BETA, loss_type=name)
        lengths = LENGTHS if loss.averaged else (1, 1)
        values = [loss.function(pair(policy, REFERENCE, lengths), settings) for policy in (REFERENCE, POLICY)]
        assert rows[name] == pytest.approx([float(value) for value in values], abs=5e-7), name


def test_every_objective_and_divergence_is_told(repository):
    text = page(repository, "losses")
    assert [name for name in (*OBJECTIVES, *get_args(Divergence)) if f"`{name}`" not in text] == []


def divergence_example(name, alpha=None):
    scores = divergence_scores(vector(2.0, -5.0), name, alpha)
    return sigmoid(Pairs(*scores.split(1), vector(0.0), vector(0.0)), DpoObjective(beta=BETA))


def smoothed(name):
    return PAIR_LOSSES[name].function(
        pair(POLICY, REFERENCE), DpoObjective(beta=BETA, loss_type=name, label_smoothing=0.1)
    )


def shortened():
    rejected = [float(desensitised(vector(whole), vector(head), 0.3)) for whole, head in ((-60, -42), (-55, -40))]
    assert rejected[0] - rejected[1] == pytest.approx(-2.9)
    return sigmoid(pair((POLICY[0], rejected[0]), (REFERENCE[0], rejected[1])), DpoObjective(beta=BETA))


def ranking(rewards):
    ratings = torch.arange(len(rewards), 0, -1, dtype=torch.float64)[None]
    return plackett_luce(vector(*rewards)[None], ratings, torch.ones(1, len(rewards), dtype=torch.bool))


A = (vector(-0.5), vector(-0.8))
NUMBERS = {
    "0.767528": lambda: nll(vector(0.5, 0.25, 0.8).log(), 3),
    "0.668188": lambda: torch.sigmoid(vector(0.7)),
    "0.473186": lambda: smoothed("sigmoid"),
    "0.315686": lambda: smoothed("robust"),
    "2.903186": lambda: sigmoid(pair(POLICY, REFERENCE), DpoObjective(beta=BETA)) + nll(vector(POLICY[0]), LENGTHS[0]),
    "0.477864": shortened,
    "0.478632": lambda: divergence_example("js_divergence"),
    "0.089973": lambda: divergence_example("alpha_divergence", 0.5),
    "0.000000363": lambda: divergence_example("forward_kl"),
    "0.487503": lambda: kto(vector(2.0), kl_estimate(vector(4.0, -1.0)), torch.tensor([True]), BETA),
    "0.342990": lambda: kto(vector(-5.0), kl_estimate(vector(4.0, -1.0)), torch.tensor([False]), BETA),
    "0.917481": lambda: ranking((1.0, 0.2, -0.5)),
    "3.178054": lambda: ranking((0.0, 0.0, 0.0, 0.0)),
    "0.636134": lambda: log_odds(*A),
    "0.424833": lambda: odds_ratio(*A),
    "0.642483": lambda: 0.6 + BETA * odds_ratio(*A),
    "1.313262": lambda: simpo(*A, beta=2.0, gamma_beta_ratio=0.8),
    "2.000000": lambda: simpo(*A, beta=2.0, gamma_beta_ratio=0.8, loss_type="hinge"),
    "0.148324": lambda: sigmoid(pair(POLICY, REFERENCE), DpoObjective(beta=BETA)) * vector(-1.0).exp(),
    "0.532594": lambda: -shaped(vector(-0.5), 0.25),
    "2.813262": lambda: cpo(*vector(*POLICY).split(1), beta=BETA) + nll(vector(POLICY[0]), LENGTHS[0]),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_of_the_losses_page_is_what_the_function_gives(repository, number):
    assert number in page(repository, "losses")
    half_a_digit = 0.5 * 10.0 ** -len(number.partition(".")[2])
    assert float(NUMBERS[number]()) == pytest.approx(float(number), abs=half_a_digit * 1.001)

"""What is printed at the end of a run: scores, held-out rows, answers side by side."""

import json
from io import StringIO

from rich.console import Console

from zephyr.runs.summary import RunOutcome, print_summary

NOTHING = {"scores": {}, "metrics": {}, "benchmarks": {}}


def printed(outcome, **summary):
    console = Console(file=StringIO(), width=200)
    print_summary(console, outcome, NOTHING | summary)
    return console.file.getvalue().splitlines()


def asked(folder, prompt):
    folder.mkdir()
    answers = {"base": "I want [to] know.", "dDPO": "Paris.\n"}
    (folder / "samples.json").write_text(json.dumps([{"prompt": prompt, "answers": answers}]))
    return folder


def test_held_out_rows_have_a_line_each(tmp_path):
    accuracy = {"preference/accuracy": 0.75, "preference/accuracy_low": 0.5625, "preference/accuracy_high": 0.875}
    metrics = {"perplexity/base": 13.0421, "perplexity/dSFT": 5.5, **accuracy, "preference/pairs": 32}
    assert printed(RunOutcome(tmp_path), metrics=metrics) == [
        "held out  perplexity: base 13.04, dSFT 5.5",
        "held out  preference accuracy 75.0% (56.2% to 87.5%), 32 pairs",
    ]
    assert printed(RunOutcome(tmp_path), metrics={"preference/pairs": 0}) == []


def test_answers_are_those_of_evaluate_or_else_those_of_deliver(tmp_path):
    delivered = asked(tmp_path / "deliver", "What is the capital?")
    outcome = RunOutcome(tmp_path, folders={"evaluate": tmp_path / "evaluate", "deliver": delivered})
    (tmp_path / "evaluate").mkdir()
    shown = ["What is the capital?", "  base: I want [to] know.", "  dDPO: Paris. "]
    assert printed(outcome)[:3] == shown
    outcome.folders["evaluate"] = asked(tmp_path / "other", "How much?")
    assert printed(outcome)[0] == "How much?"

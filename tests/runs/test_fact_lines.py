"""What is printed of a finished stage: five telling numbers, what was cut, and where the others stand."""

from zephyr.runs.fact_lines import telling_facts

TRAINED = {
    "rows": 1591, "tokens": 82938, "truncation": "0 cut, 0 left out", "held_out": 37, "steps": 100, "examples": 1591,
    "grad_norm": 1.55, "loss": 0.804, "eval_loss": 0.8995, "eval_rewards/accuracies": 0.8108, "health": [],
}  # fmt: skip


def test_five_numbers_are_told_and_the_file_of_the_others():
    assert telling_facts(TRAINED, "align-0/stage.json") == (
        "steps 100, examples 1,591, loss 0.804, eval loss 0.8995, eval rewards/accuracies 0.8108; "
        "all facts: align-0/stage.json"
    )


def test_what_was_cut_is_told_before_other_numbers():
    told = telling_facts(TRAINED | {"truncation": "7 cut, 2 left out"}, "stage.json")
    assert told.startswith("truncation 7 cut, 2 left out, steps 100")
    assert "loss 0.804" not in told.replace("eval loss", "")


def test_few_facts_are_told_whole():
    assert telling_facts({"texts": 4000, "dropped": {"tied": 1}, "teacher": "scripted"}, "stage.json") == (
        "texts 4,000, teacher scripted"
    )

"""Estimated calls: the sample, what a check says of them, and settings of cost that change no stage."""

import json

from tests.mini import mini_recipe
from zephyr.check import check_lines
from zephyr.pipeline import stage_keys
from zephyr.records.messages import Message
from zephyr.records.rows import Prompt
from zephyr.stages.call_estimate import sample_prompts

PRICED = {"name": "endpoint", "model": "big", "base_url": "http://127.0.0.1:9/v1", "deadline_seconds": 1.0}
PRICED |= {"prices": {"prompt": 2.0, "completion": 10.0}}


def test_a_sample_takes_of_every_part():
    parts = [[Prompt(f"{part} {n}", (Message("user", "a"),)) for n in range(300)] for part in range(3)]
    sample = sample_prompts(parts)
    assert len(sample) == 201
    assert {row.name.split()[0] for row in sample} == {"0", "1", "2"}


def test_a_check_says_it(tmp_path):
    recipe = mini_recipe(tmp_path, feedback={"judge": PRICED})
    said = [line for line in check_lines(recipe) if " calls big, the judge, about " in line]
    # Four answers to each of 24 prompts by one model, rated by aspect and overall.
    assert [json.loads(line.split("about ")[1].split(" ")[0]) for line in said] == [24 * 8]


def test_prices_caps_and_paces_make_no_other_stage(tmp_path):
    def digest(**changes: object) -> str:
        recipe = mini_recipe(tmp_path, feedback={"judge": PRICED | changes})
        return stage_keys(recipe)["feedback"].digest

    assert digest() == digest(
        concurrency=3, max_total_price=9.0, prices={"prompt": 1.0}, api_key_env="OTHER", batch=True
    )
    assert digest() != digest(model="other")
    assert digest() != digest(structured=True)

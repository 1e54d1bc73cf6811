"""Answers, ratings, pairs and whole recipes from Python, each in a few lines."""

import inspect
from pathlib import Path

import pytest

import zephyr
from tests.command import pair, stage_fields, write_recipe


@pytest.fixture
def keywords(tmp_path):
    return {"output_dir": tmp_path / "runs", "offline": True}


def test_what_one_returns_the_next_one_takes(tiny_folder, keywords):
    prompts = ["How much is 2 + 3?", {"prompt": "Name a colour."}]
    answers = zephyr.generate(tiny_folder, prompts, num_completions=2, max_new_tokens=4, **keywords)
    assert [row["prompt"][0]["content"] for row in answers] == ["How much is 2 + 3?", "Name a colour."]
    assert answers.metrics["asked"] == 4
    ratings = zephyr.judge(answers, "scripted", aspects=["overall"], **keywords)
    assert ratings.metrics["rated"] == sum(len(row["answers"]) for row in answers)
    assert all(answer["score"] is not None for row in ratings for answer in row["answers"])
    again = zephyr.judge(answers, {"name": "scripted"}, aspects=["overall"], **keywords)
    assert again.rows == ratings.rows


@pytest.mark.slow
def test_a_reward_model_is_trained_and_rates(tiny_folder, keywords):
    rows = [pair(number) for number in range(8)]
    made = zephyr.reward_model(
        tiny_folder, rows, learning_rate=1e-3, precision="float32", train_batch_size=4, max_length=128, **keywords
    )
    assert type(made.model).__name__ == "MistralForSequenceClassification"
    rated = zephyr.judge(rows, made, **keywords)
    assert all(isinstance(answer["score"], float) for row in rated for answer in row["answers"])


def test_pairs_are_those_of_the_stage(keywords):
    scores = [(5.0, 1.0), (2.0, 2.0), (3.0, 4.0)]
    rows = [
        {"prompt": f"Prompt {number}", "answers": [{"text": "a", "score": a}, {"text": "b", "score": b}]}
        for number, (a, b) in enumerate(scores)
    ]
    made = zephyr.binarize(rows, min_gap=1.0, **keywords)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made] == [("a", "b"), ("b", "a")]
    assert made.metrics["prompts_used"] == 2
    with pytest.raises(zephyr.ZephyrError, match=r"zephyr.binarize: keyword min_gop.*did you mean 'min_gap'"):
        zephyr.binarize(rows, min_gop=1.0, **keywords)
    with pytest.raises(zephyr.ZephyrError, match=r"no pairs can be made of 3 prompts .*; choose another rule"):
        zephyr.binarize(rows, min_gap=9.0, **keywords)


def test_a_recipe_runs_with_overrides_of_every_form(tiny_folder, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(f"{__import__('json').dumps(pair(n))}\n" for n in range(8)))
    recipe = write_recipe(tmp_path, tiny_folder, align=stage_fields("align", {"path": "pairs.jsonl"}))
    seen = []
    made = zephyr.run(
        recipe,
        quiet=True,
        on_step=lambda step, _: seen.append(step),
        align__train__logging_steps=1,
        align={"objective": {"beta": 0.3}},
        **{"align.train.max_steps": 1},
    )
    assert seen == [1]
    assert made.metrics["steps"] == 1
    assert made.stages["align"] == made.training.folder
    assert '"align.objective.beta": 0.3' in (made.training.folder / "stage.json").read_text()
    with pytest.raises(zephyr.ZephyrError, match=r"override, align.objective.bata: there is no such key"):
        zephyr.run(recipe, align__objective__bata=1)


def test_no_module_takes_the_name_of_a_function():
    modules = {path.stem for path in Path(zephyr.__file__).parent.iterdir()}
    assert modules & set(zephyr.__all__) == set()


def test_keywords_are_in_the_signature():
    named = inspect.signature(zephyr.dpo).parameters
    assert named["beta"].default == 0.1
    assert named["learning_rate"].default is inspect.Parameter.empty
    assert {"lora", "max_length", "seed", "revision"} <= set(named)
    assert not {"sources", "objective", "model_section"} & set(named)

"""Held-out rows that a run would train on: refused at check, before a run trains, and where a task measures them."""

import json

import pytest

from tests.command import chat, jsonl, pair, stage_fields, trained, write_recipe, zephyr


@pytest.fixture
def folder(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_bytes(jsonl(*rows))

    write("chats.jsonl", map(chat, range(20)))
    write("copy.jsonl", [chat(3, "Another answer."), chat(99)])
    write("pairs.jsonl", map(pair, range(20)))
    write("held-pairs.jsonl", [pair(5), pair(6), pair(99)])
    prompts = [{"prompt": f"Is it {number}?"} for number in range(4, 8)]
    write("prompts.jsonl", prompts)
    rated = [row | {"answers": [{"text": "Yes.", "score": 9}, {"text": "No, no.", "score": 3}]} for row in prompts]
    write("rated.jsonl", rated)
    return tmp_path


def sft(**data):
    return stage_fields("sft", {"path": "chats.jsonl"}, **data)


def told(capfd, recipe, *words):
    """What check and run say, which both refuse before anything is trained."""
    said = [zephyr(capfd, verb, recipe, *words) for verb in ("check", "run")]
    assert [one.code for one in said] == [2, 2]
    assert trained(recipe.parent) == []
    return [one.err for one in said]


def test_a_stage_refuses_prompts_of_its_eval_sources(folder, tiny_folder, capfd):
    recipe = write_recipe(folder, tiny_folder, sft=sft(eval_sources=[{"path": "copy.jsonl"}]))
    for said in told(capfd, recipe):
        assert said.startswith(
            "error: copy.jsonl: 1 of 2 held-out prompts are also trained on, by chats.jsonl row 4; take these rows"
        )
        assert said.rstrip().endswith("or write allow_overlap: 1")


def test_what_is_allowed_is_counted(folder, tiny_folder, capfd):
    section = sft(eval_sources=[{"path": "copy.jsonl"}], allow_overlap=1)
    recipe = write_recipe(folder, tiny_folder, sft=section)
    checked = zephyr(capfd, "check", recipe)
    assert checked.code == 0
    assert "sft       1 held-out prompts are also trained on, allowed are 1\n" in checked.out
    ran = zephyr(capfd, "run", recipe)
    assert ran.code == 0
    assert "held out prompts trained on 1" in ran.out
    (record,) = folder.glob("runs/tiny/sft-*/stage.json")
    assert json.loads(record.read_bytes())["facts"]["held_out_prompts_trained_on"] == 1


def test_a_filter_may_take_them_out(folder, tiny_folder, capfd):
    filters = [{"name": "decontamination", "against": ["copy.jsonl"], "ngram": 3}]
    (folder / "copy.jsonl").write_bytes(jsonl(chat(3)))
    others = [{"instruction": f"{number}?", "output": "Yes."} for number in range(20)]
    (folder / "others.jsonl").write_bytes(jsonl(*others))
    section = sft(eval_sources=[{"path": "copy.jsonl"}], filters=filters)
    section["data"]["sources"] = [{"path": "chats.jsonl"}, {"path": "others.jsonl"}]
    recipe = write_recipe(folder, tiny_folder, sft=section)
    checked = zephyr(capfd, "check", recipe)
    assert "sft       1 held-out prompts are also trained on before the filters, allowed are 0\n" in checked.out
    assert checked.code == 0
    assert zephyr(capfd, "run", recipe).code == 0


@pytest.mark.parametrize("source", ["prompts", "recorded"])
def test_prompts_of_feedback_may_not_be_those_that_align_holds_out(folder, tiny_folder, capfd, source):
    path = {"prompts": "prompts.jsonl", "recorded": "rated.jsonl"}[source]
    recipe = write_recipe(
        folder,
        tiny_folder,
        sft=sft(),
        feedback={source: [{"path": path}]},
        align=stage_fields("align", None, eval_sources=[{"path": "held-pairs.jsonl"}]),
    )
    for said in told(capfd, recipe):
        assert f"held-pairs.jsonl: 2 of 3 held-out prompts are also trained on, by {path} row 2, {path} row 3; " in said


def test_a_task_may_not_measure_rows_that_its_stage_learns(folder, tiny_folder, capfd):
    tasks = [
        {"name": "preference", "sources": [{"path": "held-pairs.jsonl"}]},
        {"name": "perplexity", "sources": [{"path": "copy.jsonl"}]},
    ]
    recipe = write_recipe(
        folder,
        tiny_folder,
        sft=sft(),
        align=stage_fields("align", {"path": "pairs.jsonl"}),
        evaluate={"tasks": tasks},
    )
    check, run = told(capfd, recipe)
    assert "held-pairs.jsonl: 2 of 3 held-out prompts are also trained on, by align; take" in check
    assert "copy.jsonl: 1 of 2 held-out prompts are also trained on, by sft; take" in check
    assert "held-pairs.jsonl: 2 of 3 held-out prompts are also trained on, by align; take" in run
    words = ("evaluate.tasks.0.allow_overlap=2", "evaluate.tasks.1.allow_overlap=1")
    assert zephyr(capfd, "check", recipe, *words).code == 0
    assert zephyr(capfd, "run", recipe, *words).code == 0


def test_rows_that_feedback_made_are_compared_where_they_are_measured(folder, tiny_folder, capfd):
    recipe = write_recipe(
        folder,
        tiny_folder,
        feedback={"recorded": [{"path": "rated.jsonl"}]},
        align=stage_fields("align", None),
        evaluate={"tasks": [{"name": "preference", "sources": [{"path": "held-pairs.jsonl"}]}]},
    )
    said = zephyr(capfd, "run", recipe)
    assert said.code == 2
    assert "held-pairs.jsonl: 2 of 3 held-out prompts are also trained on, by align; take" in said.err

"""`zephyr plan`: the rows and tokens that it foretells are those of the run, and it has a word on every recipe."""

import json
import re

import pytest
import yaml

from tests.command import zephyr
from tests.mini import mini_fields
from zephyr.recipe.shipped import shipped_recipes


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(mini_fields(tmp_path / "runs")))
    return path


@pytest.mark.slow
def test_what_is_foretold_is_what_the_run_does(recipe_file, tmp_path, capsys):
    before = zephyr(capsys, "plan", recipe_file, "--seconds", "1")
    assert before.code == 0, before.err
    assert "took" not in before.out
    zephyr(capsys, "run", recipe_file)
    after = zephyr(capsys, "plan", recipe_file, "--seconds", "1")
    for stage in ("pretrain", "sft"):
        (found,) = re.findall(rf"(?m)^{stage} +([\d,]+) rows, ([\d,]+) steps", after.out)
        (path,) = (tmp_path / "runs" / "mini").glob(f"{stage}-*/stage.json")
        facts = json.loads(path.read_bytes())["facts"]
        assert int(found[0].replace(",", "")) == pytest.approx(facts["rows"], rel=0.1)
        assert int(found[1]) == pytest.approx(facts["steps"], abs=2)
    for stage in ("pretrain", "sft", "feedback", "align", "evaluate", "in all"):
        assert re.search(rf"(?m)^time +{stage} .* took .* [+-]\d+%$", after.out), after.out


@pytest.mark.parametrize(
    "name", [one.name for one in shipped_recipes() if one.name not in ("real-small", "gemma3-270m-zephyr")]
)
def test_every_recipe_has_a_plan_offline(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = zephyr(capsys, "plan", name, "--gpus", "16", "--gpu", "a100-80g", "--offline")
    assert said.code == 0, said.err
    assert re.search(r"(?m)^model +[\d,]+ weights", said.out)


def test_published_hours_stand_beside(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = zephyr(capsys, "plan", "zephyr-7b-beta", "--gpus", "16", "--gpu", "a100-80g", "--offline")
    assert said.out.count("published: 2 to 4 h on 16 a100-80g") == 2
    assert said.out.count("fits: ") == 2


def test_a_step_is_simulated_on_any_number_of_ranks(recipe_file, capsys):
    options = ("--simulate", "--gpus", "4", "--gpu", "l4-24g", "--offline")
    said = zephyr(capsys, "plan", recipe_file, "sft.train.compile=true", *options)
    assert said.code == 0, said.err
    assert re.findall(r"(?m)^(\w+) +simulated without compile: ", said.out) == ["sft"]
    for stage in ("pretrain", "sft"):
        (found,) = re.findall(rf"(?m)^{stage} +simulated on 4 ranks, micro-batches of ([\d,]+) tokens", said.out)
        assert int(found.replace(",", "")) > 0
        assert re.search(rf"(?m)^{stage} +fits: 0\.\d of 24 GiB, without driver and gaps$", said.out)
        assert re.search(rf"(?m)^{stage} +a step on a rank, of 1 micro-batches: \d+ gathers of", said.out)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gpus"), [("zephyr-7b-beta", 8), ("zephyr-141b-a39b-orpo", 32)])
def test_arithmetic_and_simulation_of_large_recipes_agree(name, gpus, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = zephyr(capsys, "plan", name, "--simulate", "--gpus", gpus, "--gpu", "h100-80g", "--offline")
    (difference,) = re.findall(r"(?m)^align +by arithmetic [\d.]+ GiB, ([+-]\d+)%$", said.out)
    assert abs(int(difference)) <= 10
    assert said.out.count("fits: ") >= 2
    assert "does not fit" not in said.out


def test_an_unknown_gpu_is_refused(capsys):
    said = zephyr(capsys, "plan", "quickstart", "--gpu", "a100")
    assert said.code == 2
    assert "--gpu: 'a100' is not known" in said.err

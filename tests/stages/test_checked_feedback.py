"""Prompts with constraints, answers checked, pairs made and learnt: every stage of the way, with a tiny model."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.command import jsonl, stage_fields, write_recipe, zephyr
from zephyr.judging.checks import check_answer
from zephyr.records.checks import checks_of

SUBJECTS = ("hens", "rivers", "clouds", "bread", "chess", "bees", "maps", "boats")
RECORDED = (("A good answer.", 9.0), ("A bad answer.", 2.0), ("Another.", 7.0))
RULES = ["punctuation", "keywords:letter_frequency", "change_case", "length_constraints:number_words"]


def recipe(tmp_path: Path, model: Path, **changes: object) -> Path:
    (tmp_path / "pool.jsonl").write_bytes(jsonl(*({"prompt": f"Tell me of {one}."} for one in SUBJECTS)))
    (tmp_path / "eval.jsonl").write_bytes(jsonl({"prompt": "Tell me a long story about the days of the old king."}))
    generator = {"name": "constraints", "pool": [{"path": "pool.jsonl"}], "num_prompts": 12, "families": RULES}
    candidates = {"models": [str(model)], "num_completions": 4, "sampling": {"max_new_tokens": 24, "temperature": 1.5}}
    sections = {
        "synth": {"generator": generator | {"decontaminate": ["eval.jsonl"]}},
        "feedback": {"candidates": candidates, "judge": {"name": "checks"}},
        "align": stage_fields("align", None, max_length=256),
        "deliver": {},
    }
    return write_recipe(tmp_path, model, **sections | changes)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).open()]


def finished(tmp_path: Path, stage: str) -> Path:
    (folder,) = (path for path in (tmp_path / "runs").rglob("stage.json") if path.parent.name.startswith(stage))
    return folder.parent


def test_the_way_from_constraints_to_a_learnt_model(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    said = zephyr(capfd, "run", recipe(tmp_path, tiny_folder))
    assert said.code == 0, said.err
    # Each of these may take hours, so none is silent.
    assert "answers: step 48 of 48 (100 %)" in said.err
    assert "rated prompts: step 12 of 12 (100 %)" in said.err
    assert re.search(r"reference log-probs: step (\d+) of \1 \(100 %\)", said.err)
    made = rows(finished(tmp_path, "synth"), "prompts.jsonl")
    assert len(made) == 12
    feedback = finished(tmp_path, "feedback")
    for row in rows(feedback, "ratings.jsonl"):
        checks = checks_of(row)
        assert checks == next(checks_of(one) for one in made if one["prompt"] == row["prompt"])
        for answer in row["answers"]:
            assert answer["score"] == check_answer(checks, answer["text"]).share
            assert len(answer["rationale"].split("\n")) == len(checks)
    facts = json.loads((feedback / "stage.json").read_text())["facts"]
    num_equal = facts["dropped"].get("prompt with all ratings equal", 0)
    assert facts["pairs"] == len(rows(feedback, "pairs.jsonl")) == 12 - num_equal > 0
    assert all(row["score_chosen"] > row["score_rejected"] for row in rows(feedback, "pairs.jsonl"))
    assert facts["ratings"] == {"prompts": 12, "questions": 12, "rated": 12, "asked": 12}
    card = next((tmp_path / "runs").rglob("README.md")).read_text()
    assert "checks (rules)" in card
    assert "overlaps with eval.jsonl" in card


def test_sft_learns_the_answers_of_the_pool_that_hold_their_checks(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    answered = [{"prompt": f"Tell me of {one}.", "completion": f"Well, {one} are old, and good."} for one in SUBJECTS]
    path = recipe(tmp_path, tiny_folder, sft=stage_fields("sft", None, max_length=256))
    fields = yaml.safe_load(path.read_text())
    fields["feedback"]["candidates"]["models"] = ["stage:policy"]
    fields["synth"]["generator"] |= {"num_dialogues": 5, "families": ["punctuation", "change_case:english_lowercase"]}
    path.write_text(yaml.safe_dump(fields))
    said = zephyr(capfd, "check", path)
    assert said.code == 2
    assert "pool.jsonl row 1" in said.out + said.err  # it has no answer
    (tmp_path / "pool.jsonl").write_bytes(jsonl(*answered))
    said = zephyr(capfd, "check", path)
    assert said.code == 0, said.out + said.err
    assert "composes 12 prompts and 5 dialogues of 8 instructions and 2 families" in said.out
    said = zephyr(capfd, "run", path)
    assert said.code == 0, said.out + said.err
    folder = finished(tmp_path, "synth")
    asked = {json.dumps(row["prompt"]) for row in rows(folder, "prompts.jsonl")}
    dialogues = rows(folder, "dialogues.jsonl")
    assert len(dialogues) == 5
    for row in dialogues:
        *prompt, answer = row["messages"]
        assert json.dumps(prompt) not in asked
        assert ("," in answer["content"], answer["content"].islower()) != (True, False)
    facts = json.loads((folder / "stage.json").read_text())["facts"]
    assert facts["dialogues"] == 5
    # Which languages so short a text may be in, the checker guesses.
    assert facts["answers_of_the_pool"]["repaired"] == 5
    assert json.loads((finished(tmp_path, "sft") / "stage.json").read_text())["facts"]["rows"] == 5


def test_sft_learns_the_answers_of_the_pool_beside_its_own_sources(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    own = [{"prompt": f"Count to {number}.", "completion": "One, two, and so on."} for number in range(3)]
    (tmp_path / "own.jsonl").write_bytes(jsonl(*own, {"prompt": "Count."}))
    sft = stage_fields("sft", None, max_length=256)
    sft["data"] |= {"sources": [{"path": "own.jsonl"}], "with_made_rows": True}
    path = recipe(tmp_path, tiny_folder, sft=sft, feedback=None, align=None)
    fields = yaml.safe_load(path.read_text())
    said = zephyr(capfd, "check", path)
    assert said.code == 2
    assert (
        "sft.data.with_made_rows: asks for the rows of an earlier stage, and generator constraints makes no" in said.err
    )
    assert "leave it out, or set synth.generator.num_dialogues" in said.err
    fields["synth"]["generator"] |= {"num_dialogues": 5, "families": ["punctuation"]}
    path.write_text(yaml.safe_dump(fields))
    answered = [{"prompt": f"Tell me of {one}.", "completion": f"Well, {one} are old, and good."} for one in SUBJECTS]
    (tmp_path / "pool.jsonl").write_bytes(jsonl(*answered))
    said = zephyr(capfd, "run", path)
    assert said.code == 2  # before anything is made
    assert "own.jsonl row 4" in said.err
    assert not list((tmp_path / "runs").rglob("dialogues.jsonl"))
    (tmp_path / "own.jsonl").write_bytes(jsonl(*own))
    said = zephyr(capfd, "check", path)
    assert re.search("sft +3 examples of .*, counted without the rows that will be made in the run", said.out)
    said = zephyr(capfd, "run", path)
    assert said.code == 0, said.out + said.err
    assert json.loads((finished(tmp_path, "sft") / "stage.json").read_text())["facts"]["rows"] == 5 + 3


def test_recorded_ratings_and_own_answers_make_one_data_set(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    asked = [f"Say {number}." for number in range(6)]
    rated = [{"prompt": one, "completion": text, "score": score} for one in asked for text, score in RECORDED]
    (tmp_path / "rated.jsonl").write_bytes(jsonl(*rated))
    options = {"letter": "e", "let_frequency": 1, "let_relation": "at least"}
    rule = {"instruction": "keywords:letter_frequency", "kwargs": options}
    (tmp_path / "p.jsonl").write_bytes(jsonl(*({"prompt": f"Tell of {one}.", "checks": [rule]} for one in SUBJECTS)))
    sampling = {"max_new_tokens": 24, "temperature": 1.5}
    feedback = {
        "recorded": [{"path": "rated.jsonl", "shape": "rated"}],
        "prompts": [{"path": "p.jsonl"}],
        "candidates": {"models": [str(tiny_folder)], "num_completions": 6, "sampling": sampling},
        "judge": {"name": "checks"},
        "binarize": {"min_gap": 4.0},
    }
    align = stage_fields("align", None, max_length=256)
    path = write_recipe(tmp_path, tiny_folder, feedback=feedback, align=align, deliver={})
    said = zephyr(capfd, "check", path)
    assert said.code == 0, said.out + said.err
    assert "6 pairs of 6 prompts" in said.out
    assert "about 7 more of own answers, if 90% of the prompts give one" in said.out
    assert "13 rows from feedback, made in the run" in said.out
    said = zephyr(capfd, "run", path)
    assert said.code == 0, said.err
    folder = finished(tmp_path, "feedback")
    pairs = rows(folder, "pairs.jsonl")
    own = [row for row in pairs if row["prompt"][0]["content"].startswith("Tell")]
    # What is checked is right or wrong here: 1 and 0, which are 10 and 1 beside ratings.
    assert {(row["score_chosen"], row["score_rejected"]) for row in own} == {(10.0, 1.0)}
    assert {(row["score_chosen"], row["score_rejected"]) for row in pairs if row not in own} == {(9.0, 2.0)}
    facts = json.loads((folder / "stage.json").read_text())["facts"]
    assert facts["made_of"] == {
        "recorded ratings": {"prompts": 6, "pairs": 6},
        "own answers": {"prompts": 8, "pairs": len(own)},
    }
    assert facts["pairs"] == len(pairs) == 6 + len(own) > 6
    card = next((tmp_path / "runs").rglob("README.md")).read_text()
    assert "recorded ratings, and for its own answers checks (rules)" in card
    assert "made of: own answers: pairs" in card


def test_recorded_ratings_own_prompts_and_made_ones_make_one_data_set(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    rated = [
        {"prompt": f"Say {number}.", "completion": text, "score": s} for number in range(6) for text, s in RECORDED
    ]
    (tmp_path / "rated.jsonl").write_bytes(jsonl(*rated))
    rule = {"instruction": "punctuation:no_comma", "kwargs": {}}
    (tmp_path / "own.jsonl").write_bytes(jsonl({"prompt": "Tell me of my own hens.", "checks": [rule]}))
    path = recipe(tmp_path, tiny_folder)
    fields = yaml.safe_load(path.read_text())
    fields["feedback"] |= {"recorded": [{"path": "rated.jsonl", "shape": "rated"}], "prompts": [{"path": "own.jsonl"}]}
    fields["feedback"]["with_made_prompts"] = True
    path.write_text(yaml.safe_dump(fields))
    said = zephyr(capfd, "check", path)
    assert said.code == 0, said.out + said.err
    # Nine of ten prompts of 12 made and one own are expected to give a pair.
    assert "about 12 more of own answers, if 90% of the prompts give one" in said.out
    said = zephyr(capfd, "run", path)
    assert said.code == 0, said.out + said.err
    folder = finished(tmp_path, "feedback")
    asked = {row["prompt"][-1]["content"] for row in rows(folder, "ratings.jsonl")}
    made = {row["prompt"][-1]["content"] for row in rows(finished(tmp_path, "synth"), "prompts.jsonl")}
    assert asked == made | {"Tell me of my own hens."}
    facts = json.loads((folder / "stage.json").read_text())["facts"]
    assert facts["made_of"]["recorded ratings"] == {"prompts": 6, "pairs": 6}
    assert facts["made_of"]["own answers"]["prompts"] == 13


def test_what_cannot_be_checked_is_found_before_anything_is_generated(tmp_path: Path, tiny_folder: Path, capfd) -> None:
    good = {"prompt": "Say yes.", "checks": [{"instruction": "punctuation:no_comma"}]}
    (tmp_path / "p.jsonl").write_bytes(jsonl(good, good | {"checks": [{"instruction": "punctuation:no_coma"}]}))
    candidates = {"models": [str(tiny_folder)], "num_completions": 2}
    section = {"prompts": [{"path": "p.jsonl"}], "candidates": candidates, "judge": {"name": "checks"}}
    for word in ("check", "run"):
        said = zephyr(capfd, word, write_recipe(tmp_path, tiny_folder, feedback=section))
        assert said.code == 2
        assert "p.jsonl row 2: check 1: has the unknown instruction 'punctuation:no_coma'" in said.out + said.err
    (tmp_path / "p.jsonl").write_bytes(jsonl(good, {"prompt": "Say no."}))
    for word in ("check", "run"):
        said = zephyr(capfd, word, write_recipe(tmp_path, tiny_folder, feedback=section))
        assert said.code == 2
        assert "p.jsonl row 2: has no checks" in said.out + said.err
    assert not list((tmp_path / "runs").rglob("candidates.jsonl"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sft": stage_fields("sft", None)},
            "sft.data.sources: is empty, and generator constraints makes no",
        ),
        ({"synth": {}}, "feedback.judge: checks answers, and generator world makes prompts without checks"),
    ],
)
def test_recipes_that_cannot_work_say_why(
    changes: dict, said: str, tmp_path: Path, tiny_folder: Path, capfd
) -> None:  # fmt: skip
    printed = zephyr(capfd, "check", recipe(tmp_path, tiny_folder, **changes))
    assert printed.code == 2
    assert said in printed.out + printed.err

import subprocess
import sys

import pytest

from tests.recipe.recipe_files import SMALL, write
from zephyr.errors import RecipeError
from zephyr.recipe.loading import load_recipe, read_recipe, resolved_yaml
from zephyr.recipe.objective_section import KtoObjective
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Section
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.recipe.validating import sample_of


def message(path: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_recipe_is_read(tmp_path):
    loaded = read_recipe(write(tmp_path))
    assert loaded.recipe.stages == ("sft", "align", "evaluate")
    assert loaded.recipe.align.train.learning_rate == 5e-7  # which PyYAML reads as text
    assert loaded.recipe.align.objective.loss_type == "ipo"
    assert loaded.recipe.evaluate.tasks[1].num_prompts == 7
    assert loaded.notes == ()


def test_what_is_computed_again_is_no_part_of_a_result_and_true_is_no_number():
    kept, *others = (
        TrainSection(learning_rate=1e-5, activation_checkpointing=each) for each in (False, True, 2, "selective")
    )
    assert kept.result_settings()["activation_checkpointing"] is False  # as in stages that were finished before
    assert all(other.result_settings() == kept.result_settings() for other in others)
    assert [other.activation_checkpointing for other in others] == [True, 2, "selective"]
    assert [each.recomputes_every for each in (kept, *others)] == [None, 1, 2, None]


def test_resolved_yaml_loads_as_the_same_recipe(tmp_path):
    recipe = load_recipe(write(tmp_path), ["align.train.learning_rate=3e-9", "sft.lora={r: 4}"])
    text = resolved_yaml(recipe)
    assert "learning_rate: 3.0e-09" in text
    assert load_recipe(write(tmp_path, text, "resolved.yaml")) == recipe


def test_one_problem_takes_one_line(tmp_path):
    path = write(tmp_path, SMALL.replace("  train:\n    learning_rate", "  train:\n    lerning_rate"))
    expected = "line 7, sft.train.lerning_rate: there is no such key, got 0.0001; did you mean 'learning_rate'?"
    assert message(path) == f"{path}: {expected}"


def test_all_problems_are_told_at_once_in_five_lines(tmp_path):
    text = SMALL.replace("beta:", "betta:").replace("evaluate:", "evalute:").replace("[{path: pairs.jsonl}]", "[]")
    path = write(tmp_path, text)
    lines = message(path, "sft.train.save_total_limit=0", "sft.train.eval_steps=5", "seed=yes").splitlines()
    assert lines[0].endswith("small.yaml: 6 problems")
    assert lines[1:4] == [
        "  override, seed: must be a number, got True; random seed of the whole run",
        "  override, sft.train.save_total_limit: must be greater than or equal to 1, got 0; checkpoints to keep",
        "  line 11, align.objective.betta: there is no such key, got 0.1; did you mean 'beta'?",
    ]
    rest = "evalute (there is no such key), align.data.sources (is empty), sft.train.eval_steps (needs held-out rows)"
    assert lines[4:] == [f"  and 3 more: {rest}"]


def test_what_takes_a_wrong_values_place_is_no_problem_of_its_own(tmp_path):
    path = write(tmp_path)
    rounds = "override, rounds.count: must be greater than or equal to 2, got 1; number of rounds, at most"
    assert message(path, "rounds.count=1") == f"{path}: {rounds}"
    for section in _sections(Section):
        needed = {name: sample_of(field) for name, field in section.model_fields.items() if field.is_required()}
        if section is not Recipe:  # which has conflicts besides
            assert section.model_validate(needed)


def _sections(above):
    """Those of recipes; other files have sections too, and are told their first layer alone."""
    found = {each for one in above.__subclasses__() for each in (one, *_sections(one))}
    return {one for one in found if one.__module__.startswith("zephyr.recipe.")}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 40])
def test_no_number_of_problems_takes_more_than_five_lines(tmp_path, count):
    text = SMALL + "".join(f"key{number}: 1\n" for number in range(count))
    printed = message(write(tmp_path, text))
    assert len(printed.splitlines()) <= 5
    assert all(f"key{number}" in printed for number in range(count))


def test_problems_below_a_misspelt_section_are_told_where_they_stand(tmp_path):
    path = write(tmp_path, SMALL.replace("align:", "algn:").replace("beta:", "betta:"))
    printed = message(path)
    assert "line 8, algn: there is no such key" in printed
    assert "line 11, algn.objective.betta: there is no such key, got 0.1; did you mean 'beta'?" in printed


def test_a_key_of_another_place_is_found(tmp_path):
    text = SMALL.replace("sft:\n", "sft:\n  learning_rate: 1.0e-4\n").replace("loss_type: ipo", "cpo_alpha: 1")
    printed = message(write(tmp_path, text))
    assert "did you mean 'train.learning_rate'?" in printed
    assert "it belongs to name cpo" in printed


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: small", "name: a b", "line 1, name: must match pattern"),
        (
            "name: dpo",
            "name: dop",
            "line 11, align.objective.name: there is no such choice, got 'dop'; did you mean 'dpo'?",
        ),
        (
            "name: dpo, ",
            "",
            "line 11, align.objective.name: is missing; known are best_of_n, cpo, custom, dpo, kto, listwise, orpo, ",
        ),
        ("ipo", "ippo", "line 11, align.objective.loss_type: there is no such choice, got 'ippo'; did you mean 'ipo'?"),
        ("some/model", "no", "line 2, model.name_or_path: must be text, got False; put it in quotes"),
        ("name_or_path: some/model", "name: x", "model.name: there is no such key, got 'x'"),
        (
            "5e-7",
            "5e-x",
            "line 12, align.train.learning_rate: must be a valid number, unable to parse string as a number",
        ),
        ("5e-7", "true", "line 12, align.train.learning_rate: must be a number, got True; peak learning rate"),
        ("5e-7", ".inf", "line 12, align.train.learning_rate: must be a finite number, got inf"),
        (
            "5e-7",
            "1, warmup_ratio: 0.1, warmup_steps: 3",
            "line 12, align.train: warmup_ratio and warmup_steps are both",
        ),
        ("[{path: pairs.jsonl}]", "[{path: a, split: 'train[:10'}]", "line 10, align.data.sources.0.split: must match"),
    ],
)
def test_single_mistakes(tmp_path, old, new, expected):
    assert old in SMALL
    assert expected in message(write(tmp_path, SMALL.replace(old, new)))


def test_what_is_no_recipe(tmp_path):
    assert "is empty" in message(write(tmp_path, "\n# nothing\n"))
    assert "holds list [1, 2] and no keys" in message(write(tmp_path, "[1, 2]\n"))
    assert "is a folder" in message(str(tmp_path))
    assert "line 2: is not UTF-8 text" in message(str(_bytes(tmp_path, b"name: x\ndescription: \xff\n")))
    assert "it has 1,048,577 bytes" in message(str(_bytes(tmp_path, b" " * (2**20 + 1))))
    assert "cannot be a path" in message("x" * 5000)
    missing = message(str(tmp_path / "zephyr-7b-betta.yaml"))
    assert "there is no such file" in missing
    assert "did you mean 'zephyr-7b-beta'?" in missing


def _bytes(folder, content):
    path = folder / "bytes.yaml"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    assert load_recipe(str(_bytes(tmp_path, b"\xef\xbb\xbf" + SMALL.encode()))).name == "small"


def test_shipped_recipes_are_found_by_name():
    assert load_recipe("zephyr-7b-beta").name == "zephyr-7b-beta"
    assert load_recipe("zephyr-7b-beta.yaml") == load_recipe("zephyr-7b-beta")


def test_what_is_left_out_is_logged(tmp_path, caplog):
    load_recipe(write(tmp_path), ["align.objective.name=orpo"])
    assert "align.objective.loss_type is left out: align.objective.name=orpo does not know it, dpo did" in caplog.text


def test_an_unknown_key_is_told_within_a_second_and_without_torch(tmp_path):
    path = write(tmp_path, SMALL + "fly: 1\n")
    program = (
        "import sys, time\nfrom zephyr.errors import RecipeError\nfrom zephyr.recipe.loading import load_recipe\n"
        f"try:\n    load_recipe({path!r})\nexcept RecipeError as error:\n    print(error)\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))\nprint(time.process_time())"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)  # writes the bytecode
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    problem, heavy, seconds = done.stdout.splitlines()
    assert "line 15, fly: there is no such key, got 1" in problem
    assert heavy == "[]"
    assert float(seconds) < 3  # of processor time; a promise of 1, on machines that do other things besides


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        (
            TrainSection,
            {"learning_rate": 1e-3, "weight_decay": 2000},
            "learning_rate 0.001 x weight_decay 2000 is what",
        ),
        (LoraSection, {"r": 8, "lora_alpha": 1e-8}, "with r 8 multiplies what adapters learn by 1e-09"),
        (LoraSection, {"r": 64, "lora_alpha": 1e-4, "use_rslora": True}, "with r 64 multiplies .* by 1e-05"),
        (KtoObjective, {"desirable_weight": 0, "undesirable_weight": 0}, "are both 0, so nothing is learned"),
    ],
)
def test_settings_that_leave_nothing_to_learn_are_refused(section, values, expected):
    with pytest.raises(ValueError, match=expected):
        section(**values)

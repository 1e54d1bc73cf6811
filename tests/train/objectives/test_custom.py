"""A loss of one's own trains as ours does, and what is wrong with it is said before anything is trained."""

import json
import re
from io import StringIO

import pytest
import torch
import yaml
from rich.console import Console

from zephyr.check import check_lines
from zephyr.errors import RecipeError
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.pipeline import run_recipe, stage_keys
from zephyr.recipe.objective_section import CustomObjective
from zephyr.recipe.schema import Recipe
from zephyr.runs.lock_file import requested_run
from zephyr.train.losses.pairs import Pairs
from zephyr.train.objectives.custom import load_loss

SIGMOID = """
import torch.nn.functional as F

def mine(pairs, options):
    return -F.logsigmoid(options.options["scale"] * pairs.margins)
"""


def custom(folder, code, **settings):
    (folder / "loss.py").write_text(code)
    return CustomObjective(name="custom", path="loss.py:mine", options={"scale": 0.1}, **settings)


@pytest.mark.parametrize(
    ("body", "what", "remedy"),
    [
        ("return pairs.margins.mean()", "gives a tensor () for 4 pairs", "return one loss a pair, a tensor (4,)"),
        ("return 3", "gives int for 4 pairs", "return one loss a pair, a tensor (4,)"),
        ("return pairs.oops", "raises AttributeError: 'Pairs' object has no attribute 'oops' (line 2 of loss.py)",
         "fix the function"),
        ("return pairs.margins.detach()", "has no gradient on pairs of plain log-probs",
         "compute a finite loss of the log-probs"),
        ("return 0 * pairs.margins", "has no finite gradient other than zero",
         "compute the loss of pairs.chosen and pairs.rejected"),
        ("return pairs.margins / 0", "gives [inf, -inf, inf, -inf] on pairs of plain log-probs",
         "compute a finite loss of the log-probs"),
        ("return (pairs.margins - pairs.margins.mean()) ** 2",
         "gives a pair another loss when other pairs stand beside it, and micro-batches hold any of them",
         "return one loss a pair, or set coupled: true"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_loss_is_said(tmp_path, body, what, remedy):
    objective = custom(tmp_path, f"def mine(pairs, options):\n    {body}\n")
    with pytest.raises(RecipeError) as error:
        load_loss(objective, tmp_path)
    assert (error.value.where, error.value.remedy) == (f"{tmp_path}/loss.py:mine", remedy)
    assert error.value.what == what


def test_a_loss_that_couples_its_pairs_may_say_so(tmp_path):
    code = "def mine(pairs, options):\n    return (pairs.margins - pairs.margins.mean().detach()) ** 2\n"
    with pytest.raises(RecipeError, match="set coupled: true"):
        load_loss(custom(tmp_path, code), tmp_path)
    assert load_loss(custom(tmp_path, code, coupled=True), tmp_path).where == f"{tmp_path}/loss.py:mine"


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def yours(pairs, options): return pairs.margins", "has no function 'mine'"),
        (
            "import nothing_of_this_name",
            "raises ModuleNotFoundError: No module named 'nothing_of_this_name' (line 1",
        ),
        ("def mine(:", "raises SyntaxError: invalid syntax"),
    ],
)
def test_a_file_without_the_function_is_refused(tmp_path, code, what):
    with pytest.raises(RecipeError) as error:
        load_loss(custom(tmp_path, code), tmp_path)
    assert error.value.what.startswith(what)
    with pytest.raises(RecipeError, match=r"align\.objective\.path: there is no file .*none\.py"):
        load_loss(CustomObjective(name="custom", path="none.py:mine"), tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("custom")
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder / "base")
    rows = [{"prompt": f"Say {word}", "chosen": word, "rejected": "no"} for word in ("a", "be", "see", "dull")]
    (folder / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def recipe(folder, objective):
    train = {"learning_rate": 1.0e-3, "train_batch_size": 2, "precision": "float32", "num_train_epochs": 2}
    align = {"data": {"sources": [{"path": "p.jsonl"}], "max_length": 48}, "train": train, "objective": objective}
    model = {"kind": "pretrained", "name_or_path": str(folder / "base")}
    fields = {"name": "t", "offline": True, "output_dir": folder / "runs", "data_dir": folder}
    return Recipe.model_validate(fields | {"model": model, "align": align})


def test_a_sigmoid_of_ones_own_trains_the_same_model_as_dpo(folder):
    (folder / "loss.py").write_text(SIGMOID)
    trained = []
    for objective in (
        {"name": "dpo", "beta": 0.1},
        {"name": "custom", "path": "loss.py:mine", "beta": 0.1, "options": {"scale": 0.1}},
    ):
        made = recipe(folder, objective)
        run_recipe(made, console=Console(file=StringIO()))
        stage = folder / "runs/t" / stage_keys(made)["align"].folder_name
        facts = json.loads((stage / "outcome.json").read_text())
        trained.append((facts, (stage / "model/model.safetensors").read_bytes()))
    assert trained[0] == trained[1]


def test_the_bytes_of_the_file_decide_whether_the_stage_is_made_again(folder):
    made = recipe(folder, {"name": "custom", "path": "loss.py:mine", "options": {"scale": 0.1}})
    (folder / "loss.py").write_text(SIGMOID)
    before = stage_keys(made)["align"].digest
    (folder / "moved.py").write_text(SIGMOID)
    moved = recipe(folder, {"name": "custom", "path": "moved.py:mine", "options": {"scale": 0.1}})
    assert stage_keys(moved)["align"].digest == before
    (folder / "loss.py").write_text(SIGMOID + "# changed\n")
    assert stage_keys(made)["align"].digest != before
    (folder / "loss.py").unlink()
    with pytest.raises(RecipeError, match=r"align\.objective\.path: there is no file .*loss\.py"):
        stage_keys(made)


def test_the_loss_of_the_page_is_dpo_positive(repository, tmp_path):
    page = (repository / "docs/how-to/custom-loss.md").read_text()
    (tmp_path / "my_loss.py").write_text(re.search(r"```python.*?\n(.*?)```", page, re.DOTALL)[1])
    section = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])["align"]["objective"]
    objective = CustomObjective.model_validate(section)
    loss = load_loss(objective, tmp_path)
    # The chosen answer fell by 2: -log s(0.1 (-2 + 5 - 5 * 2)); it rose by 1: -log s(0.1 (1 + 5)).
    pairs = Pairs(*torch.tensor([[-12.0, -9.0], [-25.0, -25.0], [-10.0, -10.0], [-20.0, -20.0]], dtype=torch.float64))
    assert loss(pairs, objective).tolist() == pytest.approx([1.1031860489, 0.4374879504], abs=1e-9)


def test_check_tries_the_loss_and_no_user_code_refuses_it(folder):
    (folder / "bad.py").write_text("def mine(pairs, options):\n    return pairs.margins.sum()\n")
    with pytest.raises(RecipeError, match=r"bad\.py:mine: gives a tensor \(\) for 4 pairs"):
        list(check_lines(recipe(folder, {"name": "custom", "path": "bad.py:mine"})))
    text = recipe(folder, {"name": "custom", "path": "bad.py:mine"}).model_dump_json(exclude_unset=True)
    (folder / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"align\.objective\.path: runs bad\.py:mine, which --no-user-code refuses"):
        requested_run(str(folder / "r.yaml"), [], offline=True, user_code=False)

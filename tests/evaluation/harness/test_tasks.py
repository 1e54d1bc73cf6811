"""Tasks by name: what is not known or cannot be had is said before any model is loaded."""

from pathlib import Path

import pytest
import yaml

from tests.evaluation.harness.small_data import small_data
from tests.mini import mini_fields, mini_recipe
from zephyr.errors import DataError, RecipeError
from zephyr.evaluation.harness import tasks
from zephyr.evaluation.harness.evaluation import data_hash
from zephyr.evaluation.harness.profiles import PROFILES, Wanted, expand, judged_names, main_metric, notes_of
from zephyr.evaluation.harness.tasks import build_requests, load_tasks, mmlu_subjects
from zephyr.runs.lock_file import requested_run
from zephyr.stages.start import template_and_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("name", "nearest"), [("arc_chalenge", "arc_challenge"), ("mmlu_anatomie", "mmlu_anatomy")])
def test_an_unknown_task_suggests_the_nearest_of_ours(name: str, nearest: str) -> None:
    with pytest.raises(DataError, match=rf"--tasks: unknown task '{name}'; did you mean '{nearest}'\?"):
        load_tasks([Wanted("ifeval"), Wanted(name)], data_dir=None, offline=True)


def test_an_unknown_task_suggests_the_nearest_of_lm_eval() -> None:
    with pytest.raises(DataError, match=r"unknown task 'lambada_openia'; did you mean 'lambada_openai'\?"):
        load_tasks([Wanted("lambada_openia")], data_dir=None, offline=True)


def test_data_that_cannot_be_reached_is_named_with_the_files_that_would_do() -> None:
    message = (
        r"task gsm8k: its data set openai/gsm8k main is neither cached nor reachable .*; run once without --offline "
        r"where there is network, or put gsm8k/train\.jsonl and gsm8k/test\.jsonl into a folder and name it with --data"
    )
    with pytest.raises(DataError, match=message) as told:
        load_tasks([Wanted("gsm8k")], data_dir=None, offline=True)
    assert "\n" not in str(told.value)


def test_a_task_has_lm_evals_definition_and_the_shots_that_were_asked_for(folder: Path) -> None:
    found = load_tasks([Wanted("arc_challenge", 2), Wanted("ifeval", 3)], data_dir=folder, offline=True)
    task = found["arc_challenge"].task
    assert (task.VERSION, task.config.num_fewshot, found["arc_challenge"].is_local) == (1.0, 2, True)
    request = build_requests([task], limit=1)[0]
    assert request.args[0].count("Question: ") == 3
    assert request.args[0].endswith("Question: What does the ant do?\nAnswer:")
    assert request.args[1] == " It ticks."
    # IFEval's definition says 0, and a definition that says so keeps it.
    assert found["ifeval"].task.config.num_fewshot == 0


def test_hellaswag_capitalises_and_cleans(folder: Path) -> None:
    (loaded,) = load_tasks([Wanted("hellaswag", 1)], data_dir=folder, offline=True).values()
    context = build_requests([loaded.task], limit=1)[0].args[0]
    assert context.endswith("Cooking: A man stands in a kitchen. He")
    assert "How to do it. Take some food.  Give it to the animal." in context
    assert "[" not in context


def test_winogrande_scores_the_rest_of_its_sentence(folder: Path) -> None:
    (loaded,) = load_tasks([Wanted("winogrande", 0)], data_dir=folder, offline=True).values()
    first, second = build_requests([loaded.task], limit=1)
    assert first.args == ("The owl feared the bee because the owl", " was loud.")
    assert second.args == ("The owl feared the bee because the bee", " was loud.")


def test_the_hash_of_the_data_is_of_what_is_asked_and_shown(tmp_path: Path) -> None:
    hashes = []
    for change in ("", "arc_challenge/test.jsonl", "arc_challenge/train.jsonl"):
        folder = small_data(tmp_path / (change.replace("/", "-") or "plain"))
        if change:
            path = folder / change
            path.write_text(path.read_text().replace("aunt", "uncle", 1))
        (loaded,) = load_tasks([Wanted("arc_challenge")], data_dir=folder, offline=True).values()
        hashes.append(data_hash(loaded.task))
    assert len(set(hashes)) == 3


def test_profiles_stand_for_their_tasks_with_their_shots() -> None:
    assert len(mmlu_subjects()) == 57
    shots = {one.name: one.shots for one in expand(["open-llm-leaderboard-v1", "ifeval"], None)}
    assert shots == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
        "drop": 3,
        "ifeval": 0,
    }
    assert expand(["zephyr-card"], None) == expand(["open-llm-leaderboard-v1", "ifeval"], None)
    assert expand(["gsm8k", "open-llm-leaderboard-v1"], 2)[0] == Wanted("gsm8k", 2)
    assert expand(["winogrande"], None) == [Wanted("winogrande", None)]


def test_judged_benchmarks_are_told_apart_from_tasks() -> None:
    assert judged_names(["gsm8k", "alpaca_eval", "zephyr-card", "mt_bench"]) == [
        "alpaca_eval_2",
        "mt_bench",
        "alpaca_eval_1",
    ]
    assert judged_names(["open-llm-leaderboard-v1"]) == []
    assert expand(["mt_bench", "gsm8k"], None) == [Wanted("gsm8k", None)]


def test_a_task_is_known_by_the_leaderboards_metric() -> None:
    assert main_metric("arc_challenge", ["acc", "acc_norm"]) == "acc_norm"
    assert main_metric("lambada_openai", ["perplexity", "acc"]) == "perplexity"
    assert "12.74" in notes_of("gsm8k")[0]
    assert notes_of("arc_challenge") == ()
    assert next(title for title, _ in PROFILES["zephyr-card"].averages) == "mean of seven tasks"


CAPITALS = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def test_a_task_of_ones_own_stands_beside_those_of_lm_eval(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"country": "France", "choices": ["Rome", "Paris"], "answer": 1}\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/capitals.yaml").write_text(CAPITALS.replace("ROWS", str(rows)))
    tasks = load_tasks([Wanted("capitals")], data_dir=None, offline=True, include_path=tmp_path / "mine")
    requests = build_requests([tasks["capitals"].task], limit=None)
    assert [request.args for request in requests] == [
        ("The capital of France is", " Rome"),
        ("The capital of France is", " Paris"),
    ]
    with pytest.raises(DataError, match="unknown task 'capitls'; did you mean 'capitals'"):
        load_tasks([Wanted("capitls")], data_dir=None, offline=True, include_path=tmp_path / "mine")


def test_a_group_of_ones_own_with_a_member_that_nobody_knows_is_refused(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    (tmp_path / "group.yaml").write_text("group: mine\ntask: [capitals_of_the_moon]\n")
    # Without lm-eval's own, which take 20 seconds to read.
    monkeypatch.setattr(tasks, "_index", lambda folder: TaskManager(include_path=str(folder), include_defaults=False))
    with pytest.raises(DataError, match=r"task mine: its definition cannot be used.*; check the names of its members"):
        load_tasks([Wanted("mine")], data_dir=None, offline=True, include_path=tmp_path)


def test_a_changed_definition_is_another_evaluation(tmp_path):
    (tmp_path / "mine").mkdir()
    task = {"name": "harness", "tasks": ["capitals"], "include_path": "mine"}
    recipe = mini_recipe(tmp_path, data_dir=str(tmp_path), evaluate={"tasks": [task]})
    seen = []
    for text in ("a", "b"):
        (tmp_path / "mine/capitals.yaml").write_text(text)
        seen.append(template_and_model(recipe, "evaluate"))
    assert seen[0]["tasks.0.include_path.sha256"] != seen[1]["tasks.0.include_path.sha256"]
    plain = {"name": "harness", "tasks": ["arc_challenge"]}
    assert "include_path" not in mini_recipe(tmp_path, evaluate={"tasks": [plain]}).evaluate.tasks[0].result_settings()


def test_code_of_tasks_of_ones_own_is_refused_where_no_code_may_run(tmp_path):
    task = {"name": "harness", "tasks": ["capitals"], "include_path": "mine"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(mini_fields(tmp_path) | {"evaluate": {"tasks": [task]}}))
    with pytest.raises(RecipeError, match=r"evaluate\.tasks\.0\.include_path: may run code in mine"):
        requested_run(str(tmp_path / "r.yaml"), [], offline=True, user_code=False)

"""Whole tasks: the scores of lm-eval's own run with its own class, with all that they must be read with."""

from pathlib import Path

import pytest

from tests.evaluation.harness.small_data import SUBJECT, small_data
from zephyr.errors import ModelError
from zephyr.evaluation.harness.evaluation import FAMILY_METRIC, Prompting, Score, TaskScores, evaluate_tasks
from zephyr.evaluation.harness.language_model import ForestLM
from zephyr.evaluation.harness.profiles import Wanted
from zephyr.evaluation.harness.report import as_json, harness_results, results_table, save_results
from zephyr.evaluation.harness.tasks import LoadedTask, load_tasks
from zephyr.evaluation.results import read_results
from zephyr.models.loading import Loaded
from zephyr.models.tiny import tiny_model, tiny_tokenizer

WANTED = [
    Wanted("arc_challenge", 2),
    Wanted("hellaswag", 1),
    Wanted(f"mmlu_{SUBJECT}", 5),
    Wanted("truthfulqa_mc2"),
    Wanted("winogrande", 2),
    Wanted("gsm8k", 1),
    Wanted("ifeval"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def loaded_model() -> Loaded:
    return Loaded(tiny_model("mistral", vocab_size=384, sliding_window=None), tiny_tokenizer())


def small_tasks(folder: Path, wanted: list[Wanted] = WANTED) -> dict[str, LoadedTask]:
    tasks = load_tasks(wanted, data_dir=folder, offline=True)
    if "ifeval" in tasks:  # a model of chance goes on up to the last of 1,280 tokens
        tasks["ifeval"].task.config.generation_kwargs["max_gen_toks"] = 48
    return tasks


def scores(folder: Path, prompting: Prompting, wanted: list[Wanted] = WANTED) -> dict[str, TaskScores]:
    tasks = small_tasks(folder, wanted)
    return evaluate_tasks(ForestLM(loaded_model()), tasks, prompting)


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, TaskScores]:
    return scores(folder, Prompting())


@pytest.mark.parametrize(
    ("chat", "asked"),
    [
        pytest.param(False, WANTED, marks=pytest.mark.slow),
        pytest.param(True, WANTED, marks=pytest.mark.slow),
        # One by likelihoods with examples, one by generation.
        (True, [Wanted("arc_challenge", 2), Wanted("ifeval")]),
    ],
)
def test_scores_are_those_of_lm_evals_own_run(folder: Path, chat: bool, asked: list[Wanted]) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = loaded_model()
    tasks = small_tasks(folder, asked)
    wanted = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2),
        tasks=[one.task for one in tasks.values()],
        apply_chat_template=chat,
        bootstrap_iters=0,
        # The tasks are there already; reading lm-eval's own takes 20 seconds.
        task_manager=TaskManager(include_defaults=False),
    )["results"]
    found = scores(folder, Prompting(chat_template=chat), asked)
    for name, task in found.items():
        told = {key.replace(",none", "").replace(",", "/"): value for key, value in wanted[name].items()}
        ours = {metric: one.score for metric, one in task.scores.items() if not metric.startswith(f"{FAMILY_METRIC}/")}
        assert ours == pytest.approx({metric: told[metric] for metric in ours}, abs=1e-5)
        assert ours


def test_each_result_says_what_it_must_be_read_with(folder: Path, plain: dict[str, TaskScores]) -> None:
    told = plain["arc_challenge"].protocol
    assert (told["version"], told["num_fewshot"], told["chat_template"]) == (1.0, 2, False)
    assert told["data"] == "local copy of allenai/ai2_arc ARC-Challenge"
    assert "Question: {{question}}" in told["prompt"]["doc_to_text"]
    assert len({one.protocol["data_sha256"] for one in plain.values()}) == len(plain)
    assert plain["ifeval"].protocol["prompt"]["generation_kwargs"]["max_gen_toks"] == 48
    assert "11 training items" in plain["hellaswag"].protocol["deviations"][0]
    assert scores(folder, Prompting(), WANTED[:1])["arc_challenge"].protocol == told


def test_a_template_changes_the_prompt_and_is_told(folder: Path) -> None:
    found = scores(folder, Prompting(chat_template=True, system="Be brief."), [Wanted("gsm8k", 0)])["gsm8k"]
    assert found.protocol["chat_template"] is True
    assert found.protocol["system"] == "Be brief."
    assert len(found.protocol["chat_template_sha256"]) == 64


def test_a_template_that_is_not_there_is_refused(folder: Path) -> None:
    model, tokenizer = loaded_model()
    tokenizer.chat_template = None
    tasks = load_tasks([Wanted("gsm8k", 0)], data_dir=folder, offline=True)
    with pytest.raises(ModelError, match="no chat template; name a chat model"):
        evaluate_tasks(ForestLM(Loaded(model, tokenizer)), tasks, Prompting(chat_template=True))


def test_results_are_written_as_runs_are_compared(plain: dict[str, TaskScores], tmp_path: Path) -> None:
    told = harness_results([one.name for one in WANTED], plain, model="tiny", facts={"model_hash": "abc"})
    save_results(told, plain, tmp_path)
    found = {result.benchmark: result for result in read_results(tmp_path)}
    assert found.keys() == plain.keys()
    arc = found["arc_challenge"]
    assert arc.protocol["metric"] == "acc_norm"
    assert arc.protocol["model_hash"] == "abc"
    assert arc.scores["score"] == arc.scores["acc_norm"]
    assert arc.scores["score"]["score"] == pytest.approx(100 * plain["arc_challenge"].scores["acc_norm"].score)
    assert [item.kind for item in arc.items] == ["accuracy"] * 6
    assert 100 * sum(item.value for item in arc.items) / 6 == pytest.approx(arc.scores["score"]["score"])
    assert {item.kind for item in found["truthfulqa_mc2"].items} == {"judged"}
    assert len(found["ifeval"].items) == 2
    assert as_json(told)["tasks"]["gsm8k"]["protocol"]["notes"]


def test_subjects_become_one_result_and_the_table_marks_what_counts(plain: dict[str, TaskScores]) -> None:
    subject = plain[f"mmlu_{SUBJECT}"]
    found = {**plain, f"mmlu_{SUBJECT}": subject._replace(requested_as="mmlu")}
    found |= {"mmlu_virology": subject._replace(requested_as="mmlu")}
    told = harness_results(["mmlu", "arc_challenge"], found, model="tiny", facts={})
    mmlu = next(result for result in told.results if result.benchmark == "mmlu")
    assert mmlu.protocol["metric"] == "acc/mean_of_subjects"
    assert mmlu.protocol["data_sha256"].keys() == {f"mmlu_{SUBJECT}", "mmlu_virology"}
    assert {item.category for item in mmlu.items} == {f"mmlu_{SUBJECT}", "mmlu_virology"}
    lines = results_table(told).splitlines()
    assert sum(line.startswith("mmlu") for line in lines) == 2
    assert any(line.split()[:4] == ["arc_challenge", "2", "off", "acc_norm*"] for line in lines)


CARD = {
    "arc_challenge": ("acc_norm", 0.6203),
    "hellaswag": ("acc_norm", 0.8436),
    "mmlu": ("acc/mean_of_subjects", 0.6107),
    "truthfulqa_mc2": ("acc", 0.5745),
    "winogrande": ("acc", 0.7774),
    "gsm8k": ("exact_match/strict-match", 0.1274),
    "drop": ("f1", 0.0966),
}


def card_score(task: str, limit: int | None = None) -> TaskScores:
    metric, value = CARD[task]
    told = {"limit": limit, "num_fewshot": 0, "chat_template": False, "deviations": []}
    # Told as if not by subjects, of which the card says nothing.
    return TaskScores("", {metric: Score(value, 0.0, None, None, 1)}, told, [])


def test_means_of_a_profile_want_all_of_its_tasks_in_full() -> None:
    found = {task: card_score(task) for task in CARD}
    told = harness_results(["open-llm-leaderboard-v1"], found, model="zephyr-7b-beta", facts={}).averages
    # The card's own mean, and the one without DROP.
    assert {title: round(value, 2) for title, value in told.items()} == {
        "mean of seven tasks": 52.15,
        "mean of six tasks, without DROP": 59.23,
    }
    found["drop"] = card_score("drop", limit=4)
    assert list(harness_results(["zephyr-card"], found, model="m", facts={}).averages) == [
        "mean of six tasks, without DROP"
    ]

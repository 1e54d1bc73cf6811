"""Runs beside each other and beside published scores."""

import math
from xml.etree import ElementTree as ET

import pytest

from zephyr.errors import DataError
from zephyr.evaluation.compare import deviations, exact_sign_test, paired_differences
from zephyr.evaluation.compare_radar import category_means, radar_svg, top_of
from zephyr.evaluation.published import PUBLISHED, beside_published, published_deviations
from zephyr.evaluation.results import Item, Result, read_results, write_result


def run(values, *, task="t", kind="accuracy", categories=("c",), **protocol):
    items = [Item(task, str(n), str(n), categories[n % len(categories)], value, kind) for n, value in enumerate(values)]
    return Result(task, "model", protocol, {}, items)


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (8, 2, 2 * (1 + 10 + 45) / 1024), (2, 8, 112 / 1024)],
)
def test_sign_test_by_hand(better, worse, p):
    assert exact_sign_test(better, worse) == pytest.approx(p)


def test_many_items_are_no_trouble_for_the_exact_test():
    assert 0 < exact_sign_test(5000, 5200) < 0.06
    assert exact_sign_test(9000, 100) == 0.0  # beyond the smallest float


def test_paired_differences_by_hand():
    first, second = run([1, 1, 0, 0, 1, None, 0]), run([1, 0, 1, 1, 1, 1])
    (all_of_it,) = paired_differences(first, second)
    assert (all_of_it.n, all_of_it.unpaired) == (5, 2)
    assert (all_of_it.first, all_of_it.second) == (pytest.approx(0.6), pytest.approx(0.8))
    assert all_of_it.difference == pytest.approx(0.2)
    assert all_of_it.p == pytest.approx(exact_sign_test(2, 1))
    assert all_of_it.low <= all_of_it.difference <= all_of_it.high


def test_categories_and_equal_runs():
    values = [float(n % 5) for n in range(20)]
    one = run(values, kind="judged", categories=("x", "y"))
    found = paired_differences(one, one)
    assert [row.category for row in found] == ["all", "x", "y"]
    for row in found:
        assert (row.difference, row.low, row.high, row.p) == (0.0, None, None, 1.0)
    assert paired_differences(one, run(values, task="other")) == []


def test_swapping_the_runs_turns_the_difference_around():
    one, other = run([1.0, 3.0, 2.0], kind="judged"), run([2.0, 2.5, 4.0], kind="judged")
    (there,), (back,) = paired_differences(one, other), paired_differences(other, one)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == back.p


def test_items_of_one_prompt_count_once_in_the_test():
    items = [Item("t", str(n), "same", "c", 0.0) for n in range(10)]
    first = Result("t", "a", {}, {}, items)
    second = first._replace(items=[item._replace(value=1.0) for item in items])
    (row,) = paired_differences(first, second)
    assert (row.n, row.p) == (10, 1.0)


def test_deviations_say_what_differs():
    told = deviations({"judge": "a", "model_hash": 1, "only": 2}, {"judge": "b", "model_hash": 2})
    assert told == ["judge: a against b"]


def test_results_are_read_as_they_are_written(tmp_path):
    result = run([1.0, None], judge="x")
    write_result(tmp_path / "one", result)
    write_result(tmp_path / "one", result)
    (again,) = read_results(tmp_path / "one")
    assert again == result
    assert read_results(tmp_path) == [result]
    with pytest.raises(DataError, match=r"has no result\.json"):
        read_results(tmp_path / "none")
    (tmp_path / "one" / "result.json").write_text("[]")
    with pytest.raises(DataError, match="is not an evaluation result"):
        read_results(tmp_path)


def published_run(score, error, **protocol):
    return Result("mt_bench", "mine", protocol, {"as_published": {"score": score, "standard_error": error}}, [])


def test_tolerance_comes_from_the_noise():
    (near,) = beside_published(published_run(7.2, 0.1), "zephyr-7b-beta")
    assert (near.published, near.difference) == (7.34, pytest.approx(-0.14))
    assert near.tolerance == pytest.approx(math.hypot(0.2, 0.196))
    assert near.agrees
    (far,) = beside_published(published_run(6.9, 0.1), "zephyr-7b-beta")
    assert not far.agrees
    alpaca = Result("alpaca_eval_1", "m", {}, {"as_published": {"score": 90.0, "standard_error": 1.0}}, [])
    (row,) = beside_published(alpaca, "zephyr-7b-beta")
    assert row.tolerance == pytest.approx(1.96 * math.hypot(1.0, 1.0287080531312012))
    with pytest.raises(DataError, match="did you mean 'zephyr-7b-beta'"):
        beside_published(alpaca, "zephyr-7b-bta")


def test_deviations_from_the_published_protocol():
    told = published_deviations(
        published_run(7.0, 0.1, judge="scripted judge", questions=80, max_new_tokens=64), "gpt-4"
    )
    assert "judge: gpt-4 against scripted judge" in told
    assert "max new tokens: 1024 against 64" in told
    assert "template: judge_prompts.jsonl fd283293406d against nothing recorded" in told
    assert not [one for one in told if one.startswith("questions:")]


def test_a_run_on_the_leaderboards_tasks_tells_all_that_is_not_as_then():
    protocol = {"num_fewshot": 25, "chat_template": False, "system": None, "limit": 200, "lm_eval": "0.4.13"}
    said = {"deviations": ["choices are rebuilt"], "notes": ["stops at ':'"]}
    scores = {"score": {"score": 61.0, "standard_error": 1.0}}
    run_ = Result("arc_challenge", "m", protocol | said, scores, [])
    assert published_deviations(run_, "zephyr-7b-beta") == [
        "limit: None against 200",
        "lm eval: of June 2023 against 0.4.13",
        "choices are rebuilt",
        "stops at ':'",
    ]
    (row,) = beside_published(run_, "zephyr-7b-beta")
    # The card and the paper are up to 0.4 apart on the same model.
    assert (row.published, row.tolerance) == (62.03, pytest.approx(math.hypot(1.96, 0.4)))
    assert row.agrees


def test_ifevals_four_accuracies_are_published_for_three_models():
    found = {model: [one for one in scores if one.benchmark == "ifeval"] for model, scores in PUBLISHED.items()}
    assert {model for model, scores in found.items() if len(scores) == 4} == {
        "zephyr-7b-beta",
        "mistral-orpo-beta",
        "llama2-chat-70b",
    }
    assert found["zephyr-7b-beta"][1]._asdict()["metric"] == "prompt_level_loose_acc"


def test_a_small_models_scores_have_a_protocol_of_their_own():
    scores = {"acc_norm": {"score": 27.13, "standard_error": 1.3}, "score": {"score": 27.13, "standard_error": 1.3}}
    protocol = {"num_fewshot": 0, "chat_template": False, "system": None, "limit": None}
    run_ = Result("arc_challenge", "m", protocol, scores, [])
    (row,) = beside_published(run_, "smollm2-135m-instruct")
    assert (row.metric, row.published, row.agrees) == ("acc_norm", 27.73, True)
    weights, card = published_deviations(run_, "smollm2-135m-instruct")
    assert "a copy widened from a quantised file scores a little lower" in weights
    assert "lighteval" in card


def test_ifevals_one_number_on_a_card_is_the_mean_over_prompts_and_instructions():
    scores = {"prompt_level_strict_acc": {"score": 21.0, "standard_error": 1.0}}
    assert not beside_published(Result("ifeval", "m", {}, scores, []), "smollm2-135m-instruct")
    scores["inst_level_strict_acc"] = {"score": 31.0, "standard_error": 2.0}
    (row,) = beside_published(Result("ifeval", "m", {}, scores, []), "smollm2-135m-instruct")
    assert (row.run, row.published) == (26.0, 29.9)
    assert row.tolerance == pytest.approx(math.hypot(1.96 * 1.5, 0.4))


def test_published_tables_are_in_range():
    for scores in PUBLISHED.values():
        for one in scores:
            assert 0 < one.score <= (10 if one.benchmark == "mt_bench" else 100)


def test_a_radar_is_a_picture_with_every_name_in_it():
    picture = radar_svg("a < b", ["x", "y & z", "w"], {"one": [1.0, 10.0, 5.0], "two": [None, 2.0, 3.0]}, top=10.0)
    root = ET.fromstring(picture)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "x", "y & z", "w", "one", "two"} <= set(texts)
    # The first axis points up: a tenth of 210 above the middle.
    assert "320.0,299.0" in picture
    with pytest.raises(ValueError, match="3 axes"):
        radar_svg("t", ["x", "y"], {}, top=1.0)


def test_means_of_categories():
    found = category_means([run([1.0, 0.0, None, 1.0], categories=("x", "y"))])
    assert found == {"t": {"x": 1.0, "y": 0.5}}
    assert top_of("t", {"a": [0.4, None]}) == 1.0
    assert top_of("mt_bench", {"a": [0.4]}) == 10.0
    assert top_of("t", {"a": [55.0]}) == 100.0

"""Whole recipes and benchmarks from Python: the numbers are those of the command."""

import json

import pytest

import zephyr
from tests.command import zephyr as command
from tests.evaluation.harness.small_data import small_data


@pytest.mark.slow
def test_scores_are_those_of_the_command_to_the_last_digit(tiny_folder, tmp_path, capfd):
    small_data(tmp_path / "data")
    options = {"data": tmp_path / "data", "shots": 1, "offline": True, "output_dir": tmp_path}
    made = zephyr.evaluate(tiny_folder, ["winogrande", "gsm8k"], **options)
    words = ("--data", tmp_path / "data", "--shots", 1, "--out", tmp_path / "command", "--offline")
    said = command(capfd, "eval", tiny_folder, "--tasks", "winogrande,gsm8k", *words)
    assert said.code == 0, said.err
    told = json.loads((tmp_path / "command" / "evaluation.json").read_text())["tasks"]
    for name in ("winogrande", "gsm8k"):
        assert made.metrics[name] == told[name]["scores"]["score"]["score"]
    assert made.folder == tmp_path / "evaluate"
    # What is measured already is not measured again.
    assert zephyr.evaluate(tiny_folder, "winogrande", **options).metrics["winogrande"] == made.metrics["winogrande"]
    with pytest.raises(zephyr.ZephyrError, match="winogrand"):
        zephyr.evaluate(tiny_folder, "winogrand", **options)


@pytest.mark.slow
def test_a_judged_benchmark_takes_a_judge_by_word_or_mapping(tiny_folder, tmp_path):
    from tests.cli.judged_benches import write_mt_bench

    write_mt_bench(tmp_path / "data")
    options = {"data": tmp_path / "data", "offline": True, "max_new_tokens": 8, "limit": 2}
    by_word = zephyr.evaluate(tiny_folder, "mt_bench", judge="scripted", output_dir=tmp_path / "a", **options)
    by_mapping = zephyr.evaluate(
        tiny_folder, "mt_bench", judge={"name": "scripted"}, output_dir=tmp_path / "b", **options
    )
    assert by_word.metrics == by_mapping.metrics

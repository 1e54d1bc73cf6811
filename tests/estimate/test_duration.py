from dataclasses import replace

import pytest

from tests.estimate.workloads import DPO, with_max_length, with_train, workload
from zephyr.errors import RecipeError
from zephyr.estimate.devices import ACCELERATORS, device_named
from zephyr.estimate.duration import HOUR, Cluster, duration_of, measured_seconds
from zephyr.estimate.lines import comparison_lines, in_time, training_lines
from zephyr.estimate.model_shape import KNOWN_SHAPES
from zephyr.estimate.row_lengths import RowLengths, known_rows
from zephyr.estimate.workload import stage_flops

SIXTEEN = Cluster(ACCELERATORS["a100-80g"], 16)
BETA = with_train(replace(DPO, rows=replace(DPO.rows, held_out=2000)), eval_steps=100)


def test_arithmetic_is_operations_over_what_the_cluster_reaches():
    assert duration_of(BETA, SIXTEEN).arithmetic == stage_flops(BETA) / (16 * 312e12 * 0.4)
    assert duration_of(BETA, SIXTEEN._replace(num_devices=1)).traffic == 0


def test_traffic_of_a_141b_model_by_hand():
    shape = KNOWN_SHAPES["mistral-community/Mixtral-8x22B-v0.1"]
    rows = known_rows("argilla/distilabel-capybara-dpo-7k-binarized", "train")
    assert rows is not None
    orpo = workload(shape, rows.rows, num_train_epochs=3, precision="pure_bf16", activation_checkpointing=True)
    orpo = with_max_length(orpo, 2048)
    # Two bytes of every weight twice, four of its gradient once; 31 of 32 parts come from others at 450 GB/s x 0.7.
    a_step = 8 * 140_620_634_112 * 31 / 32 / (450e9 * 0.7)
    found = duration_of(orpo, Cluster(ACCELERATORS["h100-80g"], 32))
    assert found.traffic == pytest.approx(711 * a_step)
    assert found.least == found.traffic
    assert found.most == found.traffic + found.arithmetic


def test_the_published_hours_of_dpo_are_met_by_the_usual_way_of_computing():
    usual = duration_of(BETA, SIXTEEN, as_usual=True)
    assert 2 * HOUR < usual.least < usual.most < 4 * HOUR
    assert duration_of(BETA, SIXTEEN).least < usual.least


def test_lines_of_a_published_stage():
    lines = list(training_lines(BETA, SIXTEEN, recipe_name="zephyr-7b-beta"))
    assert any(line.startswith("published: 2 to 4 h on 16 a100-80g") for line in lines)
    assert lines[-1].startswith("fits: ")
    small = list(training_lines(BETA, Cluster(ACCELERATORS["l4-24g"], 2), recipe_name="mine"))
    assert not any("published" in line for line in small)
    assert small[-1].startswith("does not fit: ")


def test_measured_steps_by_hand():
    rows = RowLengths(80, 10, 5, 2, held_out=20)
    timed = workload(DPO.shape, rows, "dpo", train_batch_size=8, num_train_epochs=2, eval_steps=10)
    # 20 steps; 20 rows evaluated twice and the reference over all 100, a third of a step for 8 rows each; tokenizing.
    assert measured_seconds(timed, 6.0, 0.01) == pytest.approx(20 * 6 + 2 * 20 * 2 / 8 + 100 * 2 / 8 + 100 * 0.01)


def test_prediction_beside_actual():
    lines = list(comparison_lines({"sft": 130.0, "align": 50.0}, {"sft": 100.0}, 10))
    assert lines[1].split() == ["sft", "2", "min", "took", "2", "min", "+30%"]
    assert "took" not in lines[2]
    assert lines[3].split()[-1] == "+30%"  # of the stages that both know


@pytest.mark.parametrize(("seconds", "words"), [(3.14, "3.1 s"), (42, "42 s"), (600, "10 min"), (8640, "2.4 h")])
def test_times_as_one_reads_them(seconds, words):
    assert in_time(seconds) == words


def test_an_unknown_device_is_refused_with_a_suggestion():
    with pytest.raises(RecipeError, match="did you mean 'a100-80g'"):
        device_named("a100-80")

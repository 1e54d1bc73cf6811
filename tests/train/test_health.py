"""Health notes: silent on a sound run, plain words on a sick one, each said once."""

import math

import pytest

from zephyr.train.checks.health import (
    GENERATED_TOKENS,
    HealthMonitor,
    accuracy_at_chance,
    chosen_collapse,
    length_growth,
    over_epoching,
    saturated_margins,
)

# The card of Zephyr-7B-beta around its epoch boundaries; the columns are NAMES below.
BETA = [
    (100, 0.05, 0.6284, 0.6098, 0.7344, 0.2297, -253.8099),
    (400, 0.21, 0.5536, 0.4957, 0.7969, 1.5091, -254.4203),
    (1000, 0.52, 0.5205, 0.5262, 0.7188, 1.4793, -258.0276),
    (1700, 0.88, 0.5233, 0.5206, 0.7812, 1.6377, -258.8084),
    (1800, 0.93, 0.5593, 0.5231, 0.7969, 1.6492, -259.7433),
    (1900, 0.98, 0.4967, 0.5290, 0.8281, 1.4230, -259.5749),
    (2000, 1.03, 0.0921, 0.5368, 0.7812, 2.0239, -265.6111),
    (2100, 1.08, 0.0733, 0.5453, 0.7656, 2.3406, -265.2799),
    (2200, 1.14, 0.0972, 0.5571, 0.8125, 2.2908, -271.1505),
    (3000, 1.55, 0.0644, 0.5735, 0.8125, 2.4766, -271.5201),
    (3600, 1.86, 0.0755, 0.5836, 0.8125, 2.4753, -273.4872),
    (3700, 1.91, 0.0746, 0.5789, 0.8125, 2.5626, -273.5149),
    (3800, 1.96, 0.1348, 0.6015, 0.8281, 2.3769, -272.8936),
    (3900, 2.01, 0.0217, 0.6122, 0.8281, 2.5894, -277.5699),
    (4000, 2.07, 0.0219, 0.6522, 0.8281, 3.0274, -284.1248),
    (4100, 2.12, 0.0119, 0.6922, 0.7969, 3.1972, -289.0121),
    (5800, 2.99, 0.0054, 0.7520, 0.7812, 3.7911, -299.4038),
]
# Zephyr-7B-alpha: the first and last lines of its one epoch.
ALPHA = [
    (100, 0.05, 0.5602, 0.5589, 0.7188, 0.4809, -293.7161),
    (200, 0.10, 0.4852, 0.5136, 0.8125, 0.9684, -297.6181),
    (300, 0.15, 0.5212, 0.5168, 0.7812, 1.0074, -290.3699),
    (1700, 0.88, 0.5029, 0.4595, 0.7812, 1.3889, -297.1233),
    (1800, 0.93, 0.4965, 0.4613, 0.7812, 1.3518, -298.1203),
    (1900, 0.98, 0.4337, 0.4608, 0.7656, 1.3652, -297.1296),
]
NAMES = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "eval_rewards/accuracies",
    "eval_rewards/margins",
    "eval_logps/chosen",
)


def lines(rows):
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def column(name, values):
    return [{"step": 10.0 * n, "epoch": 0.01 * n, name: value} for n, value in enumerate(values)]


def test_published_one_epoch_run_is_healthy():
    monitor = HealthMonitor()
    assert [note for line in lines(ALPHA) for note in monitor.observe(line)] == []


def test_published_three_epoch_run_is_over_epoched_and_nothing_else():
    monitor = HealthMonitor()
    notes = [note for line in lines(BETA) for note in monitor.observe(line)]
    assert [(note.kind, note.step) for note in notes] == [("over_epoching", 2100)]
    assert notes[0].words.startswith(
        "examples are being recalled: as epoch 2 began, loss fell from 0.526 to 0.083 and eval_loss rose "
        "from 0.524 to 0.541; "
    )
    assert notes[0].words.endswith("set num_train_epochs to 1")


def test_second_boundary_shows_it_too():
    late = [line for line in lines(BETA) if line["epoch"] > 1.5]
    note = over_epoching(late)
    assert note is not None
    assert "as epoch 3 began, loss fell from 0.095 to 0.018" in note.words
    assert note.step == 4100


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line | {"eval_loss": 0.6 - 0.05 * line["epoch"]},  # recalled, yet better
        lambda line: line | {"loss": 0.6 - 0.1 * line["epoch"]},  # no break at the boundary
        lambda line: line | {"epoch": line["epoch"] / 3},  # the same fall within one epoch
        lambda line: line | {"loss": line["loss"] / 20},  # from little to less
        lambda line: {name: value for name, value in line.items() if name != "eval_loss"},
    ],
)
def test_over_epoching_needs_break_boundary_and_rise(spoil):
    assert over_epoching([spoil(line) for line in lines(BETA)]) is None


def test_over_epoching_is_seen_with_one_evaluation_an_epoch():
    train = [{"step": s, "epoch": s / 100, "loss": 0.5 if s <= 100 else 0.1} for s in range(10, 201, 10)]
    evaluated = [{"step": 100, "epoch": 1.0, "eval_loss": 0.5}, {"step": 200, "epoch": 2.0, "eval_loss": 0.6}]
    assert over_epoching([*train, evaluated[0]]) is None
    note = over_epoching([*train, *evaluated])
    assert note is not None
    assert note.step == 200


def test_chosen_collapse_by_evaluations():
    rows = [(10, -100.0, -100.0), (20, -130.0, -150.0), (30, -150.5, -300.0)]
    history = [
        {"step": step, "epoch": 0.1, "eval_logps/chosen": chosen, "eval_logps/rejected": rejected}
        for step, chosen, rejected in rows
    ]
    assert chosen_collapse(history[:2]) is None
    note = chosen_collapse(history)
    assert note is not None
    assert (note.kind, note.step) == ("chosen_collapse", 30)
    assert "eval_logps/chosen fell from -100.0 to -150.5 (rejected: -100.0 to -300.0)" in note.words


def test_chosen_collapse_by_training_lines_is_smoothed():
    steady = [-100.0 + 20 * (-1) ** n for n in range(12)]
    assert chosen_collapse(column("logps/chosen", steady)) is None
    assert chosen_collapse(column("logps/chosen", [*steady, -300.0])) is None  # one odd batch
    falling = chosen_collapse(column("logps/chosen", [*steady, *[-170.0] * 5]))
    assert falling is not None
    assert "logps/chosen fell from -96.0 to -170.0;" in falling.words


def test_half_of_next_to_nothing_is_no_collapse():
    assert chosen_collapse(column("eval_logps/chosen", [-0.1, -0.4])) is None
    assert chosen_collapse(column("eval_logps/chosen", [-0.5, -1.2])) is not None  # averages per token


@pytest.mark.parametrize(("tokens", "sick"), [([200, 290], False), ([200, 301], True), ([4, 9], False), ([200], False)])
def test_length_growth(tokens, sick):
    note = length_growth(column(GENERATED_TOKENS, tokens))
    assert (note is not None) is sick
    if note:
        assert "sampled generations went from 200 to 301 tokens on average" in note.words


def test_saturated_margins():
    def history(margin, accuracy, count=5):
        return [{"step": n, "rewards/margins": margin, "rewards/accuracies": accuracy} for n in range(count)]

    assert saturated_margins(history(4.9, 1.0)) is None
    assert saturated_margins(history(9.0, 0.97)) is None
    assert saturated_margins(history(9.0, 1.0, count=4)) is None
    note = saturated_margins(history(6.0, 1.0))
    assert note is not None
    assert "100% of the training pairs are ordered rightly, by 6.0 on average" in note.words
    assert "gradient is 0.2% of full strength" in note.words  # 1 / (1 + e^6) = 0.00247


def test_accuracy_at_chance_waits_for_the_warm_up():
    flat = [0.5 + 0.1 * (-1) ** n for n in range(20)]
    assert accuracy_at_chance(column("rewards/accuracies", flat[:19])) is None
    note = accuracy_at_chance(column("rewards/accuracies", flat))
    assert note is not None
    assert "rewards/accuracies was 0.50 on average over the last 10 lines" in note.words
    assert accuracy_at_chance(column("rewards/accuracies", [0.0] * 10 + [0.6] * 10)) is None


def test_accuracy_at_chance_in_evaluation_though_training_pairs_are_known():
    history = column("rewards/accuracies", [0.9] * 30)
    history += [{"step": step, "eval_rewards/accuracies": 0.5} for step in (0, 10, 20)]
    assert accuracy_at_chance(history) is None  # the one at step 0 does not count
    note = accuracy_at_chance([*history, {"step": 30, "eval_rewards/accuracies": 0.52}])
    assert note is not None
    assert note.words.startswith("pairs are ordered no better than by a coin: eval_rewards/accuracies was 0.51")


def test_a_note_is_said_once_also_after_a_resume():
    sick = column(GENERATED_TOKENS, [100, 200, 300, 400])
    monitor = HealthMonitor()
    said = [note.kind for line in sick for note in monitor.observe(line)]
    assert said == ["length_growth"]
    assert HealthMonitor(past=sick[:2]).observe(sick[2]) == []
    assert len(HealthMonitor(past=sick[:1]).observe(sick[1])) == 1


def test_broken_numbers_are_left_out():
    assert length_growth(column(GENERATED_TOKENS, [100, 120, math.nan, math.inf])) is None
    assert HealthMonitor().observe({"step": 1.0}) == []


def test_long_histories_are_not_read_at_every_line(monkeypatch):
    calls = []
    monkeypatch.setattr("zephyr.train.checks.health.HEALTH_CHECKS", (lambda history: calls.append(len(history)),))
    monitor = HealthMonitor()
    for step in range(10_000):
        monitor.observe({"step": step, "loss": 0.5})
    assert len(calls) < 800
    assert calls[-1] > 9_800
    monitor.observe({"step": 10_000, "eval_loss": 0.5})
    assert calls[-1] == 10_001

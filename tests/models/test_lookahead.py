"""Guessed tokens: greedy text stays what it is, in fewer steps; what is guessed is what followed before."""

import pytest
import torch

from tests.slowly import of_each_kind
from zephyr.models import packed_decoding
from zephyr.models.generation import generate
from zephyr.models.lookahead import MOST_GUESSED, NARROW_STEP, Lookup, step_width
from zephyr.models.samples import DrawRules, Sample
from zephyr.models.sampling import Stopping
from zephyr.models.tiny import TINY, tiny_model
from zephyr.recipe.teacher_section import SamplingSection

PROMPTS = [[5, 6, 7, 8, 9, 5, 6, 7], [9, 10, 11] * 4, [12], [13, 14], list(range(4, 60)), list(range(4, 50))]


def sample(prompt, written=(), most=100):
    made = Sample(prompt, DrawRules(SamplingSection(temperature=0, max_new_tokens=most)), None, seed=(0,))
    made.written += written
    return made


@pytest.mark.parametrize(
    ("prompt", "written", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3], [4, 5, 6, 1, 2, 3, 4]),  # and goes on behind its own end
        ([1, 2, 3, 4], [5], []),
        ([1, 2], [3], []),
        ([7, 7, 7], [7], [7] * 7),
        ([1, 2, 3, 4, 9, 1, 2, 3, 5], [1, 2, 3], [5, 1, 2, 3, 5, 1, 2]),  # of two places the later
    ],
)
def test_what_followed_before_is_guessed(prompt, written, expected):
    assert len(expected) in (0, MOST_GUESSED)
    assert Lookup(sample(prompt, written)).guess() == expected


def test_no_more_is_guessed_than_the_answer_has_room_for():
    one = sample([7, 7, 7, 7], most=4)
    lookup = Lookup(one)
    assert lookup.guess() == [7, 7, 7]  # and a fourth is drawn behind them
    one.written += [7, 7, 8]
    assert lookup.guess() == []
    one.written += [7]
    assert lookup.guess() == []


def test_steps_are_wide_where_more_tokens_cost_little():
    assert step_width(tiny_model("llama")) == NARROW_STEP


def written(model, settings, width, monkeypatch, prompts=PROMPTS):
    """Completions, and the steps that they took."""
    steps = []

    def noted(*args):
        steps.append(1)
        return compute(*args)

    compute = packed_decoding.PackedDecoder._compute
    monkeypatch.setattr(packed_decoding.PackedDecoder, "_compute", noted)
    monkeypatch.setattr(packed_decoding, "step_width", lambda _model: width)
    found = generate(model, prompts, settings, stop=Stopping({3}), num_samples=2)
    monkeypatch.undo()
    return found, len(steps)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", of_each_kind(name for name in TINY if not TINY[name].stateful))
def test_greedy_text_is_the_same_in_no_more_steps(name, window, monkeypatch):
    model = tiny_model(name, sliding_window=window, dtype=torch.float64 if TINY[name].float64 else torch.float32)
    greedy = SamplingSection(temperature=0, max_new_tokens=60)
    plain, num_plain = written(model, greedy, 0, monkeypatch)
    for width in (16, 256):
        found, num_steps = written(model, greedy, width, monkeypatch)
        assert [one.ids for one in found] == [one.ids for one in plain]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in plain], abs=1e-4)
        assert num_steps <= num_plain


def test_a_model_that_repeats_itself_takes_fewer_steps(monkeypatch):
    model, greedy = tiny_model("mistral", dtype=torch.float64), SamplingSection(temperature=0, max_new_tokens=120)
    (_, num_plain), (_, num_steps) = (written(model, greedy, width, monkeypatch, [[13, 14]]) for width in (0, 256))
    # It says one token over and over, eight of them a step.
    assert num_plain == 120
    assert num_steps < 30


def test_what_is_drawn_is_never_guessed(monkeypatch):
    model = tiny_model("llama")
    drawn = SamplingSection(temperature=0.5, top_k=0, top_p=1.0, max_new_tokens=40)
    plain, num_plain = written(model, drawn, 0, monkeypatch)
    found, num_steps = written(model, drawn, 256, monkeypatch)
    assert (found, num_steps) == (plain, num_plain)

"""Continuous batching: when a sample joins, with whom, and how others end changes nothing in what it says."""

import threading
from queue import SimpleQueue

import pytest
import torch

from zephyr.errors import ModelError
from zephyr.models.continuous import ClosedError, ContinuousWriter, QueueFullError
from zephyr.models.generation import generate
from zephyr.models.samples import DrawRules, Sample
from zephyr.models.sampling import Stopping
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection

SIZE = len(tiny_tokenizer())
STOPS = (2,)
GREEDY = SamplingSection(temperature=0, max_new_tokens=6)


class Heard:
    """A listener that keeps everything; `limit`: ends after so many tokens; `at`: called with each."""

    def __init__(self, limit=None, at=lambda ids: None):
        self.tokens, self.end, self.limit, self.at = [], SimpleQueue(), limit, at

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    def took(self, token):
        self.tokens.append(token)
        self.at(self.ids)
        return len(self.tokens) == self.limit

    def ended(self, reason, num_tokens):
        self.end.put((reason, num_tokens))

    def failed(self, error):
        self.end.put(error)


@pytest.fixture
def writer():
    made = []

    def make(family="mistral", **limits):
        model = tiny_model(family, vocab_size=SIZE)
        made.append(ContinuousWriter(model, STOPS, **limits))
        return made[-1], model

    yield make
    for one in made:
        one.close()


def prompts():
    numbers = torch.Generator().manual_seed(0)
    return [torch.randint(4, SIZE, (n,), generator=numbers).tolist() for n in (5, 1, 40, 3, 1, 20)]


def one(prompt=(5, 6, 7), rules=None, heard=None, seed=0, **options):
    heard = heard or Heard()
    return Sample(prompt, rules or DrawRules(GREEDY), heard, seed=(seed, 0), **options), heard


@pytest.mark.parametrize(
    ("family", "max_cache_tokens"), [("mistral", 120), ("gemma2", 120), ("gpt2", 65_536), ("mamba", 65_536)]
)
def test_a_sample_says_what_it_says_alone(family, max_cache_tokens, writer):
    # With a small cache samples wait in the middle and are computed again.
    written, model = writer(family, max_cache_tokens=max_cache_tokens)
    samplings = [
        SamplingSection(max_new_tokens=9 + i, temperature=(0, 0.8)[i % 2], top_k=0, top_p=0.9) for i in range(6)
    ]
    heard = []
    for number, (prompt, sampling) in enumerate(zip(prompts(), samplings, strict=True)):
        sample, listener = one(prompt, DrawRules(sampling), seed=number)
        written.submit([sample])
        heard.append(listener)
    ends = [listener.end.get(timeout=60) for listener in heard]
    written.close()
    for number, (prompt, sampling) in enumerate(zip(prompts(), samplings, strict=True)):
        (alone,) = generate(model, [prompt], sampling, seed=[number], stop=Stopping(STOPS))
        assert heard[number].ids == [token for token in alone.ids if token not in STOPS]
        assert ends[number] == (alone.finish_reason, len(alone.ids))


def test_the_model_is_given_back_as_it_was(writer):
    before = tiny_model("mistral", vocab_size=SIZE).config._attn_implementation
    written, model = writer()
    model.train()
    sample, heard = one()
    written.submit([sample])
    heard.end.get(timeout=60)
    written.close()
    assert model.config._attn_implementation == before


def test_log_probs_are_those_of_the_model_before_anything_is_done_to_its_logits(writer):
    written, model = writer()
    rules = DrawRules(GREEDY, frequency_penalty=2, logit_bias={9: 100.0}, num_top=3)
    sample, heard = one(rules=rules)
    written.submit([sample])
    heard.end.get(timeout=60)
    written.close()
    assert heard.ids == [9] * 6
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, *heard.ids]])).logits[0, 2:-1].log_softmax(-1)
    for place, token in enumerate(heard.tokens):
        best = logits[place].topk(3)
        assert token.logp == pytest.approx(float(logits[place, 9]), abs=1e-4)
        assert [pair[0] for pair in token.top] == best.indices.tolist()
        assert [pair[1] for pair in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_penalties_count_what_was_written_by_hand():
    sample, _ = one(rules=DrawRules(GREEDY, frequency_penalty=0.5, presence_penalty=0.25, logit_bias={1: 3, 0: -100}))
    sample.written = [4, 4, 4, 6]
    logits = torch.zeros(8)
    sample.adjust(logits)
    assert logits.tolist() == [-10_000.0, 3.0, 0.0, 0.0, -1.75, 0.0, -0.75, 0.0]


def test_a_listener_ends_its_sample(writer):
    written, _ = writer()
    sample, heard = one(heard=Heard(limit=2))
    written.submit([sample])
    assert heard.end.get(timeout=60) == ("stop", 2)


class Broken:
    """A grammar that fails at its second token."""

    def allow(self, logits):
        pass

    def advance(self, token):
        raise ZeroDivisionError


def test_an_error_of_one_sample_is_its_own(writer):
    written, _ = writer()

    def fails(ids):
        if len(ids) == 2:
            raise ZeroDivisionError

    bad, worse, (good, kept) = one(heard=Heard(at=fails)), one(grammar=Broken()), one()
    written.submit([bad[0], worse[0], good])
    assert isinstance(bad[1].end.get(timeout=60), ZeroDivisionError)
    assert isinstance(worse[1].end.get(timeout=60), ZeroDivisionError)
    assert kept.end.get(timeout=60) == ("length", 6)
    beyond, told = one(prompt=(5, SIZE + 99))
    written.submit([beyond])
    assert isinstance(told.end.get(timeout=60), IndexError)
    after, heard = one()
    written.submit([after])
    assert heard.end.get(timeout=60) == ("length", 6)
    assert heard.ids == kept.ids


def test_logits_that_are_no_numbers_end_the_sample(writer):
    written, model = writer()
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = torch.nan
    sample, heard = one()
    fine, told = one(prompt=(6, 7, 8))
    written.submit([sample, fine])
    assert isinstance(heard.end.get(timeout=60), ModelError)
    assert told.end.get(timeout=60)[0] in ("length", "stop")


def test_what_is_unwanted_leaves_and_makes_room(writer):
    written, _ = writer(max_rows=1)
    endless = DrawRules(SamplingSection(temperature=0, max_new_tokens=100_000), logit_bias={2: -100})
    begun = threading.Event()
    first, heard = one(rules=endless, heard=Heard(at=lambda ids: begun.set()))
    second, told = one()
    written.submit([first])
    written.submit([second])
    assert begun.wait(60)
    assert told.end.empty()
    first.is_unwanted = True
    assert told.end.get(timeout=60) == ("length", 6)
    assert heard.end.empty()


def test_the_queue_is_bounded_and_an_end_is_told(writer):
    written, _ = writer(max_rows=1, max_waiting=2)
    endless = DrawRules(SamplingSection(temperature=0, max_new_tokens=100_000), logit_bias={2: -100})
    begun = threading.Event()
    first, heard = one(rules=endless, heard=Heard(at=lambda ids: begun.set()))
    written.submit([first])
    assert begun.wait(60)
    waiting = [one(), one()]
    written.submit([sample for sample, _ in waiting])
    with pytest.raises(QueueFullError):
        written.submit([one()[0]])
    written.close()
    for listener in (heard, *(listener for _, listener in waiting)):
        assert isinstance(listener.end.get(timeout=60), ClosedError)
    assert not written.is_alive
    with pytest.raises(ClosedError):
        written.submit([one()[0]])

"""The class that lm-eval asks, against lm-eval's own class for transformers models: the same numbers."""

from types import SimpleNamespace

import pytest
import torch

from zephyr.errors import DataError, ModelError
from zephyr.evaluation.harness import language_model
from zephyr.evaluation.harness.finished import FinishedRequests
from zephyr.evaluation.harness.generated import StopTexts
from zephyr.evaluation.harness.language_model import ForestLM
from zephyr.models.generation import generate
from zephyr.models.loading import Loaded, save_model
from zephyr.models.tiny import MAX_POSITIONS, tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.thinking import whole_characters

SHOTS = "".join(f"Question: what is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(2, 7))
QUESTIONS = ["Question: what is 8 and 8?\nAnswer:", "Question: what is 9 and 9?\nAnswer:", "Another one "]
CHOICES = [" 16", " 18", " no idea at all", " 16 or so", " "]


def asked(*arguments: object) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def choice_requests() -> list[SimpleNamespace]:
    requests = [asked(SHOTS + question, choice) for question in QUESTIONS for choice in CHOICES]
    # A text without context, a request made twice, and one longer than the model.
    return [*requests, asked("", "nothing before it"), requests[3], asked("long " * MAX_POSITIONS, " end")]


def ours(name: str = "mistral", **options: object) -> ForestLM:
    return ForestLM(Loaded(tiny_model(name, vocab_size=384), tiny_tokenizer()), **options)


def theirs(name: str = "mistral"):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=tiny_model(name, vocab_size=384), tokenizer=tiny_tokenizer(), batch_size=4)


@pytest.fixture(scope="module")
def theirs_on_choices():
    return theirs().loglikelihood(choice_requests(), disable_tqdm=True)


@pytest.mark.parametrize("max_tokens", [1, 300, 100_000])
def test_loglikelihoods_are_those_of_the_field(max_tokens: int, theirs_on_choices) -> None:
    found = ours(max_tokens=max_tokens).loglikelihood(choice_requests())
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in theirs_on_choices], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in theirs_on_choices]


@pytest.mark.parametrize("name", ["gemma2", "mamba"])
def test_other_attention_and_states_give_the_same(name: str) -> None:
    requests = choice_requests()[:6]
    found, wanted = ours(name).loglikelihood(requests), theirs(name).loglikelihood(requests, disable_tqdm=True)
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in wanted], abs=2e-4)


def test_what_greedy_decoding_gives_is_called_greedy() -> None:
    model = ours()
    context = model.tok_encode(SHOTS)
    ids = list(generate(model.model, [context], SamplingSection(max_new_tokens=3, temperature=0))[0].ids)
    greedy = model._loglikelihood_tokens([(None, context, ids), (None, context, [*ids[:-1], ids[-1] + 1])])
    assert [is_greedy for _, is_greedy in greedy] == [True, False]


def test_whole_texts_are_scored_in_the_same_windows() -> None:
    requests = [asked("A short text."), asked(SHOTS * 40)]
    assert len(ours().tok_encode(SHOTS * 40)) > MAX_POSITIONS
    wanted = theirs().loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours().loglikelihood_rolling(requests) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("until", [[], [" "], ["e", "th"], ["\n\n"]])
def test_answers_are_those_of_the_field(until: list[str]) -> None:
    options = {"until": until, "do_sample": False, "temperature": 0.0, "max_gen_toks": 24}
    requests = [asked(SHOTS + question, dict(options)) for question in QUESTIONS]
    # This model knows nothing of UTF-8: halves of characters are kept by theirs alone.
    found = [whole_characters(text) for text in theirs().generate_until(requests, disable_tqdm=True)]
    assert ours().generate_until(requests) == found


def test_thinking_ends_nothing_and_is_no_answer() -> None:
    ending = StopTexts(Words(), ("Stop", "\n\n"))
    assert not ending.is_over(["<think>", "Stop"])
    assert ending.is_over(["<think>", "Stop", "</think>", "So", "Stop"])
    thought = "<think>\nStop\n\nhere\n</think>\n\n"
    assert ending.cut(f"{thought}So it is.\n\nStop") == f"{thought}So it is."
    assert StopTexts(Words(), ("Stop",), thinks_first=True).cut("Hm. Stop </think>Yes. Stop") == (
        "<think>\nHm. Stop\n</think>\n\nYes. "
    )


class Words:
    """A tokenizer whose ids are words."""

    def decode(self, ids, skip_special_tokens):
        return " ".join(ids)


def test_a_repeated_draw_is_another_draw_and_the_same_next_time() -> None:
    request = asked(SHOTS, {"until": [], "do_sample": True, "temperature": 2.0, "max_gen_toks": 16})
    first = ours().generate_until([request, request])
    assert first[0] != first[1]
    assert ours().generate_until([request, request]) == first


def test_finished_requests_are_not_asked_again(tmp_path, monkeypatch) -> None:
    kept = FinishedRequests(tmp_path / "requests.sqlite", of="model")
    requests = choice_requests()
    complete = ours().loglikelihood(requests)
    stopped = ours(finished=kept, max_tokens=300)
    calls = iter(range(1))
    plain = language_model.score_continuations

    def dies(scorer, batch):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return plain(scorer, batch)

    monkeypatch.setattr(language_model, "score_continuations", dies)
    with pytest.raises(KeyboardInterrupt):
        stopped.loglikelihood(requests)
    seen: list[int] = []

    def counts(scorer, batch):
        seen.append(len(batch))
        return plain(scorer, batch)

    monkeypatch.setattr(language_model, "score_continuations", counts)
    again = FinishedRequests(tmp_path / "requests.sqlite", of="model")
    found = ours(finished=again, max_tokens=300).loglikelihood(requests)
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in complete], abs=1e-4)
    distinct = len({request.args for request in requests})
    assert 0 < sum(seen) < distinct
    assert ours(finished=again).loglikelihood(requests) == found
    assert ours(finished=FinishedRequests(tmp_path / "requests.sqlite", of="another")).loglikelihood(requests[:2])
    assert sum(seen) == pytest.approx(sum(seen[:-1]) + 2)


def test_settings_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(DataError, match="unknown setting num_beams"):
        ours().generate_until([asked(SHOTS, {"until": [], "num_beams": 4})])


def test_an_answer_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ModelError, match=f"{MAX_POSITIONS} new tokens leave no room"):
        ours().generate_until([asked(SHOTS, {"until": [], "max_gen_toks": MAX_POSITIONS})])


def test_lm_eval_knows_the_model_by_its_name(tmp_path) -> None:
    from lm_eval.api.registry import get_model

    folder = tmp_path / "model"
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), folder)
    built = get_model("zephyr").create_from_arg_string(f"pretrained={folder}", {"batch_size": 1, "device": "cpu"})
    torch.testing.assert_close(
        torch.tensor(built.loglikelihood(choice_requests()[:2])),
        torch.tensor(ours().loglikelihood(choice_requests()[:2])),
    )

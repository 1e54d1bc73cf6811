"""The comparison itself, with transformers in llama.cpp's place; the real one is in test_gguf_export."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zephyr.data.tokenize.templates import jinja_of
from zephyr.deliver.gguf import proof
from zephyr.deliver.gguf.architectures import read_sizes
from zephyr.deliver.gguf.conversion import Loaded
from zephyr.deliver.gguf.file import Header
from zephyr.deliver.gguf.proof import log_probs, surprise
from zephyr.deliver.gguf.reference import ids_of, make_reference, render
from zephyr.deliver.gguf.vocabulary import read_vocabulary
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import Message


class Stand:
    """What is used of llama_cpp.Llama, by the model in transformers; `noise` moves its logits."""

    def __init__(self, loaded, template, noise=0.0):
        self.metadata = {"tokenizer.chat_template": template}
        self.loaded, self.noise, self.ids = loaded, noise, []

    def tokenize(self, text, add_bos=True, special=False):
        return ids_of(self.loaded.tokenizer, text.decode(), special=special, add=add_bos)

    def reset(self):
        self.ids = []

    def eval(self, tokens):
        self.ids += tokens
        with torch.no_grad():
            logits = self.loaded.model(input_ids=torch.tensor([self.ids])).logits[0].numpy()
        rng = np.random.default_rng(0)
        self.scores = logits + np.float32(self.noise) * rng.standard_normal(logits.shape, dtype=np.float32)

    def close(self):
        pass


@pytest.fixture(scope="module")
def loaded():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=True))
    return Loaded(tiny_model("llama", vocab_size=384), tokenizer)


@pytest.fixture(scope="module")
def reference(loaded):
    header = Header(
        name="tiny",
        sizes=read_sizes(loaded.model.config.to_dict(), "here"),
        vocabulary=read_vocabulary(loaded.tokenizer, 384, "here"),
        template=loaded.tokenizer.chat_template,
        sampling={},
    )
    return make_reference(loaded, header)


@pytest.fixture
def proven(loaded, reference, monkeypatch):
    def run(form="f16", **changes):
        stand = Stand(loaded, loaded.tokenizer.chat_template, changes.pop("noise", 0.0))
        for name, value in changes.items():
            setattr(stand, name, value)
        monkeypatch.setattr(proof, "open_llama", lambda path, length, **_: stand)
        formats = SimpleNamespace(Jinja2ChatFormatter=formatter_of(loaded.tokenizer))
        monkeypatch.setattr(proof, "load_llama_cpp", lambda: SimpleNamespace(llama_chat_format=formats))
        return proof.prove("a.gguf", form, reference, num_threads=1, extra_buffers=True)

    return run


def formatter_of(tokenizer):
    def make(*, template, eos_token, bos_token):
        assert (eos_token, bos_token) == ("</s>", "<s>")

        def render_with(*, messages):
            text = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            )
            return SimpleNamespace(prompt=text)

        return render_with

    return make


def test_the_same_model_is_proven(proven, reference):
    done = proven()
    assert done.failures == ()
    assert (done.templates, done.greedy_equal, done.greedy_compared) == (4, 4, 4)
    assert done.max_logit_error < 1e-4
    assert done.same_best_token == 1
    assert done.perplexity == pytest.approx(reference.perplexity, rel=1e-5)
    assert abs(done.divergence) < 1e-6


def test_the_same_noise_fails_float16_and_passes_four_bits(proven):
    exact, rough = proven("f16", noise=0.2), proven("q4_k_m", noise=0.2)
    assert any("logits are off by 0.1" in failure for failure in exact.failures)
    assert rough.failures == ()
    assert 0.1 < rough.mean_logit_error < 0.2
    assert rough.perplexity_change > 0
    assert rough.divergence > 0


def test_too_much_noise_fails_four_bits_too(proven):
    (failure,) = proven("q4_k_m", noise=3.0).failures
    assert failure.startswith("perplexity goes from ")
    assert failure.endswith("by more than the 25.0% that q4_k_m may move it, and than noise")


def test_the_noise_of_a_change_of_perplexity_is_by_hand():
    model, file = np.array([1.0, 2.0, 3.0, 2.0]), np.array([1.1, 2.1, 3.3, 2.1])
    # The differences are 0.1, 0.1, 0.3 and 0.1: mean 0.15, standard error 0.05.
    found = proof.perplexity_between(model, file)
    assert found == pytest.approx((np.exp(2.15), np.exp(0.15) - 1, 1.96 * 0.05 * np.exp(0.15)))
    assert proof.perplexity_between(model, model).noise == 0


def test_logits_that_are_no_numbers_fail(proven):
    assert "its logits are not finite" in proven("q8_0", noise=float("nan")).failures


def test_other_ids_are_shown_with_the_text(proven, loaded):
    def tokenize(text, add_bos=True, special=False):
        ids = ids_of(loaded.tokenizer, text.decode(), special=special, add=add_bos)
        return ids if text != b"<s>\n" else [*ids, 7]

    wanted = ids_of(loaded.tokenizer, "<s>\n")
    assert proven(tokenize=tokenize).failures == (f"'<s>\\n' becomes {[*wanted, 7]} instead of {wanted}",)


def test_another_template_fails_though_it_is_rendered(proven, loaded):
    done = proven(metadata={"tokenizer.chat_template": jinja_of(ChatTemplateSection(name="zephyr"))})
    assert done.failures[0] == "the chat template in the file is another one"
    assert done.failures[1].startswith("the template renders '<|user|>")
    assert "instead of '<s><|user|>" in done.failures[1]


def test_a_template_that_refuses_a_conversation_makes_none(loaded):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert render(tokenizer, (Message("user", "Hi"),)) == ""


def test_surprise_is_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1, 1, 1]], np.float32))
    assert np.exp(log_probs(logits))[2] == pytest.approx([1 / 3] * 3)
    assert np.exp(-surprise(logits, [2, 1, 1], 1)) == pytest.approx([0.25, 0.8])


def test_another_greedy_answer_fails_however_large_the_error(proven):
    assert "4 of 4 greedy continuations are not the model's" in proven("f16", noise=20.0).failures

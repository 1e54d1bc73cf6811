"""Whether a GGUF file equals the model: template to the byte, ids, greedy continuations, logits, perplexity.

This runs in a process of its own, without torch and transformers: what the model says comes with the Reference.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zephyr.deliver.gguf.libraries import OpenedLlama, Scores, load_llama_cpp, open_llama
from zephyr.intervals import ROUNDED_NORMAL_95

EXACT = "f16"
# Largest relative change of perplexity on the model's own answers: beyond it and the noise of so few tokens, more than
# rounding is wrong.
MOST_CHANGE = {EXACT: 0.005, "q8_0": 0.02, "q6_k": 0.05, "q5_k_m": 0.1, "q4_k_m": 0.25}
# Largest mean error of a logit in float16, as a share of the logits' standard deviation; tokens whose logits are no
# further apart than that are tied.
MOST_EXACT_ERROR = 0.01
_SHOWN_IDS = 12


class RenderedChat(NamedTuple):
    """A conversation, its messages as templates take them, and the text that the model's template makes of it."""

    messages: tuple[dict[str, str], ...]
    text: str


class TextIds(NamedTuple):
    """A text for llama.cpp and its ids in transformers.

    `special`: the texts of control tokens in it become those; `add`: what the tokenizer adds, as bos, is added.
    """

    text: str
    ids: list[int]
    special: bool = True
    add: bool = False


@dataclass(frozen=True)
class Reference:
    """What a file must reproduce. `sequences` are prompts with the model's answers: `greedy` first, then sampled."""

    template: str  # empty for a model without one, as is `rendered`
    bos: str
    eos: str
    rendered: tuple[RenderedChat, ...]
    tokenized: tuple[TextIds, ...]
    prompts: tuple[list[int], ...]
    greedy: tuple[list[int], ...]
    sequences: tuple[list[int], ...]
    logits: tuple[Scores, ...]  # (n, V) of every sequence
    perplexity: float = 0.0  # of what was drawn


@dataclass(frozen=True)
class Proof:
    """What was compared, and `failures` in words; the file is proven if there are none."""

    templates: int  # rendered conversations, all equal to the byte unless a failure says otherwise
    texts: int  # texts whose ids were compared, likewise
    greedy_equal: int  # continuations that are the same to the last token
    greedy_ties: int  # those that part where two tokens are equally likely but for rounding
    greedy_compared: int
    max_logit_error: float
    mean_logit_error: float
    logit_deviation: float  # the standard deviation of the model's own logits, to compare with
    same_best_token: float  # share of all places
    divergence: float  # Kullback-Leibler, of the file from the model, in nats a token
    perplexity_of_model: float  # on what it draws itself at temperature 1
    perplexity: float
    perplexity_change: float  # share
    perplexity_noise: float  # half the width of the 95 % interval of that change
    failures: tuple[str, ...]

    def to_fields(self) -> dict[str, object]:
        """The proof as JSON."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


class Differences(NamedTuple):
    """How much was compared, and the differences in words."""

    compared: int
    found: list[str]


class GreedyDivergence(NamedTuple):
    """Where a continuation diverges from the model's: the sequence, the place in it, and the file's token."""

    sequence: int
    place: int
    token: int


class Places(NamedTuple):
    """The logits of a file beside the model's: numbers for every place of a sequence, each (n,)."""

    mean_error: Scores
    max_error: Scores
    mean: Scores  # of the model's logits
    mean_square: Scores
    divergence: Scores
    same_best: Scores


def prove(path: Path, form: str, reference: Reference, *, num_threads: int, extra_buffers: bool) -> Proof:
    """The proof of a file of format `form`. Raises ValueError where llama.cpp cannot load it."""
    longest = max(map(len, reference.sequences)) + 1
    with closing(open_llama(path, longest, num_threads=num_threads, extra_buffers=extra_buffers)) as opened:
        templates = template_faults(opened, reference)
        texts = id_faults(opened, reference)
        places, losses, wanted_losses = [], [], []
        for index, (ids, wanted) in enumerate(zip(reference.sequences, reference.logits, strict=True)):
            got = _logits(opened, ids)
            places.append(_compared(got, wanted))
            if (drawn := index - len(reference.greedy)) >= 0:
                start = len(reference.prompts[drawn])
                losses.append(surprise(got, ids, start))
                wanted_losses.append(surprise(wanted, ids, start))
        diverged_at = list(_divergences(opened, reference))
    perplexity = perplexity_between(np.concatenate(wanted_losses), np.concatenate(losses))
    joined = Places(*(np.concatenate(values) for values in zip(*places, strict=True)))
    return _judged(form, reference, joined, perplexity, diverged_at, (templates, texts))


class PerplexityChange(NamedTuple):
    """The perplexity of a file, its change from the model's as a share, and half the width of that one's interval."""

    file: float
    change: float
    noise: float


def perplexity_between(of_model: Scores, of_file: Scores) -> PerplexityChange:
    """The perplexity of a file beside the model's, from both losses on the same tokens, each (n,)."""
    more = of_file - of_model
    error = float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else 0.0
    change = float(np.exp(more.mean()))
    return PerplexityChange(float(np.exp(of_file.mean())), change - 1, ROUNDED_NORMAL_95 * error * change)


def template_faults(opened: OpenedLlama, reference: Reference) -> Differences:
    """Differences of the chat template in the file, and of its rendering by llama-cpp-python."""
    found = []
    stored = opened.metadata.get("tokenizer.chat_template", "")
    if stored != reference.template:
        found.append("the chat template in the file is another one")
    if not reference.rendered:
        return Differences(0, found)
    formatter = load_llama_cpp().llama_chat_format.Jinja2ChatFormatter(
        template=stored, eos_token=reference.eos, bos_token=reference.bos
    )
    for messages, wanted in reference.rendered:
        rendered = formatter(messages=list(messages)).prompt
        if rendered.encode() != wanted.encode():
            found.append(f"the template renders {rendered!r} instead of {wanted!r}")
    return Differences(len(reference.rendered), found)


def id_faults(opened: OpenedLlama, reference: Reference) -> Differences:
    """Differences in tokenization."""
    found = []
    for text, wanted, special, add in reference.tokenized:
        got = opened.tokenize(text.encode(), add_bos=add, special=special)
        if got != wanted:
            found.append(f"{text[:60]!r} becomes {_shown(got, wanted)} instead of {_shown(wanted, got)}")
    return Differences(len(reference.tokenized), found)


def surprise(logits: Scores, ids: Sequence[int], start: int) -> Scores:
    """The negative log-probabilities of `ids` from `start` on, whose `logits` (n, V) stand one place before."""
    before, wanted = logits[start - 1 : len(ids) - 1], np.asarray(ids[start:])
    losses: Scores = -log_probs(before)[np.arange(len(wanted)), wanted]
    return losses


def log_probs(logits: Scores) -> Scores:
    """The log-softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _divergences(opened: OpenedLlama, reference: Reference) -> Iterator[GreedyDivergence | None]:
    """Where each greedy continuation of the file, decoded token by token, diverges; None where it does not."""
    for sequence, (prompt, said) in enumerate(zip(reference.prompts, reference.greedy, strict=True)):
        opened.reset()
        opened.eval(prompt)
        divergence = None
        for place, token in enumerate(said, start=len(prompt)):
            best = int(opened.scores[place - 1].argmax())
            if best != token:
                divergence = GreedyDivergence(sequence, place, best)
                break
            if place + 1 < len(prompt) + len(said):
                opened.eval([token])
        yield divergence


def _logits(opened: OpenedLlama, ids: Sequence[int]) -> Scores:
    opened.reset()
    opened.eval(ids)
    return opened.scores[: len(ids)]


def _compared(got: Scores, wanted: Scores) -> Places:
    # One sequence at a time: with a vocabulary of 262,144 all of them together are gigabytes.
    errors = np.abs(got - wanted)
    sure = log_probs(wanted)
    return Places(
        mean_error=errors.mean(axis=-1),
        max_error=errors.max(axis=-1),
        mean=wanted.mean(axis=-1),
        mean_square=np.square(wanted).mean(axis=-1),
        divergence=(np.exp(sure) * (sure - log_probs(got))).sum(axis=-1),
        same_best=(wanted.argmax(axis=-1) == got.argmax(axis=-1)).astype(np.float32),
    )


def _judged(
    form: str,
    reference: Reference,
    places: Places,
    perplexity: PerplexityChange,
    diverged_at: Sequence[GreedyDivergence | None],
    compared: tuple[Differences, Differences],
) -> Proof:
    deviation = float(np.sqrt(places.mean_square.mean(dtype=np.float64) - places.mean.mean(dtype=np.float64) ** 2))
    parted = [divergence for divergence in diverged_at if divergence is not None]
    ties = [divergence for divergence in parted if _gap(reference, divergence) <= MOST_EXACT_ERROR * deviation]
    templates, texts = compared
    proof = Proof(
        templates=templates.compared,
        texts=texts.compared,
        greedy_equal=len(diverged_at) - len(parted),
        greedy_ties=len(ties),
        greedy_compared=len(diverged_at),
        max_logit_error=float(places.max_error.max()),
        mean_logit_error=float(places.mean_error.mean()),
        logit_deviation=deviation,
        same_best_token=float(places.same_best.mean()),
        divergence=float(places.divergence.mean()),
        perplexity_of_model=reference.perplexity,
        perplexity=perplexity.file,
        perplexity_change=perplexity.change,
        perplexity_noise=perplexity.noise,
        failures=(*templates.found, *texts.found),
    )
    return replace(proof, failures=(*proof.failures, *_numeric_failures(form, proof)))


def _numeric_failures(form: str, proof: Proof) -> Iterator[str]:
    if not np.isfinite([proof.max_logit_error, proof.perplexity]).all():
        yield "its logits are not finite"
        return
    if abs(proof.perplexity_change) - proof.perplexity_noise > MOST_CHANGE[form]:
        yield (
            f"perplexity goes from {proof.perplexity_of_model:.4g} to {proof.perplexity:.4g}, "
            f"by more than the {MOST_CHANGE[form]:.1%} that {form} may move it, and than noise"
        )
    if form != EXACT:
        return
    lost = proof.greedy_compared - proof.greedy_equal - proof.greedy_ties
    if lost:
        yield f"{lost} of {proof.greedy_compared} greedy continuations are not the model's"
    if proof.mean_logit_error > MOST_EXACT_ERROR * proof.logit_deviation:
        yield (
            f"logits are off by {proof.mean_logit_error:.3g} on average, "
            f"where the model's own vary by {proof.logit_deviation:.3g}"
        )


def _gap(reference: Reference, divergence: GreedyDivergence) -> float:
    """The difference of the model's logits between its own token and the file's, where they diverge."""
    own = reference.logits[divergence.sequence][divergence.place - 1]
    return float(own[reference.sequences[divergence.sequence][divergence.place]] - own[divergence.token])


def _shown(ids: Sequence[int], others: Sequence[int]) -> str:
    """The ids from shortly before the first that differs."""
    shorter = min(len(ids), len(others))
    same = next((index for index in range(shorter) if ids[index] != others[index]), shorter)
    start = max(0, same - 2)
    shown = list(ids[start : start + _SHOWN_IDS])
    return f"{'...' * (start > 0)}{shown}{'...' * (len(ids) > start + _SHOWN_IDS)}"

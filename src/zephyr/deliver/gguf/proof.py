"""Whether a GGUF file equals the model: template to the byte, ids, greedy continuations, logits, perplexity."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zephyr.deliver.gguf.file import Header
from zephyr.deliver.gguf.libraries import OpenedLlama, Scores, load_llama_cpp, open_llama
from zephyr.deliver.gguf.reference import PROBE_TEXTS, Reference, ids_of, log_probs, surprise
from zephyr.models.tokenizers import Tokenizer

EXACT = "f16"
# Largest relative change of perplexity on the model's own answers: beyond it, more than rounding is wrong.
MOST_CHANGE = {EXACT: 0.005, "q8_0": 0.02, "q6_k": 0.05, "q5_k_m": 0.1, "q4_k_m": 0.25}
# Largest mean error of a logit in float16, as a share of the logits' standard deviation; tokens whose logits are no
# further apart than that are tied.
MOST_EXACT_ERROR = 0.01
_SHOWN_IDS = 12


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


def prove(
    path: Path, form: str, header: Header, reference: Reference, tokenizer: Tokenizer, *, num_threads: int
) -> Proof:
    """The proof of a file of format `form`."""
    longest = max(map(len, reference.sequences)) + 1
    with closing(open_llama(path, longest, num_threads=num_threads)) as opened:
        templates = template_faults(opened, header, reference)
        texts = id_faults(opened, header, reference, tokenizer)
        logits = [_logits(opened, ids) for ids in reference.sequences]
        diverged_at = list(_divergences(opened, reference))
    return _judged(form, reference, logits, diverged_at, templates, texts)


def template_faults(opened: OpenedLlama, header: Header, reference: Reference) -> Differences:
    """Differences of the chat template in the file, and of its rendering by llama-cpp-python."""
    found = []
    stored = opened.metadata.get("tokenizer.chat_template", "")
    if stored != header.template:
        found.append("the chat template in the file is another one")
    if not reference.rendered:
        return Differences(0, found)
    tokens, specials = header.vocabulary.tokens, header.vocabulary.specials
    eos, bos = (tokens[token] if (token := specials.get(end)) is not None else "" for end in ("eos", "bos"))
    formatter = load_llama_cpp().llama_chat_format.Jinja2ChatFormatter(template=stored, eos_token=eos, bos_token=bos)
    for conversation, text in reference.rendered:
        rendered = formatter(messages=[{"role": one.role, "content": one.content} for one in conversation]).prompt
        wanted = " " * header.leading_space + text
        if rendered.encode() != wanted.encode():
            found.append(f"the template renders {rendered!r} instead of {wanted!r}")
    return Differences(len(reference.rendered), found)


def id_faults(opened: OpenedLlama, header: Header, reference: Reference, tokenizer: Tokenizer) -> Differences:
    """Differences in tokenization: rendered conversations, texts after a control token, at the start, and verbatim."""
    control = str(tokenizer.bos_token or tokenizer.eos_token)
    specials = [str(token) for token in tokenizer.all_special_tokens]
    texts = [*PROBE_TEXTS, *(f"say {token} now{token}" for token in specials)]
    compared, found = 0, []

    def compare(text: str, wanted: list[int], *, special: bool = True, add: bool = False) -> None:
        nonlocal compared
        compared += 1
        got = opened.tokenize(text.encode(), add_bos=add, special=special)
        if got != wanted:
            found.append(f"{text[:60]!r} becomes {_shown(got, wanted)} instead of {_shown(wanted, got)}")

    for prompt in reference.prompts:
        compare(" " * header.leading_space + prompt.text, prompt.ids)
    for text in texts:
        # What the tokenizer puts before a text, llama.cpp may have to be given.
        begun = " " + text if header.vocabulary.leading_space and not text.startswith(" ") else text
        compare(control + text, ids_of(tokenizer, control + text))
        compare(begun, ids_of(tokenizer, text, add=True), add=True)
        compare(begun, ids_of(tokenizer, text, special=False), special=False)
    return Differences(compared, found)


def _divergences(opened: OpenedLlama, reference: Reference) -> Iterator[GreedyDivergence | None]:
    """Where each greedy continuation of the file, decoded token by token, diverges; None where it does not."""
    for sequence, (prompt, said) in enumerate(zip(reference.prompts, reference.greedy, strict=True)):
        opened.reset()
        opened.eval(prompt.ids)
        divergence = None
        for place, token in enumerate(said, start=len(prompt.ids)):
            best = int(opened.scores[place - 1].argmax())
            if best != token:
                divergence = GreedyDivergence(sequence, place, best)
                break
            if place + 1 < len(prompt.ids) + len(said):
                opened.eval([token])
        yield divergence


def _logits(opened: OpenedLlama, ids: Sequence[int]) -> Scores:
    opened.reset()
    opened.eval(ids)
    return opened.scores[: len(ids)].copy()


def _judged(
    form: str,
    reference: Reference,
    logits: Sequence[Scores],
    diverged_at: Sequence[GreedyDivergence | None],
    templates: Differences,
    texts: Differences,
) -> Proof:
    errors = np.concatenate([np.abs(got - wanted) for got, wanted in zip(logits, reference.logits, strict=True)])
    wanted, got = np.concatenate(reference.logits), np.concatenate(logits)
    deviation = float(wanted.std())
    divergences = (np.exp(log_probs(wanted)) * (log_probs(wanted) - log_probs(got))).sum(axis=-1)
    drawn = zip(logits[len(reference.greedy) :], reference.drawn, strict=True)
    losses = np.concatenate([surprise(scores, ids, start) for scores, (ids, _, start) in drawn])
    perplexity = float(np.exp(losses.mean()))
    parted = [divergence for divergence in diverged_at if divergence is not None]
    ties = [divergence for divergence in parted if _gap(reference, divergence) <= MOST_EXACT_ERROR * deviation]
    proof = Proof(
        templates=templates.compared,
        texts=texts.compared,
        greedy_equal=len(diverged_at) - len(parted),
        greedy_ties=len(ties),
        greedy_compared=len(diverged_at),
        max_logit_error=float(errors.max()),
        mean_logit_error=float(errors.mean()),
        logit_deviation=deviation,
        same_best_token=float((wanted.argmax(axis=-1) == got.argmax(axis=-1)).mean()),
        divergence=float(divergences.mean()),
        perplexity_of_model=reference.perplexity,
        perplexity=perplexity,
        perplexity_change=perplexity / reference.perplexity - 1,
        failures=(*templates.found, *texts.found),
    )
    return replace(proof, failures=(*proof.failures, *_numeric_failures(form, proof)))


def _numeric_failures(form: str, proof: Proof) -> Iterator[str]:
    if not np.isfinite([proof.max_logit_error, proof.perplexity]).all():
        yield "its logits are not finite"
        return
    if abs(proof.perplexity_change) > MOST_CHANGE[form]:
        yield (
            f"perplexity goes from {proof.perplexity_of_model:.4g} to {proof.perplexity:.4g}, "
            f"by more than the {MOST_CHANGE[form]:.1%} that {form} may move it"
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

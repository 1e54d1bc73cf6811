"""What training learns from: tokenised dialogues and comparisons, and the checks that name a broken one.

Templates, truncation and tokenising happen before; laying an example out as scored sequences is the
objectives' part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.errors import DataError
from zephyr.trees.forest import Ids

LISTED_PROBLEMS = 5


def check_examples(examples: Sequence[Example]) -> None:
    """Check that all examples can be trained on. Raises DataError naming the bad ones."""
    faulty = [(example.name, "; ".join(faults)) for example in examples if (faults := list(_faults(example)))]
    if not faulty:
        return
    listed = ", and ".join(f"{name}: {faults}" for name, faults in faulty[:LISTED_PROBLEMS])
    more = f", and {len(faulty) - LISTED_PROBLEMS} more" if len(faulty) > LISTED_PROBLEMS else ""
    where = f"{len(faulty)} of {len(examples)} training examples"
    raise DataError(where, listed + more, "repair or remove these rows")


def expect_dialogue(example: Example, objective: str) -> Dialogue:
    """The example as a dialogue. Raises TypeError if it is a comparison, which ``objective`` cannot use."""
    if not isinstance(example, Dialogue):
        raise TypeError(f"{example.name}: objective {objective} learns from dialogues, got a comparison")
    return example


def expect_comparison(example: Example, objective: str, fewest: int, most: int | None) -> Comparison:
    """The comparison, of ``fewest`` to ``most`` completions, or more. Raises DataError naming one of another number."""
    if not isinstance(example, Comparison):
        raise TypeError(f"{example.name}: objective {objective} learns from comparisons, got a dialogue")
    number = len(example.completions)
    if number < fewest or (most is not None and number > most):
        needed = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise DataError(
            example.name,
            f"objective {objective} needs {needed} completions a prompt, got {len(example.completions)}",
            "choose the objective that fits this data, or rebuild the data for it",
        )
    return example


def with_mismatched_completions(examples: Sequence[Comparison]) -> list[Comparison]:
    """The one-completion examples, each with a second completion that answers another prompt, rated 0.

    It is the completion of the next example with a different prompt, cyclically; KTO estimates its KL term on
    these. Pairing once, before training, keeps the reference's log-probs reusable over epochs. TRL shifts by
    one row, whatever its prompt, which pairs a prompt with itself where its completions stand next to each
    other. Raises DataError for examples that all have one prompt.
    Source: KTO, arXiv 2402.01306, section 4.
    """
    num = len(examples)
    prompts = [example.prompt.tobytes() for example in examples]
    if len(set(prompts)) < 2:
        raise DataError(
            examples[0].name if examples else "training examples",
            f"KTO's KL estimate needs at least two different prompts, got {len(set(prompts))}",
            "add examples with other prompts",
        )
    # Backwards over two rounds: whoever has the same prompt as its successor borrows the successor's partner.
    partner = [0] * num
    for index in reversed(range(2 * num)):
        here, following = index % num, (index + 1) % num
        partner[here] = following if prompts[here] != prompts[following] else partner[following]
    return [_with_second(example, examples[partner[index]]) for index, example in enumerate(examples)]


def _with_second(example: Comparison, other: Comparison) -> Comparison:
    completions = (*expect_comparison(example, "kto", 1, 1).completions, other.completions[0])
    return example._replace(completions=completions, ratings=(*example.ratings, 0.0))


def _faults(example: Example) -> Iterator[str]:
    """Every reason why the example cannot be trained on."""
    if isinstance(example, Dialogue):
        yield from _id_faults("ids", example.ids)
        if example.scored.shape != example.ids.shape or example.scored.dtype != np.bool_:
            yield f"scored must be one bool a token, got {example.scored.dtype} {example.scored.shape}"
        elif not example.scored.any():
            yield f"none of its {len(example.ids)} tokens is scored"
        elif example.scored[0]:
            yield "its first token is scored, but nothing precedes it"
        return
    yield from _id_faults("prompt", example.prompt)
    for number, completion in enumerate(example.completions):
        yield from _id_faults(f"completion {number}", completion)
    if not example.completions:
        yield "it has no completion"
    yield from _rating_faults(example)


def _id_faults(what: str, ids: Ids) -> Iterator[str]:
    if ids.ndim != 1 or ids.dtype != np.int64:
        yield f"{what} must be a vector of int64, got {ids.dtype} {ids.shape}"
    elif not len(ids):
        yield f"{what} is empty"
    elif ids.min() < 0:
        yield f"{what} holds the negative token id {ids.min()}"


def _rating_faults(example: Comparison) -> Iterator[str]:
    ratings = example.ratings
    if len(ratings) != len(example.completions):
        yield f"{len(example.completions)} completions need as many ratings, got {len(ratings)}"
    elif not np.isfinite(ratings).all():
        yield f"its ratings must be finite, got {ratings}"
    elif any(earlier < later for earlier, later in pairwise(ratings)):
        yield f"its completions must stand best first, got ratings {ratings}"

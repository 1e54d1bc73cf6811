"""A row as it is trained on, printed: its tokens, their roles, which are learned, and where completions branch.

Roles have colours, learned tokens are underlined, and tokens that truncation cuts are struck through; all three are
also written out, for terminals without colour and for readers who cannot distinguish the colours. Control characters
are escaped.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from zephyr.data.tokenize.plain_text import TextTokenizer
from zephyr.data.tokenize.truncation import FittedDialogue, FittedPreference, Loss
from zephyr.records.fields import printable
from zephyr.records.messages import ROLES

_BETWEEN = "│"
# By role; the last for -1, template text.
_NAMES = (*ROLES, "template")
_COLOURS = ("magenta", "cyan", "green", "yellow", "bright_black")
_CUT = "red strike"


class Rest(NamedTuple):
    """The rest of a completion below a node of the tree, the label at its end, and the tokens cut after it."""

    label: str
    ids: tuple[int, ...]
    cut: tuple[int, ...] = ()


def show_dialogue(console: Console, tokenizer: TextTokenizer, name: str, fitted: FittedDialogue) -> None:
    """Print the dialogue as it is stored, one line for each run of tokens of one role that are learned, or not.

    The lines before and after it are of tokens that are cut; of a row that is left out all are.
    """
    whole, stored = fitted.whole, fitted.encoded
    is_cut = np.ones(len(whole.ids), np.bool_)
    is_learned = np.zeros(len(whole.ids), np.bool_)
    if fitted.loss.usable:
        kept = slice(fitted.start, fitted.start + len(stored.ids))
        is_cut[kept], is_learned[kept] = False, stored.scored
    num_stored, num_learned = int((~is_cut).sum()), int(is_learned.sum())
    share = num_learned / max(1, num_stored)
    counts = f": {num_stored} tokens, {num_learned} learned ({share:.0%}, underlined)" if fitted.loss.usable else ""
    console.print(Text(f"{printable(name)}{counts}{_cut_in_words(fitted.loss)}", style="bold"))
    table = Table.grid(padding=(0, 1))
    texts = iter(token_texts(tokenizer, whole.ids.tolist()))
    marks = zip(whole.roles.tolist(), is_learned.tolist(), is_cut.tolist(), strict=True)
    for (role, learned, cut), run in groupby(marks):
        style = _CUT if cut else f"{_COLOURS[role]}{' underline' if learned else ''}"
        said = [text for _, text in zip(run, texts, strict=False)]
        mark = "cut" if cut else "learned" if learned else ""
        table.add_row(Text(_NAMES[role], style=_COLOURS[role]), mark, _line(said, style))
    console.print(table)


def show_preference(
    console: Console, tokenizer: TextTokenizer, name: str, fitted: FittedPreference, *, ratings: Sequence[float]
) -> None:
    """Print the row as the tree it is computed as: the prompt, and prefixes that completions share, once.

    Tokens that are cut stand before the prompt and after the completions; a row that is left out is shown whole.
    """
    console.print(Text(f"{printable(name)}{_cut_in_words(fitted.loss)}", style="bold"))
    prompt, cut_prompt = tuple(fitted.prompt.tolist()), fitted.cut_prompt.tolist()
    shown = token_texts(tokenizer, [*cut_prompt, *prompt])
    heading = _cut_line(shown[: len(cut_prompt)])
    heading.append_text(_line(shown[len(cut_prompt) :], _COLOURS[ROLES.index("user")]))
    root = Tree(heading, guide_style="bright_black")
    cut_ends = fitted.cut_ends or tuple(ids[:0] for ids in fitted.completions)
    paths = [
        Rest(f"completion {number}, rated {rating:g}, {len(ids)} tokens", tuple(ids.tolist()), tuple(cut.tolist()))
        for number, (ids, cut, rating) in enumerate(zip(fitted.completions, cut_ends, ratings, strict=True), 1)
    ]
    distinct = len(prompt) + _grow(root, tokenizer, paths, before=prompt[-1:])
    console.print(root)
    alone = sum(len(prompt) + len(path.ids) for path in paths)
    console.print(Text(f"{distinct} tokens as a tree, {alone} as {len(paths)} sequences", style="bright_black"))


def _cut_in_words(loss: Loss) -> str:
    """The tail of a row's heading: how many tokens are cut, or why the row is left out."""
    if loss.outcome == "whole":
        return ""
    if not loss.usable:
        return f" is left out ({loss.outcome}): {loss.reason}"
    return f", {loss.tokens_lost} of {loss.tokens} cut (struck through)"


def _cut_line(texts: Sequence[str]) -> Text:
    """Tokens that are cut, between marks for terminals without colour; empty for none."""
    line = Text()
    if texts:
        line.append("[cut: ", style="bright_black")
        line.append_text(_line(texts, _CUT))
        line.append("] ", style="bright_black")
    return line


def token_texts(tokenizer: TextTokenizer, ids: Sequence[int], *, before: Sequence[int] = ()) -> list[str]:
    """The text each token adds, safe to print; `before` holds the preceding token, if any."""
    texts = []
    previous = list(before)
    for token in ids:
        # Decoded alone, a SentencePiece token loses its leading space.
        alone, both = (_decode(tokenizer, some) for some in (previous, [*previous, token]))
        texts.append(visible_text(both.removeprefix(alone)))
        previous = [token]
    return texts


def visible_text(text: str) -> str:
    """The text on one line: line breaks and tabs as symbols, other control characters escaped."""
    return printable(text.replace("\n", "⏎").replace("\t", "⇥"))


def _grow(tree: Tree, tokenizer: TextTokenizer, paths: Sequence[Rest], *, before: tuple[int, ...]) -> int:
    """Add the paths to `tree`, a branch for each distinct first token; returns the number of tokens added."""
    grown = 0
    for path in (path for path in paths if not path.ids):
        end = tree.add(Text(path.label, style="bold"))
        if path.cut:
            end.add(_cut_line(token_texts(tokenizer, path.cut, before=before)))
    for branch in _branches([path for path in paths if path.ids]):
        shared = _common_prefix([path.ids for path in branch])
        texts = token_texts(tokenizer, shared, before=before)
        node = tree.add(_line(texts, _COLOURS[ROLES.index("assistant")]))
        rest = [path._replace(ids=path.ids[len(shared) :]) for path in branch]
        grown += len(shared) + _grow(node, tokenizer, rest, before=shared[-1:])
    return grown


def _branches(paths: Sequence[Rest]) -> Iterator[list[Rest]]:
    """The paths by their first token, in the order of their first appearance."""
    for first in dict.fromkeys(path.ids[0] for path in paths):
        yield [path for path in paths if path.ids[0] == first]


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    length = 0
    while len({ids[: length + 1] for ids in sequences}) == 1 and length < len(sequences[0]):
        length += 1
    return sequences[0][:length]


def _line(texts: Sequence[str], style: str) -> Text:
    line = Text()
    for text in texts:
        line.append(text, style=style)
        line.append(_BETWEEN, style="bright_black")
    return line


def _decode(tokenizer: TextTokenizer, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False)
    return text if isinstance(text, str) else "".join(text)

"""A row as it is trained on, printed: its tokens, their roles, which are learned, and where completions branch.

Roles have colours and learned tokens are underlined; both are also written out, for terminals without colour and for
readers who cannot distinguish the colours. Control characters are escaped.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from zephyr.data.tokenize.encoding import Encoded
from zephyr.data.tokenize.plain_text import TextTokenizer
from zephyr.data.tokenize.token_store import Comparison
from zephyr.records.fields import printable
from zephyr.records.messages import ROLES

_BETWEEN = "│"
# By role; the last for -1, template text.
_NAMES = (*ROLES, "template")
_COLOURS = ("magenta", "cyan", "green", "yellow", "bright_black")


class Rest(NamedTuple):
    """The rest of a completion below a node of the tree, and the label at its end."""

    label: str
    ids: tuple[int, ...]


def show_dialogue(console: Console, tokenizer: TextTokenizer, name: str, encoded: Encoded) -> None:
    """Print the dialogue, one line for each run of tokens of one role that are learned, or not."""
    num_learned = int(encoded.scored.sum())
    share = num_learned / max(1, len(encoded.ids))
    heading = f"{printable(name)}: {len(encoded.ids)} tokens, {num_learned} learned ({share:.0%}, underlined)"
    console.print(Text(heading, style="bold"))
    table = Table.grid(padding=(0, 1))
    texts = iter(token_texts(tokenizer, encoded.ids.tolist()))
    marks = zip(encoded.roles.tolist(), encoded.scored.tolist(), strict=True)
    for (role, learned), run in groupby(marks):
        style = f"{_COLOURS[role]}{' underline' if learned else ''}"
        said = [text for _, text in zip(run, texts, strict=False)]
        table.add_row(Text(_NAMES[role], style=_COLOURS[role]), "learned" if learned else "", _line(said, style))
    console.print(table)


def show_preference(console: Console, tokenizer: TextTokenizer, row: Comparison) -> None:
    """Print the row as the tree it is computed as: the prompt, and prefixes that completions share, once."""
    console.print(Text(printable(row.name), style="bold"))
    prompt = tuple(row.prompt.tolist())
    root = Tree(_line(token_texts(tokenizer, prompt), _COLOURS[ROLES.index("user")]), guide_style="bright_black")
    paths = [
        Rest(f"completion {number}, rated {rating:g}, {len(ids)} tokens", tuple(ids.tolist()))
        for number, (ids, rating) in enumerate(zip(row.completions, row.ratings, strict=True), 1)
    ]
    distinct = len(prompt) + _grow(root, tokenizer, paths, before=prompt[-1:])
    console.print(root)
    alone = sum(len(prompt) + len(path.ids) for path in paths)
    console.print(Text(f"{distinct} tokens as a tree, {alone} as {len(paths)} sequences", style="bright_black"))


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
        tree.add(Text(path.label, style="bold"))
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

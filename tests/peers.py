"""The tables of keys in docs/coming-from, from the importers' own tables: `python -m tests.peers` writes them anew."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from zephyr.recipe.handbook import keys
from zephyr.recipe.imports import axolotl, llama_factory
from zephyr.recipe.loading import read_recipe

TESTS = Path(__file__).parent
PAGES = TESTS.parent / "docs/coming-from"
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


class Peer(NamedTuple):
    """The keys of a trainer: what they are called here, what is refused, what is left out; and files that have them."""

    same: Mapping[str, str]
    refused: Mapping[str, tuple[str, str]]
    left_out: Mapping[str, str]
    files: str
    advice: Mapping[str, str]


_BATCH = dict.fromkeys(("gradient_accumulation_steps", "num_devices"), "a factor of `train.train_batch_size`")
PEERS = {
    "trl": Peer(
        {**keys.TRAIN_KEYS, **keys.OBJECTIVE_KEYS, **keys.LORA_KEYS},
        keys.ONLINE,
        keys.LEFT_OUT,
        "imports/trl*",
        keys.HABITS,
    ),
    "axolotl": Peer({**axolotl.TABLE, **axolotl.LORA}, axolotl.REFUSED, axolotl.UNNEEDED, "imports/axolotl*", _BATCH),
    "llama-factory": Peer(
        {**llama_factory.TABLE, **llama_factory.LORA},
        llama_factory.REFUSED,
        llama_factory.UNNEEDED,
        "imports/llama*",
        _BATCH,
    ),
    "alignment-handbook": Peer(
        {**keys.TRAIN_KEYS, **keys.OBJECTIVE_KEYS, **keys.LORA_KEYS}, {}, keys.LEFT_OUT, "handbook/*", _BATCH
    ),
}


def table(peer: Peer) -> str:
    """The rows of every key, in Markdown."""
    return "\n".join(_lines(peer))


def _lines(peer: Peer) -> Iterator[str]:
    found = {old: {f"`{_stage_free(new)}`"} for old, new in peer.same.items()}
    for old, new in _translated(peer.files):
        if old not in peer.same:
            found.setdefault(old, set()).add(f"`{_stage_free(new)}`")
    for old, advice in peer.advice.items():
        found.setdefault(old, {advice})
    yield "| there | here |"
    yield "|---|---|"
    for old in sorted(found):
        yield f"| `{old}` | {', '.join(sorted(found[old]))} |"
    if peer.refused:
        yield ""
        yield "Refused, since it changes what is learnt and there is no counterpart:"
        yield ""
        yield "| there | why | instead |"
        yield "|---|---|---|"
        for old in sorted(peer.refused):
            why, remedy = peer.refused[old]
            yield f"| `{old}` | {why} | {remedy} |"
    yield ""
    yield "Left out, with a note, because nothing needs it:"
    yield ""
    yield "| there | why |"
    yield "|---|---|"
    reasons: dict[str, list[str]] = {}
    for old, why in peer.left_out.items():
        reasons.setdefault(why, []).append(f"`{old}`")
    for why, names in sorted(reasons.items()):
        yield f"| {', '.join(sorted(names))} | {why} |"


def _stage_free(key: str) -> str:
    """The key below its stage: that of training, data and so on is the same for all."""
    return re.sub(r"^(pretrain|sft|reward|align)\.|^\.", "", key)


def _translated(pattern: str) -> Iterator[tuple[str, str]]:
    """The old and the new key of every line that the files' translations note."""
    for file in sorted((TESTS / "recipe").glob(f"{pattern}.yaml")):
        if "test_prefs" in file.read_text(encoding="utf-8") and "2025" in file.stem:
            continue  # it trains on test rows, and is refused
        for note in read_recipe(str(file)).notes:
            said = re.match(r"(\w+) -> ([\w.]+)(?:\s|$)", note)
            if said is not None and not said[2].startswith("all"):
                yield said[1], said[2]


def with_table(page: str, peer: Peer) -> str:
    """The page with the table of keys between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(peer)}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for name, peer in PEERS.items():
        page = PAGES / f"{name}.md"
        page.write_text(with_table(page.read_text(encoding="utf-8"), peer), encoding="utf-8")

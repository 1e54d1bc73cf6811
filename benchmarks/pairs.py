"""Real pairs as token ids: AlpacaEval's GPT-4 preferences, and long shared prompts out of dialogues.

The ids come from a byte-level BPE of at most 32,000 tokens learnt from the same texts, laid out as Zephyr's
chat template lays them out. Both sides of a benchmark get these ids, so neither tokenizes any text.
"""

import gzip
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from task import Pair
from tokenizers import ByteLevelBPETokenizer

VOCABULARY = 32_000
UNK, BOS, EOS = range(3)
# Texts the vocabulary is learnt from; how many pairs a run asks for never changes a pair's ids.
VOCABULARY_TEXTS = 12_000
# Both completions of a dialogue are cut here, about as a sampler with max_new_tokens=256 would leave them.
LONG_COMPLETION = 256


class TextPair(NamedTuple):
    """A prompt with the preferred and the other answer."""

    prompt: str
    chosen: str
    rejected: str


def shared_data() -> Path:
    """The folder with the public data sets: ZEPHYR_SHARED_DATA, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ZEPHYR_SHARED_DATA", beside))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; name the data folder in ZEPHYR_SHARED_DATA")
    return folder


def alpaca_eval(folder: Path) -> list[TextPair]:
    """Every strict GPT-4 preference between text_davinci_003 and another model, shuffled with seed 0."""
    answers = {path.name.removesuffix(".json.gz"): _outputs(path) for path in folder.glob("outputs/*.json.gz")}
    pairs = []
    for row in _jsonl(folder / "annotations.jsonl.gz"):
        if row["annotator_config"] != "alpaca_eval_gpt4" or row["preference"] not in (1.0, 2.0):
            continue
        prompt = row["instruction"]
        first, second = (answers.get(row[key], {}).get(prompt, "") for key in ("generator_1", "generator_2"))
        if first and second and first != second:
            chosen, rejected = (first, second) if row["preference"] == 1.0 else (second, first)
            pairs.append(TextPair(prompt, chosen, rejected))
    random.Random(0).shuffle(pairs)
    return pairs


def dialogues(folder: Path) -> list[TextPair]:
    """Dialogues up to the last user turn, their last answer, and another dialogue's as the rejected one."""
    texts = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in _jsonl(path):
            turns = [turn["value"].strip() for turn in row["conversations"]]
            if len(turns) % 2 == 0 and all(turns):
                texts.append((_context(turns[:-1]), turns[-1]))
    random.Random(0).shuffle(texts)
    following = texts[1:] + texts[:1]
    return [TextPair(prompt, answer, other) for (prompt, answer), (_, other) in zip(texts, following, strict=True)]


def alpaca_pairs(count: int, max_length: int, max_prompt: int) -> list[Pair]:
    """``count`` AlpacaEval pairs of different prompts; completions are cut where a sequence is too long."""
    texts = alpaca_eval(shared_data() / "pref" / "alpaca_eval")
    return _tokenized(texts, count, max_length, range(1, max_prompt + 1))


def long_pairs(count: int, max_length: int, *, context_tokens: int) -> list[Pair]:
    """``count`` pairs of answers that two models sampled to an AlpacaEval question, asked at the end of a dialogue.

    All that stands before the question are the last ``context_tokens`` tokens of a multi-turn dialogue.
    """
    asked = alpaca_pairs(count, max_length // 4, max_length // 8)
    return with_context(asked, dialogue_pairs(count, max_length), context_tokens)


def dialogue_pairs(count: int, max_length: int) -> list[Pair]:
    """``count`` pairs whose prompts are at least twice as long as a completion and leave room for both."""
    texts = dialogues(shared_data() / "sft" / "nemo_aligner")
    prompts = range(2 * LONG_COMPLETION, max_length - LONG_COMPLETION + 1)
    return [
        Pair(pair.prompt, _cut(pair.chosen, LONG_COMPLETION), _cut(pair.rejected, LONG_COMPLETION))
        for pair in _tokenized(texts, count, max_length, prompts)
    ]


def synthetic_pairs(count: int, max_length: int) -> list[Pair]:
    """``count`` pairs of random ids whose lengths are spread like AlpacaEval's (medians 37, 175 and 62)."""
    draw = random.Random(0)

    def ids(median: float, spread: float, longest: int) -> list[int]:
        length = min(max(round(draw.lognormvariate(math.log(median), spread)), 2), longest)
        return draw.choices(range(EOS + 1, VOCABULARY), k=length - 1)

    lengths = ((37, 0.6, max_length // 2 - 1), (175, 0.9, max_length // 2), (62, 1.1, max_length // 2))
    rows = [[ids(*length) for length in lengths] for _ in range(count)]
    return [Pair([BOS, *prompt], [*chosen, EOS], [*rejected, EOS]) for prompt, chosen, rejected in rows]


def synthetic_long_pairs(count: int, max_length: int) -> list[Pair]:
    """``count`` pairs of random ids whose prompts leave room for answers of a sixteenth of ``max_length`` alone."""
    draw, answer = random.Random(0), max_length // 16

    def ids(length: int) -> list[int]:
        return draw.choices(range(EOS + 1, VOCABULARY), k=length - 1)

    rows = [(ids(max_length - answer), ids(answer), ids(answer)) for _ in range(count)]
    return [Pair([BOS, *prompt], [*chosen, EOS], [*rejected, EOS]) for prompt, chosen, rejected in rows]


def with_context(pairs: list[Pair], context: list[Pair], num_tokens: int) -> list[Pair]:
    """The same pairs behind the last ``num_tokens`` tokens of a dialogue: a higher prompt share."""
    return [
        Pair(
            [BOS, *other.prompt[len(other.prompt) - num_tokens :], *pair.prompt[1:]],
            pair.chosen,
            pair.rejected,
        )
        for pair, other in zip(pairs, context, strict=True)
    ]


def _tokenized(texts: list[TextPair], count: int, max_length: int, prompt_lengths: range) -> list[Pair]:
    tokenizer = ByteLevelBPETokenizer()
    sample = (text for pair in texts[: VOCABULARY_TEXTS // 3] for text in pair)
    tokenizer.train_from_iterator(
        sample, vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    pairs, seen = [], set()
    for text in texts:
        pair = _pair(tokenizer, text, max_length)
        if text.prompt not in seen and len(pair.prompt) in prompt_lengths:
            seen.add(text.prompt)
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise SystemExit(f"--pairs {count}: the data holds {len(pairs)} such pairs of different prompts; ask for fewer")


def _pair(tokenizer: ByteLevelBPETokenizer, text: TextPair, max_length: int) -> Pair:
    def encode(string: str) -> list[int]:
        return tokenizer.encode(string).ids

    prompt = [BOS, *encode(f"<|user|>\n{text.prompt}"), EOS, *encode("\n<|assistant|>\n")]
    room = max(max_length - len(prompt), 1)
    return Pair(prompt, *(_cut([*encode(answer), EOS], room) for answer in (text.chosen, text.rejected)))


def _cut(completion: list[int], length: int) -> list[int]:
    """At most ``length`` tokens, EOS the last of them: TRL appends one to a completion that has none."""
    return completion if len(completion) <= length else [*completion[: length - 1], EOS]


def _context(turns: list[str]) -> str:
    roles = ("<|user|>", "<|assistant|>")
    return "".join(f"\n{roles[i % 2]}\n{turn}" for i, turn in enumerate(turns)).removeprefix("\n<|user|>\n")


def _outputs(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {row["instruction"]: row["output"] for row in json.load(file)}


def _jsonl(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)

"""Overlap of training rows with evaluation sets: shared word n-grams of prompts, or verbatim code.

A prompt of at least `ngram` words matches by any `ngram` consecutive words. A shorter one matches only whole: anywhere
in a text if it has at least eight words, else as the whole text (five consecutive words mean nothing in a long answer).
Prompts of fewer than three words are ignored. HumanEval's code is compared verbatim, but for case and spaces. All texts
of a row are compared, prompts and answers.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zephyr.data.filters.benchmark_texts import Benchmark
from zephyr.data.filters.ngrams import Hashes, ngram_hashes, word_hashes
from zephyr.data.filters.row_filter import Verdict, all_texts
from zephyr.records.rows import Record

SHORTEST_PROMPT = 3
SHORTEST_INSIDE = 8


class Overlap(NamedTuple):
    """A file of an evaluation set, and its prompt or code that a text shares."""

    benchmark: str
    shared: str


class _Table(NamedTuple):
    """Sorted n-gram hashes, and the number of the prompt that each is from."""

    hashes: Hashes
    prompts: NDArray[np.int64]


class BenchmarkIndex:
    """An index of the n-grams of evaluation sets."""

    def __init__(self, benchmarks: Iterable[Benchmark], *, ngram: int) -> None:
        self._ngram = ngram
        self._prompts: list[Overlap] = []
        self._fragments: list[tuple[Overlap, str]] = []
        hashes: dict[int, list[Hashes]] = defaultdict(list)
        owners: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
        for benchmark in benchmarks:
            self._fragments += [(Overlap(benchmark.name, code), _spaced(code)) for code in benchmark.fragments]
            for prompt in dict.fromkeys(benchmark.prompts):
                of_words = word_hashes(prompt)
                length = min(ngram, len(of_words))
                if length >= SHORTEST_PROMPT:
                    rows = np.unique(ngram_hashes(of_words, length))
                    hashes[length].append(rows)
                    owners[length].append(np.full(len(rows), len(self._prompts)))
                    self._prompts.append(Overlap(benchmark.name, prompt))
        self._tables = {length: _sorted(hashes[length], owners[length]) for length in sorted(hashes, reverse=True)}

    def find(self, texts: Sequence[str]) -> tuple[Overlap, ...]:
        """One overlap for each benchmark that shares words or code with one of `texts`, in the benchmarks' order."""
        found: dict[str, Overlap] = {}
        for text in texts:
            for number in self._shared_prompts(word_hashes(text)):
                overlap = self._prompts[number]
                found.setdefault(overlap.benchmark, overlap)
            if self._fragments:
                code = _spaced(text)
                for overlap, fragment in self._fragments:
                    if fragment in code:
                        found.setdefault(overlap.benchmark, overlap)
        return tuple(found.values())

    def judge(self, record: Record) -> Verdict:
        """`record`, dropped if one of its texts overlaps with a benchmark."""
        overlaps = self.find(all_texts(record))
        if not overlaps:
            return Verdict(record)
        return Verdict(None, f"overlaps with {overlaps[0].benchmark}", overlaps[0].shared)

    def _shared_prompts(self, of_words: Hashes) -> Iterator[int]:
        for length, table in self._tables.items():
            if len(of_words) < length or (len(of_words) > length < min(SHORTEST_INSIDE, self._ngram)):
                continue
            rows = ngram_hashes(of_words, length)
            starts = np.searchsorted(table.hashes, rows, side="left")
            # One vectorised comparison; matches are few.
            hits = table.hashes[np.minimum(starts, len(table.hashes) - 1)] == rows
            for start, row in zip(starts[hits], rows[hits], strict=True):
                end = np.searchsorted(table.hashes, row, side="right")
                yield from table.prompts[start:end].tolist()


def _sorted(hashes: list[Hashes], prompts: list[NDArray[np.int64]]) -> _Table:
    every = np.concatenate(hashes)
    # Stable: the benchmark listed first comes first.
    order = np.argsort(every, kind="stable")
    return _Table(every[order], np.concatenate(prompts)[order])


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())

"""ROUGE-L against many at once: the published vectors, the obvious way, rouge-score, and the time it takes."""

import itertools
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.synth.instructions import InstructionPool, NoveltyIndex, rouge_words


def slow_rouge_l(first, second):
    """F of two texts, by the textbook table."""
    a, b = rouge_words(first), rouge_words(second)
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 0.0


def texts(rng, count, *, words=200, longest=40):
    cumulative = list(itertools.accumulate(1 / (rank + 1) for rank in range(words)))
    return [
        " ".join(f"w{word}" for word in rng.choices(range(words), cum_weights=cumulative, k=rng.randint(1, longest)))
        for _ in range(count)
    ]


def test_published_vectors():
    index = NoveltyIndex(["write a short poem about the ocean", "reverse the list"])
    assert [round(score, 6) for score in index.similarities("Write a poem about the sea.")] == [0.769231, 0.222222]
    assert round(max(index.similarities("sort the list in ascending order")), 6) == 0.444444


def test_a_share_of_seven_tenths_is_exactly_that():
    same = "a b c d e f g"
    index = NoveltyIndex([f"{same} x y z"])
    assert list(index.similarities(f"{same} p q r")) == [0.7]


def test_words_are_those_of_rouge():
    assert rouge_words("Don't re-use 3 café_cups!") == ["don", "t", "re", "use", "3", "caf", "cups"]


def test_an_empty_pool_and_texts_without_words_have_nothing_in_common():
    assert NoveltyIndex().similarities("anything").size == 0
    index = NoveltyIndex(["...", "one two"])
    assert list(index.similarities("!")) == [0.0, 0.0]
    assert list(index.similarities("one two")) == [0.0, 1.0]


@pytest.mark.parametrize("num_words", [1, 16, 17, 32, 33, 64, 65, 128, 129, 300])
def test_all_lengths_agree_with_the_obvious_way(num_words):
    rng = Random(num_words)
    pool = texts(rng, 120, words=30, longest=200)
    index = NoveltyIndex(pool)
    (text,) = texts(rng, 1, words=30, longest=1)
    text = " ".join([text] * (num_words // 2) + ["w1 w2 w3 w0"] * num_words)
    text = " ".join(text.split()[:num_words])
    assert list(index.similarities(text)) == [slow_rouge_l(text, other) for other in pool]


def test_the_most_similar_are_listed_best_first_and_of_equal_ones_the_earlier():
    rng = Random(7)
    pool = texts(rng, 120, words=30, longest=20)
    (new,) = texts(rng, 1, words=30, longest=20)
    scores = [slow_rouge_l(new, other) for other in pool]
    ranked = sorted(range(len(pool)), key=lambda number: (-scores[number], number))[:10]
    added = InstructionPool(pool, SelfInstructSynth(seeds="seeds.jsonl", max_similarity=1.0), seed=0).try_to_add(new)
    assert added.most_similar == tuple((pool[number], scores[number]) for number in ranked)
    assert added.mean_similarity == pytest.approx(sum(scores) / len(scores), abs=1e-12)


@given(
    st.lists(st.text(alphabet="abcd ", max_size=150), min_size=1, max_size=8), st.text(alphabet="abcd ", max_size=300)
)
def test_anything_agrees_with_the_obvious_way(pool, text):
    index = NoveltyIndex(pool[:1])
    for other in pool[1:]:
        index.add(other)
    assert list(index.similarities(text)) == [slow_rouge_l(text, other) for other in pool]


def test_agrees_with_rouge_score():
    scorer_module = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = scorer_module.RougeScorer(["rougeL"], use_stemmer=False)
    rng = Random(3)
    pool, news = texts(rng, 60), texts(rng, 20)
    index = NoveltyIndex(pool)
    for text in news:
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in pool]
        assert list(index.similarities(text)) == pytest.approx(scores, abs=1e-12)


@pytest.mark.slow
def test_time_at_a_hundred_thousand(capsys):
    """Prints the time; only what was found is asserted, for time is the machine's business."""
    rng = Random(0)
    index = NoveltyIndex(texts(rng, 100_000, words=30_000, longest=28))
    news = texts(rng, 1_000, words=30_000, longest=28)
    began, cpu = time.perf_counter(), time.process_time()
    for text in news:
        index.similarities(text)
        index.add(text)
    taken, used = time.perf_counter() - began, time.process_time() - cpu
    with capsys.disabled():
        print(f"\n1,000 instructions beside 100,000: {taken:.2f} ms each, of processor time {used:.2f} ms")
    similarities = index.similarities(news[-1])
    assert (similarities.size, similarities.max()) == (101_000, 1.0)

"""Mixtures: a share of each source, in an order that the seed alone decides."""

import json
from collections import Counter

import pytest

from zephyr.data.read.mixture import mix
from zephyr.data.read.sources import open_source
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource


@pytest.fixture
def parts(tmp_path):
    def part(name, num_rows, weight=1.0):
        lines = "".join(json.dumps({"text": f"{name}{number}"}) + "\n" for number in range(num_rows))
        (tmp_path / f"{name}.jsonl").write_text(lines)
        return open_source(DataSource(path=f"{name}.jsonl", weight=weight), "text", data_dir=tmp_path, offline=True)

    return part


def texts(mixture):
    return [record.text for record in mixture]


def test_parts_give_their_first_rows(parts):
    mixture = mix([parts("a", 5, 0.5), parts("b", 3), parts("c", 2, 2.5)], seed=0, shuffle=False)
    assert texts(mixture) == ["a0", "a1", "b0", "b1", "b2", "c0", "c1", "c0", "c1", "c0"]
    assert mixture.num_taken == [2, 3, 5]
    assert len(mixture) == 10
    assert mixture[6].text == "c1"


def test_a_shuffle_moves_rows_and_loses_none(parts):
    sources = [parts("a", 50, 0.5), parts("b", 30, 1.5)]
    plain = texts(mix(sources, seed=0, shuffle=False))
    shuffled, again, other = (texts(mix(sources, seed=seed, shuffle=True)) for seed in (1, 1, 2))
    assert shuffled == again != other
    assert shuffled != plain
    assert Counter(shuffled) == Counter(plain) == Counter(other)


def test_the_order_is_the_same_on_every_machine(parts):
    assert texts(mix([parts("a", 6)], seed=42, shuffle=True)) == ["a3", "a1", "a2", "a4", "a0", "a5"]


def test_a_source_that_gives_nothing_is_refused(parts):
    with pytest.raises(DataError, match=r"a\.jsonl: a weight of 0\.1 takes none of its 5 rows; raise the weight"):
        mix([parts("a", 5, 0.1)], seed=0, shuffle=True)

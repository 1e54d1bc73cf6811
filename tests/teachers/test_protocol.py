"""Seeds and pairing: what everybody who asks a teacher relies on."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatReply, ChatRequest, paired, seed_for

PARTS = st.lists(st.one_of(st.text(), st.integers()), max_size=3)


@given(st.integers(), PARTS)
def test_a_seed_is_a_number_that_servers_take_and_always_the_same(seed, parts):
    assert 0 <= seed_for(seed, *parts) < 2**31
    assert seed_for(seed, *parts) == seed_for(seed, *parts)


def test_seeds_differ_where_anything_differs():
    seeds = {seed_for(seed, part, number) for seed in range(10) for part in ("a", "b", "") for number in range(100)}
    assert len(seeds) == 3000
    assert seed_for(0, "ab") != seed_for(0, "a", "b")
    assert seed_for(0, "teachers", "x") == 1831684739


class Echo:
    name = "echo"

    def __init__(self, *, order: int = 1, missing: int = 0) -> None:
        self.order, self.missing = order, missing

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        for request in requests[:: self.order][self.missing :]:
            yield ChatReply(request.key, request.messages[-1].content, "stop")


REQUESTS = [ChatRequest(key, (Message("user", key),)) for key in "abc"]


def test_every_request_is_paired_with_its_reply():
    assert [(request.key, reply.text) for request, reply in paired(Echo(), REQUESTS)] == [
        *zip("abc", "abc", strict=True)
    ]
    assert not list(paired(Echo(), []))


def test_lost_and_mixed_up_replies_are_found():
    with pytest.raises(ValueError, match="echo answered 'c' where 'a' was due"):
        list(paired(Echo(order=-1), REQUESTS))
    with pytest.raises(ValueError, match="'b' where 'a'"):
        list(paired(Echo(missing=1), REQUESTS))
    with pytest.raises(ValueError, match="shorter"):
        list(paired(Echo(missing=3), REQUESTS))

"""The sample by which calls are estimated."""

from zephyr.records.messages import Message
from zephyr.records.rows import Prompt
from zephyr.stages.call_estimate import sample_prompts


def test_a_sample_takes_of_every_part():
    parts = [[Prompt(f"{part} {n}", (Message("user", "a"),)) for n in range(300)] for part in range(3)]
    sample = sample_prompts(parts)
    assert len(sample) == 201
    assert {row.name.split()[0] for row in sample} == {"0", "1", "2"}

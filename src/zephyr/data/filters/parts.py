"""Parts of a data set that share no prompt: which of them a row is in follows from a hash of its prompt."""

from hashlib import blake2b

from zephyr.data.filters.near_duplicates import normalized
from zephyr.data.filters.row_filter import Verdict
from zephyr.recipe.data_section import PartFilter
from zephyr.records.rows import Chat, Prompt, Record, Text


def prompt_key(record: Record) -> int:
    """A hash of 64 bits of what users say in a record, without regard to case and spaces, or of its text."""
    if isinstance(record, Text):
        said = [record.text]
    else:
        messages = record.messages if isinstance(record, Chat | Prompt) else record.prompt
        said = [message.content for message in messages if message.role == "user"]
    text = "\n".join(map(normalized, said))
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")


def judge_part(section: PartFilter, record: Record) -> Verdict:
    """The row if it is in the part, of which every one gets about as many prompts."""
    number = prompt_key(record) % section.of + 1
    return Verdict(record) if number == section.number else Verdict(None, "in another part", f"part {number}")

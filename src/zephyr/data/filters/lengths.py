"""Rows too short or too long in characters or turns; how long they are in tokens, truncation looks at."""

from dataclasses import dataclass

from zephyr.data.filters.row_filter import Fault, Verdict, candidates, context, without_faulty_answers
from zephyr.records.rows import Chat, Prompt, Rated, Record


@dataclass(frozen=True)
class LengthFilter:
    """Drops rows by the length of their shortest answer, of the whole row, and by the number of messages.

    A row is as long as its prompt with its longest answer. Of a row of rated answers only those at fault are taken out.
    """

    min_characters: int
    max_characters: int | None
    max_turns: int | None
    name: str = "length"

    def judge(self, record: Record) -> Verdict:
        """What becomes of `record`."""
        messages = context(record)
        turns = len(messages) + (0 if isinstance(record, Chat | Prompt) else bool(candidates(record)))
        if self.max_turns is not None and turns > self.max_turns:
            return Verdict(None, f"more than {self.max_turns} messages", f"{turns} messages")
        before = sum(len(message.content) for message in messages)
        if isinstance(record, Rated) and record.answers:
            return without_faulty_answers(record, lambda answer: self._fault(answer.text, before + len(answer.text)))
        if isinstance(record, Chat):
            answers = [message.content for message in messages if message.role == "assistant"]
            longest = before
        else:
            answers = list(candidates(record))
            longest = before + max(map(len, answers), default=0)
        fault = self._fault(min(answers, key=_stripped_length, default=None), longest)
        return Verdict(None, fault.reason, fault.evidence) if fault else Verdict(record)

    def _fault(self, answer: str | None, row_characters: int) -> Fault | None:
        if answer is not None and _stripped_length(answer) < self.min_characters:
            return Fault(f"answer shorter than {self.min_characters} characters", answer)
        if self.max_characters is not None and row_characters > self.max_characters:
            return Fault(f"row longer than {self.max_characters} characters", f"{row_characters} characters")
        return None


def _stripped_length(text: str) -> int:
    return len(text.strip())

"""How MT-Bench's answers are put to a judge: by the published prompts, or in our own fenced wording."""

from typing import NamedTuple, Protocol

from zephyr.evaluate.judged.mt_bench_questions import Question
from zephyr.judging import JUDGE_TEMPLATE_VERSION, OVERALL, ParseFailure, RatingQuestion, ask, fence_word, parse_reply
from zephyr.judging.parsing import published_score
from zephyr.judging.published_prompts import JudgePrompts
from zephyr.records.messages import Message, Messages

PUBLISHED_SINGLE = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


class ScoreWording(Protocol):
    """A way to have one answer rated from 1 to 10; `version` names its texts."""

    @property
    def version(self) -> str: ...

    def ask(self, question: Question, answers: tuple[str, ...]) -> Messages:
        """What the judge is asked about the last of these answers."""

    def read(self, reply: str) -> float | None:
        """The rating in the judge's reply, None if it holds none."""


class PublishedScores:
    """FastChat's single-answer prompts and their reading of replies."""

    def __init__(self, prompts: JudgePrompts) -> None:
        self.version = prompts.version
        self._prompts = prompts.by_name

    def ask(self, question: Question, answers: tuple[str, ...]) -> Messages:
        """See ScoreWording."""
        kind = "single-math-v1" if question.references else "single-v1"
        references = {f"ref_answer_{turn}": text for turn, text in enumerate(question.references, start=1)}
        if len(answers) == 1:
            texts = {"question": question.turns[0], "answer": answers[0], **references}
            return self._prompts[kind].messages(texts)
        asked = {f"question_{turn}": text for turn, text in enumerate(question.turns, start=1)}
        answered = {f"answer_{turn}": text for turn, text in enumerate(answers, start=1)}
        return self._prompts[f"{kind}-multi-turn"].messages({**asked, **answered, **references})

    def read(self, reply: str) -> float | None:
        """See ScoreWording."""
        return published_score(reply)


class OwnScores(NamedTuple):
    """Our own critique with a mark: fenced texts, and a rating that only the last line can give."""

    seed: int = 0
    version: str = f"own overall {JUDGE_TEMPLATE_VERSION}"

    def ask(self, question: Question, answers: tuple[str, ...]) -> Messages:
        """See ScoreWording."""
        said: list[Message] = []
        for turn, answer in zip(question.turns, answers, strict=False):
            said += [Message("user", turn), Message("assistant", answer)]
        references = question.references[: len(answers)]
        notes = [f"Reference answer to user turn {turn}:\n{text}" for turn, text in enumerate(references, start=1)]
        asked = RatingQuestion(OVERALL, tuple(said[:-1]), (answers[-1],), "\n\n".join(notes))
        return ask(asked, nonce=fence_word(asked, seed=self.seed))

    def read(self, reply: str) -> float | None:
        """See ScoreWording."""
        read = parse_reply(OVERALL, reply, 1)
        return None if isinstance(read, ParseFailure) else read[0].score

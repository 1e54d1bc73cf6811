"""MT-Bench's questions, reference answers and judge prompts, from the files that FastChat distributes.

Answers are put to a judge by the published prompts, or in our own fenced wording.
Source: FastChat, fastchat/llm_judge (arXiv 2306.05685).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from zephyr.errors import DataError
from zephyr.judging import (
    JUDGE_TEMPLATE_VERSION,
    OVERALL,
    ParseFailure,
    RatingQuestion,
    ask,
    fence_word,
    parse_reply,
    required_word,
)
from zephyr.judging.published_prompts import JudgePrompts, read_judge_prompts
from zephyr.judging.verdicts import published_score
from zephyr.records.fields import Json, Row, brief
from zephyr.records.messages import Message, Messages
from zephyr.records.reading import read_rows

NUM_QUESTIONS = 80
NUM_TURNS = 2
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "reasoning": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "extraction": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7
WITH_REFERENCE = frozenset({"reasoning", "math", "coding"})
# Reference answers found wrong in at least one turn by two people who checked all 30: FastChat, pull request 3158.
REPORTED_WRONG = (104, 105, 109, 111, 113, 114, 120, 122, 124, 125, 126, 128, 130)

PUBLISHED_SINGLE = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")

_SOURCE = "FastChat's fastchat/llm_judge/data/mt_bench (github.com/lm-sys/FastChat)"

Answers = Mapping[int, tuple[str | None, ...]]  # by question, one a turn; None where there is no answer


class Answered(NamedTuple):
    """A model's answers, and why some are missing, by turn as 81/1; notes for the result."""

    turns: Answers
    reasons: Mapping[str, str]
    notes: tuple[str, ...] = ()


class BenchQuestion(NamedTuple):
    """A question of several turns; `references` answers them, or is empty."""

    number: int
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()

    @property
    def temperature(self) -> float:
        """At which its answer is sampled."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


class BenchFiles(NamedTuple):
    """Where the benchmark's files are; judge prompts may be absent, for our own wording."""

    questions: Path
    references: Path
    judge_prompts: Path | None


class MtBench(NamedTuple):
    """The benchmark's files, the chosen questions, and the numbers of all that there are."""

    files: BenchFiles
    questions: list[BenchQuestion]
    all_numbers: frozenset[int]

    def judge_prompts(self) -> JudgePrompts:
        """FastChat's judge prompts. Raises DataError without its file."""
        if self.files.judge_prompts is None:
            remedy = "get it from FastChat's fastchat/llm_judge/data and put it into --data, or use --wording own"
            raise DataError("--wording published", "there is no judge_prompts.jsonl", remedy)
        return read_judge_prompts(self.files.judge_prompts, PUBLISHED_SINGLE)

    @property
    def num_turns(self) -> int:
        """Of all questions together."""
        return sum(len(question.turns) for question in self.questions)


def read_mt_bench(data: Path, *, limit: int | None = None, without_wrong: bool = False) -> MtBench:
    """The benchmark in a folder, its first `limit` questions. Raises DataError for files that are not there."""
    files = find_bench_files(data)
    questions = read_questions(files, without_wrong=without_wrong)
    return MtBench(files, questions[:limit], frozenset(one.number for one in questions))


def find_bench_files(folder: Path) -> BenchFiles:
    """The files in a folder or its subfolder `mt_bench`, in FastChat's layout or flat.

    Raises DataError for the first that is missing.
    """
    places = (folder, folder / "mt_bench")
    names = (("question.jsonl",), ("reference_answer_gpt-4.jsonl", "reference_answer/gpt-4.jsonl"))
    questions, references = (_first(places, wanted) for wanted in names)
    for path, name in ((questions, names[0][0]), (references, names[1][1])):
        if path is None:
            raise DataError(str(folder), f"there is no {name} of MT-Bench", f"get it from {_SOURCE}, name it by --data")
    assert questions is not None
    assert references is not None
    return BenchFiles(questions, references, _first((*places, folder.parent), ("judge_prompts.jsonl",)))


def read_questions(files: BenchFiles, *, without_wrong: bool = False) -> list[BenchQuestion]:
    """The questions with the references that their categories are judged by, in order of their numbers.

    `without_wrong` leaves out the reference answers that were reported wrong: those questions are judged without one.
    Raises DataError for unusable rows, or if there are no questions.
    """
    references = {
        number: tuple(turn for turn in turns if turn is not None)
        for number, turns in read_answers(files.references).items()
    }
    found = [_question(row, references, without_wrong=without_wrong) for row in read_rows(files.questions)]
    if not found:
        raise DataError(files.questions.name, "holds no questions", f"get it from {_SOURCE}")
    return sorted(found)


def read_answers(path: Path) -> dict[int, tuple[str | None, ...]]:
    """The answers in a file of FastChat's model_answer form: those of the first choice, None for a null.

    Raises DataError for a row without turns, and for a question that comes twice.
    """
    found: dict[int, tuple[str | None, ...]] = {}
    for row in read_rows(path):
        choices = row.fields.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        turns = first.get("turns") if isinstance(first, dict) else None
        if not isinstance(turns, list):
            raise DataError(row.name, "holds no choices with turns", "name a file of FastChat's model_answer form")
        wrong = next((turn for turn in turns if not isinstance(turn, str | None)), None)
        if wrong is not None:
            raise DataError(row.name, f"has a turn that is no text, got {brief(wrong)}", "turns are texts, or null")
        number = _number(row)
        if number in found:
            raise DataError(row.name, f"has question {number}, which comes twice", "leave one answer to every question")
        found[number] = tuple(turn if isinstance(turn, str) else None for turn in turns)
    return found


def answer_rows(answers: Answers, model: str) -> Iterable[dict[str, Json]]:
    """The answers in FastChat's model_answer form; an answer that failed to come is null."""
    for number, turns in sorted(answers.items()):
        yield {"question_id": number, "model_id": model, "choices": [{"index": 0, "turns": list(turns)}]}


def _question(row: Row, references: Mapping[int, tuple[str, ...]], *, without_wrong: bool) -> BenchQuestion:
    number, category, turns = _number(row), row.fields.get("category"), row.fields.get("turns")
    if not isinstance(category, str) or not isinstance(turns, list) or not turns:
        raise DataError(row.name, "has no category or no turns", f"use the file of {_SOURCE}")
    is_guided = category in WITH_REFERENCE and not (without_wrong and number in REPORTED_WRONG)
    if is_guided and len(references.get(number, ())) < len(turns):
        raise DataError(row.name, f"question {number} ({category}) has no reference answer", f"use those of {_SOURCE}")
    return BenchQuestion(
        number, category, tuple(map(str, turns)), references[number][: len(turns)] if is_guided else ()
    )


def _number(row: Row) -> int:
    number = row.fields.get("question_id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(row.name, "has no question_id", f"use the file of {_SOURCE}")
    return number


def _first(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    places = [folder / name for folder in folders for name in names]
    return next((place for place in places if place.is_file()), None)


# ---- how answers are put to a judge ----


class ScoreWording(Protocol):
    """A way to have one answer rated from 1 to 10; `version` names its texts."""

    @property
    def version(self) -> str: ...

    def ask(self, question: BenchQuestion, answers: tuple[str, ...]) -> Messages:
        """The judge's prompt about the last of these answers."""

    def read(self, reply: str, question: BenchQuestion, answers: tuple[str, ...]) -> float | None:
        """The rating in the judge's reply, None if it holds none; what it repeats of the answers is none."""


class PublishedScores:
    """FastChat's single-answer prompts and their reading of replies."""

    def __init__(self, prompts: JudgePrompts) -> None:
        self.version = prompts.version
        self._prompts = prompts.by_name

    def ask(self, question: BenchQuestion, answers: tuple[str, ...]) -> Messages:
        """See ScoreWording."""
        kind = "single-math-v1" if question.references else "single-v1"
        references = {f"ref_answer_{turn}": text for turn, text in enumerate(question.references, start=1)}
        if len(answers) == 1:
            texts = {"question": question.turns[0], "answer": answers[0], **references}
            return self._prompts[kind].messages(texts)
        questions = {f"question_{turn}": text for turn, text in enumerate(question.turns, start=1)}
        answered = {f"answer_{turn}": text for turn, text in enumerate(answers, start=1)}
        return self._prompts[f"{kind}-multi-turn"].messages({**questions, **answered, **references})

    def read(self, reply: str, question: BenchQuestion, answers: tuple[str, ...]) -> float | None:
        """See ScoreWording."""
        asked = self.ask(question, answers)[-1].content
        return published_score(reply, (*question.turns, *answers), asked=asked)


class OwnScores(NamedTuple):
    """Our own critique with a mark: fenced texts, and a rating that only the last line can give."""

    seed: int = 0
    version: str = f"own overall {JUDGE_TEMPLATE_VERSION}"

    def ask(self, question: BenchQuestion, answers: tuple[str, ...]) -> Messages:
        """See ScoreWording."""
        said: list[Message] = []
        for turn, answer in zip(question.turns, answers, strict=False):
            said += [Message("user", turn), Message("assistant", answer)]
        references = question.references[: len(answers)]
        notes = [f"Reference answer to user turn {turn}:\n{text}" for turn, text in enumerate(references, start=1)]
        rating = RatingQuestion(OVERALL, tuple(said[:-1]), (answers[-1],), "\n\n".join(notes))
        return ask(rating, nonce=fence_word(rating, seed=self.seed))

    def read(self, reply: str, question: BenchQuestion, answers: tuple[str, ...]) -> float | None:
        """See ScoreWording."""
        read = parse_reply(OVERALL, reply, 1, word=required_word(self.ask(question, answers)))
        return None if isinstance(read, ParseFailure) else read[0].score

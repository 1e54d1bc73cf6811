"""Prompts with constraints that can be checked: instructions of any pool, each with some of IFEval's 25 families.

Constraints are drawn so that one answer can meet all of them, written in our own words, and stand in the row as its
checks. No model is asked; answers of the pool that hold them make dialogues. What overlaps with an evaluation set is
left out and counted. IFEval: arXiv 2311.07911.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from random import Random

from zephyr.data.filters.benchmark_texts import read_benchmarks
from zephyr.data.filters.decontamination import BenchmarkIndex
from zephyr.data.filters.near_duplicates import NearDuplicates
from zephyr.errors import DataError
from zephyr.judging.checks import check_answer
from zephyr.judging.repairs import repaired
from zephyr.recipe.synth_section import ConstraintsSynth
from zephyr.records.checks import FAMILIES, LANGUAGES
from zephyr.records.fields import Json
from zephyr.records.rows import Chat, Check, Prompt, prompt_id
from zephyr.synth.wordings import (
    COMMON_LETTERS,
    END_PHRASES,
    FIRST_WORDS,
    INTRODUCTIONS,
    KEYWORDS,
    LANGUAGE_NAMES,
    POSTSCRIPT_MARKERS,
    RARE_LETTERS,
    SECTION_WORDS,
    WORDINGS,
)
from zephyr.teachers.protocol import seed_for

Options = dict[str, Json]

_WORD = re.compile(r"[A-Za-z]{4,}")
_YES_OR_NO = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have)\b[^?\n]*\?$", re.IGNORECASE
)
# Of the answers of Alpaca and Dolly every second holds its constraints, or can be repaired.
_TRIED_FOR_A_DIALOGUE = 20
# The longest request that an answer is to repeat.
_REPEATED_CHARACTERS = 300
_SHARES, _IS_NEAR = "overlaps with", "nearly equal to a prompt of"
_RELATIONS = ("at least", "less than")
_COMMA, _SENTENCES, _WORDS = (
    "punctuation:no_comma",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
)
_PARAGRAPHS, _FIRST_WORD = "length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"
_EXISTENCE, _FORBIDDEN = "keywords:existence", "keywords:forbidden_words"
_LANGUAGE, _TITLE, _QUOTES = "language:response_language", "detectable_format:title", "startend:quotation"
_BULLETS, _HIGHLIGHTS = "detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections"
_SECTIONS, _CAPITALS = "detectable_format:multiple_sections", "change_case:capital_word_frequency"
_UPPER, _LOWER = "change_case:english_capital", "change_case:english_lowercase"
_REPEAT, _TWO = "combination:repeat_prompt", "combination:two_responses"
_CONSTRAINED, _JSON = "detectable_format:constrained_response", "detectable_format:json_format"
_END, _POSTSCRIPT = "startend:end_checker", "detectable_content:postscript"
# Families that leave room for few others: those that may stand beside them. IFEval's list, and what we add to it for
# languages: their letters, sentences and words are not counted as English ones are.
_COMPANY: Mapping[str, frozenset[str]] = {
    _CONSTRAINED: frozenset(),
    _JSON: frozenset({_FORBIDDEN, _EXISTENCE}),
    _TWO: frozenset({_FORBIDDEN, _EXISTENCE, _LANGUAGE, _TITLE, _COMMA}),
    _REPEAT: frozenset({_EXISTENCE, _TITLE, _COMMA}),
    _LANGUAGE: frozenset({_COMMA, _HIGHLIGHTS, _BULLETS, _TITLE, _QUOTES, _PARAGRAPHS, _TWO}),
}
# Other families that do not go together: IFEval's list, and the second half of our own.
_PAIRS = frozenset(
    frozenset(pair)
    for first, others in {
        _PARAGRAPHS: (_FIRST_WORD, _SENTENCES),
        _SECTIONS: (_HIGHLIGHTS, _UPPER, _LOWER, _CAPITALS, _SENTENCES),
        _CAPITALS: (_UPPER, _LOWER),
        _UPPER: (_LOWER,),
        _QUOTES: (_TITLE, _POSTSCRIPT),
        _SENTENCES: (_WORDS, _BULLETS, _FIRST_WORD),
        _END: (_POSTSCRIPT,),
    }.items()
    for pair in ((first, other) for other in others)
)


def conflict(first: str, second: str) -> bool:
    """Whether no prompt may have both families, as one answer could hardly meet them, or any family twice."""
    if first == second or frozenset((first, second)) in _PAIRS:
        return True
    return any(a in _COMPANY and b not in _COMPANY[a] for a, b in ((first, second), (second, first)))


def compose_prompts(
    pool: Iterable[Prompt],
    section: ConstraintsSynth,
    counts: Counter[str],
    families: Counter[str],
    *,
    data_dir: Path,
    seed: int,
) -> Iterator[Prompt]:
    """The prompts: the whole pool once, then again with other constraints, for as long as some are new.

    `counts` gets the instructions that gave no prompt, by reason; `families` the constraints by family. Raises
    DataError for evaluation sets that cannot be read, or if no prompt can be made.
    """
    overlap = _Overlaps(section, data_dir, counts)
    made, seen, left_out = 0, set[str](), set[tuple[str, str]]()
    for number in count(1):
        before = made
        for row in pool:
            prompt = constrain(row, section, Random(seed_for(seed, "constraints", prompt_id(row.messages), number)))
            why = "no constraints fit" if prompt is None else overlap.reason(row, prompt)
            if prompt is None or why or prompt_id(prompt.messages) in seen:
                # An instruction is left out once for a reason, however often the pool is passed over.
                reason = (prompt_id(row.messages), why or "made before")
                counts[reason[1]] += reason not in left_out
                left_out.add(reason)
                continue
            seen.add(prompt_id(prompt.messages))
            families.update(check.instruction for check in prompt.checks[len(row.checks) :])
            yield prompt
            made += 1
        if made == before:
            break
    if not made:
        reasons = ", ".join(f"{number:,} x {reason}" for reason, number in counts.items())
        raise DataError("synth.generator", f"no prompt can be made of the pool ({reasons})", "give another pool")


def answer_from_pool(
    prompts: Iterable[Prompt], chats: Iterable[Chat], num_dialogues: int, counts: Counter[str]
) -> Iterator[Chat]:
    """Dialogues of those prompts whose row of the pool has an answer that holds all checks, if need be repaired.

    They show a model what none of its samples does: sensible answers that hold their constraints. `counts` gets what
    became of the pool's answers. Raises DataError if none can be used, and as `check_answer`.
    """
    answers = {chat.name: chat.messages[-1] for chat in chats}
    made = 0
    for prompt in islice(prompts, num_dialogues * _TRIED_FOR_A_DIALOGUE):
        answer = answers.get(prompt.name)
        kind, text = ("missing", None) if answer is None else _holding(prompt.checks, answer.content)
        counts[kind] += 1
        if answer is not None and text is not None:
            yield Chat(prompt.name, (*prompt.messages, answer._replace(content=text)), prompt.source)
            made += 1
        if made == num_dialogues:
            return
    if not made:
        raise DataError("synth.generator.pool", "no answer of its rows holds the checks", "give another pool")


def _holding(checks: Sequence[Check], text: str) -> tuple[str, str | None]:
    """The text, as it is or repaired, that holds all checks, and how it came to be; None where there is none."""
    if check_answer(checks, text).share == 1:
        return "as it was", text
    found = repaired(checks, text)
    return ("repaired", found) if found and check_answer(checks, found).share == 1 else ("fails checks", None)


class _Overlaps:
    """Evaluation sets, by shared word n-grams and near duplicates."""

    def __init__(self, section: ConstraintsSynth, data_dir: Path, counts: Counter[str]) -> None:
        found = read_benchmarks(section.decontaminate, data_dir).found if section.decontaminate else ()
        self._index = BenchmarkIndex(found, ngram=section.ngram)
        self._near = NearDuplicates(section.near_duplicates)
        self._names = {benchmark.name for benchmark in found}
        for benchmark in found:
            # That nothing was found is said as well.
            counts.update({f"{how} {benchmark.name}": 0 for how in (_SHARES, _IS_NEAR)})
            for text in benchmark.prompts:
                self._near.find_or_add(benchmark.name, text)

    def reason(self, row: Prompt, prompt: Prompt) -> str:
        """Why the prompt is left out: it, or the instruction that it was made of, overlaps; empty if neither does."""
        texts = [message.content for one in (row, prompt) for message in one.messages]
        overlaps = self._index.find(texts)
        if overlaps:
            return f"{_SHARES} {overlaps[0].benchmark}"
        for text in texts if self._names else ():
            near = self._near.find_or_add("", text)
            if near in self._names:
                return f"{_IS_NEAR} {near}"
        return ""


# ---- one prompt ----


def constrain(row: Prompt, section: ConstraintsSynth, rng: Random) -> Prompt | None:
    """The prompt with constraints behind its last message, and their checks behind its own; None if too few fit."""
    text = row.messages[-1].content.strip()
    wanted = rng.randint(section.min_constraints, section.max_constraints)
    taken = [*row.checks]
    for family in rng.sample(section.chosen_families, len(section.chosen_families)):
        if len(taken) - len(row.checks) == wanted:
            break
        if any(conflict(family, one.instruction) for one in taken) or not _suits(family, text):
            continue
        check = Check(family, OPTIONS[family](rng, text, section))
        if not _contradicts([*taken, check]):
            taken.append(check)
    new = taken[len(row.checks) :]
    if len(new) < section.min_constraints:
        return None
    # The request to repeat what stands above comes first, so that nothing else stands above it.
    new.sort(key=lambda check: check.instruction != _REPEAT)
    worded = _joined(text, [wording(check, rng) for check in new], rng)
    messages = (*row.messages[:-1], row.messages[-1]._replace(content=worded))
    return row._replace(messages=messages, checks=(*row.checks, *new))


def _suits(family: str, text: str) -> bool:
    if family == _CONSTRAINED:
        return _YES_OR_NO.match(text) is not None
    return family != _REPEAT or len(text) <= _REPEATED_CHARACTERS


def _contradicts(checks: Sequence[Check]) -> bool:
    """Whether a word, letter or comma that one check forbids stands in what another one demands."""
    demanded = [text.lower() for check in checks if check.instruction != _FORBIDDEN for text in _demanded(check)]
    for check in checks:
        options = check.options
        if check.instruction == _COMMA and any("," in text for text in demanded):
            return True
        if check.instruction == _FORBIDDEN:
            words = [str(word).lower() for word in _items(options["forbidden_words"])]
            if any(word in text for word in words for text in demanded):
                return True
        if options.get("let_relation") == "less than":
            letter, most = str(options["letter"]), int(str(options["let_frequency"]))
            if sum(text.count(letter) for text in demanded) >= most:
                return True
    return False


def _demanded(check: Check) -> Iterator[str]:
    """The texts that an answer must hold."""
    names = (
        "answer",
        "keywords",
        "keyword",
        "first_word",
        "end_phrase",
        "prompt_to_repeat",
        "postscript_marker",
        "section_spliter",
    )
    for name in names:
        if check.options.get("relation") != "less than":
            yield from map(str, _items(check.options.get(name)))
    if check.instruction == _CONSTRAINED:
        yield "My answer is"


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [] if value is None else [value]


def wording(check: Check, rng: Random) -> str:
    """One of our sentences for the check, with its options in it."""
    relation = next((value for name, value in check.options.items() if name.endswith("relation")), None)
    sentences = WORDINGS[check.instruction if relation is None else f"{check.instruction} {relation}"]
    return rng.choice(sentences).format(**{name: _said(name, value) for name, value in check.options.items()})


def _said(name: str, value: Json) -> str:
    if name == "language":
        return LANGUAGE_NAMES[str(value)]
    if not isinstance(value, list):
        return str(value)
    quoted = [f'"{one}"' for one in value]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _joined(text: str, sentences: Sequence[str], rng: Random) -> str:
    """The text and its constraints, behind it on its line, in a paragraph of their own, or as a list."""
    layout = rng.choice(("line", "paragraph", "list") if len(sentences) > 1 else ("line", "paragraph"))
    if layout == "list":
        return "\n".join([f"{text}\n\n{rng.choice(INTRODUCTIONS)}", *(f"- {sentence}" for sentence in sentences)])
    return (" " if layout == "line" else "\n\n").join((text, " ".join(sentences)))


# ---- options ----


def _some_words(rng: Random, text: str, most: int) -> list[Json]:
    """Words for an answer: of the text, or such that fit many texts."""
    own = sorted({word.lower() for word in _WORD.findall(text)})
    words = own if len(own) >= most and rng.random() < 0.5 else KEYWORDS
    return [*rng.sample(words, rng.randint(1, most))]


def _relation(rng: Random, name: str, least: Sequence[int], most: Sequence[int], relation: str = "relation") -> Options:
    """A number that is to be reached, or not to be reached."""
    drawn = rng.choice(_RELATIONS)
    return {name: rng.choice(least if drawn == _RELATIONS[0] else most), relation: drawn}


def _letters(rng: Random, _text: str, _section: ConstraintsSynth) -> Options:
    """Common letters are to be used, rare ones avoided: a text without the letter e is no text."""
    number = _relation(rng, "let_frequency", range(4, 31), range(3, 7), "let_relation")
    return {"letter": rng.choice(COMMON_LETTERS if number["let_relation"] == _RELATIONS[0] else RARE_LETTERS), **number}


def _first_words(rng: Random, _text: str, _section: ConstraintsSynth) -> Options:
    paragraphs = rng.randint(2, 4)
    return {
        "num_paragraphs": paragraphs,
        "nth_paragraph": rng.randint(1, paragraphs),
        "first_word": rng.choice(FIRST_WORDS),
    }


def _keyword_count(rng: Random, text: str, _section: ConstraintsSynth) -> Options:
    return {"keyword": _some_words(rng, text, 1)[0], **_relation(rng, "frequency", range(2, 5), range(2, 5))}


def _section_count(rng: Random, _text: str, _section: ConstraintsSynth) -> Options:
    return {"section_spliter": rng.choice(SECTION_WORDS), "num_sections": rng.randint(2, 4)}


def _language(rng: Random, _text: str, section: ConstraintsSynth) -> Options:
    return {"language": rng.choice(section.languages or LANGUAGES)}


# The options of every family, drawn for a text.
OPTIONS: Mapping[str, Callable[[Random, str, ConstraintsSynth], Options]] = {
    **dict.fromkeys((name for name, options in FAMILIES.items() if not options), lambda *_: {}),
    _EXISTENCE: lambda rng, text, _: {"keywords": _some_words(rng, text, 3)},
    "keywords:frequency": _keyword_count,
    _FORBIDDEN: lambda rng, text, _: {"forbidden_words": _some_words(rng, text, 3)},
    "keywords:letter_frequency": _letters,
    _LANGUAGE: _language,
    _SENTENCES: lambda rng, *_: _relation(rng, "num_sentences", range(2, 11), range(3, 11)),
    _PARAGRAPHS: lambda rng, *_: {"num_paragraphs": rng.randint(2, 5)},
    _WORDS: lambda rng, *_: _relation(rng, "num_words", range(40, 201, 20), range(50, 201, 25)),
    _FIRST_WORD: _first_words,
    "detectable_content:number_placeholders": lambda rng, *_: {"num_placeholders": rng.randint(2, 5)},
    _POSTSCRIPT: lambda rng, *_: {"postscript_marker": rng.choice(POSTSCRIPT_MARKERS)},
    _BULLETS: lambda rng, *_: {"num_bullets": rng.randint(2, 6)},
    _HIGHLIGHTS: lambda rng, *_: {"num_highlights": rng.randint(2, 4)},
    _SECTIONS: _section_count,
    _REPEAT: lambda _, text, __: {"prompt_to_repeat": text},
    _END: lambda rng, *_: {"end_phrase": rng.choice(END_PHRASES)},
    _CAPITALS: lambda rng, *_: _relation(rng, "capital_frequency", range(2, 9), range(3, 9), "capital_relation"),
}

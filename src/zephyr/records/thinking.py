"""What a model thought before it answered, split off what it answered: the one door for replies of every kind.

Models write their thinking into the text, in tags (DeepSeek-R1, Qwen 3, Magistral, Command A, Kimi, Seed-OSS, Gemma) or
in channels (OpenAI's Harmony format); servers may give it in a field of its own. Thinking is kept beside the answer,
and is never a part of it.
"""

import re
from typing import NamedTuple

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|seed:think)"
_MARK = re.compile(
    rf"(?P<open><{_NAMES}>|\[THINK\]|<\|START_THINKING\|>|◁think▷|<\|begin_of_thought\|>|<\|channel>thought)"
    rf"|(?P<close></{_NAMES}>|\[/THINK\]|<\|END_THINKING\|>|◁/think▷|<\|end_of_thought\|>|<channel\|>)",
    re.IGNORECASE,
)
_OPEN_END = re.compile(rf"(?:<{_NAMES}>|\[THINK\]|<\|START_THINKING\|>|◁think▷)\s*\Z", re.IGNORECASE)
# What marks an answer as one, whole and behind thinking: Command A's and OpenThoughts' control tokens, and tags.
_AS_ANSWER = re.compile(
    r"\s*(?:<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>)?|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?"
    r"|<answer>(.*)</answer>|<response>(.*)</response>)\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_QUOTES = "`\"'"
# Harmony: <|start|>assistant<|channel|>analysis<|message|>...<|end|>; the template may have written the beginning.
_HARMONY = re.compile(r"\s*(?:<\|start\|>\s*assistant)?\s*(?:<\|channel\|>|(?:analysis|commentary|final)<\|message\|>)")
_SEGMENT = re.compile(
    r"(?:<\|channel\|>|\A)\s*(\w+)(?:(?!<\|message\|>).)*<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
# The same where a tokenizer has left the control tokens out.
_STRIPPED = re.compile(
    r"\s*analysis(?P<thought>.*?)assistant(?:commentary.*?assistant)?final(?P<answer>.*)\Z", re.DOTALL
)
_STRIPPED_OPEN = re.compile(r"\s*analysis(?=[A-Z])")
_HALVES = re.compile("[\ud800-\udfff\ufffd]")


class Spoken(NamedTuple):
    """An answer, and the thinking before it without its tags; both may be empty."""

    answer: str
    reasoning: str = ""


def split_thinking(text: str, *, is_open: bool = False) -> Spoken:
    """The answer of a text and its thinking; a text without any stays as it is.

    `is_open`: the prompt ended in an opening tag, so that the text begins with thinking. Thinking that never ends takes
    the whole text. A tag within quotes, a line of prose or a block of code is a part of the answer that speaks of it.
    """
    if _HARMONY.match(text):
        return _by_channel(text)
    stripped = _STRIPPED.match(text)
    if stripped:
        return Spoken(stripped["answer"].strip(), stripped["thought"].strip())
    if _STRIPPED_OPEN.match(text):
        return Spoken("", text.strip().removeprefix("analysis"))
    if not is_open and not _MARK.search(text):
        return Spoken(text)
    return _by_tags(text, is_open=is_open)


def join_thinking(spoken: Spoken) -> str:
    """The text that `split_thinking` splits into these again."""
    return f"<think>\n{spoken.reasoning}\n</think>\n\n{spoken.answer}" if spoken.reasoning else spoken.answer


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends in an opening tag, as some chat templates let the model begin."""
    return _OPEN_END.search(prompt) is not None


def whole_characters(text: str) -> str:
    """The text without what is left of characters that were cut in two: U+FFFD, and halves of a surrogate pair."""
    return text if text.isascii() else _HALVES.sub("", text)


def _by_tags(text: str, *, is_open: bool) -> Spoken:
    said: list[str] = []
    thoughts: list[str] = []
    begin, thinks, found_any = 0, is_open, is_open
    for mark in _MARK.finditer(text):
        before = text[begin : mark.start()]
        if thinks:
            if mark["open"]:
                continue
            thoughts.append(before)
            thinks = False
        elif _is_spoken_of(text, mark, "".join([*said, before]), has_thought=bool(thoughts)):
            continue
        elif mark["open"]:
            said.append(before)
            thinks = True
        else:
            # The prompt or an earlier tag has opened it.
            thoughts += [*said, before]
            said = []
        begin, found_any = mark.end(), True
    if not found_any:
        return Spoken(text)
    (thoughts if thinks else said).append(text[begin:])
    parts = (part.strip() for part in thoughts)
    answer = "".join(said).strip()
    marked = _AS_ANSWER.match(answer)
    if marked:
        answer = next(group for group in marked.groups() if group is not None).strip()
    return Spoken(answer, "\n".join(part for part in parts if part))


def _is_spoken_of(text: str, mark: re.Match[str], before: str, *, has_thought: bool) -> bool:
    """Whether the tag is named by the answer, and marks nothing; a second end after some thinking is no name."""
    line = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
    behind = text[mark.end() : mark.end() + 1]
    if before.count("```") % 2 or (line and line[-1] in _QUOTES):
        return True
    if mark["open"]:
        return bool(line.strip())
    return not has_thought and line.endswith(" ") and bool(line.strip()) and behind not in ("", "\n")


def _by_channel(text: str) -> Spoken:
    said: list[str] = []
    thoughts: list[str] = []
    for channel, content in _SEGMENT.findall(text):
        (said if channel == "final" else thoughts).append(content.strip())
    if not said and not thoughts:  # a channel that had no time to say anything
        return Spoken("", _MARK.sub("", text).strip())
    return Spoken("\n".join(said), "\n".join(thought for thought in thoughts if thought))

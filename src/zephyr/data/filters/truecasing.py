"""Capital letters at the beginning of English sentences and for the pronoun "I": "hello. how are you? i am" is fixed.

About one in twenty dialogues of UltraChat has this fault. The truecaser used for the published data is not known. This
one knows no names and is conservative: it leaves code, addresses, formulas and single words alone, lines after the
first that begin in lower case, what follows an abbreviation, an ellipsis or a closing quotation mark, and words with a
capital inside (iPhone). Only the case of letters changes, and applying it twice changes nothing more.
"""

import re
from collections.abc import Iterator

from zephyr.data.filters.row_filter import Verdict, all_texts, with_texts
from zephyr.records.rows import Record

# Fenced and inline code, tags, formulas, addresses, paths and options: masked before anything else.
_PROTECTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`|<[^<>\n]{1,200}>|\$[^$\n]{1,200}\$|\\\(.{0,500}?\\\)|\\\[.{0,500}?\\\]"
    r"|\b(?:https?://|www\.)\S+|[^\s@]{1,64}@[^\s@]+|(?<!\S)--?\w[\w-]*",
    re.DOTALL | re.IGNORECASE,
)
_CODE_LINE = re.compile(
    r"^(?: {4}|\t|>>>|\$ |\||#include\b).*$|^.*(?:[{};]|\\)[ \t]{0,8}$"
    r"|^.*(?:\w\(\)|==|!=|=>|->|::|:=|\+=|\\[a-z]+\{|</|/>|//|/\*|\w\[\w{1,40}\]).*$",
    re.MULTILINE | re.IGNORECASE,
)
_PLAIN_WORD = r"[\"“\u2018(]?(?P<word>[^\W\d_]+(?:['\u2019-][^\W\d_]+)*)(?=[,;:!?)\"”]*(?:\s|\Z)|[.!?]+(?:\s|\Z))"
_AFTER_MARK = re.compile(rf"(?<=[^\s.!?…])(?P<mark>\.|[!?]{{1,3}}) {{1,2}}(?={_PLAIN_WORD})")
_FIRST_WORD = re.compile(rf"\s*(?={_PLAIN_WORD})")
_SENTENCE_END = re.compile(r"\w[.!?][\"\u201d\u2019)]*(?:\s|\Z)")
_NO_PROSE = re.compile(r"[=<>{}\[\]$|\\/_]|\w\(")
_LOOKED_BACK = 200
_LIST_LABEL = re.compile(r"[^\W\d_][.):]")
_ABBREVIATION_LIST = (
    "a.d a.m al alt approx apr art aug ave b.c blvd bros ca capt cf ch co col corp dec dept dr e.g ed eds eg "
    "eq est etc ex feb fig figs ft gen gov hon hr hrs i.e ie inc incl ital jan jr jul jun lb lbs lt ltd mar "
    "max min mon mr mrs ms mt nov no nos oct op oz p p.m p.s para ph.d pp prof rd ref refs resp rev sat sec "
    "sep sept sgt sr st sun tel thu tue u.k u.n u.s viz vol vols vs v wed yd "
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
# After these the sentence continues: "and she, oh! she knows".
_INTERJECTIONS = frozenset({"ah", "alas", "aye", "eh", "ha", "ho", "o", "oh"})
# Names of commands and packages that are lower-case even at the beginning of a sentence.
_ALWAYS_SMALL = frozenset(
    {"npm", "npx", "pip", "sudo", "grep", "numpy", "pandas", "pytest", "kubectl", "webpack", "stdin", "stdout"}
    | {"iphone", "ipad", "ios", "macos", "ebay"}
)

_MODALS = "am|can|could|did|do|may|should|would"
_PRONOUN = re.compile(
    r"(?<![\w'\u2019.-])i(?=['\u2019](?:m|ve|ll|d)(?!\w))"
    r"|(?<![^\s\"\u201c\u2018(])i(?= (?:am|was|will|would|had|do|did|can(?:not)?|should|could|might|must|need|wants?"
    r"|(?:do|did|ca|could|would|wo|was)n['\u2019]t|wanted|think|thought|know|knew|like|love|hate|hope|wish|feel|felt"
    r"|guess|believe|remember|understand|mean|just|also|really|never|always|went|got|get|said|saw|made|tried|used"
    r"|live|work|have (?:a|an|the|been|to|no|not|never|always|already|just|some|my))(?!\w))"
    rf"|(?<![\w'\u2019])(?:{_MODALS}) (?P<after_modal>i)(?=[ ?!,]|\.(?!\w))",
    re.IGNORECASE,
)
# Before a word of the pronoun's company, "i" still counts something: "for each i can", "where i was 3".
_COUNTERS = frozenset(
    {"for", "index", "variable", "integer", "element", "row", "column", "step", "each", "let", "where"}
)


def truecase_record(record: Record) -> Verdict:
    """`record` with every text truecased; nothing is dropped."""
    changed = with_texts(record, truecase)
    if changed is record:
        return Verdict(record)
    before, after = next(pair for pair in zip(all_texts(record), all_texts(changed), strict=True) if pair[0] != pair[1])
    first = next(place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
    return Verdict(changed, "capital letters", after[max(0, first - 30) : first + 50])


def truecase(text: str) -> str:
    """`text` with capital letters where sentences begin and for the pronoun "I"; nothing else is changed."""
    plain = _CODE_LINE.sub(_mask, _PROTECTED.sub(_mask, text))
    letters = list(text)
    for place in (*_sentence_starts(plain), *_pronouns(plain)):
        # A title letter, not a capital: they differ for some scripts, and a few letters have no single one.
        raised = letters[place].title()
        if len(raised) == 1 and raised.lower() == letters[place]:
            letters[place] = raised
    return "".join(letters)


def _mask(found: re.Match[str]) -> str:
    """As many characters that no rule matches; line breaks are kept."""
    return re.sub(r"[^\n]", "_", found[0])


def _sentence_starts(text: str) -> Iterator[int]:
    for found in _AFTER_MARK.finditer(text):
        if _may_rise(found["word"]) and not _belongs_to_word(text, found.start(), found["mark"]):
            yield found.start("word")
    first = _FIRST_WORD.match(text)
    if first and _may_rise(first["word"]) and _is_prose(text[first.end() :].split("\n", 1)[0]):
        yield first.start("word")


def _may_rise(word: str) -> bool:
    # A single letter is a variable or a label more often than a word.
    return word.islower() and word not in _ALWAYS_SMALL and (len(word) > 1 or word in "ai")


def _is_prose(line: str) -> bool:
    ends = _SENTENCE_END.search(line)
    return bool(ends) and len(line.split()) >= 3 and not _NO_PROSE.search(line) and not _LIST_LABEL.match(line)


def _belongs_to_word(text: str, end: int, mark: str) -> bool:
    """Whether the mark at `end` belongs to the word before it: an abbreviation, an initial, a number, a name."""
    before = text[max(0, end - _LOOKED_BACK) : end]
    token = before.rsplit(maxsplit=1)[-1]
    word = re.split(r"[-/]", token)[-1].lstrip("\"'\u201c\u2018([*")
    if len(word) <= 1 or word.isdigit():
        return True
    # The first word of a sentence is written with a capital anyway; a later one may be a name: Joomla!, Bros.
    sentence = before[: len(before) - len(token)].rstrip()
    is_name = bool(sentence) and sentence[-1] not in ".!?\n" and word[0].isupper()
    if mark != ".":
        return is_name or word.lower() in _INTERJECTIONS
    return "." in word or word.lower() in _ABBREVIATIONS or (is_name and len(word) <= 4)


def _pronouns(text: str) -> Iterator[int]:
    for found in _PRONOUN.finditer(text):
        start = found.start("after_modal") if found["after_modal"] else found.start()
        before = text[max(0, start - 20) : start].split()
        if not before or before[-1].lower() not in _COUNTERS:
            yield start

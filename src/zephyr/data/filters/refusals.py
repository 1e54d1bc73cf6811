"""Answers that refuse, or speak of themselves as a language model, detected by phrases, each with an example.

The phrases that ultrachat_200k was filtered by are not published beyond three of them ("I do not have emotions", "I
don't have opinions", "I don't have personal experiences"); this list is our own, and docs/filters.md prints it. A
phrase inside quotation marks, code or a quoted paragraph does not count, nor does one about others: an answer may
discuss refusals. A proper refusal must be at the beginning of the answer. "I do not know" is honest and kept.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from zephyr.data.filters.row_filter import TextFault, Verdict, context, without_faulty_answers
from zephyr.records.rows import Preference, Rated, Record, Text

BEGINNING_CHARACTERS = 200

SPEAKS_AS_MODEL = "speaks as a language model"
DENIES_A_SELF = "says it has no feelings, opinions or experiences"
HAS_NO_ACCESS = "says it cannot reach the world outside"
REFUSES = "refuses"
OWN_PHRASE = "phrase of the recipe"

_AI = r"(?:ai|artificial intelligence|(?:large )?language model)"
_AI_NOUN = rf"(?:{_AI}(?: language)?(?: model| assistant| chatbot| bot| system| program)?)"
_MODIFIED = r"(?:[a-z-]+ ){0,3}?"
_AI_PEOPLE = "researcher|engineer|enthusiast|student|expert|developer|scientist|specialist|ethicist|compan|lab"
_DO_NOT = r"(?:do not|don't|dont|cannot|can't|can not|lack|am not able to|am unable to|'m not able to|'m unable to)"
_ADVERBS = r"(?: (?:actually|really|truly|personally|currently|yet))?"
_NOT_ABLE = (
    r"\bi(?: simply| just| really)?"
    r"(?: cannot| can't| cant| can not| won't| will not|(?: am|'m)(?: sorry,?)?(?: but)?"
    r" (?:unable|not (?:able|allowed|permitted|comfortable|willing|programmed|designed))(?: to| with)?)"
    r"(?: in good conscience)?"
)
_HELP = (
    r"(?:assist(?:ing)?|help(?:ing)?)(?: (?:you|anyone))?(?: out)?(?: (?:with|in|to)\b|[.!,]| and\b)|"
    r"(?:fulfill|complet\w+|process\w*|carry out|perform) (?:this|that|your|such|the)|comply|"
    r"(?:provid\w+|giv\w+|generat\w+|creat\w+|produc\w+|writ\w+|offer\w*|shar\w+|suppl\w+) (?:you |with |any |an? |"
    r"that |this |such |the |information|instructions|advice|guidance|content|medical|legal)|"
    r"(?:answer|respond to|discuss|continue|support|encourage|promote|condone|engage in|participate in|do) "
    r"(?:to |with |any |this|that|your|such|the|illegal|harmful|an? )"
)
_APOLOGY = r"(?:sorry|afraid|apologi[sz]e|apologies|regret|unfortunately)[^.!?]{0,40}?"


class Phrase(NamedTuple):
    """A pattern to search in normalised text, the reason it stands for, and an example."""

    reason: str
    example: str
    pattern: str
    only_at_beginning: bool = False


PHRASES = (
    Phrase(
        SPEAKS_AS_MODEL,
        "As an AI language model, I cannot taste food.",
        rf"\bas an? {_MODIFIED}{_AI_NOUN}(?:,? i\b|, )",
    ),
    Phrase(
        SPEAKS_AS_MODEL,
        "I'm just an AI assistant.",
        rf"\bi(?: am|'m)(?: sorry,?)?(?: but)?(?: just| only| simply| merely| still)* an? {_MODIFIED}{_AI_NOUN}\b"
        rf"(?! (?:{_AI_PEOPLE}))",
    ),
    Phrase(
        SPEAKS_AS_MODEL,
        "I was trained by OpenAI.",
        r"\bi(?: am|'m| was)(?: an? [a-z ]{1,40})? (?:trained|created|developed|made|built) by "
        r"(?:openai|anthropic|google|meta|microsoft|mistral)\b",
    ),
    Phrase(
        SPEAKS_AS_MODEL,
        "That lies after my knowledge cutoff.",
        r"\bmy knowledge cut-? ?off|\bas of my (?:last|latest)(?: knowledge)? update|\b(?:on|given) my training data\b",
    ),
    Phrase(
        DENIES_A_SELF,
        "I do not have emotions.",
        rf"\bi{_ADVERBS} ?{_DO_NOT}{_ADVERBS}(?: have| possess| hold| experience| feel| form)*"
        r"(?: any| my own| the (?:ability|capacity) (?:to (?:have|feel|experience|form)|for))*"
        r"(?: (?:personal|human|real|subjective|individual|own|physical) (?:or \w+ )?)?"
        r" ?\b(?:emotions?|feelings|opinions|beliefs|consciousness|"
        r"(?:thoughts|feelings|emotions|beliefs|opinions|preferences)(?:,| or| and) \w+)\b(?! (?:for|towards?)\b)",
    ),
    Phrase(
        DENIES_A_SELF,
        "I don't have personal experiences.",
        rf"\bi{_ADVERBS} ?{_DO_NOT}{_ADVERBS}(?: have| possess| hold| experience| form)*(?: any)?"
        r" (?:personal|human|subjective|physical|real-world) (?:\w+(?:,| or| and) )?"
        r"(?:experiences?|opinions?|beliefs?|preferences?|views?|feelings?|emotions?|sensations?|body|form|presence)\b",
    ),
    Phrase(
        HAS_NO_ACCESS,
        "I don't have access to real-time information.",
        r"\bi (?:do not|don't|dont|lack) ?(?:currently )?(?:have )?(?:direct |the ability to )?access(?: to)? "
        r"(?:any |the )?(?:real[- ]?time|internet|web|current|up-to-date|live|external|personal)",
    ),
    Phrase(
        HAS_NO_ACCESS,
        "I cannot browse the internet.",
        rf"{_NOT_ABLE} (?:browse|access|search|open|view|see|watch|hear|play|display|click on) "
        r"(?:on )?(?:the |any |external )?(?:internet|web\b|online|links?|urls?|websites?|images?|videos?)",
    ),
    Phrase(REFUSES, "I can't help with that.", rf"{_NOT_ABLE} (?:{_HELP})", only_at_beginning=True),
    Phrase(
        REFUSES,
        "Sorry, but it is not something I can do.",
        rf"\b{_APOLOGY}(?:not something (?:that )?i (?:can|am able)|beyond (?:my|what i)|outside (?:of )?(?:my|what i)|"
        r"against my)",
        only_at_beginning=True,
    ),
    Phrase(
        REFUSES,
        "I must respectfully decline.",
        r"\bi (?:must|have to|will have to|need to) (?:(?:respectfully|politely) (?:decline|refuse)\b"
        r"(?! (?:your|the) (?:offer|invitation|position|job|proposal))|"
        r"(?:decline|refuse) to (?:answer|assist|comply|engage|help|provide))",
        only_at_beginning=True,
    ),
    Phrase(
        REFUSES,
        "It would be inappropriate for me to answer.",
        r"\b(?:not|never|isn't|wouldn't be|in) ?(?:appropriate|ethical|right|proper) for me to\b",
        only_at_beginning=True,
    ),
    Phrase(
        REFUSES,
        "That goes against my guidelines.",
        r"\b(?:against|violates?|contrary to|goes beyond) my (?:ethical |safety |content )?"
        r"(?:guidelines|principles|policy|policies|programming)\b",
    ),
)
_COMPILED = tuple((phrase, re.compile(phrase.pattern)) for phrase in PHRASES)

_APOSTROPHES = str.maketrans("\u2019\u02bc\u2018`\u00b4", "'''''")
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|^[ \t]*>[^\n]*|\"(?:[^\"\n]|\n(?!\s*\n)){1,1000}\"|“[^”]{1,1000}”|«[^»]{1,1000}»"
    r"|(?<![\w'])'(?:[^'\n]|'(?=\w)){1,300}'(?!\w)|(?<!\w)\u2018(?:[^\u2019\n]|\u2019(?=\w)){1,300}\u2019(?!\w)",
    re.DOTALL | re.MULTILINE,
)
_EMPHASIS = re.compile(r"[*_#]+")


def judge_refusals(own: Sequence[re.Pattern[str]], record: Record) -> Verdict:
    """`record`, dropped if an answer to learn from refuses or speaks of itself as a language model.

    Of rated answers the refusing ones are removed. In a preference only the best completion counts: a rejected
    refusal is worth learning from. `own` are the patterns of the recipe's phrases.
    """
    taught = [message.content for message in context(record) if message.role == "assistant"]
    match record:
        case Text():
            taught.append(record.text)
        case Preference() if len(record.completions) > 1 or record.ratings[0] > 0:
            taught.append(record.completions[0])
        case _:
            pass
    for text in taught:
        fault = find_refusal(text, own)
        if fault:
            return Verdict(None, fault.reason, fault.evidence)
    if isinstance(record, Rated):
        return without_faulty_answers(record, lambda answer: find_refusal(answer.text, own))
    return Verdict(record)


def find_refusal(text: str, own: Sequence[re.Pattern[str]] = ()) -> TextFault | None:
    """Why `text` counts as a refusal, with the words that say so, or None."""
    said = _said(text)
    for phrase, pattern in _COMPILED:
        found = pattern.search(said, 0, BEGINNING_CHARACTERS if phrase.only_at_beginning else len(said))
        if found:
            return TextFault(phrase.reason, _around(said, found))
    for pattern in own:
        found = pattern.search(said)
        if found:
            return TextFault(OWN_PHRASE, _around(said, found))
    return None


def own_phrase(phrase: str) -> re.Pattern[str]:
    """A pattern for the whole words of `phrase`, in whatever case and with whatever apostrophes."""
    return re.compile(rf"(?<!\w){re.escape(_plain(phrase))}(?!\w)")


def _said(text: str) -> str:
    """The answer's own words, without quotations; an answer that is one quotation counts as its own words."""
    unquoted = _QUOTED.sub(" … ", text)
    return _plain(unquoted) if unquoted.strip(" ….,\n") else _plain(text.strip(" \n\"“”'\u2018\u2019"))


def _plain(text: str) -> str:
    return " ".join(_EMPHASIS.sub("", text).translate(_APOSTROPHES).casefold().split())


def _around(text: str, found: re.Match[str]) -> str:
    return text[max(0, found.start() - 20) : found.end() + 60]

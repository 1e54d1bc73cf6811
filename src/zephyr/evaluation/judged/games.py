"""Games between two assistants on the same prompts: played before a judge, scored and written.

What is shown first is often preferred, so each match is played in both orders by default, and how often
the two verdicts agree is part of every score. Source: arXiv 2306.05685, section 3.4; FastChat, show_result.py.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from zephyr.evaluation.judged.bench import (
    NO_ANSWER,
    CallBatches,
    count_causes,
    is_whole_reply,
    replies_to,
    thinking_note,
    why_no_verdict,
)
from zephyr.evaluation.judged.pairs import Match, PairWording
from zephyr.evaluation.judged.score import SHARE_SCALE, JudgedScore, Judgment, judged_score
from zephyr.records.fields import Json
from zephyr.records.writing import write_jsonl
from zephyr.teachers.protocol import ChatRequest, Teacher

TIED = 0.5
Orders = Literal["both", "given", "swapped"]


class Game(NamedTuple):
    """One verdict: A's share of it (1 won, 0.5 tied, 0 lost), or None with the reason, and what the judge wrote.

    `reasoning` is what the judge thought before.
    """

    share: float | None
    reply: str = ""
    reason: str = ""
    reasoning: str = ""


class Played(NamedTuple):
    """A match with its games in the given and the swapped order, as far as they were played."""

    match: Match
    given: Game | None
    swapped: Game | None

    @property
    def games(self) -> list[Game]:
        """Those that were played."""
        return [game for game in (self.given, self.swapped) if game is not None]

    @property
    def share(self) -> float | None:
        """A's share of the match: of two verdicts that contradict each other a tie, None if one is missing."""
        shares = [game.share for game in self.games if game.share is not None]
        if len(shares) < len(self.games) or not shares:
            return None
        if all(share in (0.0, TIED, 1.0) for share in shares):
            return shares[0] if len(set(shares)) == 1 else TIED
        return math.fsum(shares) / len(shares)


class ArenaScores(NamedTuple):
    """In percent. `win_rate` gives no credit for a tie, `adjusted` half of it; both over matches with all verdicts.

    `swap_consistency` is the share of matches whose two verdicts agree, `shown_first` how often the assistant shown
    first won a decided game (50 without position bias); None where nothing was swapped.
    """

    win_rate: JudgedScore
    adjusted: JudgedScore
    wins: int
    losses: int
    ties: int
    swap_consistency: float | None
    shown_first: float | None
    categories: dict[str, JudgedScore]


def play(
    matches: Sequence[Match],
    judge: Teacher,
    wording: PairWording,
    batches: CallBatches,
    *,
    orders: Mapping[str, Orders] | Orders = "both",
) -> list[Played]:
    """The matches with their verdicts; `orders`: the order for all matches, or for each by its key.

    Equal answers tie without being judged; matches that lack an answer are missing.
    """
    order_of = {match.key: orders if isinstance(orders, str) else orders[match.key] for match in matches}
    requests = [
        ChatRequest(
            key=f"{match.key} {order}",
            messages=wording.ask(shown),
            temperature=wording.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=wording.max_tokens,
            top_logprobs=wording.top_logprobs,
        )
        for match in matches
        if match.is_whole and match.first != match.second
        for order, shown in (("given", match), ("swapped", match.swapped))
        if order_of[match.key] in (order, "both")
    ]
    replies = replies_to(judge, requests, batches)

    def game(match: Match, order: Literal["given", "swapped"]) -> Game | None:
        if order_of[match.key] not in (order, "both"):
            return None
        if not match.is_whole:
            return Game(None, reason=match.reason or NO_ANSWER)
        if match.first == match.second:
            return Game(TIED, reason="equal answers")
        reply = replies[f"{match.key} {order}"]
        read = wording.read(reply.text, match) if is_whole_reply(reply, wording.max_tokens) else None
        if read is None:
            return Game(None, reply.text, why_no_verdict(reply, "no verdict in the judge's reply"), reply.reasoning)
        return Game(read if order == "given" else 1 - read, reply.text, reasoning=reply.reasoning)

    return [Played(match, game(match, "given"), game(match, "swapped")) for match in matches]


def missing_causes(played: Sequence[Played]) -> dict[str, int]:
    """How many matches lack a verdict, by cause; a match whose two games lack one counts for the first."""
    return count_causes(next((game.reason for game in one.games if game.share is None), "") for one in played)


def judge_notes(played: Sequence[Played]) -> tuple[str, ...]:
    """A note on the judge's thinking, if it thought."""
    return thinking_note("judge", [game.reasoning for one in played for game in one.games if game.reply])


def arena_scores(played: Sequence[Played], *, seed: int = 0) -> ArenaScores:
    """The scores of A against B."""
    shares = [one.share for one in played]
    wins, losses = (sum(share is not None and side(share) for share in shares) for side in (_is_won, _is_lost))
    there = sum(share is not None for share in shares)
    categories = dict.fromkeys(one.match.category for one in played)

    def score(some: Sequence[Played], *, half_for_ties: bool) -> JudgedScore:
        judgments = [Judgment(one.match.prompt, _credit(one.share, half_for_ties=half_for_ties)) for one in some]
        return judged_score(judgments, seed=seed, scale=100, within=SHARE_SCALE)

    return ArenaScores(
        win_rate=score(played, half_for_ties=False),
        adjusted=score(played, half_for_ties=True),
        wins=wins,
        losses=losses,
        ties=there - wins - losses,
        swap_consistency=_swap_consistency(played),
        shown_first=_shown_first(played),
        categories={
            name: score([one for one in played if one.match.category == name], half_for_ties=True)
            for name in categories
        },
    )


def _credit(share: float | None, *, half_for_ties: bool) -> float | None:
    return share if share is None or half_for_ties else float(_is_won(share))


def _swap_consistency(played: Sequence[Played]) -> float | None:
    """In percent, of matches that were judged in both orders; two fractions agree if they favour the same side."""
    pairs = [(one.given.share, one.swapped.share) for one in played if one.given and one.swapped and one.given.reply]
    judged = [(first, second) for first, second in pairs if first is not None and second is not None]
    return 100 * sum(_side(a) == _side(b) for a, b in judged) / len(judged) if judged else None


def _shown_first(played: Sequence[Played]) -> float | None:
    won = [one.given.share > TIED for one in played if one.given and one.given.share not in (None, TIED)]
    won += [one.swapped.share < TIED for one in played if one.swapped and one.swapped.share not in (None, TIED)]
    return 100 * sum(won) / len(won) if won and all(one.given and one.swapped for one in played) else None


def _is_won(share: float) -> bool:
    return share > TIED


def _is_lost(share: float) -> bool:
    return share < TIED


def _side(share: float) -> int:
    return _is_won(share) - _is_lost(share)


def write_verdicts(folder: Path, played: Sequence[Played]) -> None:
    """Write every match with its answers and verdicts into the folder's judgments.jsonl."""
    rows: list[dict[str, Json]] = [
        {
            "key": one.match.key,
            "category": one.match.category,
            "turns": list(one.match.turns),
            "first": list(one.match.first),
            "second": list(one.match.second),
            "given": None if one.given is None else dict(one.given._asdict()),
            "swapped": None if one.swapped is None else dict(one.swapped._asdict()),
            "share": one.share,
        }
        for one in played
    ]
    write_jsonl(folder / "judgments.jsonl", rows, replace=True)


def in_percent(share: float | None) -> float | None:
    """The share in percent, None where there is none."""
    return None if share is None else 100 * share

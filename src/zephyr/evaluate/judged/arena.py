"""Two assistants on the same prompts, compared by a judge, with the order of showing them swapped.

What is shown first is often preferred, so each match is played in both orders unless told otherwise, and how often
the two verdicts agree is part of every score. Source: arXiv 2306.05685, section 3.4; FastChat, show_result.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from zephyr.evaluate.judged.arena_wording import PairWording
from zephyr.evaluate.judged.calls import NO_ANSWER, Calling, count_causes, replies_to, why_no_verdict
from zephyr.evaluate.judged.score import JudgedScore, Judgment, judged_score
from zephyr.records.messages import Messages
from zephyr.teachers.protocol import ChatRequest, Teacher

TIE = 0.5
Orders = Literal["both", "given", "swapped"]


class Match(NamedTuple):
    """The answers of assistants A and B to a user's turns; None where an answer failed to come.

    `prompt` names what is drawn together in intervals: the turns of one question have one. `context` was said
    before the first turn; `reason` is why an answer is missing.
    """

    key: str
    prompt: str
    category: str
    turns: tuple[str, ...]
    first: tuple[str | None, ...]
    second: tuple[str | None, ...]
    references: tuple[str, ...] = ()
    context: Messages = ()
    reason: str = ""

    @property
    def swapped(self) -> "Match":
        """The match with its assistants exchanged."""
        return self._replace(first=self.second, second=self.first)

    @property
    def is_whole(self) -> bool:
        """Whether no answer is missing."""
        return None not in (*self.first, *self.second)


class Game(NamedTuple):
    """One verdict: A's share of it (1 won, 0.5 tied, 0 lost), or None with the reason, and what the judge wrote."""

    share: float | None
    reply: str = ""
    reason: str = ""


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
        if all(share in (0.0, TIE, 1.0) for share in shares):
            return shares[0] if len(set(shares)) == 1 else TIE
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
    calling: Calling,
    *,
    orders: Mapping[str, Orders] | Orders = "both",
) -> list[Played]:
    """The matches with their verdicts; `orders` may tell for every match by its key in which order it is shown.

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
    replies = replies_to(judge, requests, calling)

    def game(match: Match, order: Literal["given", "swapped"]) -> Game | None:
        if order_of[match.key] not in (order, "both"):
            return None
        if not match.is_whole:
            return Game(None, reason=match.reason or NO_ANSWER)
        if match.first == match.second:
            return Game(TIE, reason="equal answers")
        reply = replies[f"{match.key} {order}"]
        read = None if reply.finish_reason == "error" else wording.read(reply.text)
        if read is None:
            return Game(None, reply.text, why_no_verdict(reply, "no verdict in the judge's reply"))
        return Game(read if order == "given" else 1 - read, reply.text)

    return [Played(match, game(match, "given"), game(match, "swapped")) for match in matches]


def missing_causes(played: Sequence[Played]) -> dict[str, int]:
    """How many matches lack a verdict, by cause; a match whose two games lack one counts for the first."""
    return count_causes(next((game.reason for game in one.games if game.share is None), "") for one in played)


def arena_scores(played: Sequence[Played], *, seed: int = 0) -> ArenaScores:
    """The scores of A against B."""
    shares = [one.share for one in played]
    wins, losses = (sum(share is not None and side(share) for share in shares) for side in (_is_won, _is_lost))
    there = sum(share is not None for share in shares)
    categories = dict.fromkeys(one.match.category for one in played)

    def score(some: Sequence[Played], *, half_for_ties: bool) -> JudgedScore:
        judgments = [Judgment(one.match.prompt, _credit(one.share, half_for_ties=half_for_ties)) for one in some]
        return judged_score(judgments, seed=seed, scale=100)

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
    won = [one.given.share > TIE for one in played if one.given and one.given.share not in (None, TIE)]
    won += [one.swapped.share < TIE for one in played if one.swapped and one.swapped.share not in (None, TIE)]
    return 100 * sum(won) / len(won) if won and all(one.given and one.swapped for one in played) else None


def _is_won(share: float) -> bool:
    return share > TIE


def _is_lost(share: float) -> bool:
    return share < TIE


def _side(share: float) -> int:
    return _is_won(share) - _is_lost(share)

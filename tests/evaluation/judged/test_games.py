"""Two assistants compared: orders, verdicts that contradict each other, and what is missing."""

import json

import pytest

from zephyr.evaluation.judged.alpaca_eval import (
    ALPACA_EVAL_SAMPLING,
    InstructionAnswers,
    alpaca_eval_scores,
    answer_instructions,
    matches_of,
    model_share,
    published_order,
)
from zephyr.evaluation.judged.alpaca_eval_files import Instruction, read_instructions
from zephyr.evaluation.judged.bench import CallBatches
from zephyr.evaluation.judged.games import Game, Played, arena_scores, missing_causes, play
from zephyr.evaluation.judged.mt_bench_questions import find_bench_files
from zephyr.evaluation.judged.pairs import PUBLISHED_PAIR, Match, OwnPairs, PublishedPairs, RankedPairs, WeightedPairs
from zephyr.judging.published_prompts import TurnsPrompt, read_judge_prompts
from zephyr.judging.questions import read_comparison
from zephyr.judging.verdicts import write_verdict
from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatReply

PROMPT = TurnsPrompt("prompt", (Message("user", "{instruction}|{output_1}|{output_2}"),))


class Judging:
    """A judge that is a function of the request."""

    name = "judging"

    def __init__(self, says) -> None:
        self.says = says
        self.num_asked = 0

    def answer(self, requests):
        for request in requests:
            self.num_asked += 1
            said = self.says(request)
            yield ChatReply(request.key, said or "", "error" if said is None else "stop", "" if said else "down")


def match(key, first="good", second="bad", category="all"):
    return Match(key, key, category, ("Say.",), (first,), (second,))


def likes(word):
    """Who prefers the answer with this word, whichever is shown first."""

    def says(request):
        shown = read_comparison(request.messages)
        better = [word in answers[0] for answers in (shown.first, shown.second)]
        return write_verdict("tie" if better[0] == better[1] else "first" if better[0] else "second", "So it is.")

    return Judging(says)


def test_a_fair_judge_is_consistent_and_a_biased_one_is_seen_through():
    matches = [match("1"), match("2", "bad", "good"), match("3", "bad 1", "bad 2")]
    scores = arena_scores(play(matches, likes("good"), OwnPairs(), CallBatches()))
    assert (scores.wins, scores.losses, scores.ties) == (1, 1, 1)
    assert scores.win_rate.score == pytest.approx(100 / 3)
    assert scores.adjusted.score == pytest.approx(50)
    assert (scores.swap_consistency, scores.shown_first) == (100.0, 50.0)

    biased = Judging(lambda _: write_verdict("first", "It comes first."))
    scores = arena_scores(play(matches, biased, OwnPairs(), CallBatches()))
    assert (scores.wins, scores.losses, scores.ties) == (0, 0, 3)
    assert (scores.swap_consistency, scores.shown_first) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("given", "swapped", "share"),
    [
        (1.0, 1.0, 1.0),
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.5),
        (0.5, 1.0, 0.5),  # a tie in either game is a tie
        (0.5, 0.5, 0.5),
        (None, 1.0, None),
        (0.8, 0.6, 0.7),  # weighted verdicts have a mean
    ],
)
def test_two_games_make_a_match(given, swapped, share):
    played = Played(match("1"), Game(given, "x"), Game(swapped, "y"))
    assert played.share == (None if share is None else pytest.approx(share))


def test_equal_and_missing_answers_are_not_judged():
    judge = likes("good")
    matches = [match("1", "same", "same"), match("2", None, "good"), match("3")]
    played = play(matches, judge, OwnPairs(), CallBatches())
    assert judge.num_asked == 2
    assert [one.share for one in played] == [0.5, None, 1.0]
    assert [game.reason for game in played[1].games] == ["no answer in the file"] * 2
    scores = arena_scores(played)
    assert (scores.adjusted.n, scores.adjusted.missing) == (2, 1)
    assert scores.swap_consistency == 100.0


def test_one_order_alone():
    judge = likes("good")
    played = play([match("1"), match("2")], judge, OwnPairs(), CallBatches(), orders={"1": "given", "2": "swapped"})
    assert judge.num_asked == 2
    assert [(one.given is None, one.swapped is None) for one in played] == [(False, True), (True, False)]
    assert [one.share for one in played] == [1.0, 1.0]
    assert arena_scores(played).swap_consistency is None
    assert arena_scores(played).shown_first is None


def test_verdicts_that_do_not_come_are_missing():
    played = play([match("1")], Judging(lambda _: None), OwnPairs(), CallBatches())
    assert [game.reason for game in played[0].games] == ["failed judge call: down"] * 2
    # Counted are matches, not their games.
    assert missing_causes(played) == {"failed judge call": 1}
    played = play([match("1")], Judging(lambda _: "A, I think."), OwnPairs(), CallBatches())
    assert arena_scores(played).win_rate.fields()["label"] == "incomplete"


def test_ranks_and_weights_of_alpaca_eval():
    ranked = RankedPairs(PROMPT, "1")
    assert ranked.ask(match("1"))[0].content == "Say.|good|bad"
    assert ranked.read("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", match("1")) == 1.0
    assert ranked.read("none", match("1")) is None
    weighted = WeightedPairs(PROMPT, "2")
    share = weighted.read(json.dumps({"M": -0.017597131, "m": -4.048847}), match("1"))
    assert share == pytest.approx(2 - 1.982558, abs=1e-6)
    assert weighted.read("m", match("1")) is None
    assert (weighted.max_tokens, weighted.top_logprobs, weighted.temperature) == (1, 5, 1.0)


def test_alpaca_eval_keeps_why_an_answer_is_missing():
    class Model:
        name = "model"

        def answer(self, requests):
            for one in requests:
                is_long = one.messages[0].content == "Long"
                yield ChatReply(
                    one.key, "", "error" if is_long else "stop", "9 tokens and 9 new ones exceed 9" * is_long
                )

    instructions = [Instruction("Long", "b", ""), Instruction("Short", "b", "")]
    answers = answer_instructions(Model(), instructions, ALPACA_EVAL_SAMPLING, CallBatches())
    assert answers.texts == {"Long": None, "Short": ""}
    played = play(matches_of(instructions, answers), likes("b"), OwnPairs(), CallBatches())
    reason = "prompt too long: 9 tokens and 9 new ones exceed 9"
    assert [game.reason for game in played[0].games] == [reason, reason]
    # An empty answer is an answer, and loses.
    assert model_share(played[1]) == 0.0
    assert missing_causes(played) == {"prompt too long": 1}


def test_published_orders_are_those_of_alpaca_eval():
    orders = [published_order(f"Task {number}") for number in range(400)]
    # Drawn by Python's generator from "is_switched_outputsTask 00" and so on.
    assert orders[:6] == ["swapped", "given", "given", "given", "given", "swapped"]
    assert 160 < orders.count("swapped") < 240


def test_alpaca_eval_scores_of_a_model_that_wins_three_of_four():
    instructions = [Instruction(f"Task {n}", "b" * 10, "koala" if n % 2 else "vicuna") for n in range(40)]
    answers = {one.text: "good" + "!" * (n % 7) if n % 4 else "bad" for n, one in enumerate(instructions)}
    played = play(matches_of(instructions, InstructionAnswers(answers, {})), likes("good"), OwnPairs(), CallBatches())
    scores = alpaca_eval_scores(played, difficulty=None)
    # The baseline lacks the word, and where both lack it the judge ties.
    assert scores.as_published.score == pytest.approx(75 + 25 / 2)
    assert scores.both_orders.score == scores.as_published.score
    assert set(scores.subsets) == {"koala", "vicuna"}
    assert scores.subsets["koala"].score == 100.0
    assert scores.length_controlled is not None
    assert 50 < scores.length_controlled.win_rate <= 100
    assert model_share(played[1]) == 1.0


def test_the_published_pairwise_wording(shared_data):
    files = find_bench_files(shared_data / "eval")
    prompts = read_judge_prompts(files.judge_prompts, PUBLISHED_PAIR)
    wording = PublishedPairs(prompts, prompts.version)
    guided = Match("111/2", "111", "math", ("q1", "q2"), ("a1", "a2"), ("b1", "b2"), ("r1", "r2"))
    for one in (guided, guided._replace(references=()), match("1"), match("1")._replace(references=("r1",))):
        for message in wording.ask(one):
            assert "{answer_" not in message.content
            assert "{question" not in message.content
    assert wording.read("[[B]]", match("1")) == 0.0
    assert wording.read(wording.ask(match("1"))[-1].content, match("1")) is None


def test_the_published_baselines(shared_data):
    for name in ("text_davinci_003", "gpt4_1106_preview"):
        instructions = read_instructions(shared_data / "eval" / "alpaca_eval" / f"{name}_outputs.json")
        assert len(instructions) == 805
        assert {one.subset for one in instructions} == {"helpful_base", "koala", "oasst", "selfinstruct", "vicuna"}

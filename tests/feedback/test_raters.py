"""Judges opened: checks alone, checks beside a judge, and the pairs made of such ratings."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from tests.feedback.recorded_teachers import RecordedTeacher
from zephyr.data.read.sources import open_source
from zephyr.data.tokenize.templates import jinja_of
from zephyr.errors import DataError
from zephyr.feedback import raters
from zephyr.feedback.binarize import binarize
from zephyr.feedback.judge import JudgeCall, JudgedRow
from zephyr.feedback.raters import rater_of, require_checks
from zephyr.judging.checks import require_checkers
from zephyr.models.loading import save_model
from zephyr.models.reward_model import NewHead, own_rewards, with_head
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.feedback_section import (
    BesideSection,
    BinarizeSection,
    ChecksSection,
    FeedbackSection,
    JudgingSection,
    RewardModelSection,
    reward_models_of,
    teachers_that_rate,
)
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.records.checks import checks_of
from zephyr.records.fields import UnusableError
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated
from zephyr.teachers.opening import TeacherContext

JUDGING = JudgingSection(aspects=["overall"], num_tries=1)
BESIDE = ChecksSection(beside=BesideSection(judge=ScriptedSection(), weight=0.25))
CHECKS = [
    {"instruction": "punctuation:no_comma"},
    {"instruction": "keywords:existence", "kwargs": {"keywords": ["hen"]}},
]


def row(*texts: str, checks: object = CHECKS, question: str = "Hens?") -> Rated:
    answers = tuple(Answer(text) for text in texts)
    return Rated("p.jsonl row 1", (Message("user", question),), answers, checks=checks_of({"checks": checks}))


def scores(one: Rated) -> list[float | None]:
    return [answer.score for answer in one.answers]


def test_checks_ask_no_teacher_and_count_like_any_judge() -> None:
    rater = rater_of(ChecksSection(), [], JUDGING)
    found = list(rater.rate([row("A hen", "Cows", "Hens, cows"), row("A hen")]))
    assert (rater.name, scores(found[0].rated)) == ("checks", [1, 0.5, 0.5])
    assert "holds: punctuation:no_comma" in found[0].rated.answers[1].rationale
    assert found[0].counts == Counter({"prompts": 1, "questions": 1, "rated": 1, "asked": 1})
    # One answer alone can be compared with nothing.
    assert scores(found[1].rated) == [None]
    assert found[1].counts == Counter({"prompts": 1, "prompts not asked about": 1})


def test_answers_in_rows_of_their_own_have_the_checks_of_all_of_them(tmp_path) -> None:
    rows = [("A hen", None), ("Hens, cows", CHECKS[:1]), ("Cows", CHECKS), ("Hens", CHECKS)]
    fields = [{"prompt": "Hens?", "completion": text, "score": 1, "checks": checks} for text, checks in rows]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in fields))
    (one,) = open_source(DataSource(path="p.jsonl"), "rated", data_dir=tmp_path, offline=True)
    assert one.checks == checks_of({"checks": CHECKS})
    (found,) = rater_of(ChecksSection(), [], JUDGING).rate([one])
    assert scores(found.rated) == [1, 0.5, 0.5, 1]


def test_a_judge_beside_has_its_weight_on_the_same_scale() -> None:
    replies = {"A hen": 10, "Cows": 1, "Hens, cows": 5.5}

    def reply(request) -> str:
        text = next(text for text in sorted(replies, key=len, reverse=True) if text in request.messages[-1].content)
        return f"Fine.\nOverall Score: {replies[text]}"

    rater = rater_of(BESIDE, [RecordedTeacher(reply)], JUDGING)
    checked, plain = rater.rate([row(*replies), row(*replies, checks=None, question="Cows?")])
    assert scores(checked.rated) == pytest.approx([1, 0.75 * 0.5, 0.75 * 0.5 + 0.25 * 0.5])
    # Without checks the judge's score alone, from 1 to 10, is brought to 0 to 1.
    assert scores(plain.rated) == pytest.approx([1, 0, 0.5])
    assert [call.aspect for call in checked.calls] == ["overall", "overall", "overall", "checks"]


def test_missing_packages_are_said_before_there_are_answers(monkeypatch) -> None:
    monkeypatch.setattr("zephyr.judging.checks.find_spec", lambda name: None if name == "nltk" else name)
    require_checkers.cache_clear()
    with pytest.raises(DataError, match=r"checks of instructions need the packages nltk; pip install 'zephyr-align"):
        require_checks(row(), ChecksSection())
    # Exact answers need none of them.
    require_checks(row(checks="42"), ChecksSection())
    with pytest.raises(UnusableError):
        require_checks(row(checks=None), ChecksSection())


def test_a_failed_rating_is_no_score() -> None:
    rater = rater_of(BESIDE, [RecordedTeacher(lambda _: "I cannot say.")], JUDGING)
    with pytest.raises(Exception, match="gave no rating"):
        list(rater.rate([row("A hen", "Cows")] * 4))
    (found,) = rater.rate([row("A hen", "Cows")])
    assert scores(found.rated) == [None, None]


def test_answers_that_hold_the_same_make_no_pair_and_are_counted() -> None:
    rows = [row("A hen", "Cows"), row("Hens", "A hen", question="Equal?"), row("A, b", "C, d", question="None?")]
    made = binarize((one.rated for one in rater_of(ChecksSection(), [], JUDGING).rate(rows)), BinarizeSection())
    (pair,) = made.rows
    assert (pair.completions, pair.ratings) == (("A hen", "Cows"), (1.0, 0.5))
    assert (made.prompts, made.dropped) == (3, Counter({"prompt with all ratings equal": 2}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"binarize": {"chosen": "mean"}}, "binarize.chosen must be overall"),
        ({"binarize": {"output": "kto"}}, "kto_threshold must be at most 1"),
        ({"judging": {"num_tries": 1}}, "judging is for judges that are asked, and judge checks is not"),
        ({"judge": BESIDE.model_dump(), "judging": {"aspects": ["honesty"]}}, "must name overall"),
    ],
)
def test_settings_that_checks_cannot_follow_are_refused(more: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FeedbackSection.model_validate({"judge": {"name": "checks"}, **more})


def test_a_reward_model_scores_answers_as_transformers_does(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=False))
    model = with_head(tiny_model("llama", vocab_size=384), NewHead(tokenizer, {EOS_ID}, 3))
    save_model(model, tokenizer, tmp_path / "reward")
    section = RewardModelSection(model=str(tmp_path / "reward"))
    rater = rater_of(section, [], JudgingSection(), TeacherContext(offline=True))
    long = "hen " * 3000
    rows = [row("A hen", "Cows", "Hens, cows"), row("A hen"), row("A hen", long), row("Hens", "A cow", question="Hm?")]
    found = list(rater.rate(rows))
    own = []
    for one in (rows[0], rows[3]):
        for answer in one.answers:
            talk = [{"role": "user", "content": one.prompt[0].content}, {"role": "assistant", "content": answer.text}]
            own.append(np.array(tokenizer.apply_chat_template(talk, tokenize=True)["input_ids"]))
    expected = own_rewards(model, own).tolist()
    assert scores(found[0].rated) + scores(found[3].rated) == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in expected}) == 5
    # One answer alone is not asked about; of answers too long for the model none has a score.
    assert (scores(found[1].rated), found[1].calls) == ([None], ())
    assert scores(found[2].rated) == [None, None]
    assert found[2].counts["failed tries: too long for the reward model"] == 1
    made = binarize((one.rated for one in found), BinarizeSection(rejected="worst"))
    best = max(range(3), key=lambda place: expected[place])
    assert (len(made.rows), made.rows[0].completions[0]) == (2, rows[0].answers[best].text)


def test_checks_beside_a_reward_model_have_its_probability(monkeypatch) -> None:
    rewards = {"A hen": 0.0, "Cows": math.log(3), "Hens, cows": -1000.0}

    def rewarded(rows, **_):
        for one in rows:
            answers = tuple(answer._replace(score=rewards[answer.text]) for answer in one.answers)
            yield JudgedRow(one._replace(answers=answers), (JudgeCall("reward", (0, 1, 2)),))

    monkeypatch.setattr(raters, "_scored_rows", rewarded)
    section = ChecksSection(beside=BesideSection(judge=RewardModelSection(model="reward"), weight=0.5))
    (found,) = rater_of(section, [], JUDGING).rate([row(*rewards)])
    assert scores(found.rated) == pytest.approx([0.5 + 0.25, 0.25 + 0.375, 0.25])
    assert teachers_that_rate(section) == {}
    assert reward_models_of(section).keys() == {"judge.beside.judge"}


def test_a_reward_model_is_asked_nothing() -> None:
    judge = {"name": "reward_model", "model": "reward"}
    with pytest.raises(ValueError, match="judging is for judges that are asked"):
        FeedbackSection(judge=judge, judging={"aspects": ["overall"]})
    with pytest.raises(ValueError, match="chosen must be overall with a reward model, got mean"):
        FeedbackSection(judge=judge, binarize={"chosen": "mean"})

"""The feedback stage in partitions: the same ratings as in one process, whatever the partitions; and over Ray."""

import json
from collections import Counter
from contextlib import nullcontext

import pytest
import torch

from tests.feedback.ray_teachers import OneByOne
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import TeacherError
from zephyr.feedback import rate, ray_workers
from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge, write_judged
from zephyr.feedback.rate import RatingPlan
from zephyr.feedback.ray_workers import rate_over_ray
from zephyr.models.new_model import new_model
from zephyr.models.tokenizers import learn_tokenizer
from zephyr.recipe.feedback_section import CandidatesSection, JudgingSection, RaySection
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import LocalSection, SamplingSection, ScriptedSection
from zephyr.records.rows import Answer, Rated
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.opening import OpenedTeacher, TeacherContext, open_teacher
from zephyr.teachers.scripted import ScriptedJudge
from zephyr.world import prompts

JUDGING = JudgingSection(aspects=("helpfulness", "overall"))
SCRIPTED = ScriptedSection()
ROWS = [
    Rated(f"row {number}", prompt.messages, (Answer("yes", "big"), Answer("no", "small")), "s")
    for number, prompt in enumerate(prompts("feedback", 0, 20))
]


@pytest.fixture
def in_process(monkeypatch):
    data = OneByOne()
    monkeypatch.setattr(ray_workers, "_running", lambda: nullcontext(data))
    return data


def lines(path) -> list[str]:
    """The rows in an order that does not depend on partitions."""
    return sorted(path.read_text().splitlines())


def tokens_in(path) -> int:
    with Ledger(path) as ledger:
        return sum(total.prompt_tokens + total.completion_tokens for total in ledger.totals())


def run(rows, folder, *, seed=0, num_partitions=5, **changes):
    section = RaySection(num_workers=2, num_partitions=num_partitions)
    plan = RatingPlan(SCRIPTED, JUDGING, TeacherContext(seed, offline=True), **changes)
    return rate_over_ray(rows, plan, folder, section)


def test_partitions_change_nothing_but_the_order(in_process, tmp_path):
    whole = tmp_path / "whole.jsonl"
    judge_ = ScriptedJudge()
    counts = write_judged(judge(ROWS, judge_, JUDGING), judge_.name, whole, tmp_path / "calls.jsonl")
    for num_partitions in (1, 7):
        made = run(ROWS, tmp_path / str(num_partitions), num_partitions=num_partitions)
        assert lines(made.ratings) == lines(whole)
        assert lines(made.calls) == lines(tmp_path / "calls.jsonl")
        assert made.counts.judged == counts
        with Ledger(made.ledger) as ledger:
            (total,) = ledger.totals()
        assert (total.tries, total.answers) == (60, 60)


def test_what_is_finished_is_not_done_again(in_process, monkeypatch, tmp_path):
    first = run(ROWS, tmp_path)
    (parts,) = tmp_path.glob("parts-*")
    finished = sorted(parts.glob("*/ratings.jsonl"))
    text = first.ratings.read_text()
    finished[0].unlink()
    opened = Counter()

    def counted(section, role, context, **where):
        opened[role] += 1
        return open_teacher(section, role, context, **where)

    monkeypatch.setattr(rate, "open_teacher", counted)
    again = run(ROWS, tmp_path)
    assert [item["part"] for item in in_process.rated] == [str(finished[0].parent)]
    assert opened == {"rates": 1}
    assert again.ratings.read_text() == text
    with Ledger(again.ledger) as ledger:
        assert ledger.totals()[0].tries == 60  # the part's ledger knew all of its answers
    # Ratings of other settings are not taken for these.
    run(ROWS, tmp_path, seed=1)
    assert len(in_process.rated) == len(finished)


def test_a_mistake_in_a_worker_is_told_and_the_others_work_is_kept(in_process, monkeypatch, tmp_path):
    first = run(ROWS, tmp_path / "whole")

    class Fails:
        """A judge that cannot be asked about one of the prompts."""

        name = ScriptedJudge.name

        def answer(self, requests):
            if any(ROWS[3].prompt[-1].content in request.messages[-1].content for request in requests):
                raise TeacherError("judge", "is out of reach", "start it")
            return ScriptedJudge().answer(requests)

    with monkeypatch.context() as patch:
        patch.setattr(rate, "open_teacher", lambda *_, **__: OpenedTeacher(Fails(), "scripted judge", SCRIPTED))
        with pytest.raises(TeacherError, match="judge: is out of reach; start it"):
            run(ROWS, tmp_path / "failed")
    assert not (tmp_path / "failed" / "ratings.jsonl").exists()
    again = run(ROWS, tmp_path / "failed")
    assert len(in_process.items) == 1
    assert lines(again.ratings) == lines(first.ratings)


def test_a_cap_holds_for_all_partitions_together(in_process, tmp_path):
    needed = tokens_in(run(ROWS, tmp_path / "free").ledger)
    for share in (0.2, 0.5, 1):
        most, folder = int(needed * share), tmp_path / str(share)
        with pytest.raises(TeacherError, match="the spend cap would be exceeded"):
            run(ROWS, folder, max_tokens=most)
        spent = sum(tokens_in(path) for path in folder.glob("parts-*/*/calls.sqlite"))
        assert spent <= most
    # What was kept is gone on with.
    made = run(ROWS, tmp_path / "0.5", max_tokens=1_000 * needed)
    assert made.counts.judged["rated"] == made.counts.judged["questions"]


@pytest.fixture(scope="module")
def local_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = learn_tokenizer([], vocab_size=260, max_length=2048)
    tokenizer.chat_template = DialogueEncoder(tokenizer, ChatTemplateSection()).chat_template
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 2048}
    new_model("mistral", sizes, tokenizer, seed=0, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_two_workers_of_ray_with_a_local_model(local_model, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    asked = list(prompts("feedback", 0, 24))
    local = LocalSection(model=str(local_model))
    candidates = CandidatesSection(
        num_completions=3,
        models=[],
        teachers=[local],
        sampling=SamplingSection(max_new_tokens=6),
        principles="code",
    )
    made = run(asked, tmp_path, candidates=candidates, num_partitions=6)
    assert not ray.is_initialized()
    assert made.counts.answers["asked"] == 72
    assert made.counts.judged["rated"] == made.counts.judged["questions"] > 0
    rows = [json.loads(line) for line in made.ratings.read_text().splitlines()]
    assert len(rows) + made.counts.judged["prompts without an answer"] == 24
    # One process comes to the same.
    opened = open_teacher(local, "writes", TeacherContext(offline=True))
    answered = (found.rated for found in answer_prompts(asked, [opened.teacher], candidates))
    judge_ = ScriptedJudge()
    write_judged(
        judge(answered, judge_, JUDGING), judge_.name, tmp_path / "whole.jsonl", tmp_path / "whole.calls.jsonl"
    )
    assert lines(made.ratings) == lines(tmp_path / "whole.jsonl")
    with Ledger(made.ledger) as ledger:
        assert {total.teacher: total.answers for total in ledger.totals()} == {
            "scripted judge with seed 0": made.counts.judged["asked"],
            opened.identity: 72,
        }

"""The feedback stage in partitions: the same ratings as in one process, whatever the partitions; and over Ray."""

import json
from collections import Counter

import pytest
import torch

from tests.feedback.ray_teachers import JUDGE, local, open_judge, open_local
from zephyr.data.encoding import DialogueEncoder
from zephyr.data.templates import TemplateSettings
from zephyr.feedback import ray_stage
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import JudgeSettings, judge
from zephyr.feedback.judged_files import write_judged
from zephyr.feedback.ray_stage import Cast, Opener, RaySettings, rate_over_ray
from zephyr.models.fresh import learn_tokenizer, new_model
from zephyr.records.rows import Answer, Rated
from zephyr.teachers.ledger import Ledger
from zephyr.world import prompts

ANSWERING = CandidateSettings(num_answers=3, max_tokens=6, principles="code")
JUDGING = JudgeSettings(aspects=("helpfulness", "overall"))
ROWS = [
    Rated(f"row {number}", prompt.messages, (Answer("yes", "big"), Answer("no", "small")), "s")
    for number, prompt in enumerate(prompts("feedback", 0, 20))
]


class OneByOne:
    """Ray's data module as far as it is used, in this process."""

    def __init__(self):
        self.items, self.rated = [], []

    def from_items(self, items, *, override_num_blocks):
        assert override_num_blocks == len(items)
        self.items = items
        return self

    def map(self, rater, *, fn_constructor_args, concurrency, num_cpus, num_gpus):
        rate = rater(*fn_constructor_args)
        self.rated = [rate(item) for item in self.items]
        return self

    def take_all(self):
        return self.rated


@pytest.fixture
def in_process(monkeypatch):
    data = OneByOne()
    monkeypatch.setattr(ray_stage, "_started", lambda: data)
    return data


def lines(path) -> list[str]:
    """The rows in an order that does not depend on partitions."""
    return sorted(path.read_text().splitlines())


def run(rows, folder, *, cast=None, num_partitions=5):
    sharing = RaySettings(num_workers=2, num_partitions=num_partitions)
    return rate_over_ray(rows, cast or Cast(JUDGE), folder, answering=ANSWERING, judging=JUDGING, sharing=sharing)


def test_partitions_change_nothing_but_the_order(in_process, tmp_path):
    whole = tmp_path / "whole.jsonl"
    judge_ = open_judge().teacher
    counts = write_judged(judge(ROWS, judge_, JUDGING), judge_.name, whole, tmp_path / "calls.jsonl")
    for num_partitions in (1, 7):
        made = run(ROWS, tmp_path / str(num_partitions), num_partitions=num_partitions)
        assert lines(made.ratings) == lines(whole)
        assert lines(made.calls) == lines(tmp_path / "calls.jsonl")
        assert made.counts == counts
        with Ledger(made.ledger) as ledger:
            (total,) = ledger.totals()
        assert (total.tries, total.answers) == (60, 60)


def test_what_is_finished_is_not_done_again(in_process, tmp_path):
    first = run(ROWS, tmp_path)
    (parts,) = tmp_path.glob("parts-*")
    finished = sorted(parts.glob("*/ratings.jsonl"))
    text = first.ratings.read_text()
    finished[0].unlink()
    opened = Counter()

    def fresh():
        opened["judge"] += 1
        return open_judge()

    again = run(ROWS, tmp_path, cast=Cast(Opener("scripted judge", fresh)))
    assert [item["part"] for item in in_process.rated] == [str(finished[0].parent)]
    assert opened == {"judge": 1}
    assert again.ratings.read_text() == text
    with Ledger(again.ledger) as ledger:
        assert ledger.totals()[0].tries == 60  # the part's ledger knew all of its answers
    # Another judge's ratings are not taken for this one's.
    run(ROWS, tmp_path, cast=Cast(Opener("another", open_judge)))
    assert len(in_process.rated) == len(finished)


@pytest.fixture(scope="module")
def local_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = learn_tokenizer([], vocab_size=260, max_length=2048)
    tokenizer.chat_template = DialogueEncoder(tokenizer, TemplateSettings()).chat_template
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
    try:
        made = run(asked, tmp_path, cast=Cast(JUDGE, (local(local_model),)), num_partitions=6)
    finally:
        ray.shutdown()
    assert made.counts["answers: asked"] == 72
    assert made.counts["rated"] == made.counts["questions"] > 0
    rows = [json.loads(line) for line in made.ratings.read_text().splitlines()]
    assert len(rows) + made.counts["prompts without an answer"] == 24
    # One process comes to the same.
    pool = [open_local(str(local_model)).teacher]
    answered = (found.rated for found in answer_prompts(asked, pool, ANSWERING))
    judge_ = open_judge().teacher
    write_judged(
        judge(answered, judge_, JUDGING), judge_.name, tmp_path / "whole.jsonl", tmp_path / "whole.calls.jsonl"
    )
    assert lines(made.ratings) == lines(tmp_path / "whole.jsonl")
    with Ledger(made.ledger) as ledger:
        assert {total.teacher: total.answers for total in ledger.totals()} == {
            "scripted judge": made.counts["asked"],
            str(local_model): 72,
        }

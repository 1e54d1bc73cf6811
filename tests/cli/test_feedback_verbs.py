"""`zephyr binarize`, `judge` and `judge audit`, as a user types them."""

import json
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.cli.verbs import lines, printed_json, zephyr
from tests.feedback.ray_teachers import OneByOne
from zephyr.data.read.sources import open_source
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.feedback import ray_workers
from zephyr.models.new_model import new_model
from zephyr.models.tokenizers import learn_tokenizer
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.writing import write_jsonl
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.scripted import ScriptedJudge
from zephyr.world import prompts

COLUMNS = ["prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected"]
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def ultrafeedback_row(number: int, dice: random.Random) -> dict:
    """A row as UltraFeedback publishes it, with the faults it has."""
    completions = []
    for model in dice.sample(["gpt-4", "llama-2-7b-chat", "falcon-40b-instruct", "alpaca-7b", "bard"], 4):
        ratings = {aspect: str(dice.randint(1, 5)) for aspect in ASPECTS}
        if dice.random() < 0.1:
            ratings["honesty"] = "N/A"
        numbers = [int(rating) for rating in ratings.values() if rating != "N/A"]
        completions.append(
            {
                "annotations": {
                    aspect: {"Rating": rating, "Rationale": "Because."} for aspect, rating in ratings.items()
                },
                "custom_system_prompt": "Be of use.",
                "principle": "helpfulness",
                "model": model,
                "response": f"{model} on {number}",
                "critique": "Well done.",
                "overall_score": None if dice.random() < 0.02 else float(dice.randint(1, 10)),
                "fine-grained_score": sum(numbers) / len(numbers),
            }
        )
    answers = {"correct_answers": ["None"], "incorrect_answers": ["None"]}
    models = [one["model"] for one in completions]
    source = dice.choice(["evol_instruct", "sharegpt"])
    return {
        "source": source,
        "instruction": f"Question {number}",
        "models": models,
        "completions": completions,
    } | answers


@pytest.fixture(scope="module")
def ultrafeedback(tmp_path_factory):
    dice = random.Random(0)
    path = tmp_path_factory.mktemp("raw") / "ultrafeedback.jsonl"
    write_jsonl(path, [ultrafeedback_row(number, dice) for number in range(1_000)])
    return path


# ---- binarize ----


def test_arena_bench_by_zephyrs_rule(shared_data, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    found = printed_json(capsys, "binarize", shared_data / "pref" / "arena_bench_v1.jsonl.gz", "-o", out)
    assert (found["prompts"], found["pairs"]) == (300, 300)
    assert found["dropped"] == {"answer without a score": 27, "empty answer": 1, "repeated answer": 1}
    rows = lines(out)
    assert len(rows) == 300
    assert list(rows[0]) == [*COLUMNS, "model_chosen", "model_rejected", "rule", "source"]
    for row in rows:
        assert row["score_chosen"] > row["score_rejected"]
        assert row["chosen"][:-1] == row["rejected"][:-1]
        assert row["rule"] == found["rule"]
        assert row["rule"].endswith("seed=0")


def test_ultrafeedbacks_raw_shape(ultrafeedback, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    found = printed_json(capsys, "binarize", ultrafeedback, "-o", out, "--seed", 5)
    raw = {row["instruction"]: row["completions"] for row in lines(ultrafeedback)}
    rows = lines(out)
    nulls = sum(one["overall_score"] is None for some in raw.values() for one in some)
    prompt_drops = sum(count for reason, count in found["dropped"].items() if reason.startswith("prompt"))
    assert found["prompts"] == 1_000 == found["pairs"] + prompt_drops
    assert found["dropped"]["answer without a score"] == nulls > 0
    assert found["dropped"]["answer with an overall 10 in doubt"] > 0
    assert "repair_overall=yes seed=5" in found["rule"]
    for row in rows:
        scores = {one["response"]: one["overall_score"] for one in raw[row["prompt"][-1]["content"]]}
        assert row["score_rejected"] in (scores[row["rejected"][-1]["content"]], 1.0)
        assert row["chosen"][-1]["content"].startswith(row["model_chosen"])


def test_rows_are_read_by_us_and_by_arrow(ultrafeedback, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    found = printed_json(capsys, "binarize", ultrafeedback, "-o", out)
    again = list(open_source(DataSource(path=str(out)), "preference", data_dir=tmp_path, offline=True))
    rows = lines(out)
    assert [one.completions for one in again] == [
        (row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in rows
    ]
    assert {one.rule for one in again} == {found["rule"]}
    assert [one.models for one in again] == [(row["model_chosen"], row["model_rejected"]) for row in rows]
    arrow = pytest.importorskip("pyarrow.json").read_json(out)
    assert arrow.column_names[:7] == COLUMNS
    assert arrow.num_rows == found["pairs"]


@pytest.mark.parametrize("output", ["listwise", "kto"])
def test_lists_and_labels(ultrafeedback, tmp_path, capsys, output):
    out = tmp_path / "rows.jsonl"
    found = printed_json(capsys, "binarize", ultrafeedback, "-o", out, "--output", output, "--chosen", "mean")
    again = list(open_source(DataSource(path=str(out)), "preference", data_dir=tmp_path, offline=True))
    assert len(again) == found[output] == len(lines(out))
    lengths = {len(one.completions) for one in again}
    assert lengths == {1} if output == "kto" else lengths <= {2, 3, 4}
    assert {one.rule for one in again} == {found["rule"]}
    assert all(len(one.models) == len(one.completions) for one in again)


def test_chance_is_the_seeds(ultrafeedback, tmp_path, capsys):
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.jsonl"
        printed_json(capsys, "binarize", ultrafeedback, "-o", out, "--seed", seed)
        texts.append([(row["chosen"], row["rejected"]) for row in lines(out)])
    assert texts[0] == texts[1] != texts[2]


def test_the_table(ultrafeedback, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    assert zephyr("binarize", ultrafeedback, "-o", out, "--min-gap", 20) == 2
    printed = capsys.readouterr()
    assert "no pairs can be made of 1,000 prompts, so nothing was written; see the reasons above" in printed.err
    assert not out.exists()
    shown = printed.out.splitlines()
    assert shown[0].startswith(str(ultrafeedback))
    assert shown[1].split() == ["prompts", "1,000"]
    assert shown[3].split() == ["pairs", "0"]
    assert any(line.startswith("  prompt with all gaps below min_gap ") for line in shown)


def test_no_file_is_lost_without_a_word(ultrafeedback, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    out.write_text("mine")
    assert zephyr("binarize", ultrafeedback, "-o", out) == 2
    assert "already exists; choose another name, or overwrite it with --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert zephyr("binarize", ultrafeedback, "-o", out, "--force") == 0
    assert len(lines(out)) > 900
    capsys.readouterr()
    for words, said in (
        ((ultrafeedback, "-o", ultrafeedback, "--force"), "is the input file"),
        ((ultrafeedback, "-o", tmp_path / "pairs.parquet"), "use the extension .jsonl"),
        ((ultrafeedback, "-o", tmp_path / "no" / "pairs.jsonl"), "there is no such folder"),
        ((tmp_path / "nothing.jsonl", "-o", tmp_path / "x.jsonl"), "no such file or folder"),
        ((ultrafeedback, "-o", tmp_path / "x.jsonl", "--shape", "ultrafedback"), "did you mean 'ultrafeedback'"),
    ):
        assert zephyr("binarize", *words) == 2
        assert said in capsys.readouterr().err


# ---- judge ----


@pytest.fixture
def world_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, prompts("feedback", 0, 30))
    return path


def test_prompts_are_answered_judged_and_binarized(world_prompts, tmp_path, capsys):
    out = tmp_path / "rated.jsonl"
    words = ("judge", world_prompts, "-o", out, "--judge", "scripted", "--models", "scripted", "--principles", "code")
    found = printed_json(capsys, *words)
    assert found["prompts"] == 30
    assert found["questions"] == found["rated"] == found["asked"]
    assert found["answers"]["asked"] == 120
    calls = lines(tmp_path / "rated.calls.jsonl")
    assert len(calls) == found["questions"]
    rows = lines(out)
    assert {answer["principle"] for row in rows for answer in row["answers"]} > {"helpfulness", "truthfulness"}
    assert all(1 <= answer["score"] <= 10 for row in rows for answer in row["answers"])
    made = printed_json(capsys, "binarize", out, "-o", tmp_path / "pairs.jsonl")
    assert made["prompts"] == 30
    assert "repair_overall=no" in made["rule"]  # these ratings never had the fault


class Interrupted:
    """Counts what the scripted judge is asked, and is stopped by the user after so many answers."""

    def __init__(self, monkeypatch):
        self.num_asked, self.most = 0, 10**9
        answer = ScriptedJudge.answer

        def counted(judge, requests):
            for reply in answer(judge, requests):
                if self.num_asked == self.most:
                    raise KeyboardInterrupt
                self.num_asked += 1
                yield reply

        monkeypatch.setattr(ScriptedJudge, "answer", counted)


def test_what_was_answered_is_not_asked_again(world_prompts, tmp_path, capsys, monkeypatch):
    asked = Interrupted(monkeypatch)
    out = tmp_path / "rated.jsonl"
    words = ("judge", world_prompts, "-o", out, "--judge", "scripted", "--models", "scripted")
    asked.most = 100
    assert zephyr(*words) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not out.exists()
    asked.most = 10**9
    found = printed_json(capsys, *words)
    assert found["rated"] == found["questions"] == asked.num_asked
    first = out.read_text()
    assert printed_json(capsys, *words, "--force")["rated"] == asked.num_asked == found["rated"]
    assert out.read_text() == first


def test_workers_come_to_the_same(world_prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ray_workers, "_running", lambda: nullcontext(OneByOne()))
    words = ("judge", world_prompts, "--judge", "scripted", "--models", "scripted", "--limit", 20)
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    accounts = [
        printed_json(capsys, *words, "-o", alone),
        printed_json(capsys, *words, "-o", shared, "--ray-workers", 2),
    ]
    assert sorted(lines(shared), key=str) == sorted(lines(alone), key=str)
    for one in accounts:
        assert len(lines(Path(one.pop("calls")))) == one["questions"]
        with Ledger(Path(one.pop("ledger"))) as ledger:
            assert sum(total.answers for total in ledger.totals()) == one["asked"] + one["answers"]["asked"]
        one.pop("output")
    assert accounts[0] == accounts[1]
    assert zephyr(*words, "-o", tmp_path / "x.jsonl", "--ray-workers", 2, "--ledger", tmp_path / "l.sqlite") == 2
    assert "every partition of --ray-workers has its own ledger; leave it out" in capsys.readouterr().err


def test_slips_are_told_and_leave_nothing(world_prompts, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    out = ("-o", tmp_path / "r.jsonl")
    for words, said in (
        (("aduit", "--judge", "scripted"), "no command and no file of that name, got 'aduit'; did you mean 'audit'?"),
        (
            (world_prompts, *out, "--judge", "scripted"),
            "contains prompts without answers; name the models that answer them with --models",
        ),
        ((world_prompts, *out, "--judge", f"local:{tmp_path}/no", "--models", "scripted"), "there is no such folder"),
        ((world_prompts, *out, "--judge", "scripted", "--models", "local"), "there is no such teacher, got 'local'"),
    ):
        assert zephyr("judge", *words) == 2
        assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_pairs_can_be_judged_and_a_dry_run_asks_nothing(ultrafeedback, tmp_path, capsys):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "rated.jsonl"
    printed_json(capsys, "binarize", ultrafeedback, "-o", pairs)
    words = ("judge", pairs, "-o", out, "--judge", "scripted", "--limit", 10)
    ahead = printed_json(capsys, *words, "--dry-run")
    assert (ahead["prompts"], ahead["calls_to_come"], ahead["answered_before"]) == (10, 60, 0)
    assert list(tmp_path.iterdir()) == [pairs]
    assert printed_json(capsys, *words, "--aspects", "overall")["questions"] == 20
    assert printed_json(capsys, *words, "--dry-run", "--force")["calls_to_come"] == 40
    assert [answer["model"] for answer in lines(out)[0]["answers"]] == [
        lines(pairs)[0][f"model_{side}"] for side in ("chosen", "rejected")
    ]


def test_answers_are_checked_without_a_model(tmp_path, capsys):
    file, out, judge = tmp_path / "p.jsonl", tmp_path / "r.jsonl", tmp_path / "judge.yaml"
    row = {"prompt": "Hens?", "answers": [{"text": "Hens, cows"}, {"text": "A hen"}], "checks": ["A hen", "Cows"]}
    write_jsonl(file, [row, row | {"prompt": "Why?"}, row | {"prompt": "Who?", "checks": None}])
    assert zephyr("judge", file, "-o", out, "--judge", "checks") == 2
    assert "p.jsonl row 3: has no checks" in capsys.readouterr().err
    assert not out.exists()
    words = ("judge", file, "-o", out, "--bad-rows", "drop", "--judge")
    assert printed_json(capsys, *words, "checks", "--dry-run")["calls_to_come"] == 0
    counts = printed_json(capsys, *words, "checks")
    assert (counts["rated"], counts["prompts_without_ratings"]) == (2, 1)
    assert [answer["score"] for answer in lines(out)[0]["answers"]] == [0, 0.5]
    judge.write_text("name: checks\ncredit: all\n")
    printed_json(capsys, *words, judge, "--force")
    assert [answer["score"] for answer in lines(out)[0]["answers"]] == [0, 0]
    judge.write_text("name: checks\ncredits: all\n")
    assert zephyr(*words, judge, "--force") == 2
    assert "credits" in capsys.readouterr().err


def test_judges_that_are_not_there(ultrafeedback, tmp_path, capsys):
    for judge, said in (
        ("scribted", "name scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL or FILE.yaml"),
        ("endpoint:gpt", "names no model and URL"),
        (f"local:{tmp_path}", str(tmp_path)),
    ):
        assert zephyr("judge", ultrafeedback, "-o", tmp_path / "r.jsonl", "--judge", judge, "--offline") == 2
        assert said in capsys.readouterr().err
    judge = "endpoint:gpt@https://example.org/v1"
    assert zephyr("judge", ultrafeedback, "-o", tmp_path / "r.jsonl", "--judge", judge, "--offline") == 2
    assert "is on another machine" in capsys.readouterr().err
    assert (
        zephyr("judge", ultrafeedback, "-o", tmp_path / "r.jsonl", "--judge", "scripted", "--aspects", "hepfulness")
        == 2
    )
    assert "did you mean 'helpfulness'" in capsys.readouterr().err


# ---- audit ----


def test_the_scripted_judge_is_audited_on_the_world(capsys):
    found = printed_json(capsys, "judge", "audit", "--judge", "scripted", "--limit", 60)
    assert found["items"] == {"closed world": 60}
    measures = {(one["by"], one["name"]): one for one in found["measures"]}
    kappa = measures["overall", "kappa with labels"]
    assert 0.6 < kappa["low"] <= kappa["value"] <= kappa["high"] <= 1
    assert measures["aspects", "same verdict when swapped"]["value"] == 1


def test_an_audit_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    asked = Interrupted(monkeypatch)
    asked.most = 50
    words = ("judge", "audit", "--judge", "scripted", "--limit", 20)
    assert zephyr(*words) == 130
    assert "stopped; with --ledger FILE it could be continued" in capsys.readouterr().err
    asked.num_asked = 0
    assert zephyr(*words, "--ledger", tmp_path / "l.sqlite") == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    asked.most = 10**9
    found = printed_json(capsys, *words, "--ledger", tmp_path / "l.sqlite")
    assert asked.num_asked == found["calls"]["asked"] == found["calls"]["rated"]


def test_an_audit_is_a_table(shared_data, capsys):
    sets = ("--llmbar", shared_data / "judge" / "llmbar", "--pandalm", shared_data / "judge/pandalm/testset-v1.json")
    assert zephyr("judge", "audit", "--judge", "scripted", "--limit", 12, *sets) == 0
    shown = capsys.readouterr().out
    for words in ("kappa, PandaLM", "same verdict when swapped", "95 % interval", "kappa between annotators"):
        assert words in shown


@pytest.fixture(scope="module")
def local_model(tmp_path_factory):
    """A folder with a tiny model of random weights, which can read a question and answers nonsense."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = learn_tokenizer([], vocab_size=260, max_length=8192)
    tokenizer.chat_template = DialogueEncoder(tokenizer, ChatTemplateSection()).chat_template
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 8192}
    new_model("mistral", sizes, tokenizer, seed=0, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_model_goes_the_whole_way_and_its_nonsense_is_no_score(local_model, world_prompts, tmp_path, capsys):
    out, local = tmp_path / "rated.jsonl", f"local:{local_model}"
    words = ("--judge", local, "--aspects", "helpfulness,overall", "--tries", 2, "--max-reply-tokens", 8, "--offline")
    answering = ("--models", local, "--num-answers", 2, "--max-new-tokens", 6, "--limit", 3)
    assert zephyr("judge", world_prompts, "-o", out, *answering, *words, "--json") == 2
    output = capsys.readouterr()
    assert "rated nothing in 9 questions: its replies hold no ratings" in output.err
    found = json.loads(output.out)
    assert found["answers"]["asked"] == 6
    assert found["rated"] == 0
    assert found["failed"] == found["questions"] == sum(found["failed_tries"].values()) / 2
    assert all(answer["score"] is None for row in lines(out) for answer in row["answers"])
    audited = printed_json(capsys, "judge", "audit", "--limit", 2, *words)
    measures = {(one["by"], one["name"]): one for one in audited["measures"]}
    assert measures["overall", "missing ratings"]["value"] == 1
    assert measures["overall", "kappa with labels"]["value"] is None


def test_help_is_light():
    check = "import sys; from zephyr import cli; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

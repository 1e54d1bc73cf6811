"""`zephyr winrate`, `mt-bench`, `alpaca-eval`, `arena`, `compare` and `reward-accuracy`, as a user types them."""

import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.judged_benches import plain_prompts, write_baseline, write_mt_bench
from tests.teachers.hostile_server import running_server
from tests.teachers.served_model import save_replying_model, serving
from zephyr.cli import main as cli
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.evaluation.judged.mt_bench_questions import REPORTED_WRONG
from zephyr.judging import Rating, write_reply
from zephyr.models.new_model import new_model
from zephyr.models.tokenizers import learn_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.writing import write_jsonl
from zephyr.world import ideal_answer


def zephyr(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def printed_json(capsys, *words: object) -> dict:
    code = zephyr(*words, "--json")
    output = capsys.readouterr()
    assert code == 0, output.err
    return json.loads(output.out)


def answered(ledger: Path) -> tuple[int, int]:
    """How many answers a ledger holds, and to how many different requests."""
    with sqlite3.connect(ledger) as connection:
        query = "SELECT count(*), count(DISTINCT request_hash) FROM calls WHERE finish_reason <> 'error'"
        return connection.execute(query).fetchone()


def echoes_in(ledger: Path) -> set[str]:
    """The questions to the echoing server that a ledger holds the answer to, as the server names them."""
    with sqlite3.connect(ledger) as connection:
        rows = connection.execute("SELECT response FROM calls WHERE response LIKE 'echo %'").fetchall()
    return {response.removeprefix("echo ") for (response,) in rows}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mt_bench"
    write_mt_bench(folder)
    return folder


def save_tiny_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = learn_tokenizer([one.messages[0].content for one in plain_prompts(50)], vocab_size=300, max_length=4096)
    tokenizer.chat_template = DialogueEncoder(tokenizer, ChatTemplateSection()).chat_template
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 4096}
    model = new_model("mistral", sizes, tokenizer, seed=seed, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---- winrate ----


@pytest.mark.slow
def test_winrate_of_published_annotations(shared_data, capsys):
    file = shared_data / "pref" / "alpaca_eval" / "annotations.jsonl.gz"
    (found,) = printed_json(capsys, "winrate", file, "--model", "zephyr-7b-beta")
    assert found["win_rate"] == pytest.approx(90.5977584, abs=1e-7)
    assert found["standard_error"] == pytest.approx(1.0287081, abs=1e-7)
    assert (found["n"], found["missing"], found["annotator"]) == (803, 2, "alpaca_eval_gpt4")
    assert zephyr("winrate", file, "--annotator", "alpaca_eval_gpt") == 2
    assert "did you mean 'alpaca_eval_gpt4'" in capsys.readouterr().err


# ---- mt-bench ----


def test_mt_bench_with_scripts(bench, tmp_path, capsys):
    words = ("mt-bench", "scripted", "--judge", "scripted", "--data", bench.parent, "--offline")
    found = printed_json(capsys, *words, "-o", tmp_path / "out")
    published = found["scores"]["as_published"]
    assert (published["n"], published["missing"], published["prompts"], published["label"]) == (160, 0, 80, "complete")
    # A quarter of the scripted answers has a fault on purpose.
    assert 5 < published["low"] < published["score"] < published["high"] < 10
    assert {"turn_1", "turn_2", "writing", "humanities", "without_reported_wrong"} < found["scores"].keys()
    assert found["protocol"]["judge"] == "scripted judge"
    assert found["protocol"]["template"] == "own overall v1"
    first = answered(tmp_path / "out" / "calls.sqlite")
    assert first[0] == first[1] > 300
    assert printed_json(capsys, *words, "-o", tmp_path / "out") == found
    assert answered(tmp_path / "out" / "calls.sqlite") == first

    judged = printed_json(capsys, *words, "-o", tmp_path / "again", "--limit", 2)
    assert judged["scores"]["as_published"]["n"] == 4
    given = (words[0], f"answers:{tmp_path / 'out' / 'answers.jsonl'}", *words[2:])
    again = printed_json(capsys, *given, "-o", tmp_path / "given")
    assert again["scores"] == found["scores"]


def test_mt_bench_says_what_is_missing_before_a_model_is_loaded(bench, tmp_path, capsys):
    words = ("mt-bench", tmp_path / "no model", "--judge", "scripted", "-o", tmp_path / "out", "--offline")
    assert zephyr(*words, "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert "there is no question.jsonl of MT-Bench; get it from FastChat's" in error
    assert len(error.splitlines()) == 1
    published = ("--data", bench, "--wording", "published")
    assert zephyr(*words, *published) == 2
    assert "the scripted judge supports only Zephyr's own prompts" in capsys.readouterr().err
    assert zephyr(*words, *published, "--judge", "endpoint:j@http://127.0.0.1:9/v1") == 2
    assert "there is no judge_prompts.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_references_reported_wrong_are_listed_and_left_out(bench, tmp_path, capsys):
    assert zephyr("mt-bench", "--list-wrong-references", bench) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [int(line.split()[0]) for line in listed] == [
        104,
        105,
        109,
        111,
        113,
        114,
        120,
        122,
        124,
        125,
        126,
        128,
        130,
    ]
    words = ("mt-bench", "scripted", "--judge", "scripted", "--data", bench, "-o", tmp_path / "out", "--offline")
    found = printed_json(capsys, *words, "--wrong-references", "leave-out")
    assert found["protocol"]["references_left_out"] == list(REPORTED_WRONG)


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [1, 3])
def test_killed_runs_repeat_no_judgment(bench, tmp_path, num_kills):
    dice, in_flight = random.Random(1), 4
    ledger = tmp_path / "out" / "calls.sqlite"
    with running_server(delay=0.05) as server:
        words = [sys.executable, "-m", "zephyr", "mt-bench", "scripted", "--judge", f"endpoint:j@{server.base_url}"]
        words += ["--data", str(bench), "-o", str(tmp_path / "out"), "--concurrency", str(in_flight), "--offline"]
        killed = []
        for _ in range(num_kills):
            with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
                wanted = len(server.events()) + dice.randint(5, 30)
                while len(server.events()) < wanted:
                    time.sleep(0.02)
                process.kill()
                process.wait()
            # From here on, whatever the ledger holds must never be asked again.
            killed.append((time.time(), echoes_in(ledger)))
        last = subprocess.run([*words, "--json"], check=False, capture_output=True, text=True, timeout=600)
        assert last.returncode == 2
        assert "nothing could be scored" in last.stderr
        events = server.events()
    for moment, held in killed:
        assert not [event for event in events if event.at > moment and event.digest in held]
    sizes = [0, *(len(held) for _, held in killed), 160]
    assert sizes == sorted(set(sizes))
    total, different = answered(ledger)
    assert total == different
    assert len({event.digest for event in events}) == 160
    # Asked again was only what was on its way to the disk when a process died, or in flight: the server notes it later.
    lost = [len({event.digest for event in events if event.at <= moment} - held) for moment, held in killed]
    assert len(events) <= 160 + sum(lost) + num_kills * in_flight
    # An echo is no rating: all of it is missing, and said to be.
    published = json.loads(last.stdout)["scores"]["as_published"]
    assert (published["score"], published["missing"], published["label"]) == (None, 160, "incomplete")


@pytest.mark.slow
def test_mt_bench_of_a_local_model_judged_over_http(bench, tmp_path, capsys):
    pytest.importorskip("fastapi")
    save_tiny_model(tmp_path / "model", 0)
    save_replying_model(tmp_path / "judge", [write_reply("overall", [Rating(7.0, "It says something.")])])
    with serving(tmp_path / "judge", tmp_path / "hf") as base_url:
        words = (
            "mt-bench",
            tmp_path / "model",
            "--judge",
            f"endpoint:{tmp_path / 'judge'}@{base_url}",
            "--data",
            bench,
        )
        words += ("-o", tmp_path / "out", "--max-new-tokens", 16, "--judge-max-tokens", 32, "--concurrency", 2)
        found = printed_json(capsys, *words, "--offline")
        first = answered(tmp_path / "out" / "calls.sqlite")
        assert printed_json(capsys, *words, "--offline") == found
    published = found["scores"]["as_published"]
    assert (published["score"], published["n"], published["missing"]) == (7.0, 160, 0)
    assert first[0] == first[1] == answered(tmp_path / "out" / "calls.sqlite")[0]


# ---- arena and alpaca-eval ----


def test_arena_on_prompts_and_on_mt_bench(bench, tmp_path, capsys):
    asked, good = tmp_path / "prompts.jsonl", tmp_path / "good.jsonl"
    write_jsonl(asked, plain_prompts(30))
    ideal = [
        {"instruction": one.messages[0].content, "output": ideal_answer(one.messages)} for one in plain_prompts(30)
    ]
    write_jsonl(good, ideal)
    words = ("arena", f"answers:{good}", "scripted", "--judge", "scripted", "--offline")
    found = printed_json(capsys, *words, "--prompts", asked, "-o", tmp_path / "out")
    assert found["scores"]["losses"] <= 3 < 30 - found["scores"]["ties"]
    assert found["scores"]["adjusted_win_rate"]["score"] > 55
    assert found["scores"]["swap_consistency"] == 100.0
    assert zephyr(*words, "-o", tmp_path / "none") == 2
    assert "name --prompts FILE or --mt-bench DIR" in capsys.readouterr().err

    words = ("arena", "scripted", "scripted", "--judge", "scripted", "--mt-bench", bench, "--limit", 10, "--offline")
    even = printed_json(capsys, *words, "-o", tmp_path / "even")
    assert even["scores"]["adjusted_win_rate"]["score"] == 50.0
    assert even["scores"]["adjusted_win_rate"]["n"] == 20


def test_alpaca_eval_and_its_length_control(tmp_path, capsys):
    write_baseline(tmp_path / "alpaca_eval", 40)
    words = ("alpaca-eval", "scripted", "--judge", "scripted", "--data", tmp_path, "--offline")
    found = printed_json(capsys, *words, "-o", tmp_path / "out")
    assert found["benchmark"] == "alpaca_eval_2"
    assert found["scores"]["as_published"]["score"] > 80
    assert found["scores"]["as_published"]["n"] == 40
    assert {"length_controlled", "koala", "vicuna", "swap_consistency"} <= found["scores"].keys()
    assert found["protocol"]["instruction_difficulty"] == "none"
    one = printed_json(capsys, *words, "-o", tmp_path / "one", "--one-order")
    assert one["scores"]["as_published"] == found["scores"]["as_published"]
    assert one["scores"]["swap_consistency"] is None
    short = tmp_path / "difficulty.csv"
    short.write_text("index,instruction_difficulty\n0,1.0\n")
    assert zephyr(*words, "-o", tmp_path / "out", "--difficulty", short) == 2
    assert "has the difficulty of 1 instructions, and there are 40" in capsys.readouterr().err
    assert zephyr(*words, "-o", tmp_path / "out", "--version", 1) == 2
    assert "there is no text_davinci_003_outputs.json of AlpacaEval" in capsys.readouterr().err


# ---- compare ----


def test_compare_runs_with_each_other_and_with_the_cards(bench, tmp_path, capsys):
    words = ("--judge", "scripted", "--data", bench, "--offline")
    good = tmp_path / "ideal.jsonl"
    rows = [json.loads(line) for line in (bench / "question.jsonl").read_text().splitlines()]
    write_jsonl(
        good,
        [{"question_id": row["question_id"], "choices": [{"turns": ["Who knows?", "Who knows?"]}]} for row in rows],
    )
    assert zephyr("mt-bench", "scripted", *words, "-o", tmp_path / "scripted") == 0
    assert zephyr("mt-bench", f"answers:{good}", *words, "-o", tmp_path / "clueless") == 0
    capsys.readouterr()
    picture = tmp_path / "radar.svg"
    runs = (tmp_path / "scripted", tmp_path / "clueless")
    found = printed_json(capsys, "compare", *runs, "--published", "zephyr-7b-beta", "--radar", picture)
    (compared,) = found["comparisons"]
    every = compared["rows"][0]
    assert (every["task"], every["category"], every["n"], every["unpaired"]) == ("mt_bench", "all", 160, 0)
    assert every["difference"] < -3
    assert every["high"] < 0
    assert every["p"] < 1e-6
    assert len(compared["rows"]) == 9
    assert compared["deviations"] == []
    beside = found["published"][0]
    assert beside["rows"][0]["published"] == 7.34
    assert "judge: gpt-4 against scripted judge" in beside["deviations"]
    assert picture.read_text().startswith("<svg")
    assert zephyr("compare", runs[0]) == 2
    assert zephyr("compare", runs[0], "--published", "zephyr-7b-beat") == 2
    assert "did you mean 'zephyr-7b-beta'" in capsys.readouterr().err


# ---- reward-accuracy ----


def test_reward_accuracy_of_a_model_against_itself_and_another(tmp_path, capsys):
    for seed in (0, 1):
        save_tiny_model(tmp_path / f"model{seed}", seed)
    pairs = tmp_path / "pairs.jsonl"
    write_jsonl(
        pairs,
        [
            {
                "q": one.messages[0].content,
                "mood": "good",
                "chosen": ideal_answer(one.messages),
                "rejected": "No idea." if number else ideal_answer(one.messages),
                "source": "even" if number % 2 == 0 else "odd",
            }
            for number, one in enumerate(plain_prompts(21))
        ],
    )
    words = ("reward-accuracy", tmp_path / "model0", pairs, "-o", tmp_path / "out", "--offline")
    words = (*words, "--columns", "prompt=q", "--format", "preference")
    same = printed_json(capsys, *words, "--reference", tmp_path / "model0")
    every = same["scores"]["all"]["all"]
    assert (every["accuracy"], every["pairs"]) == (0.0, 20)
    assert every["margin"] == pytest.approx(0, abs=1e-6)
    other = printed_json(capsys, *words, "--reference", tmp_path / "model1")
    assert other["protocol"]["left_out"] == {"equal answers": 1}
    assert other["protocol"]["columns_not_used"] == {"mood": 21}
    assert set(other["scores"]["source"]) == {"even", "odd"}
    assert 0 < other["scores"]["all"]["all"]["accuracy"] <= 1
    assert printed_json(capsys, *words, "--reference", tmp_path / "model1") == other

import json
from collections import Counter

import pytest

from tests.data.rows import chat, pair, rated
from zephyr.data.filters.benchmark_texts import Benchmark, read_benchmarks
from zephyr.data.filters.decontamination import BenchmarkIndex
from zephyr.recipe.data_section import DecontaminationFilter

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"
EIGHT = "which language do all people of Europe speak"
THREE = "Who are you?"
CODE = "while b:\n    a, b = b, a % b\nreturn a"


def index(*prompts, fragments=(), ngram=13):
    return BenchmarkIndex([Benchmark("set.jsonl", prompts, fragments)], ngram=ngram)


@pytest.mark.parametrize(
    ("prompt", "text", "found"),
    [
        (f"Zero {THIRTEEN} fourteen", f"They say: {THIRTEEN.upper()}!", True),  # any thirteen words of it
        (f"Zero {THIRTEEN} fourteen", f"They say: {THIRTEEN.replace('seven', '7')}", False),
        (THIRTEEN.removeprefix("one "), f"so {THIRTEEN} so", True),  # twelve words, whole
        (THIRTEEN.removeprefix("one "), THIRTEEN.removesuffix(" thirteen"), False),
        (EIGHT, f"tell me {EIGHT}, please", True),  # eight words count anywhere
        (EIGHT.removesuffix(" speak"), f"tell me {EIGHT}, please", False),  # seven do not
        (THREE, "who are you", True),  # but as a text of its own
        (THREE, "Who are you, stranger?", False),
        ("Hi there", "Hi there", False),  # too short to mean anything
    ],
)
def test_words_in_a_row_are_overlap(prompt, text, found):
    overlaps = index(prompt).find(["Nothing here.", text])
    assert [overlap.shared for overlap in overlaps] == ([prompt] if found else [])


def test_the_number_of_words_is_a_setting():
    assert index("a b c d e", ngram=3).find(["x b c d y"]) != ()
    assert index("a b c d e", ngram=4).find(["x b c d y"]) == ()
    with pytest.raises(ValueError, match=r"ngram\n  Input should be greater than or equal to 3"):
        DecontaminationFilter(name="decontamination", against=["a.jsonl"], ngram=2)


def test_code_is_found_as_it_stands_but_for_case_and_spaces():
    code = index(fragments=[CODE])
    assert code.find([f"def gcd(a, b):\n  WHILE b:  a, b = b, a % b\n  return a # {THREE}"]) != ()
    assert code.find([CODE.replace("%", "//")]) == ()


def test_every_benchmark_that_shares_something_is_told_in_order():
    both = BenchmarkIndex([Benchmark("a", (EIGHT, "x y z")), Benchmark("b", (EIGHT,))], ngram=13)
    assert [overlap.benchmark for overlap in both.find([EIGHT, "x y z"])] == ["a", "b"]


def test_empty_benchmarks_overlap_with_nothing():
    assert BenchmarkIndex([], ngram=13).find([THIRTEEN]) == ()


def test_filter_looks_at_every_text_of_a_row():
    benchmarks = index(EIGHT)
    for row in (chat("Hi", EIGHT), pair("Hi", "No", EIGHT), rated(EIGHT, "All of them?"), rated("Hi", "A", EIGHT)):
        verdict = benchmarks.judge(row)
        assert verdict == (None, "overlaps with set.jsonl", EIGHT)
    clean = chat("Hi", "Hello")
    assert benchmarks.judge(clean).record is clean


def overlap_counts(found):
    """Rows by benchmark: the folder of the evaluation set, counted once a row."""
    return Counter(name for overlaps in found for name in {overlap.benchmark.split("/")[1] for overlap in overlaps})


@pytest.fixture(scope="module")
def benchmarks(shared_data):
    against = ["eval/mt_bench", "eval/alpaca_eval", "eval/truthfulqa", "eval/gsm8k", "eval/humaneval"]
    return BenchmarkIndex(read_benchmarks(against, shared_data).found, ngram=13)


@pytest.mark.slow
def test_overlap_of_nemo_aligner(shared_data, benchmarks):
    lines = [line for path in (shared_data / "sft/nemo_aligner").glob("*.jsonl") for line in path.open()]
    found = [benchmarks.find([turn["value"] for turn in json.loads(line)["conversations"]]) for line in lines]
    assert len(found) == 1024
    counts = overlap_counts(found)
    assert (counts["alpaca_eval"], counts["truthfulqa"]) == (1, 2)
    # Not stated: questions of GSM8K's training set.
    assert counts["gsm8k"] == 17


def test_overlap_of_oasst_sample(shared_data, benchmarks):
    roots = [json.loads(line)["prompt"]["text"] for line in (shared_data / "sft/oasst_sample/en_100_tree.jsonl").open()]
    assert overlap_counts(benchmarks.find([root]) for root in roots) == {"alpaca_eval": 6, "truthfulqa": 1}


def test_self_instruct_is_a_part_of_alpaca_eval(shared_data, benchmarks):
    found = []
    for line in (shared_data / "sft/self_instruct/user_oriented_instructions.jsonl").open():
        row = json.loads(line)
        found.append(benchmarks.find([f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip()]))
    assert overlap_counts(found) == {"alpaca_eval": 252}


def test_overlap_of_alpaca(shared_data, benchmarks):
    rows = json.loads((shared_data / "sft/alpaca/alpaca_5000.json").read_text())
    prompts = overlap_counts(benchmarks.find([row["instruction"]]) for row in rows)
    assert prompts == {"mt_bench": 1, "truthfulqa": 1}
    # One answer is a question of TruthfulQA, word for word.
    assert overlap_counts(benchmarks.find([row["output"]]) for row in rows) == {"truthfulqa": 1}


def test_vicuna_bench_is_a_part_of_alpaca_eval(shared_data, benchmarks):
    rows = [json.loads(line) for line in (shared_data / "prompts/vicuna_bench_question.jsonl").open()]
    assert overlap_counts(benchmarks.find(row["turns"]) for row in rows)["alpaca_eval"] == 80

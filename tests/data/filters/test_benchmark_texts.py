import bz2
import gzip
import json
import zipfile
from pathlib import Path

import pytest

from zephyr.data.filters.benchmark_texts import Benchmark, read_benchmarks
from zephyr.errors import DataError


def write(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("row", "prompts"),
    [
        ({"question_id": 81, "turns": ["First?", "Second?"], "reference": ["No."]}, ("First?", "Second?")),
        ({"instruction": "Do it.", "output": "Done.", "dataset": "koala"}, ("Do it.",)),
        ({"prompt": "Write.", "kwargs": [{"prompt": "inner"}]}, ("Write.",)),
        ({"Question": "Why?", "Best Answer": "So."}, ("Why?",)),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, ("Hi",)),
        ({"turns": [{"content": "Hi"}]}, ("Hi",)),
        ({"sentence": "Ann thanked Eve as _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
         ("Ann thanked Eve as Ann had helped.", "Ann thanked Eve as Eve had helped.")),
        ({"id": {"passage": "Long ago.", "qa_pairs": [{"question": "When?", "answer": {"spans": ["ago"]}}]}},
         ("Long ago.", "When?")),
        ({"query": "Question: Why?", "choices": ["A", "B"], "gold": 1}, ("Question: Why?",)),
    ],
)  # fmt: skip
def test_prompts_are_found_whatever_the_shape(tmp_path, row, prompts):
    write(tmp_path / "set.jsonl", [row])
    assert read_benchmarks(["set.jsonl"], tmp_path).found == (Benchmark("set.jsonl", prompts),)


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "entry_point": "total",
    "prompt": 'def half(x):\n    """Half of it."""\n\ndef total(x, y):\n    """ Add both numbers. """\n',
    "canonical_solution": "    return x + y\n",
    "test": "assert total(1, 2) == 3",
}


def test_of_humaneval_the_docstring_and_all_but_trivial_solutions_count(tmp_path):
    longer = {**HUMANEVAL, "canonical_solution": "    return sum([x, y])\n", "prompt": "def f():\n    '''Do.'''\n"}
    write(tmp_path / "h.jsonl", [HUMANEVAL, longer])
    (benchmark,) = read_benchmarks(["h.jsonl"], tmp_path).found
    assert benchmark == Benchmark("h.jsonl", (), ("Add both numbers.", "Do.", "return sum([x, y])"))


def test_packed_files_tables_and_lines_are_read(tmp_path):
    row = json.dumps({"question": "Why?"}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row))
    (tmp_path / "b.json.bz2").write_bytes(bz2.compress(b"[" + row + b"]"))
    (tmp_path / "c.csv").write_text('Type,Question\nx,"Why, then?"\n')
    (tmp_path / "d.tsv").write_text("Question\tAnswer\nWhy?\tSo.\n")
    (tmp_path / "e.txt").write_text("Why?\nHow?\n")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("data/mmlu.csv", 'Why?,1,2,3,4,B\n"How, then?",1,2,3,4,C\n')
        archive.writestr("data/urls.txt", "no prompt")
    found = read_benchmarks(["."], tmp_path).found
    assert [(benchmark.name, benchmark.prompts) for benchmark in found] == [
        ("a.jsonl.gz", ("Why?",)),
        ("b.json.bz2", ("Why?",)),
        ("c.csv", ("Why, then?",)),
        ("d.tsv", ("Why?",)),
        ("e.txt", ("Why?", "How?")),
        ("f.zip", ("Why?", "How, then?")),
    ]


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["Why?"]}), tmp_path / "a.parquet")
    assert read_benchmarks(["a.parquet"], tmp_path).found == (Benchmark("a.parquet", ("Why?",)),)


def test_files_folders_and_globs_name_each_file_once(tmp_path):
    for name in ("one/a.jsonl", "one/b.jsonl", "two/a.jsonl"):
        write(tmp_path / name, [{"prompt": name}])
    (tmp_path / "one" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "one" / "README.txt").write_text("Where the prompts are from")
    found = read_benchmarks(["one/b.jsonl", "one", "*/a.jsonl"], tmp_path).found
    assert [benchmark.name for benchmark in found] == ["one/b.jsonl", "one/a.jsonl", "two/a.jsonl"]
    (elsewhere,) = read_benchmarks([str(tmp_path / "two")], tmp_path / "one").found
    assert elsewhere.name == str(tmp_path / "two" / "a.jsonl")


def test_files_without_prompts_are_listed_if_in_a_folder_and_an_error_if_named(tmp_path):
    write(tmp_path / "set" / "judge.jsonl", [{"choices": [{"turns": ["An answer."]}]}])
    write(tmp_path / "set" / "question.jsonl", [{"prompt": "Why?"}])
    benchmarks = read_benchmarks(["set"], tmp_path)
    assert benchmarks.without_prompts == ("set/judge.jsonl",)
    assert [benchmark.name for benchmark in benchmarks.found] == ["set/question.jsonl"]
    with pytest.raises(
        DataError, match=r"^set/judge.jsonl: has no prompts of an evaluation set; prompts are read from"
    ):
        read_benchmarks(["set/judge.jsonl"], tmp_path)
    with pytest.raises(DataError, match="none of these files has prompts"):
        read_benchmarks(["set/j*.jsonl"], tmp_path)


@pytest.mark.parametrize("pattern", ["absent", "absent.jsonl", "*.jsonl"])
def test_evaluation_set_that_is_not_there_is_an_error(tmp_path, pattern):
    with pytest.raises(DataError, match="no such evaluation set; give a file, a folder or a glob"):
        read_benchmarks([pattern], tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"prompt": "x"'),
        ("a.json", b"\xff"),
        ("a.jsonl.gz", gzip.compress(b"x", mtime=0)[:-4]),
        ("a.zip", b"PK"),
    ],
)
def test_damaged_file_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{name}: cannot be read as an evaluation set"):
        read_benchmarks([name], tmp_path)


def test_every_real_evaluation_set_is_read(shared_data):
    benchmarks = read_benchmarks(["eval"], shared_data)
    counts = {benchmark.name: len(benchmark.prompts) for benchmark in benchmarks.found}
    assert counts["eval/mt_bench/question.jsonl"] == 160
    assert counts["eval/alpaca_eval/gpt4_1106_preview_outputs.json"] == 805
    assert counts["eval/ifeval/input_data.jsonl"] == 541
    assert counts["eval/truthfulqa/TruthfulQA.csv"] == 817
    assert counts["eval/gsm8k/test.jsonl"] == 1319
    assert counts["eval/drop/drop_v0_dev.jsonl.gz"] == 9536
    assert counts["eval/hellaswag/hellaswag_val_full.txt.bz2"] == 6 * 10042
    assert counts["eval/winogrande/dev.jsonl"] == 2 * 1267
    assert counts["eval/mmlu/mmlu.zip"] == 285 + 1531 + 14042
    (humaneval,) = (benchmark for benchmark in benchmarks.found if "humaneval" in benchmark.name)
    assert len(humaneval.fragments) == 164 + 164 - 4
    assert all("mt_bench" in name for name in benchmarks.without_prompts)

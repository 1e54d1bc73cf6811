"""`--columns`, `--format`, `--where` and `--ignore` of the verbs read rows as the sources of a recipe do."""

from tests.cli.verbs import printed_json, zephyr
from zephyr.records.writing import write_jsonl


def test_columns_formats_and_unused_columns_are_as_in_recipes(tmp_path, capsys):
    rows = [
        {"q": f"Question {number}?", "a": text, "model": "m", "score": score, "keep": "yes", "mood": "good"}
        for number in range(3)
        for text, score in (("Good.", 9), ("Bad.", 2), ("Left out.", 1))
    ]
    rows[-1] |= {"keep": "no"}
    rated, pairs = tmp_path / "rated.jsonl", tmp_path / "pairs.jsonl"
    write_jsonl(rated, rows)
    named = ("--columns", "prompt=q,completion=a", "--where", "keep=yes", "--format", "rated")
    found = printed_json(capsys, "binarize", rated, "-o", pairs, *named)
    assert found["columns_not_used"] == {"mood": 8}
    assert found["dropped"]["not keep: yes"] == 1
    assert (found["prompts"], found["pairs"]) == (3, 3)
    found = printed_json(
        capsys, "judge", rated, "-o", tmp_path / "again.jsonl", "--judge", "scripted", "--dry-run",
        "--columns", "prompt=q", "--columns", "completion=a", "--ignore", "mood,keep",
    )  # fmt: skip
    assert (found["prompts"], found["columns_not_used"]) == (3, {})
    for words, said in (
        (("--columns", "promt=q"), "names that no format reads, got promt; write our name: the name in the rows; did"),
        (("--columns", "prompt"), "--columns: is no our name=the name in the rows, got 'prompt'; write --col"),
        (("--columns", "prompt=question"), "has no field question, named in columns"),
    ):  # fmt: skip
        assert zephyr("binarize", rated, "-o", tmp_path / "x.jsonl", *words) == 2
        assert said in capsys.readouterr().err


def test_a_contradiction_in_pairs_to_judge_is_told(tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    write_jsonl(pairs, [{"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 9}])
    assert zephyr("judge", pairs, "-o", tmp_path / "r.jsonl", "--judge", "scripted") == 2
    assert "pairs.jsonl row 1: score_chosen is 1, below score_rejected, which is 9; fix" in capsys.readouterr().err

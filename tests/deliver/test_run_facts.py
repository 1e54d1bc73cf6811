"""Scores of a run as cards and reports tell them."""

import json

from tests.deliver.small_run import write_run
from zephyr.deliver.run_facts import ModelScore, scores_of
from zephyr.runs.reader import read_run


def test_benchmarks_are_told_by_model_with_their_files(tmp_path):
    folder = write_run(tmp_path / "small")
    (path,) = folder.glob("evaluate-*/stage.json")
    told = json.loads(path.read_text())
    arc = {"score": 25.0, "low": 23.1, "high": 26.9, "n": 1172, "standard_error": 1.2, "metric": "acc_norm"}
    judged = {"score": 3.5, "low": 3.0, "high": 4.0, "n": 80, "standard_error": 0.3, "metric": "as_published"}
    told["facts"]["benchmarks"] = {
        "dDPO": {
            "arc_challenge": arc | {"file": "1-harness-align/arc_challenge/result.json", "notes": ["it thought"]},
            "mt_bench": judged | {"label": "incomplete", "file": "1-harness-align/mt_bench/result.json"},
        }
    }
    path.write_text(json.dumps(told))
    found = [one for one in scores_of(read_run(folder)) if one.benchmark in ("arc_challenge", "mt_bench")]
    # Too many of MT-Bench's judgments are missing for a score.
    source = f"{path.parent.name}/1-harness-align/arc_challenge/result.json"
    assert found == [
        ModelScore("dDPO", "arc_challenge", "acc_norm", 25.0, 23.1, 26.9, 1172, 1.2, source, ("it thought",))
    ]

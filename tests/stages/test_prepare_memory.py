"""Rows are read, filtered, held out, tokenised and stored in a memory that does not grow with their bytes."""

import json
import subprocess
import sys

import pytest

PREPARE = """
import json, re, resource, sys
from pathlib import Path
from zephyr.recipe.schema import Recipe
from zephyr.stages.stage import Work
from zephyr.stages.training import prepare, starting_tokenizer
from zephyr.models.source import Source

def kilobytes(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

folder, recipe = Path(sys.argv[1]), Recipe.model_validate(json.loads(sys.argv[2]))
encoder = starting_tokenizer(Source(recipe.model.name_or_path, offline=True), recipe, "sft")[1]
# Half a gigabyte beyond what program and libraries take.
limit = kilobytes("VmSize") * 1024 + 500_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = kilobytes("VmHWM")
facts = prepare(Work(recipe, "sft", folder / "work", {}, folder), encoder)
print(json.dumps([facts["rows"], facts["held_out"], (kilobytes("VmHWM") - before) / 1000]))
"""
KEPT_OF = 50  # one row in so many is short enough to be kept
ROW = '{"messages": [{"role": "user", "content": "question %d"}, {"role": "assistant", "content": "%s"}]}\n'


def prepared(folder, model, num_rows):
    """Rows kept, rows held out, and the megabytes that their preparation took, for a file of 20 KB a row."""
    folder.mkdir()
    with (folder / "big.jsonl").open("w") as file:
        for number in range(num_rows):
            file.write(ROW % (number, "A short answer." if number % KEPT_OF == 0 else "word " * 4_000))
    data = {"sources": [{"path": "big.jsonl"}], "eval_share": 0.1}
    recipe = {
        "name": "big",
        "data_dir": str(folder),
        "offline": True,
        "model": {"kind": "pretrained", "name_or_path": str(model)},
        "sft": {
            "data": data | {"filters": [{"name": "length", "max_characters": 10_000}]},
            "train": {"learning_rate": 1.0e-3},
        },
    }
    command = [sys.executable, "-c", PREPARE, str(folder), json.dumps(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (folder / "big.jsonl").unlink()
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_five_times_the_rows_take_no_more_memory(tmp_path, tiny_folder):
    few, many = (prepared(tmp_path / f"{number}", tiny_folder, number) for number in (15_000, 75_000))
    assert few[0] + few[1] == 300
    assert many[0] + many[1] == 1_500
    # 0.3 and 1.5 GB of rows; three numbers of 8 bytes a row are kept: its place, its order and its prompt.
    assert many[2] < few[2] + 20
    assert many[2] < 100

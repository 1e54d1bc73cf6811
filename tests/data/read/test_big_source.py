"""A large file needs little memory."""

import subprocess
import sys

import pytest

NUM_ROWS = 500_000
READ = """
import re, sys
from pathlib import Path
from zephyr.data.read.mixture import mix
from zephyr.data.read.sources import open_source
from zephyr.recipe.data_section import DataSource

records = open_source(DataSource(path="big.jsonl"), "chat", data_dir=Path(sys.argv[1]), offline=True)
seen = sum(1 for _ in mix([records], seed=0, shuffle=True))
# Not getrusage: its peak is inherited from the process that started this one.
print(seen, int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_half_a_million_rows_take_little_memory(tmp_path):
    answer = "word " * 120
    row = '{"messages": [{"role": "user", "content": "question %d"}, {"role": "assistant", "content": "%s"}]}\n'
    with (tmp_path / "big.jsonl").open("w") as file:
        file.writelines(row % (number, answer) for number in range(NUM_ROWS))
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    seen, megabytes = map(int, done.stdout.split())
    assert seen == NUM_ROWS
    # The program itself takes some 30 MB, the order and the places of the rows 8 MB; the file has 350 MB.
    assert megabytes < 200

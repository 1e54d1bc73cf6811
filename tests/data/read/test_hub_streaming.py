"""Data sets of the hub as the datasets library itself streams and downloads them, from a stand-in on loopback."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.read import hub_server
from zephyr.data.read.sources import open_source
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource

READ = """
import json, sys
from pathlib import Path
from zephyr.data.read.sources import open_source, source_hash
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource

source = DataSource.model_validate_json(sys.argv[1])
try:
    records = open_source(source, "chat", data_dir=Path("."), offline=False)
    print(json.dumps([[record.name for record in records], source_hash(source, Path("."))]))
except DataError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def hub(tmp_path):
    """A function that reads a source from the stand-in: what came, and the files of rows that were asked for."""
    pytest.importorskip("datasets")
    log = tmp_path / "asked"
    with log.open("w") as asked:
        program = [sys.executable, "-m", hub_server.__name__]
        server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=asked, text=True)
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"

        def read(**fields):
            folder = tmp_path / f"home-{len(list(tmp_path.iterdir()))}"
            environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}
            # Offline commands that ran in this process before have left their switches.
            environment |= {"HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
            before = len(log.read_text().splitlines())
            done = subprocess.run(
                [sys.executable, "-c", READ, json.dumps({"path": hub_server.NAME, **fields})],
                capture_output=True, text=True, check=True, env=environment,
            )  # fmt: skip
            return json.loads(done.stdout.splitlines()[-1]), set(log.read_text().splitlines()[before:])

        yield read
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


FIRST, SECOND = hub_server.FILES


def test_streamed_rows_are_those_of_a_download_and_no_more_is_read_than_is_needed(hub):
    (names, digest), asked = hub(streaming=True)
    assert names == [f"owner/chats:train row {number}" for number in range(1, 101)]
    assert asked == {FIRST, SECOND}
    assert digest == hashlib.sha256(f"{hub_server.NAME}@{hub_server.COMMIT}".encode()).hexdigest()
    (downloaded, _), asked = hub()
    assert (downloaded, asked) == (names, {FIRST, SECOND})
    assert hub(streaming=True, max_rows=3) == ([names[:3], digest], {FIRST})
    assert hub(streaming=True, split="train[48:52]")[0] == [names[48:52], digest]


def test_a_stream_has_no_number_of_rows(hub):
    said, asked = hub(streaming=True, split="train[:10%]")
    assert said == (
        "owner/chats: is streamed, so its rows are not counted, got split train[:10%]; "
        "give row numbers from the start, or leave streaming out"
    )
    assert asked == set()


def test_a_stream_needs_the_network():
    with pytest.raises(DataError, match=r"^owner/chats: is streamed, which needs the network; leave streaming out, or"):
        open_source(DataSource(path="owner/chats", streaming=True), "chat", data_dir=Path(), offline=True)

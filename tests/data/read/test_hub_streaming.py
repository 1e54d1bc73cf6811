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

log, *sources = sys.argv[1:]
for text in sources:
    source, before = DataSource.model_validate_json(text), len(Path(log).read_text().splitlines())
    try:
        records = open_source(source, "chat", data_dir=Path("."), offline=False)
        came = [[record.name for record in records], source_hash(source, Path("."))]
    except DataError as error:
        came = str(error)
    print(json.dumps([came, Path(log).read_text().splitlines()[before:]]))
"""


@pytest.fixture
def hub(tmp_path):
    """A function that reads sources from the stand-in, one after the other in one process.

    For each: what came, and the files of rows that were asked for.
    """
    pytest.importorskip("datasets")
    log = tmp_path / "asked"
    with log.open("w") as asked:
        program = [sys.executable, "-m", hub_server.__name__]
        server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=asked, text=True)
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"

        def read(*sources):
            environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
            # Offline commands that ran in this process before have left their switches.
            environment |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
            done = subprocess.run(
                [sys.executable, "-c", READ, log, *(json.dumps({"path": hub_server.NAME, **one}) for one in sources)],
                capture_output=True, text=True, check=True, env=environment,
            )  # fmt: skip
            answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
            return [(came, set(asked)) for came, asked in answers]

        yield read
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


FIRST, SECOND = hub_server.FILES


@pytest.mark.slow
def test_streamed_rows_are_those_of_a_download_and_no_more_is_read_than_is_needed(hub):
    stream = {"streaming": True}
    whole, few, middle, counted, downloaded = hub(
        stream, stream | {"max_rows": 3}, stream | {"split": "train[48:52]"}, stream | {"split": "train[:10%]"}, {}
    )
    names = [f"owner/chats:train row {number}" for number in range(1, 101)]
    digest = hashlib.sha256(f"{hub_server.NAME}@{hub_server.COMMIT}".encode()).hexdigest()
    assert whole == ([names, digest], {FIRST, SECOND})
    assert few == ([names[:3], digest], {FIRST})
    assert middle[0] == [names[48:52], digest]
    # A stream has no number of rows.
    said, asked = counted
    assert said == (
        "owner/chats: is streamed, so its rows are not counted, got split train[:10%]; "
        "give row numbers from the start, or leave streaming out"
    )
    assert asked == set()
    assert (downloaded[0][0], downloaded[1]) == (names, {FIRST, SECOND})


def test_a_stream_needs_the_network():
    with pytest.raises(DataError, match=r"^owner/chats: is streamed, which needs the network; leave streaming out, or"):
        open_source(DataSource(path="owner/chats", streaming=True), "chat", data_dir=Path(), offline=True)

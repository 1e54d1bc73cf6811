"""Files of judged benchmarks come from pinned commits, once, verified, and never over a user's own."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zephyr.errors import DataError
from zephyr.evaluation.judged import bench_files
from zephyr.evaluation.judged.alpaca_eval_files import find_baseline, read_instructions
from zephyr.evaluation.judged.bench_files import BENCH_SOURCES, BenchFile, BenchSource, bench_folder, fetch_benchmark
from zephyr.evaluation.judged.mt_bench_questions import find_bench_files, read_mt_bench

TEXT = b"the published file\n"
SMALL = BenchSource("a/b", "c" * 40, "MIT", (BenchFile("q.jsonl", "data/q.jsonl", hashlib.sha256(TEXT).hexdigest()),))


@pytest.fixture
def raw(monkeypatch, tmp_path):
    """What stands for GitHub: contents by path, and the paths that were asked for."""
    contents, asked = {"/a/b/" + "c" * 40 + "/data/q.jsonl": TEXT}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = contents.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("ZEPHYR_GITHUB_RAW", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("ZEPHYR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(bench_files.BENCH_SOURCES, "small", SMALL)
    yield contents, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_again_where_it_is_damaged(raw, tmp_path):
    folder = bench_folder("small", None, offline=False)
    assert (folder / "small/q.jsonl").read_bytes() == TEXT
    assert folder == tmp_path / "cache/benchmarks" / ("c" * 12)
    assert bench_folder("small", None, offline=True) == folder
    assert len(raw[1]) == 1
    (folder / "small/q.jsonl").write_bytes(TEXT[:5])
    assert (bench_folder("small", None, offline=False) / "small/q.jsonl").read_bytes() == TEXT
    assert [path.name for path in (folder / "small").iterdir()] == ["q.jsonl"]


def test_another_file_than_the_pinned_one_is_refused(raw, tmp_path):
    raw[0][next(iter(raw[0]))] = b"something else"
    with pytest.raises(DataError, match="is not the file with SHA-256"):
        fetch_benchmark("small", tmp_path)
    raw[0].clear()
    with pytest.raises(DataError, match=r"cannot be fetched \(HTTP 404\); check the network"):
        fetch_benchmark("small", tmp_path)
    assert not list(tmp_path.rglob("q.jsonl"))


def test_a_file_of_the_users_is_never_overwritten(raw, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small/q.jsonl").write_text("mine")
    with pytest.raises(DataError, match="is another file than the published one; move it away"):
        fetch_benchmark("small", tmp_path)
    assert (tmp_path / "small/q.jsonl").read_text() == "mine"


@pytest.mark.parametrize("flag", [True, False])
def test_offline_says_what_to_put_where(raw, tmp_path, monkeypatch, flag):
    if not flag:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        bench_folder("alpaca_eval_2", None, offline=flag)
    said = str(caught.value)
    assert (
        "run `zephyr data fetch alpaca_eval` where there is a network, or put the files of github.com/tatsu-lab" in said
    )
    assert "results/gpt4_1106_preview/model_outputs.json" in said
    assert "into DIR/alpaca_eval and name DIR with --data" in said
    assert bench_folder("alpaca_eval_2", tmp_path, offline=True) == tmp_path


def test_the_pinned_files_are_those_that_the_benchmarks_read(raw, shared_data, tmp_path):
    """The hashes are of the published files, which stand here; read from where they are fetched to."""
    here = {
        "mt_bench": {"reference_answer/gpt-4.jsonl": "reference_answer_gpt-4.jsonl"},
        "alpaca_eval": {"alpaca_eval.txt": None, "alpaca_eval_clf.txt": None},
    }
    for name, other_names in here.items():
        source = BENCH_SOURCES[name]
        files = tuple(one for one in source.files if other_names.get(one.name, one.name) is not None)
        bench_files.BENCH_SOURCES[name] = source._replace(files=files)
        for one in files:
            path = shared_data / "eval" / name / (other_names.get(one.name) or one.name)
            raw[0][f"/{source.repository}/{source.commit}/{one.path}"] = path.read_bytes()
        try:
            fetch_benchmark(name, tmp_path)
        finally:
            bench_files.BENCH_SOURCES[name] = source
    assert len(read_mt_bench(tmp_path).questions) == 80
    assert find_bench_files(tmp_path).judge_prompts is not None
    assert {len(read_instructions(find_baseline(tmp_path, version))) for version in ("1", "2")} == {805}

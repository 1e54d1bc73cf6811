"""The files of judged benchmarks, from their authors' repositories at pinned commits, each verified by its SHA-256.

They lie in a cache, or in a folder that the user names, in the layout in which the benchmarks read them.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import httpx2

from zephyr.atomic import write_file
from zephyr.errors import DataError, did_you_mean

ALPACA_EVAL = "alpaca_eval"
# A mirror of raw.githubusercontent.com, and another place for the cache.
MIRROR, CACHE = "ZEPHYR_GITHUB_RAW", "ZEPHYR_CACHE"
_TIMEOUT_SECONDS = 30.0
_TRIES = 3


class BenchFile(NamedTuple):
    """A file: its name here, its path in the repository, and its hash."""

    name: str
    path: str
    sha256: str


class BenchSource(NamedTuple):
    """A benchmark's repository on GitHub at a commit, and the files of it."""

    repository: str
    commit: str
    licence: str
    files: tuple[BenchFile, ...]


_FASTCHAT, _PROMPTS = "fastchat/llm_judge/data", "src/alpaca_eval/evaluators_configs"
BENCH_SOURCES = {
    "mt_bench": BenchSource(
        "lm-sys/FastChat",
        "0e6d3e4beaab66f4d3f93db72541a4abab8af28d",
        "Apache-2.0",
        (
            BenchFile(
                "question.jsonl",
                f"{_FASTCHAT}/mt_bench/question.jsonl",
                "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            ),
            BenchFile(
                "reference_answer/gpt-4.jsonl",
                f"{_FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
                "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            ),
            BenchFile(
                "judge_prompts.jsonl",
                f"{_FASTCHAT}/judge_prompts.jsonl",
                "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            ),
        ),
    ),
    ALPACA_EVAL: BenchSource(
        "tatsu-lab/alpaca_eval",
        "cd543a149df89434d8a54582c0151c0b945c3d20",
        "CC BY-NC 4.0",
        (
            BenchFile(
                "gpt4_1106_preview_outputs.json",
                "results/gpt4_1106_preview/model_outputs.json",
                "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
            ),
            BenchFile(
                "text_davinci_003_outputs.json",
                "results/text_davinci_003/model_outputs.json",
                "af0bc112f08c88bf589bbfe6fc1036806d0a0f6fec9c4d5a4db860f5afe73b4b",
            ),
            BenchFile(
                "alpaca_eval.txt",
                f"{_PROMPTS}/alpaca_eval_gpt4/alpaca_eval.txt",
                "cf4bace43fa6ac71944b9ca2506587ad7c509478a219e98a3950abf9d5b42a98",
            ),
            BenchFile(
                "alpaca_eval_clf.txt",
                f"{_PROMPTS}/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt",
                "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62",
            ),
        ),
    ),
}  # fmt: skip


def bench_folder(benchmark: str, given: Path | None, *, offline: bool) -> Path:
    """The folder with the files of a judged benchmark: the one given, else the cache, after what it lacks is fetched.

    `benchmark`: mt_bench, or alpaca_eval with or without its version. Raises DataError for files that are not there and
    cannot be fetched.
    """
    if given is not None:
        return given
    name = ALPACA_EVAL if benchmark.startswith(ALPACA_EVAL) else benchmark
    source = BENCH_SOURCES[name]
    folder = _cache() / "benchmarks" / source.commit[:12]
    missing = [one for one in source.files if not _is_whole(folder / name / one.name, one)]
    is_offline = offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if missing and is_offline:
        names = ", ".join(one.path for one in source.files)
        by_hand = f"put the files of github.com/{source.repository} ({names}) into DIR/{name} and name DIR with --data"
        remedy = f"run `zephyr data fetch {name}` where there is a network, or {by_hand}"
        raise DataError(f"task {benchmark}", f"its files are not in {folder} and cannot be fetched offline", remedy)
    fetch_benchmark(name, folder)
    return folder


def fetch_benchmark(name: str, folder: Path) -> list[Path]:
    """The benchmark's files in `folder`/`name`, after those that are not there have been fetched and verified.

    Raises DataError for an unknown name, for what cannot be fetched, and for a file that is not the pinned one; a file
    of the user's that differs is never overwritten.
    """
    source = BENCH_SOURCES.get(name)
    if source is None:
        raise DataError(name, f"is no benchmark with files{did_you_mean(name, BENCH_SOURCES)}", "name one of them")
    is_ours = _cache() in folder.parents
    placed = []
    for one in source.files:
        place = folder / name / one.name
        if not _is_whole(place, one):
            if place.exists() and not is_ours:
                raise DataError(
                    str(place), "is another file than the published one", "move it away, or use another --out"
                )
            _place(place, _fetched(source, one))
        placed.append(place)
    return placed


def _cache() -> Path:
    """Where fetched files are kept."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zephyr"


def _is_whole(path: Path, file: BenchFile) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def _fetched(source: BenchSource, file: BenchFile) -> bytes:
    """The content of the file, verified. Raises DataError."""
    host = os.environ.get(MIRROR, "https://raw.githubusercontent.com").rstrip("/")
    address = f"{host}/{source.repository}/{source.commit}/{file.path}"
    remedy = f"check the network (a mirror is named by {MIRROR}), or put the file into DIR by hand: --data DIR"
    said = ""
    for _ in range(_TRIES):
        try:
            answer = httpx2.get(address, timeout=_TIMEOUT_SECONDS, follow_redirects=True)
        except httpx2.HTTPError as error:
            said = f"{type(error).__name__}: {error}"
            continue
        if answer.status_code != 200:
            raise DataError(address, f"cannot be fetched (HTTP {answer.status_code})", remedy)
        if hashlib.sha256(answer.content).hexdigest() != file.sha256:
            raise DataError(address, f"is not the file with SHA-256 {file.sha256[:12]}...", remedy)
        return answer.content
    raise DataError(address, f"cannot be fetched ({said})", remedy)


def _place(path: Path, content: bytes) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    write_file(partial, [content])
    partial.replace(path)

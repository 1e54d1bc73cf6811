"""Calls through a teacher with a ledger beside bare asyncio clients making the same calls, and a very long ledger.

    python benchmarks/ledger_load.py --json results/ledger.json

The bare clients are `openai`'s own async client, over the HTTP client it comes with and over the one of
`openai[aiohttp]`, and `httpx2`, each with as many workers as there are calls in flight. Ours asks through the `openai`
client too, over a transport of its own; "ours over ..." is the same with another HTTP client in that place. Every side
runs in a process of its own, in turn, against one echo server; medians of the rounds are compared. A last check counts
the answers that each HTTP client takes for another request's when a server sends a second response.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil
from machine import facts, peak_rss_bytes, versions

from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatRequest

if TYPE_CHECKING:
    import httpx2

HERE = Path(__file__).parent
WORDS = "The quick brown fox jumps over the lazy dog and runs away from it. " * 6
LONG_LEDGER_ROWS = 1_000_000
MEASURES = ("calls_per_second", "cpu_milliseconds_a_call", "peak_rss_mb")
MEGABYTE = 1e6


def requests(count: int) -> list[ChatRequest]:
    """Different requests of about a hundred tokens."""
    return [ChatRequest(str(n), (Message("user", f"{n}: {WORDS}"),), max_tokens=64, seed=n) for n in range(count)]


def body(request: ChatRequest) -> dict[str, object]:
    """What a bare client sends."""
    return {
        "model": "echo",
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }


def _httpx_client(*, keep: bool = True) -> "httpx2.AsyncClient":
    """The HTTP client that `openai` comes with; with `keep`, connections are used again."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=4096, max_keepalive_connections=4096 if keep else 0)
    return openai.DefaultAsyncHttpxClient(limits=limits, follow_redirects=False)


def _aiohttp_client(*, keep: bool = True) -> "httpx2.AsyncClient":
    """The HTTP client of `openai[aiohttp]`."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=4096, max_keepalive_connections=4096 if keep else 0)
    return openai.DefaultAioHttpClient(limits=limits, follow_redirects=False)


async def _bare_openai(
    base_url: str, asked: list[ChatRequest], concurrency: int, http: Callable[[], "httpx2.AsyncClient"]
) -> int:
    import openai

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http()) as client:

        async def ask(request: ChatRequest) -> str:
            made = await client.chat.completions.create(**body(request))
            return made.choices[0].message.content

        return await _all(ask, asked, concurrency)


async def _bare_httpx(base_url: str, asked: list[ChatRequest], concurrency: int) -> int:
    import httpx2

    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:

        async def ask(request: ChatRequest) -> str:
            response = await client.post(f"{base_url}/chat/completions", json=body(request))
            return response.json()["choices"][0]["message"]["content"]

        return await _all(ask, asked, concurrency)


async def _all(ask: Callable, asked: list[ChatRequest], concurrency: int) -> int:
    """How many answers are right."""
    waiting = iter(asked)
    right = 0

    async def work() -> None:
        nonlocal right
        for request in waiting:
            is_right = await ask(request) == request.messages[-1].content
            right += is_right  # not before the await: others count meanwhile

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return right


def _ours(
    base_url: str,
    asked: list[ChatRequest],
    concurrency: int,
    http: Callable[[], "httpx2.AsyncClient"] | None = None,
) -> int:
    """Right answers through our teacher with its ledger; over another HTTP client than its own, if one is given."""
    from zephyr.recipe.teacher_section import EndpointSection
    from zephyr.teachers.endpoint import chat_client
    from zephyr.teachers.endpoint.address import Address
    from zephyr.teachers.endpoint.teacher import EndpointTeacher
    from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
    from zephyr.teachers.ledger.ledger import Ledger

    if http is not None:
        chat_client.new_http_client = lambda _url, **_: http()
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder, Ledger(Path(folder) / "calls.sqlite") as ledger:
        section = EndpointSection(base_url=base_url, model="echo", concurrency=concurrency)
        endpoint = EndpointTeacher(Address(section))
        teacher = LedgeredTeacher(endpoint, ledger)
        replies = zip(asked, teacher.answer(asked), strict=True)
        right = sum(reply.text == request.messages[-1].content for request, reply in replies)
        assert ledger.totals()[0].answers == len(asked)
        return right


SIDES: dict[str, Callable[[str, list[ChatRequest], int], int]] = {
    "ours": _ours,
    "ours over aiohttp": lambda *told: _ours(*told, _aiohttp_client),
    "ours over aiohttp, new connections": lambda *told: _ours(*told, lambda: _aiohttp_client(keep=False)),
    "ours over httpx2": lambda *told: _ours(*told, _httpx_client),
    "openai": lambda *told: asyncio.run(_bare_openai(*told, _httpx_client)),
    "openai over aiohttp": lambda *told: asyncio.run(_bare_openai(*told, _aiohttp_client)),
    "httpx2": lambda *told: asyncio.run(_bare_httpx(*told)),
}


class _Memory(threading.Thread):
    """The resident memory of this process, looked at while it works."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self._process = psutil.Process()

    def run(self) -> None:
        while True:
            self.samples.append(self._process.memory_info().rss / MEGABYTE)
            time.sleep(0.25)


def measure(side: str, base_url: str, calls: int, concurrency: int) -> dict[str, object]:
    """What this process found out about one side."""
    asked = requests(calls)
    SIDES[side](base_url, asked[:concurrency], concurrency)  # imports, connections, first answers
    memory = _Memory()
    memory.start()
    cpu, began = time.process_time(), time.perf_counter()
    right = SIDES[side](base_url, asked, concurrency)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert right == calls, f"{right} of {calls} answers are right"
    samples = memory.samples
    third = max(1, len(samples) // 3)
    return {
        "side": side,
        "seconds": round(seconds, 3),
        "calls_per_second": round(calls / seconds, 1),
        "milliseconds_a_call": round(1000 * seconds / calls, 4),
        "cpu_milliseconds_a_call": round(1000 * cpu / calls, 4),
        "peak_rss_mb": round(peak_rss_bytes() / MEGABYTE, 1),
        "rss_first_third_mb": round(max(samples[:third]), 1),
        "rss_last_third_mb": round(max(samples[-third:]), 1),
    }


def reopening(rows: int) -> dict[str, object]:
    """How long a ledger with so many rows takes to open and to give an answer."""
    from zephyr.teachers.ledger.ledger import Ledger
    from zephyr.teachers.protocol import Attempt, ChatReply, Spend

    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        path = Path(folder) / "calls.sqlite"
        one = requests(1)[0]
        with Ledger(path) as ledger:
            books = ledger.books("echo")
            for n in range(rows):
                reply = ChatReply(str(n), WORDS, "stop", prompt_tokens=100, completion_tokens=50)
                books.record(one._replace(seed=n), Attempt(reply, Spend(100, 50, 0.0)))
                if n % 20_000 == 0:
                    ledger.flush()
        began = time.perf_counter()
        with Ledger(path) as ledger:
            opened = time.perf_counter() - began
            answered = ledger.books("echo").answered(one._replace(seed=rows // 2)) is not None
            total = ledger.totals()[0]
            looked = time.perf_counter() - began
        assert answered
        assert total.answers == rows
        return {
            "rows": rows,
            "gigabytes": round(path.stat().st_size / 1e9, 2),
            "open_seconds": round(opened, 4),
            "open_and_look_up_seconds": round(looked, 4),
        }


def wrong_answers(calls: int = 20) -> dict[str, int]:
    """How many of so many answers are another request's, where a server sends a second response 20 ms after each."""
    from zephyr.teachers.endpoint.chat_client import new_http_client

    async def count(base_url: str, http: "httpx2.AsyncClient") -> int:
        import openai

        wrong = 0
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http) as client:
            for request in requests(calls):
                made = await client.chat.completions.create(**body(request))
                wrong += made.choices[0].message.content != request.messages[-1].content
                await asyncio.sleep(0.05)
        return wrong

    with echo_server(0.0, late=0.02) as base_url:
        clients = {
            "ours": new_http_client(base_url, takes_files=False),
            "aiohttp": _aiohttp_client(),
            "httpx2": _httpx_client(),
        }
        return {name: asyncio.run(count(base_url, http)) for name, http in clients.items()}


@contextmanager
def echo_server(delay: float, late: float = 0.0) -> Iterator[str]:
    """The address of an echo server in a process of its own."""
    words = [sys.executable, str(HERE / "echo_server.py"), "--delay", str(delay), "--late", str(late)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def compare(sides: list[str], calls: int, concurrency: int, delay: float, rounds: int) -> dict[str, object]:
    """All sides in turn, several times; of each the median run, and ours as a share of the others."""
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    with echo_server(delay) as base_url:
        for _ in range(rounds):
            for side, done in runs.items():
                words = ["--side", side, "--url", base_url, "--calls", str(calls), "--concurrency", str(concurrency)]
                command = [sys.executable, __file__, *words]
                run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
                done.append(json.loads(run.stdout))
                print(json.dumps(done[-1]), file=sys.stderr, flush=True)
    medians = {side: {name: median(run[name] for run in done) for name in MEASURES} for side, done in runs.items()}
    ours = medians["ours"]
    return {
        "calls": calls,
        "concurrency": concurrency,
        "server_delay_seconds": delay,
        "rounds": rounds,
        "ours_as_share_of": {
            side: {name: round(ours[name] / found[name], 3) for name in MEASURES} for side, found in medians.items()
        },
        "medians": medians,
        "all_runs": runs,
    }


def main() -> None:
    """Print what was measured, and write it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds the server takes for an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="beside ours")
    parser.add_argument("--rows", type=int, default=LONG_LEDGER_ROWS, help="of the long ledger; 0: leave it out")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(measure(asked.side, asked.url, asked.calls, asked.concurrency)))
        return
    load_before = os.getloadavg()[0]
    sides = list(dict.fromkeys(["ours", *asked.sides]))
    load = compare(sides, asked.calls, asked.concurrency, asked.delay, asked.rounds)
    result = {
        "load": load,
        "wrong_answers_of_20_with_late_responses": wrong_answers(),
        "reopening": reopening(asked.rows) if asked.rows else None,
        "machine": facts(),
        "load_average_before": round(load_before, 2),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

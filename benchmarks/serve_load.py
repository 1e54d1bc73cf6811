"""`zephyr serve` with 1 and with many streaming clients: time to first token, tokens a second, and who gets how much.

    python benchmarks/serve_load.py --model FOLDER --clients 1 64 --json out.json

A real server in a process of its own on loopback; all clients ask at once, each its own question; an answer ends by
itself, or after so many tokens. A chunk of the stream counts as a token, which it is but for characters of several.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
from compare import Report, circumstances

ADDRESS = re.compile(r"at (http://\S+/v1)")
QUESTION = "Tell me in a few words what the number {} reminds you of, and why."


class Stream(NamedTuple):
    """What one client saw: seconds to its first token and to its last, and how many tokens."""

    first: float
    last: float
    tokens: int


@contextmanager
def server(model: Path, threads: int) -> Iterator[str]:
    """The address of a server of the model, which is ended afterwards."""
    command = [sys.executable, "-m", "zephyr", "serve", str(model), "--port", "0", "--offline"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := ADDRESS.search(line):
                    yield found[1]
                    return
            raise RuntimeError("the server ended before it listened")
        finally:
            process.terminate()


async def stream(client: httpx2.AsyncClient, name: str, number: int, max_tokens: int) -> Stream:
    """One client's answer."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": QUESTION.format(number)}],
        "max_tokens": max_tokens,
        "temperature": 0.7,
        "seed": number,
        "stream": True,
    }
    start = time.perf_counter()
    async with client.stream("POST", "chat/completions", json=body) as response:
        response.raise_for_status()
        seen = [time.perf_counter() - start async for line in response.aiter_lines() if _has_text(line)]
    return Stream(seen[0], seen[-1], len(seen)) if seen else Stream(0.0, 0.0, 0)


def _has_text(line: str) -> bool:
    """Whether a line of the stream is an event with some of the answer."""
    return line.startswith("data: {") and any(one["delta"].get("content") for one in json.loads(line[6:])["choices"])


async def load(address: str, num_clients: int, max_tokens: int) -> list[Stream]:
    """What so many clients saw that asked at once."""
    limits = httpx2.Limits(max_connections=num_clients)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        name = (await client.get("models")).json()["data"][0]["id"]
        return await asyncio.gather(*(stream(client, name, number, max_tokens) for number in range(num_clients)))


def measure(address: str, num_clients: int, max_tokens: int) -> dict[str, object]:
    """The numbers of one load."""
    start = time.perf_counter()
    # A client whose answer is a token or none has no speed.
    streams = [one for one in asyncio.run(load(address, num_clients, max_tokens)) if one.tokens > 1]
    seconds = time.perf_counter() - start
    firsts = sorted(one.first for one in streams)
    speeds = sorted((one.tokens - 1) / (one.last - one.first) for one in streams)
    return {
        "clients": num_clients,
        "tokens": sum(one.tokens for one in streams),
        "tokens_per_second": round(sum(one.tokens for one in streams) / seconds, 1),
        "first_token_seconds": {"median": round(statistics.median(firsts), 3), "last": round(firsts[-1], 3)},
        "client_tokens_per_second": {
            "slowest": round(speeds[0], 2),
            "median": round(statistics.median(speeds), 2),
            "fastest": round(speeds[-1], 2),
        },
    }


def main() -> int:
    """The exit code: 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model's folder, with a chat template")
    add("--threads", type=int, default=2)
    add("--clients", type=int, nargs="*", default=[1, 8, 64])
    add("--max-tokens", type=int, default=64)
    add("--json", type=Path)
    arguments = parser.parse_args()
    results, before = [], os.getloadavg()[0]
    with server(arguments.model, arguments.threads) as address:
        measure(address, 1, 4)  # what only the first call costs
        for num_clients in arguments.clients:
            results.append(measure(address, num_clients, arguments.max_tokens))
            print(json.dumps(results[-1]), flush=True)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    report: Report = {"settings": settings, "results": results, "load_average_before": before} | circumstances()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`zephyr serve` as a program: real clients at once, hostile calls, clients that leave, and its end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from tests.deliver.serving.test_application import MALFORMED
from tests.teachers.served_model import save_replying_model
from zephyr.deliver.serving.address import ServeSettings, bound_socket, check_access
from zephyr.errors import ResourceError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

REPLIES = ("Red, green and blue.", "It is five.", "Yes: a very old one.")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.3", "machine.example"])
def test_other_addresses_want_a_token(host):
    with pytest.raises(ResourceError, match="ZEPHYR_SERVE_TOKEN"):
        check_access(ServeSettings("model", host=host))
    check_access(ServeSettings("model", host=host, token="secret"))
    check_access(ServeSettings("model"))
    with pytest.raises(ResourceError, match="is empty"):
        check_access(ServeSettings("model", token=" "))


def test_a_port_that_is_taken_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ResourceError, match="give another --port"):
            bound_socket("127.0.0.1", other.getsockname()[1])


@pytest.fixture
def served(tmp_path):
    """The process of `zephyr serve` with a tiny model, and its address; a proxy that is not there is named."""
    folder = tmp_path / "tiny"
    save_replying_model(folder, REPLIES)
    command = [sys.executable, "-m", "zephyr", "serve", str(folder), "--port", "0", "--offline"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line
        yield process, line.split(" at ")[1].split(",")[0]
        process.kill()


def client_of(address):
    # The machine's proxies are none of this test's.
    return openai.OpenAI(base_url=address, api_key="none", timeout=120, max_retries=0)


def posted(address, body):
    request = urllib.request.Request(
        f"{address}/chat/completions", data=body, headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


ENDLESS = {"messages": [{"role": "user", "content": "Hello?"}], "logit_bias": {"2": -100}}


@pytest.mark.slow
def test_the_openai_client_is_answered_by_many_at_once(served):
    _, address = served
    client = client_of(address)
    assert [model.id for model in client.models.list()] == ["tiny"]
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 4}

    def once(number):
        messages = [{"role": "user", "content": f"Number {number}?"}]
        if number % 2:
            return client.chat.completions.create(messages=messages, **settings).choices[0].message.content
        parts = client.chat.completions.create(messages=messages, stream=True, **settings)
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(once, range(256)))
    assert {answer.strip() for answer in answers} == {REPLIES[0]}


@pytest.mark.slow
def test_a_long_answer_keeps_nobody_waiting(served):
    _, address = served
    client = client_of(address)

    begun = threading.Semaphore(0)

    def long(_):
        stream = client.chat.completions.create(
            model="tiny", messages=ENDLESS["messages"], logit_bias=ENDLESS["logit_bias"], max_tokens=2000, stream=True
        )
        next(stream)
        begun.release()
        return sum(1 for _ in stream)

    with ThreadPoolExecutor(16) as pool:
        longs = [pool.submit(long, number) for number in range(16)]
        for _ in longs:
            assert begun.acquire(timeout=120)
        for _ in range(8):
            client.chat.completions.create(model="tiny", messages=ENDLESS["messages"], max_tokens=2)
        assert not any(one.done() for one in longs)
        assert all(one.result() for one in longs)


@pytest.mark.slow
def test_two_thousand_hostile_calls_leave_it_as_it_was(served):
    process, address = served
    bodies = [body if isinstance(body, bytes) else json.dumps(body).encode() for body, _, _, _ in MALFORMED[:-1]]
    memory = psutil.Process(process.pid).memory_info().rss

    def hostile(number):
        status, answer = posted(address, bodies[number % len(bodies)])
        return status if answer["error"]["message"] else 0

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(hostile, range(2000)))
    assert {status for status in statuses if not 400 <= status < 500} == set()
    status, answer = posted(address, json.dumps(ENDLESS | {"max_tokens": 1, "temperature": 0}).encode())
    assert (status, answer["choices"][0]["message"]["content"].strip()) == (200, REPLIES[0])
    assert psutil.Process(process.pid).memory_info().rss < memory + (100 << 20)


@pytest.mark.slow
def test_a_client_that_leaves_frees_the_work(served):
    process, address = served
    host = address.removeprefix("http://").removesuffix("/v1")
    for stream in (False, True):
        for _ in range(80):
            connection = http.client.HTTPConnection(host, timeout=30)
            body = json.dumps(ENDLESS | {"stream": stream, "max_tokens": 16_000})
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            connection.close()
        started = time.monotonic()
        assert posted(address, json.dumps(ENDLESS | {"max_tokens": 2}).encode())[0] == 200
        assert time.monotonic() - started < 10
    busy = psutil.Process(process.pid)
    busy.cpu_percent()
    time.sleep(2)
    assert busy.cpu_percent() < 50


@pytest.mark.slow
def test_one_process_has_one_port(served):
    process, address = served
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    ports = {one.laddr.port for each in family for one in each.net_connections() if one.status == "LISTEN"}
    assert ports == {int(address.removesuffix("/v1").rpartition(":")[2])}


@pytest.mark.slow
def test_a_signal_ends_all_answers_within_seconds(served):
    process, address = served
    client = client_of(address)
    ended = []

    def long():
        try:
            for _ in client.chat.completions.create(
                model="tiny", messages=ENDLESS["messages"], logit_bias=ENDLESS["logit_bias"], stream=True
            ):
                pass
        except openai.APIError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=long) for _ in range(32)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 30
    for thread in threads:
        thread.join(60)
    assert ended == ["the server ends"] * 32

"""A server of a tiny chat model: as an application in this process, or over HTTP on a free port of this machine."""

import asyncio
import contextlib
import threading
import time

import httpx2
import torch
import uvicorn

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.deliver.serving.address import bound_socket
from zephyr.deliver.serving.application import Served, serving_routes
from zephyr.deliver.serving.served_model import ServedModel
from zephyr.models.continuous import ContinuousWriter
from zephyr.models.json_grammar import has_grammars, json_grammars
from zephyr.models.streaming import byte_reader
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import SamplingSection

NAME = "tiny"
BODY_BYTES = 4096
WINDOW = 96


def open_model(**limits):
    """A tiny model that is ready to answer, and never ends by itself; its writer is to be closed."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("mistral", vocab_size=len(tokenizer))
    with torch.no_grad():
        # Letters and spaces alone, so that there is text to stop at.
        model.lm_head.weight[: len(tokenizer) // 4] -= 0.2
    encoder = DialogueEncoder(tokenizer, ChatTemplateSection(name="own"))
    stops = set(encoder.stop_ids)
    grammars = json_grammars(tokenizer, vocab_size=len(tokenizer), stop_ids=stops) if has_grammars() else None
    return ServedModel(
        name=NAME,
        tokenizer=tiny_tokenizer(),
        writer=ContinuousWriter(model, stops, **limits),
        window=WINDOW,
        vocab_size=len(tokenizer),
        sampling=SamplingSection(temperature=1, top_k=0, top_p=1, max_new_tokens=1),
        encoder=encoder,
        grammars=grammars,
    )


def open_application(model, token=None):
    return serving_routes(Served(model, token, BODY_BYTES, byte_reader(model.tokenizer)))


def ask(app, method, path, host="localhost", **options):
    """The response of the application."""

    async def once():
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


@contextlib.contextmanager
def listening(app):
    """The application over HTTP, as long as the block: its address."""
    with bound_socket("127.0.0.1", 0) as found:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{found.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)

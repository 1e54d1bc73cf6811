"""`zephyr serve`: the model is loaded, then one process reads requests and writes answers until it is stopped.

The engine has no port and no socket: it is a thread of this process, or vLLM's own processes, which speak with this one
over sockets in a folder that nobody else may enter.
"""

import copy
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from types import FrameType
from typing import NoReturn

import torch
from pydantic import ValidationError

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.deliver.serving.address import ServeSettings, bound_socket, check_access
from zephyr.deliver.serving.served_model import ServedModel, Writes
from zephyr.deliver.serving.vllm_writer import VllmWriter
from zephyr.errors import ModelError, ResourceError, ZephyrError
from zephyr.models.continuous import ContinuousWriter
from zephyr.models.engine import MAX_CACHE_TOKENS, cache_budget
from zephyr.models.generation import stop_ids_of
from zephyr.models.json_grammar import has_grammars, json_grammars
from zephyr.models.loading import check_tokenizer, empty_model, fastest_placement, load_model, num_embeddings
from zephyr.models.source import Source, check_source
from zephyr.models.streaming import byte_reader
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import printable
from zephyr.teachers.vllm_engine import is_installed

# What still runs so long after a signal is ended.
MAX_SECONDS_TO_END = 5


def run_server(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serve the model until stopped. Raises ResourceError where that cannot be, ModelError for what is no model."""
    check_access(settings)
    check_source(Source(settings.model, offline=settings.offline))
    try:
        import uvicorn

        from zephyr.deliver.serving.application import Served, serving_routes
    except ImportError as error:
        raise ResourceError("zephyr serve", f"needs {error.name}", 'pip install "zephyr-align[serve]"') from error
    # Also while the model loads.
    signal.signal(signal.SIGTERM, _end)
    with bound_socket(settings.host, settings.port) as listening, served_model(settings, say) as model:
        served = Served(model, settings.token, settings.body_bytes, byte_reader(model.tokenizer))
        config = uvicorn.Config(
            serving_routes(served),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=MAX_SECONDS_TO_END,
        )

        address = f"http://{settings.host}:{listening.getsockname()[1]}/v1"

        class Server(uvicorn.Server):
            """Says when it answers, and ends the answers at work with the first signal: nobody waits for them."""

            async def startup(self, sockets: list[socket] | None = None) -> None:
                await super().startup(sockets)
                say(f"{settings.name} by {engine_of(settings)} at {address}, until Ctrl-C")

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                model.writer.close(0)
                super().handle_exit(sig, frame)

        # What is loaded stays: the collector need not look at it again, nor at the end, where that would take seconds.
        gc.freeze()
        Server(config).run(sockets=[listening])


@contextmanager
def served_model(settings: ServeSettings, say: Callable[[str], None]) -> Iterator[ServedModel]:
    """The model, ready to answer as long as the block. Raises ModelError, ResourceError."""
    source = Source(settings.model, offline=settings.offline)
    is_vllm = engine_of(settings) == "vllm"
    device, dtype = fastest_placement()
    # vLLM reads the weights itself; here the architecture is enough.
    model = empty_model(source) if is_vllm else load_model(source, dtype=dtype, device=device)
    tokenizer = load_tokenizer(source)
    check_tokenizer(model, tokenizer, settings.model)
    encoder, no_chat = _encoder(tokenizer)
    if encoder is None:
        say(f"{settings.name} does not chat, /v1/completions is served alone: {printable(no_chat)}")
    stops = {*stop_ids_of(model, tokenizer), *(encoder.stop_ids if encoder else ())}
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    window = positions if isinstance(positions, int) else MAX_CACHE_TOKENS
    vocab_size = num_embeddings(model)
    writer: Writes
    if is_vllm:
        writer = VllmWriter(settings.model, stops, window=window)
    else:
        writer = ContinuousWriter(model, stops, max_cache_tokens=cache_budget(model, None, at_least=window))
    grammars = None
    if has_grammars() and not is_vllm:
        grammars = json_grammars(tokenizer, vocab_size=vocab_size, stop_ids=stops)
    try:
        yield ServedModel(
            name=settings.name,
            # The thread of the model reads ids with one of its own.
            tokenizer=copy.deepcopy(tokenizer),
            writer=writer,
            window=window,
            vocab_size=vocab_size,
            sampling=_own_sampling(settings, model.generation_config),
            encoder=encoder,
            no_chat=no_chat,
            grammars=grammars,
        )
    finally:
        writer.close(MAX_SECONDS_TO_END)


def _encoder(tokenizer: Tokenizer) -> tuple[DialogueEncoder | None, str]:
    """The encoder of the model's own chat template, or why there is none."""
    try:
        return DialogueEncoder(tokenizer, ChatTemplateSection(name="own")), ""
    except ZephyrError as error:
        return None, f"{error.where} {error.what}"


def _own_sampling(settings: ServeSettings, config: object) -> SamplingSection:
    """What a request leaves open: as the model's generation_config.json says, else OpenAI's defaults."""
    found = {name: getattr(config, name, None) for name in ("temperature", "top_k", "top_p")}
    usual: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    try:
        return SamplingSection.model_validate(
            usual | {name: value for name, value in found.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        what = f"its generation_config.json has a {first['loc'][0]} that cannot be, got {first['input']}"
        raise ModelError(settings.model, what, "correct it, or take the line out") from error


def engine_of(settings: ServeSettings) -> str:
    """The engine's name: of `auto`, vLLM where it is installed and there is a GPU."""
    if settings.engine != "auto":
        return settings.engine
    return "vllm" if is_installed() and torch.cuda.is_available() else "transformers"


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)

"""A model of whole replies, served by `transformers serve`: each reply is one token, and what follows the prompt.

Its weights are set by hand, so that it can be asked to write and to rate without being trained: the next token
depends on the last one alone, and after the end of a prompt that is one of the replies.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.models.new_model import new_model, set_generation
from zephyr.models.tokenizers import learn_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message

# Of the likeliest reply, which is all that is said at temperature 0, over each other one.
MARGIN = 1.0
STARTS_WITHIN_SECONDS = 120.0


def save_replying_model(folder: Path, replies: Sequence[str]) -> None:
    """Nothing; the folder holds a model that says the first of the replies, or by chance another one."""
    tokenizer = learn_tokenizer([], vocab_size=260, max_length=16_384)
    encoder = DialogueEncoder(tokenizer, ChatTemplateSection())
    tokenizer.chat_template = encoder.chat_template
    tokenizer.add_tokens([AddedToken(reply, normalized=False) for reply in replies])
    width = len(tokenizer) + len(tokenizer) % 2
    sizes = {"hidden_size": width, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 16_384}
    model = new_model("mistral", sizes, tokenizer, seed=0, dtype=torch.float32)
    end = int(encoder.prompt([Message("user", "?")])[-1])
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), width))
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        head = model.lm_head.weight.zero_()
        head[tokenizer.eos_token_id] = 20.0
        head[tokenizer.eos_token_id, end] = 0.0
        for number, reply in enumerate(replies):
            # What stands for a token is as long as the square root of the width, after the norm.
            head[tokenizer.convert_tokens_to_ids(reply), end] = (20.0 + MARGIN * (number == 0)) / width**0.5
    set_generation(
        model, tokenizer, SamplingSection(temperature=1.0, top_k=0, top_p=1.0), stop_ids=encoder.stop_ids
    )  # the server draws only if a model does
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def serving(folder: Path, cache: Path) -> Iterator[str]:
    """The address of `transformers serve` with the model in the folder; `cache` takes its list of models."""
    (cache / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error"]
    with (
        (cache / "log.txt").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, cache / "log.txt")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    give_up = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(log.read_text())

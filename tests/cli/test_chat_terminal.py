"""`zephyr chat` in a real terminal: turns, Ctrl-C, Ctrl-D, and a model whose words could steer the terminal."""

import os
import pty
import select
import signal
import sys
import time

import pytest
import torch

from tests.teachers.served_model import save_replying_model
from zephyr.cli import main as cli
from zephyr.models.tiny import tiny_model, tiny_tokenizer

ANSWER = "It is \x1b]0;mine\x07\x1b[31mred.\x1b[0m"
SHOWN = r"It is \x1b]0;mine\x07\x1b[31mred.\x1b[0m"
SECONDS = 120


class Terminal:
    """A command in a terminal of its own; a line that is typed is shown, as terminals do."""

    def __init__(self, *command):
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "dumb", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
            os.execv(sys.executable, [sys.executable, "-m", "zephyr", *command])
        self.seen = ""
        self.read = 0

    def until(self, text):
        """What was shown up to `text`, since the last time."""
        give_up = time.monotonic() + SECONDS
        while (place := self.seen.find(text, self.read)) < 0:
            assert time.monotonic() < give_up, f"no {text!r} in {self.seen!r}"
            assert self._more(), f"ended without {text!r}: {self.seen!r}"
        shown, self.read = self.seen[self.read : place], place + len(text)
        return shown

    def interrupt_until(self, text):
        """Type Ctrl-C until `text` is shown: Python's input() misses one between its prompt and its reading."""
        give_up = time.monotonic() + SECONDS
        time.sleep(0.5)
        while text not in self.seen[self.read :]:
            assert time.monotonic() < give_up, f"no {text!r} in {self.seen!r}"
            self.type("\x03")
            wait = time.monotonic() + 10
            while text not in self.seen[self.read :] and time.monotonic() < wait:
                assert self._more(), f"ended without {text!r}: {self.seen!r}"
        self.until(text)

    def more_than(self, characters):
        while len(self.seen) < self.read + characters:
            assert self._more()

    def _more(self):
        if not select.select([self.handle], [], [], 1)[0]:
            return True
        try:
            data = os.read(self.handle, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += data.decode()
        return bool(data)

    def type(self, text):
        os.write(self.handle, text.encode())

    def end(self):
        """The exit code."""
        give_up = time.monotonic() + SECONDS
        while self._more():
            assert time.monotonic() < give_up
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.handle)


PROMPT = "\r\n> "


@pytest.fixture(scope="module")
def replying(tmp_path_factory):
    """A model that always says the same."""
    folder = tmp_path_factory.mktemp("chat") / "replying"
    save_replying_model(folder, [ANSWER])
    return folder


@pytest.fixture(scope="module")
def babbling(tmp_path_factory):
    """A model that never ends."""
    folder = tmp_path_factory.mktemp("chat") / "babbling"
    tokenizer = tiny_tokenizer()
    model = tiny_model("mistral", vocab_size=len(tokenizer))
    with torch.no_grad():
        # Its end is never the likeliest.
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def open_chat():
    opened = []

    def chat(folder, *options):
        opened.append(Terminal("chat", str(folder), "--offline", *options))
        opened[-1].until("> ")
        return opened[-1]

    yield chat
    for terminal in opened:
        terminal.close()


@pytest.mark.slow
def test_a_conversation_as_people_have_it(open_chat, replying):
    chat = open_chat(replying, "--temperature", "0")
    for question in ("What colour is it?", "And now?"):
        chat.type(question + "\n")
        assert chat.until(PROMPT).splitlines() == [question, SHOWN]
    chat.type("\n")
    chat.until("> ")
    chat.interrupt_until("(Ctrl-D or /exit ends)")
    chat.until("> ")
    chat.type("\x04")
    assert chat.end() == 0
    assert "\x1b" not in chat.seen
    assert "\x07" not in chat.seen


def test_ctrl_c_ends_an_answer_and_not_the_conversation(open_chat, babbling):
    chat = open_chat(babbling, "--temperature", "0", "--max-new-tokens", "100000")
    chat.type("Hi?\n")
    chat.until("Hi?\r\n")
    # It writes, and goes on writing.
    chat.more_than(40)
    chat.type("\x03")
    chat.until("(stopped; this question is forgotten)")
    chat.until("> ")
    chat.type("/new\n")
    chat.until("(a new conversation)")
    chat.until("> ")
    chat.type("/exit\n")
    assert chat.end() == 0


@pytest.mark.parametrize(
    ("option", "said"), [(("--top-p", "0"), "top_p must be"), (("--temperature", "inf"), "temper")]
)
def test_what_no_distribution_has_is_said_before_a_model_is_loaded(option, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["chat", str(tmp_path / "none"), *option])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err

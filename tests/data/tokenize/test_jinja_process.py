"""Templates of strangers: what is too long, too large or broken ends with one kind of error, and in bounded time."""

import os
import resource
import signal

import psutil
import pytest

from zephyr.data.tokenize.jinja_process import LimitError, SandboxProcess, TemplateFaultError
from zephyr.data.tokenize.tokenizer_template import OwnTemplate
from zephyr.errors import ZephyrError
from zephyr.models.tiny import tiny_tokenizer

MESSAGES = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TOO_MUCH = [
    ENDLESS,
    "{% set x = 'a' * 3000000000 %}",
    "{{ 'a'|center(2000000000) }}",
    "{{ ('%' ~ '2000000000d') % 1 }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ range(99999)|map('string')|join('b' * 99999) }}",
]
BROKEN = [
    "{{ 1 / 0 }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% set x = 'a' * 100000000000000000000 %}",
    "{{ messages[0].__class__.__mro__ }}{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{{ raise_exception('no') }}",
    "{% include 'other' %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% for",
    "{{ x | nofilter }}",
    "{{ 'a'.encode().decode('idna' * 9) }}",
]


@pytest.fixture(scope="module")
def sandbox():
    return SandboxProcess()


@pytest.mark.parametrize("source", TOO_MUCH)
def test_what_is_too_much_is_a_limit(sandbox, source):
    with pytest.raises(LimitError, match=r"seconds|memory|characters"):
        sandbox.render(source, {"messages": []})
    assert sandbox.render("a{{ b }}", {"b": 1}) == "a1"


@pytest.mark.parametrize("source", BROKEN)
def test_what_is_broken_is_a_fault(sandbox, source):
    with pytest.raises((TemplateFaultError, LimitError)):
        sandbox.render(source, {"messages": [{"role": "user", "content": "a"}]})


@pytest.mark.parametrize("source", [TOO_MUCH[3], BROKEN[0], BROKEN[1], BROKEN[6]])
def test_a_model_with_such_a_template_is_refused(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source + MESSAGES
    with pytest.raises(ZephyrError, match="chat template"):
        OwnTemplate(tokenizer, empty_system=False)


def test_texts_come_through_as_they_are(sandbox):
    text = "\ud800 \x00 \u20ac \U0001f600 {{ 1 }} <b>"
    assert sandbox.render("{{ m }}", {"m": text}) == text
    assert sandbox.variables("{{ b }}{% set c = 1 %}{{ c }}{{ strftime_now('%Y') }}") == ["b"]


def test_a_process_that_is_killed_is_started_again(sandbox):
    sandbox.render("a", {})
    sandbox._process.kill()
    sandbox._process.wait()
    assert sandbox.render("a", {}) == "a"


def test_it_has_limits_of_its_own_and_ends_with_its_parent():
    own = SandboxProcess()
    assert own.render("a", {}) == "a"
    process = psutil.Process(own._process.pid)
    assert process.rlimit(resource.RLIMIT_AS)[0] == 1 << 30
    process.send_signal(signal.SIGINT)
    assert own.render("b", {}) == "b"
    own._process.stdin.close()
    process.wait(10)


def test_a_fork_has_a_process_of_its_own(sandbox):
    sandbox.render("a", {})
    before = sandbox._process.pid
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if sandbox.render("b", {}) == "b" and sandbox._process.pid != before else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sandbox.render("c", {}) == "c"
    assert sandbox._process.pid == before

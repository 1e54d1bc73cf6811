"""The table of fields says what the server does, and random bodies get an answer or a refusal, never a fault."""

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.deliver.serving.fields import CHAT, COMPLETIONS, tried
from tests.deliver.serving.small_server import ask, open_application, open_model

JSON_HEADER = {"content-type": "application/json"}
# What a valid request holds, and what it does not.
SENSIBLE = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
}
NAMES = sorted({one.field for one in (*CHAT, *COMPLETIONS)} | {"top_k", "min_p", "chat_template", "__proto__", ""})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-3, 3) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(NAMES), inner),
    max_leaves=6,
)
TRIED_VALUES = [one.value for one in (*CHAT, *COMPLETIONS) if one.field not in ("max_tokens", "max_completion_tokens")]
BODIES = st.dictionaries(
    st.sampled_from(NAMES), VALUES | st.sampled_from(TRIED_VALUES) | st.sampled_from([0, 1, 2, "user", 0.5]), max_size=4
)


@pytest.fixture(scope="module")
def app():
    model = open_model()
    yield open_application(model)
    model.writer.close()


@pytest.mark.slow
def test_the_table_of_fields_is_that_of_this_server(repository):
    pytest.importorskip("llguidance")
    assert (repository / "docs" / "serving-fields.md").read_text() == tried()


def no_fault(app, path, body):
    answer = ask(app, "POST", path, content=body, headers=JSON_HEADER)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    assert "\ufffd" not in answer.text or b"\xef\xbf\xbd" in body or b"fffd" in body.lower()


def requests(data):
    path = data.draw(st.sampled_from(sorted(SENSIBLE)))
    asked = data.draw(BODIES)
    body = json.dumps(asked if data.draw(st.integers(0, 4)) == 0 else SENSIBLE[path] | asked).encode()
    if data.draw(st.integers(0, 9)) == 0:
        place = data.draw(st.integers(0, len(body)))
        body = body[:place] + data.draw(st.binary(max_size=4)) + body[place:]
    return path, body


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_bodies_are_answered_or_refused(app, data):
    no_fault(app, *requests(data))


@pytest.mark.slow
@settings(max_examples=20_000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_very_many_random_bodies_are_answered_or_refused(app, data):
    logging.disable(logging.INFO)
    no_fault(app, *requests(data))

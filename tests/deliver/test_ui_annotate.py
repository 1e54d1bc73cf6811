"""The annotation page's requests: names stay here, other pages get nothing, and what does not fit is refused."""

import asyncio
import json

import pytest

pytest.importorskip("starlette")

from zephyr.deliver.ui.annotate import AnnotationSetup, annotation_application
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated

HOSTILE = "<b>a</b>\x1b[2J\nnext"


class Kept:
    """Rows whose scores are kept in memory."""

    def __init__(self):
        answers = (Answer(HOSTILE, "secret-one"), Answer("b", "secret-two"))
        self.rows = [Rated("r", (Message("user", "Q?"),), answers)]
        self.shown, self.scores = [[1, 0]], [None]

    def save(self, index, scores):
        if len(scores) != 2:
            raise ValueError("2 scores are needed")
        if scores == [9, 9]:
            raise OSError(28, "No space left on device")
        self.scores[index] = list(scores)


@pytest.fixture
def ask():
    """A function that sends a request to the page of one row and gives status and text."""
    application = annotation_application(AnnotationSetup(Kept(), "answers.jsonl", "rank", 5), None)

    def send(path, body=None, **headers):
        text = b"" if body is None else body.encode()
        fields = {"host": "localhost", **headers}
        fields |= {} if body is None else {"content-length": str(len(text))}
        scope = {
            "type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
        }  # fmt: skip
        sent, asked = [], []

        async def receive():
            asked.append(1)
            if len(asked) > 1:  # the visitor stays
                await asyncio.Event().wait()
            return {"type": "http.request", "body": text}

        async def answer(message):
            sent.append(message)

        asyncio.run(application(scope, receive, answer))
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]).decode(), dict(sent[0]["headers"])

    return send


JSON = {"content_type": "application/json"}


def test_a_row_has_texts_in_the_order_shown_and_no_names(ask):
    status, text, headers = ask("/rows/0")
    assert status == 200
    assert "secret" not in text
    assert json.loads(text)["answers"] == ["b", "<b>a</b>\\x1b[2J\nnext"]
    assert b"script-src 'self'" in headers[b"content-security-policy"]


def test_scores_are_saved_and_the_state_told(ask):
    status, text, _ = ask("/rows/0", '{"scores": [2, 1]}', **JSON)
    assert (status, json.loads(text)["done"]) == (200, [0])
    assert json.loads(ask("/rows/0")[1])["scores"] == [1, 2]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "said"),
    [
        ("/rows/0", '{"scores": [1]}', JSON, 400, "2 scores are needed"),
        ("/rows/0", '{"scores": [true, 1]}', JSON, 400, "the body must be"),
        ("/rows/0", '{"scores"', JSON, 400, "the body must be"),
        ("/rows/0", '{"scores": [2, 1]}', {"content_type": "text/plain"}, 415, "must be JSON"),
        ("/rows/0", '{"scores": [9, 9]}', JSON, 507, "could not be saved (No space left on device)"),
        ("/rows/0", '{"scores": [2, 1]}', {**JSON, "origin": "http://evil.example"}, 403, "other sites"),
        ("/state", None, {"host": "evil.example"}, 400, "only localhost"),
        ("/rows/7", None, {}, 404, "no such row"),
        ("/annotate.j2", None, {}, 404, "nothing is served here"),
    ],
)
def test_what_does_not_fit_is_refused(ask, path, body, headers, status, said):
    found, text, _ = ask(path, body, **headers)
    assert (found, said in text) == (status, True), text


def test_the_page_and_its_files_are_there(ask):
    for path in ("/", "/annotate.css", "/annotate.js"):
        status, text, _ = ask(path)
        assert status == 200
        assert text
    assert "http" not in ask("/")[1]

"""A process that asks a server through a ledger until all is answered or it is killed.

Told: the server's address, the ledger, how many questions, and how many may be in flight.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.teachers.calls import address_at, questions
from zephyr.teachers.endpoint.retrying_call import Backoff
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger


def main(base_url: str, path: str, count: int, concurrency: int) -> None:
    """Nothing; prints a line when it begins to ask, and how many were answered."""
    address = address_at(base_url, concurrency=concurrency, deadline_seconds=1.0, max_tries=30)
    with Ledger(Path(path)) as ledger:
        teacher = LedgeredTeacher(EndpointTeacher(address, Backoff(0.02, 0.2)), ledger)
        print("asking", flush=True)
        print(sum(reply.finish_reason == "stop" for reply in teacher.answer(questions(count))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

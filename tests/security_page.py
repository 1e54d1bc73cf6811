"""What strangers try, and what held: `python -m tests.security_page > docs/security.md` runs the tests and counts.

A case of a test is one attempt, unless the table says how many it makes.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SERVING = "tests/deliver/serving"


class Kind(NamedTuple):
    """What is tried, by whom, and the tests that try it with the attempts of one case of each."""

    what: str
    by: str
    tests: Mapping[str, int]


KINDS = (
    Kind("malformed and hostile requests", "a client of `zephyr serve`", {
        f"{SERVING}/test_application.py::test_a_malformed_request_gets_its_reason_and_its_field": 1,
        f"{SERVING}/test_application.py::test_pages_of_other_sites_are_kept_out": 4,
        f"{SERVING}/test_application.py::test_a_token_opens_the_door_and_nothing_else_does": 9,
        f"{SERVING}/test_application.py::test_only_these_paths_are_served": 4,
        f"{SERVING}/test_server.py::test_two_thousand_hostile_calls_leave_it_as_it_was": 2000,
    }),
    Kind("random requests", "a client of `zephyr serve`", {
        f"{SERVING}/test_fields.py::test_random_bodies_are_answered_or_refused": 200,
        f"{SERVING}/test_fields.py::test_very_many_random_bodies_are_answered_or_refused": 20_000,
    }),
    Kind("many clients at once, long answers, clients that leave", "a client of `zephyr serve`", {
        f"{SERVING}/test_server.py::test_the_openai_client_is_answered_by_many_at_once": 256,
        f"{SERVING}/test_server.py::test_a_long_answer_keeps_nobody_waiting": 24,
        f"{SERVING}/test_server.py::test_a_client_that_leaves_frees_the_work": 160,
        f"{SERVING}/test_server.py::test_a_signal_ends_all_answers_within_seconds": 32,
        f"{SERVING}/test_server.py::test_one_process_has_one_port": 1,
    }),
    Kind("hosts, origins, paths, sizes and tokens of the chat page", "a web page or a visitor", {
        "tests/deliver/test_ui_access.py": 1,
    }),
    Kind("broken, absurd and hostile model folders", "the author of a model", {"tests/models/test_strangers.py": 1}),
    Kind("chat templates without end or measure", "the author of a model", {
        "tests/data/tokenize/test_jinja_process.py": 1,
    }),
    Kind("escape sequences on their way to the terminal", "the author of a model or a file", {
        "tests/cli/test_terminal.py": 1,
        "tests/cli/test_chat_terminal.py": 1,
    }),
    Kind("files and recipes of every wrong kind", "the author of a file", {"tests/test_bad_input.py": 1}),
    Kind("verdicts that a candidate tries to write itself", "a candidate's answer", {
        "tests/judging/test_injections.py": 1,
    }),
    Kind("random replies of judges", "a judge", {
        "tests/judging/test_any_reply.py::test_any_of_20000_replies_is_ratings_or_a_failure": 20_000,
    }),
    Kind("random bodies of responses", "a teacher's or judge's server", {
        "tests/teachers/test_endpoint_world.py::test_any_of_20000_bodies_is_an_answer_or_a_trouble": 20_000,
    }),
    Kind("kills of a process that writes the ledger of calls", "chance", {
        "tests/teachers/test_ledger_kill.py::test_fifty_kills_lose_no_answer_that_was_kept_and_pay_none_twice": 50,
    }),
)  # fmt: skip

HEAD = """# Attempts

What strangers can try, and what of it held when the tests tried it. Written by `python -m tests.security_page`, which
runs those tests, the slow ones too. What is promised stands in `SECURITY.md`.

| what is tried | by | attempts | held |
|---|---|---|---|
"""


def counted(results: Mapping[str, list[bool]]) -> str:
    """The page for the results of all cases, by the node id of their test."""
    lines, total, sum_held = [], 0, 0
    for what, by, tests in KINDS:
        cases = [(each, passed) for name, each in tests.items() for passed in results.get(name, [])]
        tried, held = sum(each for each, _ in cases), sum(each for each, passed in cases if passed)
        lines.append(f"| {what} | {by} | {tried:,} | {held:,} |")
        total, sum_held = total + tried, sum_held + held
    return HEAD + "\n".join([*lines, f"| **all** | | {total:,} | {sum_held:,} |", ""])


def read_results(report: Path) -> dict[str, list[bool]]:
    """Whether each case of a JUnit report passed, by the node id in the tables above; skipped ones are left out."""
    names = {name for kind in KINDS for name in kind.tests}
    found: dict[str, list[bool]] = {}
    for case in ET.parse(report).iter("testcase"):
        file = f"{case.get('classname', '').replace('.', '/')}.py"
        test = f"{file}::{case.get('name', '').partition('[')[0]}"
        name = test if test in names else file
        if name in names and case.find("skipped") is None:
            found.setdefault(name, []).append(case.find("failure") is None and case.find("error") is None)
    return found


def main() -> None:
    """Run the tests and print the page."""
    tests = sorted({name.partition("::")[0] for kind in KINDS for name in kind.tests})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", f"--junitxml={report}", *tests]
        subprocess.run(command, check=False, stdout=sys.stderr)
        sys.stdout.write(counted(read_results(report)))


if __name__ == "__main__":
    main()

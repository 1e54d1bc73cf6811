"""Every mistake names its place, what is wrong and what to do, at once: the table in docs/mistakes.md."""

import re

import pytest

from tests.mistakes import MISTAKES, make_files, told

# CPU seconds of one core; the limit is a second of an idle machine, with room for a slower one.
MOST_SECONDS = 2.5


def test_the_page_has_every_mistake(repository):
    page = (repository / "docs/mistakes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `zephyr (.*?)` \|", page, re.MULTILINE) == MISTAKES
    assert len(MISTAKES) >= 60
    for line in page.splitlines()[7:]:
        assert re.search(r"\| [^|]+: .+; .+ \|$", line), line


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_once(mistake, tmp_path):
    make_files(tmp_path)
    found = told(mistake, tmp_path)
    assert found.code == 2, found.said
    assert found.said.startswith("error: "), found.said
    assert "Traceback" not in found.said
    assert re.search(r"error: [^\n]+: .+; .+", found.said, re.DOTALL), found.said
    assert found.seconds < MOST_SECONDS

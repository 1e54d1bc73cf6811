"""Pins with hashes from a report of pip: `python -m tests.hashes report.json > requirements-hashed.txt`."""

import json
import sys
from pathlib import Path

HEAD = """\
# The default install and the extras serve and hub, for Linux on x86-64 with Python 3.11 and PyTorch's CPU build.
# Written by `python -m tests.hashes`; SECURITY.md says how to use and renew it.
"""


def pins(report: dict[str, object]) -> str:
    """One line for each package of the report but the project itself: its version, and the hash of its file."""
    lines = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        hashes = one["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes and not name.startswith("zephyr"):
            lines.append(f"{name}=={version} --hash=sha256:{hashes['sha256']}")
    return HEAD + "\n".join(sorted(lines, key=str.lower)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(pins(json.loads(Path(sys.argv[1]).read_text())))

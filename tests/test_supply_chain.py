"""What users install: pinned, hashed, and without packages that read pickles."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY
from tests.hashes import HEAD, pins
from tests.security_page import KINDS, counted

PIN = re.compile(r"([\w.-]+)==([\w.+]+) --hash=sha256:([0-9a-f]{64})")
READS_PICKLES = {"diskcache", "joblib", "cloudpickle"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def hashed():
    lines = (REPOSITORY / "requirements-hashed.txt").read_text().removeprefix(HEAD).splitlines()
    found = [PIN.fullmatch(line) for line in lines]
    assert all(found)
    return {normal(one[1]): one[2] for one in found}


def installed_with(needed):
    """The names of all packages that these requirements bring, without extras, as they are installed here."""
    found, waiting = set(), [re.match(r"[\w.-]+", one)[0] for one in needed]
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            more = requires(name) or []
        except PackageNotFoundError:
            continue
        wanted = [Requirement(one) for one in more]
        waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_hashed_pins_are_the_tested_versions():
    constraints = (REPOSITORY / "constraints.txt").read_text().splitlines()
    tested = {normal(name): version for name, version in (line.split("==") for line in constraints if "==" in line)}
    plain = {name: version.partition("+")[0] for name, version in hashed().items()}
    assert {name: version for name, version in plain.items() if tested.get(name, version) != version} == {}


def test_every_package_of_the_default_install_has_a_hash():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # CUDA's libraries come with another build of torch.
    needed = {
        name
        for name in installed_with([*project["dependencies"], *extras["serve"]])
        if not name.startswith(("nvidia", "triton", "cuda"))
    }
    assert needed - hashed().keys() == set()


@pytest.mark.parametrize("extra", ["", "serve", "ui", "hub"])
def test_nothing_that_reads_pickles_is_installed_by_default(extra):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    assert installed_with(needed) & READS_PICKLES == set()
    assert not READS_PICKLES & hashed().keys()


def test_pins_come_from_the_report_of_pip():
    def entry(name, version, digest):
        files = {"archive_info": {"hashes": {"sha256": digest}}} if digest else {"dir_info": {}}
        return {"metadata": {"name": name, "version": version}, "download_info": files}

    report = {"install": [entry("b", "2", "f" * 64), entry("zephyr-align", "1", None), entry("A", "1+cpu", "0" * 64)]}
    assert pins(report) == f"{HEAD}A==1+cpu --hash=sha256:{'0' * 64}\nb==2 --hash=sha256:{'f' * 64}\n"


def test_the_page_counts_attempts_by_hand():
    first = next(iter(KINDS[0].tests))
    hostile = list(KINDS[0].tests)[-1]
    page = counted({first: [True, True, False], hostile: [True]})
    assert f"| {KINDS[0].what} | {KINDS[0].by} | 2,003 | 2,002 |" in page
    assert "| **all** | | 2,003 | 2,002 |" in page
    missing = [name for kind in KINDS for name in kind.tests if not (REPOSITORY / name.partition("::")[0]).is_file()]
    assert missing == []

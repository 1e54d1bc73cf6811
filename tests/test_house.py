"""Guards of the house rules: sizes, names, repetition, lightness, and documents that keep their word."""

import ast
import math
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import zephyr
from tests.house.sizes import Function, functions, repeated_windows
from tests.house.source import parsed

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "zephyr"
PROGRAMS = [SOURCE, REPOSITORY / "benchmarks", REPOSITORY / "examples"]
TARGETS = {"setup", "demo", "demo-real", "test", "test-all", "check", "docs", "clean"}
VAGUE = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def functions_in(*folders: Path) -> list[Function]:
    return [
        function
        for path in python_files(*folders)
        for function in functions(path.read_text(), str(path.relative_to(REPOSITORY)))
    ]


def fenced_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


SAMPLE = '''
def outer(a, /, b, *, c, **rest):
    """One line.

    More.
    """
    # why
    if a:
        for x in b:
            pass

    elif c:
        pass
    else:
        with c:
            try:
                pass
            finally:
                if b:
                    pass

    def inner(self, a, b):  # noqa: PLR0913 - the interface of another library
        return """a
        b"""
'''


def test_measures_agree_with_a_sample_counted_by_hand():
    outer, inner = functions(SAMPLE, "sample")
    assert outer == Function("sample:2 outer", 16, 4, 4)
    assert inner == Function("sample:22 inner", 3, 0, 0)


def test_repetition_is_found_and_imports_are_not():
    lines = [f"x{number} = {number}" for number in range(8)]
    imports = "\n".join(f"import m{number}" for number in range(9))
    same = "\n\n".join(lines)
    indented = "if x:\n" + "\n".join(f"    {line}" for line in lines)
    assert repeated_windows({"a": same, "b": indented}) == ["a and b: x0 = 0"]
    assert repeated_windows({"a": "\n".join(lines[1:]), "b": indented}) == []
    assert repeated_windows({"a": imports, "b": imports}) == []


def test_functions_are_short():
    sizes = sorted(function.code_lines for function in functions_in(SOURCE))
    assert statistics.median(sizes) <= 12
    assert sizes[math.ceil(0.95 * len(sizes)) - 1] <= 40


def test_no_function_is_over_its_limits():
    measured = functions_in(*PROGRAMS)
    assert [function for function in measured if function.code_lines > 60] == []
    assert [function for function in measured if function.parameters > 7] == []
    assert [function for function in measured if function.nesting > 4] == []


def test_no_file_is_over_400_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(*PROGRAMS, REPOSITORY / "tests")}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_no_module_has_a_vague_name():
    names = {path: {path.stem, path.parent.name} for path in python_files(*PROGRAMS, REPOSITORY / "tests")}
    assert [str(path) for path, words in names.items() if words & VAGUE] == []


def test_nothing_is_written_twice():
    texts = {str(path.relative_to(SOURCE)): path.read_text() for path in python_files(SOURCE)}
    assert repeated_windows(texts) == []


def test_every_file_says_what_it_is_for():
    files = python_files(*PROGRAMS)
    assert len(files) >= 5
    assert [str(path) for path in files if not ast.get_docstring(parsed(path.read_text()))] == []


@pytest.mark.parametrize("line", ["import zephyr", "import zephyr.cli.main", "import zephyr.errors"])
def test_import_is_light(line):
    check = f"import sys; {line}; print(sorted({{'torch', 'transformers', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_light_and_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "zephyr", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    # 27 commands at two lines each, and five options.
    assert 5 < len(done.stdout.splitlines()) < 75
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "transformers", "numpy", "pydantic"})


def test_makefile_has_exactly_the_known_targets():
    text = (REPOSITORY / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS
    assert set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE)) == TARGETS


def check_command(words: list[str]) -> str | None:
    """What is wrong with a command of the README, or None."""
    from zephyr.cli.main import COMMANDS

    match words:
        case ["make", *targets]:
            unknown = set(targets) - TARGETS
        case ["zephyr", verb, *_]:
            unknown = {verb} - COMMANDS.keys() - {"--help", "--version"}
        case ["python" | "bash", path, *_]:
            unknown = set() if (REPOSITORY / path).is_file() else {path}
        case _:
            unknown = {words[0]}
    return f"{shlex.join(words)}: no {', '.join(sorted(unknown))}" if unknown else None


def test_commands_of_the_readme_exist():
    blocks = fenced_blocks((REPOSITORY / "README.md").read_text(), "sh")
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    checked = [check_command(words) for words in commands if words]
    assert len(checked) >= 4
    assert [problem for problem in checked if problem] == []
    assert check_command(["zephyr", "fly"]) == "zephyr fly: no fly"


def test_first_command_of_the_readme_stands_high():
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert lines.index("```sh") < 34


def test_program_of_the_readme_prints_what_it_says(capsys):
    text = (REPOSITORY / "README.md").read_text()
    # The other programs train models of the hub.
    (program,) = (block for block in fenced_blocks(text, "python") if "print(" in block)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out in fenced_blocks(text, "text")


def test_files_the_makefile_runs_are_there():
    named = re.findall(r"\$\(RUN\)/zephyr run ([\w/.-]+\.yaml)", (REPOSITORY / "Makefile").read_text())
    assert named == ["recipes/quickstart.yaml", "recipes/first-real.yaml"]
    assert all((REPOSITORY / name).is_file() for name in named)


def test_every_package_is_in_the_layout():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert {"trees", "models", "train"} <= packages
    tree = (REPOSITORY / "README.md").read_text()
    assert [name for name in sorted(packages) if f"\n  {name}/ " not in tree] == []
    layers = (REPOSITORY / "docs" / "decisions" / "0002-layout.md").read_text()
    assert [name for name in sorted(packages) if not re.search(rf"^    .*\b{name}\b", layers, re.MULTILINE)] == []


def test_files_and_modules_that_the_documents_name_exist():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(r"`((?:src|tests|benchmarks|recipes)/[\w./-]+)`", page.read_text())
    }
    short = {name for page in pages for name in re.findall(r"`(\w+/[\w/]+\.py)`", page.read_text())}
    named |= {name if (REPOSITORY / name).exists() else f"src/zephyr/{name}" for name in short}
    dotted = {name for page in pages for name in re.findall(r"`(zephyr(?:\.\w+)+)`", page.read_text())}
    known = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in SOURCE.rglob("*")}
    known |= {f"zephyr.{name}" for name in zephyr.__all__}
    assert len(named) >= 8
    assert len(dotted) >= 8
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []
    assert sorted(dotted - known) == []


def test_every_decision_is_in_the_menu():
    pages = sorted(path.name for path in (REPOSITORY / "docs" / "decisions").glob("*.md"))
    menu = (REPOSITORY / "mkdocs.yml").read_text()
    assert len(pages) >= 3
    assert [page for page in pages if f"decisions/{page}" not in menu] == []


def test_pins_name_the_tested_versions_and_not_the_project():
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    # A local part such as +cpu names a build that only some indexes have.
    assert pins["torch"] == "2.13.0"
    assert {name: pins[name] for name in ("transformers", "peft")} == {
        "transformers": "5.23.0",
        "peft": "0.21.2",
    }
    assert not [name for name in pins if name.lower().startswith("zephyr")]

"""What shells complete, asked as bash asks."""

import os
import shutil
import subprocess
import sys

import pytest

from zephyr.cli.run import complete_overrides, complete_recipes


def test_recipes_and_keys():
    assert complete_recipes("quick") == ["quickstart"]
    assert set(complete_overrides("s")) == {"seed=", "sft.", "synth."}
    assert "sft.train.learning_rate=" in complete_overrides("sft.train.l")
    # One section alone is opened, since a shell would end the word.
    assert "sft.train.learning_rate=" in complete_overrides("sft.tr")
    assert complete_overrides("sft.train.learning_rate=1") == []
    assert complete_overrides("nothing") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("zephyr ru", {"run"}),
        ("zephyr run smollm2-36", {"smollm2-360m"}),
        ("zephyr run quickstart --un", {"--until"}),
        ("zephyr run quickstart --until s", {"sft", "synth"}),
        ("zephyr run quickstart align.objective.bet", {"align.objective.beta="}),
        ("zephyr recipes copy quick", {"quickstart"}),
    ],
)
def test_bash_offers(line, offered, tmp_path, repository):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    command = tmp_path / "zephyr"
    code = "from zephyr.cli.main import main; main()"
    command.write_text(f"#!{bash}\nexec {sys.executable} -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(repository / "src")}
    words = " ".join(f"'{word}'" for word in line.split())
    script = (
        'eval "$(zephyr --show-completion bash)"\n'
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        '_zephyr_completion zephyr; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=env, check=True, timeout=120)
    assert set(done.stdout.split()) == offered

"""Sixty mistakes of users, run as commands; `python -m tests.mistakes > docs/mistakes.md` writes their table."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FILES = {
    "empty.yaml": "",
    "list.yaml": "- 1\n",
    "twice.yaml": "name: a\nname: b\n",
    "tab.yaml": "name:\ta\n\tb: 1\n",
    "latin.yaml": "name: caf\udce9\n",
    "axolotl.yaml": "base_model: m/m\nsequence_len: 512\nmicro_batch_sise: 2\nlearning_rate: 1.0e-4\n",
    "factory.yaml": "model_name_or_path: m/m\nstage: ppo\nfinetuning_type: lora\nlearning_rate: 1.0e-4\n",
    "text.txt": "hello\n",
    "rubric.yaml": "aspects:\n  - name: tone\n    question: Is it kind?\n    scale: [5, 1]\n",
    "cut.jsonl": '{"messages": [\n',
    "number.jsonl": '{"prompt": 3}\n',
    "rated.jsonl": '{"prompt": "a", "answers": [{"text": "x", "score": 2}, {"text": "y", "score": 2}]}\n',
    "rows.jsonl": '{"prompt": "a", "chosen": "x", "rejected": "y"}\n',
    "folder/note.md": "no data\n",
    "model/config.json": "[1]\n",
}
MISTAKES = """
run norecipe
run quickstar
run empty.yaml
run list.yaml
run twice.yaml
run tab.yaml
run folder
run text.txt
run axolotl.yaml
run factory.yaml
run missing/run.lock.json
run quickstart --until sftt
run quickstart --only rewards
run quickstart data_dir=nowhere
run quickstart --sft.train.learning_rate 1e-4
run quickstart --gradient_accumulation_steps 4
check quickstart sft.train.learning_rat=1
check quickstart sft.train.learning_rate=-1
check quickstart sft.train.learning_rate=fast
check quickstart sft.train.gradient_accumulation_steps=4
check quickstart sft.train.per_device_train_batch_size=4
check quickstart sft.train.fp16=true
check quickstart sft.train.gradient_checkpointing=true
check quickstart sft.train.optim=adamw
check quickstart sft.train.lr_scheduler_type=cosin
check quickstart sft.train.precision=fp16
check quickstart sft.train.warmup_ratio=0.1 sft.train.warmup_steps=5
check quickstart sft.lora_r=8
check quickstart sft.data.max_length=9999
check quickstart sft.train
check quickstart align.objective.name=dpoo
check quickstart align.objective.bata=0.2
check quickstart align.objective.beta=0
check quickstart align.objective.label_smoothing=0.7
check quickstart align.objective.loss_type=ipoo
check quickstart model.kind=pretraind
check quickstart model.hidden_size=33
check quickstart chat_template.name=gemma
check quickstart seed=-1
check quickstart name=a/b
check quickstart sftt.train.learning_rate=1
check quickstart feedback.candidates.num_completions=1
check quickstart evaluate.tasks.0.name=wrld
check quickstart evaluate.tasks.9.name=world
plan norecipe
train quickstart.yaml
run quickstart --learning_rate 1e-4
run quickstart feedback.judging.rubric=nowhere.yaml
inspect norecipe
recipes copy quickstar
recipes import quickstart
chat ./nowhere
chat text.txt
chat folder
serve ./nowhere
serve model/none/deeper
ui ./nowhere
export ./nowhere
eval ./nowhere --tasks ifeval
reward-accuracy ./nowhere rows.jsonl --reference ./base -o out
card nowhere
report text.txt
calls summary nowhere
compare nowhere elsewhere
winrate nowhere
push nowhere me/x
push folder me/x --resumable
pull me
eval model --num_fewshot 3
judge rows.jsonl --num-completions 3
binarize nowhere.jsonl -o out.jsonl
binarize rated.jsonl -o out.txt
binarize rated.jsonl -o out.jsonl
binarize cut.jsonl -o out.jsonl
judge rows.jsonl -o out.jsonl --judge nobody
judge rows.jsonl -o out.jsonl --judge scripted --aspects honestie
judge rows.jsonl -o out.jsonl --judge scripted --rubric rubric.yaml
judge number.jsonl -o out.jsonl --judge scripted
synth --generator world --teacher nobody -o out.jsonl
""".strip().splitlines()


SHIPPED = f"{Path(__file__).resolve().parent.parent / 'recipes'}/"


class Told(NamedTuple):
    """How a command ended: its exit code, what it said, and the seconds of one core that it took."""

    code: int
    said: str
    seconds: float


def make_files(folder: Path) -> None:
    """Write the files that the mistakes are about."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def told(mistake: str, folder: Path) -> Told:
    """What a process of its own says to a mistake; paths are shown without the folder."""
    code = "import sys; from zephyr.cli.main import main; main(sys.argv[1:])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", code, *mistake.split()]
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent / "src"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
    }
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=env, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Told(
        done.returncode,
        done.stderr.replace(f"{folder}/", "").replace(str(folder), ".").replace(SHIPPED, "").strip(),
        spent,
    )


def page() -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Mistakes, and what is said",
        "",
        f"{len(MISTAKES)} mistakes, each run as a command; printed by `python -m tests.mistakes > docs/mistakes.md`.",
        "Seconds are those of one core, from the start of Python to the end of the command, without network.",
        "",
        "| command | s | message |",
        "|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        for mistake in MISTAKES:
            found = told(mistake, folder)
            said = found.said.removeprefix("error: ").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
            said = said.replace("][", "]\\[")  # no reference of Markdown
            lines.append(f"| `zephyr {mistake}` | {found.seconds:.1f} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

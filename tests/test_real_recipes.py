"""The recipes that make a chat model of a real base model, in small: as they ship, with a tiny model and few rows."""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from tests.command import jsonl
from zephyr.pipeline import run_recipe
from zephyr.recipe.loading import load_recipe
from zephyr.recipe.schema import Recipe
from zephyr.runs.reader import read_run

SUBJECTS = ("hens", "rivers", "clouds", "bread", "chess", "bees", "maps", "boats")
SAMPLED = "deliver.sampling.max_new_tokens=8"


def small(name: str, folder: Path, model: Path, *words: str) -> Recipe:
    """The shipped recipe with a model, rows and a window at hand."""
    short = [f"{stage}.train.max_steps=2" for stage in ("sft", "align")]
    at_hand = [f"output_dir={folder}/runs", f"data_dir={folder}", f"model.name_or_path={model}", "offline=true"]
    return load_recipe(name, [*at_hand, *short, SAMPLED, *words])


def talks(folder: Path) -> Path:
    """Rows as Alpaca has them, the answers long enough for the recipes' filters."""
    rows = [
        {"instruction": f"{asked} {one}.", "input": "", "output": f"All that I know of {one} is that they are old."}
        for one in SUBJECTS
        for asked in ("Tell me of", "Describe", "Explain to me")
    ]
    path = folder / "talks.json"
    path.write_text(json.dumps(rows))
    return path


def said(run) -> tuple[dict, str]:
    """The summary of a run, and what was printed."""
    console = Console(file=StringIO(), width=250)
    return run(console), console.file.getvalue()


def test_first_real_answers_before_and_after(tmp_path: Path, tiny_folder: Path) -> None:
    talks(tmp_path)
    pairs = [{"prompt": f"Is {one} old?", "chosen": "Yes, very old.", "rejected": "No."} for one in SUBJECTS]
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*pairs))
    recipe = small(
        "first-real",
        tmp_path,
        tiny_folder,
        "sft.data.sources.0.path=talks.json",
        "sft.data.eval_share=0.4",
        "align.data.sources.0.path=pairs.jsonl",
        "align.data.sources.0.split=train",
        "align.data.eval_share=0.3",
    )
    summary, printed = said(lambda console: run_recipe(recipe, console=console))
    assert {"perplexity/base", "perplexity/dSFT", "perplexity/dDPO", "preference/accuracy"} <= summary["metrics"].keys()
    lines = printed.splitlines()
    at = lines.index("What is the capital of France?")
    assert [line.split(":")[0] for line in lines[at + 1 : at + 4]] == ["  base", "  dSFT", "  dDPO"]
    assert any(line.startswith("held out  perplexity: base") for line in lines)
    page = (read_run(tmp_path / "runs/first-real").stages["deliver"].folder / "report.html").read_text()
    assert all(one in page for one in recipe.deliver.sample_prompts[:3])


def test_gemma3_learns_dialogues_and_then_ratings_of_others_and_of_rules(tmp_path: Path, tiny_folder: Path) -> None:
    talks(tmp_path)
    rated = [
        {"prompt": f"Are {one} old?", "model": model, "completion": text, "score": score, "prompt_id": one}
        for one in SUBJECTS
        for model, text, score in (("a", "Yes, they are.", 9.0), ("b", "No.", 2.0), ("c", "They may be.", 6.0))
    ]
    (tmp_path / "rated.jsonl").write_bytes(jsonl(*rated))
    recipe = small(
        "gemma3-270m-zephyr",
        tmp_path,
        tiny_folder,
        "synth.generator.pool=[{path: talks.json, shape: alpaca}]",
        "synth.generator.num_prompts=8",
        "synth.generator.num_dialogues=6",
        "synth.generator.decontaminate=[]",
        "sft.data.sources=[{path: talks.json, shape: alpaca}]",
        "sft.data.eval_share=0.4",
        "sft.data.filters=[{name: length, min_characters: 40, max_characters: 900}, {name: refusals}]",
        "feedback.recorded.0.path=rated.jsonl",
        "feedback.candidates.sampling.max_new_tokens=24",
        "align.data.filters=[]",
        "align.data.eval_share=0.4",
        "evaluate.tasks=[{name: preference}, {name: perplexity}]",
    )
    summary, _ = said(lambda console: run_recipe(recipe, console=console))
    assert summary["metrics"]["preference/pairs"] > 0
    assert {"perplexity/base", "perplexity/dSFT", "perplexity/dDPO"} <= summary["metrics"].keys()
    stages = read_run(tmp_path / "runs/gemma3-270m-zephyr").stages
    assert stages["sft"].facts["rows"] > 24 * 0.6  # those of the pool are among them
    made = stages["feedback"].facts["made_of"]
    # Ratings of 9, 6 and 2 make one pair a prompt.
    assert made["recorded ratings"] == {"prompts": len(SUBJECTS), "pairs": len(SUBJECTS)}
    assert made["own answers"]["prompts"] == 8
    assert made["own answers"]["pairs"] > 0

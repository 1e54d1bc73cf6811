"""`zephyr inspect` shows a row exactly as the run stores it, and says of the others why they are left out."""

import io
import json

import pytest
from rich.console import Console

from zephyr.data.tokenize.inspection import token_texts
from zephyr.data.tokenize.token_store import DialogueStore, PreferenceStore
from zephyr.errors import DataError
from zephyr.inspect_row import inspect_row
from zephyr.models.loading import save_model
from zephyr.models.source import Source
from zephyr.models.tiny import TINY_CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from zephyr.recipe.schema import Recipe
from zephyr.runs.layout import TOKENS
from zephyr.stages.stage import Work
from zephyr.stages.start import starting_tokenizer
from zephyr.stages.training import prepare

TRAIN = {"learning_rate": 1.0e-3, "train_batch_size": 2, "precision": "float32"}
NO_LIMITS = {"max_rows_share": 1.0, "max_tokens_share": 1.0}
NO_TEN = "{% if '10' in messages[0]['content'] %}{{ raise_exception('no ten') }}{% endif %}" + TINY_CHAT_TEMPLATE


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = NO_TEN
    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def recipe(base, folder, stage: str, **fields: object) -> Recipe:
    model = {"kind": "pretrained", "name_or_path": str(base)}
    common = {"name": "t", "offline": True, "output_dir": folder / "runs", "data_dir": folder, "model": model}
    return Recipe.model_validate(common | {"chat_template": {"name": "own"}, stage: fields | {"train": TRAIN}})


def shown(made: Recipe, row: int) -> list[str]:
    console = Console(file=io.StringIO(), width=5000)
    inspect_row(made, row=row, stage=None, console=console)
    return console.file.getvalue().splitlines()


def stored(made: Recipe, folder, stage: str):
    source = Source(made.model.name_or_path, offline=True)
    tokenizer, encoder = starting_tokenizer(source, made, stage)
    prepare(Work(made, stage, folder / "work", {}, folder), encoder)
    kind = DialogueStore if stage == "sft" else PreferenceStore
    return tokenizer, {row.name: row for row in kind(folder / "work" / TOKENS / "train")}


@pytest.mark.parametrize("rule", ["keep_start", "keep_end", "drop"])
def test_a_dialogue_is_shown_as_it_is_stored(base, tmp_path, rule):
    rows = [
        [turn("user", f"Count to {number}."), turn("assistant", " ".join(map(str, range(number)))),
         turn("user", "And now?"), turn("assistant", "It is done.")]
        for number in (1, 5, 12, 30)
    ]  # fmt: skip
    lines = [json.dumps({"messages": row}) for row in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    data = {"sources": [{"path": "d.jsonl"}], "max_length": 96, "truncation": {"rule": rule, **NO_LIMITS}}
    made = recipe(base, tmp_path, "sft", data=data)
    tokenizer, found = stored(made, tmp_path, "sft")
    assert 0 < len(found) <= len(rows)
    for number in range(1, 5):
        heading, *body = shown(made, number)
        name = heading.partition(" row ")[0] + " row " + heading.partition(" row ")[2].split()[0].rstrip(":,")
        kept = [line for line in body if line[:9].strip() and " cut " not in line[:20] and not line.startswith("max_")]
        if name not in found:
            assert heading.startswith(f"{name} is left out (dropped): it has ")
            assert kept == []
            continue
        row = found[name]
        # Whatever stands before what is kept takes part in no decoding but that of the first token.
        assert "".join(line[18:].rstrip(" ") for line in kept) == "".join(
            f"{text}│" for text in token_texts(tokenizer, row.ids.tolist(), before=[1])
        )
        learned = "".join(line[18:].rstrip(" ") for line in kept if " learned " in line[:20])
        assert learned.count("│") == int(row.scored.sum())


def test_a_pair_is_shown_as_it_is_stored(base, tmp_path):
    row = {"prompt": "Count. " * 12, "chosen": " ".join(map(str, range(30))), "rejected": "No."}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    data = {"sources": [{"path": "p.jsonl"}], "max_length": 64, "truncation": {"rule": "keep_end", **NO_LIMITS}}
    made = recipe(base, tmp_path, "align", data=data, objective={"name": "dpo"})
    tokenizer, found = stored(made, tmp_path, "align")
    [stored_row] = found.values()
    heading, prompt, *tree = shown(made, 1)
    assert heading.startswith("p.jsonl row 1, ")
    assert heading.endswith(" cut (struck through)")
    kept = "".join(f"{text}│" for text in token_texts(tokenizer, stored_row.prompt.tolist()))
    assert prompt.rstrip() == f"[cut: {prompt[6:].partition('│] ')[0]}│] {kept}"
    assert len(stored_row.prompt) == 16
    text = "\n".join(tree)
    for number, completion in enumerate(stored_row.completions, 1):
        assert f"completion {number}, rated {2 - number}, {len(completion)} tokens" in text
        said = "".join(f"{text}│" for text in token_texts(tokenizer, completion.tolist(), before=[1]))
        assert said in text
    assert tree[-1] == "max_length 64, rule keep_end"


def test_a_row_that_cannot_be_encoded_says_why(base, tmp_path):
    row = {"messages": [turn("user", "Count to 10."), turn("assistant", "No.")]}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    made = recipe(base, tmp_path, "sft", data={"sources": [{"path": "d.jsonl", "bad_rows": "drop"}]})
    with pytest.raises(DataError) as caught:
        shown(made, 1)
    assert str(caught.value) == (
        "d.jsonl row 1: is left out, or stops the run, as bad_rows says: the model's own chat template refuses these "
        "messages (no ten); fix the data, choose another chat_template, or set bad_rows: drop, which skips such rows "
        "and counts them"
    )

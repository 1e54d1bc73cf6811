"""Runs that were really made, published: as their recipes say, with an adapter, and the best of on-policy rounds."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_push import environment, hub, zephyr  # noqa: F401 - fixtures
from tests.command import TRAIN, jsonl, pair, write_recipe
from tests.deliver.hub_server import TOKEN
from tests.mini import mini_fields

pytestmark = pytest.mark.slow  # whole runs


def align(**section):
    data = {"sources": [{"path": "pairs.jsonl"}], "max_length": 128, "eval_share": 0.25}
    return {"data": data, "objective": {"name": "dpo"}, "train": TRAIN, **section}


def told(files):
    """What is text in a repository, together."""
    return "\n".join(
        content.decode("utf-8") for name, content in files.items() if not name.endswith((".safetensors", ".parquet"))
    )


def nothing_private(files, *paths):
    text = told(files)
    assert TOKEN not in text
    for path in (*paths, Path.home(), Path.cwd()):
        assert str(path) not in text
    return text


@pytest.fixture
def folder(tmp_path):
    """A folder with pairs."""
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*map(pair, range(12))))
    return tmp_path


def test_a_run_pushes_itself_and_goes_on_when_it_could_not(hub, environment, tiny_folder, folder):  # noqa: F811
    deliver = {"push_to_hub": {"repo": "me/tiny", "private": True}}
    recipe = write_recipe(folder, tiny_folder, align=align(), deliver=deliver, offline=False)
    hub.refuse["/commit/"] = 413
    code, _, err = zephyr(environment, "run", recipe, folder=folder)
    assert code == 2, err
    assert "error: me/tiny: the hub refuses a file or commit of this size" in err
    (stage,) = folder.glob("runs/tiny/align-*/stage.json")
    made = stage.stat().st_mtime_ns

    # The run is finished all the same: the next one only pushes.
    hub.refuse.clear()
    code, out, err = zephyr(environment, "run", recipe, folder=folder)
    assert code == 0, err
    assert f"pushed  {hub.address}/me/tiny" in out
    assert stage.stat().st_mtime_ns == made
    files = hub.files("me/tiny")
    assert files["model.safetensors"] == (stage.parent / "model/model.safetensors").read_bytes()
    assert {"README.md", "config.json", "tokenizer.json", "report.html"} <= files.keys()
    assert hub.repos["model", "me/tiny"]["private"]
    card = files["README.md"].decode()
    assert "- dpo" in card
    nothing_private(files, folder, tiny_folder)
    assert not any(re.search(r"ledger|checkpoint|optimizer|sqlite", name) for name in files)


def test_an_adapter_is_pushed_with_tokenizer_and_card(hub, environment, tiny_folder, folder):  # noqa: F811
    recipe = write_recipe(folder, tiny_folder, align=align(lora={"r": 4}), deliver={})
    assert zephyr(environment, "run", recipe, folder=folder)[0] == 0
    run = folder / "runs/tiny"
    code, out, err = zephyr(environment, "push", run, "me/whole")
    assert code == 0, err
    # The base is a folder of this machine, so nobody could load the adapter.
    assert "left out: adapter/" in out
    assert not any(name.startswith("adapter/") for name in hub.files("me/whole"))
    code, _, err = zephyr(environment, "push", run, "me/lora", "--base", "me/base")
    assert code == 0, err
    files = hub.files("me/lora")
    assert {"adapter/adapter_model.safetensors", "adapter/tokenizer.json", "adapter/README.md"} <= files.keys()
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = files["adapter/README.md"].decode()
    assert "library_name: peft" in card
    assert "base_model: me/base" in card
    nothing_private(files, folder, tiny_folder)

    # Alone, as peft loads it: at the top of its repository.
    (adapter,) = run.glob("align-*/adapter")
    code, _, err = zephyr(environment, "push", adapter, "me/alone", "--base", "me/base")
    assert code == 0, err
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= hub.files(
        "me/alone"
    ).keys()


def test_of_rounds_the_best_is_pushed(hub, environment, tmp_path):  # noqa: F811
    import yaml

    fields = mini_fields(tmp_path)
    fields["rounds"] = {"count": 2}
    fields["feedback"]["candidates"]["models"] = ["stage:policy"]
    fields["evaluate"]["tasks"] = [{"name": "world", "num_prompts": 12, "sampling": {"max_new_tokens": 12}}]
    (tmp_path / "rounds.yaml").write_text(yaml.safe_dump(fields))
    code, _, err = zephyr(environment, "run", tmp_path / "rounds.yaml", folder=tmp_path)
    assert code == 0, err
    run = tmp_path / fields["name"]
    best = json.loads((run / "summary.json").read_bytes())["best"]
    code, _, err = zephyr(environment, "push", run, "me/rounds", "--data", "me/rounds-data")
    assert code == 0, err
    files = hub.files("me/rounds")
    (weights,) = (run / best).glob("align-*/model/model.safetensors")
    assert files["model.safetensors"] == weights.read_bytes()
    nothing_private(files, tmp_path)
    rows = hub.files("me/rounds-data", "dataset")
    assert "pairs/train-00000-of-00001.parquet" in rows
    nothing_private(rows, tmp_path)

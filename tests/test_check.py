"""`zephyr check`: what it says of a run is what the run then does, and it has a word on every recipe that ships."""

import json
import re

import pytest
import yaml

from tests.command import chat, jsonl, pair, stage_fields, trained, write_recipe, zephyr
from tests.mini import mini_fields
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.loading import load_recipe
from zephyr.recipe.shipped import shipped_recipes
from zephyr.stages.table import STAGES

COUNTED = r"(?P<examples>[\d,]+) examples of (?P<tokens>[\d,]+) tokens, .* (?P<steps>[\d,]+) in all"
# Those whose rows are at hand take half a minute; what says where they are.
AT_HAND = {
    "real-small": [],
    # The tiny tokenizer writes about three tokens where Gemma's writes one, which fits 256.
    "gemma3-270m-zephyr": ["sft.data.max_length=512"],
    "smollm2-135m-checked": [
        "synth.generator.pool.0.path=sft/alpaca/alpaca_5000.json",
        "synth.generator.pool.1.path=sft/dolly/dolly_3k.json",
        "synth.generator.pool.1.columns={}",
        "synth.generator.decontaminate=[eval/ifeval/input_data.jsonl]",
        "evaluate.tasks.0.data=eval",
        "evaluate.tasks.1.data=eval",
        "evaluate.tasks.2.sources.0.path=sft/oasst_sample/en_100_tree.jsonl",
        "evaluate.tasks.2.sources.0.split=train",
    ],
}
SHIPPED = [
    pytest.param(recipe.name, marks=[pytest.mark.slow] * (recipe.name in AT_HAND)) for recipe in shipped_recipes()
]


@pytest.fixture(scope="module")
def marked_folder(tmp_path_factory):
    """The folder of a tiny model whose tokenizer knows ChatML's markers, as those of the published recipes do."""
    folder = tmp_path_factory.mktemp("marked") / "base"
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model = tiny_model("mistral", vocab_size=len(tokenizer))
    model.config.max_position_embeddings = 1 << 16
    save_model(model, tokenizer, folder)
    return folder


def numbers(said, stage):
    """Examples, tokens and steps that a check foretells of a stage."""
    (found,) = re.finditer(rf"(?m)^{stage} +{COUNTED}", said.out)
    return {name: int(value.replace(",", "")) for name, value in found.groupdict().items()}


def facts(folder, stage):
    """What the run remembers of a stage."""
    (record,) = folder.glob(f"{stage}-*/stage.json")
    return json.loads(record.read_bytes())["facts"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_passes_with_a_tiny_model(name, marked_folder, tmp_path, request, capfd):
    words = [f"output_dir={tmp_path}"]
    recipe = load_recipe(name)
    if recipe.model.kind == "pretrained":
        words.append(f"model.name_or_path={marked_folder}")
    if name in AT_HAND:
        words += [f"data_dir={request.getfixturevalue('shared_data')}", *AT_HAND[name]]
    said = zephyr(capfd, "check", name, "--offline", *words)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert all(any(line.startswith(stage) for line in lines) for stage in ("recipe", "model", *recipe.stages, "writes"))
    assert sum("a vocabulary of" in line for line in lines) == 1
    asked = load_recipe(name, words)
    sources = [source.path for stage in asked.stages for source in STAGES[stage].sources(asked)]
    assert [path for path in sources if path not in said.out] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_foretold_is_what_the_run_does(tmp_path, capfd):
    fields = mini_fields(tmp_path / "runs")
    # Pieces of texts that are longer than the window are examples of their own, and packed batches hold several.
    fields["pretrain"]["data"] = {"max_length": 64}
    fields["pretrain"]["train"] = fields["pretrain"]["train"] | {"max_steps": None}
    fields["sft"] |= {"batch_counts": "packed", "train": fields["sft"]["train"] | {"train_batch_size": 4}}
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(fields))
    checked = zephyr(capfd, "check", recipe)
    assert checked.code == 0
    assert not (tmp_path / "runs").exists()
    assert zephyr(capfd, "run", recipe).code == 0
    made = tmp_path / "runs/mini"
    for stage in ("pretrain", "sft"):
        told, found = numbers(checked, stage), facts(made, stage)
        if stage == "pretrain":
            assert told == {name: found[name] for name in told}
        # Which prompts are held out is drawn, their share is not.
        assert told["examples"] == pytest.approx(found["examples"], rel=0.1)
        assert told["steps"] == pytest.approx(found["steps"], rel=0.1)
    assert numbers(checked, "pretrain")["examples"] > 60
    assert "calls stage:sft about 72 times" in checked.out


def test_rows_of_an_earlier_stage_and_of_sources_are_foretold_together(tmp_path, capfd):
    fields = mini_fields(tmp_path / "runs")
    (tmp_path / "own.jsonl").write_bytes(jsonl(*map(chat, range(40))))
    fields["sft"]["data"] |= {"sources": [{"path": str(tmp_path / "own.jsonl")}], "with_made_rows": True}
    fields["sft"]["data"]["eval_share"] = 0.0
    fields["evaluate"] = None
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(fields))
    checked = zephyr(capfd, "check", recipe)
    assert checked.code == 0, checked.err
    assert "sft       240 rows from synth, made in the run" in checked.out
    assert zephyr(capfd, "run", recipe, "--until", "sft").code == 0
    found = facts(tmp_path / "runs/mini", "sft")
    assert found["rows"] == found["examples"] == numbers(checked, "sft")["examples"] == 240 + 40
    assert found["steps"] == numbers(checked, "sft")["steps"]


@pytest.mark.slow
def test_every_file_to_be_written_is_named(tmp_path, capfd):
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(mini_fields(tmp_path / "runs")))
    checked = zephyr(capfd, "check", recipe).out
    assert zephyr(capfd, "run", recipe).code == 0
    made = tmp_path / "runs/mini"
    for line in re.findall(r"(?m)^writes +(.+)", checked):
        folder, names = line.split(": ")
        (place,) = [made] if folder == str(made) else made.glob(folder.rsplit("/", maxsplit=1)[1])
        named = {name.split("/")[0] for name in names.split(", ")}
        there = {path.name for path in place.iterdir() if not path.name.startswith(".")}
        if place == made:
            there = {name for name in there if not re.search(r"-[0-9a-f]{10}$", name)}
        measured = {name for name in there if re.match(r"\d+-", name)}
        assert there - measured == named - {"a file for every measurement"}
        assert bool(measured) == ("a file for every measurement" in named)


def test_pairs_that_recorded_ratings_will_make_are_counted_as_tokens(tmp_path, tiny_folder, capfd):
    rated = [
        {"prompt": f"Is it {number}?", "answers": [{"text": "Yes.", "score": 9}, {"text": "No, no.", "score": 3}]}
        for number in range(12)
    ]
    (tmp_path / "rated.jsonl").write_bytes(jsonl(*rated))
    sections = {"feedback": {"recorded": [{"path": "rated.jsonl"}]}, "align": stage_fields("align", None)}
    recipe = write_recipe(tmp_path, tiny_folder, **sections)
    checked = zephyr(capfd, "check", recipe)
    assert "feedback  12 pairs of 12 prompts" in checked.out
    assert "align     12 rows from feedback, made in the run" in checked.out
    assert zephyr(capfd, "run", recipe).code == 0
    found = facts(tmp_path / "runs/tiny", "align")
    assert numbers(checked, "align") == {name: found[name] for name in ("examples", "tokens", "steps")}


def test_defects_of_preferences_and_what_filters_drop_are_told(tmp_path, tiny_folder, capfd):
    refusing = pair(3, "As an AI language model, I cannot say.")
    rows = [pair(1), pair(1), {"prompt": "Is it 2?", "chosen": "No.", "rejected": "No."}, refusing]
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*rows, *map(pair, range(10, 20))))
    (tmp_path / "held.jsonl").write_bytes(jsonl(pair(12)))
    section = stage_fields(
        "align",
        {"path": "pairs.jsonl"},
        filters=[{"name": "refusals"}],
        eval_sources=[{"path": "held.jsonl"}],
        allow_overlap=1,
    )
    said = zephyr(capfd, "check", write_recipe(tmp_path, tiny_folder, align=section))
    assert said.code == 0
    told = [line.split(maxsplit=1)[1].strip() for line in said.out.splitlines() if line.startswith("align")]
    for defect in ("answers are the same", "prompt is repeated", "preferred answer refuses", "in the other split"):
        assert any(re.search(defect, line) and "pairs.jsonl row" in line for line in told), (defect, told)
    assert any(re.match(r"refusals: 1 dropped", line) for line in told), told
    assert trained(tmp_path) == []


def test_shares_of_what_is_learned_are_told_by_role(tmp_path, tiny_folder, capfd):
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*map(chat, range(20))))
    recipe = write_recipe(tmp_path, tiny_folder, sft=stage_fields("sft", {"path": "rows.jsonl"}))
    alone = zephyr(capfd, "check", recipe).out
    assert re.search(
        r"all rows: [\d,]+ of [\d,]+ tokens are learned \(.*user 0%, assistant 100%.*\), 20 stop tokens", alone
    )
    everything = zephyr(capfd, "check", recipe, "sft.objective.loss_on=everything").out
    assert re.search(r"user 100%, assistant 100%", everything)


def test_a_data_folder_that_is_not_there_is_said_once(tmp_path, tiny_folder, capfd):
    sections = {stage: stage_fields(stage, {"path": f"{stage}/rows"}) for stage in ("sft", "align")}
    recipe = write_recipe(tmp_path, tiny_folder, **sections)
    for verb in ("check", "run", "inspect"):
        said = zephyr(capfd, verb, recipe, "data_dir=elsewhere")
        assert said.code == 2
        assert re.fullmatch(r"error: data_dir: there is no folder /.*/elsewhere; give data_dir=FOLDER\n", said.err)

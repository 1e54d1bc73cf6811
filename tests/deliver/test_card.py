"""The card: what the hub's library reads back, fields from records alone, and nothing where nothing was recorded."""

import copy

import pytest
from huggingface_hub import ModelCard

from tests.deliver.small_run import RECIPE, write_run
from zephyr.deliver.card import card_of, card_place
from zephyr.deliver.card_audit import audit_card
from zephyr.deliver.run_facts import ModelScore
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.runs.reader import read_run


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run"))


def test_the_hub_reads_the_front_matter_back(run):
    data = ModelCard(card_of(run)).data
    assert (data.base_model, data.datasets, data.language) == ("someone/base", ["someone/prompts"], ["en"])
    told = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    assert told.items() <= data.to_dict().items()
    assert data.model_name == "small"
    assert data.license is None  # no record says one
    score, perplexity = data.eval_results
    assert (score.metric_type, score.metric_value, score.dataset_name) == (
        "accuracy",
        0.5,
        "closed world, held-out prompts",
    )
    assert score.metric_args == {"low": 0.4, "high": 0.6, "n": 40, "source": "evaluate-eeeeeeeeee/0-world-align.json"}
    assert (perplexity.metric_type, perplexity.metric_value) == ("perplexity", 3.25)


def test_the_body_has_the_published_parts(run):
    text = card_of(run)
    for line in (
        "# Model Card for small",
        "Learns &lt;b>little&lt;/b>.",
        "- **Model type:** a 12K parameter mistral model, trained with Direct Preference Optimization (DPO)",
        "- **Finetuned from model:** someone/base at revision abc123",
        "- **Judge:** big-judge (endpoint)",
        "| feedback | dropped: tied | 10 |",
        "- Rewards/margins: 0.4000",
        "- learning_rate: 5e-07",
        "- total_train_batch_size: 4",
        "- num_epochs: 2.0",
        "- optimizer: adamw_torch with betas=(0.9,0.999) and epsilon=1e-08",
        "- align, step 10: the margin saturates",
        "- Zephyr 1.2.3",
        'messages = [{"role": "user", "content": "Say `hi`."}]',
        "outputs = pipe(messages, do_sample=True, temperature=0.7)",
    ):
        assert line in text, line
    assert "10.0.0.9" not in text  # where the judge stands is nobody's business
    assert "None" not in text
    assert "logits" not in text.lower()  # they were not measured


def test_epochs_are_those_that_were_seen(tmp_path):
    """`max_steps` ended the training before the two epochs that are the setting."""
    folder = write_run(tmp_path / "run")
    (log,) = folder.glob("align-*/train/train_log.jsonl")
    log.write_text(log.read_text().splitlines()[0])
    assert "- num_epochs: 0.4\n" in card_of(read_run(folder))


def test_the_licences_of_the_training_data_are_named(tmp_path):
    recipe = copy.deepcopy(RECIPE)
    recipe["feedback"]["prompts"] = [
        {"path": "someone/prompts", "license": "cc-by-4.0"},
        {"path": "/home/me/private/rows.jsonl", "license": "mine | <b>all</b>"},
        {"path": "someone/more"},
    ]
    recipe["sft"] = {"data": {"sources": [{"path": "never/read", "license": "mit"}]}}  # a stage that is not finished
    text = card_of(read_run(write_run(tmp_path / "run", recipe=recipe)))
    lines = [line for line in text.splitlines() if line.startswith("- **Data:**")]
    assert lines == [
        "- **Data:** someone/prompts, licence: cc-by-4.0",
        "- **Data:** rows.jsonl, licence: mine \\| &lt;b>all&lt;/b>",
        "- **Data:** someone/more, licence: not recorded",
    ]
    assert ModelCard(text).data.license is None  # that field is the licence of the model, which nobody has stated


def test_a_licence_does_not_train_anew():
    source = DataSource(path="someone/prompts")
    assert source.model_copy(update={"license": "mit"}).result_settings() == source.result_settings()


def test_the_card_passes_our_own_audit(run):
    found = audit_card(card_of(run))
    assert (found.rows, found.beta, found.steps_per_epoch) == (2, 0.1, 5)
    assert (found.examples_low, found.examples_high, found.accuracy_granularity) == (17, 20, 4)


def test_scores_from_outside_are_told_but_only_those_of_the_model_are_its_own(run):
    results = [
        ModelScore("dDPO", "mt_bench", "as_published", 7.3, n=160, notes=("2 of 160 replies began with thinking",)),
        ModelScore("other", "mt_bench", "as_published", 6.0),
    ]
    card = ModelCard(card_of(run, results=results))
    assert [one.metric_value for one in card.data.eval_results] == [0.5, 3.25, 7.3]
    assert "| other | mt_bench | as_published | 6 |" in card.text
    assert "\n\n- mt_bench: 2 of 160 replies began with thinking\n" in card.text


def test_a_run_without_scores_has_an_empty_index_as_the_published_cards_have(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "evaluate-eeeeeeeeee" / "stage.json").unlink()
    assert "model-index:\n- name: small\n  results: []" in card_of(read_run(folder))


def test_what_is_local_or_unfinished_is_not_named(tmp_path):
    recipe = copy.deepcopy(RECIPE)
    recipe["model"] = {"kind": "pretrained", "name_or_path": "/models/mine"}
    recipe["data_dir"] = str(tmp_path)
    (tmp_path / "mine" / "folder").mkdir(parents=True)
    recipe["feedback"]["prompts"] = [{"path": path} for path in ("prompts.jsonl", "data/rows.jsonl.gz", "mine/folder")]
    data = ModelCard(card_of(read_run(write_run(tmp_path / "run", recipe=recipe)))).data
    assert (data.base_model, data.datasets) == (None, None)


def test_a_folder_that_looks_like_a_name_on_the_hub_is_none(tmp_path):
    recipe = copy.deepcopy(RECIPE)
    recipe["model"] = {"kind": "pretrained", "name_or_path": "models/base"}
    recipe["feedback"]["prompts"] = [{"path": "data/train"}]
    recipe["feedback"]["candidates"]["models"] = ["stage:sft", "/home/me/models/mine"]
    text = card_of(read_run(write_run(tmp_path / "run", recipe=recipe)))
    data = ModelCard(text).data
    assert (data.base_model, data.datasets) == (None, None)
    assert "- **Finetuned from model:** base\n" in text
    for place in ("models/base", "data/train", "/home/me"):
        assert place not in text


def test_the_card_belongs_into_the_folder_that_is_uploaded(run):
    assert card_place(run) == run.folder / "align-aaaaaaaaaa" / "model" / "README.md"


def test_a_run_without_a_model_has_no_card(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "align-aaaaaaaaaa" / "stage.json").unlink()
    with pytest.raises(DataError, match="has no model yet"):
        card_of(read_run(folder))

"""Published data as it is: every row accounted for, with the numbers that its description gives."""

from collections import Counter

import pytest

from zephyr.data.read.sources import open_source
from zephyr.recipe.data_section import DataSource

CHATS = [
    ("sft/nemo_aligner", 1_024),
    ("sft/lima", 1_029),
    ("sft/dolly/dolly_3k.json", 2_996),
    ("sft/dolly/dolly_hhrlhf_train_small.jsonl", 1_000),
    ("sft/gpteacher/roleplay-simple-deduped-roleplay-instruct.json", 1_923),
    ("sft/gpteacher/codegen-instruct.json", 4_535),
    ("sft/gpteacher/toolformer-similarity-0.9-dataset.json", 5_959),
    ("sft/rasbt", 1_100),
    ("sft/llama_factory/alpaca_en_demo.json", 999),
    ("sft/self_instruct/text-davinci-003_predictions.jsonl", 252),
]


@pytest.mark.parametrize(("path", "num_rows"), CHATS)
def test_every_dialogue_is_read(shared_data, path, num_rows):
    records = open_source(DataSource(path=path), "chat", data_dir=shared_data, offline=True)
    assert (len(records), records.counts) == (num_rows, Counter())


def test_llama_3_headers_are_speakers(shared_data):
    path = "sft/nemo_aligner/sft_512_sample_llama3_format.jsonl"
    records = open_source(DataSource(path=path), "chat", data_dir=shared_data, offline=True)
    num_turns = Counter(sum(message.role == "user" for message in record.messages) for record in records)
    assert num_turns[3] == 316


def test_histories_make_several_turns(shared_data):
    records = open_source(DataSource(path="sft/lima"), "chat", data_dir=shared_data, offline=True)
    assert sum(len(record.messages) > 2 for record in records) == 29


def test_empty_answers_are_counted(shared_data):
    source = DataSource(path="sft/alpaca/alpaca_5000.json", bad_rows="drop")
    records = open_source(source, "chat", data_dir=shared_data, offline=True)
    assert (len(records), records.counts) == (4_998, Counter({"empty answer": 2}))


def test_tools_are_read_with_their_dialogues(shared_data):
    source = DataSource(path="sft/llama_factory/glaive_toolcall_en_demo.json")
    records = open_source(source, "chat", data_dir=shared_data, offline=True)
    assert (len(records), records.unused) == (300, Counter())
    assert sum(bool(record.inputs.tools) for record in records) == 191


def test_nested_fields_are_reached_by_columns(shared_data):
    seeds = DataSource(
        path="sft/self_instruct/seed_tasks.jsonl", columns={"prompt": "instruction", "completion": "instances.0.output"}
    )
    assert len(open_source(seeds, "chat", data_dir=shared_data, offline=True)) == 175
    moss = DataSource(path="sft/moss/conversation_without_plugins.jsonl", columns={"prompt": "chat.turn_1.Human"})
    assert len(open_source(moss, "prompt", data_dir=shared_data, offline=True)) == 620
    arena = DataSource(path="prompts/arena_hard_v0.1_question.jsonl", columns={"prompt": "turns.0.content"})
    assert len(open_source(arena, "prompt", data_dir=shared_data, offline=True)) == 500


def test_trees_give_dialogues_and_all_ranked_pairs(shared_data):
    source = DataSource(path="sft/oasst_sample")
    chats = open_source(source, "chat", data_dir=shared_data, offline=True)
    assert len({record.messages[0].content for record in chats}) == 100
    assert len(open_source(source, "preference", data_dir=shared_data, offline=True)) == 754


@pytest.mark.parametrize(
    ("path", "num_rows"),
    [("pref/rasbt", 1_100), ("pref/llama_factory/dpo_en_demo.json", 300), ("pref/llama_factory/kto_en_demo.json", 300)],
)
def test_every_preference_is_read(shared_data, path, num_rows):
    records = open_source(DataSource(path=path), "preference", data_dir=shared_data, offline=True)
    assert (len(records), records.counts) == (num_rows, Counter())


def test_recorded_ratings_are_put_together(shared_data):
    records = open_source(DataSource(path="pref/arena_bench_v1.jsonl.gz"), "rated", data_dir=shared_data, offline=True)
    assert len(records) == 300
    assert {len({answer.model for answer in record.answers}) for record in records} == {11}
    scores = [answer.score for record in records for answer in record.answers]
    assert scores.count(None) == 27
    assert {score for score in scores if score is not None} <= set(map(float, range(1, 11)))


@pytest.mark.parametrize(
    ("path", "num_texts"),
    [
        ("pretrain/fairytaleqa/stories.jsonl", 278),
        ("pretrain/onestopenglish", 567),
        ("pretrain/tinystories_sample/gusjengis_2.1M.txt", 2_316),
        ("pretrain/tinystories_sample/mines_1.4M.txt", 1_727),
    ],
)
def test_texts_are_as_many_as_there_are(shared_data, path, num_texts):
    records = open_source(DataSource(path=path), "text", data_dir=shared_data, offline=True)
    # A file that is cut at its ends holds a story more than there are marks between stories; long ones are cut.
    assert num_texts <= len(records) <= num_texts + 3


@pytest.mark.slow
def test_books_lose_no_word(shared_data):
    records = open_source(DataSource(path="pretrain/gutenberg_children"), "text", data_dir=shared_data, offline=True)
    read = Counter(word for record in records for word in record.text.split())
    files = sorted((shared_data / "pretrain" / "gutenberg_children").glob("*.txt"))
    assert len(files) == 37
    assert read == Counter(word for file in files for word in file.read_text(encoding="utf-8").split())

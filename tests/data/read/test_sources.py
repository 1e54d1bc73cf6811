"""Sources: found, split, renamed, chosen, checked as a whole, counted, hashed."""

import csv
import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.read.sources import held_out, open_source, source_hash
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Chat


def chat(number, answer="Yes."):
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def folder(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("chats.jsonl", [chat(number) for number in range(20)])
    write("sets/train-0.jsonl", [chat(number) for number in range(3)])
    write("sets/train-1.jsonl", [{"instruction": "Hi", "output": "Hello!", "lang": lang} for lang in ("en", "de")])
    write("sets/test.jsonl", [chat(99)])
    write("bad.jsonl", [chat(0), *(chat(number, None) for number in range(6)), chat(7, " "), chat(8)])
    return tmp_path


def opened(folder, path, kind="chat", **settings):
    return open_source(DataSource(path=path, **settings), kind, data_dir=folder, offline=True)


def questions(records):
    return [record.messages[-2].content for record in records]


def refusal(folder, path, kind="chat", **settings):
    with pytest.raises(DataError) as caught:
        opened(folder, path, kind, **settings)
    return str(caught.value)


def test_records_come_again_and_in_any_order(folder):
    records = opened(folder, "chats.jsonl")
    assert len(records) == 20
    assert list(records) == list(records)
    assert records[17] == Chat(
        "chats.jsonl row 18", (Message("user", "17?"), Message("assistant", "Yes.")), "chats.jsonl"
    )
    with pytest.raises(IndexError):
        records[20]


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train", range(20)), ("train[5:8]", range(5, 8)), ("train[:10%]", range(2)), ("train[-2:]", range(18, 20))],
)
def test_a_slice_of_a_file(folder, split, rows):
    assert questions(opened(folder, "chats.jsonl", split=split)) == [f"{row}?" for row in rows]


def test_rows_outside_the_slice_are_not_checked(folder):
    assert len(opened(folder, "bad.jsonl", split="train[:1]")) == 1


def test_a_folder_gives_the_files_of_its_split_each_in_its_shape(folder):
    train = opened(folder, "sets")
    assert questions(train) == ["0?", "1?", "2?", "Hi", "Hi"]
    assert [record.name for record in train][2:4] == ["train-0.jsonl row 3", "train-1.jsonl row 1"]
    assert questions(opened(folder, "sets", split="test")) == ["99?"]


def test_a_glob_gives_what_it_matches(folder):
    assert len(opened(folder, "sets/*.jsonl")) == 6


def test_rows_are_chosen_and_limited(folder):
    chosen = opened(folder, "sets/train-1.jsonl", where={"lang": "de"})
    assert (len(chosen), chosen.counts) == (1, Counter({"not lang: de": 1}))
    assert questions(opened(folder, "chats.jsonl", max_rows=2)) == ["0?", "1?"]


def test_columns_name_the_fields(folder):
    (folder / "pool.jsonl").write_text(json.dumps({"turns": [{"content": "Hi"}]}) + "\n")
    (prompt,) = opened(folder, "pool.jsonl", "prompt", columns={"prompt": "turns.0.content"})
    assert prompt.messages == (Message("user", "Hi"),)


def test_all_faulty_rows_are_said_at_once(folder):
    assert refusal(folder, "bad.jsonl") == (
        "bad.jsonl: 7 rows cannot be used (6 x null answer, 1 x empty answer): "
        + "; ".join(
            f"bad.jsonl row {row}: message 2 (assistant) has no text: its content is null or missing"
            for row in range(2, 7)
        )
        + "; and 2 more; fix the data, or set bad_rows: drop, which skips such rows and counts them"
    )


def test_one_faulty_row_is_named_itself(folder):
    message = refusal(folder, "bad.jsonl", split="train[7:]")
    assert message.startswith("bad.jsonl row 8: message 2 (assistant) is empty; fix the data, or set bad_rows")


def test_faulty_rows_are_left_out_by_reason_where_that_is_asked_for(folder):
    records = opened(folder, "bad.jsonl", bad_rows="drop")
    assert questions(records) == ["0?", "8?"]
    assert records.counts == Counter({"null answer": 6, "empty answer": 1})


def test_what_cannot_be_read_counts_as_what_cannot_be_used(folder):
    (folder / "torn.jsonl").write_bytes(json.dumps(chat(0)).encode() + b'\n{"a": "\xff"}\n{"messages": [')
    records = opened(folder, "torn.jsonl", bad_rows="drop")
    assert records.counts == Counter({"not UTF-8": 1, "torn last line": 1})
    assert refusal(folder, "torn.jsonl").startswith(
        "torn.jsonl: 2 rows cannot be used (1 x not UTF-8, 1 x torn last line"
    )


def test_a_file_cut_short_is_refused_even_where_rows_may_be_left_out(folder):
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress((folder / "chats.jsonl").read_bytes())[:-4])
    assert refusal(folder, "cut.jsonl.gz", bad_rows="drop").startswith(
        "cut.jsonl.gz, after row 20: the gzip file is truncated; download"
    )


def test_no_rows_at_all_are_refused(folder):
    (folder / "empty.jsonl").write_bytes(b"\n")
    assert refusal(folder, "empty.jsonl") == (
        "empty.jsonl: there are no rows; check the file, split, shape, columns and where of the source"
    )
    message = refusal(folder, "chats.jsonl", where={"lang": "en"})
    said = "chats.jsonl: no chat records are left of 20 rows (20 x no field lang); 'lang' in where: known are messages"
    assert message == f"{said}; check the file, split, shape, columns and where of the source"
    assert "no chat records are left of 6 rows" in refusal(folder, "bad.jsonl", split="train[1:7]", bad_rows="drop")


def test_a_table_with_the_wrong_header_says_what_is_needed(folder):
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["promt", "completion"], ["Hi", "Hello!"]])
    message = refusal(folder, "table.csv")
    assert message.startswith(
        "table.csv row 1: has the fields promt, completion, and no chat records can be made of it"
    )
    assert "('promt': did you mean 'prompt'?); needed are " in message
    assert questions(opened(folder, "table.csv", columns={"prompt": "promt"})) == ["Hi"]


def write_rows(folder, *rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_messages_may_be_json_text_which_is_told(folder):
    write_rows(folder, {"messages": json.dumps(chat(0)["messages"])}, chat(1))
    records = opened(folder, "rows.jsonl")
    assert questions(records) == ["0?", "1?"]
    assert records.noted == Counter({"messages read from JSON text": 1})
    write_rows(folder, {"messages": str(chat(0)["messages"])})
    assert "; it is a list as Python prints it: write it with json.dumps; fix the data" in refusal(folder, "rows.jsonl")


def test_null_columns_choose_no_format(folder):
    write_rows(folder, chat(0) | {"chosen": None, "rejected": None})
    records = opened(folder, "rows.jsonl")
    assert (questions(records), records.unused, records.shapes) == (
        ["0?"], Counter(), {str(folder / "rows.jsonl"): "messages"}
    )  # fmt: skip
    write_rows(folder, {"prompt": "Hi", "completion": None}, {"prompt": "Hi", "completion": "Hello!"})
    assert opened(folder, "rows.jsonl", bad_rows="drop").counts == Counter({"null answer": 1})


def test_false_labels_are_dropped_and_counted_or_left_out_by_where(folder):
    write_rows(folder, *(chat(number) | {"label": number == 1} for number in range(3)))
    assert refusal(folder, "rows.jsonl") == (
        "rows.jsonl: 2 rows cannot be used (2 x label is false): "
        "rows.jsonl row 1: the label is false, and a dialogue is learnt as a good answer; "
        "rows.jsonl row 3: the label is false, and a dialogue is learnt as a good answer; "
        'keep the good answers with where: {label: "true"}, or learn from both in align with the objective kto, '
        "or fix the data, or set bad_rows: drop, which skips such rows and counts them"
    )
    dropped = opened(folder, "rows.jsonl", bad_rows="drop")
    assert (questions(dropped), dropped.counts) == (["1?"], Counter({"label is false": 2}))
    for value in ("true", "True"):
        assert questions(opened(folder, "rows.jsonl", where={"label": value})) == ["1?"]
    assert [row.ratings for row in opened(folder, "rows.jsonl", "preference")] == [(0.0,), (1.0,), (0.0,)]


@pytest.mark.parametrize("labels", [(1, 0), ("1", "0"), ("True", "False")])
@pytest.mark.parametrize("name", ["label", "tag", "kto_tag"])
def test_labels_have_many_forms(folder, name, labels):
    write_rows(folder, *({"instruction": "Hi", "output": "Hello!", name: label} for label in labels))
    assert [row.ratings for row in opened(folder, "rows.jsonl", "preference")] == [(1.0,), (0.0,)]


def test_unused_columns_are_counted_and_ignored_ones_are_not(folder):
    marked = {"messages": [{**message, "loss_weight": 0} for message in chat(2)["messages"]]}
    write_rows(folder, chat(0) | {"mood": 1}, chat(1) | {"mood": 2, "score": 3}, marked)
    records = opened(folder, "rows.jsonl", bad_rows="drop")
    assert (records.unused, records.counts) == (
        Counter(mood=1), Counter({"score is not used": 1, "loss_weight is not used": 1})
    )  # fmt: skip
    records = opened(folder, "rows.jsonl", ignore=["mood", "score", "messages.loss_weight"])
    assert (len(records), records.unused) == (3, Counter())


def test_an_ignored_contradiction_is_none(folder):
    row = {"prompt": "Who?", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}
    write_rows(folder, row)
    assert refusal(folder, "rows.jsonl", "preference").startswith(
        "rows.jsonl row 1: score_chosen is 1, below score_rejected, which is 2; fix the data"
    )
    (pair,) = opened(folder, "rows.jsonl", "preference", ignore=["score_chosen", "score_rejected"])
    assert pair.ratings == (1.0, 0.0)


def test_rows_of_one_split_are_not_read_as_another(folder):
    write_rows(folder, *(chat(number) | {"split": split} for number, split in enumerate(("train", "test", "train"))))
    assert refusal(folder, "rows.jsonl").startswith(
        "rows.jsonl row 2: belongs to the split 'test', and 'train' is read"
    )
    assert len(opened(folder, "rows.jsonl", split="all")) == 3
    assert questions(opened(folder, "rows.jsonl", where={"split": "test"})) == ["1?"]


def test_the_chosen_answers_of_pairs_may_be_taught_which_is_told(folder):
    write_rows(folder, {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."})
    records = opened(folder, "rows.jsonl")
    assert records.noted == Counter({"pairs of which the chosen answer alone is used": 1})


def test_names_in_columns_that_no_format_reads_are_refused(folder):
    assert refusal(folder, "chats.jsonl", columns={"chosn": "messages"}) == (
        "chats.jsonl: columns has names that no format reads, got chosn; "
        "write our name: the name in the rows; did you mean 'chosen'?"
    )
    message = refusal(folder, "chats.jsonl", where={"message": "x"})
    assert "(20 x no field message); 'message' in where: did you mean 'messages'?; check the file" in message


def test_rated_rows_are_shown_the_way_to_pairs(folder):
    write_rows(folder, {"prompt": "Hi", "answers": [{"text": "Hello!", "score": 3}]})
    for kind in ("preference", "chat"):
        assert refusal(folder, "rows.jsonl", kind).endswith(
            f"and no {kind} records can be made of it; make pairs of them with zephyr binarize, or name the source in "
            "feedback.recorded"
        )
    write_rows(folder, {"prompt": "Hi", "completion": "Hello!", "score": 3})
    assert "make pairs of scored answers with zephyr binarize" in refusal(folder, "rows.jsonl")


def test_a_path_that_is_not_there(folder):
    message = refusal(folder, "set/train-0.jsonl")
    assert message.endswith(f"check path and data_dir (set is not in {folder}; did you mean 'sets'?)")
    message = refusal(folder, "sets/train-00.jsonl")
    assert message.endswith(f"(train-00.jsonl is not in {folder / 'sets'}; did you mean 'train-0.jsonl'?)")


def answer_row(prompt, number, score=1.0):
    return {
        "prompt_id": prompt,
        "prompt": f"{prompt}?",
        "completion": f"{prompt}{number}",
        "model": "m",
        "score": score,
    }


def test_answers_in_rows_of_their_own_are_put_together_by_prompt(folder):
    rows = [answer_row("a", 1), answer_row("b", 1), answer_row("a", 2, None), answer_row("c", 1), answer_row("b", 2)]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = opened(folder, "rated.jsonl", "rated")
    assert [[answer.text for answer in record.answers] for record in records] == [["a1", "a2"], ["b1", "b2"], ["c1"]]
    assert records[0].answers[1] == Answer("a2", "m", None)
    assert [len(record.answers) for record in opened(folder, "rated.jsonl", "rated", max_rows=2)] == [2, 2]
    prompts = opened(folder, "rated.jsonl", "prompt")
    assert [prompt.messages[0].content for prompt in prompts] == ["a?", "b?", "c?"]
    assert prompts.counts == Counter({"prompt already there": 2})


def test_prompts_of_other_shapes_may_come_twice(folder):
    (folder / "twice.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a"}\n')
    assert len(opened(folder, "twice.jsonl", "prompt")) == 2


def test_the_hash_follows_bytes_and_names_alone(folder):
    source = DataSource(path="sets")
    first = source_hash(source, folder)
    (folder / "sets" / "test.jsonl").write_text("another split")
    assert source_hash(source, folder) == first
    assert source_hash(DataSource(path="sets", weight=2.0), folder) == first
    (folder / "sets").rename(folder / "elsewhere")
    assert source_hash(DataSource(path="elsewhere"), folder) == first
    path = folder / "elsewhere" / "train-1.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    assert source_hash(DataSource(path="elsewhere"), folder) != first


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"^chats\.jsonl: cannot be read \(Permission denied\); check the file"):
        source_hash(DataSource(path="chats.jsonl"), folder)
    assert "Permission denied" in refusal(folder, "chats.jsonl")


QUESTION = st.text(max_size=20).map(lambda text: (Message("user", text),))


@given(prompt=QUESTION, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_equal_prompts_fall_on_one_side_and_larger_shares_hold_smaller_ones(prompt, share, seed):
    is_held_out = held_out(prompt, share, seed)
    assert held_out(tuple(prompt), share, seed) is is_held_out
    assert held_out(prompt, 1.0, seed)
    assert not held_out(prompt, 0.0, seed)
    assert not is_held_out or held_out(prompt, (1 + share) / 2, seed)


def test_the_held_out_share_is_as_large_as_asked_and_depends_on_the_seed():
    prompts = [(Message("user", str(number)),) for number in range(4_000)]
    sides = [[held_out(prompt, 0.1, seed) for prompt in prompts] for seed in (0, 1)]
    # Four standard deviations of a binomial: 4 * sqrt(4000 * 0.1 * 0.9) = 76.
    assert all(abs(sum(side) - 400) < 76 for side in sides)
    assert sides[0] != sides[1]

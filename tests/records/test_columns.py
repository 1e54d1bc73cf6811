"""The columns of rows: used, harmless, repeated, counted as unused, or refused with what to do."""

import json
from collections import Counter

import pytest

from zephyr.records.columns import ColumnAccounts, TrackedFields, is_harmless, parse_messages, repeats
from zephyr.records.fields import Row, RowFault
from zephyr.records.formats import SHAPES, detect_shape, records_of
from zephyr.records.messages import Message
from zephyr.records.rows import Chat

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
PLAIN = [USER, ANSWER]
PAIR = {"chosen": PLAIN, "rejected": [USER, {"role": "assistant", "content": "No."}]}


def read(fields, kind="chat", **settings):
    """The records of a row or its fault, and the accounts of its columns."""
    accounts = ColumnAccounts(kind, **settings)
    return records_of(Row("r", fields), detect_shape(fields, kind), kind, accounts), accounts


def fault_of(fields, kind="chat", **settings):
    fault, accounts = read(fields, kind, **settings)
    assert isinstance(fault, RowFault), fault
    assert not accounts.unused
    return fault


@pytest.mark.parametrize(
    ("fields", "unused"),
    [
        ({"messages": PLAIN, "id": 7, "source": "x", "question_id": "a", "num_turns": 2, "title": None, "a": ""}, {}),
        ({"messages": PLAIN, "tag": "small talk"}, {"tag": 1}),
        ({"messages": PLAIN, "title": "Greetings", "quality": 4}, {"title": 1, "quality": 1}),
        # The record says it anyway: the prompt of ultrachat_200k, in other letters; a rendering; a part of a message.
        ({"messages": PLAIN, "prompt": " hi"}, {}),
        ({"messages": PLAIN, "text": "Human: Hi\n\nAssistant: Hello!"}, {}),
        ({"messages": PLAIN, "conversation": [{"from": "human", "value": "Hi"}]}, {}),
        ({"messages": PLAIN, "prompt": "Hi there"}, {"prompt": 1}),
        ({"messages": PLAIN, "prompt": "Speak German. Hi"}, {"prompt": 1}),
        ({"messages": PLAIN, "status": "Hell"}, {"status": 1}),
        # Of two names of one thing one is used.
        ({"prompt": "Hi", "question": "Who?", "answer": "Hello!"}, {"question": 1}),
        ({"prompt": "Hi", "completion": "Hello!", "response": "Bye!"}, {"response": 1}),
        ({"messages": [USER, ANSWER | {"label": "helpfulness:3", "id": 4}]}, {"messages.label": 1}),
        ({"messages": [USER | {"mood": "good"}, ANSWER | {"mood": "bad"}]}, {"messages.mood": 2}),
        # What asks for no more than is done anyway.
        ({"messages": PLAIN, "label": True, "weight": 1.0, "train": True}, {}),
    ],
)
def test_unused_columns_are_counted(fields, unused):
    records, accounts = read(fields)
    assert records == [Chat("r", (Message("user", "Hi"), Message("assistant", "Hello!")), fields.get("source", ""))]
    assert accounts.unused == Counter(unused)


FALSE = ("label is false", "the label is false, and a dialogue is learnt as a good answer")
KTO = ", or learn from both in align with the objective kto"


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"label": False}, RowFault("r", *FALSE, 'keep the good answers with where: {label: "true"}' + KTO)),
        ({"label": 0}, RowFault("r", *FALSE, 'keep the good answers with where: {label: "1"}' + KTO)),
        ({"tag": "False"}, RowFault("r", "tag is false", FALSE[1].replace("label", "tag"),
                                    'keep the good answers with where: {tag: "true"}' + KTO)),
        ({"weight": 0}, RowFault("r", "weight is not used", "has the weight 0, and every row is learnt alike",
                                 "choose rows by it with where, or set ignore: [weight]")),
        ({"train": False}, RowFault("r", "train is not used", "has the train False, and every row is learnt alike",
                                    "choose rows by it with where, or set ignore: [train]")),
        ({"score": 2.5}, RowFault("r", "score is not used", "has the score 2.5, which cannot be honoured here",
                                  "make pairs of scored answers with zephyr binarize, or set ignore: [score]")),
        ({"images": ["x.jpg"]}, RowFault("r", "images is not used", "has the field images, and text alone is read",
                                         "set ignore: [images]")),
        ({"split": "test"}, RowFault("r", "row of another split", "belongs to the split 'test', and 'train' is read",
                                     "choose rows with where: {split: test}")),
    ],
)  # fmt: skip
def test_a_column_with_a_meaning_for_training_is_refused(extra, fault):
    assert fault_of({"messages": PLAIN, **extra}, split="train[:50%]") == fault


def test_a_column_that_chooses_rows_is_used():
    assert read({"messages": PLAIN, "label": "138"}, named=["label"])[1].unused == Counter()
    assert fault_of({"messages": PLAIN, "label": "138"}).reason == "label is not used"


def test_keys_of_messages_are_refused_with_their_message():
    fault = fault_of({"messages": [USER, ANSWER | {"loss_weight": 0.5}]})
    assert fault == RowFault(
        "r",
        "loss_weight is not used",
        "message 2 has the loss_weight 0.5, and every row is learnt alike",
        "choose rows by it with where, or set ignore: [messages.loss_weight]",
    )


def test_rows_of_the_split_that_is_read_name_it_in_any_of_its_forms():
    for split, named in (("train", "train"), ("train_prefs", "train"), ("test", "test_sft"), ("train", "en")):
        records, accounts = read({"messages": PLAIN, "split": named}, split=split)
        assert not isinstance(records, RowFault)
        assert accounts.unused == Counter({"split": 1} if named == "en" else {})


def test_of_prompts_alone_nothing_of_an_answer_is_missed():
    fields = {"prompt": "Hi", "completion": "Hello!", "label": False, "score": 3, "mood": "good"}
    assert read(fields, "prompt")[1].unused == Counter(mood=1)


def test_objects_that_are_no_messages_are_read_whole():
    tool = {"type": "function", "function": {"name": "add"}}
    (chat,), accounts = read({"messages": PLAIN, "tools": [tool]})
    assert (chat.inputs.tools, accounts.unused) == (json.dumps([tool]), Counter())
    fields = {"prompt": "Hi", "completion": "Hello!", "score": 3, "ratings": {"honesty": 5}}
    (rated,), accounts = read(fields, "rated")
    assert (rated.answers[0].ratings, accounts.unused) == ({"honesty": 5.0}, Counter())


def test_nodes_of_a_tree_are_accounted_for():
    answer = {"role": "assistant", "text": "Hello!", "labels": {"spam": 0}, "message_id": "b", "replies": []}
    tree = {"role": "prompter", "text": "Hi", "lang": "en", "replies": [answer]}
    assert read({"prompt": tree, "tree_state": "ready"})[1].unused == Counter({"tree_state": 1, "prompt.labels": 1})


@pytest.mark.parametrize("names", ["score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating"])
def test_scores_of_a_pair_must_not_contradict_it(names):
    better, worse = names.format("chosen"), names.format("rejected")
    (pair,), accounts = read(PAIR | {better: 9, worse: "1"}, "preference")
    assert pair.ratings == (9.0, 1.0)
    assert accounts.unused == Counter()
    fault = fault_of(PAIR | {better: 1, worse: 9}, "preference")
    assert fault == RowFault("r", "chosen is scored below rejected", f"{better} is 1, below {worse}, which is 9")


@pytest.mark.parametrize("prompt", ["Hi", "HI ", "Human: Hi", [USER], [{"role": "human", "content": "Hi"}], "", None])
def test_a_prompt_beside_a_pair_that_says_the_same(prompt):
    (pair,), accounts = read(PAIR | {"prompt": prompt}, "preference")
    assert pair.prompt == (Message("user", "Hi"),)
    assert accounts.unused == Counter()


@pytest.mark.parametrize("prompt", ["Who?", "Speak German. Hi", [{"role": "system", "content": "Speak German."}, USER]])
@pytest.mark.parametrize("kind", ["preference", "chat", "prompt"])
def test_a_prompt_that_says_more_than_the_pair_contradicts_it(prompt, kind):
    assert fault_of(PAIR | {"prompt": prompt}, kind) == RowFault(
        "r", "prompt and chosen differ", "the prompt is not what stands before the chosen answer"
    )


def test_a_pair_may_go_on_from_its_prompt_for_several_turns():
    between = [ANSWER, {"role": "user", "content": "How are you?"}]
    chosen, rejected = ([*between, {"role": "assistant", "content": text}] for text in ("Well.", "Bad."))
    (pair,), _ = read({"prompt": "Hi", "chosen": chosen, "rejected": rejected}, "preference")
    assert [message.content for message in pair.prompt] == ["Hi", "Hello!", "How are you?"]
    assert pair.completions == ("Well.", "Bad.")


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"question": "Who?", "context": "It is Bob.", "answer": "Bob."}, [("user", "Who?\n\nIt is Bob.")]),
        ({"prompt": "Sum up.", "input": "A text.", "completion": "Bob."}, [("user", "Sum up.\n\nA text.")]),
        ({"instruction": "Who?", "context": "It is Bob.", "response": "Bob."}, [("user", "Who?\n\nIt is Bob.")]),
        ({"prompt": "Who?\nIt is Bob.", "context": "It is Bob.", "completion": "Bob."},
         [("user", "Who?\nIt is Bob.")]),
        ({"system_prompt": "Be brief.", "question": "Who?", "response": "Bob."},
         [("system", "Be brief."), ("user", "Who?")]),
        ({"system": "Be brief.", "messages": [{"role": "system", "content": "Be brief."},
                                               {"role": "user", "content": "Who?"},
                                               {"role": "assistant", "content": "Bob."}]},
         [("system", "Be brief."), ("user", "Who?")]),
    ],
)  # fmt: skip
def test_what_a_prompt_is_about_and_its_system_message_belong_to_it(fields, messages):
    (chat,), accounts = read(fields)
    assert chat.messages == (*(Message(*message) for message in messages), Message("assistant", "Bob."))
    assert accounts.unused == Counter()


def test_two_system_messages_that_differ_are_refused():
    fields = {"messages": [{"role": "system", "content": "Be long."}, *PLAIN], "system_prompt": "Be brief."}
    assert fault_of(fields).reason == "several system messages"


ROWS = {
    "ultrafeedback": {"instruction": "Hi", "completions": [{"response": "Hello!", "annotations": {}}]},
    "oasst_tree": {"prompt": {"role": "prompter", "text": "Hi", "replies": [{"role": "assistant", "text": "Hello!"}]}},
    "rated": {"prompt": "Hi", "completion": "Hello!", "score": 3},
    "hh_rlhf": {name: f"Human: Hi\n\nAssistant: {name}" for name in ("chosen", "rejected")},
    "preference": {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
    "kto": {"prompt": "Hi", "completion": "Hello!", "label": 1},
    "messages": {"messages": PLAIN},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    "glaive": {"system": "SYSTEM: S", "chat": "USER: Hi\n\n\nASSISTANT: Hello! <|endoftext|>"},
    "alpaca": {"instruction": "Hi", "output": "Hello!"},
    "prompt_completion": {"question": "Hi", "answer": "Hello!"},
    "prompt": {"prompt": "Hi"},
    "text": {"text": "Hi"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_format_reads_is_declared_in_its_one_place(shape):
    for kind, reader in SHAPES[shape].kinds.items():
        fields = TrackedFields(ROWS[shape])
        reader(Row("r", fields))
        assert fields.read <= {*SHAPES[shape].columns}, kind
        assert fields.read & {*ROWS[shape]}


@pytest.mark.parametrize("name", ["id", "prompt_id", "chosen_model", "model_chosen", "lang", "url", "num_tokens"])
def test_names_that_say_nothing_of_training(name):
    assert is_harmless(name, "chat")


@pytest.mark.parametrize("name", ["label", "tag", "weight", "score", "images", "system", "context", "title", "modest"])
def test_names_that_may_say_something(name):
    assert not is_harmless(name, "chat")


def test_messages_are_read_from_their_json_text():
    assert parse_messages('[{"role": "user", "content": "Hi"}]') == [USER]
    assert parse_messages(' {"from": "human", "value": "Hi"}') == {"from": "human", "value": "Hi"}
    for text in ("Hi", "[1]", "[]", "{}", '[{"role": "user"', '{"name": "x"}', "[" * 9999):
        assert parse_messages(text) is text


def test_repeats_ignores_white_space_and_capitals_but_no_word():
    assert repeats("the  QUICK brown fox jumps", ["x", "Behold: the quick brown fox jumps over."])
    assert repeats("### Human: a question\n### Assistant: an answer", ["a question", "an answer"])
    assert not repeats("### Human: a question, please", ["a question"])
    assert not repeats("user", ["Hi"])

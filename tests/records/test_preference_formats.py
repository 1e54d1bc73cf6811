"""Message trees: the dialogues along the best answers, and the pairs among ranked ones."""

from zephyr.records.fields import Row, RowFault
from zephyr.records.formats import detect_shape, records_of


def node(role, text, *replies, rank=None, deleted=False):
    return {"role": role, "text": text, "rank": rank, "deleted": deleted, "replies": list(replies)}


TREE = {
    "prompt": node(
        "prompter",
        "q",
        node("assistant", "worst", rank=2),
        node(
            "assistant",
            "best",
            node("prompter", "so?", node("assistant", "well", rank=0), node("assistant", "hm", rank=1)),
            node("prompter", "why?", node("assistant", "thus")),
            node("prompter", "unanswered"),
            rank=0,
        ),
        node("assistant", "middle", node("prompter", "eh?", node("assistant", "yes", rank=0)), rank=1),
        node("assistant", "gone", rank=3, deleted=True),
    )
}


def said(messages):
    return " / ".join(message.content for message in messages)


def test_dialogues_follow_the_best_answers_and_every_user():
    assert detect_shape(TREE) == "oasst_tree"
    chats = records_of(Row("r", TREE), "oasst_tree", "chat")
    assert [said(chat.messages) for chat in chats] == ["q / best / so? / well", "q / best / why? / thus"]
    assert [chat.name for chat in chats] == ["r dialogue 1", "r dialogue 2"]


def test_every_better_answer_beats_every_worse_one():
    pairs = records_of(Row("r", TREE), "oasst_tree", "preference")
    assert [(said(pair.prompt), *pair.completions, *pair.ratings) for pair in pairs] == [
        ("q", "best", "middle", 2.0, 1.0),
        ("q", "best", "worst", 2.0, 0.0),
        ("q", "middle", "worst", 1.0, 0.0),
        ("q / best / so?", "well", "hm", 1.0, 0.0),
    ]


def test_answers_of_one_rank_are_no_pair():
    tree = node("prompter", "q", *(node("assistant", text, rank=rank) for text, rank in [("b", 1), ("a", 0), ("c", 1)]))
    pairs = records_of(Row("r", {"prompt": tree}), "oasst_tree", "preference")
    assert [pair.completions for pair in pairs] == [("a", "b"), ("a", "c")]


def test_a_tree_without_answers_has_no_records():
    lonely = Row("r", {"prompt": node("prompter", "q")})
    assert all(len(records_of(lonely, "oasst_tree", kind)) == 0 for kind in ("chat", "preference", "prompt"))


def test_broken_trees_are_faults():
    for tree, reason in [
        (node("assistant", "q"), "roles out of turn"),
        (node("prompter", "q", node("prompter", "q")), "roles out of turn"),
        (node("prompter", "q", node("assistant", None)), "null answer"),
        (node("prompter", "q", node("assistant", " ")), "empty answer"),
        (node("robot", "q"), "unknown role"),
    ]:
        fault = records_of(Row("r", {"prompt": tree}), "oasst_tree", "chat")
        assert isinstance(fault, RowFault)
        assert fault.reason == reason

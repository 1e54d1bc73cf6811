"""What is learnt of dialogues with tools, reasoning and marks, under templates of four families of models."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.dialogues import TRAPS, chat_tokenizer
from tests.data.tool_templates import R1, TEMPLATES, tool_encoder, tool_tokenizer
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import Tokenized
from zephyr.errors import DataError
from zephyr.models.tiny import TINY_CHAT_TEMPLATE
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.stage_sections import AlignSection, SftSection
from zephyr.records.messages import NO_INPUTS, Message, TemplateInputs, ToolCall
from zephyr.records.rows import Chat, Preference
from zephyr.trees.forest import ScoredSequence, build_forest

TOOLS = TemplateInputs('[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]')
CALL = ToolCall("add", '{"a": 1, "b": 2}', "call_1")
ASKED = Message("user", "Add 1 and 2")
RESULT = Message("tool", '3 "x"', call_id="call_1")
DIALOGUE = (
    ASKED,
    Message("assistant", "", tool_calls=(CALL,)),
    RESULT,
    Message("assistant", "It is 3.", "So"),
    Message("user", "Sure?"),
    Message("assistant", "WRONG", learn=False),
    Message("user", "Really?"),
    Message("assistant", "Yes.", "Hm"),
)
TOKENIZER = tool_tokenizer(TINY_CHAT_TEMPLATE)
CALLED = '{"name": "add", "arguments": {"a": 1, "b": 2}'


def learnt(encoder, messages, inputs=NO_INPUTS, *, loss_on="assistant"):
    """The texts that are learnt, by the answers of each sequence."""
    found = encoder.dialogues(messages, inputs, loss_on=loss_on)
    return {one.answers: decoded(one.encoded.ids[one.encoded.scored]) for one in found}


def decoded(ids):
    return TOKENIZER.decode(list(map(int, ids)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen", {
            (1,): f"<think>\n\n</think>\n\n<tool_call>\n{CALLED}}}\n</tool_call><|im_end|>",
            (2,): "<think>\nSo\n</think>\n\nIt is 3.<|im_end|>",
            (4,): "<think>\nHm\n</think>\n\nYes.<|im_end|>",
        }),
        ("llama", {
            (1, 2, 4): '{"name": "add", "parameters": {"a": 1, "b": 2}}<|eot_id|>'
            "<think>\nSo\n</think>\n\nIt is 3.<|eot_id|><think>\nHm\n</think>\n\nYes.<|eot_id|>",
        }),
        ("mistral", {
            (1, 2): f'[TOOL_CALLS] [{CALLED}, "id": "74196fe72"}}]</s> <think>\nSo\n</think>\n\nIt is 3.</s>',
            (4,): " <think>\nHm\n</think>\n\nYes.</s>",
        }),
        ("smollm", {
            (1, 2, 4): f"\n<tool_call>{CALLED}}}</tool_call><|im_end|>"
            "<think>\nSo\n</think>\n\nIt is 3.<|im_end|><think>\nHm\n</think>\n\nYes.<|im_end|>",
        }),
    ],
)  # fmt: skip
def test_calls_and_reasoning_are_learnt_and_results_are_not(name, expected):
    assert learnt(tool_encoder(TEMPLATES[name]), DIALOGUE, TOOLS) == expected


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_sequence_is_what_the_model_is_given_and_what_it_says(name):
    # Each sequence begins with the prompt of its last answer as transformers renders it.
    encoder, tokenizer = tool_encoder(TEMPLATES[name]), tool_tokenizer(TEMPLATES[name])
    last = encoder.dialogues(DIALOGUE, TOOLS, loss_on="assistant")[-1].encoded
    calls = [{"id": "74196fe72", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]
    said = "It is 3." if name == "qwen" else "<think>\nSo\n</think>\n\nIt is 3."
    given = [
        {"role": "user", "content": ASKED.content},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": RESULT.content, "tool_call_id": "74196fe72"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "WRONG"},
        {"role": "user", "content": "Really?"},
    ]
    tools = json.loads(TOOLS.tools)
    prompt = tokenizer.apply_chat_template(given, tools=tools, tokenize=False, add_generation_prompt=True)
    assert decoded(last.ids).startswith(prompt)
    assert (
        encoder.prompt(DIALOGUE[:-1], TOOLS).tolist() == last.ids[: len(encoder.prompt(DIALOGUE[:-1], TOOLS))].tolist()
    )


def test_an_answer_goes_on_from_a_thought_that_its_prompt_opens():
    encoder = tool_encoder(R1)
    messages = (ASKED, Message("assistant", "3", "So"), Message("user", "Sure?"), Message("assistant", "Yes."))
    assert learnt(encoder, messages) == {(1,): "So\n</think>\n\n3</s>", (2,): "\n</think>\n\nYes.</s>"}
    whole = [decoded(one.encoded.ids) for one in encoder.dialogues(messages, loss_on="assistant")]
    assert (
        whole[1] == "<s><|user|>Add 1 and 2<|assistant|>3</s><|user|>Sure?<|assistant|><think>\n\n</think>\n\nYes.</s>"
    )


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("learn", "<think>\nSo\n</think>\n\n3<|im_end|>"),
        ("mask", "3<|im_end|>"),
        ("drop", "<think>\n\n</think>\n\n3<|im_end|>"),
    ],
)
def test_reasoning_is_learnt_shown_or_left_out(reasoning, expected):
    encoder = tool_encoder(TEMPLATES["qwen"], reasoning)
    assert learnt(encoder, (ASKED, Message("assistant", "3", "So"))) == {(1,): expected}


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [("learn", "<think>\nSo\n</think>\n\n3</s>Yes.</s>"), ("mask", "3</s>Yes.</s>"), ("drop", "3</s>Yes.</s>")],
)
def test_the_built_in_layouts_write_reasoning_in_tags(reasoning, expected):
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="zephyr", reasoning=reasoning))
    messages = (ASKED, Message("assistant", "3", "So"), Message("user", "Sure?"), Message("assistant", "Yes."))
    assert learnt(encoder, messages) == {(1, 2): expected}


def test_an_answer_of_weight_0_is_shown_and_not_learnt():
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="zephyr"))
    messages = (ASKED, Message("assistant", "WRONG", learn=False), Message("user", "Again"), Message("assistant", "3"))
    assert learnt(encoder, messages) == {(2,): "3</s>"}
    (whole,) = encoder.dialogues(messages, loss_on="everything")
    assert decoded(whole.encoded.ids[~whole.encoded.scored]) == "<s>WRONG</s>"
    plain = encoder.dialogue([one._replace(learn=True) for one in messages], loss_on="assistant")
    assert plain.ids.tolist() == whole.encoded.ids.tolist()


def test_everything_is_learnt_once_over_the_sequences_of_a_dialogue():
    encoder = tool_encoder(TEMPLATES["qwen"])
    messages = (ASKED, Message("assistant", "3", "So"), Message("user", "Sure?"), Message("assistant", "Yes.", "Hm"))
    first, second = learnt(encoder, messages, loss_on="everything").values()
    assert first.endswith("Add 1 and 2<|im_end|>\n<|im_start|>assistant\n<think>\nSo\n</think>\n\n3<|im_end|>\n")
    # Not the answer without its reasoning, which would teach to answer without it.
    end = "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\nYes.<|im_end|>\n"
    assert second.endswith(end)
    assert "3" not in second


def test_an_answer_of_a_pair_has_its_reasoning_and_calls():
    encoder = tool_encoder(TEMPLATES["qwen"])
    prompt = (*DIALOGUE[:4], Message("user", "Sure?"))
    ids = encoder.completion_of(Message("assistant", "", "Hm", (CALL,)), prompt, TOOLS)
    assert decoded(ids) == f"<think>\nHm\n</think>\n\n<tool_call>\n{CALLED}}}\n</tool_call><|im_end|>"
    # Without its earlier reasoning, as the model sees it then.
    assert "So" not in decoded(encoder.prompt(prompt, TOOLS))
    plain = Message("assistant", "3")
    assert encoder.completion_of(plain, (ASKED,)).tolist() == encoder.completion("3").tolist()


@pytest.mark.parametrize(
    ("template", "messages", "inputs", "what"),
    [
        (TEMPLATES["qwen"], DIALOGUE[:1], TemplateInputs('[{"name": "<|im_end|>"}]'),
         "finds the control token '<|im_end|>' in a tool"),
        (TEMPLATES["qwen"], DIALOGUE[:1], TemplateInputs(variables='{"thinking_mode": "/think"}'),
         "does not use thinking_mode; ignore: [chat_template_kwargs] reads the rows without theirs"),
        (TINY_CHAT_TEMPLATE, (ASKED, Message("assistant", "3")), TOOLS, "leaves out tools"),
        (TINY_CHAT_TEMPLATE, DIALOGUE[:4], NO_INPUTS, "leaves out tool calls"),
        (TEMPLATES["mistral"], (ASKED, Message("assistant", "", "So", (CALL,))), TOOLS, "leaves out the reasoning of"),
        (TEMPLATES["mistral"], (ASKED, Message("assistant", "I add.", "", (CALL,))), TOOLS,
         "leaves out message 2 (assistant)"),
        (TEMPLATES["llama"], (ASKED, Message("assistant", "", "", (CALL, CALL))), TOOLS,
         "refuses these messages (one call at a time)"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(template, messages, inputs, what):
    with pytest.raises(DataError) as error:
        tool_encoder(template).dialogues(
            (*messages, Message("assistant", "3"))[: len(messages) + 1], inputs, loss_on="assistant"
        )
    assert what in error.value.what


def test_the_built_in_layouts_refuse_tools():
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="chatml"))
    with pytest.raises(
        DataError, match=r"the built-in chat template: cannot render tools; chat_template\.name: own takes"
    ):
        encoder.dialogues(DIALOGUE, loss_on="assistant")
    with pytest.raises(DataError, match="cannot render tools"):
        encoder.completion_of(Message("assistant", "3"), (ASKED,), TOOLS)


def test_the_reasoning_of_pairs_cannot_be_masked():
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="chatml", reasoning="mask"))
    with pytest.raises(DataError, match="cannot mask the reasoning of a preference"):
        encoder.completion_of(Message("assistant", "3", "So"), (ASKED,))


WORDS = st.lists(st.one_of(st.sampled_from([trap for trap in TRAPS if trap.strip()]), st.text("ab 1é", min_size=1)))
TEXTS = WORDS.map("".join).map(str.strip).filter(bool)
THOUGHTS = st.just("") | TEXTS
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "é"]), st.integers(0, 9) | st.sampled_from(["x y", '"']), max_size=2)
CALLS = st.builds(ToolCall, st.just("add"), ARGUMENTS.map(json.dumps), st.just("callnine1"))


@st.composite
def dialogues(draw, name):
    """A dialogue of questions, calls, results and answers, some of which are only shown."""
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXTS)))
        for _ in range(draw(st.integers(0, 2))):
            # This template has no place for a text beside a call.
            content, thought = ("", "") if name == "mistral" else (draw(st.just("") | TEXTS), draw(THOUGHTS))
            messages.append(Message("assistant", content, thought, (draw(CALLS),), learn=draw(st.booleans())))
            messages.append(Message("tool", draw(TEXTS), call_id="callnine1"))
        messages.append(Message("assistant", draw(TEXTS), draw(THOUGHTS), learn=draw(st.booleans())))
    return (*messages[:-1], messages[-1]._replace(learn=True))


def said(name, message, reasoning):
    """What a model of this family says as its answer, the part that is to be learnt: written out by hand."""
    thought, call = (message.reasoning, message.tool_calls) if reasoning == "learn" else ("", message.tool_calls)
    called = json.dumps(call[0].parsed(), ensure_ascii=False) if call else ""
    opened = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    masked = reasoning == "mask" and message.reasoning
    if name == "qwen":
        opened = "" if masked else opened or "<think>\n\n</think>\n\n"
        line = "\n" if message.content else ""
        shown = f'{line}<tool_call>\n{{"name": "add", "arguments": {called}}}\n</tool_call>' if call else ""
        return f"{opened}{message.content}{shown}<|im_end|>"
    if name == "llama":
        text = f"{opened}{message.content}" if message.content else opened.strip()
        return text + (f'{{"name": "add", "parameters": {called}}}' if call else "") + "<|eot_id|>"
    if name == "mistral":
        if call:
            return f'[TOOL_CALLS] [{{"name": "add", "arguments": {called}, "id": "callnine1"}}]</s>'
        return f"{'' if masked else ' '}{opened}{message.content}</s>"
    shown = f'\n<tool_call>{{"name": "add", "arguments": {called}}}</tool_call>' if call else ""
    # White space after the closing tag is masked with it.
    shown = shown.lstrip() if masked and not message.content else shown
    return f"{opened}{message.content}{shown}<|im_end|>"


def check_law(examples):
    encoders = {(name, mode): tool_encoder(text, mode) for name, text in TEMPLATES.items() for mode in MODES}

    @settings(max_examples=examples, deadline=None)
    @given(st.data(), st.sampled_from(sorted(encoders)))
    def check(data, key):
        name, mode = key
        messages = data.draw(dialogues(name))
        answers = [message for message in messages if message.role == "assistant"]
        found = encoders[key].dialogues(messages, TOOLS, loss_on="assistant")
        places = [place for one in found for place in one.answers]
        assert sorted(places) == [place for place, answer in enumerate(answers, 1) if answer.learn]
        for one in found:
            texts = "".join(said(name, answers[place - 1], mode) for place in one.answers)
            assert decoded(one.encoded.ids[one.encoded.scored]) == texts

    check()


MODES = ("learn", "mask", "drop")


def test_exactly_what_should_be_is_learnt():
    check_law(100)


@pytest.mark.slow
def test_exactly_what_should_be_is_learnt_of_2000_dialogues():
    check_law(2_000)


SFT = SftSection.model_validate({"train": {"learning_rate": 1.0e-3}, "data": {"max_length": 1024}})


def test_a_row_becomes_one_example_for_each_sequence():
    refused = []
    encoder = tool_encoder(TEMPLATES["qwen"])
    tokenized = Tokenized(SFT, encoder, lambda row, error: refused.append((row.name, error.faults[0].what)))
    named_stop = TemplateInputs('[{"name": "</s>"}]')
    rows = [
        Chat("chats.jsonl row 1", DIALOGUE, inputs=TOOLS),
        Chat("chats.jsonl row 2", (*DIALOGUE[:2], *DIALOGUE[:2]), inputs=named_stop),
    ]
    examples = list(tokenized.examples(rows))
    assert [example.name for example in examples] == [f"chats.jsonl row 1 answer {place}" for place in (1, 2, 4)]
    assert (tokenized.num_rows, tokenized.num_examples) == (2, 3)
    assert tokenized.loss_mask is not None
    assert (tokenized.loss_mask.stops, tokenized.loss_mask.scored["tool"]) == (3, 0)
    what = "the model's own chat template finds the control token '</s>' in a tool, a call or a variable"
    assert refused == [("chats.jsonl row 2", what)]


def test_what_the_sequences_of_a_dialogue_share_is_computed_once():
    examples = tool_encoder(TEMPLATES["qwen"]).dialogues(DIALOGUE, TOOLS, loss_on="assistant")
    forest = build_forest([ScoredSequence(one.encoded.ids, one.encoded.scored) for one in examples])
    first, second, third = (len(one.encoded.ids) for one in examples)
    # The first two differ in <think> and <tool_call>, of which they share "<t"; the others before the second's thought.
    header = len(tool_encoder(TEMPLATES["qwen"]).prompt(DIALOGUE[:1], TOOLS)) + len("<t")
    later = len(tool_encoder(TEMPLATES["qwen"]).prompt(DIALOGUE[:3], TOOLS))
    assert forest.num_tokens == first + (second - header) + (third - later)
    assert forest.num_edges == sum(int(one.encoded.scored.sum()) for one in examples)


@pytest.mark.parametrize(("on_prompt", "kept"), [(True, ["d row 2"]), (False, ["d row 1", "d row 2"])])
def test_a_prompt_that_is_learnt_has_no_marks(on_prompt, kept):
    # ORPO's NLL covers the prompt, of which every token would be learnt.
    marked = (ASKED, Message("assistant", "WRONG", learn=False), Message("user", "Really?"))
    prompts = {"d row 1": marked, "d row 2": marked[:1]}
    rows = [Preference(name, prompt, ("3", "4"), (1.0, 0.0)) for name, prompt in prompts.items()]
    objective = {"name": "orpo", "nll_on_prompt": on_prompt}
    align = AlignSection.model_validate({**SFT.model_dump(include={"train", "data"}), "objective": objective})
    refused = []
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="chatml"))
    tokenized = Tokenized(align, encoder, lambda row, error: refused.append(error.faults[0].reason))
    assert [example.name for example in tokenized.examples(rows)] == kept
    assert refused == ["mark in a learnt prompt"] * on_prompt

import pytest
from hypothesis import given, settings

from tests.data.dialogues import ANSWER, ORDINARY, chat_tokenizer, plain_dicts, prompts
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.templates import LAYOUTS, control_pattern, jinja_of, split_controls
from zephyr.errors import ModelError
from zephyr.models.tiny import tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import Message

TOKENIZER = chat_tokenizer()
HI = (Message("system", ""), Message("user", "Hi"))
HELLO = Message("assistant", "Hello!")


def zephyr(**switches: bool) -> DialogueEncoder:
    return DialogueEncoder(TOKENIZER, ChatTemplateSection(name="zephyr", **{"bos": False, **switches}))


def by_transformers(encoder: DialogueEncoder, messages: tuple[Message, ...], *, generation: bool) -> str:
    return TOKENIZER.apply_chat_template(
        plain_dicts(messages),
        chat_template=encoder.chat_template,
        tokenize=False,
        add_generation_prompt=generation,
    )


# The strings of the released models and of alignment-handbook's tests/test_data.py.
@pytest.mark.parametrize(
    ("messages", "generation", "expected"),
    [
        (HI, True, "<|system|>\n</s>\n<|user|>\nHi</s>\n<|assistant|>\n"),
        ((*HI, HELLO), False, "<|system|>\n</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n"),
        ((HELLO,), False, "<|assistant|>\nHello!</s>\n"),
        ((), True, ""),
        (
            ORDINARY,
            False,
            "<|system|>\nYou are a happy chatbot</s>\n<|user|>\nHello!</s>\n<|assistant|>\nBonjour!</s>\n<|user|>\nHow are you?</s>\n",  # noqa: E501
        ),
        ((Message("assistant", ANSWER),), False, "<|assistant|>\nI am doing well, thanks!</s>\n"),
    ],
)
def test_zephyr_renders_its_published_strings(messages, generation, expected):
    encoder = zephyr()
    assert encoder.render(messages, generation=generation) == expected
    if messages:  # of none transformers makes an error
        assert by_transformers(encoder, messages, generation=generation) == expected


def test_zephyr_in_jinja_drops_other_roles():
    messages = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "42"}]
    rendered = TOKENIZER.apply_chat_template(
        messages, chat_template=jinja_of(ChatTemplateSection(name="zephyr")), tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|user|>\nHi</s>\n<|assistant|>\n"


def test_chatml_and_llama3_render_their_published_strings():
    messages = (Message("system", "Be brief."), Message("user", " Hi \n"))
    chatml = DialogueEncoder(TOKENIZER, ChatTemplateSection(name="chatml", bos=False))
    assert chatml.render(messages, generation=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi \n<|im_end|>\n<|im_start|>assistant\n"
    )
    llama3 = DialogueEncoder(TOKENIZER, ChatTemplateSection(name="llama3"))
    assert llama3.render(messages, generation=True) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("empty_system", [True, False])
def test_jinja_renders_what_we_render(name, bos, empty_system):
    encoder = DialogueEncoder(TOKENIZER, ChatTemplateSection(name=name, empty_system=empty_system, bos=bos))

    @settings(max_examples=30)
    @given(prompts())
    def check(messages):
        for generation in (True, False):
            assert by_transformers(encoder, messages, generation=generation) == encoder.render(
                messages, generation=generation
            )

    check()


def test_an_empty_system_message_comes_before_dialogues_that_have_none():
    assert zephyr(empty_system=True).render(HI[1:]) == zephyr().render(HI)
    assert zephyr(empty_system=True).render(ORDINARY) == zephyr().render(ORDINARY)


def test_what_ends_training_sequences_is_no_part_of_the_stored_template():
    assert zephyr(extra_eos=True, legacy_space=True).chat_template == zephyr().chat_template


def test_a_template_whose_tokens_are_missing_is_refused():
    with pytest.raises(ModelError, match=r"needs the control token '<\|im_(start|end)\|>', .* choose another"):
        DialogueEncoder(tiny_tokenizer(), ChatTemplateSection(name="chatml"))


def test_of_two_control_tokens_the_longer_is_found():
    pieces = split_controls("a<|x|><|x|>>b", control_pattern(["<|x|>", "<|x|>>"]))
    assert [(piece.text, piece.control) for piece in pieces] == [
        ("a", False), ("<|x|>", True), ("<|x|>>", True), ("b", False),
    ]  # fmt: skip
    assert [piece.text for piece in split_controls("ab", control_pattern([]))] == ["ab"]

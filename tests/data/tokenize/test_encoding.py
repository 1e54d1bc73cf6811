import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import mistral_tokenizer
from tests.data.dialogues import ANSWER, ORDINARY, answers, chat_tokenizer, prompts
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.templates import ASSISTANT, LAYOUTS, TEMPLATE_TEXT
from zephyr.errors import RecipeError
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import ROLES, Message

# With Mistral's tokenizer: <|system|> at the very start, the others after a newline; "Hi" and "Hello" inside a text.
SYSTEM, USER, MODEL = (
    [523, 28766, 6574, 28766, 28767],
    [28789, 28766, 1838, 28766, 28767],
    [28789, 28766, 489, 11143, 28766, 28767],
)
BOS, EOS, NEWLINE, SPACE, HI, HELLO, MARK = 1, 2, 13, 28705, 23809, 16230, 28808
GREETING = (Message("system", ""), Message("user", "Hi"))

SETTINGS = [
    ChatTemplateSection(name="zephyr"),
    ChatTemplateSection(name="zephyr", empty_system=True, bos=False),
    ChatTemplateSection(name="zephyr", extra_eos=True, legacy_space=True),
    ChatTemplateSection(name="chatml", bos=False),
    ChatTemplateSection(name="llama3"),
]
# A byte-level tokenizer for all of them, and Mistral's for those that need no added token.
CASES = [("tiny", settings) for settings in SETTINGS] + [
    ("mistral", settings) for settings in SETTINGS if settings.name == "zephyr"
]
EVERY_CASE = pytest.mark.parametrize(("tokenizer", "settings"), CASES)
TOKENIZERS = {"tiny": functools.cache(chat_tokenizer), "mistral": mistral_tokenizer.load}
FEWER = hypothesis.settings(max_examples=40)


def encoder_for(tokenizer: str, settings: ChatTemplateSection) -> DialogueEncoder:
    return _encoder_for(tokenizer, settings.model_dump_json())


@functools.cache
def _encoder_for(tokenizer: str, settings: str) -> DialogueEncoder:
    return DialogueEncoder(TOKENIZERS[tokenizer](), ChatTemplateSection.model_validate_json(settings))


@pytest.mark.parametrize("legacy", [True, False])
def test_mistral_ids_of_the_zephyr_prompt(legacy):
    settings = ChatTemplateSection(name="zephyr", bos=False, legacy_space=legacy)
    encoder = DialogueEncoder(mistral_tokenizer.load(), settings)
    space = [SPACE] if legacy else []
    assert encoder.prompt(GREETING).tolist() == [
        *SYSTEM, NEWLINE, EOS, *space, NEWLINE, *USER, NEWLINE, HI, EOS, *space, NEWLINE, *MODEL, NEWLINE,
    ]  # fmt: skip
    # 22557 would be "Hello" with a space of its own before it.
    assert encoder.completion("Hello!").tolist() == [HELLO, MARK, EOS]
    assert encoder.stop_ids == (EOS,)


def test_mistral_puts_bos_first_unless_told_otherwise():
    tokenizer = mistral_tokenizer.load()
    found = [DialogueEncoder(tokenizer, ChatTemplateSection(name="zephyr", bos=bos)) for bos in (None, True, False)]
    starts = [encoder.prompt(GREETING).tolist()[:2] for encoder in found]
    assert starts == [[BOS, 28789], [BOS, 28789], [523, 28766]]
    assert [encoder.section.bos for encoder in found] == [True, True, False]
    legacy = DialogueEncoder(tokenizer, ChatTemplateSection(name="zephyr", legacy_space=True))
    assert legacy.prompt(GREETING).tolist()[:2] == [BOS, 523]


def test_extra_eos_ends_sequences_as_in_trl_0_7():
    settings = ChatTemplateSection(name="zephyr", bos=False, legacy_space=True, extra_eos=True)
    encoder = DialogueEncoder(mistral_tokenizer.load(), settings)
    ending = [HELLO, MARK, EOS, SPACE, NEWLINE, EOS]
    dialogue = encoder.dialogue((*GREETING, Message("assistant", "Hello!")), loss_on="assistant")
    assert dialogue.ids.tolist()[-6:] == ending
    assert encoder.completion("Hello!").tolist() == ending
    assert dialogue.scored.tolist()[-6:] == [True, True, True, False, False, False]
    assert encoder.text_of(ending) == "Hello!"


@EVERY_CASE
def test_prompt_and_completion_are_those_inside_the_dialogue(tokenizer, settings):
    encoder = encoder_for(tokenizer, settings)

    @FEWER
    @given(prompts(), answers())
    def check(messages, answer):
        prompt, completion = encoder.prompt(messages), encoder.completion(answer.content)
        for loss_on in ("assistant", "everything"):
            dialogue = encoder.dialogue((*messages, answer), loss_on=loss_on)
            ids = [*prompt.tolist(), *completion.tolist()]
            assert dialogue.ids.tolist()[: len(ids)] == ids

    check()


@EVERY_CASE
def test_no_text_becomes_a_control_token(tokenizer, settings):
    encoder = encoder_for(tokenizer, settings)

    special = set(TOKENIZERS[tokenizer]().all_special_ids) - {TOKENIZERS[tokenizer]().unk_token_id}

    @FEWER
    @given(prompts(), answers())
    def check(messages, answer):
        found, harmless = (
            encoder.dialogue(each, loss_on="assistant")
            for each in ((*messages, answer), tuple(m._replace(content="x") for m in (*messages, answer)))
        )
        controls = [[token for token in each.ids.tolist() if token in special] for each in (found, harmless)]
        assert controls[0] == controls[1]

    check()


@EVERY_CASE
def test_the_mask_is_the_answers_and_their_stop_tokens(tokenizer, settings):
    encoder = encoder_for(tokenizer, settings)

    @FEWER
    @given(prompts(), answers())
    def check(messages, answer):
        dialogue = (*messages, answer)
        encoded = encoder.dialogue(dialogue, loss_on="assistant")
        said = [message.content for message in dialogue if message.role == "assistant"]
        stop = encoder.stop_ids[0]
        completions = [encoder.completion(text).tolist() for text in said]
        expected = [token for ids in completions for token in ids[: ids.index(stop) + 1]]
        assert encoded.ids[encoded.scored].tolist() == expected
        assert np.array_equal(encoded.scored, encoded.roles == ASSISTANT)
        everything = encoder.dialogue(dialogue, loss_on="everything")
        assert not everything.scored[0]
        assert everything.scored[1:].all()

    check()


def test_roles_cover_what_each_role_says():
    encoded = encoder_for("tiny", ChatTemplateSection(name="zephyr")).dialogue(
        (*ORDINARY, Message("assistant", ANSWER)), loss_on="assistant"
    )
    said = [encoded.ids[encoded.roles == role] for role in (*range(len(ROLES)), TEMPLATE_TEXT)]
    *texts, template_text = [chat_tokenizer().decode(ids, skip_special_tokens=True) for ids in said]
    by_role = dict(zip(ROLES, texts, strict=True))
    assert by_role == {
        "system": "You are a happy chatbot",
        "user": "Hello!How are you?",
        "assistant": "Bonjour!I am doing well, thanks!",
        "tool": "",
    }
    marks = "\n<|user|>\n\n<|assistant|>\n"
    assert template_text == f"<|system|>\n{2 * marks}\n"


PLAIN_TEXT = st.text(max_size=12).filter(lambda text: text.strip())


@pytest.mark.parametrize(("tokenizer", "settings"), [case for case in CASES if not case[1].legacy_space])
def test_ids_are_those_of_the_rendered_text(tokenizer, settings):
    encoder = encoder_for(tokenizer, settings)

    # A newline that begins an answer may merge with the one before it in a text, but not in generation.
    @FEWER
    @given(prompts(PLAIN_TEXT), answers(PLAIN_TEXT.filter(lambda text: not text[0].isspace())))
    def check(messages, answer):
        dialogue = (*(m._replace(content=m.content.lstrip()) for m in messages), answer)
        together = TOKENIZERS[tokenizer]()(encoder.render(dialogue), add_special_tokens=False)["input_ids"]
        assert encoder.dialogue(dialogue, loss_on="assistant").ids.tolist() == together

    check()


@EVERY_CASE
def test_the_text_of_a_completion_comes_back(tokenizer, settings):
    encoder = encoder_for(tokenizer, settings)

    @FEWER
    @given(st.text(max_size=20))
    def check(text):
        assert encoder.text_of(encoder.completion(text)) == (text.strip() if settings.name == "llama3" else text)

    check()


def test_plain_text_stands_between_the_tokens_that_begin_and_end_a_sequence():
    encoder = DialogueEncoder(mistral_tokenizer.load(), ChatTemplateSection(name="zephyr"))
    encoded = encoder.text("Hi</s>")
    assert encoded.ids.tolist() == [BOS, 15359, 700, 28713, 28767, EOS]
    assert encoded.scored.tolist() == [False, True, True, True, True, True]
    assert set(encoded.roles.tolist()) == {TEMPLATE_TEXT}


def test_settings_that_the_tokenizer_cannot_follow_are_refused():
    tokenizer = chat_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(RecipeError, match=r"chat_template\.bos: the tokenizer has no bos token; leave it out"):
        DialogueEncoder(tokenizer, ChatTemplateSection(name="chatml", bos=True))
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match=r"chat_template\.extra_eos: the tokenizer has no eos token"):
        DialogueEncoder(tokenizer, ChatTemplateSection(name="chatml", extra_eos=True))


def test_every_layout_is_tried():
    assert {settings.name for settings in SETTINGS} == set(LAYOUTS)

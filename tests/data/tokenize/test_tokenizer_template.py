import json

import pytest
from hypothesis import given, settings
from pydantic import ValidationError
from tokenizers import AddedToken

from tests.data.dialogues import ANSWER, ORDINARY, answers, chat_tokenizer, plain_dicts, prompts
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.templates import LAYOUTS, jinja_of
from zephyr.errors import DataError, ModelError, RecipeError
from zephyr.models.tiny import TINY_CHAT_TEMPLATE, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import NO_INPUTS, Message, TemplateInputs

OWN = ChatTemplateSection(name="own")
DIALOGUE = (*ORDINARY, Message("assistant", ANSWER))

# In the manner of Mistral's instruct models: no text asks for the answer, and a space begins it.
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|im_start|> ' + message['content'] + ' <|im_end|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] | trim + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('no ' + message['role'] + ' here') }}{% endif %}{% endfor %}"
)
# In the manner of models that think: what was thought in earlier answers is taken out later.
FORGETFUL = TINY_CHAT_TEMPLATE.replace(
    "message['content']", "(message['content'] if loop.last else message['content'].split('</think>')[-1])"
)


def with_template(template: object) -> DialogueEncoder:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    return DialogueEncoder(tokenizer, OWN)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_known_layout_read_from_its_jinja_gives_the_same_ids(name):
    known = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name=name, bos=False))
    own = with_template(known.chat_template)
    assert own.stop_ids == known.stop_ids

    @settings(max_examples=30)
    @given(prompts(), answers())
    def check(messages, answer):
        assert own.prompt(messages).tolist() == known.prompt(messages).tolist()
        assert own.completion(answer.content).tolist() == known.completion(answer.content).tolist()
        found, expected = (each.dialogue((*messages, answer), loss_on="assistant") for each in (own, known))
        assert [column.tolist() for column in found] == [column.tolist() for column in expected]

    check()


def test_an_answer_begins_where_generation_does():
    encoder = with_template(INSTRUCT)
    messages = (Message("user", "Hi </s>"),)
    assert encoder.render(messages, generation=True) == "<s><|im_start|> Hi </s> <|im_end|>"
    encoded = encoder.dialogue((*messages, Message("assistant", "Yes ")), loss_on="assistant")
    assert encoded.ids[encoded.scored].tolist() == encoder.completion("Yes ").tolist()
    assert encoded.ids.tolist() == [*encoder.prompt(messages).tolist(), *encoder.completion("Yes ").tolist()]
    assert encoder.text_of(encoder.completion("Yes ")) == " Yes"
    assert encoder.section.bos


def test_it_renders_as_transformers_does():
    tokenizer = tiny_tokenizer()
    encoder = DialogueEncoder(tokenizer, OWN)
    expected = tokenizer.apply_chat_template(plain_dicts(ORDINARY), tokenize=False, add_generation_prompt=True)
    assert encoder.render(ORDINARY, generation=True) == expected
    assert with_template({"default": TINY_CHAT_TEMPLATE, "rag": "?"}).render(ORDINARY, generation=True) == expected


def test_an_empty_system_message_is_put_before_the_models_own_template_too():
    tokenizer = tiny_tokenizer()
    encoder = DialogueEncoder(tokenizer, ChatTemplateSection(name="own", empty_system=True))
    rendered = tokenizer.apply_chat_template(
        plain_dicts(ORDINARY[1:]), chat_template=encoder.chat_template, tokenize=False
    )
    assert encoder.render(ORDINARY[1:]) == rendered
    assert rendered.startswith("<|system|>\n</s>\n<|user|>")


def test_stop_tokens_that_are_not_marked_as_special_are_control_tokens_all_the_same():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=False) for text in LAYOUTS["chatml"].controls])
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="chatml", bos=False))
    encoder = DialogueEncoder(tokenizer, OWN)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoder.stop_ids == (stop, tokenizer.eos_token_id)
    assert encoder.completion("a<|im_end|>b").tolist().count(stop) == 1


def test_a_control_token_that_only_some_messages_have_is_one_token():
    # As Mistral's and Llama's templates do for tools and system messages.
    system = "{% if messages[0]['role'] == 'system' %}{{ '<|im_end|>' }}{% endif %}"
    encoder = with_template(system + TINY_CHAT_TEMPLATE)
    control = chat_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert encoder.prompt(ORDINARY)[0] == control
    assert encoder.prompt((Message("user", "<|im_end|>"),)).tolist().count(control) == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "is missing: its tokenizer has none; set chat_template.name to zephyr, chatml or llama3"),
        ("{% for %}", "is not a valid Jinja template"),
        (TINY_CHAT_TEMPLATE.replace("eos_token", "'.'"), "ends an answer without a control token"),
        (
            TINY_CHAT_TEMPLATE.replace("'<|assistant|>", "'<|model|>"),
            "begins an answer in another way than its generation prompt",
        ),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'a' * 9999 }}{% endfor %}{% endfor %}",
            "writes over",
        ),
        ("{{ messages.append(1) }}", "refuses these messages"),
    ],
)
def test_templates_that_cannot_be_trusted_are_refused(template, message):
    with pytest.raises((ModelError, DataError), match=message):
        with_template(template).dialogue(DIALOGUE, loss_on="assistant")


def test_a_template_that_rewrites_earlier_answers_is_trained_turn_by_turn():
    later = "('*' if message['role'] == 'assistant' and not loop.last else '') + message['content']"
    always = TINY_CHAT_TEMPLATE.replace("message['content']", later)
    encoder = with_template(always)
    first, second = encoder.dialogues(DIALOGUE, loss_on="assistant")
    assert (first.answers, second.answers) == ((1,), (2,))
    for turn, answer in ((first.encoded, "Bonjour!"), (second.encoded, ANSWER)):
        assert turn.ids[turn.scored].tolist() == encoder.completion(answer).tolist()
    assert second.encoded.ids.tolist()[: len(encoder.prompt(ORDINARY))] == encoder.prompt(ORDINARY).tolist()
    with pytest.raises(DataError, match="the dialogue: is trained in several sequences"):
        encoder.dialogue(DIALOGUE, loss_on="assistant")


def test_a_template_that_changes_a_text_is_refused():
    thought = (ORDINARY[1], Message("assistant", "<think>x</think>Hi"), *ORDINARY[1:2], Message("assistant", "Hi"))
    with pytest.raises(ModelError, match="depends on the content of messages, or changes it"):
        with_template(FORGETFUL).dialogue(thought, loss_on="assistant")


def test_a_template_that_refuses_a_message_says_why():
    with pytest.raises(DataError, match=r"own chat template: refuses these messages \(no system here\)"):
        with_template(INSTRUCT).prompt(ORDINARY)


def test_bos_is_the_templates_own_matter():
    with pytest.raises(RecipeError, match="begins without a bos token, got True; leave it out"):
        DialogueEncoder(tiny_tokenizer(), ChatTemplateSection(name="own", bos=True))


def test_control_tokens_that_swallow_white_space_are_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": AddedToken("<|end|>", special=True, rstrip=True)})
    with pytest.raises(ModelError, match=r"uses '<\|end\|>', which removes the white space"):
        DialogueEncoder(tokenizer, OWN)


# As Qwen3's and SmolLM3's templates do with enable_thinking: another system message, and a thought that is empty.
THINKING = """{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}
{{- bos_token + ('/think' if enable_thinking else '/no_think') + (custom_instructions or '') }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' + ('' if enable_thinking else '<think>\n\n</think>\n') + message.content + eos_token }}
    {%- else %}{{- '<|user|>' + message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' + ('' if enable_thinking else '<think>\n\n</think>\n') }}
{%- endif %}"""
ASKED = (Message("user", "a"), Message("assistant", "b"))


def thinking_tokenizer():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


def rendered(tokenizer, **variables):
    messages = [{"role": "user", "content": "a"}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)


@pytest.mark.parametrize(
    "variables", [{}, {"enable_thinking": True}, {"enable_thinking": False, "custom_instructions": "x"}]
)
def test_the_variables_of_a_row_render_as_transformers_renders_them(variables):
    tokenizer = thinking_tokenizer()
    encoder = DialogueEncoder(tokenizer, ChatTemplateSection(name="own"))
    inputs = TemplateInputs(variables=json.dumps(variables) if variables else "")
    prompt = rendered(tokenizer, **variables)
    assert tokenizer.decode(encoder.prompt(ASKED[:1], inputs).tolist()) == prompt
    ((_, encoded),) = encoder.dialogues(ASKED, inputs, loss_on="assistant")
    assert tokenizer.decode(encoded.ids.tolist()) == f"{prompt}b</s>"
    assert tokenizer.decode(encoded.ids[encoded.scored].tolist()) == "b</s>"
    assert tokenizer.decode(encoder.completion_of(ASKED[1], ASKED[:1], inputs).tolist()) == "b</s>"


def test_variables_of_the_recipe_hold_where_a_row_sets_none_and_stay_in_the_template():
    tokenizer = thinking_tokenizer()
    section = ChatTemplateSection(name="own", variables={"enable_thinking": False, "custom_instructions": 'é "x"\n'})
    encoder = DialogueEncoder(tokenizer, section)
    texts = [tokenizer.decode(encoder.prompt(ASKED[:1], one).tolist()) for one in (NO_INPUTS, ROW)]
    assert texts == [
        rendered(tokenizer, enable_thinking=False, custom_instructions='é "x"\n'),
        rendered(tokenizer, enable_thinking=True, custom_instructions='é "x"\n'),
    ]
    # What was trained is what a server shows that knows of no variables.
    tokenizer.chat_template = encoder.chat_template
    assert [rendered(tokenizer), rendered(tokenizer, enable_thinking=True)] == texts


ROW = TemplateInputs(variables='{"enable_thinking": true}')


def test_a_variable_that_the_template_does_not_use_is_refused():
    section = ChatTemplateSection(name="own", variables={"enable_thoughts": False})
    with pytest.raises(RecipeError) as error:
        DialogueEncoder(thinking_tokenizer(), section)
    assert str(error.value) == (
        "chat_template.variables: the model's own chat template does not use enable_thoughts; it uses "
        "custom_instructions, enable_thinking"
    )
    with pytest.raises(ValidationError, match="the layout zephyr has no variables; set name to own"):
        ChatTemplateSection(variables={"enable_thinking": False})
    with pytest.raises(DataError, match="the built-in chat template: has no variables"):
        DialogueEncoder(chat_tokenizer(), ChatTemplateSection()).prompt(ASKED[:1], ROW)

"""Chat templates of a file, of a tokenizer's folder, and of the hub's cache, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from tests.data.dialogues import ANSWER, ORDINARY, chat_tokenizer
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.templates import LAYOUTS, jinja_of
from zephyr.errors import ModelError, RecipeError
from zephyr.models.chat_templates import read_chat_template
from zephyr.models.tiny import tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection, FileTemplateSection, TemplateText
from zephyr.records.messages import Message

CHATML = jinja_of(ChatTemplateSection(name="chatml", bos=False))
NO_PROMPT = CHATML[: CHATML.index("{% if loop.last")] + "{% endfor %}"


def section(path: str, **options: object) -> FileTemplateSection:
    return FileTemplateSection(name="file", path=path, **options)


def read(path: str, folder: Path, *, offline: bool = True) -> TemplateText:
    return read_chat_template(section(path), data_dir=folder, offline=offline)


def encoder(text: TemplateText, tokenizer=None, **options: object) -> DialogueEncoder:
    return DialogueEncoder(tokenizer or chat_tokenizer(), section("x", **options), text)


def test_a_file_gives_the_ids_of_the_same_layout(tmp_path):
    (tmp_path / "my.jinja").write_text(CHATML)
    text = read("my.jinja", tmp_path)
    assert text == TemplateText(CHATML, "chat template my.jinja")
    mine, known = encoder(text), DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="chatml", bos=False))
    messages = (*ORDINARY, Message("assistant", ANSWER))
    found, expected = (each.dialogue(messages, loss_on="assistant") for each in (mine, known))
    assert [column.tolist() for column in found] == [column.tolist() for column in expected]
    assert mine.prompt(ORDINARY).tolist() == known.prompt(ORDINARY).tolist()
    assert mine.stop_ids == known.stop_ids
    assert mine.chat_template == CHATML


def test_the_options_of_a_template_apply_to_a_file_too(tmp_path):
    (tmp_path / "my.jinja").write_text(CHATML)
    text = read("my.jinja", tmp_path)
    assert encoder(text, empty_system=True).render(ORDINARY[1:]).startswith("<|im_start|>system\n<|im_end|>\n")
    one, two = (encoder(text, extra_eos=extra).completion("Hi") for extra in (False, True))
    # With extra_eos, the line break after the stop token and one more end-of-sequence token.
    assert two.tolist()[: len(one)] == one.tolist()
    assert two[-1] == chat_tokenizer().eos_token_id
    with pytest.raises(RecipeError, match=r"chat template my\.jinja begins without a bos token, got True"):
        encoder(text, bos=True)


def test_a_folder_gives_its_tokenizers_template_and_tokens(tmp_path):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    text = read("tokenizer", tmp_path)
    assert (text.text, text.where) == (CHATML, "chat template tokenizer")
    assert set(LAYOUTS["chatml"].controls) <= set(text.controls)
    assert encoder(text).stop_ids[0] == chat_tokenizer().convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("value", [CHATML, [{"name": "rag", "template": "?"}, {"name": "default", "template": CHATML}]])
def test_settings_of_older_tokenizers_hold_the_template_themselves(tmp_path, value):
    tokens = {"7": {"content": "<|im_start|>", "special": True}, "8": {"content": "  "}, "9": {"content": "word"}}
    settings = {"chat_template": value, "added_tokens_decoder": tokens}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read(".", tmp_path) == TemplateText(CHATML, "chat template .", ("<|im_start|>",))


def test_a_hub_id_is_looked_up_in_the_cache_while_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    snapshot = tmp_path / "models--org--chat" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    (tmp_path / "models--org--chat" / "refs").mkdir()
    (tmp_path / "models--org--chat" / "refs" / "main").write_text(commit)
    assert read("org/chat", tmp_path) == TemplateText(CHATML, "chat template org/chat")
    with pytest.raises(RecipeError) as caught:
        read("org/other", tmp_path)
    assert str(caught.value) == (
        "chat_template.path: org/other is no local file or folder, and no chat template of it is in the local cache of "
        "the hub; name the tokenizer of an instruct model, or a Jinja file"
    )


def test_tokens_that_only_the_other_tokenizer_has_are_named(tmp_path):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ModelError) as caught:
        encoder(read("tokenizer", tmp_path), tiny_tokenizer())
    assert str(caught.value) == (
        "chat template tokenizer: writes '<|im_end|>', '<|im_start|>', which the tokenizer of this model does not "
        "have; add these tokens to it as special tokens, or choose another chat template"
    )
    # Of a file nothing says which of its words are tokens, but an answer must end with one.
    (tmp_path / "my.jinja").write_text(CHATML)
    with pytest.raises(ModelError) as caught:
        encoder(read("my.jinja", tmp_path), tiny_tokenizer())
    assert str(caught.value) == (
        "chat template my.jinja: ends an answer without a control token of the tokenizer, so a model would not learn "
        "to stop; set chat_template.name to zephyr, chatml or llama3, or end answers with {{ eos_token }}"
    )


def test_a_template_without_a_generation_prompt_is_refused_and_the_remedy_works(tmp_path):
    (tmp_path / "my.jinja").write_text(NO_PROMPT)
    with pytest.raises(ModelError) as caught:
        encoder(read("my.jinja", tmp_path))
    assert str(caught.value) == (
        "chat template my.jinja: has no generation prompt, so an answer would begin with its header "
        "'<|im_start|>assistant\\n'; store it in a file that ends with {% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}, and set chat_template to {name: file, path: FILE}"
    )
    ending = str(caught.value).partition("ends with ")[2].partition(", and set")[0]
    (tmp_path / "my.jinja").write_text(NO_PROMPT + ending)
    known = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="chatml", bos=False))
    assert encoder(read("my.jinja", tmp_path)).prompt(ORDINARY).tolist() == known.prompt(ORDINARY).tolist()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("no.jinja", None, "chat_template.path: there is no such file or folder, got"),
        ("folder/no.jinja", None, "chat_template.path: there is no such file or folder, got"),
        ("empty", {}, "chat_template.path: empty holds no chat template (chat_template.jinja, or chat_template in"),
        ("broken", {"tokenizer_config.json": b"{"}, "is not JSON"),
        ("bytes", {"chat_template.jinja": b"\xff\xfe"}, "cannot be read ('utf-8' codec can't decode byte"),
    ],
)
def test_what_is_no_template_is_said(tmp_path, path, content, message):
    if content is not None:
        (tmp_path / path).mkdir()
        for name, written in content.items():
            (tmp_path / path / name).write_bytes(written)
    with pytest.raises(RecipeError) as caught:
        read(path, tmp_path)
    assert message in str(caught.value)

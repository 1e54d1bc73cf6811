"""What stages start from: windows that fit a model's positions, and chat templates of one's own."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from zephyr.check import check_lines
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import ModelError, RecipeError
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.pipeline import run_recipe, stage_keys
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.schema import Recipe
from zephyr.records.messages import Message
from zephyr.stages.stage import Work
from zephyr.stages.start import stage_teacher
from zephyr.stages.training import read_ahead
from zephyr.stages.training_setup import check_setup
from zephyr.teachers.protocol import ChatRequest

TRAIN = {"learning_rate": 1.0e-3, "train_batch_size": 2, "precision": "float32", "max_steps": 1}
# Headers of its own; an answer ends with the token of the tokenizer.
MINE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder


def recipe(base: Path, folder: Path, template: dict, **stages: object) -> Recipe:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps({'messages': turns})}\n" for _ in range(4)))
    sft = {"data": {"sources": [{"path": "d.jsonl"}], "max_length": 64}, "train": TRAIN}
    fields = {"name": "t", "offline": True, "output_dir": folder / "runs", "data_dir": folder, "sft": sft}
    model = {"kind": "pretrained", "name_or_path": str(base)}
    return Recipe.model_validate(fields | {"model": model, "chat_template": template} | stages)


def test_a_window_larger_than_the_models_positions_is_refused(tmp_path):
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", vocab_size=384)
    model.config.max_position_embeddings = 48
    save_model(model, tokenizer, tmp_path / "short")
    made = recipe(tmp_path / "short", tmp_path, {"name": "own"})
    expected = (
        f"sft.data.max_length: must be at most the 48 positions of {tmp_path / 'short'}, got 64; shorten it, or choose "
        "a model with more positions"
    )
    with pytest.raises(RecipeError) as by_check:
        list(check_lines(made))
    with pytest.raises(RecipeError) as by_run:
        read_ahead(Work(made, "sft", tmp_path / "work", {}, tmp_path))
    assert str(by_check.value) == str(by_run.value) == expected


def test_a_template_of_ones_own_is_trained_stored_and_served(base, tmp_path):
    (tmp_path / "my.jinja").write_text(MINE)
    made = recipe(base, tmp_path, {"name": "file", "path": "my.jinja"})
    assert "error" not in "\n".join(check_lines(made))
    summary = run_recipe(made, until=None, only=None, pinned=None, console=Console(file=StringIO()))
    model = made.output_dir / "t" / summary["folders"]["sft"] / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.chat_template == MINE
    asked = (Message("user", "Hi"),)
    served = DialogueEncoder(tokenizer, ChatTemplateSection(name="own"))
    assert served.render(asked, generation=True) == "<user>Hi</s><assistant>"
    # The next stages of the run answer in it too.
    work = Work(made, "sft", tmp_path / "work", {"sft": model.parent}, tmp_path)
    [reply] = stage_teacher(work, "sft").answer([ChatRequest(key="a", messages=asked, max_tokens=2)])
    assert reply.prompt_tokens == len(served.prompt(asked))


def test_a_template_counts_by_its_text_and_not_by_its_path(base, tmp_path):
    def folder_of(path: str) -> str:
        return stage_keys(recipe(base, tmp_path, {"name": "file", "path": path}))["sft"].folder_name

    (tmp_path / "one.jinja").write_text(MINE)
    (tmp_path / "two.jinja").write_text(MINE)
    assert folder_of("one.jinja") == folder_of("two.jinja")
    before = folder_of("one.jinja")
    (tmp_path / "one.jinja").write_text(MINE.replace("'<'", "'< '"))
    assert folder_of("one.jinja") != before
    with pytest.raises(RecipeError, match=r"^chat_template\.path: there is no such file or folder, got .*no\.jinja"):
        folder_of("no.jinja")
    # The folder of a model is a template as well: that of its tokenizer.
    [by_folder, by_own] = (
        recipe(base, tmp_path, {"name": "file", "path": str(base)}),
        recipe(base, tmp_path, {"name": "own"}),
    )
    assert stage_keys(by_folder)["sft"].folder_name != stage_keys(by_own)["sft"].folder_name
    assert "error" not in "\n".join(check_lines(by_folder))


def test_a_models_name_is_no_layout_and_the_remedy_names_the_ways():
    from zephyr.recipe.validating import validate

    fields = {"name": "t", "model": {"kind": "pretrained", "name_or_path": "x"}, "chat_template": {"name": "gemma"}}
    [problem] = [one for one in validate(fields) if one.keys == ("chat_template", "name")]
    assert problem.what == "there is no such choice, got 'gemma'"
    assert problem.remedy == (
        "known are chatml, file, llama3, own, zephyr; for the template of a model write own, if its tokenizer carries "
        "it, or {name: file, path: MODEL or FILE.jinja}"
    )


def test_adapters_on_untrained_control_tokens_are_refused_unless_a_stage_before_trains_them(tmp_path):
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", vocab_size=384)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0
    save_model(model, tokenizer, tmp_path / "base")
    lora, pairs = {"r": 2}, {"data": {"sources": [{"path": "p.jsonl"}], "max_length": 48}}
    align = {**pairs, "objective": {"name": "dpo", "beta": 0.1}, "train": TRAIN, "lora": lora}
    by_align = recipe(tmp_path / "base", tmp_path, {"name": "zephyr"}, align=align)
    check_setup(by_align, "align")
    both = by_align.model_copy(update={"sft": by_align.sft.model_copy(update={"lora": by_align.align.lora})})
    for stage in ("sft", "align"):
        with pytest.raises(ModelError, match=r"the rows of '</s>' in model\.embed_tokens are untrained"):
            check_setup(both, stage)


def test_a_balance_of_experts_that_a_model_has_not_is_refused(base, tmp_path):
    dense = recipe(base, tmp_path, {"name": "zephyr"})
    train = dense.sft.train.model_copy(update={"router_aux_loss_coef": 0.01})
    balanced = dense.model_copy(update={"sft": dense.sft.model_copy(update={"train": train})})
    check_setup(dense, "sft")
    expected = r"sft\.train\.router_aux_loss_coef: MistralForCausalLM chooses no experts, .*; leave it out"
    with pytest.raises(RecipeError, match=expected):
        check_setup(balanced, "sft")


def with_share(made: Recipe, **train: object) -> Recipe:
    """The recipe with a hundredth of the prompts held out, of which there is one."""
    data = made.sft.data.model_copy(update={"eval_share": 0.01})
    settings = made.sft.train.model_copy(update=train)
    return made.model_copy(update={"sft": made.sft.model_copy(update={"data": data, "train": settings})})


def test_a_share_that_holds_nothing_out_is_told_and_refused_where_it_is_needed(base, tmp_path, caplog):
    made = with_share(recipe(base, tmp_path, {"name": "zephyr"}))
    expected = "no prompt is among the 0.01 that are drawn by chance, so nothing is evaluated; give more rows"
    assert any(f"warning: data.eval_share: {expected}" in line for line in check_lines(made))
    read_ahead(Work(made, "sft", tmp_path / "work", {}, tmp_path))
    assert f"sft: data.eval_share: {expected}" in caplog.text
    watched = with_share(made, eval_steps=1)
    with pytest.raises(RecipeError, match=r"data\.eval_share: no prompt is among the 0\.01 .* leave eval_steps"):
        list(check_lines(watched))
    with pytest.raises(RecipeError, match=r"data\.eval_share: no prompt is among"):
        read_ahead(Work(watched, "sft", tmp_path / "other", {}, tmp_path))


def test_a_model_whose_own_template_is_replaced_is_told(tmp_path, caplog):
    words = "chat_template zephyr replaces the one that the model comes with"
    zephyrs_in_other_words = "{{ '<|' + messages[0]['role'] + '|>' }}{{ '<|assistant|>' }}"
    for number, (name, own, is_told) in enumerate(
        [("own", MINE, False), ("zephyr", MINE, True), ("zephyr", zephyrs_in_other_words, False)]
    ):
        tokenizer, model = tiny_tokenizer(), tiny_model("llama", vocab_size=384)
        tokenizer.chat_template = own
        save_model(model, tokenizer, tmp_path / f"chat-{number}")
        made = recipe(tmp_path / f"chat-{number}", tmp_path, {"name": name})
        caplog.clear()
        assert any(words in line for line in check_lines(made)) == is_told
        read_ahead(Work(made, "sft", tmp_path / f"work-{number}", {}, tmp_path))
        assert caplog.text.count(words) == is_told

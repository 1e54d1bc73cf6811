"""What people write who come from other trainers is answered with what to write here."""

import pytest
import typer

from tests.command import zephyr
from zephyr.cli.habits import _OWN, COMMAND_HABITS, EQUIVALENTS, OPTION_HABITS, RECIPE_COMMANDS, _advice
from zephyr.cli.main import COMMANDS, command_line
from zephyr.errors import RecipeError
from zephyr.recipe.loading import read_recipe


def options_of(command):
    """The names of a command's options, as settings are written."""
    (found,) = typer.main.get_group(command_line(command)).commands.values()
    inner = getattr(found, "commands", {}).values()
    params = [one for part in (found, *inner) for one in part.params]
    written = [name for one in params for name in (*one.opts, *one.secondary_opts)]
    return [name.removeprefix("--").replace("-", "_") for name in written if name.startswith("--")]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sft.train.gradient_accumulation_steps=4", "write train_batch_size: the examples of a step over all devices"),
        ("sft.train.per_device_train_batch_size=4", "write train_batch_size"),
        ("sft.train.fp16=true", "write precision: bf16, pure_bf16 or float32"),
        ("sft.train.gradient_checkpointing=true", "write activation_checkpointing"),
        ("sft.lora_r=8", "write lora: {r: ..., lora_alpha: ...} in the stage"),
        ("sft.data.max_seq_length=8", "write data.max_length, in tokens"),
        ("sft.train.push_to_hub=true", "leave it out: deliver.push_to_hub: {repo: OWNER/NAME} publishes a run"),
        ("align.train.beta=1", "objective.beta"),
        ("sft.train.lr=1", "write learning_rate"),
    ],
)
def test_keys_of_other_trainers(override, said):
    with pytest.raises(RecipeError) as caught:
        read_recipe("quickstart", [override])
    assert said in str(caught.value)


def test_settings_as_options(capfd):
    said = zephyr(capfd, "run", "quickstart", "--sft.train.learning_rate", "1e-4")
    assert said.code == 2
    assert "write sft.train.learning_rate=1e-4" in said.err
    said = zephyr(capfd, "check", "quickstart", "--per_device_train_batch_size=4")
    assert "settings of a recipe are no options; write train_batch_size" in said.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--learning_rate 1e-4", "write sft.train.learning_rate=1e-4, or that of another stage"),
        ("--learning-rate=1e-4", "write sft.train.learning_rate=1e-4, or that of another stage"),
        ("--beta 0.1", "write align.objective.beta=0.1"),
        ("--loss_type ipo", "write align.objective.loss_type=ipo"),
        ("--max_steps 3", "write sft.train.max_steps=3"),
        ("--save_total_limit 2", "write sft.train.save_total_limit=2"),
        ("--report_to wandb", "write sft.train.report_to=wandb"),
        ("--num_train_epochs 3", "write sft.train.num_train_epochs=3"),
        ("--warmup_ratio", "write sft.train.warmup_ratio=VALUE"),
        ("--seed 3", "write seed=3"),
        ("--output_dir out", "write output_dir=out"),
        ("--run_name mine", "write name=mine"),
        ("--bf16 true", "write precision: bf16, pure_bf16 or float32"),
        ("--load_in_4bit", "write lora: {load_in_4bit: true}"),
        ("--lora_r 8", "write lora: {r: ..., lora_alpha: ...} in the stage"),
        ("--use_peft", "write lora: {r: ..., lora_alpha: ...} in the stage"),
        ("--model_name_or_path m", "write model: {name_or_path: ...}"),
        ("--model m", "write model.name_or_path=MODEL"),
        ("--dataset_name d", "write data: {sources: [{path: ...}]}"),
        ("--max_seq_length 512", "write data.max_length, in tokens"),
        ("--packing", "leave it out: sequences are laid out as prefix trees"),
        ("--deepspeed zero3.json", "leave it out: chosen for the device at hand"),
        ("--resume_from_checkpoint", "leave it out: finished stages are kept and found again"),
        ("--push_to_hub", "deliver.push_to_hub: {repo: OWNER/NAME} publishes a run"),
        ("--config recipe.yaml", "the recipe is a plain argument: zephyr run RECIPE.yaml"),
        ("--num_processes 8", "torchrun --nproc-per-node N -m zephyr run RECIPE.yaml"),
        ("--gpus 2", "torchrun --nproc-per-node N -m zephyr run RECIPE.yaml"),
        ("--device cuda", "CUDA_VISIBLE_DEVICES chooses one"),
        ("--verbose", "--traceback shows where an error is raised"),
    ],
)
def test_options_of_other_trainers(option, said, capfd):
    ended = zephyr(capfd, "run", "quickstart", *option.split())
    assert ended.code == 2
    assert ended.err.startswith(f"error: {option.partition(' ')[0]}: ")
    assert said in ended.err


@pytest.mark.parametrize(
    ("words", "option", "said"),
    [
        ("judge f", "--num-completions 3", "write --num-answers"),
        ("judge f", "--num_answers=3", "write --num-answers"),
        ("judge f", "--llm x", "write --judge"),
        ("judge f", "--base-url x", "the address is a part of the name: endpoint:MODEL@URL"),
        ("synth", "--num-instructions 5", "write --count"),
        ("eval", "--model hf", "it is a plain argument: zephyr eval MODEL"),
        ("eval m", "--num_fewshot 3", "write --shots"),
        ("eval m", "--apply_chat_template", "write --chat-template"),
        ("eval m", "--output_path x", "write --out"),
        ("eval m", "--batch_size 8", "write --max-tokens"),
        ("alpaca-eval m", "--annotators_config x", "write --judge"),
        ("alpaca-eval m", "--max_instances 3", "write --limit"),
        ("mt-bench m", "--parallel 8", "write --concurrency"),
        ("chat m", "--max-tokens 3", "write --max-new-tokens"),
        ("serve m", "--api-key x", "write --token-env"),
        ("serve m", "--tensor-parallel-size 2", "vllm serve MODEL, run by itself"),
        ("export m", "--outtype q8_0", "write --gguf"),
        ("push r a/b", "--repo-type model", "it follows from what is pushed"),
        ("annotate", "--dataset x", "it is a plain argument: zephyr annotate FILE"),
        ("card audit x", "--batch_size 8", "write --batch-size"),
    ],
)
def test_options_of_other_tools(words, option, said, capfd):
    ended = zephyr(capfd, *words.split(), *option.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(
        f"error: {option.partition(' ')[0].partition('=')[0]}: zephyr {words.split()[0]} has no"
    )
    assert said in ended.err


def test_equivalents_are_options_that_a_command_has():
    written = {name.replace("_", "-") for one in COMMANDS for name in options_of(one)}
    named = {ours for found in EQUIVALENTS.values() for ours in found if " " not in ours and ours[0] != "<"}
    assert len(named) > 20
    assert not named - written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train recipe.yaml", "write zephyr run RECIPE.yaml (zephyr recipes list shows recipes to start from)"),
        ("sft --help", "zephyr.sft in Python"),
        ("dpo", "zephyr.dpo in Python"),
        ("reward-model", "zephyr.reward_model in Python"),
        ("grpo", "with rounds: zephyr recipes copy smollm2-135m-checked"),
        ("preprocess recipe.yaml", "write zephyr check RECIPE.yaml"),
        ("evaluate model", "write zephyr eval MODEL --tasks NAMES"),
        ("merge", "a run with LoRA writes the merged model beside its adapter"),
        ("upload runs/a", "write zephyr push PATH OWNER/NAME"),
        ("resume runs/a", "write zephyr run RECIPE.yaml again"),
        ("webui", "write zephyr ui MODEL"),
        ("version", "write zephyr --version"),
        ("help", "write zephyr --help, or zephyr COMMAND --help"),
    ],
)
def test_commands_of_other_tools(words, said, capfd):
    ended = zephyr(capfd, *words.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: zephyr {words.partition(' ')[0]}: there is no such command; ")
    assert said in ended.err


def test_habits_hide_no_command_and_no_option_of_ours():
    assert not COMMANDS.keys() & COMMAND_HABITS.keys()
    named = {(one, written) for one in RECIPE_COMMANDS for written in options_of(one)} - _OWN
    assert len(named) > 10
    assert not {name for _, name in named if name in OPTION_HABITS or _advice(name, "") is not None}


@pytest.mark.parametrize("words", ["-h", "run -h", "recipes -h", "judge -h", "judge audit -h", "card -h", "calls -h"])
def test_help_is_had_by_h_too(words, capfd):
    short, long = (zephyr(capfd, *f"{words[:-2]}{flag}".split()) for flag in ("-h", "--help"))
    assert short == long
    assert "Usage: zephyr" in short.out


def test_the_first_page_of_help_fits_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = zephyr(capfd, "--help").out
    assert len(page.splitlines()) < 60
    for name, place in COMMANDS.items():
        assert f" {name} " in page
        assert place.line in page

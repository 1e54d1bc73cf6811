import pytest
from pydantic import ValidationError

from tests.recipe.recipe_files import SMALL, write
from zephyr.errors import RecipeError
from zephyr.recipe.loading import load_recipe
from zephyr.recipe.schema import Recipe

NEW_MODEL = [
    "model={kind: new}",
    "pretrain={data: {sources: [{path: t.txt}], max_length: 512}, train: {learning_rate: 1.0e-3}}",
]
FITTING = [*NEW_MODEL, "sft.data.max_length=512", "align.data.max_length=512"]
FEEDBACK = ["feedback={prompts: [{path: p}]}", "align.data.sources=[]"]
HELD_OUT = "sft.data.eval_share=0.1"


def load(tmp_path, *overrides):
    return load_recipe(write(tmp_path), overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sft=null", "align=null", "evaluate=null"], "recipe: has no stage; write at least one of"),
        (
            ["sft.data.sources=[]"],
            "sft.data.sources: is empty, and no earlier stage makes rows; name sources, or add a synth",
        ),
        (["align.data.sources=[]"], "align.data.sources: is empty, and no earlier stage makes rows"),
        (
            ["align.data.with_made_rows=true"],
            "align.data.with_made_rows: asks for the rows of an earlier stage, and no earlier stage makes",
        ),
        (
            ["feedback={with_made_prompts: true, recorded: [{path: r}]}"],
            "feedback.with_made_prompts: asks for the prompts of a synth stage, and there is none; leave it out",
        ),
        (["feedback={}"], "feedback.prompts: is empty, and no other setting provides prompts; give recorded, prompts"),
        (["model={kind: new}", "sft.data.max_length=512", "align.data.max_length=512"], "pretrain: is missing"),
        (
            [*NEW_MODEL, "align.data.max_length=512"],
            "sft.data.max_length: must be at most the model's 512 positions, got 1024",
        ),
        (
            [*FITTING, "sft.lora={load_in_4bit: true}"],
            "sft.lora.load_in_4bit: is for models from the hub; set it to false",
        ),
        (
            ["align.train.warmup_ratio=0.3", "align.train.max_steps=1"],
            "align.train.warmup_ratio: the warm-up takes 1 of 1 steps, so the learning rate never reaches",
        ),
        (
            ["sft.train.eval_steps=5"],
            "sft.train.eval_steps: needs held-out rows, got 5; give sft.data.eval_sources or eval_share",
        ),
        (
            ["align.train.metric_for_best_model=eval_loss"],
            "align.train.metric_for_best_model: needs held-out",
        ),
        (
            ["sft.train.metric_for_best_model=eval_loss", HELD_OUT],
            "sft.train.metric_for_best_model: needs more than the evaluation at the end; give sft.train.eval_steps",
        ),
        (
            [HELD_OUT, "sft.data.eval_sources=[{path: e}]"],
            "sft.data.eval_share: is not used with eval_sources, got 0.1",
        ),
        (
            ["sft.data.eval_sources=[{path: e}, {path: chats.jsonl}]"],
            "sft.data.eval_sources.1: is also trained on, got chats.jsonl train",
        ),
        (
            ["sft.data.max_prompt_length=1024"],
            "sft.data.max_prompt_length: must leave room for an answer within max_length 1024",
        ),
        (
            ["sft.data.max_prompt_length=9"],
            "sft.data.max_prompt_length: limits the prompts of pairs alone, got 9; leave it out",
        ),
        (["align.data.truncation.rule=trl_0.7"], "align.data.truncation.rule: trl_0.7 needs max_prompt_length"),
        (
            ["sft.data.truncation.rule=trl_0.7"],
            "sft.data.truncation.rule: trl_0.7 needs pairs of answers",
        ),
        (
            ["sft.train.lr_scheduler_type=constant", "sft.train.warmup_steps=2"],
            "sft.train.lr_scheduler_type: constant has no warm-up",
        ),
        (
            ["sft.train.lr_scheduler_type=reduce_lr_on_plateau"],
            "sft.train.lr_scheduler_type: reduce_lr_on_plateau needs evaluations; give held-out rows",
        ),
        (
            ["sft.train.activation_checkpointing=1"],
            "sft.train.activation_checkpointing: must be true, false, selective or a number from 2, got 1; write true",
        ),
        (
            ["sft.train.activation_checkpointing=-2"],
            "sft.train.activation_checkpointing: must be true, false, selective or a number from 2, got -2; write",
        ),
        (
            ["sft.train.optim=lion", "sft.train.precision=pure_bf16"],
            "sft.train.optim: lion loses small updates of bfloat16 weights; choose adamw_torch or adamw_8bit",
        ),
        (
            ["sft.train.optim=schedule_free_adamw", "sft.train.lr_scheduler_type=cosine"],
            "sft.train.lr_scheduler_type: schedule_free_adamw takes the place of a schedule, got cosine",
        ),
        (
            ["sft.train.optim=schedule_free_sgd", "sft.train.adam_beta1=0", "sft.train.lr_scheduler_type=constant"],
            "sft.train.adam_beta1: must be above 0 for schedule_free_sgd",
        ),
        (
            ["sft.train.metric_for_best_model=eval_accuracy", "sft.train.eval_steps=5", HELD_OUT],
            "train.metric_for_best_model: no evaluation gives 'eval_accuracy'; name one of eval_loss, eval_nll_loss",
        ),
        (
            ["align.train.metric_for_best_model=nll_loss", "align.train.eval_steps=5", "align.data.eval_share=0.1"],
            "align.train.metric_for_best_model: no evaluation gives 'nll_loss'; name one of eval_loss, eval_rewards/",
        ),
        (
            ["sft.train.early_stopping_patience=3", HELD_OUT],
            "sft.train.early_stopping_patience: needs a metric to watch, got 3; give sft.train.metric_for_best_model",
        ),
        (
            ["align.lora.lora_dropout=0.1", "align.train.compile=true"],
            "align.lora.lora_dropout: cannot be had with compile",
        ),
        (
            ["align.objective.label_smoothing=0.1"],
            "align.objective.label_smoothing: does not belong to loss_type ipo, got 0.1; leave it",
        ),
        (
            ["align.objective.loss_type=exo_pair", "align.objective.label_smoothing=0"],
            "align.objective.label_smoothing: must be above 0",
        ),
        (
            ["align.objective.f_alpha=0.1"],
            "align.objective.f_alpha: goes with f_divergence alpha_divergence alone, got 0.1 and None",
        ),
        (
            [*FEEDBACK, "align.objective={name: kto}"],
            "feedback.binarize.output: must be kto for objective kto, got pairs; write",
        ),
        (
            [*FEEDBACK, "align.objective={name: listwise}"],
            "feedback.binarize.output: must be listwise for objective listwise, got pairs",
        ),
        (
            [*FEEDBACK, "feedback.binarize.output=kto"],
            "feedback.binarize.output: must be pairs for objective dpo, got kto",
        ),
        (
            [*FEEDBACK, "feedback.binarize.output=listwise", "align.objective={name: listwise, num_completions: 3}"],
            "align.objective.num_completions: must be at least the 4 answers of feedback.candidates, got 3; write 4",
        ),
        (
            [*FEEDBACK, "sft=null"],
            "feedback.candidates.models.0: no stage before feedback of that name makes a model, got stage:sft",
        ),
        (
            ["align.start=stage:sfft"],
            "align.start: no stage before align of that name makes a model, got stage:sfft; known are sft",
        ),
        (
            ["evaluate.tasks=[{name: preference}]"],
            "evaluate.tasks.0.sources: is empty, and align holds out no rows; name sources",
        ),
        (
            ["evaluate.tasks=[{name: world}, {name: perplexity}]"],
            "evaluate.tasks.1.sources: is empty, and sft holds out no rows",
        ),
    ],
)
def test_settings_at_odds_are_refused(tmp_path, overrides, expected):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, *overrides)
    # One mistake gives one problem.
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        FITTING,
        [*FEEDBACK, "feedback.binarize.output=kto", "align.objective={name: kto}"],
        [*FEEDBACK, "feedback.binarize.output=listwise", "align.objective={name: listwise, num_completions: 5}"],
        [HELD_OUT, "sft.train.eval_steps=5", "evaluate.tasks=[{name: perplexity}]"],
        ["evaluate.tasks=[{name: preference, sources: [{path: e}]}]"],
        ["align.start=stage:sft"],
        ["align.start=a/folder"],
        ["align.objective.loss_type=sigmoid", "align.objective.label_smoothing=0.1"],
        ["align.data.truncation.rule=trl_0.7", "align.data.max_prompt_length=512"],
    ],
)
def test_settings_that_go_together_are_taken(tmp_path, overrides):
    assert load(tmp_path, *overrides).name == "small"


@pytest.mark.parametrize(
    ("train", "held_out", "shared"),
    [
        ("train", "train", True),
        ("train", "test", False),
        ("train[:90%]", "train", True),
        ("train[:90%]", "train[90%:]", False),
        ("train[:90%]", "train[89%:]", True),
        ("train[:-10%]", "train[-10%:]", False),
        ("train[:-10%]", "train[-11%:]", True),
        ("train[:100]", "train[100:200]", False),
        ("train[:101]", "train[100:200]", True),
        ("train[:-5]", "train[-5:]", False),
        ("train[:50%]", "train[100:]", False),  # cannot be told without the rows
    ],
)
def test_rows_that_are_trained_on_cannot_be_held_out(tmp_path, train, held_out, shared):
    words = [
        f"sft.data.sources.0.split='{train}'",
        f"sft.data.eval_sources=[{{path: chats.jsonl, split: '{held_out}'}}]",
    ]
    if not shared:
        assert load(tmp_path, *words).sft.data.eval_sources[0].split == held_out
        return
    with pytest.raises(RecipeError, match="is also trained on"):
        load(tmp_path, *words)


def test_different_parts_of_one_data_set_are_no_overlap(tmp_path):
    for part in ("config: b", "revision: c", "where: {split: test}"):
        load(tmp_path, f"sft.data.eval_sources=[{{path: chats.jsonl, {part}}}]")


def test_conflicts_are_told_beside_other_problems_unless_these_explain_them(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "sft.train.eval_steps=5", "align.objective.beta=0", "sft.data.sources=3")
    printed = str(caught.value)
    assert "3 problems" in printed
    assert "sft.train.eval_steps" in printed
    assert "sft.data.sources: must be a valid list" in printed
    assert "is empty" not in printed


def test_python_callers_are_told_all_conflicts_too():
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"name": "x", "model": {"kind": "new"}, "sft": {"train": {"learning_rate": 1}}})
    told = str(caught.value)
    assert all(key in told for key in ("sft.data.sources: is empty", "pretrain: is missing", "sft.data.max_length"))


def test_packed_batches_count_dialogues_by_their_tokens():
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"kind": "pretrained", "name_or_path": "m"},
            "sft": {
                "batch_counts": "packed",
                "data": {"sources": [{"path": "p"}], "max_length": 2048},
                "train": {"learning_rate": 1e-5, "train_batch_size": 128},
            },
        }
    )
    assert recipe.sft.dialogues_per_step(2048) == 128
    assert recipe.sft.dialogues_per_step(1370) == 191
    assert recipe.sft.dialogues_per_step(1e9) == 1


def test_alignment_may_lay_dialogues_out_in_another_way(tmp_path):
    recipe = load(tmp_path, "align.chat_template={name: chatml}")
    assert [recipe.template_of(stage).name for stage in ("sft", "align", "evaluate")] == ["zephyr", "chatml", "zephyr"]
    assert load_recipe(write(tmp_path, SMALL)).template_of("align").name == "zephyr"

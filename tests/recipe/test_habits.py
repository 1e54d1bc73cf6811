"""What people write who come from other trainers is answered with what to write here."""

import pytest

from tests.command import zephyr
from zephyr.errors import RecipeError
from zephyr.recipe.loading import read_recipe


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

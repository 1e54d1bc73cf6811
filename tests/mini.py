"""A recipe that goes through every stage in seconds, for the tests of the pipeline."""

from pathlib import Path

from zephyr.recipe.schema import Recipe

TRAIN = {"precision": "float32", "learning_rate": 2.0e-3, "train_batch_size": 16, "logging_steps": 5, "save_steps": 4}


def mini_fields(output_dir: Path) -> dict:
    """The recipe as fields, to be changed by a test."""
    data = {"max_length": 160}
    return {
        "name": "mini",
        "output_dir": str(output_dir),
        "offline": True,
        "model": {
            "kind": "new",
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
        },
        "synth": {
            "generator": {"name": "world", "num_dialogues": 240, "num_pretrain_texts": 60, "num_feedback_prompts": 24}
        },
        "pretrain": {"data": data, "train": TRAIN | {"max_steps": 6}},
        "sft": {"data": data | {"eval_share": 0.1}, "train": TRAIN},
        "feedback": {"candidates": {"num_completions": 3, "sampling": {"max_new_tokens": 12}}},
        "align": {"data": data, "objective": {"name": "dpo"}, "train": TRAIN | {"learning_rate": 1.0e-3}},
        "evaluate": {
            "tasks": [{"name": "world", "num_prompts": 12, "sampling": {"max_new_tokens": 12}}, {"name": "perplexity"}]
        },
        "deliver": {},
    }


def mini_recipe(output_dir: Path, **changes: object) -> Recipe:
    """The recipe, with some of its fields changed."""
    return Recipe.model_validate(mini_fields(output_dir) | changes)

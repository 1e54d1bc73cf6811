"""First steps of training on real weights; torchrun starts this file on every rank, so it holds no tests.

`python -m tests.train.real_runs MODEL FOLDER OBJECTIVE PRECISION [lora]`
"""

import sys
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.models.adapters import add_lora
from zephyr.models.loading import load
from zephyr.models.source import Source
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.train.distributed import pick_device, process_group
from zephyr.train.job import TrainJob
from zephyr.train.train import train

# A prompt, a good answer, a worse one.
ROWS = [
    ("Name three colours.", "Red, green and blue.", "Colours are nice, there are very many of them."),
    ("What is 2 + 2?", "2 + 2 = 4.", "It is 5, as everybody knows."),
    ("Write a haiku about rain.", "Soft rain on the roof\nthe cat sleeps by the window\nno one needs to go", "Rain."),
    ("Translate 'good morning' into French.", "Bonjour.", "Guten Morgen, or perhaps bonsoir."),
    ("Why is the sky blue?", "Air scatters blue light more than red light.", "Because the sea is blue, too."),
    ("Give a synonym of 'quick'.", "Fast.", "Quick means the same as quick."),
    ("Who wrote Hamlet?", "William Shakespeare.", "Hamlet was a prince of Denmark."),
    ("Is a whale a fish?", "No, it is a mammal: it breathes air and suckles its young.", "Yes."),
]


def rows_as(objective: str, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """The rows, as dialogues for SFT and pairs for the rest."""
    found: list[Example] = []
    for number, (question, *answers) in enumerate(ROWS):
        asked = [{"role": "user", "content": question}]
        prompt = np.array(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
        texts = [f"{answer}{tokenizer.eos_token}" for answer in answers]
        good, bad = (np.array(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        name, ids = f"row {number}", np.concatenate([prompt, good])
        dialogue = Dialogue(name, ids, np.arange(len(ids)) >= len(prompt))
        found.append(dialogue if objective == "sft" else Comparison(name, prompt, (good, bad), (1.0, 0.0)))
    return found


def run(model_folder: str, folder: Path, objective: str, precision: str, *, lora: bool) -> str:
    """Train two steps of four rows; what a run of them says in a line."""
    dtype = "bfloat16" if precision == "pure_bf16" else "float32"
    model, tokenizer = load(Source(model_folder), dtype=dtype)
    settings = TrainSection(
        learning_rate=1e-5, train_batch_size=4, max_tokens_per_micro_batch=160, precision=precision,
        num_train_epochs=1, logging_steps=1, save_seconds=None,
    )  # fmt: skip
    job = TrainJob(
        model=add_lora(model, LoraSection(r=4)) if lora else model,
        objective=make_objective(objective, {"beta": 0.1} if objective == "dpo" else {}),
        settings=settings,
        examples=rows_as(objective, tokenizer),
        folder=folder,
        stop_ids=(tokenizer.eos_token_id,),
    )
    with process_group(pick_device()):
        outcome = train(job)
    return (
        f"{objective} {precision}{' lora' if lora else ''}: step {outcome.step}, loss {outcome.train_metrics['loss']}"
    )


if __name__ == "__main__":
    print(run(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:5], lora="lora" in sys.argv))

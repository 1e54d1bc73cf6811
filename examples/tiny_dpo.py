"""SFT, then DPO, on a model small enough to train in seconds on a laptop, without any download.

The task is made up: name the colour of a thing. SFT teaches the answers, half of them rambling; DPO then teaches to
prefer the short one. Run it with `make demo`; a run folder is made in a temporary place and removed.
"""

import itertools
import logging
import tempfile
from pathlib import Path

import numpy as np

from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.models.generation import generate
from zephyr.models.sampling import Stopping
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.objective_section import DpoObjective, SftObjective
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import TrainSection
from zephyr.train.job import TrainJob
from zephyr.train.objectives import build_objective
from zephyr.train.train import TrainOutcome, train

COLOURS = {"snow": "white", "grass": "green", "coal": "black", "blood": "red", "the sun": "yellow", "the sea": "blue"}
ASKING = ("What colour is {}?", "Tell me the colour of {}.", "{}: which colour?", "Name the colour of {}, please.")

tokenizer = tiny_tokenizer()
stop = tokenizer.eos_token_id


def ids(text: str, *, ends: bool = False) -> np.ndarray:
    """Token ids of a text, with the stop token if it ends an answer."""
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"] + [stop] * ends, dtype=np.int64)


def pair(question: str, colour: str) -> Comparison:
    """The short answer is chosen, the rambling one rejected."""
    short, rambling = f"It is {colour}.", f"Well, as far as I know it is {colour}, I think, more or less."
    return Comparison(
        question, ids(f"Q: {question}\nA: "), (ids(short, ends=True), ids(rambling, ends=True)), (1.0, 0.0)
    )


def dialogue(example: Comparison, answer: np.ndarray) -> Dialogue:
    """The prompt with one of its answers, of which the answer is learned."""
    whole = np.concatenate([example.prompt, answer])
    return Dialogue(example.name, whole, np.arange(len(whole)) >= len(example.prompt))


def sample(prompt: np.ndarray) -> str:
    """What the model answers when it is asked."""
    sampling = SamplingSection(max_new_tokens=40, temperature=0.7, top_k=50, top_p=0.95)
    return tokenizer.decode(
        generate(model, [prompt], sampling, stop=Stopping((stop,)))[0].ids, skip_special_tokens=True
    )


def say(stage: str, outcome: TrainOutcome) -> None:
    """One line of numbers and three answers."""
    numbers = {name: round(value, 3) for name, value in outcome.eval_metrics.items() if "logi" not in name}
    print(f"\nafter {stage}: {numbers}")
    for question in held_out[:3]:
        print(f"  {question.name}  ->  {sample(question.prompt)}")


logging.basicConfig(level=logging.INFO, format="  %(message)s")
pairs = [pair(way.format(thing), colour) for way, (thing, colour) in itertools.product(ASKING, COLOURS.items())]
held_out, taught = pairs[::5], [one for number, one in enumerate(pairs) if number % 5]
model = tiny_model("mistral", vocab_size=len(tokenizer), hidden=64, layers=2)
with tempfile.TemporaryDirectory() as folder:
    settings = TrainSection(
        learning_rate=3.0e-3, num_train_epochs=40, train_batch_size=19, lr_scheduler_type="cosine", precision="float32",
        logging_steps=1,
    )  # fmt: skip
    dialogues = [dialogue(one, answer) for one in taught for answer in one.completions]
    held_out_dialogues = [dialogue(one, answer) for one in held_out for answer in one.completions]
    job = TrainJob(
        model, build_objective(SftObjective()), settings, dialogues, Path(folder) / "sft",
        eval_examples=held_out_dialogues, stop_ids=(stop,),
    )  # fmt: skip
    say("SFT", train(job))
    settings = TrainSection(
        learning_rate=3.0e-4, num_train_epochs=6, train_batch_size=8, precision="float32", logging_steps=5
    )
    job = TrainJob(
        model, build_objective(DpoObjective(beta=0.1)), settings, taught, Path(folder) / "dpo",
        eval_examples=held_out, stop_ids=(stop,),
    )  # fmt: skip
    say("DPO", train(job))

"""DPO on several processes that hold one model together.

    torchrun --nproc-per-node 2 examples/torchrun_dpo.py MODEL FOLDER

The model is sharded over all processes with FSDP2. Rank 0 alone reads its weights; the others make its architecture
on the meta device. The result, saved whole, is that of one process (`python examples/torchrun_dpo.py MODEL FOLDER`)
up to rounding.
"""

import sys
from pathlib import Path

import numpy as np

from zephyr.data.tokenize.token_store import Comparison
from zephyr.models.loading import empty_model, load_model
from zephyr.models.source import Source
from zephyr.models.tokenizers import load_tokenizer
from zephyr.recipe.objective_section import DpoObjective
from zephyr.recipe.train_section import TrainSection
from zephyr.train.distributed import built_on_rank_zero, pick_device, process_group
from zephyr.train.job import TrainJob
from zephyr.train.objectives import build_objective
from zephyr.train.stored_model import save_trained
from zephyr.train.train import train

QUESTIONS = ("How are you?", "Is it late?", "Are you there?", "Was it good?", "Shall we go?")
source, folder = Source(sys.argv[1]), Path(sys.argv[2])
tokenizer = load_tokenizer(source)


def ids(text: str) -> np.ndarray:
    """Token ids of a text."""
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


with process_group(pick_device()):
    job = TrainJob(
        model=built_on_rank_zero(
            lambda: load_model(source, dtype="float32"), lambda: empty_model(source, dtype="float32")
        ),
        objective=build_objective(DpoObjective(beta=0.1)),
        settings=TrainSection(learning_rate=1.0e-3, train_batch_size=3, num_train_epochs=2, precision="float32"),
        examples=[Comparison(q, ids(q), (ids(" Yes."), ids(" No, no.")), (1.0, 0.0)) for q in QUESTIONS],
        folder=folder,
    )
    train(job)
    save_trained(job.model, tokenizer, folder / "model")

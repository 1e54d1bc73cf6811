"""First steps on real weights with all their checks, over different rows; then the same with planted faults.

torchrun starts this file on every rank, so it holds no tests. Every rank builds the model once a setting; each first
step then has rows of its own, one a rank, and is checked as a run's is before and at step 0. What DPO has been checked
for before training is not checked again for ORPO, whose sequences are the same. Rank 0 prints a JSON line an objective
and a few steps:

`torchrun --nproc-per-node 2 -m tests.train.first_steps MODEL ROWS FOLDER PRECISION,... STEPS [WORD ...]`

STEPS: a number, or `10-14` for those of the fifty first steps, so that a long measurement can be taken in parts.
A word chooses: `whole` or `lora`, `sft`, `dpo` or `orpo`, `no-faults`; without one all of its kind are taken.

ROWS: a JSON list of {instruction, input, chosen, rejected}, of which pairs of 12 to 32 tokens are taken.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count, product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.errors import ZephyrError
from zephyr.models import batch_scoring, own_forward
from zephyr.models.adapters import add_lora
from zephyr.models.collectives import rank, world_size
from zephyr.models.few_rows import has_amx
from zephyr.models.loading import load
from zephyr.models.rounding import Rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.train import job as job_module
from zephyr.train.checks import invariants, self_check
from zephyr.train.distributed import full_value, pick_device, process_group
from zephyr.train.job import TrainJob, build_scorer
from zephyr.train.metrics import over_ranks
from zephyr.train.step import accumulate_gradients, make_batch
from zephyr.trees import forest

SHORTEST, LONGEST = 12, 32
STEPS_A_LINE = 5
# Of the forward passes without gradients one in so many gathers the weights anew, elsewhere in memory: each of them
# does so in a run, and on two cores that is most of the work.
GATHERED_EVERY = 10
# Room for both sequences of the longest row; the probe then holds two rows of most dialogues and of short pairs.
MAX_TOKENS = 2 * LONGEST
OBJECTIVES = {"sft": {}, "dpo": {"beta": 0.1}, "orpo": {}}


def short_rows(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Comparison]:
    """The pairs of different answers that fit, in an order drawn once."""
    found = []
    for number, row in enumerate(json.loads(path.read_bytes())):
        prompt = np.array(tokenizer.encode(f"{row['instruction']} {row['input']}\n", add_special_tokens=True))
        texts = [f"{row[kind]}{tokenizer.eos_token}" for kind in ("chosen", "rejected")]
        answers = [np.array(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        fits = all(SHORTEST <= len(prompt) + len(answer) <= LONGEST for answer in answers)
        if fits and row["chosen"] != row["rejected"]:
            found.append(Comparison(f"row {number}", prompt, tuple(answers), (1.0, 0.0)))
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def as_dialogue(pair: Comparison) -> Dialogue:
    ids = np.concatenate([pair.prompt, pair.completions[0]])
    return Dialogue(pair.name, ids, np.arange(len(ids)) >= len(pair.prompt))


class Nearest:
    """How near checks came to an alarm: the largest difference, as a share of what is allowed."""

    def __init__(self) -> None:
        self.share: dict[str, float] = {}

    def note(self, name: str, share: float) -> None:
        self.share[name] = max(self.share.get(name, 0.0), share)

    @contextmanager
    def watching(self) -> Iterator[None]:
        agree, differ = invariants._agree, own_forward._differ

        def agreeing(first, second, num_tokens, names, *, rounding, complaint):
            off = (first.detach().cpu().double() - second.detach().cpu().double()).abs()
            self.note(complaint.where, float((off / rounding.tolerance(num_tokens.cpu())).max()))
            agree(first, second, num_tokens, names, rounding=rounding, complaint=complaint)

        def differing(first, second, rounding):
            off, limits = own_forward._difference(first, second), own_forward._limits(rounding, len(first))
            self.note("own forward", max(off.spread / limits.spread, off.mean / limits.mean))
            return differ(first, second, rounding)

        with mock.patch.object(invariants, "_agree", agreeing), mock.patch.object(own_forward, "_differ", differing):
            yield


def gather_anew(scorer: ForestScorer) -> None:
    for unit in scorer.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()


@contextmanager
def seldom_gathered(scorer: ForestScorer) -> Iterator[None]:
    """Inside, weights that a forward has gathered stay for the next ones, but for every fifth time."""
    for unit in scorer.modules():
        if isinstance(unit, FSDPModule):
            unit.set_reshard_after_forward(reshard_after_forward=False, recurse=False)
    number = count(1)

    def seldom(_module: torch.nn.Module) -> None:
        if next(number) % GATHERED_EVERY == 0:
            gather_anew(scorer)

    with mock.patch.object(batch_scoring, "reshard", seldom), mock.patch.object(own_forward, "reshard", seldom):
        yield


def first_step(
    job: TrainJob, scorer: ForestScorer, *, times: float = 1.0, checked: Rounding | None = None
) -> tuple[float, Rounding]:
    """The loss of a first step with all its checks, and the rounding; the weights stay.

    ``times`` is what a mistake in adding up would make of the loss; ``checked`` the rounding, if it was checked before.
    """
    rounding = checked or self_check.check_before_training(job, scorer)
    ref_logps = None
    if job.objective.needs_reference:
        ref_logps = self_check.proven_ref_logps(
            job, scorer, f"{job.settings.precision} {job.folder}".encode().hex(), rounding=rounding
        )
    batch = make_batch(job.objective, job.examples, ref_logps)
    gather_anew(scorer)
    shares = accumulate_gradients(scorer, batch, job.settings)
    total, grad_norm = over_ranks(shares, full_value(torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)))
    invariants.check_finite(float(total.loss), grad_norm, step=0, names=batch.names)
    self_check.check_first_step(job, scorer, total._replace(loss=total.loss * times), batch, rounding=rounding)
    scorer.zero_grad(set_to_none=True)
    return float(total.loss), rounding


# ---- planted faults: what is patched, and words of which some must be said ----


def with_head(change: Callable[[Tensor], Tensor]) -> Callable[[ForestScorer], AbstractContextManager[object]]:
    def planted(scorer: ForestScorer) -> AbstractContextManager[object]:
        plain = scorer.transformers_model.forward
        changed = lambda **inputs: CausalLMOutput(logits=change(plain(**inputs).logits))  # noqa: E731
        return mock.patch.object(scorer.transformers_model, "forward", changed)

    return planted


def other_in_training(scorer: ForestScorer) -> AbstractContextManager[object]:
    norm = scorer.transformers_model.model.norm
    plain = norm.forward
    return mock.patch.object(norm, "forward", lambda hidden: plain(hidden) * (1.5 if norm.training else 1.0))


def with_layout(change: Callable[..., tuple]) -> Callable[[ForestScorer], AbstractContextManager[object]]:
    plain = forest._token_vectors
    return lambda _scorer: mock.patch.object(forest, "_token_vectors", lambda *given: change(*plain(*given)))


def running_on(ids, position, reach, parent):
    return ids, np.arange(len(position)), reach, parent


def other_reference(scorer: ForestScorer) -> AbstractContextManager[object]:
    """The reference is scored with a last norm that is a hundredth larger, of weights in 16 bits a tenth.

    There a hundredth is within rounding.
    """
    norm, fill = scorer.transformers_model.model.norm, job_module.fill_reference
    factor = 1.1 if norm.weight.dtype.itemsize == 2 else 1.01

    def filled(*arguments, **options):
        handle = norm.register_forward_hook(lambda _module, _given, output: output * factor)
        try:
            return fill(*arguments, **options)
        finally:
            handle.remove()

    return mock.patch.object(job_module, "fill_reference", filled)


FAULTS = {
    "head halved": (with_head(lambda logits: logits / 2), ("a head multiplier",)),
    "soft cap": (with_head(lambda logits: 5.0 * (logits / 5.0).tanh()), ("a soft cap",)),
    "unpadded vocabulary": (with_head(lambda logits: logits[..., :-5000]), ("an unpadded vocabulary",)),
    "another norm in train mode": (other_in_training, ("train mode",)),
    "positions run on": (with_layout(running_on), ("packed with others",)),
    # Of pairs so short that 16 bits hide the difference from the log-probs themselves, the first loss tells.
    "another reference": (other_reference, ("not its log-probs", "the reference's log-probs belong to another model")),
    "loss added up twice": (lambda _scorer: mock.patch.object(sys, "argv", sys.argv), ("2.00 times that",)),
}
OF_A_REFERENCE = ("another reference", "loss added up twice")


def caught(job: TrainJob, scorer: ForestScorer) -> dict[str, bool]:
    """Whether each planted fault stops the first step with its words."""
    found = {}
    for name, (plant, words) in FAULTS.items():
        if name in OF_A_REFERENCE and not job.objective.needs_reference:
            continue
        folder = job.folder.with_name(name.replace(" ", "-"))
        with plant(scorer):
            try:
                first_step(TrainJob(**{**vars(job), "folder": folder}), scorer, times=2.0 if "twice" in name else 1.0)
                found[name] = False
            except ZephyrError as error:
                found[name] = any(one in str(error) for one in words)
                if not found[name] and rank() == 0:
                    print(f"{name}: {error}", file=sys.stderr)
        scorer.zero_grad(set_to_none=True)
    return found


def quick_products_in_16_bits() -> torch.library.Library:
    """Products in bfloat16 by way of float32, rounded once, as accelerators make them; in force as long as it is kept.

    A CPU without units for bfloat16 gives the same but for one number of ten thousand, four times as slowly.
    """
    library = torch.library.Library("aten", "IMPL")

    def by_float32(operation: str) -> Callable[[Tensor, Tensor], Tensor]:
        into = getattr(torch.ops.aten, operation).out

        def multiplied(first: Tensor, second: Tensor) -> Tensor:
            out = torch.empty(
                (*first.shape[:-1], second.shape[-1]), dtype=torch.promote_types(first.dtype, torch.float)
            )
            return into(first.to(out.dtype), second.to(out.dtype), out=out).to(first.dtype)

        return multiplied

    for operation in ("mm", "bmm"):
        library.impl(operation, by_float32(operation), "CPU")
    return library


class Setting(NamedTuple):
    """What the first steps of one model are taken with."""

    model: str
    precision: str
    is_lora: bool
    steps: range
    with_faults: bool

    def named(self) -> dict[str, object]:
        return {
            "model": Path(self.model).name, "ranks": world_size(), "precision": self.precision, "lora": self.is_lora,
        }  # fmt: skip


def lines_of(setting: Setting, objectives: Sequence[str], rows: Path, folder: Path) -> Iterator[dict[str, object]]:
    """What became of a few first steps, an objective at a time; of DPO at last also of the planted faults."""
    torch.manual_seed(0)
    model, tokenizer = load(Source(setting.model), dtype="bfloat16" if setting.precision == "pure_bf16" else "float32")
    settings = TrainSection(
        learning_rate=1e-5,
        train_batch_size=world_size(),
        max_tokens_per_micro_batch=MAX_TOKENS,
        precision=setting.precision,
    )
    pairs = short_rows(rows, tokenizer)
    scorer = build_scorer(add_lora(model, LoraSection(r=4)) if setting.is_lora else model, settings)

    def job_of(name: str, step: int) -> TrainJob:
        some = pairs[world_size() * step : world_size() * (step + 1)]
        return TrainJob(
            model=scorer.causal_lm,
            objective=make_objective(name, OBJECTIVES[name]),
            settings=settings,
            examples=[as_dialogue(pair) for pair in some] if name == "sft" else some,
            folder=folder / f"{name}-{step}",
            stop_ids=(tokenizer.eos_token_id,),
        )

    for first in setting.steps[::STEPS_A_LINE]:
        checked: dict[tuple[int, bool], Rounding] = {}
        for name in objectives:
            steps = range(first, min(first + STEPS_A_LINE, setting.steps.stop))
            nearest, losses, tokens = Nearest(), [], []
            started, used = time.monotonic(), time.process_time()
            for step in steps:
                job, key = job_of(name, step), (step, name == "sft")
                with nearest.watching(), seldom_gathered(scorer):
                    loss, checked[key] = first_step(job, scorer, checked=checked.get(key))
                losses.append(loss)
                tokens += [int(sequence.scored.sum()) for row in job.rows for sequence in row]
            yield {
                **setting.named(), "objective": name, "steps": [steps[0], steps[-1]],
                "scored_tokens": [min(tokens), max(tokens)],
                "seconds": round(time.monotonic() - started), "of_processor": round(time.process_time() - used),
                "losses": [round(losses[0], 6), round(losses[-1], 6)],
                "of_tolerance": {check: round(share, 3) for check, share in nearest.share.items()},
            }  # fmt: skip
    if setting.with_faults:
        found = caught(job_of("dpo", setting.steps[-1]), scorer)
        missed = [fault for fault, is_caught in found.items() if not is_caught]
        yield {**setting.named(), "caught": sum(found.values()), "missed": missed}


def steps_of(text: str) -> range:
    first, last = text.split("-") if "-" in text else (0, int(text) - 1)
    return range(int(first), int(last) + 1)


def main(model: str, rows: Path, folder: Path, precisions: Sequence[str], steps: range, words: Sequence[str]) -> None:
    chosen = [name for name in OBJECTIVES if name in words] or list(OBJECTIVES)
    loras = [kind == "lora" for kind in ("whole", "lora") if kind in words] or [False, True]
    with process_group(pick_device()):
        for number, (precision, is_lora) in enumerate(product(precisions, loras)):
            setting = Setting(model, precision, is_lora, steps, with_faults=not is_lora and "no-faults" not in words)
            kept = quick_products_in_16_bits() if "bf16" in precision and not has_amx() else None
            for line in lines_of(setting, chosen, rows, folder / f"{number}"):
                if rank() == 0:
                    print(json.dumps(line), flush=True)
            del kept


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(","), steps_of(sys.argv[5]), sys.argv[6:])

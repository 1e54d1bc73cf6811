"""Training on tensors of a CUDA device that is not there; `test_fake_cuda.py` runs this with `fake_cuda.cpp` loaded.

No tensor has data and no kernel runs. What torch checks of an operation's arguments is checked, and every place where
the host would wait for the device is noted with what made it wait.
"""

import json
import sys
import time
import traceback
from collections import Counter, deque
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from tests.train.test_simulation import OBJECTIVES, examples, model
from zephyr.models.adapters import add_lora
from zephyr.models.batch_scoring import score_table
from zephyr.models.cached_attention import CACHED
from zephyr.models.engine import DecodingEngine
from zephyr.models.samples import DrawRules, Sample
from zephyr.models.scorer import plain_model
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.train.distributed import weights_dtype
from zephyr.train.job import build_scorer
from zephyr.train.metrics import over_ranks
from zephyr.train.objectives import build_objective
from zephyr.train.optimizers import OPTIMIZER_BUILDERS, build_optimizer
from zephyr.train.step import accumulate_gradients, clip_gradients, make_batch

DEVICE = torch.device("cuda", 0)
# Made before torch is told of a device, so that nothing is begun on it.
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
MAX_TOKENS = 512
KINDS = ("dpo", "orpo", "sft", "lora")
SETTINGS = [
    *({"optim": name} for name in OPTIMIZER_BUILDERS),
    {"activation_checkpointing": True},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": 2},
]
# Results whose size the device alone knows.
SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave.Tensor")
PINNED = WeakIdKeyDictionary()
to_list = FakeTensor.tolist


class Waits(TorchDispatchMode):
    """How often the host waits for the device, by what it waits for and where."""

    supports_higher_order_operators = True
    at_work: ClassVar = []

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __enter__(self):
        Waits.at_work.append(self)
        return super().__enter__()

    def __exit__(self, *reason):
        Waits.at_work.pop()
        return super().__exit__(*reason)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.").removesuffix(".default")
        if name == "_local_scalar_dense":
            if args[0].device == DEVICE:
                self.note("a number is read")
            return True if args[0].dtype == torch.bool else 1  # any will do
        if name in SIZED_BY_VALUES and args[0].device == DEVICE:
            self.note(name)
        if name.startswith("index") and any(one is not None and one.dtype == torch.bool for one in indices_of(args)):
            self.note("an index of bools")
        made = func(*args, **kwargs)
        if name.startswith(("_to_copy", "to.", "copy_")):
            self.note_copy(args[1] if name.startswith("copy_") else args[0], made, args, kwargs)
        return made

    def note_copy(self, source, made, args, kwargs):
        is_asked = bool(kwargs.get("non_blocking")) or any(one is True for one in args[2:])
        is_sent = made.device == DEVICE and is_asked and source in PINNED
        if source.device != made.device and not is_sent:
            self.note(f"a copy from {source.device.type} to {made.device.type}")

    def note(self, what):
        ours = [f for f in traceback.extract_stack() if "/src/zephyr/" in f.filename or "/torch/optim/" in f.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "backward"
        self.found[f"{what} at {where}"] += 1


def indices_of(args):
    return args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()


def pinned(tensor):
    PINNED[tensor] = True
    if isinstance(tensor, FakeTensor):
        tensor.constant = None  # or its numbers would be sent to a device that is not there
    return tensor


def listed(tensor):
    """The numbers of a tensor, of which any will do."""
    if tensor.device != DEVICE:
        return to_list(tensor)
    Waits.at_work[-1].note("numbers are read")
    return np.ones(tuple(tensor.shape)).tolist()


def pretend():
    """Let the parts of torch that are written in Python take the device as there, of Hopper's kind."""
    fake_tensor.init_gpu_context = lambda _device: None
    torch.cuda.is_available = torch.cuda.is_bf16_supported = lambda *_args, **_kwargs: True
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.get_device_capability = lambda _device=None: (9, 0)
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda _self: None
    Tensor.pin_memory = pinned
    FakeTensor.tolist = listed


def ran(architecture, kind, **settings):
    """Waits of a reference's pass, of a step, and of its log line."""
    train = TrainSection(learning_rate=1e-5, max_tokens_per_micro_batch=MAX_TOKENS, **settings)
    policy = model(architecture, weights_dtype(train))
    policy = add_lora(policy, LoraSection(r=4)) if kind == "lora" else policy
    objective = build_objective(OBJECTIVES["dpo" if kind == "lora" else kind])
    rows = objective.arranged(examples("sft" if kind == "sft" else "dpo", 16))
    with FAKE:
        policy.to_empty(device=DEVICE)
        plain_model(policy).tie_weights()
    scorer = build_scorer(policy, train, DEVICE)
    optimizer = build_optimizer(scorer, train)
    return measured(scorer, optimizer, objective, rows, train)


def measured(scorer, optimizer, objective, rows, train):
    reference, step, line = Waits(), Waits(), Waits()
    before = None
    if objective.needs_reference:
        laid = [objective.sequences(row) for row in rows]
        with FAKE, reference, scorer.as_reference():
            score_table(scorer, laid, max_tokens=MAX_TOKENS, device=DEVICE)
        before = torch.zeros(len(rows), 2, dtype=torch.float64)
    batch = make_batch(objective, rows, before)
    for _ in range(2):  # the first makes the optimizer's state
        step.found.clear()
        with FAKE, step:
            shares = accumulate_gradients(scorer, batch, train)
            norm = clip_gradients(scorer, train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    with FAKE, line:
        over_ranks(shares, norm)
    return {"reference": reference.found, "step": step.found, "line": line.found}


class Nobody:
    """Listens to a sample."""

    def took(self, _token):
        return False

    def failed(self, error):
        raise error


def written(architecture):
    """Waits of the step that writes a third token of six samples, whose prompts begin alike."""
    decoder = model(architecture, torch.bfloat16).eval()
    with FAKE:
        decoder.to_empty(device=DEVICE)
        decoder.tie_weights()
    decoder.set_attn_implementation(CACHED)
    rules, shared = DrawRules(SamplingSection(max_new_tokens=8, temperature=0.7, top_p=0.9)), list(range(40))
    waiting = deque(Sample([*shared, 40 + n], rules, Nobody(), seed=(n,)) for n in range(6))
    engine = DecodingEngine(decoder, (), waiting, max_rows=8, max_cache_tokens=4096)
    with FAKE, Waits() as token:
        while min(len(sample.written) for sample in engine.samples) < 3:
            token.found.clear()
            engine.step()
    return {"token": token.found}


def main(architecture):
    """Print a line of JSON for every case of an architecture: what was waited for, or the error."""
    pretend()
    cases = [(kind, {"precision": precision}) for kind in KINDS for precision in ("bf16", "pure_bf16")]
    if architecture == "mixtral":
        cases += [("dpo", {"precision": "bf16"} | settings) for settings in SETTINGS]
    for kind, settings in [*cases, ("writing", {})]:
        began, line = time.perf_counter(), {"case": f"{architecture} {kind} {settings}"}
        try:
            line |= ran(architecture, kind, **settings) if settings else written(architecture)
        except Exception as error:  # noqa: BLE001 - a case that fails is one line, and the next one goes on
            line |= {"error": f"{type(error).__name__}: {error}"[:500], "at": traceback.format_exc().splitlines()[-12:]}
        print(json.dumps(line | {"seconds": round(time.perf_counter() - began, 1)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

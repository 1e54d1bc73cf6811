"""The parts of `gpu_trial.py`: each prints JSON lines; ``gpu_parts.py PART [MODEL] [--dry-run]``."""

import gc
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pairs as data
import torch
from machine import peak_device_bytes, reset_peak_memory
from shapes import SHAPES, Shape, step_work
from transformers import AutoModelForCausalLM, MistralConfig, MixtralConfig

from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.models.adapters import add_lora
from zephyr.models.batch_scoring import forest_of
from zephyr.models.generation import generate
from zephyr.recipe.objective_section import DpoObjective, OrpoObjective, SftObjective
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.train.job import TrainJob, build_scorer
from zephyr.train.objectives import build_objective
from zephyr.train.optimizers import build_optimizer
from zephyr.train.simulation import simulate_step
from zephyr.train.step import accumulate_gradients, make_batch
from zephyr.train.train import train
from zephyr.trees.attention import forest_attention
from zephyr.trees.flex import flex_forest_attention
from zephyr.trees.forest import Forest, completion_scored
from zephyr.trees.rule import eager_attention
from zephyr.trees.varlen import varlen_attention

DRY_RUN = "--dry-run" in sys.argv
DEVICE = torch.device("cpu" if DRY_RUN else "cuda")
# Products in bfloat16 are slow on a CPU.
PRECISION, DTYPE = ("float32", torch.float32) if DRY_RUN else ("pure_bf16", torch.bfloat16)
GIB = 2**30
TOKENS = 64 if DRY_RUN else 8192
# Tokens of the longest pair; a CPU takes minutes for what a GPU does in no time.
LONGEST, SHORT = (32, 24) if DRY_RUN else (1024, 256)
# Dense bfloat16 FLOP/s of an H100 or H200.
PEAK_FLOPS = 989e12
STEPS = 2 if DRY_RUN else 4
OBJECTIVES = {"sft": SftObjective(), "dpo": DpoObjective(), "orpo": OrpoObjective()}
Result = dict[str, object]


def checked(name: str, action: Callable[[], Result]) -> None:
    """Print a line of what ``action`` gives or raises, and how long it took."""
    began = time.perf_counter()
    try:
        found = {"ok": True} | action()
    except Exception as error:  # noqa: BLE001  # a trial goes on
        at = traceback.extract_tb(error.__traceback__)[-1]
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:300], "at": f"{at.filename}:{at.lineno}"}
    line = {"check": name, "seconds": round(time.perf_counter() - began, 2)} | found
    print(json.dumps(line), flush=True)


def synchronize() -> None:
    """Wait for the device."""
    if not DRY_RUN:
        torch.cuda.synchronize()


def comparison(number: int, pair: data.Pair) -> Comparison:
    """The pair as an example."""
    prompt, chosen, rejected = (np.array(ids, dtype=np.int64) for ids in pair)
    return Comparison(f"pair {number}", prompt, (chosen, rejected), (1.0, 0.0))


def dialogue(number: int, pair: data.Pair) -> Dialogue:
    """The pair's prompt and chosen answer, of which the answer is learnt."""
    ids = np.array(pair.prompt + pair.chosen, dtype=np.int64)
    return Dialogue(f"row {number}", ids, np.arange(len(ids)) >= len(pair.prompt))


def forest(tokens: int) -> Forest:
    """A forest of pairs of about so many tokens."""
    objective, rows, total = build_objective(DpoObjective()), [], 0
    for number, pair in enumerate(data.synthetic_pairs(64, LONGEST)):
        rows.append(objective.sequences(comparison(number, pair)))
        total += sum(map(len, pair))
        if total > tokens:
            break
    return forest_of(rows, 2)


def many_answers(tokens: int) -> Forest:
    """A forest of prompts of 15 parts of their tokens and 16 answers of one part each, of about so many tokens."""
    part, draw, rows = max(2, min(120, tokens // 31)), np.random.default_rng(0), []
    for _ in range(max(1, tokens // (31 * part))):
        prompt = draw.integers(3, data.VOCABULARY, 15 * part)
        rows.append([completion_scored(prompt, draw.integers(3, data.VOCABULARY, part)) for _ in range(16)])
    return forest_of(rows, 16)


# ---- facts: attention against the rule, every precision and optimizer ----


def attention_error(dtype: torch.dtype, window: int | None, softcap: float | None, mixed: bool, dim: int) -> Result:
    """Relative errors of output and gradients against the rule in float64."""
    tree = forest(40 if DRY_RUN else 600)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, tree.num_tokens, dim) for heads in (8, 2, 2)]
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    given = [x.to(DEVICE, torch.float32 if mixed and i < 2 else dtype).requires_grad_() for i, x in enumerate(inputs)]
    exact = [x.detach().to(torch.float64, copy=True).requires_grad_() for x in inputs]
    options = {"scaling": dim**-0.5, "window": window, "softcap": softcap}
    ours = forest_attention(*given, tree.to(DEVICE), **options)
    rule = eager_attention(*exact, tree, **options)
    ours.float().square().sum().backward()
    rule.square().sum().backward()
    found = [ours.detach(), *(x.grad for x in given)]
    wanted = [rule.detach(), *(x.grad for x in exact)]
    errors = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    return dict(zip(("output", "query", "key", "value"), errors, strict=True))


def trained(of: str, *, moe: bool = False, lora: bool = False, **settings: object) -> Result:
    """Loss and gradient norm after two steps of a small model by the whole loop."""
    torch.manual_seed(0)
    sizes = asdict(shape_named("small"))
    config = MixtralConfig(**sizes, num_local_experts=4) if moe else MistralConfig(**sizes)
    model = AutoModelForCausalLM.from_config(config)
    if lora:
        model = add_lora(model, LoraSection(r=8))
    rows = data.synthetic_pairs(4 if DRY_RUN else 8, SHORT)
    every: list[Example] = [comparison(number, pair) for number, pair in enumerate(rows)]
    if of == "sft":
        every = [dialogue(number, pair) for number, pair in enumerate(rows)]
    fields = {
        "learning_rate": 1e-4,
        "train_batch_size": 2 if DRY_RUN else 4,
        "max_tokens_per_micro_batch": 1024,
        "save_seconds": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        job = TrainJob(model, build_objective(OBJECTIVES[of]), TrainSection(**fields | settings), every, Path(folder))
        line = train(job).train_metrics
    return {name: line[name] for name in ("loss", "grad_norm")}


def attention_facts() -> None:
    """Attention by every kernel against the rule; those that must be compiled come last."""
    half, whole = torch.bfloat16, torch.float32
    for name, given in {
        "bf16": (half, None, None, False, 128),
        "bf16, float32 queries and keys": (half, None, None, True, 128),
        "bf16, window 64": (half, 64, None, False, 128),
        "bf16, head 256": (half, None, None, False, 256),
        "bf16, soft cap": (half, None, 30.0, False, 128),
        "float32": (whole, None, None, False, 64),
    }.items():
        checked(f"attention {name}", partial(attention_error, *given))


def training_facts() -> None:
    """Two steps of every precision, optimizer and objective; what must be compiled comes last."""
    for name, run in {
        "dpo bf16": partial(trained, "dpo", precision="bf16"),
        "dpo pure_bf16": partial(trained, "dpo", precision="pure_bf16"),
        "dpo pure_bf16, adamw_8bit": partial(trained, "dpo", precision="pure_bf16", optim="adamw_8bit"),
        "dpo bf16, LoRA": partial(trained, "dpo", precision="bf16", lora=True),
        "dpo pure_bf16, checkpointing": partial(trained, "dpo", precision="pure_bf16", activation_checkpointing=True),
        "dpo selective": partial(trained, "dpo", precision=PRECISION, activation_checkpointing="selective"),
        "sft pure_bf16": partial(trained, "sft", precision="pure_bf16"),
        "orpo mixture, bf16": partial(trained, "orpo", moe=True, precision="bf16"),
        "orpo mixture, balanced": partial(trained, "orpo", moe=True, precision="pure_bf16", router_aux_loss_coef=0.02),
        "dpo float32": partial(trained, "dpo", precision="float32"),
        "dpo pure_bf16, compiled": partial(trained, "dpo", precision="pure_bf16", compile=not DRY_RUN),
    }.items():
        checked(name, run)


# ---- steps: seconds, MFU, memory, kernels, waits ----


class Stepper:
    """A model drawn on the device and a step of it, after one to warm up."""

    def __init__(self, shape: Shape, **settings: object) -> None:
        torch.manual_seed(0)
        with DEVICE:
            self.model = AutoModelForCausalLM.from_config(MistralConfig(**asdict(shape)), dtype=DTYPE)
        self.shape, self.train = shape, settings_of(**settings)
        self.pairs = data.synthetic_pairs(2 if DRY_RUN else 32, LONGEST)
        self.scorer = build_scorer(self.model, self.train, DEVICE)
        self.optimizer = build_optimizer(self.scorer, self.train)
        every = [comparison(number, pair) for number, pair in enumerate(self.pairs)]
        reference = torch.zeros(len(every), 2, dtype=torch.float64)
        self.batch = make_batch(build_objective(DpoObjective()), every, reference)

    def step(self) -> None:
        """One optimizer step."""
        accumulate_gradients(self.scorer, self.batch, self.train)
        torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def timed(self) -> Result:
        """Seconds of a step, its share of the sheet's peak, and the most memory that tensors held."""
        self.step()
        synchronize()
        reset_peak_memory(DEVICE.type)
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            self.step()
            synchronize()
            seconds.append(time.perf_counter() - began)
        least = sorted(seconds)[len(seconds) // 2]
        flops = 3 * step_work(self.pairs, "dpo").forward_flops(self.shape)
        peak = peak_device_bytes(DEVICE.type) / GIB
        return {"step_seconds": seconds, "mfu": flops / least / PEAK_FLOPS, "peak_gib": peak}


def settings_of(**more: object) -> TrainSection:
    """Hyper-parameters of the measured steps."""
    fields = {"learning_rate": 1e-6, "precision": PRECISION, "max_tokens_per_micro_batch": max(TOKENS, 2048)}
    return TrainSection(**fields | more)


def shape_named(name: str) -> Shape:
    """The shape to measure; a tiny one in a dry run."""
    return SHAPES["tiny" if DRY_RUN else name]


def steps(name: str) -> None:
    """Steps of a model: plain, recomputing some or all, compiled; a new model each."""
    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        "selective": {"activation_checkpointing": "selective"},
        "checkpointing": {"activation_checkpointing": True},
    }
    if not DRY_RUN:
        kinds["compiled"] = {"compile": True}
    for kind, more in kinds.items():
        checked(f"{name} {kind}, {TOKENS} tokens", lambda more=more: Stepper(shape_named(name), **more).timed())
        gc.collect()  # of what an error holds on to
        if not DRY_RUN:
            torch.cuda.empty_cache()


def profile(name: str) -> None:
    """A step by kernel, and every place where the host waits for the device."""
    stepper = Stepper(shape_named(name))
    checked(f"{name} step", stepper.timed)
    checked(f"{name} waits", lambda: waits(stepper))
    checked(f"{name} kernels", lambda: kernels(stepper))


def waits(stepper: Stepper) -> Result:
    """Where a step makes the host wait, and how often."""
    if DRY_RUN:
        stepper.step()
        return {"waits": {}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            stepper.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{one.filename.rpartition('site-packages/')[2]}:{one.lineno}" for one in caught)
    return {"waits": dict(places.most_common())}


def kernels(stepper: Stepper) -> Result:
    """Seconds of the 25 kernels that take most of a step."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] if DRY_RUN else [ProfilerActivity.CUDA]
    with profile(activities=activities) as seen:
        stepper.step()
        synchronize()
    took = {one.key[:120]: (one.self_device_time_total or one.self_cpu_time_total) / 1e6 for one in seen.key_averages()}
    return {"kernels": dict(sorted(took.items(), key=lambda one: -one[1])[:25])}


# ---- attention, generation, simulation ----


def attention() -> None:
    """Forward and backward pass of attention at twice the tokens, by kernel: milliseconds and memory.

    Of pairs, and of many answers behind long prompts, whose keys are gathered more than eight times over.
    """
    heads, dim = ((4, 2, 2), 16) if DRY_RUN else ((32, 8, 8), 128)
    backends = {"chosen": forest_attention}
    if not DRY_RUN:
        backends |= {"varlen": varlen_attention, "flex": flex_forest_attention}

    def measure(tree: Forest, backend: Callable[..., torch.Tensor]) -> Result:
        given = [torch.randn(1, h, tree.num_tokens, dim, device=DEVICE, dtype=DTYPE).requires_grad_() for h in heads]
        seconds = []
        for _ in range(2 * STEPS):
            reset_peak_memory(DEVICE.type)
            began = time.perf_counter()
            backend(*given, tree, scaling=dim**-0.5).sum().backward()
            synchronize()
            seconds.append(time.perf_counter() - began)
        found = {"ms": 1e3 * min(seconds), "peak_gib": peak_device_bytes(DEVICE.type) / GIB}
        return found | {"tokens": tree.num_tokens, "gathered": tree.num_path_tokens}

    for rows, tree in {"pairs": forest(2 * TOKENS), "16 answers a prompt": many_answers(2 * TOKENS)}.items():
        for name, backend in backends.items():
            checked(f"attention {name}, {rows}", partial(measure, tree.to(DEVICE), backend))


def generation(name: str) -> None:
    """Tokens a second of sampled answers, with two sizes of the cache."""
    with DEVICE:
        model = AutoModelForCausalLM.from_config(MistralConfig(**asdict(shape_named(name))), dtype=DTYPE)
    model.eval()
    prompts = [pair.prompt for pair in data.synthetic_pairs(2 if DRY_RUN else 128, LONGEST)]
    new = 8 if DRY_RUN else 128

    def measure(cache: int) -> Result:
        began = time.perf_counter()
        sampling = SamplingSection(max_new_tokens=new)
        answers = generate(model, prompts, sampling, num_samples=4, max_cache_tokens=cache)
        synchronize()
        return {"tokens_per_second": len(answers) * new / (time.perf_counter() - began)}

    for cache in (65_536,) if DRY_RUN else (65_536, 524_288):
        checked(f"generation, {cache} tokens of cache", partial(measure, cache))


def simulation(name: str) -> None:
    """What `zephyr plan --simulate` says of the steps of ``steps``."""
    every = [
        comparison(number, pair) for number, pair in enumerate(data.synthetic_pairs(2 if DRY_RUN else 32, LONGEST))
    ]

    def simulated(**more: object) -> Result:
        with torch.device("meta"):
            config = MistralConfig(**asdict(shape_named(name)))
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPE)
        step = simulate_step(model, settings_of(**more), build_objective(DpoObjective()), every, num_ranks=1)
        return {"peak_gib": step.peak_bytes / GIB, "kinds_gib": {k: v / GIB for k, v in step.peak.items()}}

    checked(f"{name} plain", simulated)
    checked(f"{name} selective", partial(simulated, activation_checkpointing="selective"))
    checked(f"{name} checkpointing", partial(simulated, activation_checkpointing=True))


PARTS: dict[str, Callable[..., None]] = {
    "attention-facts": attention_facts,
    "training-facts": training_facts,
    "profile": profile,
    "steps": steps,
    "attention": attention,
    "generation": generation,
    "simulation": simulation,
}

if __name__ == "__main__":
    part, *rest = [word for word in sys.argv[1:] if word != "--dry-run"]
    PARTS[part](*rest)

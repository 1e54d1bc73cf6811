"""Every causal language model of the installed transformers, built small: `python -m tests.models.architectures`.

Prints a table in Markdown: trained on shared prefixes, by carried state, one sequence a row, or refused, and why.
With names: those.
"""

import datetime as dt
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.models.scorer_runs import Outcome, by_transformers, company, packed
from zephyr.errors import ZephyrError
from zephyr.models.own_forward import check_own_forward
from zephyr.models.rounding import measured_rounding
from zephyr.models.scorer import ForestScorer

SECONDS = 240
GIGABYTES = 3
MOST_PARAMETERS = 90_000_000

SIZES: dict[str, object] = {
    "vocab_size": 128, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "embedding_size": 32,
    "word_embed_proj_dim": 32, "emb_dim": 32,
    "num_hidden_layers": 4, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 1,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8,
    "intermediate_size": 48, "ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "n_inner": 48, "d_ff": 48,
    "max_position_embeddings": 256, "n_positions": 256, "max_seq_len": 256, "sliding_window": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "moe_num_experts": 4,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "o_lora_rank": 16, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 64,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "mamba_d_state": 4, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_n_groups": 1, "state_size": 4,
    "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8,
    "is_decoder": True,
}  # fmt: skip
MLA: dict[str, object] = {"num_key_value_heads": 4}
PADDED: dict[str, object] = {"pad_token_id": 0}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
SHARED_KV = {**SLIDING, **PADDED, "num_kv_shared_layers": 2}
CONVOLVING: dict[str, object] = {"layer_types": ["conv", "full_attention"] * 2}
# What a configuration needs besides, by its model type.
SPECIAL: dict[str, dict[str, object]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text"), MLA),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"), MLA),
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"), PADDED),
    **dict.fromkeys(("xlm-roberta-xl", "xlm", "prophetnet", "emu3", "emu3_text_model", "modernbert-decoder"), PADDED),
    **dict.fromkeys(("gemma2", "gemma3_text"), SLIDING),
    **dict.fromkeys(("gemma3n_text", "gemma4_text", "gemma4_unified_text"), SHARED_KV),
    **dict.fromkeys(("lfm2", "lfm2_moe"), CONVOLVING),
    "bamba": {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 8},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8, "num_layers": 4},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "cohere_compass_text": {**SLIDING, "rope_parameters": dict.fromkeys(SLIDING["layer_types"], ROPE)},
    "kimi_linear": {"num_experts_per_token": 2, "linear_head_dim": 8, "linear_num_heads": 4},
    "qwen4_exp_text": {"num_hidden_layers": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "modernbert-decoder": {**PADDED, **SLIDING},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "xmod": {**PADDED, "default_language": "en_XX"},
    "zamba": {"layer_types": ["mamba", "hybrid"] * 2},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1},
}


# Relative to the largest log-prob and gradient; float32 rounds below 1e-5, what is wrong is above 1e-2.
EXACT = 1e-3
# Tokens before the fork that is tried, and what is said of layers that carry a state.
FORK = 12
STATE_WORDS = ("carry a state", "conv", "linear_attention", "hybrid_sliding")
SHARED, STATE, ALONE = "shared trees", "carried state", "one sequence a row"
REFUSED, NOT_BUILT = "refused", "not built"
CRASH, DIFFERS = "CRASH", "DIFFERS"
KINDS = {
    SHARED: "exact, every shared prefix computed once",
    STATE: "exact, every shared prefix computed once, a pass for each stretch between two forks",
    ALONE: "exact, and a shared prefix computed once for every sequence; the log says why",
    REFUSED: "before training, with the reason",
    NOT_BUILT: "no small configuration of it is at hand here; a training would still be proven or refused",
    CRASH: "",
    DIFFERS: "",
}
INTRODUCTION = """# Architectures

Every causal language model of transformers, built small with random weights and scored as training scores it: the
log-probs of ten sequences that share prefixes, and the gradient, beside those of the model's own forward, one sequence
at a time. In brackets the largest difference, relative to the largest entry. Printed by
`python -m tests.models.architectures > docs/architectures.md`.

Layers that carry a state (linear attention, state spaces, short convolutions), and attention that forests do not
compute, share a prefix by another way: each stretch of tokens between two forks is one pass, which goes on from the
model's own state behind its prefix, with its gradient. A model does so where a trial on a few tokens gives what whole
sequences give; training compares the gradients, too, before its first step. Otherwise it runs one sequence a row. "At a
fork" says what comes of several tokens after a state: other values, or nothing; where values and gradient are right all
the same, the cache is of the model's own kind, and not copied. A trial of a few tokens says nothing of attention in
chunks of thousands, which runs one sequence a row too. So does every such model with activation checkpointing,
`compile` or noise on embeddings: what is computed again is without its state.
An architecture that is not in this table is proven before training like every other: see
[How a run proves itself right](explanation/self-checks.md)."""
COUNTS = "| trained on | architectures | |\n|---|---|---|"
TABLE = "| model type | class | trained on |\n|---|---|---|"


class Row(NamedTuple):
    """What becomes of one architecture."""

    model_type: str
    model: str
    outcome: str


def small_config(model_type: str) -> PretrainedConfig:
    """The configuration of an architecture with few and small layers."""
    default = AutoConfig.for_model(model_type)
    chosen = _fitting(default)
    nested = {name: _fitting(getattr(default, name)) for name in default.sub_configs if getattr(default, name, None)}
    config = type(default)(**nested | chosen)
    config.dtype = None
    return config


def _fitting(default: PretrainedConfig) -> dict[str, object]:
    """The sizes that a configuration has a field for."""
    fields = default.to_dict().keys() | default.attribute_map.keys()
    caps = {"final_logit_softcapping": 5.0} if getattr(default, "final_logit_softcapping", None) else {}
    return {name: value for name, value in SIZES.items() if name in fields} | caps | SPECIAL.get(default.model_type, {})


def small_model(model_type: str) -> PreTrainedModel:
    """A random model of the architecture, in eval mode. Raises what transformers raises, MemoryError if it is large."""
    config = small_config(model_type)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"{size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.float().eval()


class _Listener(logging.Handler):
    """Keeps what the scorer says."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


def outcome(model_type: str) -> str:
    """What becomes of the architecture: the scorer's numbers beside those of the model's own forward."""
    listener = _Listener(logging.WARNING)
    logging.getLogger("zephyr.models.scorer").addHandler(listener)
    try:
        model, theirs = small_model(model_type), small_model(model_type)
    except Exception as error:  # noqa: BLE001  # whatever an architecture of another's says of a size it dislikes
        return f"{NOT_BUILT}: {_short(error)}"
    try:
        scorer = ForestScorer(model).train()
        sequences = [sequence for sequence in company() if len(sequence.ids)]
        rounding = measured_rounding(scorer, sequences, dtype=torch.float32)
        check_own_forward(scorer, [sequence.ids for sequence in sequences], rounding=rounding)
        ours = packed(scorer, company())
        difference = distance(ours, by_transformers(theirs, company()))
    except ZephyrError as error:
        return f"{REFUSED}: {_short(error)}"
    except Exception as error:  # noqa: BLE001  # a crash is what the table must not have
        return f"{CRASH}: {_short(error)}"
    if not difference < EXACT:
        return f"{DIFFERS}: {difference:.0e}"
    if scorer.shares_prefixes or scorer.carries_state:
        return f"{SHARED if scorer.shares_prefixes else STATE} ({difference:.0e})"
    reason = listener.said.partition("one sequence a row")[2][2:]
    fork = f"; at a fork: {at_a_fork(theirs)}" if any(word in reason for word in STATE_WORDS) else ""
    return f"{ALONE}: {reason} ({difference:.0e}){fork}"


def at_a_fork(model: PreTrainedModel) -> str:
    """What a model gives that goes on from its state, as at a fork of a tree, beside one pass over all."""
    ids = torch.randint(3, 100, (1, 20), generator=torch.Generator().manual_seed(0))
    weight = model.get_input_embeddings().weight
    expected = model(input_ids=ids, use_cache=False).logits[0, FORK:]
    (slope,) = torch.autograd.grad(expected.square().sum(), weight)
    try:
        first = model(input_ids=ids[:, :FORK], use_cache=True)
        names = [name for name in ("cache_params", "past_key_values") if getattr(first, name, None) is not None]
        found = model(input_ids=ids[:, FORK:], use_cache=True, **{names[0]: getattr(first, names[0])}).logits[0]
    except Exception as error:  # noqa: BLE001  # whatever a cache of another's says of several tokens
        return f"cannot go on with several tokens ({type(error).__name__})"
    off = float((found - expected).abs().max() / expected.abs().max())
    if not off < EXACT:
        return f"other values ({off:.0e})"
    try:
        (here,) = torch.autograd.grad(found.square().sum(), weight)
    except RuntimeError:
        return f"right values ({off:.0e}), and no gradient, for the state is overwritten in place"
    off = max(off, float((here - slope).abs().max() / slope.abs().max()))
    return f"right values and gradient ({off:.0e})" if off < EXACT else f"another gradient ({off:.0e})"


def distance(ours: Outcome, theirs: Outcome) -> float:
    """The largest difference of log-probs and gradients, relative to what they are."""
    scored = theirs.logps != 0
    logps = ((ours.logps - theirs.logps).abs()[scored] / theirs.logps.abs()[scored]).max()
    largest = max(float(gradient.abs().max()) for gradient in theirs.gradients.values())
    slopes = [float((ours.gradients[n] - g).abs().max()) / largest for n, g in theirs.gradients.items()]
    return max(float(logps), *slopes)


def _short(error: Exception) -> str:
    """The first line of what an error says; of a proof that failed, the claim and the probable cause."""
    said = str(error).strip().split("\n")[0].replace("|", "/")
    if not isinstance(error, ZephyrError):
        return f"{type(error).__name__}: {said[:200]}"
    _, probable, cause = error.what.partition("; probably ")
    return f"its own forward gives other log-probs{probable}{cause}" if probable else error.what


def _alone(model_type: str) -> Row:
    """The outcome, computed in a process of its own, with limits of memory and time."""
    name, (read, write) = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type], os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))
        signal.alarm(SECONDS)
        os.write(write, outcome(model_type).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return Row(model_type, name, said or f"{CRASH}: the process died with status {status}")


def page(rows: Sequence[Row]) -> str:
    """The page on these architectures."""
    kinds = {kind: [row for row in rows if row.outcome.startswith(kind)] for kind in KINDS}
    counts = "\n".join(f"| {kind} | {len(found)} | {KINDS[kind]} |" for kind, found in kinds.items() if found)
    listed = "\n".join(f"| {row.model_type} | {row.model} | {row.outcome} |" for row in rows)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    dated = f"{dt.datetime.now(tz=dt.UTC).date()}, {versions}, CPU."
    return f"{INTRODUCTION}\n\n{dated}\n\n{COUNTS}\n{counts}\n\n{TABLE}\n{listed}"


def main(names: Sequence[str]) -> int:
    """Print the page, or the rows of these architectures; 1 if one of them crashes or is silently wrong."""
    rows = [_alone(name) for name in names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)]
    print("\n".join(f"{row.model_type}: {row.outcome}" for row in rows) if names else page(rows))
    return int(any(row.outcome.startswith((CRASH, DIFFERS)) for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Models that a caller has loaded, as folders: with the weights they have now, and adapters merged into a copy."""

import hashlib
import json
from pathlib import Path

from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.loading import save_model
from zephyr.models.merging import merged_copy
from zephyr.models.scorer import CausalLM
from zephyr.models.source import Source
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.models.weight_hash import weights_hash
from zephyr.runs.ranks import is_leader, wait_until

_NAME_LENGTH = 12


def write_in_memory(model: CausalLM, tokenizer: Tokenizer | None, folder: Path) -> Path:
    """The folder below `folder` that the model is written to, once, with its tokenizer; named after their content.

    `tokenizer`: None for that of the hub id or folder which the model was loaded from. The model itself stays as it
    is. Raises ModelError for a model without weights in full precision, and where no tokenizer can be found.
    """
    if getattr(model, "is_quantized", False) or getattr(model, "is_loaded_in_4bit", False):
        raise ModelError(
            type(model).__name__,
            "is quantised, and its weights cannot be written in full precision",
            "give its hub id or folder, and train with lora={'load_in_4bit': True}",
        )
    tokenizer = tokenizer or _tokenizer_of(model)
    target = folder / f"model-{_hash(model, tokenizer)[:_NAME_LENGTH]}"
    if not is_leader():
        wait_until(target.exists, f"{target} from rank 0")
    elif not target.exists():
        plain = model if isinstance(model, PreTrainedModel) else merged_copy(model)
        save_model(plain, tokenizer, target)
    return target


def _tokenizer_of(model: CausalLM) -> Tokenizer:
    name = str(getattr(model.config, "_name_or_path", "") or "")
    remedy = "give it: tokenizer=AutoTokenizer.from_pretrained(...)"
    if not name:
        raise ModelError(type(model).__name__, "does not say where its tokenizer is", remedy)
    try:
        return load_tokenizer(Source(name))
    except ModelError as error:
        raise ModelError(name, f"its tokenizer cannot be read ({error.what})", remedy) from error


def _hash(model: CausalLM, tokenizer: Tokenizer) -> str:
    """What tells the model, its configuration and its tokenizer from others."""
    words = json.dumps(
        [tokenizer.get_vocab(), tokenizer.chat_template, repr(tokenizer.special_tokens_map)], sort_keys=True
    )
    config = model.config.to_json_string(use_diff=False)
    return hashlib.sha256(f"{weights_hash(model)} {config} {words}".encode()).hexdigest()

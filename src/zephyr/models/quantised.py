"""Models with 4-bit weights, for LoRA on top, and the plain weights that such training computes with.

QLoRA: Dettmers et al. 2023, arXiv 2305.14314.
"""

import importlib.util

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from zephyr.errors import DeviceError
from zephyr.models.loading import DTYPES, load_model
from zephyr.models.source import Source


def refuse_4bit() -> None:
    """Check that 4-bit models can be trained. Raises DeviceError without a GPU or without bitsandbytes."""
    _need_bitsandbytes()
    if not torch.cuda.is_available():
        raise DeviceError(
            "4-bit loading",
            "needs a CUDA GPU, and there is none",
            "train LoRA without load_in_4bit, or use a GPU",
        )


def load_4bit(source: Source, *, compute_dtype: str = "bfloat16", device: str = "cuda") -> PreTrainedModel:
    """The model with its linear weights as 4-bit NormalFloat, doubly quantised, for LoRA on top (QLoRA).

    Raises DeviceError without bitsandbytes, or without a GPU for a device of that kind.
    """
    if device == "cpu":
        _need_bitsandbytes()
    else:
        refuse_4bit()
    nf4 = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[compute_dtype],
    )
    return load_model(source, dtype=compute_dtype, device=device, quantization=nf4)


def load_dequantised(source: Source, *, device: str = "cuda") -> PreTrainedModel:
    """The plain bfloat16 model on the CPU whose weights are those of ``load_4bit``: what its training computes with.

    A layer at a time leaves the device. Raises DeviceError as ``load_4bit`` does.
    """
    model = load_4bit(source, device=device)
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for path, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).to("cpu", torch.bfloat16)
            with torch.device("meta"):
                plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), module.bias
            model.set_submodule(path, plain)
    # What transformers would otherwise go by: the model refuses to be moved, merged into and saved as a plain one.
    for name, value in {"hf_quantizer": None, "is_quantized": False, "is_loaded_in_4bit": False}.items():
        setattr(model, name, value)
    del model.config.quantization_config
    nn.Module.to(model, "cpu")
    return model


def _need_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DeviceError("4-bit loading", "needs bitsandbytes", "install it: pip install 'zephyr-align[gpu]'")

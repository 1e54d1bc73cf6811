"""4-bit bases: what they need, and that adapters are merged into the weights that training computed with.

With bitsandbytes installed the models are real ones of four bits, on the CPU; it is no part of the usual set-up.
"""

import pytest
import torch
from peft import PeftModel

from zephyr.errors import DeviceError
from zephyr.models.adapters import add_lora, load_adapter, save_adapter
from zephyr.models.loading import load_model, save_model
from zephyr.models.merging import merge_adapters
from zephyr.models.quantised import load_4bit, load_dequantised
from zephyr.models.source import Source
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.train_section import LoraSection

IDS = torch.arange(3, 35)[None]


def test_4bit_loading_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"needs bitsandbytes; install it: pip install 'zephyr-align\[gpu\]'$"):
        load_4bit(Source(str(tmp_path)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="needs a CUDA GPU, and there is none"):
        load_4bit(Source(str(tmp_path)))


@pytest.fixture
def source(tmp_path) -> Source:
    pytest.importorskip("bitsandbytes", reason="the extra gpu is not installed")
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), tmp_path / "base")
    return Source(str(tmp_path / "base"), offline=True)


def trained(source: Source) -> PeftModel:
    """A 4-bit model with adapters that were moved off their start."""
    model = add_lora(load_4bit(source, device="cpu"), LoraSection(r=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.double()


def test_dequantised_weights_compute_what_4bit_ones_do(source):
    expected, plain = logits_of(load_4bit(source, device="cpu")), load_dequantised(source, device="cpu")
    assert not hasattr(plain.config, "quantization_config")
    torch.testing.assert_close(logits_of(plain), expected, rtol=0, atol=0.02)
    # What four bits lose is far more than that.
    assert float((logits_of(load_model(source)) - expected).abs().max()) > 0.1


def test_merged_adapters_compute_what_was_trained(source, tmp_path):
    model = trained(source)
    expected = logits_of(model)
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapters(load_adapter(load_dequantised(source, device="cpu"), tmp_path / "adapter"), IDS).model
    save_model(merged, tiny_tokenizer(), tmp_path / "merged")
    written = load_model(Source(str(tmp_path / "merged"), offline=True))
    onto_plain = merge_adapters(load_adapter(load_model(source), tmp_path / "adapter"), IDS).model
    off, rounded = (float((logits_of(one) - expected).square().mean().sqrt()) for one in (onto_plain, written))
    assert rounded < off / 10

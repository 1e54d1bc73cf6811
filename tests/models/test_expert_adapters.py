"""LoRA on experts whose weights are stacked: what names reach, what is refused, that it trains, merges and loads."""

import logging

import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.models.architectures import small_model
from tests.train.tiny_runs import tiny_job
from zephyr.errors import ModelError
from zephyr.estimate.model_shape import shape_of
from zephyr.estimate.workload import adapter_parameters
from zephyr.models import merging
from zephyr.models.adapters import add_lora, load_adapter, save_adapter
from zephyr.models.architecture import check_lora_modules, fused_experts
from zephyr.models.merging import merge_adapters
from zephyr.models.tiny import tiny_model
from zephyr.recipe.train_section import LoraSection
from zephyr.train.train import train

BOTH = {"experts.gate_up_proj": 2, "experts.down_proj": 1}


@pytest.mark.parametrize(
    "names", [["gate_proj", "up_proj", "down_proj"], ["experts"], ["w1", "w2", "w3"], ["mlp.experts"]]
)
def test_names_reach_the_stacked_weights(names):
    assert fused_experts(tiny_model("mixtral"), names) == BOTH
    assert fused_experts(tiny_model("mistral"), names) == {}


@pytest.mark.filterwarnings("error:.*were ignored")
def test_two_matrices_in_one_weight_have_twice_the_rank_and_the_same_scale(tmp_path):
    model = add_lora(tiny_model("mixtral"), LoraSection(r=4, lora_alpha=8, target_modules=["experts"]))
    save_adapter(model, tmp_path / "adapter")
    for one in (model, load_adapter(tiny_model("mixtral"), tmp_path / "adapter")):
        layers = [module for module in one.modules() if isinstance(module, LoraLayer)]
        assert {layer.parameter_name: (layer.r["default"], layer.scaling["default"]) for layer in layers} == {
            "gate_up_proj": (8, 2.0),
            "down_proj": (4, 2.0),
        }


@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen2_moe", "llama4_text", "granitemoe"])
def test_experts_of_other_models_get_adapters_too(model_type):
    model = add_lora(small_model(model_type), LoraSection(r=2, target_modules=["gate_proj", "up_proj", "down_proj"]))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    # One pair of matrices for each of the two weights, of all experts of a layer.
    assert sum("experts.lora_" in name or "experts.base_layer.lora_" in name for name in trained) % 4 == 0
    assert any("experts.lora_A" in name for name in trained)


@pytest.mark.parametrize(
    ("targets", "more", "expected"),
    [
        (
            ["gate_proj"],
            {},
            "'gate_proj' is a part of the weight experts.gate_up_proj of all experts; name all",
        ),
        (
            ["w3", "w2"],
            {},
            "'w3' is a part of the weight experts.gate_up_proj of all experts; name",
        ),
        (
            ["experts"],
            {"use_dora": True},
            "use_dora cannot be had for the stacked weights experts.down_proj, ",
        ),
        (["experts"], {"layers_to_transform": [0]}, "layers_to_transform cannot be had for the stacked weights"),
        (["mlp_proj"], {}, "the model has no module 'mlp_proj'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_run(targets, more, expected):
    with pytest.raises(ModelError, match=expected):
        check_lora_modules(tiny_model("mixtral"), LoraSection(target_modules=targets, **more))


def test_what_peft_leaves_out_is_told(caplog):
    lora = LoraSection(r=2, target_modules=["gate_proj", "up_proj", "down_proj"])
    with caplog.at_level(logging.WARNING, "zephyr.models.adapters"):
        add_lora(small_model("deepseek_v3"), lora)
    assert "adapters on the experts alone, and none on 12 other modules, as model.layers.0.mlp.down_proj" in caplog.text


def test_a_merge_in_16_bits_is_judged_by_tokens_that_keep_their_experts(monkeypatch, caplog):
    """Routers that are nearly undecided send tokens elsewhere when a weight is rounded."""
    model = add_lora(tiny_model("mixtral", dtype=torch.bfloat16), LoraSection(r=2, target_modules=["q_proj", "v_proj"]))
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=drawn)
            if name.endswith("mlp.gate.weight"):
                parameter.mul_(1e-3)
            if "experts" in name:
                parameter.mul_(3)
    ids = torch.arange(5, 125)[None]
    seen = []

    def comparing(before, after):
        seen.append((float((after.logits - before.logits).abs().max()), compared(before, after)))
        return seen[-1][1]

    compared = merging._compared
    monkeypatch.setattr(merging, "_compared", comparing)
    with caplog.at_level(logging.INFO, logger="zephyr"):
        found = merge_adapters(model, ids, tolerance=1e9).max_logit_difference
    ((of_all, stable),) = seen
    assert 0 < int(stable.sum()) < 120
    assert f"compared {int(stable.sum())} of 120 tokens of the probe, those whose experts stay the same" in caplog.text
    assert found < of_all


def test_adapters_on_experts_train_merge_and_load(tmp_path):
    lora = LoraSection(r=2, target_modules=["experts", "q_proj"])
    model = add_lora(tiny_model("mixtral"), lora)
    sizes = [one.numel() for name, one in model.named_parameters() if one.requires_grad and "experts" in name]
    shape = shape_of(tiny_model("mixtral").config.to_dict())
    train(tiny_job(tmp_path / "run", model=model, max_steps=2, learning_rate=1e-2))
    model.get_base_model().set_attn_implementation("sdpa")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        trained = model.eval()(input_ids=ids).logits
        assert (trained - tiny_model("mixtral")(input_ids=ids).logits).abs().max() > 1e-3
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(tiny_model("mixtral"), tmp_path / "adapter")
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, trained)
    merged = merge_adapters(model, ids)
    torch.testing.assert_close(merged.model(input_ids=ids).logits, trained, atol=1e-4, rtol=0)
    without = adapter_parameters(LoraSection(r=2, target_modules=["q_proj"]), shape)
    assert adapter_parameters(lora, shape) - without == sum(sizes)

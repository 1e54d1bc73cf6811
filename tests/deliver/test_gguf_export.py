"""Real files through llama.cpp itself; slow, and only where the extra `export` is installed."""

import json
import os
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tests.data import mistral_tokenizer
from tests.deliver.test_gguf_crash import plant
from zephyr.cli.main import command_line
from zephyr.data.tokenize.templates import jinja_of
from zephyr.deliver.gguf import export as exporting
from zephyr.deliver.gguf import tensors
from zephyr.deliver.gguf.libraries import are_installed
from zephyr.deliver.gguf.vocabulary import NORMAL
from zephyr.errors import DataError, ModelError
from zephyr.models.adapters import add_lora, save_adapter
from zephyr.models.loading import save_model
from zephyr.models.source import Source
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.train_section import LoraSection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not are_installed(), reason="the extra export (gguf, llama-cpp-python) is not installed"),
]
CRASHES_WITH_EXTRA_BUFFERS = """
import ctypes, sys
place = __file__.rpartition("/llama_cpp/")[0]
sys.path.remove(place)
del sys.modules["llama_cpp"]
import llama_cpp
sys.path.insert(0, place)  # for the process that is started
class Crashing(llama_cpp.Llama):
    def eval(self, tokens):
        if self.model_params.use_extra_bufts:
            ctypes.string_at(0)
        super().eval(tokens)
llama_cpp.Llama = Crashing
"""
ALL = ("f16", "q8_0", "q4_k_m")


def saved(folder, name, tokenizer, *, sliding_window=None, **settings):
    """A tiny model whose logits vary as a trained one's do."""
    model = tiny_model(name, vocab_size=len(tokenizer), sliding_window=sliding_window, **settings)
    if name == "smollm3":
        model.config.no_rope_layers = [1, 1, 1, 0]  # what llama.cpp has for all of them
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(model, tokenizer, folder)
    return folder


def exported(folder, out, *formats, **settings):
    said = []
    done = exporting.export_gguf(
        exporting.ExportSettings(Source(str(folder), offline=True), "tiny", formats, out, **settings), said.append
    )
    return {one.form: one for one in done}, said


def with_template(tokenizer, *, bos):
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=bos))
    return tokenizer


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_tiny_models_are_proven_in_every_format(name, tmp_path):
    tokenizer = with_template(tiny_tokenizer(), bos=True)
    folder = saved(tmp_path / "model", name, tokenizer, hidden=64)
    done, _ = exported(folder, tmp_path / "out", *ALL)
    account = json.loads((tmp_path / "out" / "export_gguf.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "export_gguf.json",
        *(f"tiny-{form}.{ending}" for form in ALL for ending in ("gguf", "Modelfile")),
    }
    assert all(file["proven"] for file in account["files"].values())
    exact = done["f16"].proof
    assert (exact.templates, exact.greedy_equal + exact.greedy_ties) == (4, 4)
    assert exact.texts > 40
    assert exact.mean_logit_error < done["q8_0"].proof.mean_logit_error < done["q4_k_m"].proof.mean_logit_error
    # Rows of 64 numbers have no room for the blocks of 256 that Q4_K wants.
    assert set(done["q4_k_m"].held.fallbacks.values()) <= {"Q5_0", "Q5_1", "Q8_0"}
    assert done["q4_k_m"].held.fallbacks
    assert not done["f16"].held.fallbacks


def test_a_tiny_mixtral_is_proven(tmp_path):
    # Four bits move the router of random weights too far: that file is refused, and rightly.
    folder = saved(tmp_path / "model", "mixtral", with_template(tiny_tokenizer(), bos=True), hidden=64)
    done, _ = exported(folder, tmp_path / "out", "f16", "q8_0")
    assert done["f16"].proof.greedy_equal + done["f16"].proof.greedy_ties == 4
    assert done["f16"].proof.mean_logit_error < done["q8_0"].proof.mean_logit_error


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "phi3"])
def test_architectures_with_facts_of_their_own_are_proven(name, tmp_path):
    tokenizer = with_template(tiny_tokenizer(), bos=True)
    # A window of 8 where llama.cpp has windows too: every probe is longer.
    window = 8 if name.startswith("gemma") else None
    folder = saved(tmp_path / "model", name, tokenizer, hidden=64, layers=4, sliding_window=window)
    done, _ = exported(folder, tmp_path / "out", "f16")
    assert done["f16"].proof.greedy_equal + done["f16"].proof.greedy_ties == 4


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}),
        ("llama", {"rope_type": "linear", "factor": 2.0}),
        (
            "phi3",
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 512,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            },
        ),
    ],
)
def test_stretched_rotary_embeddings_are_proven(name, rope, tmp_path):
    tokenizer = with_template(tiny_tokenizer(), bos=True)
    model = tiny_model(name, vocab_size=len(tokenizer), sliding_window=None, hidden=64)
    model.config.rope_parameters = {**model.config.rope_parameters, **rope}
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(model, tokenizer, tmp_path / "model")
    done, _ = exported(tmp_path / "model", tmp_path / "out", "f16")
    assert done["f16"].proof.greedy_equal + done["f16"].proof.greedy_ties == 4


@pytest.mark.parametrize("bos", [False, True])
def test_a_sentencepiece_tokenizer_gives_the_same_ids(bos, tmp_path):
    folder = saved(tmp_path / "model", "llama", with_template(mistral_tokenizer.new(), bos=bos))
    done, said = exported(folder, tmp_path / "out", "f16")
    assert done["f16"].proof.templates == 4
    assert any("begin" in line for line in said)
    stored = "{{ ' ' }}" * (not bos) + jinja_of(ChatTemplateSection(name="zephyr", bos=bos))
    assert exporting.load_gguf().GGUFReader(done["f16"].path).fields["tokenizer.chat_template"].contents() == stored


def test_adapters_are_merged_first(tmp_path):
    tokenizer = with_template(tiny_tokenizer(), bos=True)
    base = saved(tmp_path / "base", "llama", tokenizer)
    model = add_lora(tiny_model("llama", vocab_size=len(tokenizer)), LoraSection(r=4))
    model.peft_config["default"].base_model_name_or_path = str(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    save_adapter(model, tmp_path / "adapter")
    plain, _ = exported(base, tmp_path / "plain", "f16")
    adapted, said = exported(tmp_path / "adapter", tmp_path / "adapted", "f16")
    account = json.loads((tmp_path / "adapted" / "export_gguf.json").read_text())
    assert 0 < account["adapters_merged_max_logit_difference"] < 1e-3
    assert said[0].startswith("adapters merged")
    assert adapted["f16"].proof.perplexity_of_model != plain["f16"].proof.perplexity_of_model


def test_a_file_that_says_something_else_is_refused(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", "llama", with_template(tiny_tokenizer(), bos=True))
    monkeypatch.setattr(tensors, "permute", lambda weight, num_heads: weight)
    with pytest.raises(ModelError, match=r"tiny-f16.gguf: differs from the model"):
        exported(folder, tmp_path / "out", "f16")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"export_gguf.json", "tiny-f16.gguf.unproven"}
    (file,) = json.loads((tmp_path / "out" / "export_gguf.json").read_text())["files"].values()
    assert not file["proven"]
    assert any("greedy" in failure for failure in file["proof"]["failures"])


def test_a_stop_in_the_middle_leaves_proven_files_alone(tmp_path):
    folder = saved(tmp_path / "model", "llama", with_template(tiny_tokenizer(), bos=True))
    settings = exporting.ExportSettings(Source(str(folder), offline=True), "tiny", ("q8_0", "f16"), tmp_path / "out")

    def stop_when_proven(text):
        if ": proven" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        exporting.export_gguf(settings, stop_when_proven)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"export_gguf.json", "tiny-q8_0.gguf", "tiny-q8_0.Modelfile"}, caught
    assert list(json.loads((tmp_path / "out" / "export_gguf.json").read_text())["files"]) == ["tiny-q8_0.gguf"]


def test_other_tokens_are_refused_and_said(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", "llama", with_template(tiny_tokenizer(), bos=True))
    convert = exporting.convert

    def wrong(*arguments):
        converted = convert(*arguments)
        # The texts of control tokens are then texts like others.
        kinds = (NORMAL,) * len(converted.header.vocabulary.kinds)
        header = replace(converted.header, vocabulary=replace(converted.header.vocabulary, kinds=kinds))
        return converted._replace(header=header)

    monkeypatch.setattr(exporting, "convert", wrong)
    with pytest.raises(ModelError, match=r"becomes .* instead of"):
        exported(folder, tmp_path / "out", "f16")


@pytest.mark.parametrize("name", ["a/b", "../a", ""])
def test_a_name_stays_in_its_folder(tmp_path, name):
    settings = exporting.ExportSettings(Source("none"), name, ("f16",), tmp_path)
    with pytest.raises(DataError, match="--name"):
        exporting.target_paths(settings)


def test_nothing_is_overwritten_without_a_word(tmp_path):
    folder = saved(tmp_path / "model", "llama", with_template(tiny_tokenizer(), bos=True))
    command = ["export", str(folder), "--gguf", "q8_0", "--out", str(tmp_path / "out"), "--name", "tiny", "--offline"]
    first = CliRunner().invoke(command_line("export"), command)
    assert first.exit_code == 0, first.output
    assert "tiny-q8_0.gguf: proven" in first.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "export_gguf.json",
        "tiny-q8_0.gguf",
        "tiny-q8_0.Modelfile",
    }
    again = CliRunner().invoke(command_line("export"), command)
    assert isinstance(again.exception, DataError)
    assert "exists already; give another --out, or --force" in str(again.exception)
    assert CliRunner().invoke(command_line("export"), [*command, "--force"]).exit_code == 0


@pytest.mark.parametrize("extra_buffers", [True, False])
def test_a_real_model_is_proven_with_and_without_extra_buffers(extra_buffers, tmp_path):
    named = os.environ.get("ZEPHYR_REAL_MODEL")
    if not named:
        pytest.skip("ZEPHYR_REAL_MODEL names no folder of a model with real weights")
    done, _ = exported(named, tmp_path, "f16", "q4_k_m", extra_buffers=extra_buffers)
    assert done["f16"].proof.greedy_equal + done["f16"].proof.greedy_ties == done["f16"].proof.greedy_compared
    # With them llama.cpp crashes on some machines, which costs no file.
    assert extra_buffers or not any(one.crash for one in done.values())


def test_a_crash_with_extra_buffers_is_said_and_gone_without(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", "llama", with_template(tiny_tokenizer(), bos=True))
    plant(tmp_path / "planted", CRASHES_WITH_EXTRA_BUFFERS, monkeypatch)
    done, said = exported(folder, tmp_path / "out", "q8_0")
    assert done["q8_0"].crash.startswith("crashed (SIGSEGV)")
    assert not done["q8_0"].proof.failures
    assert f"note: llama.cpp {done['q8_0'].crash} with its extra weight buffers" in said[-1]
    (file,) = json.loads((tmp_path / "out" / "export_gguf.json").read_text())["files"].values()
    assert file["crash_with_extra_buffers"] == done["q8_0"].crash

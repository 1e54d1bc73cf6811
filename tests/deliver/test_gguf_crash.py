"""Exports while llama.cpp really crashes; a package of its name stands in, so that it need not be compiled."""

import sys

import pytest

from zephyr.deliver.gguf import export as exporting
from zephyr.errors import ModelError
from zephyr.models.loading import save_model
from zephyr.models.source import Source
from zephyr.models.tiny import tiny_model, tiny_tokenizer

CRASHES = """
import ctypes, os, shutil, types
__version__ = "0"
llama_cpp = types.SimpleNamespace(llama_model_default_params=lambda: types.SimpleNamespace(use_extra_bufts=True))
def llama_model_quantize_default_params():
    return types.SimpleNamespace()
def llama_model_quantize(source, target, params):
    shutil.copy(source, target)
    if os.environ.get("CRASHES_EARLY"):
        ctypes.string_at(0)
    return 0
def Llama(path, **settings):
    os.write(2, b"load_tensors: loading\\n")
    ctypes.string_at(0)
"""


def plant(folder, source, monkeypatch):
    """Put a package of llama.cpp's name before the real one, here and in processes that are started."""
    (folder / "llama_cpp").mkdir(parents=True)
    (folder / "llama_cpp" / "__init__.py").write_text(source)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def export(tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="the extra export is not installed")
    plant(tmp_path / "planted", CRASHES, monkeypatch)
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")

    def run(*formats):
        source = Source(str(tmp_path / "model"), offline=True)
        exporting.export_gguf(exporting.ExportSettings(source, "tiny", formats, tmp_path / "out"), print)

    yield run
    sys.modules.pop("llama_cpp", None)


def test_a_crash_is_one_line_and_leaves_no_file(export, tmp_path, capfd):
    with pytest.raises(ModelError) as caught:
        export("q8_0", "f16")
    where = tmp_path / "out" / "tiny-q8_0.gguf"
    assert str(caught.value) == f"{where}: is not written: llama.cpp crashed (SIGSEGV); leave out that format"
    assert not (tmp_path / "out").exists()
    assert "load_tensors" not in "".join(capfd.readouterr())


def test_so_is_one_while_the_weights_are_quantized(export, tmp_path, monkeypatch):
    monkeypatch.setenv("CRASHES_EARLY", "1")
    with pytest.raises(ModelError, match=r"tiny-q4_k_m.gguf: is not written: llama.cpp crashed \(SIGSEGV\)"):
        export("q4_k_m")
    assert not (tmp_path / "out").exists()

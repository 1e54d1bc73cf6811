"""The notebooks, executed by a real kernel on a tiny model; what is kept in the repository has no outputs."""

import json
import os

import pytest

from tests.evaluation.harness.small_data import small_data

SMALL = {
    "quickstart": [
        'overrides = {"synth.generator.num_dialogues": 200, "synth.generator.num_pretrain_texts": 60}',
        'overrides |= {"synth.generator.num_feedback_prompts": 20, "pretrain.train.num_train_epochs": 1}',
        'overrides |= {"sft.train.num_train_epochs": 1, "sft.train.logging_steps": 1}',
        'until = "sft"',
    ],
    "own-data": [
        'model, lora = "model", {"r": 4}',
        'train = {"learning_rate": 1e-3, "max_steps": 3, "train_batch_size": 4, "logging_steps": 1}',
        'train |= {"precision": "float32", "offline": True}',
    ],
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_notebooks_hold_no_outputs_and_no_paths(name, repository):
    book = json.loads((repository / f"notebooks/{name}.ipynb").read_bytes())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1
    for cell in cells:
        compile("".join(cell["source"]), name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_kernel_runs_every_cell(name, repository, tiny_folder, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", f"{repository / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "model").symlink_to(tiny_folder)
    book = nbformat.read(repository / f"notebooks/{name}.ipynb", as_version=4)
    (chosen,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    chosen.source = "\n".join(SMALL[name])
    client = nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = json.dumps(book)
    assert "<svg" in shown
    assert (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_every_function_of_the_api_runs_in_a_kernel(repository, tiny_folder, tmp_path, monkeypatch):
    """The scripts of ten lines, a cell each."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for library in ("ipykernel", "datasets", "lm_eval"):
        pytest.importorskip(library)
    monkeypatch.setenv("PYTHONPATH", f"{repository / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "model").symlink_to(tiny_folder)
    small_data(tmp_path / "data")
    scripts = sorted((repository / "examples/python").glob("*.py"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(script.read_text()) for script in scripts])
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in book.cells)
    assert len(list((tmp_path / "runs").iterdir())) > 5

"""A model as verified GGUF files in a folder of their own, with Modelfiles for Ollama and a record of the proof.

A file gets its name once it is proven; one that fails is kept with `.unproven` behind its name.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from time import monotonic
from typing import NamedTuple, TypeVar

from zephyr.atomic import replace_text, sync
from zephyr.data.tokenize.templates import LAYOUTS, MessageLayout, jinja_of
from zephyr.deliver.gguf.conversion import Converted, MergedModel, convert, load_merged, stops_of
from zephyr.deliver.gguf.file import FORMATS, ReadBack, quantize, read_back, write_gguf
from zephyr.deliver.gguf.libraries import load_gguf, load_llama_cpp
from zephyr.deliver.gguf.process import Limits, ProcessFaultError, call_apart
from zephyr.deliver.gguf.proof import EXACT, Proof, Reference, prove
from zephyr.deliver.gguf.reference import make_reference
from zephyr.errors import DataError, ModelError, did_you_mean
from zephyr.models.source import Source
from zephyr.recipe.model_section import ChatTemplateSection

ACCOUNT = "export_gguf.json"
UNPROVEN = ".unproven"
_SHOWN_FAILURES = 3
_OLLAMA_NAMES = {"temp": "temperature"}
_QUOTES = '"""'
_LEAST_SECONDS = 600.0
_LEAST_BYTES = 2 << 30

R = TypeVar("R")


@dataclass(frozen=True)
class ExportSettings:
    """The model, the formats, and the folder and name of the files."""

    source: Source
    name: str
    formats: tuple[str, ...]
    folder: Path
    force: bool = False
    dtype: str = "float32"
    extra_buffers: bool = True  # of llama.cpp; left out in any case where they crash it
    num_threads: int = os.cpu_count() or 1


class Exported(NamedTuple):
    """One file, what it holds and how it was proven."""

    path: Path
    form: str
    held: ReadBack
    proof: Proof
    seconds: float  # to make it and to compare it
    crash: str = ""  # of llama.cpp with its extra buffers, without which it was compared then


def export_gguf(settings: ExportSettings, say: Callable[[str], None]) -> list[Exported]:
    """The files, all of them proven. Raises ModelError where one is not: it is kept as NAME.gguf.unproven."""
    paths = target_paths(settings)
    load_gguf()
    llama_cpp = load_llama_cpp()
    merged = load_merged(settings.source, dtype=settings.dtype)
    converted = convert(merged.loaded, settings.name, settings.source.name)
    for note in converted.notes:
        say(f"note: {note}")
    if merged.max_logit_difference is not None:
        say(f"adapters merged; logits of the probe changed by at most {merged.max_logit_difference:.2g}")
    exported = []
    # Closed, so that partial files go at once, whatever stops the loop.
    with _made_folder(settings.folder), closing(_proven(settings, paths, merged, converted)) as made:
        for one in made:
            exported.append(one)
            account = _account(settings, merged, converted, exported) | {"llama_cpp_python": llama_cpp.__version__}
            replace_text(settings.folder / ACCOUNT, json.dumps(account, indent=1, ensure_ascii=False))
            say(summary_of(one))
    _refuse_unproven(exported)
    return exported


def target_paths(settings: ExportSettings) -> dict[str, Path]:
    """The path of each format. Raises DataError for unknown formats and for files that exist already."""
    if not settings.name or Path(settings.name).name != settings.name:
        raise DataError("--name", f"must be a file name, got '{settings.name}'", "give the folder by --out")
    if not settings.formats:
        raise DataError("--gguf", "names no format", f"name some of {', '.join(FORMATS)}")
    for form in settings.formats:
        if form not in FORMATS:
            raise DataError("--gguf", f"unknown format '{form}'{did_you_mean(form, FORMATS)}", "name one of them")
    paths = {form: settings.folder / f"{settings.name}-{form}.gguf" for form in settings.formats}
    named = [place for path in paths.values() for place in (path, _unproven(path), _modelfile_path(path))]
    taken = [place for place in (*named, settings.folder / ACCOUNT) if place.exists()]
    if taken and not settings.force:
        raise DataError(str(taken[0]), "exists already", "give another --out, or --force to overwrite it")
    return paths


def summary_of(exported: Exported) -> str:
    """A file and its proof in a few lines of text."""
    held, proof = exported.held, exported.proof
    verdict = "NOT PROVEN" if proof.failures else "proven"
    ties = f" (and {proof.greedy_ties} but for a tie)" if proof.greedy_ties else ""
    spread = f"; they vary by {proof.logit_deviation:.3g}; best token the same: {proof.same_best_token:.1%}"
    seconds = f"{exported.seconds:.1f} seconds"
    change = f"{proof.perplexity_change:+.2%}, 95 % within {proof.perplexity_noise:.2%}"
    lines = [
        f"{exported.path.name}: {verdict}; {held.num_bytes:,} bytes, {held.bits_per_weight:g} bits a weight; {seconds}",
        f"compared: {proof.templates} rendered conversations, the ids of {proof.texts} texts",
        f"greedy continuations equal: {proof.greedy_equal} of {proof.greedy_compared}{ties}",
        f"logits off by {proof.mean_logit_error:.3g} on average, {proof.max_logit_error:.3g} at most{spread}",
        f"perplexity {proof.perplexity_of_model:.4f} -> {proof.perplexity:.4f} ({change})",
    ]
    if exported.crash:
        lines.append(
            f"note: llama.cpp {exported.crash} with its extra weight buffers, so it was compared without them; "
            "on this machine run it as llama-server --no-repack"
        )
    if held.fallbacks:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(held.fallbacks.values()).items())
        lines.append(f"note: llama.cpp fell back for {len(held.fallbacks)} matrices ({kinds})")
    return "\n  ".join((*lines, *(f"failure: {failure}" for failure in proof.failures[:_SHOWN_FAILURES])))


@contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """A folder, which goes again if it is new and nothing was written."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _proven(
    settings: ExportSettings, paths: dict[str, Path], merged: MergedModel, converted: Converted
) -> Generator[Exported, None, None]:
    """The files one by one as they are written and compared, each under its final name."""
    reference = make_reference(merged.loaded, converted.header)
    exact = _partial(settings, EXACT)
    try:
        write_gguf(exact, converted.header, converted.tensors)
        # The exact one last: the others are made from it before it gets its name.
        for form in sorted(paths, key=lambda form: form == EXACT):
            made, start = _partial(settings, form), monotonic()
            if form != EXACT:
                quantizing = partial(quantize, exact, made, form, num_threads=settings.num_threads)
                _in_llama_cpp(quantizing, _limits(exact), paths[form])
            proof, crash = _proof(settings, made, form, reference, paths[form])
            exported = Exported(paths[form], form, read_back(made, form), proof, monotonic() - start, crash)
            _name(made, exported, _modelfile(paths[form], merged, converted))
            yield exported
    finally:
        for form in (EXACT, *paths):
            _partial(settings, form).unlink(missing_ok=True)


def _proof(settings: ExportSettings, made: Path, form: str, reference: Reference, path: Path) -> tuple[Proof, str]:
    """The proof of a file, and how llama.cpp crashed if it did with its extra buffers. Raises ModelError."""
    limits = _limits(made, sum(logits.nbytes for logits in reference.logits))
    proving = partial(prove, made, form, reference, num_threads=settings.num_threads)
    crash = ""
    if settings.extra_buffers:
        try:
            return call_apart(partial(proving, extra_buffers=True), limits), crash
        except ProcessFaultError as fault:
            if not fault.crashed:
                raise _not_run(path, fault) from fault
            crash = str(fault)
    return _in_llama_cpp(partial(proving, extra_buffers=False), limits, path), crash


def _in_llama_cpp(function: Callable[[], R], limits: Limits, path: Path) -> R:
    """What a function returns that calls llama.cpp. Raises ModelError where that crashes or fails."""
    try:
        return call_apart(function, limits)
    except ProcessFaultError as fault:
        raise _not_run(path, fault) from fault


def _not_run(path: Path, fault: ProcessFaultError) -> ModelError:
    return ModelError(str(path), f"is not written: llama.cpp {fault}", "leave out that format")


def _limits(file: Path, num_bytes: int = 0) -> Limits:
    """Room for a file twice, for another layout of its weights, and for `num_bytes` of arrays; a minute for 100 MB."""
    size = file.stat().st_size
    return Limits(_LEAST_SECONDS + 60 * size / 1e8, _LEAST_BYTES + 3 * size + 2 * num_bytes)


def _name(made: Path, exported: Exported, text: str) -> None:
    """Give the file its name and write its Modelfile if it is proven; else mark it as unproven."""
    sync(made)
    for old in (exported.path, _unproven(exported.path), _modelfile_path(exported.path)):
        old.unlink(missing_ok=True)
    if exported.proof.failures:
        made.rename(_unproven(exported.path))
    else:
        made.rename(exported.path)
        replace_text(_modelfile_path(exported.path), text)


def _modelfile(path: Path, merged: MergedModel, converted: Converted) -> str:
    header, tokenizer = converted.header, merged.loaded.tokenizer
    parameters = {_OLLAMA_NAMES.get(name, name): float(value) for name, value in header.sampling.items()}
    parameters["num_ctx"] = float(header.sizes.context_length)
    # Ollama puts bos first if the file says so.
    begins = str(tokenizer.bos_token) if converted.writes_bos and not header.vocabulary.adds_bos else ""
    return modelfile(
        path.name,
        template=str(tokenizer.chat_template or ""),
        eos=str(tokenizer.eos_token),
        stops=stops_of(merged.loaded),
        parameters=parameters,
        starts_with=begins + " " * header.leading_space,
    )


def _account(
    settings: ExportSettings, merged: MergedModel, converted: Converted, exported: Sequence[Exported]
) -> dict[str, object]:
    return {
        "model": settings.source.name,
        "adapters_merged_max_logit_difference": merged.max_logit_difference,
        "compared_with": f"transformers in {settings.dtype}",
        "notes": converted.notes,
        "files": {
            one.path.name: {
                "proven": not one.proof.failures,
                "format": one.form,
                "seconds": round(one.seconds, 2),
                "crash_with_extra_buffers": one.crash,
                **asdict(one.held),
                "proof": one.proof.to_fields(),
            }
            for one in exported
        },
    }


def _refuse_unproven(exported: Sequence[Exported]) -> None:
    failed = [one for one in exported if one.proof.failures]
    if failed:
        first = failed[0]
        raise ModelError(
            ", ".join(one.path.name for one in failed),
            f"differs from the model: {first.proof.failures[0]}",
            f"it is kept as {_unproven(first.path).name}, do not publish it; {ACCOUNT} lists all differences",
        )


def _partial(settings: ExportSettings, form: str) -> Path:
    return settings.folder / f".{settings.name}-{form}.gguf.partial"


def _unproven(path: Path) -> Path:
    return path.with_name(path.name + UNPROVEN)


def _modelfile_path(path: Path) -> Path:
    return path.with_suffix(".Modelfile")


# ---- Modelfiles ----
#
# Ollama writes templates in Go's language and reads those in a GGUF file only by likeness to ones it knows, so ours are
# written out for it; another model's is left to Ollama.


def modelfile(
    file: str, *, template: str, eos: str, stops: Sequence[str], parameters: Mapping[str, float], starts_with: str = ""
) -> str:
    """The text of the Modelfile for `file` beside it.

    `eos`: the text of that token. `starts_with`: what Ollama does not put before a conversation by itself.
    """
    lines = [f"# ollama create NAME -f {file.removesuffix('.gguf')}.Modelfile", f"FROM ./{file}"]
    written = go_template(template, eos)
    if written is None:
        lines.append("# TEMPLATE: the one in the file, if Ollama knows one like it; `ollama show` tells")
    else:
        lines.append(f"TEMPLATE {_QUOTES}{starts_with}{written}{_QUOTES}")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def go_template(template: str, eos: str) -> str | None:
    """The chat template in Go's language; None for one that is not ours or that Go cannot express."""
    for (name, layout), empty_system, bos in product(LAYOUTS.items(), (False, True), (False, True)):
        section = ChatTemplateSection(name=name, empty_system=empty_system, bos=bos)
        if jinja_of(section) == template and not layout.strips:
            return _written(layout, layout.stop or eos, empty_system=empty_system)
    return None


def _written(layout: MessageLayout, stop: str, *, empty_system: bool) -> str:
    end = f"{stop}{layout.tail}"
    header = layout.header.format(role="{{ .Role }}")
    system = layout.header.format(role="system")
    first = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{system}{end}{{{{ end }}}}' if empty_system else ""
    messages = f"{{{{ range .Messages }}}}{header}{{{{ .Content }}}}{end}{{{{ end }}}}"
    return first + messages + layout.header.format(role="assistant")

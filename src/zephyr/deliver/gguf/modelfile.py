"""The Modelfile with which Ollama takes a GGUF file in: its template, where to stop, and how to sample.

Ollama writes templates in Go's language and reads those in the file only by likeness to ones it knows, so ours are
written out for it; another model's is left to Ollama.
"""

from collections.abc import Mapping, Sequence
from itertools import product

from zephyr.data.tokenize.templates import LAYOUTS, MessageLayout, jinja_of
from zephyr.recipe.model_section import ChatTemplateSection

_QUOTES = '"""'


def modelfile(
    file: str, *, template: str, eos: str, stops: Sequence[str], parameters: Mapping[str, float], starts_with: str = ""
) -> str:
    """The text of the Modelfile for `file` beside it.

    `eos`: what the template writes where it names that token. `starts_with`: what nobody but the template puts first.
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
    """The chat template in Go's language, if it is one of ours that can be said in it."""
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

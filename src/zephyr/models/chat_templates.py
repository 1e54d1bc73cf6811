"""Chat templates from outside: a Jinja file, or the template of another model's tokenizer, in a folder or on the hub.

Nothing here imports torch. A template is only read here; `OwnTemplate` renders it in a sandbox with limits.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from transformers.utils.hub import cached_file

from zephyr.errors import RecipeError
from zephyr.recipe.model_section import FileTemplateSection, TemplateText
from zephyr.records.fields import Json, printable

KEY = "chat_template.path"
# The names of transformers: a template in a file of its own, the settings that hold it, and the tokens.
_JINJA, _CONFIG, _TOKENIZER = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"
_MOST_BYTES = 1 << 28
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.jinja)(?<!\.json)(?<!\.txt)(?<!\.j2)", re.ASCII)


def read_chat_template(section: FileTemplateSection, *, data_dir: Path, offline: bool) -> TemplateText:
    """The template that a section names. Raises RecipeError."""
    place, where = data_dir / Path(section.path).expanduser(), f"chat template {printable(section.path)}"
    if place.is_file():
        return TemplateText(_template_in(place), where)
    if place.is_dir():
        files = {name: place / name for name in (_JINJA, _CONFIG, _TOKENIZER) if (place / name).is_file()}
    elif _HUB_ID.fullmatch(section.path) and not place.parent.is_dir():
        files = _files_on_hub(section, offline=offline)
    else:
        what = f"there is no such file or folder, got {printable(str(place.absolute()))}"
        raise RecipeError(KEY, what, "name a Jinja file, or the folder or hub id of a tokenizer; relative to data_dir")
    holders = [files[name] for name in (_JINJA, _CONFIG) if name in files]
    found = next((text for text in map(_template_in, holders) if text), "")
    if not found:
        where_not = "in the local cache of the hub" if offline else "on the hub"
        is_here = f"holds no chat template ({_JINJA}, or chat_template in {_CONFIG})"
        is_not_here = f"is no local file or folder, and no chat template of it is {where_not}"
        what = f"{printable(section.path)} {is_here if place.is_dir() else is_not_here}"
        raise RecipeError(KEY, what, "name the tokenizer of an instruct model, or a Jinja file")
    return TemplateText(found, where, tuple(_controls_in(files)))


def _files_on_hub(section: FileTemplateSection, *, offline: bool) -> dict[str, Path]:
    """The files of a tokenizer on the hub, or in its cache; those that are not there are left out."""
    files = {}
    try:
        for name in (_JINJA, _CONFIG, _TOKENIZER):
            found = cached_file(
                section.path,
                name,
                revision=section.revision or "main",
                local_files_only=offline,
                _raise_exceptions_for_missing_entries=False,
            )
            if found is not None:
                files[name] = Path(found)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        what = f"{section.path} is no local file or folder, and cannot be read from the hub ({reason})"
        raise RecipeError(KEY, what, "download it once while online, or name a file") from error
    return files


def _template_in(file: Path) -> str:
    """The template in a file: its text, or that of the key chat_template where it is JSON; empty without one."""
    text = _read(file)
    if file.suffix != ".json":
        return text
    value = _json(file, text).get("chat_template")
    if isinstance(value, list):
        named = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


def _controls_in(files: dict[str, Path]) -> Iterator[str]:
    """The texts of the tokens that a tokenizer has added to its vocabulary, control tokens among them."""
    if _CONFIG in files:
        config = _json(files[_CONFIG], _read(files[_CONFIG]))
        decoder = config.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            yield from _contents(list(decoder.values()))
            return
    if _TOKENIZER in files:
        added = _json(files[_TOKENIZER], _read(files[_TOKENIZER])).get("added_tokens")
        yield from _contents(added if isinstance(added, list) else [])


def _contents(tokens: list[Json]) -> Iterator[str]:
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        # Runs of white space and single words are tokens too, but no marks of a template.
        if isinstance(content, str) and len(content) > 1 and not content.isspace() and not content.isalnum():
            yield content


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise RecipeError(
                KEY, f"{printable(str(file))} is no template: it has over {_MOST_BYTES:,} bytes", "name one"
            )
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(KEY, f"{printable(str(file))} cannot be read ({error})", "save it as UTF-8 text") from error


def _json(file: Path, text: str) -> dict[str, Json]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecipeError(KEY, f"{printable(str(file))} is not JSON ({error})", "fetch it again") from error
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}

"""Templates filled in: HTML that escapes every value, and Markdown whose template says what it escapes."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from zephyr.records.fields import printable

_FOLDER = Path(__file__).parent / "templates"


def render_html(template: str, values: Mapping[str, object]) -> str:
    """The page of a template. Whatever a value holds is shown as text: no markup, no invisible characters."""
    return _HTML.get_template(template).render(values)


def render_markdown(template: str, values: Mapping[str, object]) -> str:
    """The text of a template; its filter `one_line` makes a value fit for a line or a table's cell."""
    return _MARKDOWN.get_template(template).render(values)


def on_one_line(text: str) -> str:
    """The text on one line, unable to end its cell or to be HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _visible(value: object) -> object:
    """A text with its invisible characters written out, line by line; Markup, which a macro has made, as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(printable(line) for line in value.splitlines())


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )


_HTML = _environment()
# Markdown has no escape for all places; our templates and no others are rendered.
_MARKDOWN = _environment().overlay(autoescape=False, finalize=None)
_MARKDOWN.filters["one_line"] = on_one_line

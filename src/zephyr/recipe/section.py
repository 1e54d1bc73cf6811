"""The base class of a recipe's sections: a frozen record that rejects unknown keys."""

from typing import ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"
# Marks a field that only affects how work is done, logged, saved or paid for, never a result.
FREE: dict[str, JsonValue] = {"changes_result": False}
# Marks a field that was added later: at its default, stages that were finished without it stay finished.
ADDED: dict[str, JsonValue] = {"changes_result": "unless it is the default"}
# Marks a field that is FREE since stages were finished that depend on it: those with its default stay finished.
FREED: dict[str, JsonValue] = {"changes_result": "no longer"}

# The name of a repository on the hub.
REPO = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    #: What a message about an unknown choice adds, where this section is one of those to choose from.
    choice_hint: ClassVar[str] = ""

    def result_settings(self) -> dict[str, Plain]:
        """The settings that a result depends on, as plain nested values: all but FREE fields and ADDED defaults.

        FREED fields are among them, always with their default.
        """
        fields = type(self).model_fields
        freed = {name: field.default for name, field in fields.items() if field.json_schema_extra == FREED}
        section = self.model_copy(update=freed)
        plain = section.model_dump(mode="json")
        return {
            name: _result_settings(getattr(section, name), plain[name])
            for name, field in fields.items()
            if field.json_schema_extra != FREE
            and not (field.json_schema_extra == ADDED and getattr(section, name) == field.default)
        }


def _result_settings(value: object, plain: Plain) -> Plain:
    """The plain form of a field's value, without what is FREE in the sections that it holds."""
    if isinstance(value, Section):
        return value.result_settings()
    if isinstance(value, list | tuple) and isinstance(plain, list):
        return [_result_settings(item, of) for item, of in zip(value, plain, strict=True)]
    return plain

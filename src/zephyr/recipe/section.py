"""What every section of a recipe is: a frozen record that knows all its keys and refuses others."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

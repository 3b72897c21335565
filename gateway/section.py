"""The base of every section of the configuration, and the few scalar types that they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Frozen, strict about its keys, and quiet about its values: an error never repeats what was written.

    A key that is written with nothing behind it counts as left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_written(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return data


def _name(text: str) -> str:
    if not text or len(text) > 200 or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a name is 1 to 200 printable characters without spaces")
    if "*" in text:
        raise ValueError("a name cannot hold a wildcard; each model is listed by its own name")
    return text


# YAML's true is an int to Python and "1" is one to pydantic: numbers and flags are taken strictly.
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**12)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(strict=True), AfterValidator(_name)]

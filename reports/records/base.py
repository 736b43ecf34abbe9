"""All records are immutable, and keep fields of other versions."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def printable_values(value: Any) -> Any:
    r"""Return a document with ``\xfc`` in its strings where a path has a byte that is not UTF-8.

    A path is such a string (PEP 383), and no JSON document can hold it as it is.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {printable_values(key): printable_values(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [printable_values(found) for found in value]
    return value


class Record(BaseModel):
    """A record is immutable, and unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1

    @model_validator(mode="before")
    @classmethod
    def _printable(cls, values: Any) -> Any:
        return printable_values(values)

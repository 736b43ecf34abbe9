"""All records are immutable, and keep fields of other versions."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A record is immutable, and unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1

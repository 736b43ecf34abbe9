"""What all records have in common."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1

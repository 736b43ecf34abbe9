"""Facts are what a model file says about itself; they travel inside it."""

import contextlib
import importlib.metadata
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.data.dataset import class_name
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.architecture import Task
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.reports.records.base import printable_values

METADATA_KEY = "mobilenet_cli"


class Facts(BaseModel):
    """Facts travel inside a model file, so that the file alone is enough to use it.

    Attributes:
        stage: which stage made the file.
        parent: SHA-256 of the file it was made from; None at the start of a chain.
        config: the stage's settings.
        versions: of the libraries that took part.
        model: the network, where it is one of ours.
        input: how an image becomes the input.
        classes: identifier of each output.
        names: what people call each class, where the identifiers are codes such as synsets.
        data: the data set the weights were trained on, as ``open_dataset`` takes it; None if
            unknown.
        grids: that the weights were trained on (``train --qat``), of each tensor that becomes
            codes, in the order of computation; empty otherwise.
        boxes: how the raw outputs of a detector become boxes; None of a classifier.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    stage: str
    parent: str | None = None
    config: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    model: ModelSpec | None = None
    input: InputSpec
    classes: tuple[str, ...]
    names: tuple[str, ...] = ()
    data: str | None = None
    grids: tuple[Grid, ...] = ()
    boxes: BoxSpec | None = None

    @property
    def task(self) -> Task:
        """Return what the model is for."""
        return "detection" if self.boxes else "classification"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return what people call each class: its name, or its identifier where it has none."""
        return self.names or self.classes

    def class_of(self, index: int) -> tuple[str, str]:
        """Return the identifier and the label of an output; its index where classes are unknown."""
        if not self.classes:
            return str(index), str(index)
        return self.classes[index], self.labels[index]

    @model_validator(mode="before")
    @classmethod
    def _printable(cls, values: Any) -> Any:
        return printable_values(values)

    @field_validator("classes")
    @classmethod
    def _spelled(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(class_name, classes))

    @model_validator(mode="after")
    def _check(self) -> "Facts":
        if "\0" in (self.data or ""):
            raise ValueError("no data set has a name with NUL")
        if self.names and len(self.names) != len(self.classes):
            raise ValueError(f"{len(self.names)} names for {len(self.classes)} classes")
        if self.boxes and self.input.convention != "stretch":
            raise ValueError("a detector sees whole images, stretched")
        if self.boxes and len(self.boxes.columns) != len(self.classes):
            raise ValueError(f"{len(self.boxes.columns)} scores for {len(self.classes)} classes")
        return self

    @field_serializer("input", mode="wrap")
    def _input(self, spec: InputSpec, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what files before it did not say, so that the same model is the same file."""
        written: dict[str, Any] = write(spec)
        if spec.convention == "keras":
            written.pop("convention", None)
        return written

    @model_serializer(mode="wrap")
    def _whole(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of a classifier what files before detectors did not have, likewise."""
        written: dict[str, Any] = write(self)
        if self.boxes is None:
            written.pop("boxes", None)
        return written


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed versions of ours and the named distributions, without absent ones."""
    found = {}
    for name in ("mobilenet-cli", *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found

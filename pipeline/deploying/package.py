"""A package is a folder with one model for every CPU; it is read, checked and tried here."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue, ValidationError

from mobilenet_cli.pipeline.artifacts.files import PACKAGE_MANIFEST, is_package, sha256_file
from mobilenet_cli.pipeline.deploying.probe import is_right
from mobilenet_cli.pipeline.errors import ModelError, ProviderError
from mobilenet_cli.pipeline.runtime.session import CPU, SessionConfig, open_session
from mobilenet_cli.reports.records.deployment import PackageRecord, VariantRecord

VERSION = PackageRecord.model_fields["schema_version"].default


@dataclass(frozen=True)
class Package:
    """A package has been read, and its files are those of the manifest.

    Attributes:
        folder: where it is.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: PackageRecord

    def as_document(self) -> dict[str, JsonValue]:
        """Return the package as JSON: where it is, and its manifest."""
        return {"package": str(self.folder)} | self.manifest.model_dump(mode="json")

    def pick(self, provider: str = CPU) -> VariantRecord:
        """Return the first variant that answers the probe rightly on this machine.

        Raises:
            ProviderError: none does, or the provider refuses the last that could.
        """
        probe, here = self.manifest.probe, platform.machine()
        refused: ProviderError | None = None
        pixels = np.fromfile(self.folder / probe.file, np.uint8).reshape(probe.shape)
        for variant in self.manifest.variants:
            if here not in (variant.machines or [here]):
                continue
            try:
                session = open_session(self.folder / variant.pixels.model, SessionConfig(provider))
            except ProviderError as error:  # such as integers on a GPU
                refused = error
            else:
                if is_right(variant, pixels, session):
                    return variant
        if refused is not None:
            raise refused
        tried = ", ".join(variant.target for variant in self.manifest.variants)
        raise ProviderError(
            f"this CPU cannot run {tried} of {self.folder} rightly",
            "Deploy again with the target that 'mobilenet-cli doctor' names",
        )


def open_package(folder: Path) -> Package:
    """Read a package, and check that its files are those that were proven.

    Raises:
        ModelError: there is no manifest, it is of another version, or a file was changed.
    """
    again = "Make the package again with 'mobilenet-cli deploy'"
    listed = folder / PACKAGE_MANIFEST
    try:
        document = json.loads(listed.read_bytes())
        version = document["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{listed} is no manifest of a package", again) from error
    if version != VERSION:
        raise ModelError(
            f"{listed} is of version {version}, and this program reads {VERSION}",
            "Use the version of mobilenet-cli that made it, or make the package again",
        )
    try:
        manifest = PackageRecord.model_validate(document)
    except ValidationError as error:
        raise ModelError(
            f"{listed} cannot be read ({error.error_count()} errors)", again
        ) from error
    for name, sha256 in manifest.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise ModelError(f"{folder} lacks {name}, which its manifest lists", again)
        if sha256_file(path) != sha256:
            raise ModelError(f"{folder / name} is not the file that was proven: it changed", again)
    return Package(folder, manifest)


def model_in(path: Path, provider: str = CPU) -> Path:
    """Return a model file, or of a package the file that the provider runs rightly here.

    Raises:
        ModelError: the package is damaged.
        ProviderError: this machine runs none of its variants.
    """
    if not is_package(path):
        return path
    return path / open_package(path).pick(provider=provider).pixels.model

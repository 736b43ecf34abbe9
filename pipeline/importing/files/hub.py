"""Weights come from the Hugging Face hub cached, resumed and pinned to a commit.

The cache, resuming and the offline mode (``HF_HUB_OFFLINE=1``) are huggingface_hub's own.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mobilenet_cli.pipeline.errors import ModelError, OptionError, need
from mobilenet_cli.pipeline.importing.files.tensorflow_files import checkpoint_index

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".onnx", ".pb", ".pt", ".pth", ".safetensors", ".tar"}
)
CONFIGURATION = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot has a repository's files on this disk, all of one commit."""

    weights: Path
    commit: str


def is_repository(source: str) -> bool:
    """Tell a hub id such as ``google/mobilenet_v1_1.0_224`` from a path."""
    path = Path(source)
    return (
        bool(REPOSITORY.fullmatch(source))
        and path.suffix not in FILE_SUFFIXES
        and not path.exists()
        and checkpoint_index(path) is None
    )


def download(repository: str, revision: str | None) -> Snapshot:
    """Fetch a repository's configuration and weights, safetensors where it has them.

    Args:
        repository: owner and name.
        revision: branch, tag or commit; None takes the main branch.

    Raises:
        ModelError: it cannot be reached and is not in the cache; says which file to fetch.
        OptionError: the revision does not exist.
    """
    what = f"{repository} is on the Hugging Face hub, and is fetched by huggingface_hub"
    need("huggingface_hub", what, ModelError)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    pinned = revision
    try:
        for name in WEIGHTS:
            folder = Path(
                snapshot_download(
                    repository, revision=pinned, allow_patterns=[name, *CONFIGURATION]
                )
            )
            pinned = folder.name  # .../snapshots/<commit>: the second file comes from the same
            if (folder / name).is_file() and (folder / CONFIGURATION[0]).is_file():
                return Snapshot(folder / name, pinned)
    except RevisionNotFoundError as error:
        raise OptionError(
            f"{repository} has no revision '{revision}'", "Pass a branch, tag or commit of it"
        ) from error
    except Exception as error:  # the network fails in many ways, through several libraries
        raise ModelError(
            f"{repository} is no file or folder here, and cannot be downloaded from the Hugging "
            f"Face hub ({' '.join(str(error).split())[:150]})",
            _by_hand(repository, revision),
        ) from error
    raise ModelError(
        f"{repository} has no {CONFIGURATION[0]} with {' or '.join(WEIGHTS)}, or they were never "
        "downloaded completely",
        _by_hand(repository, revision),
    )


def _by_hand(repository: str, revision: str | None) -> str:
    return (
        f"Fetch https://huggingface.co/{repository}/resolve/{revision or 'main'}/{WEIGHTS[0]} "
        f"with {' and '.join(CONFIGURATION)} into a folder where there is a network, and pass "
        "that folder to 'mobilenet-cli import'"
    )

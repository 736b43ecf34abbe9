"""These errors are everything that can go wrong in a way the user can mend.

::

    MobilenetError          a sentence that says what is wrong, and one that says what to do
    ├── OptionError         an option's value makes no sense (``--width 0``)
    ├── DataError           images: a missing folder, an unreadable picture, unknown labels
    │   ├── TooLargeError   an image, or what it takes to decode it, is larger than allowed
    │   └── NotFiniteError  a model's answer for an image is NaN or infinite
    ├── ModelError          a model file: not ONNX, truncated, another width, external data
    ├── CheckError          a stage's own proof failed; what it made was thrown away
    ├── ProviderError       the execution provider asked for cannot run this model here
    │   └── EngineError     an engine beside ONNX Runtime cannot; the other rows go on without it
    └── StorageError        the disk is full, a folder is read-only, a file is in the way

Any other exception is a bug of ours and may show a traceback.
This module imports no other of the project, so that every package may raise these, and count in
sentences.
"""

import importlib.util
from collections.abc import Sequence

LONGEST = 2000  # characters of a sentence: a name in somebody's file may have millions
END = 500  # of them are its end, which says what is wrong


def counted(count: float, noun: str, plural: str = "") -> str:
    """Say ``1 epoch``, ``1,200 epochs``; the plural is that with an s unless it is given."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun if count == 1 else plural or noun + 's'}"


def examples(names: Sequence[str], most: int = 3) -> str:
    """Name all in ``: a, b``, or where they are more than ``most``, some in ``, such as a, b``."""
    shown = ", ".join(names[:most])
    return f": {shown}" if len(names) <= most else f", such as {shown}"


class MobilenetError(Exception):
    """A problem is stated as two sentences without full stops: what is wrong, and how to fix it."""

    def __init__(self, what: str, fix: str) -> None:
        what, fix = (
            s if len(s) <= LONGEST else f"{s[: LONGEST - END]}...{s[-END:]}" for s in (what, fix)
        )
        super().__init__(f"{what}. {fix}.")
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[type["MobilenetError"], tuple[str, str]]:
        # Exceptions are rebuilt from their arguments when they cross a process boundary.
        return type(self), (self.what, self.fix)


class OptionError(MobilenetError):
    """An option or configuration value cannot be used."""


class DataError(MobilenetError):
    """Images, labels or the folder they should be in cannot be used."""


class TooLargeError(DataError):
    """An image, or the memory that it takes to decode it, is larger than allowed."""


class NotFiniteError(DataError):
    """A model's output for an image is NaN or infinite, so there is no answer for that image."""


class ModelError(MobilenetError):
    """A model or checkpoint file cannot be used."""


class CheckError(MobilenetError):
    """A postcondition failed: the result was not what the stage promises, so it was not kept."""


class ProviderError(MobilenetError):
    """The execution provider asked for cannot run the model on this machine."""


class EngineError(ProviderError):
    """An engine beside ONNX Runtime cannot run a model, so it has no row in the benchmark."""


class StorageError(MobilenetError):
    """A file could not be written, or must not be overwritten."""


# Packages of this project's extras, by the name under which Python imports them.
EXTRAS = {
    "torch": "train",
    "simplejpeg": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "onnxruntime": "cpu",
    "h5py": "import",
    "huggingface_hub": "import",
    "pyarrow": "parquet",
    "ray": "ray",
    "google_crc32c": "tfrecord",
    "tensorboardX": "tensorboard",
    "tensorflow": "tensorflow",
    "mlperf_loadgen": "mlperf",
    "pycocotools": "detect",
    "yaml": "detect",
    "ai_edge_litert": "litert",
    "flatbuffers": "litert",
    "onnxruntime_extensions": "jpeg",
    "openvino": "engines",
    "ncnn": "ncnn",
    "pnnx": "ncnn",
    "onnxruntime_ep_openvino": "openvino",
    "starlette": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
}


def missing_extra(module: str | None) -> OptionError | None:
    """Return what to tell a user who lacks a package; None where it belongs to no extra."""
    package = (module or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    choice = '"mobilenet-cli[cpu]", or [gpu]' if extra == "cpu" else f'"mobilenet-cli[{extra}]"'
    return OptionError(
        f"this needs the package {package}, which is not installed",
        f"Install it with pip install {choice}; in a clone, 'make install' brings everything",
    )


def need(module: str, what: str, kind: type[MobilenetError] = OptionError) -> None:
    """Refuse to go on without a package of an extra, before it is imported.

    Args:
        module: the name under which Python imports it.
        what: what needs it, as the beginning of a sentence that ends in the package's name.
        kind: of the error.
    """
    if importlib.util.find_spec(module) is None:
        missing = missing_extra(module)
        assert missing is not None  # every package that is needed so belongs to an extra
        raise kind(f"{what}, which is not installed", missing.fix)


def mendable(error: Exception) -> MobilenetError | None:
    """Return an error with a sentence for the user; None for a bug."""
    if isinstance(error, MobilenetError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error.name)
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return MobilenetError(str(error), "Check the path")
    return MobilenetError(str(error), "Check the disk's free space and the permissions")


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a stage, which has saved its state.

    Args:
        what: a sentence for the user.
        status: the exit status with which a shell shows the signal, such as 130 for Ctrl-C.
    """

    def __init__(self, what: str, status: int) -> None:
        super().__init__(what)
        self.status = status

"""Distillation: a trained network's logits are part of the loss of a student.

The loss is ``(1 - a) CE(labels, s) + a T^2 KL(softmax(t / T), softmax(s / T))`` with student's
logits ``s``, teacher's ``t``, temperature ``T`` and part ``a`` (Hinton et al., arXiv:1503.02531,
section 2). The teacher sees the same augmented images as the student, in its own size and
normalization.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.artifacts.onnx_graph import output_kind
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.runtime.predictor import logits_of
from mobilenet_cli.pipeline.runtime.session import CPU, CUDA, SessionConfig, open_session
from mobilenet_cli.pipeline.training.augmentation import normalization

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Teacher:
    """A teacher is a network that is not trained.

    Attributes:
        network: maps images [n, 3, H, W] in the teacher's size and normalization to [n, outputs].
        input: how images are prepared for the teacher.
        student: how images are prepared for the student.
        order: the position among the teacher's outputs of each of the student's classes.
    """

    network: "Network"
    input: InputSpec
    student: InputSpec
    order: tuple[int, ...]

    def logits(self, images: "torch.Tensor") -> "torch.Tensor":
        """Return logits [n, classes], in the student's order, of its images [n, 3, R, R]."""
        import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

        mean, std = normalization(self.student, images.device)
        images = images * std + mean
        if self.student.channels != self.input.channels:
            images = images.flip(1)
        side = self.input.resolution
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        mean, std = normalization(self.input, images.device)
        return self.network((images - mean) / std)[:, list(self.order)]


def open_teacher(
    artifact: Artifact, student: InputSpec, classes: tuple[str, ...], device: "torch.device"
) -> Teacher:
    """Load a teacher, an ONNX file or a checkpoint.

    Args:
        artifact: the teacher's file.
        student: how images are prepared for the student.
        classes: the classes that the student is to tell apart.
        device: the device of the training.

    Raises:
        ModelError: the file cannot be used.
        OptionError: the teacher does not know all of the classes, or sees gray images.
    """
    known = {name: index for index, name in enumerate(artifact.facts.classes)}
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise OptionError(
            f"the teacher {artifact.path} does not know {len(unknown)} of the {len(classes)} "
            f"classes, such as '{unknown[0]}'",
            "Choose a teacher that was trained on the same classes",
        )
    if artifact.facts.input.channels == "gray":
        raise OptionError(
            f"the teacher {artifact.path} sees gray images", "Choose a teacher that sees colours"
        )
    network = _torch(artifact, device) if artifact.is_checkpoint else _onnx(artifact, device)
    return Teacher(network, artifact.facts.input, student, tuple(known[name] for name in classes))


def _torch(artifact: Artifact, device: "torch.device") -> "Network":
    import torch

    network = load_network(artifact).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return lambda images: network(images)


def _onnx(artifact: Artifact, device: "torch.device") -> "Network":
    import torch

    provider = CUDA if device.type == "cuda" else CPU
    session = open_session(artifact.path, SessionConfig(provider=provider))
    name, kind = session.get_inputs()[0].name, output_kind(load_onnx(artifact.path).graph)

    def logits(images: torch.Tensor) -> torch.Tensor:
        found = session.run(None, {name: images.contiguous().cpu().numpy()})[0]
        return torch.from_numpy(logits_of(found, kind)).to(device)

    return logits


def distillation_loss(
    student: "torch.Tensor", teacher: "torch.Tensor", temperature: float
) -> "torch.Tensor":
    """Compute ``T^2 KL(softmax(t / T), softmax(s / T))``, the mean over images.

    Args:
        student: the student's logits [n, classes].
        teacher: the teacher's logits [n, classes].
        temperature: the temperature T, which softens both.

    Raises:
        DataError: the teacher's logits are not finite.
    """
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    if not teacher.isfinite().all():
        raise DataError("the teacher gives NaN or infinity", "Choose another --teacher")
    divergence = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2

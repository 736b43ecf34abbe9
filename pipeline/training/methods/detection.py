"""What is different in training where the network is a detector: targets, loss and validation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.augment import MAX_STRENGTH, generator_of
from mobilenet_cli.data.augment_boxes import Window, draw_window, look_through, other_light
from mobilenet_cli.data.boxes.box_dataset import BoxDataset, Boxes, BoxImage
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.loader import OnBad, batches
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.detections import Detections, NmsConfig, detect
from mobilenet_cli.pipeline.errors import DataError, counted
from mobilenet_cli.pipeline.evaluating.average_precision import measure
from mobilenet_cli.pipeline.training.augmentation import normalized, shares_of
from mobilenet_cli.pipeline.training.methods.multibox import match, multibox_loss
from mobilenet_cli.pipeline.training.recipes import Recipe

if TYPE_CHECKING:
    import torch

VALIDATION_BATCH = 16
WHOLE = Window(0.0, 0.0, 1.0, 1.0, mirrored=False)


@dataclass(frozen=True)
class DetectionTask:
    """This is what a detector learns.

    Attributes:
        boxes: what the network's outputs mean.
        images: the images to train on with their objects.
        validation: the images held out.
    """

    boxes: BoxSpec
    images: BoxDataset
    validation: BoxDataset

    def prepared(
        self,
        batch: TrainBatch,
        recipe: Recipe,
        spec: InputSpec,
        device: "torch.device",
        draw: tuple[int, ...],
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Make of a batch what the network trains on.

        Args:
            batch: the decoded images.
            recipe: how they are augmented.
            spec: the normalization and the order of channels.
            device: the device that computes it.
            draw: the seed, epoch, step and rank from which all random numbers follow.

        Returns:
            The network's input [n, 3, R, R], and the targets [n, A, 5] of ``multibox.match``.
        """
        import torch

        generator = generator_of(*draw)
        windows = [draw_window(generator, recipe.zoom, mirror=True) for _ in batch.indices]
        images = look_through(shares_of(batch, device), windows)
        if recipe.magnitude:
            images = other_light(images, generator, recipe.magnitude / MAX_STRENGTH)
        targets = [
            self.targets(self.images.images[index], window)
            for index, window in zip(batch.indices, windows, strict=True)
        ]
        return normalized(images, spec), torch.from_numpy(np.stack(targets)).to(device)

    def targets(self, image: BoxImage, window: Window) -> NDArray[np.float32]:
        """Say what each anchor should find in an image that is seen through a window: [A, 5]."""
        whole = np.array([*image.size, *image.size], np.float32)
        corners, kept = window.boxes(image.boxes.corners / whole)
        classes, ignored = image.boxes.classes[kept], image.boxes.ignored[kept]
        return match(self.boxes, corners, classes, ignored)

    def validate(
        self,
        network: "torch.nn.Module",
        dataset: Dataset,
        spec: InputSpec,
        device: "torch.device",
        tick: Callable[[int], None],
        on_bad: OnBad,
    ) -> tuple[float, float, float]:
        """Return AP50 and AP of the held-out images that can be read, 0..1, and the mean loss.

        Raises:
            DataError: none can be read.
        """
        import torch

        network.eval()
        truth: list[Boxes] = []
        found: list[Detections] = []
        losses = 0.0
        nms = NmsConfig(max_overlap=self.boxes.max_overlap)
        with torch.inference_mode():
            for batch in batches(dataset.samples, spec, VALIDATION_BATCH, on_bad=on_bad):
                outputs = network(torch.from_numpy(batch.images).to(device))
                rows = [self.targets(self.validation.images[i], WHOLE) for i in batch.indices]
                wanted = torch.from_numpy(np.stack(rows)).to(device)
                loss = multibox_loss(outputs[0], outputs[1], wanted)
                losses += float(loss) * len(rows)
                raw = (output.float().cpu().numpy() for output in outputs)
                for index, boxes, logits in zip(batch.indices, *raw, strict=True):
                    own = self.validation.images[index]
                    truth.append(own.boxes)
                    found.append(detect(boxes, logits, self.boxes, own.size, nms))
                tick(batch.indices[-1] + 1)
        if not found:
            raise DataError(
                f"none of the held-out images of {dataset.name} can be read",
                "Check that the files are images",
            )
        stats = measure(truth, found, len(self.images.classes)).stats
        return max(0.0, float(stats[1])), max(0.0, float(stats[0])), losses / len(found)


def check_objects(dataset: BoxDataset) -> None:
    """Refuse a set to train on that has no object.

    Raises:
        DataError: it has none.
    """
    if not dataset.objects:
        raise DataError(
            f"{dataset.name} has no object in its {counted(len(dataset.images), 'image')}",
            "Check the labels",
        )

"""These are the records of training."""

from mobilenet_cli.reports.records.base import Record


class EpochRecord(Record):
    """An epoch's record is one line of ``train.jsonl``.

    Attributes:
        epoch: from 1; 0 for a new classifier alone, on the layers as they were given.
        loss: mean training loss; ``train_top1`` the accuracy on the augmented images, in percent.
        top1: on the held-out images, in percent; likewise ``top5``.
        validation_loss: mean loss on the held-out images; None where it is not finite.
        detects: the network is a detector: ``top1`` is its AP50, ``top5`` its AP, and
            ``train_top1`` the share of anchors on objects whose class is right.
        learning_rate: at the epoch's end.
        waiting: fraction of the time so far, 0..1, that was spent waiting for images.
    """

    epoch: int
    loss: float
    train_top1: float
    top1: float
    top5: float
    validation_loss: float | None = None
    detects: bool = False
    learning_rate: float
    waiting: float | None = None


class TrainingStart(Record):
    """A training's start says what is trained, and on what.

    Attributes:
        network: the name of the architecture, with width and resolution.
        architecture: its key in ``MODELS``.
        data: the data set, as it was given.
        classes: the number of classes.
        images: the number of images to train on.
        held_out: the number of images to evaluate on.
        epochs: the number of passes over the images.
        init: the checkpoint to start from; None starts from random weights.
        photos: False where the images are unlike the photos of which published weights know.
    """

    network: str
    architecture: str
    data: str
    classes: int
    images: int
    held_out: int
    epochs: int | float
    init: str | None
    photos: bool


class TrainRecord(Record):
    """A training's record says what was done and reached.

    Attributes:
        epochs: how many, the last of which may be a part of one; ``images`` in each.
        top1: of what was kept, on the held-out images, in percent; likewise ``top5``.
        detects: the network is a detector, and ``top1`` is its AP50, ``top5`` its AP.
        start_top1: likewise of what training started from, with ``--qat``.
        kept_epoch: whose weights were kept, from 1; 0 for those that it started from, with
            ``--qat``, or else for a new classifier alone.
        last_top1: top-1 after the last epoch, on the held-out images, in percent.
        seconds: of the steps, without evaluation; ``images_per_second`` over them.
        parameters: trainable parameters; ``multiply_adds`` of one image.
        device: ``cpu`` or ``cuda``; ``threads`` of the CPU, on whose number sums depend.
        waiting: fraction of the time, 0..1, that was spent waiting for images.
        bad_images: training images that could not be read; others took their place.
        replaced: the file beside it that keeps the checkpoint of other settings which was there.
    """

    epochs: int | float
    images: int
    top1: float
    top5: float
    detects: bool = False
    start_top1: float | None = None
    kept_epoch: int | None = None
    last_top1: float | None = None
    seconds: float
    images_per_second: float
    parameters: int
    multiply_adds: int
    device: str
    threads: int | None = None
    waiting: float | None = None
    bad_images: tuple[str, ...] = ()
    replaced: str | None = None

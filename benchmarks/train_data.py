"""How fast training data comes, from four containers, against decoding alone and processes.

In each round, one after the other, on the same images, with a worker per usable CPU:

decode: images per second that the threads decode to RGB at full size from memory, and no more, by
    simplejpeg, and by Pillow with ``decode``, as the rest of the pipeline does.
folder, parquet, tar, tfrecord: images per second of ``training_batches`` over one epoch with the
    square of the recipe ``quick``, 224 pixels of 256, and reflection, batch 32: reading, decoding,
    scaling, cropping, batching.
random crops: the same from the folder with the other recipes' ``RandomCrop(224)``.
second epoch: the same from the folder where the squares of the first one were kept.
96 pixels: the same from the folder with the whole image at 96 pixels, as for fine-tuning.
processes: the same as folder, each step's images made in a worker process that sends the batch
    back.

CPU time of other processes is measured as in evaluate_rate.py; rounds with more than 5 % of a CPU
of it do not count. Results are medians over the rounds that do. Files are read once before, so
that they come from memory: the disk is not what is measured.

Usage: python benchmarks/train_data.py CLASS_FOLDERS [ROUNDS [REPEATS]]
"""

import io
import json
import os
import statistics
import struct
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from evaluate_rate import QUIET, busy_seconds
from numpy.typing import NDArray

from mobilenet_cli.data.crop import DRAWS, CentreCrop, Crop, RandomCrop
from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.epoch_order import epoch_order
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.readers.tfrecord import checksum
from mobilenet_cli.data.training_batches import (
    CachedCrops,
    EpochPlan,
    TrainingImages,
    class_indices,
    training_batches,
)
from mobilenet_cli.pipeline.runtime.machine import machine, usable_cpus

BATCH = 32
QUICK = CentreCrop(InputSpec(resolution=224, resize=256))
SMALL = CentreCrop(InputSpec(resolution=96, resize=96))


def main() -> None:
    """Measure, print each round to standard error and one JSON document to standard output."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    torch.set_num_threads(usable_cpus())  # as training does
    whole = open_dataset(sys.argv[1], "all")
    with tempfile.TemporaryDirectory() as folder:
        sets = {"folder": whole} | containers(whole, Path(folder))
        contents = [sample.read() for sample in whole.samples] * repeats
        work: dict[str, Callable[[], None]] = {
            "decode by simplejpeg": partial(in_threads, contents, simplejpeg_decode),
            "decode by Pillow": partial(in_threads, contents, pillow_decode),
        }
        none = CachedCrops(0)
        work |= {
            name: partial(epoch, dataset, repeats, QUICK, none) for name, dataset in sets.items()
        }
        work["random crops"] = partial(epoch, whole, repeats, RandomCrop(224), none)
        kept = CachedCrops(len(contents))
        epoch(whole, repeats, QUICK, kept)
        work["second epoch"] = partial(epoch, whole, repeats, QUICK, kept)
        work["96 pixels"] = partial(epoch, whole, repeats, SMALL, none)
        work["processes"] = partial(in_processes, whole, repeats)
        results = [one_round(work, len(contents)) for _ in range(rounds)]
    quiet = [r for r in results if r["others_cpus"] <= QUIET]
    medians = {name: statistics.median(r[name] for r in quiet) for name in work if quiet}
    rates = [medians[name] for name in sets if quiet]
    document = {
        "machine": machine().model_dump(mode="json"),
        "images": len(contents),
        "workers": usable_cpus(),
        "quiet_rounds": len(quiet),
        "images_per_second": medians,
        "share_of_decoding_by_simplejpeg": {
            name: medians[name] / medians["decode by simplejpeg"] for name in medians
        },
        "share_of_decoding_by_pillow": {
            name: medians[name] / medians["decode by Pillow"] for name in medians
        },
        "slowest_container_to_fastest": min(rates) / max(rates) if rates else None,
        "rounds": results,
    }
    print(json.dumps(document, indent=2))


def one_round(work: dict[str, Callable[[], None]], images: int) -> dict[str, float]:
    """Images per second of each kind of work, and the CPUs that others used meanwhile."""
    others, began = busy_seconds() - own_seconds(), time.perf_counter()
    rates = {}
    for name, function in work.items():
        start = time.perf_counter()
        function()
        rates[name] = images / (time.perf_counter() - start)
    others = (busy_seconds() - own_seconds() - others) / (time.perf_counter() - began)
    print({name: round(rate) for name, rate in rates.items()}, round(others, 3), file=sys.stderr)
    return rates | {"others_cpus": others}


def own_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def simplejpeg_decode(encoded: bytes) -> None:
    """Decode to RGB at full size; what simplejpeg cannot take goes to Pillow."""
    try:
        simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError:
        pillow_decode(encoded)


def pillow_decode(encoded: bytes) -> None:
    """Decode to upright RGB, as evaluation does."""
    decode(encoded, "image")


def in_threads(contents: Sequence[bytes], function: Callable[[bytes], None]) -> None:
    """Apply a function to all, in as many threads as CPUs."""
    count = usable_cpus()
    with ThreadPoolExecutor(count) as pool:
        parts = (contents[start::count] for start in range(count))
        list(pool.map(lambda part: deque(map(function, part), maxlen=0), parts))


def epoch(dataset: Dataset, repeats: int, crop: Crop, cache: CachedCrops) -> None:
    """Go through the batches of one epoch; the last, short one is left out, as in training."""
    samples = list(dataset.samples) * repeats
    labels = np.tile(class_indices(dataset, dataset.classes), repeats)
    images = TrainingImages(samples=samples, labels=labels, crop=crop, mirror=True, cache=cache)
    plan = EpochPlan(samples=samples, batch=BATCH, seed=0, epoch=0)
    for batch in training_batches(images, plan):
        assert len(batch.pixels) == BATCH


def in_processes(dataset: Dataset, repeats: int) -> None:
    """The same in worker processes, a batch each."""
    samples = list(dataset.samples) * repeats
    order = epoch_order(samples, 0, 0)
    steps = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    tasks = [([samples[i] for i in step], number) for number, step in enumerate(steps)]
    with ProcessPoolExecutor(usable_cpus(), initializer=torch.set_num_threads, initargs=(1,)) as p:
        for pixels in p.map(make_batch, tasks):
            assert pixels.shape == (BATCH, 224, 224, 3)


def make_batch(task: tuple[Sequence[Sample], int]) -> NDArray[np.uint8]:
    """The squares of one step."""
    samples, step = task
    draws = np.random.default_rng([0, 0, step]).random((BATCH, DRAWS))
    return np.stack([QUICK(s.read(), s.key, d) for s, d in zip(samples, draws, strict=True)])


def containers(dataset: Dataset, folder: Path) -> dict[str, Dataset]:
    """The same images as parquet, tar and TFRecord."""
    images = [sample.read() for sample in dataset.samples]
    labels = class_indices(dataset, dataset.classes).tolist()
    table = pa.table({"image": [{"bytes": b, "path": None} for b in images], "label": labels})
    pq.write_table(table, folder / "x.parquet", row_group_size=100)  # as the datasets library
    with tarfile.open(folder / "x.tar", "w") as archive:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            for name, content in ((f"{number}.jpg", image), (f"{number}.cls", b"%d" % label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with (folder / "x.tfrecord").open("wb") as file:
        for image, label in zip(images, labels, strict=True):
            file.writelines(record(image, label + 1))
    return {name: open_dataset(str(folder / f"x.{name}"), "all") for name in TYPES}


TYPES = ("parquet", "tar", "tfrecord")


def record(image: bytes, label: int) -> Iterator[bytes]:
    """A TFRecord of a ``tf.train.Example``."""

    def varint(value: int) -> bytes:
        return varint_tail(value >> 7, value & 0x7F)

    def varint_tail(rest: int, low: int) -> bytes:
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    def part(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    values = {
        b"image/encoded": part(1, part(1, image)),
        b"image/class/label": part(3, part(1, varint(label))),
    }
    example = part(1, b"".join(part(1, part(1, k) + part(2, v)) for k, v in values.items()))
    crc, length = checksum(), struct.pack("<Q", len(example))
    yield from (length, struct.pack("<I", crc(length)), example, struct.pack("<I", crc(example)))


if __name__ == "__main__":
    main()

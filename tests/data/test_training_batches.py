"""What training reads: the order of an epoch, random crops, batches, shares, damage."""

import contextlib
import importlib
import io
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenet_cli.data import epoch_order as order
from mobilenet_cli.data.dataset import Block, Dataset, Sample
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.epoch_order import epoch_order
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec, resize_and_crop
from mobilenet_cli.data.readers import parquet
from mobilenet_cli.data.readers.files import read_file
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.train import train

simplejpeg = pytest.importorskip("simplejpeg")

from mobilenet_cli.data.crop import DRAWS, CentreCrop, RandomCrop  # noqa: E402 - needs simplejpeg
from mobilenet_cli.data.training_batches import (  # noqa: E402 - needs simplejpeg
    CachedCrops,
    EpochPlan,
    RankShard,
    TrainingImages,
    class_indices,
    steps_per_epoch,
    training_batches,
)

SPEC = InputSpec(resolution=32, resize=32)


def epoch_of(samples, labels, crop, *, workers=None, on_bad=None, **options):
    """The batches of one epoch; options are those of the images or those of the plan."""
    planned = {"batch": 4, "seed": 1, "epoch": 2}
    for name in ("batch", "seed", "epoch", "first_step", "shard"):
        if name in options:
            planned[name] = options.pop(name)
    images = TrainingImages(samples=samples, labels=labels, crop=crop, **options)
    return training_batches(images, EpochPlan(samples=samples, **planned), workers, on_bad)


def blank(count: int, blocks: list[Block] | None = None) -> list[Sample]:
    """Samples that are never read; ``count`` in each block."""
    return [Sample(str(i), "a", bytes, block) for block in blocks or [None] for i in range(count)]


# --- order -------------------------------------------------------------------------------------


def test_order_depends_on_seed_and_epoch_alone():
    samples = blank(100)
    orders = [epoch_order(samples, s, e).tolist() for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(o) for o in orders}) == 3
    assert all(sorted(o) == list(range(100)) for o in orders)


def test_blocks_are_mixed_with_their_neighbours_only(monkeypatch):
    monkeypatch.setattr(order, "WINDOW_BYTES", 25)  # two blocks of ten
    samples = blank(8, [Block(10) for _ in range(5)])
    taken = epoch_order(samples, 0, 0)
    assert sorted(taken) == list(range(40))
    windows = [{int(i) // 8 for i in taken[start : start + 16]} for start in (0, 16, 32)]
    assert [len(w) for w in windows] == [2, 2, 1]
    assert set.union(*windows) == set(range(5))
    assert len({i // 8 for i in taken[:4].tolist()}) == 2  # both from the beginning
    others = epoch_order(samples, 0, 1)
    assert {int(i) // 8 for i in others[:16]} != windows[0]


def test_each_row_group_is_read_once_an_epoch(tmp_path, encoded, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": encoded(seed=i)} for i in range(40)]
    table = pa.table({"image": images, "label": [0, 1] * 20})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    dataset = open_dataset(str(tmp_path / "x.parquet"), "all")
    block = dataset.samples[0].block
    assert block is not None
    assert block is dataset.samples[3].block is not dataset.samples[4].block
    monkeypatch.setattr(order, "WINDOW_BYTES", 3 * block.bytes + 100)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 6 * block.bytes + 200)
    opened: list[str] = []
    real = parquet.open_table
    monkeypatch.setattr(parquet, "open_table", lambda path: opened.append(path) or real(path))
    labels = class_indices(dataset, dataset.classes)
    made = epoch_of(dataset.samples, labels, CentreCrop(SPEC), seed=0, epoch=0)
    seen = np.concatenate([batch.indices for batch in made])
    assert sorted(seen) == list(range(40))
    assert len(opened) == 10


# --- crops -------------------------------------------------------------------------------------


ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0"


def photo(size: tuple[int, int], form: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    """A smooth picture in which every place has a colour of its own."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, 255 - (x + y) / 2], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def draws(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(DRAWS)


@pytest.mark.parametrize("size", [(500, 375), (60, 80), (1600, 900)])
@pytest.mark.parametrize("seed", range(3))
def test_crop_is_the_one_that_pillow_would_make(size, seed):
    crop = RandomCrop(48)
    encoded = photo(size, quality=95)
    left, top, width, height = crop.box(*size, draws(seed))
    box = (left, top, left + width, top + height)
    image = Image.open(io.BytesIO(encoded))
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR, box=box), np.int16)
    made = crop(encoded, "x", draws(seed))
    assert made.shape == (48, 48, 3)
    assert made.dtype == np.uint8
    # A pixel of the scaled image, by which a box may be rounded, is up to a 48th of the crop.
    limit = 2 + 255 / 48 * max(width / size[0], height / size[1])
    assert np.abs(made - expected).max() <= limit


@pytest.mark.parametrize("size", [(500, 375), (60, 80), (90, 60)])
@pytest.mark.parametrize(
    ("interpolation", "levels"), [("nearest", 0), ("bilinear", 1), ("bicubic", 2)]
)
def test_the_centre_is_what_evaluation_sees(size, interpolation, levels):
    spec = InputSpec(resolution=224, resize=256, interpolation=interpolation)
    encoded = photo(size, quality=95)
    expected = resize_and_crop(decode(encoded, "x"), spec).astype(int)
    made = CentreCrop(spec)(encoded, "x", draws(0))
    assert made.shape == (224, 224, 3)
    assert np.abs(made - expected).max() <= levels


def test_the_centre_of_a_narrow_photo_is_refused_by_name():
    with pytest.raises(DataError, match=r"n\.jpg is 2x3000 pixels, too narrow to cut"):
        CentreCrop(InputSpec(resolution=1000, resize=1000))(photo((2, 3000)), "n.jpg", draws(0))


def test_crops_have_the_share_and_shape_asked_for():
    crop = RandomCrop(32, scale=(0.2, 0.7), ratio=(0.5, 2.0))
    for seed in range(300):
        left, top, width, height = crop.box(640, 480, draws(seed))
        assert 0.2 <= width * height / (640 * 480) <= 0.7
        assert 0.5 <= width / height <= 2.0
        assert left >= 0
        assert top >= 0
        assert left + width <= 640
        assert top + height <= 480


def test_crop_of_an_image_too_narrow_for_any_attempt_is_its_centre():
    assert RandomCrop(32, scale=(0.9, 1.0)).box(100, 1000, draws(0)) == pytest.approx(
        (0, 500 - 100 / (3 / 4) / 2, 100, 100 / (3 / 4))
    )


def test_large_photo_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    sizes: list[tuple[int, ...]] = []
    real = simplejpeg.decode_jpeg

    def spy(*arguments: object, **options: object) -> np.ndarray:
        sizes.append(real(*arguments, **options).shape)
        return real(*arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    RandomCrop(32, scale=(0.3, 1.0))(photo((1600, 1200)), "x", draws(0))
    RandomCrop(224, scale=(0.3, 1.0))(photo((400, 300)), "x", draws(0))
    CentreCrop(InputSpec(resolution=96, resize=110))(photo((1600, 1200)), "x", draws(0))
    assert sizes == [(150, 200, 3), (300, 400, 3), (150, 200, 3)]


@pytest.mark.parametrize(
    "encoded",
    [
        photo((90, 60), mode="L"),
        photo((90, 60), mode="CMYK"),
        photo((90, 60), "PNG"),
        photo((90, 60), exif=ROTATED),
        photo((90, 60), exif=ROTATED).replace(b"\xff\xe1", b"\xff\xff\xff\xe1", 1),
        photo((90, 60), "PNG", mode="RGBA"),
        photo((90, 60), progressive=True),
    ],
    ids=["gray", "cmyk", "png", "rotated", "filled", "rgba", "progressive"],
)
def test_odd_images_look_as_in_evaluation(encoded):
    whole = RandomCrop(32, scale=(1.0, 1.0), ratio=(1e-3, 1e3))
    image = decode(encoded, "x")
    made = whole(encoded, "x", np.full(DRAWS, 0.5))
    left, top, width, height = whole.box(*image.size, np.full(DRAWS, 0.5))
    box = (left, top, left + width, top + height)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=box), np.int16)
    assert np.abs(made - expected).max() <= 12  # a pixel of 60 is 255 / 60 levels
    spec = InputSpec(resolution=32, resize=60)
    centre = CentreCrop(spec)(encoded, "x", draws(0))
    assert np.abs(centre - resize_and_crop(image, spec).astype(int)).max() <= 1


@pytest.mark.parametrize("marker", [b"\xff\xc3", b"\xff\xc9", b"\xff\xcb"])
def test_only_huffman_processes_are_decoded_by_the_fast_decoder(marker, monkeypatch):
    """A lossless JPEG (SOF3) made it write beyond its buffer, and the process die."""
    asked: list[bytes] = []
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda encoded, *_, **__: asked.append(encoded))
    odd = photo((900, 600)).replace(b"\xff\xc0", marker, 1)
    for crop in (RandomCrop(32), CentreCrop(InputSpec(resolution=32, resize=36))):
        with contextlib.suppress(DataError):  # Pillow decides what it can make of it
            crop(odd, "x.jpg", draws(0))
    assert asked == []


def test_orientation_in_xmp_counts_in_training_too():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'  # noqa: E501 - as cameras write it
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    plain = photo((90, 60))
    turned = plain[:2] + segment + plain[2:]
    assert decode(turned, "x").size == (60, 90)
    spec = InputSpec(resolution=32, resize=60)
    expected = resize_and_crop(decode(turned, "x"), spec).astype(int)
    assert np.abs(CentreCrop(spec)(turned, "x", draws(0)) - expected).max() <= 1


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 no more", photo((90, 60))[:700]])
def test_what_cannot_be_decoded_is_a_data_error(content):
    with pytest.raises(DataError, match=r"x\.jpg (cannot be decoded|is not an image|is empty)"):
        RandomCrop(32)(content, "x.jpg", draws(0))


# --- batches -----------------------------------------------------------------------------------


@pytest.fixture
def dataset(class_folders) -> Dataset:
    return open_dataset(str(class_folders({"a": 12, "b": 11})), "all")


def made(dataset, **options):
    labels = class_indices(dataset, dataset.classes)
    return list(epoch_of(dataset.samples, labels, RandomCrop(16), **options))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.step == b.step
        for name in ("pixels", "labels", "indices"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_batches_do_not_depend_on_threads(dataset):
    one = made(dataset, workers=1)
    assert_same(one, made(dataset, workers=5))
    assert [batch.step for batch in one] == [0, 1, 2, 3, 4]
    assert one[0].pixels.shape == (4, 16, 16, 3)
    assert [dataset.samples[i].label for i in one[0].indices] == [
        dataset.classes[label] for label in one[0].labels
    ]
    seen = [i for batch in one for i in batch.indices.tolist()]
    assert len(set(seen)) == 20 == steps_per_epoch(23, 4) * 4
    other = made(dataset, epoch=3)
    assert any((a.pixels != b.pixels).any() for a, b in zip(one, other, strict=True))


def test_every_other_image_is_reflected(dataset):
    """By a number of its own: the crop stays the same."""
    plain, mirrored = made(dataset), made(dataset, mirror=True)
    before = np.concatenate([batch.pixels for batch in plain])
    after = np.concatenate([batch.pixels for batch in mirrored])
    same = (before == after).all((1, 2, 3))
    turned = (before[:, :, ::-1] == after).all((1, 2, 3))
    assert (same | turned).all()
    assert 4 < turned.sum() < 16  # of 20


def test_views_of_an_image_lie_side_by_side(dataset):
    once, twice = made(dataset, mirror=True), made(dataset, mirror=True, views=2)
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_array_equal(two.pixels[::2], one.pixels)
        np.testing.assert_array_equal(two.pixels[1::2], one.pixels[:, :, ::-1])
        for name in ("labels", "indices"):
            np.testing.assert_array_equal(getattr(two, name), getattr(one, name).repeat(2))
    (upright, *_) = made(dataset, views=3)
    assert all((view == upright.pixels[0]).all() for view in upright.pixels[1:3])


def test_squares_that_stay_the_same_are_cut_once(dataset):
    """As many as there is room for; the batches are those that are cut anew."""
    read: list[str] = []

    def spied(sample):
        return replace(sample, read=lambda: read.append(sample.key) or sample.read())

    samples = [spied(sample) for sample in dataset.samples]
    labels, cache = class_indices(dataset, dataset.classes), CachedCrops(15)

    def epoch(number, **options):
        options = {"epoch": number, "mirror": True} | options
        return list(epoch_of(samples, labels, CentreCrop(SPEC), **options))

    epoch(0, cache=cache)
    assert len(cache.crops) == 15
    assert all(crop.base is None for crop in cache.crops.values())
    del read[:]
    kept = epoch(1, cache=cache)
    used = {i for batch in kept for i in batch.indices.tolist()}
    assert len(read) == len(used - cache.crops.keys()) < 8
    assert_same(kept, epoch(1))


def test_two_threads_do_not_take_the_last_place_of_the_cache():
    """Both see the place free; only one may keep its crop."""
    both_copy = threading.Barrier(2, timeout=60)

    class SlowCrop(np.ndarray):
        def copy(self):
            both_copy.wait()
            return np.array(self)

    cache, crop = CachedCrops(1), np.zeros((2, 2, 3), np.uint8).view(SlowCrop)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(cache.add, range(2), [crop, crop]))
    assert len(cache.crops) == 1


def test_epoch_goes_on_in_the_middle(dataset):
    assert_same(made(dataset)[3:], made(dataset, first_step=3))


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_processes_are_the_batches_of_one(dataset, world):
    shares = [made(dataset, shard=RankShard(rank, world)) for rank in range(world)]
    for whole, *parts in zip(made(dataset), *shares, strict=True):
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part.pixels, whole.pixels[rank::world])
            np.testing.assert_array_equal(part.indices, whole.indices[rank::world])


def test_indivisible_batch_is_refused(dataset):
    with pytest.raises(OptionError, match="batches of 4 images cannot be divided among 3"):
        made(dataset, shard=RankShard(0, 3))


def test_fewer_images_than_a_batch_are_one_short_batch(dataset):
    assert [len(batch.labels) for batch in made(dataset, batch=64)] == [23]


def test_bad_images_are_named_and_batches_stay_full(dataset, tmp_path):
    for name in ("a/003.png", "b/007.png"):
        (tmp_path / "images" / name).write_text("text")
    bad: list[str] = []
    batches = made(dataset, on_bad=lambda sample, _: bad.append(sample.key))
    assert {len(batch.labels) for batch in batches} == {4}
    used = Counter(dataset.samples[i].key for batch in batches for i in batch.indices)
    assert sorted(bad) == ["a/003.png", "b/007.png"]
    assert not used.keys() & set(bad)
    assert (len(used), used.total()) == (18, 20)  # two are seen more than once
    with pytest.raises(DataError, match=r"00[37]\.png is not an image"):
        made(dataset)


def test_batch_without_any_readable_image(tmp_path):
    (tmp_path / "x").write_text("text")
    samples = [Sample(f"x{i}", c, partial(read_file, tmp_path / "x")) for i, c in enumerate("ab")]
    with pytest.raises(DataError, match="none of the 2 images of a batch can be read, such as x"):
        made(Dataset("d", samples, ("a", "b")), batch=2, on_bad=lambda *_: None)


def test_one_class_only(class_folders):
    dataset = open_dataset(str(class_folders({"a": 3})), "all")
    with pytest.raises(DataError, match="has only 1 class"):
        class_indices(dataset, dataset.classes)


def test_label_outside_the_classes(tmp_path, encoded):
    pa = pytest.importorskip("pyarrow")
    import json

    import pyarrow.parquet as pq

    info = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = pa.table({"image": [{"bytes": encoded()}] * 3, "label": [0, 7, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "x.parquet")
    dataset = open_dataset(str(tmp_path / "x.parquet"), "all")
    with pytest.raises(
        DataError,
        match=r"x\.parquet:0:1 of .* the label '7', which is none of .* \(cat, ..., dog\); "
        "this concerns 1 of 3 images",
    ):
        class_indices(dataset, dataset.classes)


def test_images_without_labels(class_folders):
    dataset = open_dataset(str(class_folders({"a": 3}) / "a"), "all")
    with pytest.raises(DataError, match=r"has no label .* concerns 3 of 3 images"):
        class_indices(dataset, ("a", "b"))


def test_what_a_cut_shard_lost_is_in_the_record_of_training(tmp_path, encoded):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(12):
            for name, content in ((f"{number}.cls", b"%d" % (number % 2)), (f"{number}.png", b"")):
                body = content or encoded(seed=number)
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: whole.rindex(b"IDAT")])
    config = TrainConfig(data=str(tmp_path / "x.tar"), width=0.25, resolution=32, epochs=1)
    record = train(config, tmp_path / "model.safetensors").record
    (lost,) = record.bad_images
    assert "x.tar is cut off within 11.png" in lost


@pytest.mark.parametrize("form", ["folder", "parquet", "tar", "tfrecord"])
def test_a_real_step_from_every_container(form, class_folders, tmp_path, monkeypatch):
    pytest.importorskip("google_crc32c")
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    containers = importlib.import_module("train_data").containers
    source = class_folders({"cat": 12, "dog": 12})
    if form != "folder":
        containers(open_dataset(str(source), "all"), tmp_path)
        source = tmp_path / f"x.{form}"
    config = TrainConfig(
        data=str(source), width=0.25, resolution=32, epochs=1, changes=("batch=8", "warmup=0")
    )
    made = train(config, tmp_path / "made" / "model.safetensors")
    assert made.record.images == 20  # four are held out
    assert len(made.facts.classes) == 2
    assert made.record.bad_images == ()
    statistics = load_network(made).layers[0].bn.running_mean
    assert statistics.isfinite().all()
    assert statistics.any()  # they are zero before the first step

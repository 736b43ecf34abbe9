"""Preprocessing gives the pixels of Pillow's resize and crop, and refuses odd images by name."""

import io

import numpy as np
import pytest
from PIL import Image

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.preprocess import (
    InputSpec,
    frame,
    normalize,
    offset,
    prepare,
    resize_and_crop,
)
from mobilenet_cli.pipeline.errors import DataError, OptionError

SPEC = InputSpec(resolution=32, resize=36)


def test_pixels_are_those_of_resize_then_crop(encoded):
    image = decode(encoded(size=(61, 47)), "x")
    expected = image.resize((round(61 * 36 / 47), 36), Image.Resampling.BILINEAR)
    left = (expected.width - 32) // 2
    expected = expected.crop((left, 2, left + 32, 34))
    np.testing.assert_array_equal(resize_and_crop(image, SPEC), np.asarray(expected))


def test_normalized_values_and_channel_order(encoded):
    file = encoded(size=(32, 32), color=(255, 0, 51))
    rgb = prepare(file, "x", SPEC)
    assert rgb.shape == (3, 32, 32)
    assert rgb.dtype == np.float32
    np.testing.assert_allclose(rgb[:, 0, 0], [1, -1, -0.6], atol=1e-6)
    spec = InputSpec(
        resolution=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1), channels="BGR"
    )
    np.testing.assert_allclose(prepare(file, "x", spec)[:, 0, 0], [0.2, -0.8, 0.7], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0..255", (255, 0, 51)),
        ("0..1", (1, 0, 0.2)),
        ("-1..1", (1, -1, -0.6)),
        ("inception", (1, -1, -0.6)),
        ("imagenet", ((1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225)),
        ("bgr imagenet", ((0.2 - 0.406) / 0.225, -0.456 / 0.224, (1 - 0.485) / 0.229)),
        ("BGR:0..255", (51, 0, 255)),
        ("bgr 103.939,116.779,123.68", (51 - 103.939, -116.779, 255 - 123.68)),
        ("127.5/127.5", (1, -1, -0.6)),
        ("0.1,0.2,0.3/0.5,0.25,1", (1.8, -0.8, -0.1)),
        ("\N{MINUS SIGN}1..1", (1, -1, -0.6)),
        ("0/1", (1, 0, 0.2)),
    ],
)
def test_normalizations(encoded, text: str, expected):
    spec = InputSpec.cropped(32, normalization=text)
    pixel = prepare(encoded(size=(32, 32), color=(255, 0, 51)), "x", spec)[:, 5, 5]
    np.testing.assert_allclose(pixel, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["gray 0..255", "0..255", "grey 0/0.00392156862745098"])
def test_gray_is_pillows(encoded, text: str):
    file = encoded(size=(40, 36))
    spec = InputSpec.cropped(32, normalization=text, gray=True)
    pixels = resize_and_crop(decode(file, "x"), spec)
    gray = prepare(file, "x", spec)
    assert gray.shape == (1, 32, 32)
    np.testing.assert_allclose(gray[0], np.asarray(Image.fromarray(pixels).convert("L")), 1e-5)


@pytest.mark.parametrize(
    ("text", "gray", "said"),
    [
        ("caffe", False, "is not understood"),
        ("", False, "is not understood"),
        ("bgr", False, "is not understood"),
        ("bgr rgb 0..1", False, "is not understood"),
        ("1,2/3", False, "is not understood"),
        ("1/2/3", False, "is not understood"),
        ("0.5/0", False, "cannot normalize"),
        ("nan/1", False, "cannot normalize"),
        ("gray 0..1", False, "three channels"),
        ("bgr 0..1", True, "one channel"),
        ("imagenet", True, "three means"),
    ],
)
def test_normalizations_that_make_no_sense(text: str, gray: bool, said: str):
    with pytest.raises(OptionError, match=said):
        InputSpec.cropped(32, normalization=text, gray=gray)


def test_normalize_takes_batches():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    both = normalize(pixels, SPEC)
    np.testing.assert_array_equal(both[1], normalize(pixels[1], SPEC))


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("LA", (100, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 40, (40, 40, 40)),
    ],
)
def test_every_kind_of_png_becomes_rgb(encoded, mode, color, expected):
    image = decode(encoded(mode=mode, color=color), "x")
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == expected


def test_cmyk_jpeg_becomes_rgb(encoded):
    image = decode(encoded(mode="CMYK", form="JPEG", color=(0, 255, 255, 0)), "x")
    red, green, blue = image.getpixel((5, 5))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_transparent_palette_is_composed_onto_white(encoded):
    image = decode(encoded(mode="P", color=0, form="GIF", transparency=0), "x")
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_pgm():
    values = np.full((4, 6), 257 * 90, ">u2")
    image = decode(b"P5 6 4 65535\n" + values.tobytes(), "x")
    assert image.getpixel((1, 1)) == (90, 90, 90)


@pytest.mark.parametrize(("mode", "color", "kind"), [("I", 70000, "32-bit"), ("F", 0.5, "float")])
def test_pixels_without_a_known_white_are_refused(encoded, mode, color, kind):
    with pytest.raises(DataError, match=rf"deep\.tif has {kind}"):
        decode(encoded(mode=mode, form="TIFF", color=color), "deep.tif")


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (40, 20), "black")
    image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: left becomes top
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=95)
    upright = decode(file.getvalue(), "x")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 240
    assert upright.getpixel((10, 35))[0] < 15


def test_corrupt_exif_does_not_matter(encoded):
    file = encoded(form="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert decode(file, "x").size == (40, 32)


def test_one_pixel_is_enough(encoded):
    pixels = resize_and_crop(decode(encoded(size=(1, 1), color=(7, 8, 9)), "x"), SPEC)
    assert (pixels == (7, 8, 9)).all()


def test_huge_image_is_refused_before_it_is_decoded():
    header = b"P6 20000 20000 255\n"  # the pixels need not be there to be refused
    with pytest.raises(DataError, match=r"huge\.ppm has 400,000,000 pixels, more than"):
        decode(header, "huge.ppm")


def test_huge_png_is_refused(encoded):
    file = encoded(size=(20_000, 20_000), mode="1", color=0)
    with pytest.raises(DataError, match="has 400,000,000 pixels"):
        decode(file, "huge.png")


def test_strip_of_pixels_is_refused(encoded):
    with pytest.raises(DataError, match=r"strip\.png is 1x100000 pixels, too narrow"):
        prepare(encoded(size=(1, 100_000), color=0), "strip.png", SPEC)


def test_text_named_jpg():
    with pytest.raises(DataError, match=r"cat\.jpg is not an image.*Replace or remove the file"):
        decode(b"hello", "cat.jpg")


def test_empty_file():
    with pytest.raises(DataError, match=r"cat\.jpg is empty"):
        decode(b"", "cat.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_file_is_refused(encoded, form):
    whole = encoded(size=(200, 200), form=form)
    for length in (len(whole) // 3, len(whole) // 2, len(whole) - 40):
        with pytest.raises(DataError, match=rf"cut\.{form}"):
            decode(whole[:length], f"cut.{form}")


def test_corrupt_bytes_raise_nothing_else(encoded):
    generator = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        whole = np.frombuffer(encoded(form=form), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            where = generator.integers(0, len(damaged), 8)
            damaged[where] = generator.integers(0, 256, 8)
            try:
                assert decode(damaged.tobytes(), "x").mode == "RGB"
            except DataError as error:
                assert str(error).startswith("x ")  # noqa: PT017 - decoding may also succeed


def test_spec_refuses_nonsense():
    for wrong in (
        {"resolution": 0},
        {"resolution": 224, "resize": 200},
        {"interpolation": "sinc"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
    ):
        with pytest.raises(OptionError):
            InputSpec(**wrong)


@pytest.mark.parametrize(
    ("convention", "size", "expected", "begin"),
    [
        ("keras", (500, 334), (383, 256), (79, 16)),
        ("torchvision", (500, 334), (383, 256), (80, 16)),  # 79.5: halves to even
        ("hugging-face", (500, 334), (383, 256), (79, 16)),
        ("keras", (500, 333), (384, 256), (80, 16)),
        ("torchvision", (500, 341), (375, 256), (76, 16)),  # 75.5
        ("keras", (400, 267), (384, 256), (80, 16)),  # 383.52
        ("torchvision", (400, 267), (383, 256), (80, 16)),
        ("hugging-face", (267, 400), (256, 383), (16, 79)),
        ("stretch", (267, 400), (224, 224), (0, 0)),
        ("stretch", (3, 90_000), (224, 224), (0, 0)),
    ],
)
def test_conventions_round_as_their_libraries(convention, size, expected, begin):
    spec = InputSpec.cropped(224, 1.0 if convention == "stretch" else 0.875, convention=convention)
    assert frame(size, spec, "x") == expected
    assert offset(expected, spec) == begin


SIZES = [(334, 500), (500, 333), (267, 400), (300, 300), (57, 640)]


@pytest.mark.parametrize("size", SIZES)
def test_hugging_faces_own_processor_gives_the_same_pixels(encoded, size):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'interop'")
    file = encoded(size=size)
    processor = transformers.models.mobilenet_v1.MobileNetV1ImageProcessorPil()
    (expected,) = processor(decode(file, "x"), return_tensors="np")["pixel_values"]
    found = prepare(file, "x", InputSpec(convention="hugging-face"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_torchvisions_own_transforms_give_the_same_pixels(encoded, size):
    transforms = pytest.importorskip(
        "torchvision.transforms", reason="torchvision is not here", exc_type=ImportError
    )
    file = encoded(size=size)
    image = transforms.CenterCrop(224)(transforms.Resize(256)(decode(file, "x")))
    found = prepare(file, "x", InputSpec(convention="torchvision"))
    np.testing.assert_allclose(found, np.asarray(image).transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def slim_reference(image: np.ndarray, side: int) -> np.ndarray:
    """Compute tf.image.central_crop and tf.image.resize_bilinear pixel by pixel."""
    height, width = image.shape[:2]
    top, left = int((height - height * 0.875) / 2), int((width - width * 0.875) / 2)
    cut = image[top : height - top, left : width - left].astype(float)
    made = np.empty((side, side, 3))
    for i in range(side):
        for j in range(side):
            y, x = i * (cut.shape[0] / side), j * (cut.shape[1] / side)
            a, b = int(y), int(x)
            c, d = min(a + 1, cut.shape[0] - 1), min(b + 1, cut.shape[1] - 1)
            first = cut[a, b] + (cut[a, d] - cut[a, b]) * (x - b)
            second = cut[c, b] + (cut[c, d] - cut[c, b]) * (x - b)
            made[i, j] = first + (second - first) * (y - a)
    return made


@pytest.mark.parametrize("size", [(61, 47), (20, 90), (3, 5), (1, 1)])
def test_tf_slim(encoded, size):
    spec = InputSpec.cropped(32, convention="tf-slim")
    file = encoded(size=size)
    expected = slim_reference(np.asarray(decode(file, "x")), 32) / 127.5 - 1
    np.testing.assert_allclose(prepare(file, "x", spec), expected.transpose(2, 0, 1), atol=1e-4)

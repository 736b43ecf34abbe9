"""Scaled decoding sees nearly what exact decoding sees, and leaves what is odd to it."""

import io

import numpy as np
import pytest
from PIL import Image

from mobilenet_cli.data import crop
from mobilenet_cli.data.crop import CentreCrop, scale
from mobilenet_cli.data.decode import ORIENTATION
from mobilenet_cli.data.preprocess import InputSpec, square_of_file
from mobilenet_cli.data.scaled import square_scaled
from mobilenet_cli.pipeline.errors import DataError, TooLargeError

SPEC = InputSpec(resolution=64, resize=72)


def jpeg(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    """A smooth picture, as photographs are."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    waves = [127 + 120 * np.sin(rows / a + columns / b) for a, b in ((31, 17), (23, 41), (57, 19))]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("convention", ["keras", "torchvision", "hugging-face"])
@pytest.mark.parametrize("size", [(100, 80), (80, 100), (300, 290), (640, 700), (72, 72)])
def test_pixels_are_nearly_the_same(size, convention):
    spec = InputSpec(resolution=64, resize=72, convention=convention)
    exact, fast = (f(jpeg(size), "x", spec).pixels for f in (square_of_file, square_scaled))
    assert fast.shape == exact.shape
    assert np.abs(exact.astype(int) - fast).mean() < 0.5


def test_only_large_images_are_decoded_smaller(monkeypatch):
    asked = []
    monkeypatch.setattr(
        crop, "scale", lambda pixels, *a: asked.append(pixels.shape[1]) or scale(pixels, *a)
    )
    for short in (100, 8 * 72 - 2, 8 * 72 + 2, 1300):
        square = square_scaled(jpeg((short, short + 10)), "x", SPEC)
        assert square.size == (short, short + 10)  # the image's, however it is decoded
    assert asked == [100, 574, 289, 325]


def test_gray_is_gray_and_the_rest_is_left_to_the_exact_decoder(encoded):
    gray = jpeg((90, 90), "L")
    exact, fast = (f(gray, "x", SPEC).pixels.astype(int) for f in (square_of_file, square_scaled))
    assert np.abs(exact - fast).max() <= 3
    turned = Image.Exif()
    turned[274] = 6
    odd = [encoded(), jpeg((90, 80), "CMYK"), jpeg((90, 80), exif=turned)]
    for content in odd:
        np.testing.assert_array_equal(
            square_of_file(content, "x", SPEC).pixels, square_scaled(content, "x", SPEC).pixels
        )
    slim = InputSpec(resolution=64, resize=72, convention="tf-slim")
    np.testing.assert_array_equal(
        square_of_file(jpeg((90, 80)), "x", slim).pixels,
        square_scaled(jpeg((90, 80)), "x", slim).pixels,
    )


def test_damage_is_said_as_the_exact_decoder_says_it():
    whole = jpeg((900, 900))
    for damaged in (whole[: len(whole) // 2], whole[:300], b"\xff\xd8 no image"):
        said = []
        for decoder in (square_of_file, square_scaled):
            with pytest.raises(DataError) as error:
                decoder(damaged, "x", SPEC)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_bomb_with_an_orientation_is_a_data_error():
    """Pillow's own refusal is no ValueError, and came through where orientation is looked up."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = jpeg((90, 80), exif=exif)
    frame = whole.index(b"\xff\xc0")  # its length, its precision, then height and width
    bomb = whole[: frame + 5] + b"\xea\x60\xea\x60" + whole[frame + 9 :]
    for decoder in (
        lambda: square_of_file(bomb, "x", SPEC),
        lambda: square_scaled(bomb, "x", SPEC),
        lambda: CentreCrop(SPEC)(bomb, "x", np.zeros(0)),
    ):
        with pytest.raises(TooLargeError, match="3,600,000,000 pixels"):
            decoder()

"""JPEGs become squares of pixels faster, nearly the same: decoded no larger than is needed.

Of the frame only the square is resampled. And libjpeg's inverse transform gives 1/2, 1/4 or 1/8 of
the size directly (libjpeg.txt, scale_denom), which is asked for where what is left is still
``MARGIN`` times as large as the frame: of photographs of cameras and phones, not of ImageNet's.
What is no plain upright JPEG goes through ``preprocess``.
"""

import io

import numpy as np
from PIL import Image

from mobilenet_cli.data.decode import DECODER_BYTES, MEMORY, ORIENTATION, check_size
from mobilenet_cli.data.preprocess import (
    RESAMPLING,
    InputSpec,
    Square,
    frame,
    offset,
    square_of_file,
)

MARGIN = 4  # below it, more than one answer in 200 is another (docs/scale.md)
SOI = b"\xff\xd8"  # with which a JPEG begins
PLAIN = ("RGB", "L")
BYTES = 4 + DECODER_BYTES["JPEG"]  # a pixel


def square_scaled(encoded: bytes, key: str, spec: InputSpec) -> Square:
    """Cut the square out of an image file's bytes as ``preprocess.square_of_file`` does, nearly.

    Raises:
        DataError: the image cannot be decoded.
    """
    if encoded.startswith(SOI) and spec.convention != "tf-slim":
        square = _square(encoded, key, spec)
        if square is not None:
            return square
    return square_of_file(encoded, key, spec)


def _square(encoded: bytes, key: str, spec: InputSpec) -> Square | None:
    """Return the square of a plain JPEG; None of another, or of a damaged one."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=["JPEG"])
        upright = image.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # decoders raise whatever they stumble over; square_of_file says what it is
        return None
    if image.mode not in PLAIN or not upright:
        return None
    size = image.size
    check_size(size, key)
    width, height = frame(size, spec, key)
    with MEMORY.hold(size[0] * size[1] * BYTES, key):
        try:
            image.draft(image.mode, (width * MARGIN, height * MARGIN))
            image.load()
        except Exception:  # likewise
            return None
        left, top = offset((width, height), spec)
        by = image.width / width, image.height / height
        right, bottom = left + spec.resolution, top + spec.resolution
        box = (left * by[0], top * by[1], right * by[0], bottom * by[1])
        side = (spec.resolution, spec.resolution)
        square = image.resize(side, RESAMPLING[spec.interpolation], box)
        rgb = square if square.mode == "RGB" else square.convert("RGB")
        return Square(np.asarray(rgb), size)

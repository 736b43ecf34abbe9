"""What keeps CUDA from starting, told on machines that have none."""

import re

import pytest

from mobilenet_cli.pipeline.errors import ProviderError
from mobilenet_cli.pipeline.runtime import cuda
from mobilenet_cli.pipeline.runtime.session import SessionConfig, check_provider, open_session

LIBRARY = "libonnxruntime_providers_cuda.so"


@pytest.fixture
def wheels(monkeypatch):
    def install(*names):
        monkeypatch.setattr(
            "importlib.metadata.packages_distributions", lambda: {"onnxruntime": list(names)}
        )

    return install


@pytest.fixture
def cuda_wheel(monkeypatch, wheels):
    wheels("onnxruntime-gpu")
    monkeypatch.setattr("onnxruntime.cuda_version", "13.0")


def test_two_wheels_are_named_with_the_command(wheels):
    wheels("onnxruntime-gpu", "onnxruntime")
    what, fix = cuda.obstacle(LIBRARY)
    assert what.startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in fix


def test_cpu_wheel(wheels):
    wheels("onnxruntime")
    what, fix = cuda.obstacle(LIBRARY)
    assert what == "the wheel onnxruntime is for the CPU only"
    assert 'pip uninstall -y onnxruntime && pip install "mobilenet-cli[gpu]"' in fix


@pytest.mark.usefixtures("cuda_wheel")
@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "no NVIDIA driver"),
        ((12, 4), "driver supports CUDA 12.4, but onnxruntime-gpu .* is built for CUDA 13.0"),
    ],
)
def test_missing_or_old_driver(monkeypatch, version, message):
    monkeypatch.setattr(cuda, "driver_cuda_version", lambda: version)
    what, fix = cuda.obstacle(LIBRARY)
    assert re.search(message, what)
    assert "driver 580 or newer" in fix


@pytest.mark.usefixtures("cuda_wheel")
def test_library_that_is_not_there(monkeypatch):
    monkeypatch.setattr(cuda, "driver_cuda_version", lambda: (13, 0))
    monkeypatch.setattr(cuda, "preload", lambda: None)
    what, _ = cuda.obstacle(LIBRARY)
    assert "cannot be loaded" in what  # the CPU wheel has no such file


@pytest.mark.usefixtures("cuda_wheel")
def test_the_loaders_message_becomes_needed_and_found(monkeypatch):
    monkeypatch.setattr(cuda, "other_versions", lambda _: ["libcudnn.so.8"])
    message = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    what, fix = cuda.missing_library(message)
    assert what == "the library libcudnn.so.9 is missing; found is libcudnn.so.8"
    assert fix == 'Run: pip install "mobilenet-cli[gpu]"'
    _, fix = cuda.missing_library("libnvinfer.so.10: cannot open shared object file: No such file")
    assert fix == "Run: pip install 'tensorrt-cu13==10.*'"
    what, _ = cuda.missing_library("/x/y.so: undefined symbol: f")
    assert "undefined symbol" in what


def test_other_versions_are_looked_up_by_the_loader():
    assert any(name.startswith("libc.so") for name in cuda.other_versions("c"))
    assert cuda.other_versions("nosuchlibrary") == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CudaExecutionProvider", "Perhaps CUDAExecutionProvider is meant"),
        ("cpu", "Perhaps CPUExecutionProvider is meant"),
        ("tensorrt", "Perhaps TensorrtExecutionProvider is meant"),
        ("Quantum", "Choose one of these"),
    ],
)
def test_unknown_provider_lists_what_there_is(name, advice):
    with pytest.raises(ProviderError, match=rf"which has .*CPUExecutionProvider.*{advice}"):
        check_provider(name)


def test_a_provider_that_cannot_start_is_never_replaced(wheels):
    wheels("onnxruntime")
    with pytest.raises(ProviderError, match="for the CPU only"):
        open_session(b"not even read", SessionConfig(provider="CUDAExecutionProvider"))


def test_only_wheels_in_one_folder_overwrite_each_other(tmp_path, monkeypatch):
    """As with a virtual environment that sees the system's packages."""

    def install(folder, name):
        package = tmp_path / folder / "onnxruntime"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        about = tmp_path / folder / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "RECORD").write_text("onnxruntime/__init__.py,,\n")

    install("own", "onnxruntime-gpu")
    install("system", "onnxruntime")
    monkeypatch.setattr("sys.path", [str(tmp_path / "own"), str(tmp_path / "system")])
    assert cuda.runtime_wheels() == ("onnxruntime-gpu",)
    install("own", "onnxruntime")
    assert cuda.runtime_wheels() == ("onnxruntime", "onnxruntime-gpu")

"""Weight files that claim more than anybody's memory are refused before any of it is taken."""

import io
import os
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files import weight_files
from mobilenet_cli.pipeline.importing.files.weight_files import MAX_FILE, Budget, read_weights

h5py = pytest.importorskip("h5py")
LARGE = 1 << 28


@pytest.fixture(autouse=True)
def little_memory():
    """A gigabyte beyond what the process has; without the checks these files would take more."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - one line of the kernel's
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def h5(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        yield file


def refused(file, sentence):
    path = file
    if isinstance(file, h5py.File):
        path = Path(file.filename)
        file.close()
    with pytest.raises(ModelError, match=sentence):
        read_weights(path)


def test_h5_that_stores_nothing(h5):
    h5.create_dataset("a/k:0", shape=(LARGE,), dtype="u1", chunks=(1 << 20,), fillvalue=1)
    refused(h5, r"'a/k:0' of shape \(268435456,\), which is more than any network")


def test_h5_of_many_groups(h5, monkeypatch):
    monkeypatch.setattr(weight_files, "MAX_TENSORS", 100)
    for number in range(101):
        h5.create_group(f"g{number}")
    refused(h5, "has more than 100 tensors or groups")


def test_h5_of_deep_groups(h5):
    h5.create_group("/".join("a" * 40))
    refused(h5, "has groups deeper than 32")


def test_compressed_torch_file(tmp_path):
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, whole)
    with (
        zipfile.ZipFile(whole) as old,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(tmp_path / "x.pth", "compressed, which torch does not do")


def test_torch_views_of_one_value(tmp_path):
    torch.save({"a": torch.zeros(1).expand(LARGE)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", r"has 'a' of shape \(268435456,\)")


def test_a_sparse_file(tmp_path):
    with (tmp_path / "x.bin").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    refused(tmp_path / "x.bin", "has 2 GiB, which is more than any network")


def test_a_graph_that_declares_more_than_it_holds(tmp_path):
    tensorflow = pytest.importorskip("tensorflow", exc_type=ImportError)
    graph = tensorflow.compat.v1.GraphDef()
    node = graph.node.add(name="MobilenetV1/a/weights", op="Const")
    node.attr["value"].tensor.dtype = 1
    node.attr["value"].tensor.float_val.append(1.0)
    node.attr["value"].tensor.tensor_shape.dim.add(size=1 << 31)
    (tmp_path / "x.pb").write_bytes(graph.SerializeToString())
    refused(tmp_path / "x.pb", r"of shape \(2147483648,\)")


@pytest.mark.parametrize("shape", [(-1, 3), (-(2**31), -2)])
def test_shapes_below_zero(tmp_path, shape):
    with pytest.raises(ModelError, match="has 'a' of shape"):
        Budget(tmp_path).spend("a", shape)


def test_all_tensors_count_together(tmp_path):
    budget = Budget(tmp_path)
    budget.spend("a", (weight_files.MAX_VALUES,))
    with pytest.raises(ModelError, match="has 'b' of shape"):
        budget.spend("b", np.zeros(1).shape)

"""A cluster answers as one machine does; what a worker says reaches the user as a sentence."""

import hashlib
import pickle
import subprocess
import sys
import tempfile

import pytest

from mobilenet_cli.data.parts import Part, cut
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, EvaluateWorker, answering
from mobilenet_cli.pipeline.evaluating.labels import evaluation_set, label_indices
from mobilenet_cli.pipeline.evaluating.predicting.answering import PredictConfig
from mobilenet_cli.pipeline.evaluating.predicting.cluster import PartWorker
from mobilenet_cli.pipeline.evaluating.predicting.job import predict_into
from mobilenet_cli.pipeline.runtime import cluster
from mobilenet_cli.pipeline.runtime.cluster import SentModel, _Actor, _actors, on_cluster

# In a process of its own: Ray leaves threads and files open, which pytest takes for errors.
CHILD = """
import sys
from pathlib import Path
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.evaluating.predicting.answering import PredictConfig
from mobilenet_cli.pipeline.evaluating.predicting.job import predict_into

model, images, out = sys.argv[1:]
record = predict_into(
    Path(out), load_artifact(Path(model)), [images], PredictConfig(files=3), cluster="auto"
)
print(record.model_dump_json())
"""


@pytest.fixture(scope="module")
def model(tiny):
    return load_artifact(tiny / "fp32.onnx")


@pytest.fixture
def images(class_folders):
    root = class_folders({"1": 4, "7": 4})
    (root / "7" / "001.png").write_text("no image")
    return root


def test_the_files_are_those_of_one_machine(model, images, tmp_path):
    pytest.importorskip("ray")
    here, there = tmp_path / "here", tmp_path / "there"
    predict_into(here, model, [str(images)], PredictConfig(files=3))
    arguments = [sys.executable, "-c", CHILD, str(model.path), str(images), str(there)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.parquet")}
        for out in (here, there)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_workers_evaluate_as_one_machine_does(model, images):
    config = EvaluateConfig(data=str(images))
    dataset = evaluation_set(model, config.data)
    targets = label_indices(dataset, model)
    with answering(model, config, dataset, targets) as (_, answered):
        expected = list(answered)
    worker = EvaluateWorker(SentModel.of(model), config, dataset.fingerprint, targets, 2)
    found = [answer for run in ((0, 3), (3, 8)) for answer in worker(run)]
    assert [(key, type(answer)) for key, answer in found] == [
        (key, type(answer)) for key, answer in expected
    ]
    assert [a for _, a in found if not isinstance(a, DataError)] == [
        a for _, a in expected if not isinstance(a, DataError)
    ]
    (images / "7" / "003.png").unlink()
    with pytest.raises(DataError, match="finds other images"):
        EvaluateWorker(SentModel.of(model), config, dataset.fingerprint, targets, 2)


def test_workers_leave_no_copy_of_the_model(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    part = next(iter(cut([str(images)], 3)))
    assert PartWorker(SentModel.of(model), PredictConfig(), 1)((0, part)).tables
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_worker_without_an_extra_says_so():
    def lacking(_cpus):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    actor = _Actor(lacking, 1, "nowhere")
    sent = pickle.loads(actor({"item": pickle.dumps(1)})["result"])
    assert isinstance(sent, OptionError)
    assert "needs the package onnxruntime" in sent.what


def test_a_part_that_cannot_be_fetched_comes_back_as_a_sentence(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENET_CLI_CACHE", str(tmp_path))
    worker = PartWorker(SentModel.of(model), PredictConfig(), 1)
    answered = worker((4, Part("http://127.0.0.1:9/x.tar")))
    assert answered.found.number == 4
    assert "x.tar cannot be fetched" in str(answered.found.problem)
    assert answered.tables == []


def test_actors_share_the_cpus_of_all_machines():
    pytest.importorskip("ray")
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    nodes += [{"Alive": True, "Resources": {"CPU": 6.0}}, {"Alive": False, "Resources": {}}]
    found = _actors(nodes, cluster.CPU)
    assert (found["num_cpus"], found["num_gpus"], found["compute"].max_size) == (4, 0, 3)
    for provider in ("OpenVINOExecutionProvider", "AzureExecutionProvider"):
        assert _actors(nodes, provider)["num_gpus"] == 0
    found = _actors(nodes, "CUDAExecutionProvider")
    assert (found["num_gpus"], found["compute"].max_size) == (1, 1)
    with pytest.raises(OptionError, match="has no GPU"):
        _actors(nodes[1:], "CUDAExecutionProvider")


@pytest.mark.parametrize("address", ["127.0.0.1:99999999999999999999", "127.0.0.1:70000", "x", ""])
def test_what_is_no_address(address):
    pytest.importorskip("ray")
    with pytest.raises(OptionError, match="no Ray cluster can be used at"):
        list(on_cluster(address, lambda _: None, [1]))


def test_an_address_without_a_cluster():
    pytest.importorskip("ray")
    with pytest.raises(OptionError, match=r"no Ray cluster can be used at 127\.0\.0\.1:9") as error:
        list(on_cluster("127.0.0.1:9", lambda _: None, [1]))
    assert "set RAY_AUTH_MODE=token if it asks for one" in str(error.value)


def test_parts_can_be_sent(images):
    parts = list(cut([str(images), str(images / "7" / "none.tar")], 3))
    assert pickle.loads(pickle.dumps(parts)) == parts

"""Jobs that are killed again and again, and a cluster that loses a machine; minutes, so slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "many_images.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory, encoded):
    folder = tmp_path_factory.mktemp("images")
    for number in range(600):
        (folder / f"{number:03}.png").write_bytes(encoded(seed=number))
    return folder


def measured(*arguments: object) -> dict:
    command = [sys.executable, str(BENCHMARK), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{\n") :])


def test_killed_jobs_end_in_the_same_files(tiny, images):
    kills = os.environ.get("MOBILENET_CLI_KILLS", "100")
    found = measured("kills", tiny / "fp32.onnx", images, kills)
    assert found["kills"] >= int(kills)
    assert found["parts"] == 60
    assert found["equal"] == found["jobs"]


def test_a_cluster_that_loses_a_node_ends_in_the_same_files(tiny, images):
    pytest.importorskip("ray")
    found = measured("cluster", tiny / "fp32.onnx", images)
    assert found["status"] == 0
    assert found["equal"]
    assert found["parts"] == 60
    assert found["at_kill"] < 60


def test_an_evaluation_that_loses_a_node_counts_each_image_once(tiny):
    pytest.importorskip("ray")
    found = measured("evaluation", tiny / "fp32.onnx")
    assert found["status"] == 0
    assert found["answers"] == [6000, 6000]
    assert found["equal"]
    assert found["at_kill"] < 6000

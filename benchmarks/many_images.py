"""That jobs of very many images take the same memory and time an image, and survive their machines.

``memory``: ``predict --out`` and ``evaluate`` on folders of 1,000, 10,000 and more digits, all of
them different files, each in a process of its own: peak memory, and the time of an image after the
model is loaded. ``listing``: seconds and memory to cut a folder of a million files into parts.
``rate``: images a second of ``predict --out``, beside the ideal n / (d + i) of evaluate_rate.py, d
and i being CPU time. ``kills``: jobs of 60 parts are killed at random moments until they are
finished; how many end in the files of an uninterrupted job. ``cluster``: a Ray cluster of three
nodes on this machine, of which one is killed in the middle; likewise. ``evaluation``: the same
while digits are evaluated. ``overhead``: the time of jobs of a fifth and of all images, with Ray
and without; their difference is what images take, the rest is the start.

Usage: python benchmarks/many_images.py memory MODEL.onnx COUNTS...
       python benchmarks/many_images.py listing [COUNT]
       python benchmarks/many_images.py rate|kills|cluster MODEL.onnx IMAGES [KILLS]
       python benchmarks/many_images.py evaluation MODEL.onnx [COUNT]
       python benchmarks/many_images.py overhead MODEL.onnx IMAGES [COUNT] [ADDRESS]
"""
# ruff: noqa: S603 - it starts itself

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.parts import cut
from mobilenet_cli.data.preprocess import prepare
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.evaluating import evaluate
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.predicting.answering import PredictConfig
from mobilenet_cli.pipeline.evaluating.predicting.job import predict_into
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import open_predictor


def peak_mb() -> float:
    """Peak resident memory of this process in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def repeated(folder: Path, contents: list[tuple[str, bytes]], count: int) -> Path:
    """Write so many files in class folders; each gets other bytes at its end."""
    for number in range(count):
        label, content = contents[number % len(contents)]
        path = folder / label / f"{number // 1000:04}" / f"{number:07}.img.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + number.to_bytes(8, "little"))
    return folder


def digits() -> list[tuple[str, bytes]]:
    """The digits, with their labels."""
    return [(str(s.label), s.read()) for s in open_dataset("digits", "all").samples]


def one(what: str, model: str, images: str, out: str) -> None:
    """Run one job, in a process of its own, and print what it took."""
    artifact = load_artifact(Path(model))
    if what == "predict":
        seconds = predict_into(Path(out), artifact, [images], PredictConfig()).seconds
    else:
        config = EvaluateConfig(data=images)
        seconds = evaluate.evaluate_and_keep(artifact, config, Run(Path(out))).seconds
    print(json.dumps({"peak_mb": peak_mb(), "seconds": seconds}))


def memory(model: str, *counts: str) -> dict[str, object]:
    """Measure peak memory and time an image by the number of images."""
    found: dict[str, object] = {}
    for count in map(int, counts):
        with tempfile.TemporaryDirectory() as folder:
            images = repeated(Path(folder) / "images", digits(), count)
            for what in ("predict", "evaluate"):
                arguments = [sys.executable, __file__, "one", what, model, str(images)]
                done = subprocess.run([*arguments, f"{folder}/{what}"], stdout=subprocess.PIPE)
                row = json.loads(done.stdout)
                row["ms_an_image"] = 1e3 * row["seconds"] / count
                found[f"{what} {count}"] = row
                print(what, count, row, file=sys.stderr)
    return found


def listing(count: str = "1000000") -> dict[str, object]:
    """Measure what it takes to cut a folder into parts."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(int(count)):
            if number % 1000 == 0:
                (Path(folder) / f"{number // 1000:04}").mkdir()
            os.close(os.open(f"{folder}/{number // 1000:04}/{number:07}.jpg", os.O_CREAT))
        before, started, spent = peak_mb(), time.perf_counter(), time.process_time()
        parts = list(cut([folder]))
        seconds = {"wall": time.perf_counter() - started, "cpu": time.process_time() - spent}
    return {"parts": len(parts), "seconds": seconds, "mb_before": before, "peak_mb": peak_mb()}


def rate(model: str, images: str) -> dict[str, object]:
    """Compare the rate with the ideal one, and with that of scaled decoding, in turns."""
    artifact = load_artifact(Path(model))
    samples = open_dataset(images, "all").samples
    rows = []
    for number in range(5):
        spent = time.thread_time()
        with open_predictor(artifact) as predictor:
            for sample in samples:
                predictor.logits(prepare(sample.read(), sample.key, artifact.facts.input)[None])
        ideal = usable_cpus() * len(samples) / (time.thread_time() - spent)
        row = {"ideal": ideal}
        for name, scaled in (("exact", False), ("scaled", True)):
            with tempfile.TemporaryDirectory() as folder:
                config = PredictConfig(scaled=scaled)
                record = predict_into(Path(folder) / "out", artifact, [images], config)
            row[name] = record.images_per_second
        rows.append(row)
        print(number, row, file=sys.stderr)
    return {"rows": rows}


def digests(folder: Path) -> dict[str, str]:
    """Hash the parts of a job."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}


def job(model: str, images: str, out: Path) -> list[str]:
    """Name the command of a job of about 60 parts."""
    return [sys.executable, __file__, "parts", model, images, str(out)]


def parts(model: str, images: str, out: str, cluster: str = "") -> None:
    """Do a job whose parts are small."""
    artifact = load_artifact(Path(model))
    count = len(open_dataset(images, "all").samples)
    config = PredictConfig(files=-(-count // 60))
    record = predict_into(Path(out), artifact, [images], config, cluster=cluster or None)
    print(record.model_dump_json())


def kills(model: str, images: str, count: str = "100") -> dict[str, object]:
    """Kill jobs at random moments so many times in all; each must end in the same files."""
    killed = finished = equal = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        started = time.perf_counter()
        subprocess.run(job(model, images, whole), check=True, stdout=subprocess.DEVNULL)
        longest = time.perf_counter() - started
        while killed < int(count):
            out = Path(folder) / f"out{finished}"
            while True:
                child = subprocess.Popen(job(model, images, out), stdout=subprocess.DEVNULL)
                try:
                    child.wait(random.uniform(0, longest))  # noqa: S311 - no secret
                    break
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    killed += 1
            finished += 1
            equal += digests(out) == digests(whole)
        return {"kills": killed, "jobs": finished, "equal": equal, "parts": len(digests(whole))}


def loses_a_node(command: list[str], done: Callable[[], int], third: int) -> dict[str, object]:
    """Run a command on a Ray cluster of three nodes, and kill one when a third is done."""
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
    started = time.perf_counter()
    child = subprocess.Popen([*command, machines.address])
    while done() < third and child.poll() is None:
        time.sleep(0.05)
    at_kill = done()
    machines.remove_node(nodes[0], allow_graceful=False)
    status = child.wait()
    seconds = time.perf_counter() - started
    machines.shutdown()
    return {"at_kill": at_kill, "status": status, "seconds": seconds}


def cluster(model: str, images: str) -> dict[str, object]:
    """Let a job lose a node when a third of its parts are there."""
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "out"
        subprocess.run(job(model, images, whole), check=True, stdout=subprocess.DEVNULL)
        found = loses_a_node(job(model, images, out), lambda: len(digests(out)), 20)
        return found | {"parts": len(digests(out)), "equal": digests(out) == digests(whole)}


def evaluated(model: str, images: str, out: str, cluster: str = "") -> None:
    """Evaluate in runs of 50 images, and write how many are done into a file."""
    evaluate.RUN = 50
    config = EvaluateConfig(data=images, cluster=cluster or None)
    told = Path(f"{out}.done")

    def progress(done: int, total: int, note: str = "") -> None:
        told.write_text(f"{done} {total} {note}")

    evaluate.evaluate_and_keep(load_artifact(Path(model)), config, Run(Path(out)), progress)


def evaluation(model: str, count: str = "6000") -> dict[str, object]:
    """Let an evaluation of digits lose a node when a third of them are counted."""
    with tempfile.TemporaryDirectory() as folder:
        images = repeated(Path(folder) / "images", digits(), int(count))
        command = [sys.executable, __file__, "evaluated", model, str(images)]
        outs = [Path(folder) / name for name in ("whole", "out")]
        told = Path(f"{outs[1]}.done")
        subprocess.run([*command, str(outs[0])], check=True)
        found = loses_a_node(
            [*command, str(outs[1])],
            lambda: int((told.read_text() if told.exists() else "").split(" ")[0] or 0),
            int(count) // 3,
        )
        answers = [answers_of(out) for out in outs]
        counted = [len(kept) for kept in answers]
        return found | {"images": int(count), "answers": counted, "equal": answers[0] == answers[1]}


def answers_of(run: Path) -> list[object]:
    """Return the rows that an evaluation has kept."""
    import pyarrow.parquet

    (path,) = (run / "predictions").glob("*.parquet")
    rows: list[object] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def overhead(
    model: str, images: str, count: str = "10000", address: str = "auto"
) -> dict[str, object]:
    """Compare the times of jobs with and without Ray, on the same CPUs."""
    found: dict[str, object] = {}
    contents = [("all", s.read()) for s in open_dataset(images, "all").samples]
    with tempfile.TemporaryDirectory() as folder:
        for number in (int(count) // 5, int(count)):
            many = repeated(Path(folder) / f"images{number}", contents, number)
            for cluster in ("", address):
                out = Path(folder) / f"out{number}{cluster}"
                arguments = [*job(model, str(many), out), *filter(None, [cluster])]
                done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE)
                found[f"{number} {cluster or 'alone'}"] = json.loads(done.stdout)["seconds"]
    return found


if __name__ == "__main__":
    commands = (one, memory, listing, rate, parts, kills, cluster, evaluated, evaluation, overhead)
    command = {function.__name__: function for function in commands}[sys.argv[1]]
    result = command(*sys.argv[2:])
    if result is not None:
        print(json.dumps(result, indent=2))

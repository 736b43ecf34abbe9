"""How close ``evaluate`` comes to the rate that its parts allow, and that its memory is flat.

d: seconds to read, decode, resize and normalize one image, on one thread.
i: seconds to run the model on one image, batch 1, one thread of ONNX Runtime.
ideal: n / (d + i) images per second, n being the CPUs this process may use.
rate: images per second of ``evaluate``, as it records it.

Each round measures d, i and rate on the same images, one after the other, and how many CPUs other
processes used meanwhile (busy time of /proc/stat less our own). Work of others takes a CPU from the
rate but none from d and i, which need only one, so rounds with more than 5 % of a CPU of it do not
count. The result is the median of rate / ideal over the rounds that do. Peak memory is that of the
process after evaluating the images once, and after ten times as many.

Usage: python benchmarks/evaluate_rate.py MODEL.onnx DATA [ROUNDS [IMAGES]]
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.open_dataset import held_out
from mobilenet_cli.data.preprocess import prepare
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.evaluating import evaluate as stage
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import open_predictor

QUIET = 0.05  # CPUs that others may use in a round that counts


def busy_seconds() -> float:
    """CPU time that all processes of this machine have used: user, nice, system, irq, steal."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def one_round(artifact: Artifact, dataset: Dataset) -> dict[str, float]:
    """Measure d and i in milliseconds, the ideal and the real rate in images per second."""
    spec, count = artifact.facts.input, len(dataset.samples)
    others, began = busy_seconds() - time.process_time(), time.perf_counter()
    with open_predictor(artifact) as predictor:
        decoding = inference = 0.0
        for sample in dataset.samples:
            start = time.perf_counter()
            image = prepare(sample.read(), sample.key, spec)
            decoded = time.perf_counter()
            predictor.logits(image[None])
            decoding += decoded - start
            inference += time.perf_counter() - decoded
    ideal = usable_cpus() * count / (decoding + inference)
    rate = evaluate(artifact, EvaluateConfig(data="benchmark")).images_per_second
    others = (busy_seconds() - time.process_time() - others) / (time.perf_counter() - began)
    return {
        "others_cpus": others,
        "d_ms": 1e3 * decoding / count,
        "i_ms": 1e3 * inference / count,
        "ideal": ideal,
        "rate": rate,
        "share": rate / ideal,
    }


def peak_mb() -> float:
    """Peak resident memory of this process in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print a table to standard error and one JSON document to standard output."""
    model, data = Path(sys.argv[1]), sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 400
    artifact = load_artifact(model)
    whole = held_out(data, artifact.facts.data)
    step = max(1, len(whole.samples) // count)
    chosen = Dataset(whole.name, whole.samples[::step][:count], whole.classes)
    vars(stage)["held_out"] = lambda *_: chosen  # the same images in all parts
    results = []
    for number in range(rounds):
        results.append(one_round(artifact, chosen))
        print(number, {k: round(v, 2) for k, v in results[-1].items()}, file=sys.stderr)
    small = peak_mb()
    many = Dataset(chosen.name, list(chosen.samples) * 10, chosen.classes)
    vars(stage)["held_out"] = lambda *_: many
    evaluate(artifact, EvaluateConfig(data="benchmark"))
    quiet = [r["share"] for r in results if r["others_cpus"] <= QUIET]
    document = {
        "model": str(model),
        "cpus": usable_cpus(),
        "images": len(chosen.samples),
        "rounds": results,
        "quiet_rounds": len(quiet),
        "median_share": statistics.median(quiet) if quiet else None,
        "peak_mb": small,
        "peak_mb_ten_times_the_images": peak_mb(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()

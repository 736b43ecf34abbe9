"""A run amounts to one row an artifact, a few facts and one sentence. Pure functions of records."""

from collections import Counter
from collections.abc import Sequence

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.latency_tables import fastest_notes
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, Interval
from mobilenet_cli.reports.records.conversion import ImportRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord, SpeedRecord
from mobilenet_cli.reports.records.run import ArtifactRecord, ReportRecord, ReportRow, RunRecord
from mobilenet_cli.reports.records.training import TrainRecord

FEW_CLASSES = 10  # up to so many, being among the first five says little


def summarize(run: RunRecord) -> ReportRecord:
    """Return the run with its table, its facts and its headline."""
    rows = tuple(report_row(run, artifact) for artifact in run.artifacts)
    return ReportRecord(headline=headline(run, rows), facts=facts(run), rows=rows, run=run)


def report_row(run: RunRecord, artifact: ArtifactRecord) -> ReportRow:
    """Gather what was measured on one artifact, in the first setting it was measured in."""
    row = ReportRow(file=artifact.file, stage=artifact.stage, size_mb=artifact.size_mb)
    update: dict[str, object] = {}
    if evaluation := evaluation_of(run, artifact):
        update |= {
            "data": evaluation.data,
            "images": evaluation.images,
            "top1": evaluation.top1,
            "top5": evaluation.top5 if class_count(artifact) > FEW_CLASSES else None,
        }
    found = [record for record in run.detections if record.sha256 == artifact.sha256]
    if found:
        last = found[-1]
        update |= {"data": last.data, "images": last.images, "ap50": last.ap50, "ap": last.ap}
    if run.bench is not None and (index := result_index(run.bench, artifact.sha256)) is not None:
        result = run.bench.results[index]
        over = result.reference
        speedup = speed_over(run.bench, index, over)
        update |= {
            "provider": result.provider,
            "threads": result.threads,
            "cpus": result.cpus,
            "batch": result.batch,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "speedup": speedup,
            "speedup_over": file_name(run.bench.results[over].model) if speedup else None,
            "result": index,
        }
    return row.model_copy(update=update)


def class_count(artifact: ArtifactRecord) -> int:
    """Count the outputs of a classifier; ImageNet's where an old record does not tell."""
    return len(artifact.classes) or 1000


def evaluation_of(run: RunRecord, artifact: ArtifactRecord) -> EvaluationRecord | None:
    """Return the newest evaluation of exactly this file, on the images that most files share."""
    found = [record for record in run.evaluations if record.sha256 == artifact.sha256]
    main = main_data(run.evaluations)
    shared = [record for record in found if record.data_fingerprint == main]
    return next(reversed(shared or found), None)


def main_data(evaluations: Sequence[EvaluationRecord]) -> str | None:
    """Return the fingerprint of the data set on which most files were evaluated, the newest one."""
    files = {(record.sha256, record.data_fingerprint) for record in evaluations}
    counts = Counter(fingerprint for _, fingerprint in files)
    newest = {record.data_fingerprint: i for i, record in enumerate(evaluations)}
    return max(counts, key=lambda data: (counts[data], newest[data]), default=None)


def result_index(bench: BenchRecord, sha256: str) -> int | None:
    """Return the index of a file's first plain forward row in the latency record."""
    for index, result in enumerate(bench.results):
        if (result.sha256, result.variant, result.direction) == (sha256, "", "forward"):
            return index
    return None


def speed_over(bench: BenchRecord, index: int, reference: int) -> Interval | None:
    """Return how many times faster one row is than another; ``Ratio`` holds the inverse."""
    if index == reference:
        return Interval(value=1.0)
    for ratio in bench.ratios:
        if (ratio.row, ratio.reference) == (index, reference):
            return Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
    return None


def file_name(path: str) -> str:
    """Return the last part of a path of this or another system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def facts(run: RunRecord) -> tuple[str, ...]:
    """Say what the network is and what it was made from, a sentence each."""
    last, first = run.artifacts[-1], run.artifacts[0]
    network = [run.network if last.model else "A network"]
    if last.model and last.model.width is not None:
        network.append(f"width {last.model.width:g}")
    if last.input:
        network.append(f"{last.input.resolution}×{last.input.resolution} pixels")
    if last.classes:
        network.append(f"{len(last.classes):,} classes")
    trained, imported = first.measured(TrainRecord), first.measured(ImportRecord)
    parameters = trained or imported
    if parameters:
        network.append(f"{parameters.parameters:,} parameters")
    if run.multiply_adds:
        network.append(f"{run.multiply_adds / 1e6:,.1f} million multiply-adds an image")
    found = [", ".join(network)]
    if trained:
        found.append(
            f"Trained on {trained.images:,} images of {first.data or 'an unknown set'} for "
            f"{counted(trained.epochs, 'epoch')}{kept(trained)}"
        )
    if imported:
        found.append(f"Weights imported from {file_name(imported.source)}, {imported.layout} names")
    quantized = last.measured(QuantizeRecord)
    if quantized:
        own = "training" if trained and last.config.get("calib_dir") is None else "calibration"
        found.append(f"Quantized with {counted(quantized.images, f'{own} image')}")
    return (*found, *(fastest_notes(run.bench) if run.bench else ()))


def slower_sentence(speed: SpeedRecord) -> str:
    """Say that the float model is faster, and by how much."""
    return (
        f"the float model is faster on the machine that quantized it: the int8 model takes "
        f"{speed.ratio:.2f} ({speed.low:.2f} to {speed.high:.2f}) of its {speed.float_ms:.3g} ms "
        "on one thread"
    )


def kept(trained: TrainRecord) -> str:
    """Say which epoch's weights a training has kept, where they are not the last one's."""
    epoch = trained.kept_epoch
    if epoch is None or epoch >= trained.epochs:
        return ""
    if epoch:
        return f", of which epoch {epoch} was the best and is kept"
    start = "a new classifier alone" if trained.start_top1 is None else "what they started from"
    return f", none of them better than {start}, which is kept"


def headline(run: RunRecord, rows: Sequence[ReportRow]) -> str:
    """Say how the int8 model compares with the float one, as far as that was measured.

    A model that may be guessing is said first. A ratio is stated with its 95 % interval, and only
    where the interval excludes 1; a difference of top-1 only where its interval excludes 0.
    Differences are those of int8 from float: what is lost has a minus.
    """
    stages = {row.stage: row for row in rows}
    int8, base = stages.get("quantize"), stages.get("simplify") or stages.get("export")
    first = guessing(run, rows)
    if int8 is None or base is None:
        names = ", ".join(row.file for row in rows) or "no model"
        return f"{first}Run {run.run} has {names}; int8 cannot be compared with fp32 yet."
    files = (base.file, int8.file)
    found = [points(p.difference) for p in run.paired if (p.base, p.other) == files]
    found += [
        points(p.difference, "AP50") for p in run.paired_precision if (p.base, p.other) == files
    ]
    accuracy = found[-1] if found else _accuracy(int8, base)
    said = f"{base.size_mb / int8.size_mb:.1f}× smaller than fp32"
    if int8.speedup is not None and int8.speedup_over == base.file:
        sure, text = speed(int8.speedup)
        slower = int8.speedup.value < 1
        said = (
            f"{said}; {text}"
            if not sure
            else f"{said} but {text}"
            if slower
            else f"{text} and {said}"
        )
    return f"{first}int8 is {said}; {accuracy}."


def guessing(run: RunRecord, rows: Sequence[ReportRow]) -> str:
    """Say that the last evaluated model cannot be told from one that guesses; empty if it can."""
    for artifact, row in zip(reversed(run.artifacts), reversed(rows), strict=True):
        if row.top1 is None:
            continue
        chance = 100 / class_count(artifact)
        if row.top1.low > chance:
            return ""
        return (
            f"{row.file} cannot be told from guessing: top-1 is {row.top1.value:.2f} % (95 %: "
            f"{row.top1.low:.1f} to {row.top1.high:.1f}), and guessing gives {chance:.3g} %. "
        )
    return ""


def speed(ratio: Interval, than: str = "fp32") -> tuple[bool, str]:
    """Compare a speed with that of ``than``.

    Returns:
        Whether the interval excludes 1, and a phrase: what follows "is" where it does.
    """
    if ratio.low is None or ratio.high is None:
        return False, f"no interval of the speed against {than} is known"
    bounds = f"(95 %: {times(ratio.low)} to {times(ratio.high)})"
    if ratio.low > 1 or ratio.high < 1:
        if ratio.low > 1:
            return True, f"{times(ratio.value)}× as fast as {than} {bounds}"
        return True, f"slower than {than}, at {times(ratio.value)}× its speed {bounds}"
    return False, f"no difference in speed was found {bounds}"


def times(value: float) -> str:
    """Write two decimals, or two digits where two decimals would show nothing."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _accuracy(int8: ReportRow, base: ReportRow) -> str:
    both = (int8.ap50, base.ap50) if int8.ap50 else (int8.top1, base.top1)
    if both[0] is None or both[1] is None:
        return "its accuracy has not been compared"
    if (int8.data, int8.images) != (base.data, base.images):
        return "it was evaluated on other images than fp32"
    return (
        f"{'AP50' if int8.ap50 else 'top-1'} is {both[0].value:.2f} % and that of fp32 "
        f"{both[1].value:.2f} %, which were not compared image by image"
    )


def points(difference: Interval, of: str = "top-1") -> str:
    """Say ``top-1 changes by -0.62 points (95 %: -0.95 to -0.29)``, or that it may be the same."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"{of} differs by {difference.value:+.2f} points, without an interval"
    bounds = f"(95 %: {low:+.2f} to {high:+.2f})"
    if low <= 0 <= high:
        return f"no difference in {of} was found {bounds}"
    return f"{of} changes by {difference.value:+.2f} points {bounds}"

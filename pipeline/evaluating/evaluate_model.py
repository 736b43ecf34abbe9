"""A model is measured by what it is for, which its file says."""

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.runs import Run, run_of
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate_and_keep
from mobilenet_cli.pipeline.evaluating.evaluate_detector import boxes_record, evaluate_detector
from mobilenet_cli.pipeline.evaluating.records import boxes_in, detections_of
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.reports.records.accuracy import EvaluationRecord
from mobilenet_cli.reports.records.detection import DetectionRecord, ImageBoxes


def evaluate_model(
    artifact: Artifact, config: EvaluateConfig, run: Run | None, progress: Progress = silent
) -> EvaluationRecord | DetectionRecord:
    """Measure a classifier's accuracy or a detector's average precision, and keep the record.

    Args:
        artifact: any model file.
        config: on which images, and how.
        run: the run that keeps it; None takes the one in whose folder the model lies, if any.
        progress: is told how many images are done.

    Raises:
        OptionError: a detector is to be evaluated on a cluster.
        MobilenetError: whatever the two raise, or the folder cannot be written to.
    """
    if artifact.facts.task == "classification":
        return evaluate_and_keep(artifact, config, run, progress)
    if config.cluster is not None:
        raise OptionError("detectors are not evaluated on a cluster", "Leave --ray out")
    kept: list[ImageBoxes] = []
    record = evaluate_detector(artifact, config, progress, kept)
    if home := run or run_of(artifact.path):
        detections_of(home).merge(record)
        boxes_in(home).merge(boxes_record(record, config.data or artifact.facts.data or "", kept))
    return record

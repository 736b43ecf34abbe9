"""The files in a run's folder have JSON Schemas, published in ``docs/schema``.

``python -m mobilenet_cli.reports.schema FOLDER`` writes them.
"""

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from mobilenet_cli.reports.records.accuracy import EvaluationRecord, PredictionsRecord
from mobilenet_cli.reports.records.conversion import (
    ExportRecord,
    ImportRecord,
    NmsRecord,
    SimplifyRecord,
)
from mobilenet_cli.reports.records.deployment import PackageRecord, ServeRecord
from mobilenet_cli.reports.records.detection import BoxesRecord, DetectionRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.prediction import JobRecord, PredictRecord
from mobilenet_cli.reports.records.proof import KitRecord, ProofRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ComparisonRecord, HistoryRecord, ReportRecord
from mobilenet_cli.reports.records.training import EpochRecord, TrainRecord

# By the name of the schema's file: what is in the file of that name, or what the stage of that
# name leaves as "record" in the sidecar of the model it made.
SCHEMAS: dict[str, TypeAdapter[object]] = {
    "bench": TypeAdapter(BenchRecord),
    "boxes": TypeAdapter(list[BoxesRecord]),
    "comparison": TypeAdapter(ComparisonRecord),
    "detection": TypeAdapter(list[DetectionRecord]),
    "evaluate": TypeAdapter(list[EvaluationRecord]),
    "export": TypeAdapter(ExportRecord),
    "history": TypeAdapter(HistoryRecord),
    "import": TypeAdapter(ImportRecord),
    "kit": TypeAdapter(KitRecord),
    "nms": TypeAdapter(NmsRecord),
    "package": TypeAdapter(PackageRecord),
    "predict": TypeAdapter(PredictRecord),
    "predict-job": TypeAdapter(JobRecord),
    "predictions": TypeAdapter(list[PredictionsRecord]),
    "prove": TypeAdapter(ProofRecord),
    "quantize": TypeAdapter(QuantizeRecord),
    "report": TypeAdapter(ReportRecord),
    "serve": TypeAdapter(ServeRecord),
    "simplify": TypeAdapter(SimplifyRecord),
    "train": TypeAdapter(TrainRecord),
    "train-epoch": TypeAdapter(EpochRecord),
}


def schema_text(name: str) -> str:
    """Write one schema of ``SCHEMAS`` as the text of its file."""
    schema = SCHEMAS[name].json_schema()
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=1, sort_keys=True) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        (folder / f"{name}.json").write_text(schema_text(name))


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))

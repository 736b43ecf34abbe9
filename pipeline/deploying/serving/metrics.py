"""What a server does is counted for Prometheus, and logged as a line of JSON for each request."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

LOGGER = logging.getLogger("mobilenet_cli.serve")
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """These are the metrics of one server, which start at nothing."""

    def __init__(self, **model: str) -> None:
        self.registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "mobilenet", "registry": self.registry}
        Info("model", "What is served", **ours).info(model)
        self.requests = Counter("requests", "Requests answered", ["path", "status"], **ours)
        whole = "Seconds from a request to its whole answer"
        self.seconds = Histogram("request_seconds", whole, ["path"], buckets=SECONDS, **ours)
        self.images = Histogram("batch_images", "Images of a run", buckets=IMAGES, **ours)
        seconds = "Seconds of a run of the model"
        self.runs = Histogram("run_seconds", seconds, buckets=SECONDS, **ours)
        self.queue = Gauge("queue_images", "Images decoded, waiting or classified now", **ours)

    def ran(self, images: int, seconds: float) -> None:
        """Count a run of the model."""
        self.images.observe(images)
        self.runs.observe(seconds)


class JsonLines(logging.Formatter):
    """A record of the log becomes one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; fields stand in ``extra={"fields": {...}}``."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower()}
        line |= {"event": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_json_lines() -> None:
    """Log to standard error as lines of JSON, warnings of libraries included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(logging.INFO)
    # What is wrong with a form is told to the client.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

"""These are the records of jobs that predict very many images."""

from mobilenet_cli.reports.records.base import Record


class JobRecord(Record):
    """A job is what a folder of predictions was made from; a second start must agree with it.

    Attributes:
        model: SHA-256 of the model file.
        sources: what was named.
        images: SHA-256 over all parts: names of files, and sizes of shards.
        parts: the number of parts.
        options: what decides about the rows: output, top or least probability, provider, decoder.
    """

    model: str
    sources: tuple[str, ...]
    images: str
    parts: int
    options: dict[str, str | int | float]


class PredictRecord(Record):
    """This is what a job has done.

    Attributes:
        out: the folder; ``model`` the file that answered, ``sha256`` its hash.
        parts: files that are complete, of this start or an earlier one.
        rows: rows in them, an image or a reason each; ``errors`` counts the reasons.
        failed: sentences about parts that are missing, which the next start tries again.
        images: images that this start has answered.
        images_per_second: of this start, reading and decoding included.
        seconds: wall time of the same.
        decoding_share: the share of the threads' time that went into reading, decoding, scaling.
    """

    out: str
    model: str
    sha256: str
    parts: int
    rows: int
    errors: int
    failed: tuple[str, ...] = ()
    images: int
    images_per_second: float
    seconds: float
    decoding_share: float

"""These are the records of quantization."""

from mobilenet_cli.reports.records.base import Record


class CalibrationImage(Record):
    """A calibration image has a path or name, and the SHA-256 of its bytes."""

    key: str
    sha256: str


class LayerRecord(Record):
    """A layer's record says how well one step of the network survived quantization.

    Attributes:
        name: of the tensor it makes.
        operator: its ONNX operator.
        sqnr_db: of that tensor against the float network's on the same images, everything before
            it quantized too; None for a step that stayed float.
        scale: of the tensor's grid; None where it stayed float.
        kernel_error: largest difference, in codes, between this machine's integer kernels and the
            simulation given the same inputs; 1 is a tie rounded the other way. None where the
            model is for other kernels, which a proof kit tries.
        integer: ONNX Runtime computes it from codes to codes.
    """

    name: str
    operator: str
    sqnr_db: float | None
    scale: float | None
    kernel_error: float | None = 0.0
    integer: bool = True


class FloatLayer(Record):
    """A float layer stays so that accuracy drops by no more than was asked for.

    Attributes:
        name: of the tensor it makes.
        drop: of top-1 in points against the float model, with it and those listed before it.
        p50_ms: median latency of that model, one image, one thread, here.
        slowdown: that against the model that is integer throughout, timed in turns.
    """

    name: str
    drop: float
    p50_ms: float
    slowdown: float


class SpeedRecord(Record):
    """A speed is a quantized model's latency beside the float model's, where it was quantized.

    Attributes:
        float_ms: the float model's median for one image on one thread, in milliseconds;
            ``int8_ms`` that of the quantized model.
        ratio: the second over the first, the median of turns that followed each other.
        low: of the 95 % interval of that ratio; ``high`` its other end.
    """

    float_ms: float
    int8_ms: float
    ratio: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Tell whether the quantized model is slower, by more than the noise."""
        return self.low > 1


class TunedLayers(Record):
    """These layers stay in float because the whole network is faster here when they do.

    Attributes:
        names: of the tensors they make, one layer or two that follow each other.
        ratio: the network's time over that without this choice, the median of turns; ``low`` and
            ``high`` are the ends of its 95 % interval.
    """

    names: tuple[str, ...]
    ratio: float
    low: float
    high: float


class TuningRecord(Record):
    """A tuning's record says which layers are faster in float here, found by measuring.

    Attributes:
        tried: the number of choices that were measured.
        kept: those that were taken, in the order of computation.
        ratio: the tuned network's time over that of the network that is integer throughout, 1
            where nothing was kept; ``low`` and ``high`` are the ends of its 95 % interval.
        seconds: wall time.
    """

    tried: int
    kept: tuple[TunedLayers, ...]
    ratio: float
    low: float
    high: float
    seconds: float


class QuantizeRecord(Record):
    """A quantization's record says what was done and proved.

    Attributes:
        images: calibration images used; ``calibration`` lists them, ``bad_images`` those that
            could not be read, ``leakage`` those that are also in the evaluation set.
        leakage_checked: the evaluation set they were compared with, None if it is not known.
        calibrator: range method; ``target`` the kernels the model is made for.
        weight_bits: of the stored weights.
        pairs_limited: neighbouring weights were kept from saturating 16-bit sums.
        format: how the integers are written, always ``qdq``.
        sqnr_db: of the logits against the float model's, on the calibration images, by the
            integer kernels of this machine; likewise ``agreement`` (top-1, 0..1) and
            ``max_abs_error``.
        kernel_sqnr_db: of the same logits against the simulated ones: what only the kernels add.
            None where that is nothing, and where the model is for another machine.
        kernels_equal: the kernels of this machine make the simulated logits, bit for bit.
        kit: the folder, beside the model, with which that machine proves its kernels; None where
            this one has proven them.
        operators: nodes by type in the graph that really runs.
        layers: in the order of computation; ``float_layers`` names those not integer.
        max_drop: of ``drop_measure`` in points that was asked for, None if it was not.
        drop: what it is, measured on ``drop_images`` images of ``drop_data``.
        drop_measure: what drops: ``top-1``, or ``AP`` of a detector.
        kept_float: the layers that stayed in float for it, and their price.
        speed: beside the float model's, on this machine; None where the model is for another one.
        tuning: how layers in float were chosen for speed; None where nobody asked.
        seconds: wall time; ``peak_rss_mb`` the process's peak memory.
    """

    images: int
    calibration: tuple[CalibrationImage, ...]
    bad_images: tuple[str, ...]
    leakage: tuple[str, ...]
    leakage_checked: str | None
    calibrator: str
    target: str
    weight_bits: int
    pairs_limited: bool
    format: str
    sqnr_db: float
    agreement: float
    max_abs_error: float
    kernel_sqnr_db: float | None
    operators: dict[str, int]
    layers: tuple[LayerRecord, ...]
    float_layers: tuple[str, ...]
    kernels_equal: bool = False
    max_drop: float | None = None
    drop: float | None = None
    drop_data: str | None = None
    drop_images: int | None = None
    drop_measure: str = "top-1"
    kept_float: tuple[FloatLayer, ...] = ()
    kit: str | None = None
    speed: SpeedRecord | None = None
    tuning: TuningRecord | None = None
    seconds: float
    peak_rss_mb: float

"""These are the records of deployment: a package's manifest."""

from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import NmsRecord


class ProbeAnswer(Record):
    """An answer names the most probable classes of one image of the probe.

    Attributes:
        classes: indices into ``labels.txt``, the most probable one first.
        log_probabilities: their natural logarithms, in the same order.
    """

    classes: tuple[int, ...]
    log_probabilities: tuple[float, ...]


class RawAnswer(Record):
    """A raw answer is what a detector says about one image of the probe at some of its anchors.

    Attributes:
        anchors: indices of some anchors of each map, in rising order.
        values: raw outputs of each of them: four of the box, then one logit a score.
    """

    anchors: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


class InputProof(Record):
    """A proof compares one input form of a variant with ``predict``, on the same images.

    Attributes:
        model: the file, relative to the package.
        size: of the file in bytes.
        agreement: fraction of images with the same top-1 class, 0..1; of a detector the fraction
            of the ten most probable boxes of each image that ``predict`` finds, too: of the same
            class, with an overlap of at least 0.5.
        max_difference: largest difference of a probability, of a detector at any anchor.
    """

    model: str
    size: int
    agreement: float
    max_difference: float


class VariantRecord(Record):
    """A variant is one model for one family of kernels.

    Attributes:
        target: the kernels that it is made for; ``fp32`` runs everywhere.
        machines: the CPU architectures that have them, as ``uname -m`` names them; empty for all.
        pixels: the file that takes uint8 RGB [N, R, R, 3], and its proof.
        image: the file that takes uint8 RGB [rows, columns, 3] of any size, and its proof.
        jpeg: the file that takes the bytes of a JPEG file, uint8 [bytes], and its proof on those
            of the images that are such files; None where it was not asked for.
        sqnr_db: of its logits against the float model's, as ``quantize`` measured them; None for
            the float model itself; likewise ``agreement``, the fraction of equal top-1.
        kernels: this variant was proven on the integer kernels of the machine that made the
            package; otherwise in simulation.
        answers: what it must say about each image of the probe, by its definition.
        tolerance: largest difference of a log-probability of those classes from ``answers``; of a
            detector the largest root mean square of the differences of those values, as a share of
            the values' own.
    """

    target: str
    machines: tuple[str, ...]
    pixels: InputProof
    image: InputProof
    jpeg: InputProof | None = None
    sqnr_db: float | None
    agreement: float | None
    kernels: bool
    answers: tuple[ProbeAnswer, ...] | tuple[RawAnswer, ...]
    tolerance: float


class LiteRtRecord(InputProof):
    """This is the proof of a LiteRT file, which takes uint8 RGB [N, R, R, 3].

    Attributes:
        target: the variant whose codes, scales and biases it has, and with whose float-input model
            it was compared.
        layers: with weights, all of them in integers.
    """

    target: str
    layers: int


class Probe(Record):
    """A probe is a few synthetic images whose answers tell whether a variant computes rightly.

    Attributes:
        file: raw uint8 pixels, in the order of ``shape``.
        shape: [images, rows, columns, 3].
    """

    file: str
    shape: tuple[int, int, int, int]


class PackageRecord(Record):
    """A package's manifest says what is in its folder, and what was proved of it.

    Attributes:
        name: of the run, or of the model file.
        parent: SHA-256 of the model that it was made from.
        images: how many were compared with ``predict``, and ``images_from`` where they came from.
        bad_images: why others of these could not be read.
        jpegs: how many of them are JPEG files on which the models that take such were compared.
        files: SHA-256 of every file of the folder but this one, by path.
        probe: the images by which a program tries the variants.
        variants: the fastest first; a program takes the first that answers the probe rightly.
        litert: the LiteRT file; None where there is none.
        nms: of a detector, how its boxes are chosen, and how that was proved; None of a classifier.
    """

    name: str
    parent: str
    images: int
    images_from: str
    bad_images: tuple[str, ...] = ()
    jpegs: int = 0
    files: dict[str, str]
    probe: Probe
    variants: tuple[VariantRecord, ...]
    litert: LiteRtRecord | None = None
    nms: NmsRecord | None = None


class ServeRecord(Record):
    """This record says what a server serves, and where.

    Attributes:
        package: the folder.
        name: of the run, or of the model file, as in the manifest.
        model: the name that clients of the Open Inference Protocol ask for.
        target: the variant that answered the probe rightly on this machine.
        provider: the execution provider that runs it.
        classes: how many.
        address: where it listens, as ``http://127.0.0.1:8000``.
        token: whether clients must send one.
        max_batch: images of one run at most.
        max_wait_ms: milliseconds that an image waits for others while a CPU is free.
        max_queue: images admitted at a time.
    """

    package: str
    name: str
    model: str
    target: str
    provider: str = "CPUExecutionProvider"
    classes: int
    address: str
    token: bool
    max_batch: int
    max_wait_ms: float
    max_queue: int

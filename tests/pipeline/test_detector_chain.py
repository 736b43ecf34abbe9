"""A detector goes through the stages of the chain as a classifier does, with the same proofs."""

import numpy as np
import onnx
from onnx import numpy_helper

from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.runtime.proving.parity import compare_outputs, sqnr_db
from mobilenet_cli.pipeline.runtime.session import open_session

MAPS = 6


def test_every_file_says_what_its_outputs_mean(detector):
    for made in (detector.checkpoint, detector.fp32, detector.folded, detector.int8):
        facts = load_artifact(made.path).facts
        assert facts.task == "detection"
        assert facts.boxes == detector.checkpoint.facts.boxes
    (boxes, scores) = open_session(detector.int8.path).get_outputs()
    assert (boxes.name, boxes.shape[1:]) == ("boxes", [facts.boxes.count, 4])
    assert (scores.name, scores.shape[1:]) == ("scores", [facts.boxes.count, 3])


def test_no_batch_norm_is_left_and_each_channel_is_proven(detector):
    assert detector.fp32.record.batch_norms == 27 + 8
    record = detector.folded.record
    assert (record.batch_norms_before, record.batch_norms_after) == (35, 0)
    norms = [n for n in onnx.load(detector.fp32.path).graph.node if n.op_type.startswith("Batch")]
    sizes = {t.name: t.dims[0] for t in onnx.load(detector.fp32.path).graph.initializer if t.dims}
    assert record.channels_checked == sum(sizes[norm.input[1]] for norm in norms)


def test_every_convolution_is_integer_and_each_head_has_a_grid_of_its_own(detector):
    record = detector.int8.record
    assert record.operators["QLinearConv"] == 27 + 8 + 2 * MAPS
    assert record.operators["DequantizeLinear"] == 2 * MAPS
    assert record.float_layers == ()
    model = onnx.load(detector.int8.path)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    joins = [node for node in model.graph.node if node.op_type == "Concat"]
    scales = [[float(values[makers[name].input[1]]) for name in join.input] for join in joins]
    assert all(makers[n].op_type == "DequantizeLinear" for join in joins for n in join.input)
    assert len({*scales[0], *scales[1]}) == 2 * MAPS


def test_the_outputs_are_close_on_the_kernels(detector):
    samples = open_dataset("digits", "val").samples[:16]
    (batch,) = batches(samples, detector.folded.facts.input, 16)
    expected, found = (
        open_session(made.path).run(None, {"input": batch.images})
        for made in (detector.folded, detector.int8)
    )
    assert min(map(sqnr_db, expected, found)) > 15
    spec = detector.folded.facts.boxes
    assert compare_outputs(expected, expected, spec).agreement == 1
    assert 0.7 < compare_outputs(expected, found, spec).agreement < 1
    assert compare_outputs(expected, [found[0], -found[1]], spec).agreement < 0.5
    broken = [found[0], np.full_like(found[1], np.nan)]
    assert compare_outputs(expected, broken, spec).sqnr_db == -np.inf

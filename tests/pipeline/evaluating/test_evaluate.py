"""Accuracy is that of a plain loop, and labels are matched to the model's classes."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import held_out, open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.errors import (
    DataError,
    NotFiniteError,
    OptionError,
    ProviderError,
    StorageError,
)
from mobilenet_cli.pipeline.evaluating import answers
from mobilenet_cli.pipeline.evaluating.evaluate import (
    EvaluateConfig,
    evaluate,
    evaluate_and_keep,
    rank_of,
)
from mobilenet_cli.pipeline.evaluating.labels import label_indices, targets_of
from mobilenet_cli.pipeline.evaluating.predicting.predict import predict, tell_model
from mobilenet_cli.pipeline.evaluating.records import RecordFile, evaluations_of, predictions_in
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.accuracy import EvaluationRecord
from mobilenet_cli.reports.terminal import evaluation_notes


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A copy of the tiny run under ./runs."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny, tmp_path / "runs" / "tiny")


@pytest.fixture
def ten(class_folders):
    """Three images in each of three of the ten classes."""
    return class_folders({"1": 3, "4": 3, "7": 3}, "ten")


def invoke(*arguments: str, code: int = 0, **options: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), **options)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_counts_are_those_of_a_plain_loop(tiny, ten):
    artifact = load_artifact(tiny / "fp32.onnx")
    record = evaluate(artifact, EvaluateConfig(data=str(ten)))
    samples = open_dataset(str(ten), "all").samples
    images = np.concatenate([b.images for b in batches(samples, artifact.facts.input, 4)])
    logits = open_session(artifact.path).run(None, {"input": images})[0]
    labels = np.array([int(s.label) for s in samples])
    order = np.argsort(-logits, axis=1)
    assert record.top1_correct == (order[:, 0] == labels).sum()
    assert record.top5_correct == (order[:, :5] == labels[:, None]).any(1).sum()
    assert 0 < record.top5_correct < 9  # or the comparison says little
    assert record.images == 9
    assert record.provider == "CPUExecutionProvider"
    assert record.preprocessing["resize"] == 32


def test_checkpoint_and_onnx_agree(tiny, ten):
    records = [
        evaluate(load_artifact(tiny / name), EvaluateConfig(data=str(ten)))
        for name in ("model.safetensors", "fp32.onnx")
    ]
    assert records[0].provider == "torch"
    assert records[0].top1_correct == records[1].top1_correct
    assert records[0].top5_correct == records[1].top5_correct
    assert records[0].data_fingerprint == records[1].data_fingerprint


def test_torch_gets_its_threads_back(tiny, ten):
    import torch

    before = torch.get_num_threads()
    evaluate(load_artifact(tiny / "model.safetensors"), EvaluateConfig(data=str(ten)))
    assert torch.get_num_threads() == before


def test_number_of_workers_and_order_do_not_matter(tiny, ten, monkeypatch):
    artifact = load_artifact(tiny / "fp32.onnx")
    one, many = (evaluate(artifact, EvaluateConfig(data=str(ten), workers=n)) for n in (1, 8))
    turned = held_out(str(ten), None)
    turned = Dataset(turned.name, turned.samples[::-1], turned.classes)
    monkeypatch.setattr("mobilenet_cli.pipeline.evaluating.labels.held_out", lambda *_: turned)
    reverse = evaluate(artifact, EvaluateConfig(data="turned"))
    for other in (many, reverse):
        assert (other.top1_correct, other.top5_correct) == (one.top1_correct, one.top5_correct)


def test_default_data_is_what_training_held_out(tiny):
    record = evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig())
    assert record.data == "digits (val)"
    assert record.images == len(open_dataset("digits", "val").samples)


def test_only_the_training_folder_is_divided(class_folders):
    root = class_folders({"a": 5, "b": 5})
    assert len(held_out(str(root), None).samples) == 10
    assert len(held_out(str(root), f"{root}/../{root.name}").samples) == 2


def test_unreadable_image_is_named_and_counted(tiny, ten):
    (ten / "4" / "001.png").write_text("no image")
    record = evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(ten)))
    assert record.bad_images == ("4/001.png",)
    assert record.images == 8


def test_strict_stops_at_an_unreadable_image(tiny, ten):
    (ten / "4" / "001.png").write_text("no image")
    with pytest.raises(DataError, match=r"4/001\.png is not an image"):
        evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(ten), strict=True))


def test_what_a_cut_archive_lost_is_named(tiny, tmp_path, encoded):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        for name, content in (("0.cls", b"4"), ("0.png", encoded()), ("1.png", encoded())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = archive.read_bytes()
    archive.write_bytes(content[: content.rindex(b"IDAT")])
    artifact, config = load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(archive))
    record = evaluate(artifact, config)
    assert record.images == 1
    assert "x.tar is cut off within 1.png" in record.bad_images[0]
    with pytest.raises(DataError, match=r"x\.tar is cut off within"):
        evaluate(artifact, replace(config, strict=True))


def test_no_readable_image_at_all(tiny, class_folders):
    root = class_folders({"4": 1})
    (root / "4" / "000.png").write_text("no image")
    with pytest.raises(
        DataError, match=r"no image of .* can be read: 1 image tried, such as: 4/000\.png is not an"
    ):
        evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(root)))


def test_unknown_class_is_named(tiny, class_folders):
    root = class_folders({"4": 1, "fuor": 1})
    with pytest.raises(DataError, match=r"1 of the 2 classes .* such as 'fuor'"):
        evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(root)))


def labelled(*labels: str) -> Dataset:
    return Dataset("d", [Sample(f"{n}", label, bytes) for n, label in enumerate(labels)], labels)


def test_numbers_of_another_set_are_refused(model_of):
    digits = labelled("9", "3")
    thousand = tuple(f"n{index:08}" for index in range(1000))
    with pytest.raises(DataError, match=r"numbers up to 9, .* the 1000 classes .* --map FILE"):
        targets_of(digits, model_of(thousand))
    with pytest.raises(DataError, match="do not count the 1000 classes"):
        targets_of(digits, model_of(("background", *thousand)))
    assert targets_of(digits, model_of(thousand[:12])) == [9, 3]


def test_numbers_with_zeros_before_them_and_names_are_classes(model_of):
    thousand = model_of(f"n{i:08d}" for i in range(1000))
    assert label_indices(labelled("0012", "999"), thousand) == {"0012": 12, "999": 999}
    names = ("background", "tench", "crane", "crane", "fox")
    model = model_of(("background", "n1", "n2", "n3", "n4"), names)
    assert label_indices(labelled("fox", "tench"), model) == {"fox": 4, "tench": 1}
    with pytest.raises(DataError, match=r"such as 'crane'.* lines such as 'crane,n3'"):
        label_indices(labelled("fox", "crane"), model)


@pytest.mark.parametrize("by", [-1, 0, 1])
def test_labels_that_are_counted_otherwise_are_noticed(chain, tmp_path, by):
    """What the model says of the digits is what their labels are made from."""
    artifact = chain.fp32
    digits = open_dataset("digits", "train").samples[:60]
    said = predict(artifact, digits, 1)
    for number, (sample, answer) in enumerate(zip(digits, said, strict=True)):
        label = (int(answer.guesses[0].identifier) - by) % 10
        (tmp_path / str(label)).mkdir(exist_ok=True)
        (tmp_path / str(label) / f"{number}.png").write_bytes(sample.read())
    record = evaluate(artifact, EvaluateConfig(str(tmp_path)))
    assert record.label_shift == by
    assert any("counted otherwise" in note for note in evaluation_notes(record)) == bool(by)


def test_a_file_says_which_classes_are_meant(tiny, class_folders, tmp_path):
    root, named = class_folders({"four": 2, "7": 1, "Vier, auch": 1}), tmp_path / "map.csv"
    artifact = load_artifact(tiny / "fp32.onnx")
    facts = artifact.facts.model_copy(update={"names": tuple(f"digit {n}" for n in range(10))})
    artifact = replace(artifact, facts=facts)
    config = EvaluateConfig(str(root), class_map=named)
    named.write_text('\ufefffour,4\n\n"Vier, auch", digit 4\n', "utf-8")
    answers = []
    record = evaluate(artifact, config, keep=answers.append)
    expected = {"four": 4, "Vier, auch": 4, "7": 7}
    assert {answer.key.partition("/")[0]: answer.target for answer in answers} == expected
    assert record.data == f"{root} (all) by map.csv"
    assert record.data_fingerprint == open_dataset(str(root), "all").fingerprint
    for text, problem in (
        ("four,4\n7,4\nfour,5", r"lines 1 and 3 of .*map\.csv give 'four' two classes"),
        ("four,4\nfour,11", r"line 2 of .*map\.csv, 'four,11', does not end in a class"),
        ("four", "does not end in a class of the model"),
    ):
        named.write_text(text)
        with pytest.raises(OptionError, match=problem):
            evaluate(artifact, config)
    named.unlink()
    with pytest.raises(DataError, match=r"map\.csv does not exist"):
        evaluate(artifact, config)
    with pytest.raises(DataError, match=r"--map FILE with lines such as '.*,."):
        evaluate(artifact, EvaluateConfig(str(root)))


def test_images_without_labels_cannot_be_evaluated(tiny, class_folders):
    flat = class_folders({"4": 2}) / "4"
    with pytest.raises(DataError, match=r"no labels.*image/class/label' of a \.tfrecord"):
        evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(flat)))


def test_data_must_be_known(tiny):
    from dataclasses import replace

    artifact = load_artifact(tiny / "fp32.onnx")
    facts = artifact.facts.model_copy(update={"data": None})
    with pytest.raises(OptionError, match="Pass --data"):
        evaluate(replace(artifact, facts=facts), EvaluateConfig())


def test_checkpoint_is_not_run_on_a_provider_torch_lacks(tiny):
    config = EvaluateConfig(provider="TensorrtExecutionProvider")
    with pytest.raises(ProviderError, match="torch cannot run the checkpoint"):
        evaluate(load_artifact(tiny / "model.safetensors"), config)


def test_labels_map_by_identifier_not_by_rank(model_of):
    samples = [Sample("x", "c", bytes), Sample("y", "a", bytes)]
    dataset = Dataset("d", samples, ("a", "c"))
    assert targets_of(dataset, model_of(("background", "a", "b", "c"))) == [3, 1]


def test_rank_breaks_ties_by_index():
    logits = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    assert [rank_of(t, logits) for t in range(4)] == [3, 0, 1, 2]


def test_records_replace_their_predecessors(tiny, ten, tmp_path):
    artifact = load_artifact(tiny / "fp32.onnx")
    record = evaluate(artifact, EvaluateConfig(data=str(ten)))
    file = RecordFile(tmp_path / "evaluate.json", EvaluationRecord)
    file.merge(record)
    other = record.model_copy(update={"data": "elsewhere"})
    file.merge(other, record.model_copy(update={"images": 7}))
    assert [(r.data, r.images) for r in file.read()] == [
        (record.data, 7),
        ("elsewhere", 9),
    ]


def test_processes_that_merge_together_lose_no_record(tiny, ten, tmp_path):
    record = evaluate(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(ten)))
    file = RecordFile(tmp_path / "evaluate.json", EvaluationRecord)
    script = (
        "import sys; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.evaluating.records import RecordFile\n"
        "from mobilenet_cli.reports.records.accuracy import EvaluationRecord\n"
        "record = EvaluationRecord.model_validate_json(sys.stdin.read())\n"
        f"file = RecordFile(Path({str(file.path)!r}), EvaluationRecord)\n"
        "print('ready', flush=True)\n"
        "while not Path(sys.argv[2]).exists(): pass\n"
        "for i in range(20): file.merge(record.model_copy(update={'data': sys.argv[1] + str(i)}))"
    )
    go = tmp_path / "go"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, name, str(go)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        writer.stdin.write(record.model_dump_json())
        writer.stdin.close()
        assert writer.stdout.readline() == "ready\n"
    go.touch()
    for writer in writers:
        assert writer.wait() == 0
        writer.stdout.close()
    assert {r.data for r in file.read()} == {f"{name}{i}" for name in "ab" for i in range(20)}


def test_foreign_file_in_the_place_of_records(tmp_path):
    file = tmp_path / "evaluate.json"
    file.write_text("{}")
    with pytest.raises(StorageError, match="not a list of EvaluationRecords"):
        RecordFile(file, EvaluationRecord).merge()
    assert file.read_text() == "{}"


def test_command_evaluates_all_artifacts_of_the_run(run, ten):
    document = json.loads(invoke("evaluate", "--data", ten, "--json"))
    assert [d["model"] for d in document] == [
        "runs/tiny/model.safetensors",
        "runs/tiny/fp32.onnx",
    ]
    for entry in document:
        assert entry["images"] == 9
        assert entry["top1"] == pytest.approx(100 * entry["top1_correct"] / 9)
        assert entry["top1_interval"][0] <= entry["top1"] <= entry["top1_interval"][1]
        assert entry["bad_images"] == []
        assert entry["images_per_second"] > 0
    assert [r.model for r in evaluations_of(Run(run)).read()] == [d["model"] for d in document]


def test_command_with_a_model_of_a_run_records_there(run, ten):
    text = invoke("evaluate", "runs/tiny/fp32.onnx", "--data", ten)
    assert "runs/tiny/fp32.onnx: top-1 " in text
    assert len(evaluations_of(Run(run)).read()) == 1


@pytest.mark.usefixtures("run")
def test_command_reports_bad_images_but_succeeds(ten):
    (ten / "4" / "001.png").write_text("no image")
    result = CliRunner().invoke(app, ["evaluate", "--data", str(ten)])
    assert result.exit_code == 0
    assert "left out, cannot be read: 1 image: 4/001.png" in result.stderr
    assert "4/001.png is not an image" in invoke("evaluate", "--data", ten, "--strict", code=2)


@pytest.mark.parametrize(("name", "problem"), [("nowhere", "does not exist"), ("", "no images")])
def test_command_with_missing_or_empty_data(run, tmp_path, name, problem):
    (tmp_path / "void").mkdir()
    folder = tmp_path / (name or "void")
    assert problem in invoke("evaluate", "--data", folder, code=2)
    assert not (run / "evaluate.json").exists()


def test_predict_orders_by_probability(tiny, ten):
    artifact = load_artifact(tiny / "fp32.onnx")
    (made,) = predict(artifact, open_dataset(str(ten), "all").samples[:1], top=10)
    chances = [g.probability for g in made.guesses]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)
    assert {g.identifier for g in made.guesses} == set("0123456789")


@pytest.mark.parametrize("value", [-np.inf, np.inf])  # NaN is refused when it is read
def test_what_is_not_finite_is_no_answer_and_no_accuracy(tiny, ten, tmp_path, value):
    """Predict goes on with the next image, and evaluate stops: both with the same sentence."""
    model = onnx.load(tiny / "fp32.onnx")
    (weights,) = (t for t in model.graph.initializer if t.name == model.graph.node[-1].input[1])
    spoilt = numpy_helper.to_array(weights).copy()
    spoilt.flat[0] = value
    weights.CopyFrom(numpy_helper.from_array(spoilt, weights.name))
    onnx.save(model, tmp_path / "m.onnx")
    samples = open_dataset(str(ten), "all").samples[:2]
    broken = load_artifact(tmp_path / "m.onnx")
    answered = list(predict(broken, samples))
    sentences = [f"the model's output for {s.key} is NaN or infinite" for s in samples]
    assert [a.error and a.error.what for a in answered] == sentences
    with pytest.raises(NotFiniteError) as stopped:
        evaluate(broken, EvaluateConfig(str(ten)))
    assert stopped.value.what == sentences[0]


def test_a_manifest_of_others_makes_no_package_of_a_folder(ten):
    (ten / "manifest.json").write_text("{}")
    assert tell_model(["m.onnx", str(ten)]) == (Path("m.onnx"), [str(ten)])


def test_predict_files_folders_and_standard_input(tiny, ten, encoded):
    one = ten / "4" / "000.png"
    model = tiny / "fp32.onnx"
    document = json.loads(
        invoke("predict", model, one, ten / "7", "-", "--json", input=encoded(seed=0))
    )
    assert [d["image"] for d in document] == [
        str(one),
        *(f"{ten}/7/{i:03}.png" for i in range(3)),
        "standard input",
    ]
    assert all(len(d["predictions"]) == 5 for d in document)
    assert document[0]["predictions"] == document[-1]["predictions"]  # the same picture


def test_predict_goes_on_after_a_bad_image(tiny, ten, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    result = CliRunner().invoke(
        app, ["predict", str(tiny / "fp32.onnx"), str(text), str(ten / "4" / "000.png"), "--json"]
    )
    assert result.exit_code == 2
    bad, good = json.loads(result.stdout)
    assert bad == {"image": str(text), "error": bad["error"]}
    assert "is not an image" in bad["error"]
    assert len(good["predictions"]) == 5
    assert "text.jpg is not an image" in result.stderr


def test_evaluating_and_predicting_onnx_does_not_import_torch(tiny, ten):
    script = (
        "import sys\nfrom mobilenet_cli.cli import app\n"
        "for args in {commands!r}:\n    app(args, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    model = str(tiny / "fp32.onnx")
    commands = [
        ["evaluate", model, "--data", str(ten)],
        ["predict", model, str(ten / "4" / "000.png")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", script.format(commands=commands)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_answers_are_kept_for_the_report(tiny, ten, tmp_path):
    artifact = load_artifact(tiny / "fp32.onnx")
    run = Run(tmp_path / "runs" / "mine")
    record = evaluate_and_keep(artifact, EvaluateConfig(data=str(ten)), run)
    assert evaluations_of(run).read() == [record]
    (kept,) = predictions_in(run).read()
    assert len(kept.keys) == record.images
    assert sum(rank == 0 for rank in kept.ranks) == record.top1_correct
    for target, rank, top, shares in zip(
        kept.targets, kept.ranks, kept.top, kept.probabilities, strict=True
    ):
        assert (top[0] == target) == (rank == 0)
        assert list(shares) == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.001  # ten classes, of which three are kept; rounded


def test_answers_replace_their_predecessors(tiny, ten, tmp_path):
    run = Run(tmp_path / "runs" / "mine")
    for _ in range(2):
        evaluate_and_keep(load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(ten)), run)
    assert len(predictions_in(run).read()) == 1
    run.predictions.write_text("{}")
    with pytest.raises(StorageError, match="not a list of PredictionsRecords"):
        predictions_in(run).read()


def test_answers_of_very_many_images_have_a_file_of_their_own(tiny, ten, tmp_path, monkeypatch):
    artifact, config = load_artifact(tiny / "fp32.onnx"), EvaluateConfig(data=str(ten))
    few, many = Run(tmp_path / "runs" / "few"), Run(tmp_path / "runs" / "many")
    for run in (few, many):
        shutil.copytree(tiny, run.folder)
        evaluate_and_keep(artifact, config, run)
    with monkeypatch.context() as patch:
        patch.setattr(answers, "FEW", 4)
        patch.setattr(answers, "GROUP", 2)
        evaluate_and_keep(artifact, config, many)
    assert predictions_in(many).read() == []  # replaced, as it would be in one file
    (file,) = many.many_predictions.iterdir()
    (expected,), found = predictions_in(few).read(), answers.read_many(file)
    assert found == expected
    reports = [collect(run, layers=False) for run in (few, many)]
    assert reports[0][0].mistakes == reports[1][0].mistakes
    assert reports[0][1] == reports[1][1] == [expected]
    assert not [m for m in reports[1][0].missing if "predictions" in m.file]
    evaluate_and_keep(artifact, config, many)
    assert predictions_in(many).read() == [expected]
    assert list(many.many_predictions.iterdir()) == []


def test_an_evaluation_that_fails_leaves_the_answers_of_the_last(tiny, ten, tmp_path, monkeypatch):
    run = Run(tmp_path / "runs" / "mine")
    monkeypatch.setattr(answers, "FEW", 1)
    artifact = load_artifact(tiny / "fp32.onnx")
    evaluate_and_keep(artifact, EvaluateConfig(data=str(ten)), run)
    before = {path: path.read_bytes() for path in run.many_predictions.iterdir()}
    (ten / "7" / "002.png").write_text("no image")
    with pytest.raises(DataError):
        evaluate_and_keep(artifact, EvaluateConfig(data=str(ten), strict=True), run)
    assert {path: path.read_bytes() for path in run.many_predictions.iterdir()} == before

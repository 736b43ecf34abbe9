"""Reports show what a run's folder holds, and list what is missing."""

import json
import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.files import sha256_file, write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate, evaluate_and_keep
from mobilenet_cli.pipeline.evaluating.records import evaluations_of
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.pipeline.reporting.report import embed_into, report
from mobilenet_cli.pipeline.reporting.report_warnings import warnings_of
from mobilenet_cli.pipeline.reporting.weight_ranges import weight_ranges
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.setup import resolve
from mobilenet_cli.reports.html import report_html
from mobilenet_cli.reports.markdown import report_markdown, rows_markdown, setting
from mobilenet_cli.reports.model_card import model_card
from mobilenet_cli.reports.records.accuracy import Interval, Metric
from mobilenet_cli.reports.records.run import ReportRecord, ReportRow, RunRecord
from mobilenet_cli.reports.reproduce import commands
from mobilenet_cli.reports.schema import SCHEMAS, schema_text, write_schemas
from mobilenet_cli.reports.summary import points, speed, summarize
from mobilenet_cli.reports.tables import escape
from mobilenet_cli.reports.terminal import report_text

GOLDEN = Path(__file__).parents[2] / "golden"


def matches_golden(text: str, name: str) -> None:
    """Compare with the stored text; UPDATE_GOLDEN=1 stores a new one to look at and commit."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{name} differs; UPDATE_GOLDEN=1 stores the new one"


@pytest.fixture
def golden_run() -> RunRecord:
    return RunRecord.model_validate_json((GOLDEN / "run.json").read_bytes())


@pytest.fixture
def run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the smallest real run, evaluated on real images."""
    shutil.copytree(tiny, tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    found = Run(Path("runs/tiny"))
    record = evaluate(load_artifact(found.fp32), EvaluateConfig(data="digits"))
    evaluations_of(found).merge(record)
    return found


def test_markdown(golden_run: RunRecord) -> None:
    matches_golden(report_markdown(summarize(golden_run)), "report.md")


def test_model_card(golden_run: RunRecord) -> None:
    matches_golden(model_card(summarize(golden_run)), "model_card.md")


def test_terminal_text(golden_run: RunRecord) -> None:
    matches_golden(report_text(summarize(golden_run), 100), "report.txt")


def test_json_comes_back_with_fields_of_other_versions(golden_run: RunRecord) -> None:
    document = json.loads(summarize(golden_run).model_dump_json())
    document["invented"] = {"by": "a later version"}
    document["run"]["bench"]["results"][0]["joules"] = 1.5
    again = json.loads(ReportRecord.model_validate(document).model_dump_json())
    assert again == document


def test_speedup_is_the_inverse_of_the_measured_ratio(golden_run: RunRecord) -> None:
    assert golden_run.bench is not None
    row = next(row for row in summarize(golden_run).rows if row.stage == "quantize")
    ratio = next(
        r
        for r in golden_run.bench.ratios
        if r.row == row.result and r.reference == golden_run.bench.results[r.row].reference
    )
    assert row.speedup is not None
    assert row.speedup.value == pytest.approx(1 / ratio.value)
    assert row.speedup.low == pytest.approx(1 / ratio.high)
    assert row.speedup_over == "folded.onnx"


def test_headline_takes_the_paired_difference(golden_run: RunRecord) -> None:
    pair = next(pair for pair in golden_run.paired if pair.other == "int8.onnx")
    assert pair.difference.low is not None
    assert f"(95 %: {pair.difference.low:+.2f} to" in summarize(golden_run).headline


def with_int8(run: RunRecord, **update: object) -> RunRecord:
    """A run without predictions, whose evaluation of the int8 model is another."""
    records = [e.model_copy(update=update) if e.stage == "quantize" else e for e in run.evaluations]
    return run.model_copy(update={"evaluations": tuple(records), "paired": ()})


def test_headline_without_predictions_names_both_accuracies(golden_run: RunRecord) -> None:
    base = next(e.top1.value for e in golden_run.evaluations if e.stage == "simplify")
    worse = Metric(value=base - 1.25, low=70, high=80)
    said = summarize(with_int8(golden_run, top1=worse)).headline
    assert (
        "top-1 is 75.67 % and that of fp32 76.92 %, which were not compared image by image" in said
    )


def test_headline_states_a_ratio_only_where_its_interval_excludes_one() -> None:
    faster = Interval(value=1.71, low=1.38, high=2.01)
    assert speed(faster) == (True, "1.71× as fast as fp32 (95 %: 1.38 to 2.01)")
    slower = Interval(value=0.5, low=0.4, high=0.6)
    assert speed(slower) == (True, "slower than fp32, at 0.50× its speed (95 %: 0.40 to 0.60)")
    unsure = Interval(value=0.93, low=0.83, high=1.02)
    assert speed(unsure) == (False, "no difference in speed was found (95 %: 0.83 to 1.02)")


def test_a_loss_has_one_sign_throughout() -> None:
    lost = points(Interval(value=-0.62, low=-0.95, high=-0.29))
    assert lost == "top-1 changes by -0.62 points (95 %: -0.95 to -0.29)"
    unsure = points(Interval(value=-0.28, low=-0.9, high=0.4))
    assert unsure == "no difference in top-1 was found (95 %: -0.90 to +0.40)"


def test_accuracy_near_chance_is_said_first(golden_run: RunRecord) -> None:
    artifacts = [
        a.model_copy(update={"classes": tuple("0123456789")}) for a in golden_run.artifacts
    ]
    guess = Metric(value=10.3, low=7.5, high=13.9)
    evaluations = [e.model_copy(update={"top1": guess}) for e in golden_run.evaluations]
    run = golden_run.model_copy(
        update={"artifacts": tuple(artifacts), "evaluations": tuple(evaluations)}
    )
    said = summarize(run).headline
    assert said.startswith("int8.onnx cannot be told from guessing: top-1 is 10.30 %")
    assert "guessing gives 10 %" in said
    better = [e.model_copy(update={"top1": Metric(value=30, low=25, high=35)}) for e in evaluations]
    run = run.model_copy(update={"evaluations": tuple(better)})
    assert summarize(run).headline.startswith("int8 is ")


def test_an_evaluation_on_other_images_does_not_replace_the_shared_one(
    golden_run: RunRecord,
) -> None:
    other = golden_run.evaluations[-1].model_copy(
        update={"data": "one image", "data_fingerprint": "other", "images": 1}
    )
    run = golden_run.model_copy(update={"evaluations": (*golden_run.evaluations, other)})
    assert summarize(run).headline == summarize(golden_run).headline
    assert "There are evaluations on one image besides, in evaluate.json" in warnings_of(run)


def test_top5_is_left_out_where_there_are_ten_classes(golden_run: RunRecord) -> None:
    assert "top-5 %" not in rows_markdown(
        summarize(
            golden_run.model_copy(
                update={
                    "artifacts": tuple(
                        a.model_copy(update={"classes": tuple("0123456789")})
                        for a in golden_run.artifacts
                    )
                }
            )
        ).rows
    )


def test_a_model_tells_noise_in_one_line_by_name(golden_run: RunRecord) -> None:
    assert golden_run.bench is not None
    noisy = [r.model_copy(update={"noisy": r.threads == 1}) for r in golden_run.bench.results]
    run = golden_run.model_copy(
        update={"bench": golden_run.bench.model_copy(update={"results": tuple(noisy)})}
    )
    (line,) = [text for text in warnings_of(run) if "Noisy" in text]
    assert "model.safetensors (forward, forward-backward)" in line
    run = run.model_copy(update={"warnings": warnings_of(run)})
    assert "Noisy" not in model_card(summarize(run))


def test_headline_compares_nothing_measured_on_other_images(golden_run: RunRecord) -> None:
    run = with_int8(golden_run, data="others")
    assert "was evaluated on other images than fp32" in summarize(run).headline


def test_a_partial_run_says_what_is_missing_and_how_to_make_it(run: Run) -> None:
    record, paths = report(run)
    commands = {part.file: part.command for part in record.run.missing}
    assert commands["int8.onnx"] == "mobilenet-cli quantize --run tiny"
    assert commands["bench.json"] == "mobilenet-cli bench --run tiny"
    text = paths["markdown"].read_text()
    assert "folded.onnx has not been made: run `mobilenet-cli simplify --run tiny`" in text
    assert ReportRecord.model_validate_json(paths["json"].read_bytes()) == record


def test_evaluation_of_an_earlier_file_is_not_shown(run: Run) -> None:
    document = json.loads(run.evaluation.read_bytes())
    document[0]["sha256"] = "0" * 64
    run.evaluation.write_text(json.dumps(document))
    record = collect(run)[0]
    assert record.evaluations == ()
    assert [m.why for m in record.missing if m.file == "evaluate.json"] == [
        "does not have model.safetensors, fp32.onnx as it is now"
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"model": "fp32.onnx", "sha', "it is no JSON, or only the start of it"),
        (b'[{"model": "fp32.onnx"}]', "another version wrote it"),
        (b"\xff\xfe", "it is no JSON"),
    ],
)
def test_a_broken_record_is_named_with_its_cure(run: Run, content: bytes, why: str) -> None:
    run.evaluation.write_bytes(content)
    part = next(part for part in collect(run)[0].missing if part.file == "evaluate.json")
    assert why in part.why
    assert part.command == "mobilenet-cli evaluate --run tiny"


def test_records_of_a_newer_format_are_shown_with_a_warning(run: Run) -> None:
    document = json.loads(run.evaluation.read_bytes())
    document[0] |= {"schema_version": 7, "invented": 1}
    run.evaluation.write_text(json.dumps(document))
    record = collect(run)[0]
    assert len(record.evaluations) == 1
    assert any("format 7" in warning for warning in record.warnings)


def test_a_truncated_model_is_listed_not_raised(run: Run) -> None:
    run.fp32.write_bytes(run.fp32.read_bytes()[:5000])
    record = collect(run)[0]
    assert [artifact.file for artifact in record.artifacts] == ["model.safetensors"]
    assert any(part.file == "fp32.onnx" and "cannot be read" in part.why for part in record.missing)


def test_a_model_whose_parent_was_made_again_is_warned_of(run: Run) -> None:
    sidecar = json.loads(Path("runs/tiny/fp32.onnx.json").read_bytes())
    sidecar["facts"]["parent"] = "0" * 64
    Path("runs/tiny/fp32.onnx.json").write_text(json.dumps(sidecar))
    assert any("fp32.onnx was not made from" in warning for warning in collect(run)[0].warnings)


def test_a_lone_model_tells_its_own_facts(run: Run) -> None:
    Path("runs/tiny/fp32.onnx.json").unlink()
    artifact = next(a for a in collect(run)[0].artifacts if a.file == "fp32.onnx")
    assert (artifact.stage, artifact.parent) == ("export", sha256_file(run.checkpoint))


def test_epochs_are_read_up_to_the_line_that_was_cut_off(run: Run) -> None:
    run.training.write_text('{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "lo')
    assert collect(run)[0].training == ({"epoch": 1, "loss": 2.0},)


def test_warnings_of_the_stages_come_first(run: Run) -> None:
    document = json.loads(run.evaluation.read_bytes())
    document[0]["bad_images"] = ["a|b.png"]
    run.evaluation.write_text(json.dumps(document))
    record, paths = report(run)
    text = paths["markdown"].read_text()
    assert any("1 unreadable image: a|b.png" in warning for warning in record.run.warnings)
    assert text.index(r"a\|b.png") < text.index("## Artifacts")


def test_no_run_and_no_model_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no run"):
        collect(Run(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="has no model"):
        collect(Run(tmp_path / "empty"))


def test_escape_leaves_no_markup() -> None:
    assert escape("<script>a|b`c\nd") == r"&lt;script>a\|b\`c d"


def test_command_prints_one_document_and_writes_every_file(run: Run) -> None:
    result = CliRunner().invoke(app, ["report", "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["run"] == run.name
    assert document["report"].keys() == {"markdown", "json", "html", "model_card"}
    assert all(Path(path).stat().st_size for path in document["report"].values())


def test_command_shows_the_table(run: Run) -> None:
    result = CliRunner().invoke(app, ["report", "--run", run.name])
    assert result.exit_code == 0
    assert "fp32.onnx" in result.stdout
    assert "missing: bench.json has not been made" in result.stdout


def test_command_names_a_run_that_is_not_there(run: Run) -> None:
    write_atomically(run.folder / "note", b"")
    result = CliRunner().invoke(app, ["report", "--run", "nowhere"])
    assert result.exit_code == 2
    assert "there is no run 'nowhere' under runs/" in result.stderr


def test_commands_make_the_run_again(golden_run: RunRecord) -> None:
    lines = commands(golden_run)
    assert lines[0].startswith("mobilenet-cli import mobilenet_7_5_224_tf.h5 --run keras75")
    assert [line.split()[1] for line in lines] == [
        "import",
        "export",
        "simplify",
        "quantize",
        "evaluate",
        "bench",
        "report",
    ]
    for line in lines:  # every option exists
        words = shlex.split(line)
        result = CliRunner().invoke(app, [*words[1:], "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        assert all(word in result.stdout for word in words if word.startswith("--"))


def test_commands_repeat_every_setting(golden_run: RunRecord) -> None:
    """What the facts of a checkpoint keep is enough to call ``train`` in the same way."""
    given = ["--data", "digits", "--recipe", "sgd", "--epochs", "0.5", "--precision", "bf16"]
    given += ["--set", "batch=8", "--set", "ema=0.9", "--compile", "--seed", "3", "--width", "0.25"]
    config = TrainConfig(
        data="digits",
        recipe="sgd",
        epochs=0.5,
        precision="bf16",
        changes=("batch=8", "ema=0.9"),
        compiled=True,
        seed=3,
        width=0.25,
    )
    quantized = QuantizeConfig(target="amx", cross=True, max_drop=None)
    settings = {"train": resolve(config).recorded, "quantize": asdict(quantized)}
    made = [
        golden_run.artifacts[0].model_copy(update={"stage": stage, "config": values})
        for stage, values in settings.items()
    ]
    train, quantize = commands(golden_run.model_copy(update={"artifacts": tuple(made)}))[:2]
    assert shlex.split(train)[:2] == ["mobilenet-cli", "train"]
    words = shlex.split(train)[2:]
    pairs = set(zip(words, [*words[1:], ""], strict=True))
    wanted = zip(given, [*given[1:], ""], strict=True)
    assert {pair for pair in wanted if pair[0].startswith("--") and pair[0] != "--compile"} <= pairs
    assert "--compile" in words
    assert "--sync-norms" not in words
    assert {"--target", "amx", "--cross"} <= set(shlex.split(quantize))
    assert not {"--max-drop", "--weights", "--format"} & set(shlex.split(quantize))


def test_a_record_without_the_newer_fields_still_renders(golden_run: RunRecord) -> None:
    document = json.loads(golden_run.model_dump_json())
    for name in ("paired", "disagreements", "mistakes", "confusion", "weights", "warnings"):
        del document[name]
    for result in document["bench"]["results"]:
        del result["percentiles_ms"]
    for artifact in document["artifacts"]:
        artifact["record"] = {}
    old = summarize(RunRecord.model_validate(document))
    for text in (report_markdown(old), report_html(old, {}), model_card(old), report_text(old)):
        assert "int8.onnx" in text


def test_gallery_without_its_images_says_why(run: Run) -> None:
    evaluate_and_keep(load_artifact(run.fp32), EvaluateConfig(data="digits"), run)
    assert "data:image/jpeg" in report(run)[1]["html"].read_text()
    document = json.loads(run.predictions.read_bytes())
    document[0]["source"] = "gone"
    run.predictions.write_text(json.dumps(document))
    text = report(run)[1]["html"].read_text()
    assert "There are no pictures: data &#39;gone&#39; does not exist." in text
    assert "data:image/jpeg" not in text


def test_weight_ranges_of_a_real_chain(chain: Any) -> None:
    found = weight_ranges(chain.folded.path, chain.int8.path)
    assert len(found) == 28
    for layer in found:
        assert layer.low < layer.high
        assert layer.quantized_low < layer.quantized_high
    graph = onnx.load(chain.int8.path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    node = next(node for node in graph.node if node.op_type == "Conv")
    makers = {maker.output[0]: maker for maker in graph.node}
    codes, scale, zero = (constants[name] for name in makers[node.input[1]].input)
    reals = (codes.astype(float) - zero.reshape(-1, 1, 1, 1)) * scale.reshape(-1, 1, 1, 1)
    assert found[0].quantized_low == pytest.approx(reals.min())
    assert found[0].quantized_high == pytest.approx(reals.max())


def test_a_report_says_the_same_twice(run: Run) -> None:
    first = {form: path.read_bytes() for form, path in report(run)[1].items()}
    assert {form: path.read_bytes() for form, path in report(run)[1].items()} == first


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_current(name: str) -> None:
    published = Path(__file__).parents[3] / "docs" / "schema" / f"{name}.json"
    assert published.read_text() == schema_text(name), "make schema writes it again"


def test_no_schema_is_left_over() -> None:
    folder = Path(__file__).parents[3] / "docs" / "schema"
    assert {path.stem for path in folder.iterdir()} == SCHEMAS.keys()


def test_schemas_are_written(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new")
    schema = json.loads((tmp_path / "new" / "evaluate.json").read_bytes())
    assert "top1_correct" in schema["$defs"]["EvaluationRecord"]["properties"]
    assert schema["$defs"]["EvaluationRecord"]["additionalProperties"] is True


def test_tables_of_another_file_are_replaced(golden_run: RunRecord, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    mark = "<!-- report: {} -->\nold\n<!-- /report -->\n"
    names = ("headline", "artifacts", "classic", "latency", "machine", "provenance")
    readme.write_text("# Title\n" + "".join(mark.format(name) for name in names) + "the end\n")
    embed_into(readme, summarize(golden_run))
    text = readme.read_text()
    assert text.startswith("# Title\n<!-- report: headline -->\nint8 is ")
    assert text.endswith("<!-- /report -->\nthe end\n")
    assert "old" not in text.splitlines()
    assert "Example CPU, 2 CPUs" in text
    embed_into(readme, summarize(golden_run))
    assert readme.read_text() == text


def test_a_file_that_asks_for_nothing_or_too_much(golden_run: RunRecord, tmp_path: Path) -> None:
    record = summarize(golden_run.model_copy(update={"bench": None}))
    readme = tmp_path / "README.md"
    with pytest.raises(DataError, match="does not exist"):
        embed_into(readme, record)
    readme.write_text("nothing")
    with pytest.raises(OptionError, match="does not say where"):
        embed_into(readme, record)
    readme.write_text("<!-- report: classic -->\n<!-- /report -->")
    with pytest.raises(OptionError, match="asks for classic, which run keras75 does not have"):
        embed_into(readme, record)


def test_the_method_line_names_the_cpus():
    row = ReportRow(file="x.onnx", stage="simplify", size_mb=1.0, threads=2, batch=1)
    assert setting(row) == ["Latency of batch 1 on 2 threads."]
    pinned = row.model_copy(update={"cpus": (0, 2)})
    assert setting(pinned) == ["Latency of batch 1 on 2 threads, pinned to CPUs 0, 2."]


def test_commands_that_are_given_as_cures_run(run: Run) -> None:
    """Models that do not say on which images they were trained need them named."""
    for path in run.artifacts():
        sidecar = json.loads(sidecar_path(path).read_text())
        sidecar["facts"]["data"] = None
        sidecar_path(path).write_text(json.dumps(sidecar))
    run.evaluation.unlink()
    run.int8.unlink(missing_ok=True)
    lacking = {part.file: part.command for part in collect(run)[0].missing}
    assert lacking["evaluate.json"] == "mobilenet-cli evaluate --run tiny --data FOLDER"
    assert lacking["int8.onnx"] == "mobilenet-cli quantize --run tiny --calib-dir FOLDER"
    folded = lacking.get("folded.onnx", "mobilenet-cli simplify --run tiny")
    assert folded == "mobilenet-cli simplify --run tiny"


@pytest.mark.parametrize(("field", "value"), [("p50_ms", 0), ("percentiles_ms", [1.0, 2.0])])
def test_a_benchmark_with_impossible_times_is_none(golden_run, run, field, value):
    assert golden_run.bench is not None
    document = golden_run.bench.model_dump(mode="json")
    document["results"][0][field] = value
    (run.folder / "bench.json").write_text(json.dumps(document))
    found, _ = report(run)
    assert found.run.bench is None
    assert "bench.json" in [missing.file for missing in found.run.missing]


def test_answers_of_fewer_images_than_are_named_are_none(run):
    known = dict.fromkeys(
        ("model", "sha256", "data", "source", "data_fingerprint", "provider"), "x"
    )
    answers = {"keys": ["1.png"], "targets": [0], "top": [[0]], "probabilities": [[1.0]]}
    run.predictions.write_text(json.dumps([known | answers | {"ranks": []}]))
    found, _ = report(run)
    assert "predictions.json" in [missing.file for missing in found.run.missing]

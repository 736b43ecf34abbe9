"""What holds for every command, whatever it does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.cli import app
from mobilenet_cli.models import MODELS

COMMANDS = [  # in the order of the chain
    "train",
    "import",
    "export",
    "simplify",
    "quantize",
    "prove",
    "convert",
    "deploy",
    "serve",
    "evaluate",
    "bench",
    "report",
    "run",
    "predict",
    "inspect",
    "doctor",
]
HEAVY = ("torch", "onnxruntime", "onnx", "numpy", "pydantic", "sklearn", "matplotlib", "PIL")


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from mobilenet_cli.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_lists_every_command():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"})
    assert result.exit_code == 0
    listed = re.findall(r"^│ ([a-z]+) +\S", result.stdout, re.MULTILINE)
    assert listed == COMMANDS


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from mobilenet_cli.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(command: str):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    text = result.stdout
    assert f" {command} [OPTIONS]" in text
    assert re.search(r"^ [A-Z][^│]{20,}\.", text, re.MULTILINE)  # the description
    for option in ("--json", "--debug", "--help"):
        assert f"{option} " in text
    # An option without a text ends with its type.
    assert re.findall(r"^│ +\*? *(--\S+)[^│]*> +│$", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("command", "option", "table"),
    [
        ("quantize", "--calibrator", CALIBRATORS),
        ("quantize", "--target", TARGETS),
        ("train", "--model", MODELS),
    ],
)
def test_help_names_every_choice(command: str, option: str, table: dict[str, object]):
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).stdout
    described = next(line for line in text.splitlines() if f"│ {option} " in line.replace("*", ""))
    assert set(table) <= set(re.findall(r"\w+", described))


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"mobilenet-cli \d+\.\d+\.\d+\n", result.stdout)


COMPLETED = {
    "train --recipe fi": ["finetune"],
    "train --model mobilenet_v2": ["mobilenet_v2"],
    "bench --provider CU": ["CUDAExecutionProvider"],
    "quantize --target vn": ["vnni"],
    "quantize --calibrator ent": ["entropy"],
    "deploy --target tens": ["tensorrt"],
    "evaluate --run ": ["alpha", "beta"],
    "report --compare al": ["alpha"],
    "qu": ["quantize"],
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_names(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("beta", "alpha"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for typed, names in COMPLETED.items():
        line = f"mobilenet-cli {typed}"
        environment = {
            "_MOBILENET_CLI_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        result = CliRunner().invoke(app, [], prog_name="mobilenet-cli", env=environment)
        quoted = re.findall(r'"([^"]+?)(?:":|")', result.stdout)  # zsh puts help behind a colon
        listed = [text.partition("\t")[0] for text in result.stdout.splitlines()]
        assert (quoted[: len(names)] if shell == "zsh" else listed) == names


def test_a_usage_error_exits_2():
    for arguments in (["no-such-command"], ["export", "--no-such-option"], ["predict"]):
        assert cli(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["train", "--lr", "0.1"], "--set learning_rate="),
        (["train", "--batch-size", "8"], "--set batch="),
        (["train", "--pretrained", "x"], "--init"),
        (["train", "--imgsz", "96"], "--resolution"),
        (["quantize", "--calibration-data", "x"], "--calib-dir"),
        (["bench", "--device", "cuda"], "--provider"),
        (["export", "--no-such-option"], ""),
    ],
)
def test_what_options_are_called_elsewhere_leads_to_ours(arguments: list[str], meant: str):
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert meant in result.stderr
    assert ("Possible options" in result.stderr) == bool(meant)


def test_flags_are_no_values_in_the_help():
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
        text = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}).stdout
        assert "--help" in text
        assert "<bool>" not in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_output_cannot_encode_are_escaped(chain, tmp_path: Path, encoded, encoding):
    photo = tmp_path / "köttur-猫.png"
    photo.write_bytes(encoded())
    program = "from mobilenet_cli.cli import main; main()"
    command = [sys.executable, "-c", program, "predict", chain.int8.path, photo]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    shown = done.stdout.decode(encoding)
    assert ("köttur" if encoding == "latin-1" else r"k\xf6ttur") + r"-\u732b.png" in shown


def test_help_that_nobody_reads_to_its_end_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["--help"], ["train", "--help"]):
        program = "from mobilenet_cli.cli import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(writer)


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "--data", "gone", "--run", "new"])
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_the_program():
    command = [sys.executable, "-m", "mobilenet_cli", "--version"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout == cli("--version").stdout


def test_debug_shows_the_traceback_of_what_can_be_mended_and_keeps_its_status():
    shown = cli("export", "--checkpoint", "gone.safetensors", "--debug")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert "export: gone.safetensors does not exist" in shown.stderr


ONE_BY_ONE = """
import json, sys
from typer.testing import CliRunner
from mobilenet_cli.cli import app

for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    print(json.dumps(json.loads(done.stdout)))
"""


@pytest.fixture
def no_torch(tmp_path: Path) -> str:
    """A PYTHONPATH on which importing torch is an error, in child processes as well."""
    folder = tmp_path / "no_torch" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    return os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")])


def test_what_serves_a_model_never_imports_torch(
    chain, no_torch: str, class_folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", no_torch)
    trapped = cli("export", "--checkpoint", chain.checkpoint.path, "--out", tmp_path / "x.onnx")
    assert "torch was imported" in trapped.stderr
    images = class_folders({str(digit): 2 for digit in range(10)})
    model = tmp_path / "int8.onnx"
    commands = [
        ["quantize", chain.folded.path, "--calib-dir", images, "--out", model],
        ["evaluate", model, "--data", images],
        ["bench", model, "--seconds", "0.1"],
        ["predict", model, images / "3" / "000.png"],
        ["inspect", model],
    ]
    given = json.dumps([[*map(str, words), "--json"] for words in commands])
    done = subprocess.run([sys.executable, "-c", ONE_BY_ONE, given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(commands)


@pytest.mark.parametrize("command", ["train", "quantize", "run"])
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_one_that_all_generators_take(command, seed):
    result = CliRunner().invoke(app, [command, f"--seed={seed}"])
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--min-score=0.3"], "--min-score is for --nms"),
        (["quantize", "--data=digits"], "--data is what --max-drop is measured on"),
        (["bench", "--max-slowdown=3%"], "--max-slowdown is for --baseline"),
        (["bench", "--accuracy"], "--accuracy is for --scenario"),
        (["bench", "--server-qps=5"], "--server-qps is for --scenario server"),
        (
            ["bench", "--server-qps=5", "--scenario=offline"],
            "--server-qps is for --scenario server",
        ),
        (["bench", "--provider-option=a=b"], "CPUExecutionProvider takes no --provider-option"),
    ],
)
def test_an_option_without_the_one_it_belongs_to_is_not_ignored(arguments, words):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")

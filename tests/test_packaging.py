"""What is in the wheel: the files of the rooms and no others, under one import name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("calibration", "data", "models", "pipeline", "reports")
ALONE = ("__main__.py", "cli.py", "py.typed")
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_the_wheel_holds_the_files_of_the_rooms_and_no_others(tmp_path: Path):
    # Of a copy: what setuptools finds in build/ from earlier would get into the wheel.
    copy = tmp_path / "source"
    copy.mkdir()
    for folder in (*ROOMS, "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*ALONE, "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run(
        [*build, "--wheel-dir", str(tmp_path), str(copy)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    found = set(zipfile.ZipFile(wheel).namelist())
    about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    rooms = (path for room in ROOMS for path in (copy / room).rglob("*") if path.is_file())
    expected = {f"mobilenet_cli/{path.relative_to(copy)}" for path in rooms}
    expected |= {f"mobilenet_cli/{name}" for name in ALONE}
    assert found == expected | {f"{about}/{name}" for name in METADATA}


@pytest.mark.parametrize("wrong", ["DATA=.", "DATA=/data/..", "RUN=", "RUN=../x", "RUN=a b"])
def test_make_writes_nowhere_but_under_runs(wrong: str):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", "help", wrong], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not the name of a folder directly under runs/. Pass RUN=NAME" in done.stderr

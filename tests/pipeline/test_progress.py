"""The bar shows what matters on the terminal that there is."""

import io

import pytest
from rich.console import Console

from mobilenet_cli.pipeline.progress import bar


@pytest.mark.parametrize("width", [80, 120])
def test_count_and_time_left_stay_whole_beside_a_long_note(width: int):
    out = io.StringIO()
    with bar(Console(file=out, force_terminal=True, width=width), "training", "images") as show:
        for done in (0, 600_000, 1_223_456):
            show(done, 115_305_030, "loss 2.298, training top-1 11.4 %, 12 % waiting for data")
    text = out.getvalue()
    assert "1223456/115305030" in text
    assert "…" in text if width == 80 else "training top-1" in text
    assert "-:--:--" in text or ":0" in text  # the time left

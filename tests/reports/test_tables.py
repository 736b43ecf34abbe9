"""Tables fit a terminal, and lose their least important columns first."""

import pytest
from rich.cells import cell_len

from mobilenet_cli.reports.tables import Grid, grid_markdown, grid_text, label, number

GRID = Grid(
    ("model", "p50 ms", "ratio", "cold start ms"),
    [
        [
            label("int8.onnx"),
            number(6.67, ".3g"),
            number(0.58, ".3f", "0.5 to 0.7"),
            number(40, ".0f"),
        ],
        [label("写真.onnx"), number(None), number(None), number(120, ".0f")],
    ],
)


@pytest.mark.parametrize("width", [20, 40, 60, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = grid_text(GRID, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert ("int8.onnx" in lines[2]) == (width >= 20)


@pytest.mark.parametrize("width", range(25, 70))
def test_no_cell_is_cut(width: int) -> None:
    shown = grid_text(GRID, width)
    for title, cell in (("ratio", "0.580 (0.5 to 0.7)"), ("cold start ms", "120")):
        assert (cell in shown) == (title in shown.splitlines()[0])


def test_the_last_columns_go_first_and_are_named() -> None:
    text = " ".join(grid_text(GRID, 45).split())
    assert "0.580 (0.5 to 0.7)" in text
    assert "no room for cold start ms" in text
    assert "no room" not in grid_text(GRID, 120)


def test_markdown_has_every_column() -> None:
    assert grid_markdown(GRID).splitlines()[2] == "| int8.onnx | 6.67 | 0.580 (0.5 to 0.7) | 40 |"


def test_a_column_without_values_is_left_out() -> None:
    grid = Grid(("a", "b"), [[label("x"), number(None)]])
    assert grid.filled().titles == ["a"]

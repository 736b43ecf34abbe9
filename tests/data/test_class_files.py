"""Classes are listed, and mapped to each other, in the files that other programs write."""

from pathlib import Path

import pytest

from mobilenet_cli.data.class_files import read_classes, read_rows
from mobilenet_cli.pipeline.errors import DataError

TWO = ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\r\ndog\r\n"),
        ("list.json", '["cat", "dog"]'),
        ("marked.json", '\ufeff["cat", "dog"]'),
        ("numbered.json", '{"1": "dog", "0": "cat"}'),
        ("class_indices.json", '{"dog": 1, "cat": 0}'),
        ("config.json", '{"model_type": "x", "id2label": {"0": "cat", "1": "dog"}}'),
        ("data.yaml", "nc: 2\nnames:\n  0: cat\n  1: dog\n"),
        ("list.yml", "- cat\n- dog\n"),
        ("one.csv", "cat\ndog\n"),
        ("numbered.csv", "1,dog\n0,cat\n"),
        ("headed.csv", "name,index\ncat,0\ndog,1\n"),
        ("excel.csv", "id;name\n0;cat\n1;dog\n"),
        ("tabs.tsv", "0\tcat\n1\tdog\n"),
    ],
)
def test_lists_of_classes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == (TWO, ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("imagenet_class_index.json", '{"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]}'),
        ("synset_words.txt", "n02121808 cat\nn02084071 dog\n"),
    ],
)
def test_lists_of_synsets_and_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == (("n02121808", "n02084071"), TWO)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", '["cat", null]', "has null where a class is expected"),
        ("x.json", '["cat", {"dog": [1, 2]}]', r"has \{.* where a class is expected"),
        ("x.json", '{"1": "cat", "2": "dog"}', "does not number its classes from 0 to 1"),
        ("x.json", '{"cat": 0, "dog": 0}', "does not number its classes from 0 to 1"),
        ("x.json", '["cat", "dog"', "cannot be understood"),
        ("x.json", "[" * 100_000, "cannot be understood"),
        ("x.yaml", "names: [cat", "cannot be understood"),
        ("x.csv", "cat,black\ndog,white\n", "several columns"),
    ],
)
def test_lists_that_do_not_say_which_is_which(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_classes(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.csv", 'cat,n1\n\n"dog, big", n2\n'),
        ("map.csv", "cat;n1\ndog, big;n2\n"),
        ("map.tsv", "cat\tn1\ndog, big\tn2\n"),
        ("map.json", '{"cat": "n1", "dog, big": "n2"}'),
        ("map.yaml", "cat: n1\ndog, big: n2\n"),
    ],
)
def test_tables_of_two_columns(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [row for row in read_rows(tmp_path / name) if row] == [["cat", "n1"], ["dog, big", "n2"]]

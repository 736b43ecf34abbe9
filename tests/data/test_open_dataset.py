"""Data sets are opened by their form, and divided by class without overlap."""

import inspect
import os
import re
import shutil
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.parts import cut
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.evaluating.labels import targets_of


def test_digits_are_divided_by_class_without_overlap():
    train, val, everything = (open_dataset("digits", s) for s in ("train", "val", "all"))
    assert len(everything.samples) == 1797
    assert len(train.samples) + len(val.samples) == 1797
    assert not {s.key for s in train.samples} & {s.key for s in val.samples}
    assert train.classes == val.classes == tuple("0123456789")
    totals = Counter(s.label for s in everything.samples)
    for label, held_out in Counter(s.label for s in val.samples).items():
        assert held_out == round(totals[label] / 5)


def test_the_division_is_always_the_same():
    first, again, other = (open_dataset("digits", part) for part in ("val", "val", "train"))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_digits_are_the_pictures_scikit_learn_has():
    from sklearn.datasets import load_digits

    samples, bunch = open_dataset("digits", "all").samples, load_digits()
    assert [sample.label for sample in samples] == [str(label) for label in bunch.target]
    pictures = [np.asarray(decode(sample.read(), sample.key))[..., 0] for sample in samples]
    assert np.array_equal(np.round(np.stack(pictures) / 255 * 16), bunch.images)


def test_class_folders_are_divided_by_class(class_folders):
    root = class_folders({"cat": 10, "dog": 5, "emu": 1})
    train, val = open_dataset(str(root), "train"), open_dataset(str(root), "val")
    assert Counter(s.label for s in train.samples) == {"cat": 8, "dog": 4, "emu": 1}
    assert Counter(s.label for s in val.samples) == {"cat": 2, "dog": 1}
    assert train.classes == val.classes == ("cat", "dog", "emu")
    assert all(s.key.startswith(f"{s.label}/") for s in val.samples)


def test_train_and_val_folders_are_the_splits(class_folders):
    class_folders({"a": 2, "b": 1}, "set/train")
    root = class_folders({"a": 3}, "set/val").parent
    assert [s.key for s in open_dataset(str(root), "val").samples] == [
        "val/a/000.png",
        "val/a/001.png",
        "val/a/002.png",
    ]
    assert len(open_dataset(str(root), "train").samples) == 3
    assert len(open_dataset(str(root), "all").samples) == 6


def test_flat_folder_has_no_labels(class_folders):
    flat = class_folders({"cat": 3}) / "cat"
    dataset = open_dataset(str(flat), "all")
    assert [s.label for s in dataset.samples] == [None] * 3
    assert dataset.classes == ()
    with pytest.raises(DataError, match="no class folders"):
        open_dataset(str(flat), "train")


def test_synset_folder_with_a_name_is_the_synset(class_folders):
    root = class_folders({"n01440764_tench": 1, "n01443537": 1})
    assert open_dataset(str(root), "all").classes == ("n01440764", "n01443537")


def test_two_folders_of_one_class_are_refused(class_folders):
    root = class_folders({"n01440764": 1, "n01440764_tench": 1})
    with pytest.raises(DataError, match="two folders of class n01440764: n01440764 and n01440764_"):
        open_dataset(str(root), "all")


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere' does not exist"):
        open_dataset(str(tmp_path / "nowhere"), "all")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "x.jpg").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        open_dataset(str(tmp_path / "x.jpg"), "all")


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="contains no images"):
        open_dataset(str(tmp_path), "all")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match="contains no images"):
        open_dataset(str(tmp_path), "all")


def test_images_in_subfolders_of_a_class_belong_to_it(class_folders):
    root = class_folders({"cat": 2, "dog": 2})
    (root / "cat" / "2024" / "may").mkdir(parents=True)
    (root / "cat" / "000.png").rename(root / "cat" / "2024" / "may" / "000.png")
    (root / "cat" / "2024" / "again").symlink_to(root / "cat")  # a circle
    dataset = open_dataset(str(root), "all")
    found = [(sample.key, sample.label) for sample in dataset.samples]
    assert found[:2] == [("cat/001.png", "cat"), ("cat/2024/may/000.png", "cat")]
    assert len(found) == 4
    assert dataset.samples[1].read().startswith(b"\x89PNG")


def test_class_folder_without_images(class_folders):
    root = class_folders({"cat": 1, "dog": 0})
    with pytest.raises(DataError, match=r"dog contains no images.*Add images"):
        open_dataset(str(root), "all")


def test_images_beside_class_folders(class_folders):
    root = class_folders({"cat": 1})
    (root / "loose.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"loose images such as loose\.png"):
        open_dataset(str(root), "all")


def test_missing_split_folder(class_folders):
    root = class_folders({"a": 1}, "set/val").parent
    with pytest.raises(DataError, match="has no train/ folder"):
        open_dataset(str(root), "train")


def test_file_that_vanishes_is_a_data_error(class_folders):
    root = class_folders({"cat": 1})
    sample = open_dataset(str(root), "all").samples[0]
    (root / "cat" / "000.png").unlink()
    with pytest.raises(DataError, match=r"000\.png does not exist"):
        sample.read()


def image_tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name, "PNG")
    return root


@pytest.mark.parametrize("held", ["val", "validation", "valid", "test", "testing", "Val"])
def test_held_out_folders(tmp_path, held):
    root = image_tree(tmp_path, "train/a/1.png", "train/b/2.png", f"{held}/a/3.png")
    assert [s.key for s in open_dataset(str(root), "val").samples] == [f"{held}/a/3.png"]
    assert [s.key for s in open_dataset(str(root), "train").samples] == [
        "train/a/1.png",
        "train/b/2.png",
    ]


@pytest.mark.parametrize("train", ["Train", "training", "TRAINING"])
def test_folders_of_training_images(tmp_path, train):
    root = image_tree(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", "Testing/a/3.png")
    found = open_dataset(str(root), "train")
    assert (found.classes, len(found.samples)) == (("a", "b"), 2)
    assert len(open_dataset(str(root), "val").samples) == 1


def test_a_test_folder_alone_is_held_out(tmp_path):
    root = image_tree(tmp_path, "test/a/1.png", "test/b/2.png")
    assert open_dataset(str(root), "val").classes == ("a", "b")


def test_a_class_may_be_called_train(tmp_path):
    root = image_tree(tmp_path, "bus/1.png", "car/2.png", "train/3.png")
    assert open_dataset(str(root), "all").classes == ("bus", "car", "train")


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    root = image_tree(tmp_path, "set/a/1.png", "set/b/2.png") / "set"
    for number, target in enumerate(("..", ".", "../..")):
        (root / "a" / f"{number}").symlink_to(target)
    assert [(s.key, s.label) for s in open_dataset(str(root), "all").samples] == [
        ("a/1.png", "a"),
        ("b/2.png", "b"),
    ]


def test_what_systems_leave_in_folders_is_no_image(tmp_path):
    leavings = ("__MACOSX/a/._1.png", "a/@eaDir/1.png/THUMB_M.png", "a/.Trash/3.png")
    root = image_tree(tmp_path, "a/1.png", "b/2.png", *leavings)
    for name in ("$RECYCLE.BIN", "System Volume Information", "lost+found"):
        (root / name).mkdir()
    assert len(open_dataset(str(root), "all").samples) == 2


def test_a_folder_of_shards_among_class_folders_is_named(tmp_path):
    place = tmp_path / "set" / "plain_text"
    place.mkdir(parents=True)
    (place / "train-00000-of-00001.parquet").touch()
    words = rf"no images but train-00000-of-00001\.parquet\. Give {place} itself"
    with pytest.raises(DataError, match=words):
        open_dataset(str(tmp_path / "set"), "all")


@pytest.mark.parametrize("pair", [("seg_train", "seg_test"), ("training_set", "val-set")])
def test_parts_by_other_names_are_no_classes(tmp_path, pair):
    nested = [f"{part}/{part}/{name}/1.png" for part in pair for name in "ab"]
    root = image_tree(tmp_path, *nested, "other/1.png")
    with pytest.raises(DataError, match=rf"called like parts of a set: {min(pair)}, {max(pair)}"):
        open_dataset(str(root), "val")
    flat = image_tree(tmp_path / "flat", *(f"{part}/1.png" for part in pair))
    if pair[0].replace("train", "") == pair[1].replace("test", ""):
        with pytest.raises(DataError, match="called like parts of a set"):
            open_dataset(str(flat), "all")


@pytest.mark.parametrize("names", [("1.png", "a/1.png"), ("2019/1.png", "glass/1.png")])
def test_classes_may_have_such_words_in_their_names(tmp_path, names):
    root = image_tree(tmp_path, f"bullet train/{names[0]}", f"test tube/{names[1]}")
    assert open_dataset(str(root), "all").classes == ("bullet train", "test tube")


def test_accents_of_two_spellings_are_one_class(tmp_path, model_of):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = image_tree(tmp_path, f"{decomposed}/1.png", "b/2.png")
    found = open_dataset(str(root), "all")
    assert found.classes == ("b", composed)
    assert found.samples[1].label == composed
    assert found.samples[1].read()
    assert targets_of(found, model_of(("b", decomposed))) == [0, 1]
    image_tree(tmp_path, f"{composed}/3.png")
    with pytest.raises(DataError, match="has two folders of class café"):
        open_dataset(str(root), "all")


def test_files_of_two_formats_are_refused(tmp_path):
    for name in ("a.parquet", "b.TAR"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds \.parquet and \.tar files.* one format"):
        open_dataset(str(tmp_path), "all")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.TGZ"])
def test_what_is_packed_is_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"is packed.* Unpack it"):
        open_dataset(str(tmp_path / name), "all")


def test_a_folder_of_archives_says_what_it_holds(tmp_path):
    for name in ("a.tgz", "b.zip"):
        (tmp_path / name).write_bytes(b"x")
    said = r"no images but 2 archives, such as a\.tgz.* Unpack"
    with pytest.raises(DataError, match=said):
        open_dataset(str(tmp_path), "all")
    (lost,) = next(cut([str(tmp_path)])).images()
    assert re.search(said, str(lost))


def test_a_class_folder_is_no_second_class_by_a_link(tmp_path):
    root = image_tree(tmp_path, "a/1.png", "b/2.png")
    (root / "c").symlink_to("b")
    with pytest.raises(DataError, match=r"b and \S+c are the same, so .* twice\. Leave one"):
        open_dataset(str(root), "all")
    (root / "c").unlink()
    (root / "a/more").symlink_to(root / "b")
    with pytest.raises(DataError, match=r"a/more and \S+b are the same"):
        open_dataset(str(root), "all")


@pytest.mark.parametrize("link", ["val", "val/a"])
def test_training_images_are_not_held_out_by_a_link(tmp_path, link):
    root = image_tree(tmp_path, "train/a/1.png", "train/b/2.png")
    if link != "val":
        (root / "val").mkdir()
    (root / link).symlink_to(root / link.replace("val", "train"))
    with pytest.raises(DataError, match="are the same, so their images would count twice"):
        open_dataset(str(root), "val")


def test_a_tree_may_be_deeper_than_python_recurses(tmp_path):
    depth, here = 200, tmp_path
    image_tree(tmp_path, "z/1.png")
    for _ in range(depth):
        here = here / "a"
        here.mkdir()
    shutil.copy(tmp_path / "z/1.png", here / "2.png")
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + depth // 2)
    try:
        found = [sample.key for sample in next(cut([str(tmp_path)])).images()]
    finally:
        sys.setrecursionlimit(usual)
    assert found == ["a/" * depth + "2.png", "z/1.png"]


def test_a_link_that_leads_to_itself_is_one_image_that_cannot_be_read(tmp_path):
    root = image_tree(tmp_path, "a/1.png", "b/2.png")
    (root / "a/loop.png").symlink_to("loop.png")
    *_, loop, _ = open_dataset(str(root), "all").samples
    with pytest.raises(DataError, match=r"loop\.png cannot be read \(Too many levels"):
        loop.read()


def test_test_folder_without_labels_is_not_held_out(tmp_path):
    root = image_tree(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png")
    assert len(open_dataset(str(root), "all").samples) == 2


def test_class_folders_win_over_archives_beside_them(tmp_path):
    root = image_tree(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png")
    (root / "ILSVRC2012_img_val.tar").write_bytes(bytes(1024))
    assert [s.key for s in open_dataset(str(root), "val").samples] == ["val/a/3.png"]
    plain = image_tree(tmp_path / "plain", "a/1.png", "b/2.png")
    (plain / "flowers.tar").write_bytes(bytes(1024))
    assert len(open_dataset(str(plain), "all").samples) == 2


@pytest.mark.parametrize("end", ["pgm", "jfif", "jpe", "avif", "heic", "JPEG"])
def test_names_of_images(tmp_path, end):
    image_tree(tmp_path, f"a/1.{end}", "b/2.png")
    assert len(open_dataset(str(tmp_path), "all").samples) == 2


def test_pictures_of_other_kinds_are_named_and_counted(tmp_path):
    root = image_tree(tmp_path, "a/1.png", "a/2.psd", "a/notes.txt", "b/3.png", "b/x/4.JP2")
    lost = [error.what for error in open_dataset(str(root), "all").lost]
    assert lost == [
        f"{root / 'a/2.psd'} is a picture of a kind that is not read",
        f"{root / 'b/x/4.JP2'} is a picture of a kind that is not read",
    ]
    (root / "b/3.png").unlink()
    with pytest.raises(DataError, match=r"b contains no images but 1 of a kind .*x/4\.JP2"):
        open_dataset(str(root), "all")


def test_names_that_are_not_utf_8(tmp_path):
    root = image_tree(tmp_path, os.fsdecode(b"a\xfc/\xe9.png"), "b/2.png")
    found = open_dataset(str(root), "all")
    assert found.classes == ("a\\xfc", "b")
    assert found.samples[0].key == "a\\xfc/\\xe9.png"
    assert found.samples[0].label == "a\\xfc"
    assert found.samples[0].read()
    assert len(found.fingerprint) == 64

"""Files as users have them: odd names, links, zips of every packer, system files, samples and sheets."""

import os
import zipfile

import numpy as np
import pytest
from helpers import refusal
from PIL import Image

from stylenat.data.check import check
from stylenat.data.dataset import open_dataset, open_samples


def image_bytes(path, seed, side=16):
    pixels = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    """A folder of six images in two folders."""
    root = tmp_path / "set"
    for i in range(6):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image_bytes(path, i)
    return root


def pack(folder, path, rename=str):
    """A zip of a folder, its names changed by `rename`."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr(rename(file.relative_to(folder).as_posix()), file.read_bytes())
    return path


# Names


def test_a_name_that_is_no_utf8_is_read_and_shown(folder, capsys):
    name = os.fsdecode(b"a/\xff\xe4.png")
    image_bytes(folder / name, 9)
    dataset = open_dataset(folder, 16)
    assert len(dataset) == 7 and len(dataset.manifest) == 64
    manifest = dataset.manifest
    (folder / name).rename(folder / os.fsdecode(b"a/\xff\xe5.png"))
    assert open_dataset(folder, 16).manifest != manifest  # the byte counts


@pytest.mark.parametrize("name", ["THUMBS.DB", "Desktop.ini", "a/ehThumbs.db", ".ipynb_checkpoints/0.png"])
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_system_files_in_any_case_are_left_out(folder, tmp_path, name, case):
    manifest = open_dataset(folder, 16).manifest
    path = folder / case(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"system")
    for source in (folder, pack(folder, tmp_path / "set.zip")):
        assert open_dataset(source, 16).manifest == manifest


def test_macos_folders_in_any_case_are_left_out(folder, tmp_path):
    manifest = open_dataset(folder, 16).manifest
    (folder / "__macosx").mkdir()
    image_bytes(folder / "__macosx" / "0.png", 3)
    for source in (folder, pack(folder, tmp_path / "set.zip")):
        assert open_dataset(source, 16).manifest == manifest


def test_extensions_may_be_in_upper_case(folder, tmp_path):
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    assert len(open_dataset(folder, 16)) == 6
    assert len(open_dataset(pack(folder, tmp_path / "SET.ZIP"), 16)) == 6


# Links


def test_a_link_that_leads_back_adds_nothing(folder, tmp_path):
    manifest = open_dataset(folder, 16).manifest
    (folder / "a" / "back").symlink_to(folder)
    (folder / "self").symlink_to(".")
    (folder / ".hidden").symlink_to(folder / "a")
    dataset = open_dataset(folder, 16)
    assert len(dataset) == 6 and dataset.manifest == manifest


def test_links_to_other_places_are_followed(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    image_bytes(other / "7.png", 7)
    image_bytes(tmp_path / "8.png", 8)
    (folder / "c").symlink_to(other)
    (folder / "8.png").symlink_to(tmp_path / "8.png")
    assert open_dataset(folder, 16).names == [
        "8.png", "a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "b/5.png", "c/7.png",
    ]  # fmt: skip


@pytest.mark.parametrize(("link", "target"), [("c", "a"), ("b/9.png", "a/0.png")])
def test_what_links_reach_twice_is_refused(folder, link, target):
    (folder / link).symlink_to(folder / target)
    message = refusal(open_dataset, folder, 16)
    assert str(folder / link) in message and str(folder / target) in message and "remove one" in message


@pytest.mark.parametrize("target", ["gone.png", "broken.png"])
def test_a_link_to_nothing_is_named(folder, target):
    (folder / "broken.png").symlink_to(folder / target)
    assert f"{folder / 'broken.png'} is no readable image" in refusal(open_dataset, folder, 16)


def test_a_pipe_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png is no readable image (ValueError: a pipe or a device)" in refusal(
        open_dataset, folder, 16
    )


# Zips


def test_absolute_names_of_a_zip_are_relative_to_it(folder, tmp_path):
    def mixed(name):
        return f"/{name}" if name.startswith("a") else name

    manifest = open_dataset(folder, 16).manifest
    for rename in (mixed, "/{}".format, "/deep/down/{}".format, "./{}".format):
        source = pack(folder, tmp_path / "set.zip", rename)
        assert open_dataset(source, 16).manifest == manifest and check(source).count == 6


@pytest.mark.parametrize("rename", ["../{}".format, "a/../../{}".format, "/../{}".format])
def test_names_that_lead_out_of_a_zip_are_refused(folder, tmp_path, rename):
    source = pack(folder, tmp_path / "set.zip", rename)
    message = refusal(open_dataset, source, 16)
    assert f"{source} holds '{rename('a/0.png')}'" in message and "pack its folder anew" in message


def test_two_names_that_are_one_are_refused(folder, tmp_path):
    source = pack(folder, tmp_path / "set.zip")
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("/a/0.png", (folder / "a" / "2.png").read_bytes())
    message = refusal(open_dataset, source, 16)
    assert "'/a/0.png'" in message and "'a/0.png'" in message and "one name" in message


def test_a_zip_whose_list_is_damaged_is_refused(folder, tmp_path):
    source = pack(folder, tmp_path / "set.zip")
    content = source.read_bytes()
    source.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x09"))
    assert f"{source} is a damaged zip" in refusal(open_dataset, source, 16)
    name = "ö.png"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(name, b"x")
    source.write_bytes(
        source.read_bytes().replace(name.encode(), b"\xff\xff.png")
    )  # no UTF-8, marked as such
    assert f"{source} is a damaged zip" in refusal(open_dataset, source, 16)


def test_a_damaged_file_at_the_end_of_a_zip_is_named_by_its_manifest(folder, tmp_path):
    source = pack(folder, tmp_path / "set.zip")
    dataset = open_dataset(source, 16)
    content = source.read_bytes()
    end = content.rindex(b"IEND")  # decoders may stop before it
    source.write_bytes(content[: end + 5] + b"\x00" + content[end + 6 :])
    assert "can't be read (BadZipFile: Bad CRC-32" in refusal(lambda: dataset.manifest)


# Samples and their sheets


@pytest.fixture
def samples(tmp_path):
    root = tmp_path / "samples"
    root.mkdir()
    for seed in (0, 7, 12345):
        image_bytes(root / f"seed{seed:04}.png", seed)
    image_bytes(root / "grid.png", 1, side=32)
    image_bytes(root / "interpolation.gif", 2, side=64)
    return root


def test_sheets_of_samples_are_left_out_and_listed(samples, tmp_path):
    for source in (samples, pack(samples, tmp_path / "samples.zip"), tmp_path):
        if source == tmp_path:
            (tmp_path / "samples.zip").unlink()
        dataset = open_samples(source)
        assert [name.rpartition("/")[2] for name in dataset.names] == [
            "seed0000.png", "seed0007.png", "seed12345.png",
        ]  # fmt: skip
        assert [name.rpartition("/")[2] for name in check(str(source)).ignored] == [
            "grid.png", "interpolation.gif",
        ]  # fmt: skip


def test_an_image_that_is_called_grid_among_others_is_an_image(samples):
    image_bytes(samples / "portrait.png", 3)
    assert "grid.png" in open_dataset(samples, 16).names
    for path in samples.glob("seed*"):
        path.unlink()
    assert "grid.png" in open_dataset(samples, 16).names

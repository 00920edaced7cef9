import hashlib
import importlib.util
import io
import itertools
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, refusal
from PIL import Image

from stylenat.data import dataset as data
from stylenat.data import sources
from stylenat.data.check import check
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import batches
from stylenat.data.sources import pixels_sha256

SCRIPT = ROOT / "scripts" / "make_noto_faces.py"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def hwc(image):
    return image.permute(1, 2, 0).numpy()


def write_folder(folder, count=11, side=16):
    for i in range(count):
        path = folder / ("ab"[i % 2]) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(side, side, 3, seed=i)).save(path)
    return folder


def pack(folder, path, below=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # the order inside must not matter
            if file.is_file():
                archive.write(file, Path(below) / file.relative_to(folder))
    return path


def only(tmp_path, image, name="one.png", resolution=16, **options):
    """What the dataset makes of one saved image: uint8 `(R, R, 3)`."""
    image.save(tmp_path / name, **options)
    return hwc(open_dataset(tmp_path, resolution)[0])


# The bundled set


@pytest.mark.parametrize(("resolution", "start"), [(64, "15fd1c2dfb46459e"), (32, "007f702ec689c364")])
def test_bundled_pixels(resolution, start):
    dataset = open_dataset("noto-faces", resolution)
    images = dataset.stack()
    assert images.shape == (987, 3, resolution, resolution) and images.dtype == torch.uint8
    assert pixels_sha256(images.permute(0, 2, 3, 1).numpy()).startswith(start)
    assert dataset.manifest == "a0d7381f591aafb84b9bc057d1a8faf049d92aca24891a1b194a1cb706a27753"
    assert dataset.names == sorted(dataset.names) and dataset.names[0] == "1f385-1f3fb.png"


def test_bundled_32_is_pillows_box():
    large, small = open_dataset("noto-faces", 64), open_dataset("noto-faces", 32)
    for i in (0, 500, 986):
        box = Image.fromarray(hwc(large[i])).resize((32, 32), Image.Resampling.BOX)
        assert np.array_equal(hwc(small[i]), np.asarray(box))


def test_bundled_other_resolution():
    assert "noto-faces comes at 32 and 64, not at 128" in refusal(open_dataset, "noto-faces", 128)


def test_altered_asset_is_refused(tmp_path, monkeypatch):
    with np.load(sources.NOTO_ASSET) as asset:
        images, names = asset["images"], asset["names"]
    images[3, 5, 5, 0] ^= 1
    np.savez(tmp_path / "altered.npz", images=images, names=names)
    monkeypatch.setattr(sources, "NOTO_ASSET", tmp_path / "altered.npz")
    message = refusal(sources.NotoFaces)
    assert "altered.npz is altered" in message and "make_noto_faces.py" in message


# Splits, names, manifest


def test_splits_hold_out_every_fifth():
    everything = open_dataset("noto-faces", 32)
    train, held_out = open_dataset("noto-faces", 32, "train"), everything.with_split("heldout")
    assert (len(everything), len(train), len(held_out)) == (987, 790, 197)
    assert held_out.names == everything.names[4::5]
    assert sorted(train.names + held_out.names) == everything.names
    assert torch.equal(held_out[1], everything[9]) and torch.equal(train.stack()[4], everything[5])
    assert train.manifest == held_out.manifest == everything.manifest
    assert "all, train, heldout" in refusal(everything.with_split, "test")


def test_too_few_for_a_held_out_split(tmp_path):
    write_folder(tmp_path, count=4)
    assert len(open_dataset(tmp_path, 16, "train")) == 4
    assert "give 5 images or more" in refusal(open_dataset, tmp_path, 16, "heldout")


def test_folder_and_zip_are_the_same_dataset(tmp_path):
    folder = write_folder(tmp_path / "faces")
    plain = pack(folder, tmp_path / "plain.zip")
    nested = pack(
        folder, tmp_path / "no-suffix", below="faces"
    )  # known by its content; one more folder on top
    datasets = [open_dataset(source, 16) for source in (folder, plain, nested)]
    assert [dataset.name for dataset in datasets] == ["faces", "plain", "no-suffix"]
    for dataset in datasets:
        assert dataset.names == sorted(f"{'ab'[i % 2]}/{i:02}.png" for i in range(11))
        assert dataset.manifest == datasets[0].manifest
        assert torch.equal(dataset.stack(), datasets[0].stack())
    assert np.array_equal(hwc(datasets[1][0]), noise(16, 16, 3, seed=0))


def test_manifest_is_sha256sums_listing_whatever_the_resolution(tmp_path):
    folder = write_folder(tmp_path, count=3)
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("a/00.png", "a/02.png", "b/01.png")
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert open_dataset(folder, 16).manifest == open_dataset(folder, 8).manifest == expected
    (folder / "b/01.png").write_bytes((folder / "a/00.png").read_bytes())
    assert open_dataset(folder, 16).manifest != expected


# What becomes of a file


def test_color_gray_and_cmyk(tmp_path):
    color = noise(16, 16, 3)
    assert np.array_equal(only(tmp_path, Image.fromarray(color)), color)
    gray = noise(16, 16)
    assert np.array_equal(only(tmp_path, Image.fromarray(gray)), np.repeat(gray[..., None], 3, 2))
    assert (only(tmp_path, Image.new("1", (16, 16), 1)) == 255).all()
    cmyk = only(tmp_path, Image.new("CMYK", (16, 16), (255, 0, 255, 0)), "two.tif")
    assert cmyk[0, 0].tolist() == [255, 255, 255]  # the first file, one.png, still stands before it
    (tmp_path / "one.png").unlink()
    assert hwc(open_dataset(tmp_path, 16)[0])[0, 0].tolist() == [0, 255, 0]


def test_alpha_is_composited_on_white(tmp_path):
    image = np.zeros((16, 16, 4), np.uint8)
    image[..., 0], image[:8, :, 3], image[8:, 8:, 3] = 200, 255, 51  # a fifth
    result = only(tmp_path, Image.fromarray(image))
    assert result[0, 0].tolist() == [200, 0, 0] and result[15, 0].tolist() == [255, 255, 255]
    assert result[15, 15].tolist() == [244, 204, 204]
    gray = Image.fromarray(np.stack([np.full((16, 16), 10), np.zeros((16, 16))], -1).astype(np.uint8), "LA")
    assert (only(tmp_path, gray) == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    indices = np.zeros((16, 16), np.uint8)
    indices[8:] = 1
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert only(tmp_path, image)[[0, 15], 0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert only(tmp_path, image, transparency=1)[[0, 15], 0].tolist() == [[10, 20, 30], [255, 255, 255]]
    half = only(tmp_path, image, transparency=bytes([255, 51]))
    assert half[15, 0].tolist() == [244, 224, 214]


def png_16_bit(values, color_type):
    """A 16-bit PNG by hand (Pillow writes none in color): `values` is uint16 `(H, W)` or `(H, W, C)`."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_is_scaled(tmp_path, color_type, channels):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = values if channels == 1 else np.repeat(values[..., None], 3, 2)
    (tmp_path / "deep.png").write_bytes(png_16_bit(pixels, color_type))
    result = hwc(open_dataset(tmp_path, 16)[0])
    assert np.array_equal(result, np.repeat(np.arange(256).reshape(16, 16, 1), 3, 2))


def test_16_bit_tiff_and_pgm(tmp_path):
    values = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)
    expected = np.repeat(np.arange(256).reshape(16, 16, 1), 3, 2)
    assert np.array_equal(only(tmp_path, Image.fromarray(values), "deep.tif"), expected)
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(hwc(open_dataset(tmp_path, 16)[0]), expected)


def test_32_bit_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "float.tif")
    assert "save it with 8 or 16" in refusal(open_dataset, tmp_path, 16)


def test_exif_orientation(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    image[0, :, 0] = 255  # a red top row
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    result = only(tmp_path, Image.fromarray(image), exif=exif)
    assert (result[:, 15, 0] == 255).all() and result[:, :15].max() == 0


def test_center_square_and_lanczos(tmp_path):
    wide = noise(32, 50, 3)
    exact = only(tmp_path, Image.fromarray(wide), resolution=32)
    assert np.array_equal(exact, wide[:, 9:41])
    small = hwc(open_dataset(tmp_path, 16)[0])
    expected = Image.fromarray(wide[:, 9:41]).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(small, np.asarray(expected))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    result = only(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert result[0, 0].tolist() == [255, 0, 0]


# What is refused, and how


def test_too_small_names_file_size_and_fix(tmp_path):
    write_folder(tmp_path, count=3, side=32)
    Image.new("RGB", (40, 20)).save(tmp_path / "b" / "tiny.png")
    message = refusal(open_dataset, tmp_path, 32)
    assert f"{tmp_path / 'b' / 'tiny.png'} is 40x20, smaller than the asked 32x32" in message
    assert "at most 20" in message
    assert len(open_dataset(tmp_path, 20)) == 4


def damage(kind):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, "JPEG" if kind == "jpeg" else "PNG")
    return {"text": b"shopping list", "empty": b""}.get(
        kind, buffer.getvalue()[: len(buffer.getvalue()) // 2]
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpeg", "text", "empty"])
def test_a_bad_file_is_named(tmp_path, kind, packed):
    folder = write_folder(tmp_path / "set", side=32)
    (folder / "b" / "bad.png").write_bytes(damage(kind))
    source = pack(folder, tmp_path / "set.zip") if packed else folder
    for call in (lambda: open_dataset(source, 32), lambda: check(source)):
        message = refusal(call)
        assert f"{source}/b/bad.png is no readable image" in message and "replace or remove it" in message
    assert "1 of 12 files" in refusal(check, source)


def test_a_name_with_a_line_break_makes_no_second_line(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"text")
    for call in (lambda: open_dataset(tmp_path, 16), lambda: check(tmp_path)):
        assert "two lines.png is no readable image" in refusal(call)


def test_check_counts_all_bad_files(tmp_path):
    write_folder(tmp_path, count=10)
    for i in range(7):
        (tmp_path / f"bad{i}.jpg").write_bytes(b"no")
    message = refusal(check, tmp_path)
    assert "7 of 17 files" in message and "bad4.jpg" in message and "bad5.jpg" not in message


def test_any_other_file_is_named_but_known_ones_are_left_out(tmp_path):
    folder = write_folder(tmp_path / "set")
    manifest = open_dataset(folder, 16).manifest
    for name in (".DS_Store", ".git/x.png", "__MACOSX/._00.png", "Thumbs.db", "a/desktop.ini"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"system")
    for name in ("LICENSE", "README.md", "a/license.txt", "dataset.json"):
        (folder / name).write_bytes(b"sidecar")
    for source in (folder, pack(folder, tmp_path / "set.zip")):
        assert len(open_dataset(source, 16)) == 11 and open_dataset(source, 16).manifest == manifest
        assert check(source).ignored == ("LICENSE", "README.md", "a/license.txt", "dataset.json")
    (folder / "labels.csv").write_text("1,2")
    assert f"{folder / 'labels.csv'} is no readable image" in refusal(open_dataset, folder, 16)


def test_missing_empty_and_neither(tmp_path):
    message = refusal(open_dataset, tmp_path / "gone", 32)
    assert f"Dataset '{tmp_path / 'gone'}' not found" in message and "use 'noto-faces'" in message
    (tmp_path / ".hidden").touch()
    assert f"Dataset '{tmp_path}' is empty: no image in {tmp_path}" in refusal(open_dataset, tmp_path, 32)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("LICENSE.txt", "x")
    assert "is empty" in refusal(open_dataset, tmp_path / "empty.zip", 32)
    (tmp_path / "faces.zip").write_bytes(b"not a zip")
    assert "faces.zip is neither a folder nor a zip" in refusal(open_dataset, tmp_path / "faces.zip", 32)
    for resolution in (0, -1, 32.0, "32"):
        assert f"resolution {resolution!r}" in refusal(open_dataset, "noto-faces", resolution)


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    write_folder(tmp_path)
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert f"{tmp_path / 'a'} can't be listed (Permission denied)" in refusal(open_dataset, tmp_path, 16)


# Large sets


def test_a_large_set_is_decoded_image_by_image(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "set")
    expected = open_dataset(folder, 16).stack()
    decoded = []
    image = sources._Files.image
    monkeypatch.setattr(data, "DECODED_AT_ONCE", 0)
    monkeypatch.setattr(
        sources._Files,
        "image",
        lambda self, i, resolution: decoded.append(i) or image(self, i, resolution),
    )
    for source in (folder, pack(folder, tmp_path / "set.zip")):
        decoded.clear()
        dataset = open_dataset(source, 16)
        assert not decoded
        assert torch.equal(dataset[3], expected[3]) and decoded == [3]
        assert torch.equal(dataset.stack(), expected)
        held_out = dataset.with_split("heldout")
        assert torch.equal(held_out.stack([1, 0]), expected[[9, 4]])
        at_once = next(batches(open_dataset("noto-faces", 32), 1, seed=0))
        assert at_once.shape == (1, 3, 32, 32)
        assert torch.equal(next(batches(dataset, 8, seed=3)), first_batch(expected, 8, seed=3))


def test_bars_are_for_large_sets(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        sources, "progress", lambda items, *, total, desc, **_: shown.append((desc, total)) or items
    )
    folder = write_folder(tmp_path)
    expected = open_dataset(folder, 16).stack()
    check(folder)
    assert not shown
    monkeypatch.setattr(sources, "PROGRESS_FROM", 11)
    assert torch.equal(open_dataset(folder, 16).stack(), expected)
    check(folder)
    assert shown == [(what, 11) for what in ("checking sizes", "decoding", "checking", "hashing")]


def first_batch(images, size, seed):
    """The stream's rule, written out once more."""
    rng = np.random.default_rng((seed, 0))
    order, mirrored = rng.permutation(len(images)), rng.random(len(images)) < 0.5
    return torch.stack(
        [images[i].flip(2) if m else images[i] for i, m in zip(order, mirrored, strict=True)][:size]
    )


def test_a_bad_file_in_a_large_set_is_named_when_its_turn_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DECODED_AT_ONCE", 0)
    folder = write_folder(tmp_path, side=32)
    (folder / "bad.png").write_bytes(damage("png"))
    dataset = open_dataset(folder, 32)
    assert "bad.png is no readable image" in refusal(dataset.stack)
    assert "bad.png is no readable image" in refusal(
        lambda: list(itertools.islice(batches(dataset, 4, seed=0), 3))
    )


# Batches


def images_of(stream, count):
    taken = []
    while sum(map(len, taken)) < count:
        taken.append(next(stream))
    return torch.cat(taken)[:count]


@pytest.mark.parametrize("start", [0, 1, 8, 11, 30])
def test_batches_resume_at_any_image_with_any_batch_size(tmp_path, start):
    dataset = open_dataset(write_folder(tmp_path), 16)
    whole = images_of(batches(dataset, 4, seed=5), 50)
    assert torch.equal(images_of(batches(dataset, 3, seed=5, start=start), 20), whole[start : start + 20])


def test_batches_show_every_image_once_an_epoch_in_a_new_order(tmp_path):
    dataset = open_dataset(write_folder(tmp_path), 16)
    shown = images_of(batches(dataset, 11, seed=5, flips=False), 22)
    for epoch in (shown[:11], shown[11:]):
        assert {p.numpy().tobytes() for p in epoch} == {p.numpy().tobytes() for p in dataset.stack()}
    assert not torch.equal(shown[:11], shown[11:])
    assert not torch.equal(shown[:11], images_of(batches(dataset, 11, seed=6, flips=False), 11))


def test_flips_mirror_about_half_and_leave_the_order():
    dataset = open_dataset("noto-faces", 32)
    plain = images_of(batches(dataset, 100, seed=1, flips=False), 900)
    mirrored = images_of(batches(dataset, 100, seed=1), 900)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)])
    assert torch.equal(mirrored[~same], plain[~same].flip(3))
    assert 0.4 < same.float().mean() < 0.6
    again = images_of(batches(dataset, 100, seed=1), 900)
    assert torch.equal(again, mirrored)


# The report


def test_check_reports(tmp_path):
    write_folder(tmp_path, count=9, side=32)
    Image.new("L", (70, 48)).save(tmp_path / "c.png")
    report = check(tmp_path)
    assert (
        report.count == 10 and report.largest_resolution == 32 and report.splits == {"train": 8, "heldout": 2}
    )
    assert report.sizes == {(32, 32): 9, (70, 48): 1} and report.modes == {"RGB": 9, "L": 1}
    assert report.manifest == open_dataset(tmp_path, 32).manifest
    text = str(report)
    assert "10 images" in text and "70x48 (1)" in text and report.manifest in text and "\n" not in text
    assert "smaller than the asked 40x40" in refusal(check, tmp_path, 40)
    assert check("noto-faces", 32).count == 987
    assert "not at 48" in refusal(check, "noto-faces", 48)
    assert "resolution 0 is no size" in refusal(check, tmp_path, 0)


# The script that rebuilds the bundled set


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_noto_faces", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rule_of_the_portraits(script):
    portraits = {
        "1f600": True,  # grinning face
        "1f638": True,  # cat
        "2639-fe0f": True,
        "1f636-200d-1f32b-fe0f": True,  # face in clouds, four code points
        "1f636-200d-1f32b-fe0f-fe0f": False,  # five
        "1f468-1f3fb-200d-1f9b0": True,  # man, red hair
        "1f477-1f3ff-200d-2640-fe0f": True,  # a role
        "1f468-200d-1f9af": False,  # with a cane
        "1f469-200d-1f37c": False,  # feeding a baby
        "1f468-200d-2764-fe0f-200d-1f468": False,  # two persons
        "1f436": False,  # dog
        "1f1e9-1f1ea": False,  # flag
    }
    assert {name: script.is_portrait(f"{name}.png") for name in portraits} == portraits
    assert all(map(script.is_portrait, open_dataset("noto-faces", 32).names))


def test_rebuild_from_a_package(script):
    def png(color):
        buffer = io.BytesIO()
        Image.new("RGBA", (64, 64), color).save(buffer, "PNG")
        return buffer.getvalue()

    files = {
        "package/img/google/64/1f603.png": png((10, 20, 30, 255)),
        "package/img/google/64/1f601.png": png((0, 0, 0, 0)),
        "package/img/google/64/1f602.png": png((9, 9, 9, 0)),  # white as well: a double of 1f601
        "package/img/google/64/1f436.png": png((1, 2, 3, 255)),  # a dog
        "package/img/apple/64/1f600.png": png((1, 2, 3, 255)),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    names, images = script.portraits(buffer.getvalue())
    assert names == ["1f601.png", "1f603.png"] and images.shape == (2, 64, 64, 3)
    assert (images[0] == 255).all() and (images[1] == [10, 20, 30]).all()


def test_rebuild_refuses_another_package(script, tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"other")
    message = refusal(script.read_tarball, tmp_path / "other.tgz")
    assert "other.tgz has sha256" in message and script.TARBALL_SHA256 in message

"""Emoji portraits by design: no held-out design is in training in another skin tone."""

import io
import zipfile

import pytest
import torch
from helpers import refusal
from PIL import Image

from stylenat.data import catalog, designs
from stylenat.data.dataset import open_dataset
from stylenat.data.designs import held_out_designs, with_design
from stylenat.data.sources import Zip


@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("1f600.png", "1f600"),
        ("1f468-1f3fb-200d-1f9b0.webp", "1f468-200d-1f9b0"),
        ("1f477-1f3ff-200d-2640-fe0f.png", "1f477-200d-2640-fe0f"),
        ("1f3fa-1f3fb.png", "1f3fa"),
    ],
)
def test_a_design_is_a_name_without_its_skin_tone(name, design):
    assert with_design(name) == f"{design}/{name}"


def test_every_fifth_design_is_held_out():
    names = [f"{design}/{tone}.png" for design in "abcdefghijk" for tone in range(3)]
    assert held_out_designs(names) == [12, 13, 14, 27, 28, 29]


def test_noto_by_design_shares_no_design_between_splits():
    dataset = open_dataset("noto-faces-by-design", 32)
    train, held_out = dataset.with_split("train"), dataset.with_split("heldout")
    assert dataset.names == sorted(train.names + held_out.names) and len(dataset) == 987
    of = [{name.split("/")[0] for name in split.names} for split in (train, held_out)]
    assert not of[0] & of[1] and (len(of[0]), len(of[1])) == (212, 53)
    assert dataset.name == "noto-faces-by-design"


def test_noto_by_design_are_the_same_images_and_another_set():
    old, new = open_dataset("noto-faces", 32), open_dataset("noto-faces-by-design", 32)
    images = {name: old[i] for i, name in enumerate(old.names)}
    assert all(torch.equal(new[i], images[name.split("/")[1]]) for i, name in enumerate(new.names))
    assert new.manifest != old.manifest  # scores of the two are never taken for each other's


# The set that is fetched


@pytest.fixture
def fluent(tmp_path, monkeypatch):
    """A made-up set of eleven images in six designs, where the fetched one would be."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    path = tmp_path / "datasets" / "fluent-faces.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(11):
            content = io.BytesIO()
            Image.new("RGBA", (64, 66), (number, 0, 0, 255)).save(content, "webp", lossless=True)
            tone = "-1f3fb" if number % 2 else ""
            archive.writestr(with_design(f"1f60{number // 2}{tone}.webp"), content.getvalue())
    monkeypatch.setattr(designs, "FLUENT_MANIFEST", Zip("made up", path).manifest)
    catalog._named.cache_clear()
    yield path
    catalog._named.cache_clear()


def test_fluent_faces_are_read_from_the_workspace_by_design(fluent):
    held_out = open_dataset("fluent-faces", 32, "heldout")
    assert held_out.names == ["1f604/1f604-1f3fb.webp", "1f604/1f604.webp"]
    assert held_out[1][:, 5, 5].tolist() == [8, 0, 0] and held_out.name == "fluent-faces"


def test_altered_fluent_faces_are_refused(fluent):
    with zipfile.ZipFile(fluent, "a") as archive:
        archive.writestr("more.webp", b"")
    message = refusal(open_dataset, "fluent-faces", 32)
    assert f"{fluent} is altered" in message and "make_fluent_faces.py" in message


def test_missing_fluent_faces_are_refused_with_the_script_to_run(fluent):
    fluent.unlink()
    message = refusal(open_dataset, "fluent-faces", 32)
    assert f"{fluent} isn't there" in message and "run scripts/make_fluent_faces.py" in message

"""The scripts: each says what it is for, and each does its work on a small case."""

import csv
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
WITH_OPTIONS = [path for path in SCRIPTS if "argparse" in path.read_text() or "click" in path.read_text()]


def run(name, *arguments, workspace):
    """A script in a process of its own, its workspace elsewhere."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "STYLENAT_WORKSPACE": str(workspace),
        "STYLENAT_QUIET": "1",
    }
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def load(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(color, mode="RGBA"):
    content = io.BytesIO()
    Image.new(mode, (64, 64), color).save(content, "png")
    return content.getvalue()


def tarball(files):
    """`{name: bytes}` → the bytes of a .tgz."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.mark.parametrize("path", WITH_OPTIONS, ids=lambda path: path.stem)
def test_script_says_what_it_is_for(path, tmp_path):
    done = run(path.stem, "--help", workspace=tmp_path)
    assert done.returncode == 0 and not done.stderr
    assert "--help" in done.stdout and len(done.stdout.splitlines()) > 3
    assert not any(tmp_path.iterdir())


# --- attention_scaling


def test_attention_scaling_writes_a_row_a_size(tmp_path):
    options = ("--sizes", 16, "--channels", 8, "--heads", 2, "--repeats", 1)
    done = run("attention_scaling", *options, workspace=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "results" / "attention_scaling.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["size"], row["tokens"]) == ("16", "256")
    assert (row["channels"], row["heads"], row["dilation"]) == ("8", "2", "1")
    assert float(row["forward_ms"]) > 0 and float(row["forward_backward_ms"]) > 0
    assert "16² = 256" in done.stdout


# --- bench, bench_page


def test_bench_refuses_a_case_that_it_does_not_know(tmp_path):
    done = run("bench", "sample-65", workspace=tmp_path)
    assert done.returncode == 2 and "sample-65" in done.stderr and "sample-64" in done.stderr
    assert not any(tmp_path.iterdir())


def test_performance_page_is_what_its_numbers_give(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "performance.json", tmp_path / "results")
    load("bench_page").write_page()
    written = (tmp_path / "docs" / "performance.md").read_bytes()
    assert written == (ROOT / "docs" / "performance.md").read_bytes()


# --- execute_notebook


@pytest.fixture
def notebook(tmp_path):
    """Writes a notebook of the given cells, its kernel and metadata as an editor leaves them."""

    def write(*cells):
        kernel = {"name": "python3", "display_name": "My own", "language": "python"}
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        made.metadata = {
            "kernelspec": kernel,
            "papermill": {"duration": 1},
            "language_info": {"name": "python"},
        }
        for cell in made.cells:
            cell.metadata["execution"] = {"iopub.execute_input": "then"}
        path = tmp_path / "small.ipynb"
        nbformat.write(made, path)
        return path

    return write


def test_execute_notebook_executes_in_place_and_leaves_no_trace_of_the_execution(notebook, tmp_path):
    path = notebook("print(6 * 7)", "import os; print(os.path.basename(os.environ['STYLENAT_WORKSPACE']))")
    done = run("execute_notebook", path, workspace=tmp_path)
    assert done.returncode == 0, done.stderr
    found = nbformat.read(path, as_version=4)
    assert [cell.outputs[0].text for cell in found.cells] == ["42\n", f"{tmp_path.name}\n"]
    assert found.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell.metadata == {} for cell in found.cells)


def test_execute_notebook_leaves_a_notebook_alone_that_fails(notebook, tmp_path):
    path = notebook("print(1)", "1 / 0")
    before = path.read_bytes()
    done = run("execute_notebook", path, workspace=tmp_path)
    assert done.returncode == 1 and "ZeroDivisionError: division by zero" in done.stderr
    assert path.read_bytes() == before


# --- make_noto_faces


@pytest.mark.parametrize(
    "name, expected",
    [
        ("1f600", True),  # a face
        ("1f468", True),  # a man
        ("1f468-1f3fb-200d-1f9b0", True),  # one with a skin tone and red hair
        ("1f934", True),  # a role
        ("1f468-200d-1f9af", False),  # a man with a cane: a scene
        ("1f468-200d-1f469-200d-1f467", False),  # a family
        ("1f408", False),  # a cat
    ],
)
def test_portraits_are_one_person_or_one_face(name, expected):
    assert load("make_noto_faces").is_portrait(f"{name}.png") is expected


def test_portraits_are_taken_once_each_in_order_and_put_on_white():
    folder = "package/img/google/64"
    files = {
        f"{folder}/1f601.png": png((10, 20, 30, 255)),
        f"{folder}/1f600.png": png((0, 0, 0, 0)),
        f"{folder}/1f602.png": png((10, 20, 30, 255)),  # as 1f601
        f"{folder}/1f408.png": png((1, 1, 1, 255)),  # a cat
        "package/img/google/32/1f603.png": png((9, 9, 9, 255)),  # of another size
    }
    names, images = load("make_noto_faces").portraits(tarball(files))
    assert names == ["1f600.png", "1f601.png"]
    assert images.shape == (2, 64, 64, 3) and images.dtype == np.uint8
    assert (images[0] == 255).all() and (images[1] == (10, 20, 30)).all()


def test_another_package_is_refused_and_nothing_written(tmp_path):
    package, output = tmp_path / "package.tgz", tmp_path / "faces.npz"
    package.write_bytes(tarball({"package/img/google/64/1f600.png": png((1, 2, 3, 255))}))
    done = run("make_noto_faces", "--tarball", package, "--output", output, workspace=tmp_path)
    assert done.returncode != 0 and not output.exists()
    assert f"sha256 {hashlib.sha256(package.read_bytes()).hexdigest()}, expected" in done.stderr


# --- make_avatar_parts and make_fluent_faces


SQUARE = '<path d="M0 0h384v768H0z" fill="${escape.xml(`${colors.hair}`)}"/>'
MODULE = f"""export const hair = {{
    'left': (components, colors) => `{SQUARE}`,
    half: (components, colors) => `<path d="M0 0h768v768H0z" fill="black" fill-opacity="0.2"/>`,
}};
"""


def test_parts_are_read_from_a_module():
    parts = load("make_avatar_parts").read_parts(MODULE)
    assert list(parts) == ["left", "half"] and parts["left"] == SQUARE


@pytest.mark.parametrize("more", ["${colors.skin}", "${escape.xml(`${colors.skin}`)}"])
def test_a_part_of_two_colors_is_refused(more):
    with pytest.raises(ValueError, match="part left is no plain drawing with at most one color"):
        load("make_avatar_parts").read_parts(MODULE.replace(SQUARE, SQUARE + more))


def test_planes_hold_opacity_own_color_and_tint():
    pytest.importorskip("resvg_py", reason="pip install resvg-py")
    script = load("make_avatar_parts")
    left, half = (script.part_planes(part, 0) for part in script.read_parts(MODULE).values())
    assert left.shape == (5, 256, 256) and left.dtype == np.uint8
    assert (left[:3] == 0).all() and (left[3:, :, :128] == 255).all() and (left[3:, :, 128:] == 0).all()
    assert (half[[0, 1, 2, 4]] == 0).all() and (half[3] == 51).all()


def test_other_packages_are_refused_and_nothing_written(tmp_path):
    package, output = tmp_path / "package.tgz", tmp_path / "parts.npz"
    package.write_bytes(tarball({"package/lib/components/hair.js": b""}))
    done = run("make_avatar_parts", "--tarball", package, "--output", output, workspace=tmp_path)
    assert done.returncode != 0 and not output.exists() and "toon-head-9.4.3.tgz again" in done.stderr
    done = run("make_fluent_faces", "--tarball", package, workspace=tmp_path)
    assert done.returncode != 0 and "fluent-emoji-3d-1.1.0.tgz again" in done.stderr
    assert not (tmp_path / "datasets").exists()


def test_fluent_portraits_are_taken_once_each_by_design():
    files = {
        "package/assets/1f468-1f3fb.webp": b"man",
        "package/assets/1f468.webp": b"another",
        "package/assets/1f603.webp": b"another",  # the same
        "package/assets/1f408.webp": b"cat",
        "package/more/1f600.webp": b"elsewhere",
    }
    script = load("make_fluent_faces")
    found = script.portraits(tarball(files))
    assert found == {"1f468/1f468-1f3fb.webp": b"man", "1f468/1f468.webp": b"another"}
    packed = script.pack(found)
    assert packed == script.pack(found)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == list(found) and archive.read("1f468/1f468.webp") == b"another"


# --- score_checks


@pytest.fixture(scope="module")
def checks():
    pytest.importorskip("cleanfid", reason="pip install 'stylenat[fid]'")
    return load("score_checks")


@pytest.fixture
def images():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(64, 192, (40, 3, 8, 8), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("percent, replaced", [(0, 0), (10, 4), (50, 20), (100, 40)])
def test_doses_of_fakes_are_exact_and_spread(checks, images, percent, replaced):
    fakes = torch.zeros_like(images)
    is_fake = (checks.mixed(images, fakes, percent) == 0).flatten(1).all(1)
    assert is_fake.sum() == replaced and is_fake[:20].sum() == replaced // 2


def test_noise_has_its_deviation_and_blur_keeps_the_mean(checks, images):
    noise = checks.noisy(images, 4).double() - images.double()
    assert abs(noise.std().item() - 4) < 0.1 and abs(noise.mean().item()) < 0.2
    blurred = checks.blurred(images, 2).double()
    assert blurred.std() < 0.3 * images.double().std()
    assert abs(blurred.mean() - images.double().mean()) < 1


def test_gaussian_draws_have_the_mean_and_deviation_of_the_pixels(checks, images):
    drawn = checks.drawn_from_a_gaussian(images, 4000).double()
    assert drawn.shape == (4000, 3, 8, 8)
    torch.testing.assert_close(drawn.mean(0), images.double().mean(0), rtol=0, atol=4)
    ratio = drawn.std(0) / images.double().std(0)
    assert (ratio - 1).abs().max() < 0.1


def test_moments_are_those_of_the_features(checks):
    features = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found = checks.as_statistics(features)
    torch.testing.assert_close(found.mean, features.double().mean(0))
    torch.testing.assert_close(found.covariance.numpy(), np.cov(features.double().numpy().T))


@pytest.mark.slow
def test_score_checks_write_their_page(checks, tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "scores.md", tmp_path / "docs")
    done = run("score_checks", workspace=tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "docs" / "scores.md").read_text(encoding="utf-8")
    committed = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    headings = [line for line in committed.splitlines() if line.startswith("#")]
    assert headings and headings == [line for line in written.splitlines() if line.startswith("#")]

"""The repository keeps its own rules: dependencies stated once, notebooks clean, imports from below."""

import ast
import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import nbformat
import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# From the ground up: a module imports from its own room or from a lower floor.
FLOORS = (
    ("errors", "paths", "progress", "images", "device", "provenance", "distributed"),
    ("attention",),
    ("config", "presets", "stages"),
    ("models", "data", "features"),
    ("sampling",),
    ("evaluation",),
    ("reporting",),
    ("checkpoints",),
    ("training", "figures"),
    ("benchmark", "experiments"),
    ("doctor",),
    ("cli", "notebook"),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SHARED_FLOORS = (0, 2)  # of single modules, which may import each other
MODULES = sorted((ROOT / "stylenat").rglob("*.py"))
MACHINE_PATH = re.compile(r"/(?:root|work|tmp/pkg)/|/(?:home|Users)/\w+/|\b[A-Z]:\\\\?Users\b")
ABSOLUTE_PATH = re.compile(
    r"""(?<![\w.:/~$}-])/(?:home|root|work|tmp|Users|mnt|opt|usr|var|srv|data)/\w|\b[A-Z]:\\\w"""
)


def tracked():
    """Files that git tracks or would with the next `git add`; or, in an archive, does not ignore."""
    if (ROOT / ".git").exists():
        arguments = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        files = [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]
    else:
        files = list(not_ignored(ROOT))
    assert len(files) > 10
    return files


def not_ignored(root):
    """Files below a folder that its .gitignore does not name."""
    patterns = (root / ".gitignore").read_text().split()
    for place, folders, names in os.walk(root):
        folder = Path(place)
        folders[:] = [name for name in folders if not is_ignored(folder / name, root, patterns)]
        for name in names:
            if not is_ignored(folder / name, root, patterns):
                yield folder / name


def is_ignored(path, root, patterns):
    """Whether a pattern is of the path: of all of it below `root` after a slash, else of its name."""
    relative = path.relative_to(root).as_posix()
    for pattern in patterns:
        wanted = pattern.strip("/")
        if fnmatch(relative if pattern.startswith("/") else path.name, wanted):
            return True
    return False


def requirements(lines):
    parsed = [Requirement(line) for line in lines if not line.startswith(("#", "-e")) and line.strip()]
    return {canonicalize_name(r.name): r.specifier for r in parsed}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def needed(project):
    """Everything but NATTEN, which must find a torch and a GPU first."""
    extras = [
        line for name, lines in project["optional-dependencies"].items() if name != "natten" for line in lines
    ]
    return requirements(project["dependencies"] + extras)


@pytest.fixture(scope="module")
def notebooks():
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert paths, "notebooks/ holds no notebook"
    return {path.name: nbformat.read(path, as_version=4) for path in paths}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameter_cells(notebook):
    return [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]


def test_conda_environment_asks_for_what_the_project_needs(project, needed):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert requirements(pip) == needed
    assert "-e ." in pip and "pip" in conda
    (python,) = (entry.removeprefix("python=") for entry in conda if entry.startswith("python="))
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)


def test_constraints_pin_every_dependency_within_its_range(needed):
    pins = requirements((ROOT / "constraints.txt").read_text().splitlines())
    assert set(needed) <= set(pins), f"constraints.txt lacks {sorted(set(needed) - set(pins))}"
    for name, specifier in pins.items():
        (pin,) = specifier
        assert pin.operator == "==" and "*" not in pin.version, f"{name} is not pinned exactly"
        assert name not in needed or needed[name].contains(pin.version), (
            f"{name}=={pin.version} is out of range"
        )


def test_pins_install_on_the_oldest_python_that_the_project_names(project):
    (oldest,) = SpecifierSet(project["requires-python"])
    assert oldest.operator == ">="
    pins = requirements((ROOT / "constraints.txt").read_text().splitlines())
    checked = 0
    for name, specifier in pins.items():
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another Python or platform
            continue
        if specifier.contains(found.version):
            needs = SpecifierSet(found.metadata.get("Requires-Python", ""))
            assert needs.contains(oldest.version), (
                f"{name} {found.version} needs Python {needs}, and the project says {oldest}"
            )
            checked += 1
    assert checked > len(pins) * 3 / 4


def test_notebooks_are_committed_executed_and_without_errors(notebooks):
    for name, notebook in notebooks.items():
        assert any(cell.outputs for cell in code_cells(notebook)), f"{name} has no outputs"
        for number, cell in enumerate(code_cells(notebook), start=1):
            assert cell.execution_count is not None, f"{name}: code cell {number} was not executed"
            assert all(output.output_type != "error" for output in cell.outputs), (
                f"{name}: cell {number} failed"
            )


def test_notebooks_hold_no_trace_of_papermill(notebooks):
    for name, notebook in notebooks.items():
        for metadata in [notebook.metadata, *(cell.metadata for cell in notebook.cells)]:
            assert "papermill" not in metadata, f"{name} holds metadata.papermill"
            assert "injected-parameters" not in metadata.get("tags", []), f"{name} holds injected parameters"


def test_notebooks_begin_with_one_parameters_cell_and_its_check(notebooks):
    for name, notebook in notebooks.items():
        cells = code_cells(notebook)
        assert parameter_cells(notebook) == cells[:1], (
            f"{name}: the first code cell, and no other, is 'parameters'"
        )
        assert "check_parameters()" in cells[1].source, (
            f"{name}: the second code cell must call check_parameters()"
        )


def test_parameters_are_literals_one_a_line(notebooks):
    for name, notebook in notebooks.items():
        for line in filter(str.strip, parameter_cells(notebook)[0].source.splitlines()):
            where = f"{name}: parameter line {line!r}"
            assert re.fullmatch(r"\w+: \w[\w\[\], ]* = .+", line), (
                f"{where} is not `name: type = value  # help`"
            )
            assert line.count("=") == 1, f"{where} holds a second '='"
            ast.literal_eval(ast.parse(line).body[0].value)


def test_notebooks_name_no_absolute_path(notebooks):
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            texts = [cell.source]
            for output in cell.get("outputs", []):
                texts.append(output.get("text", ""))
                texts += [
                    str(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")
                ]
            found = ABSOLUTE_PATH.search("\n".join(texts))
            assert not found, f"{name} names the absolute path {found[0]}…"


def test_notebooks_are_small(notebooks):
    for name, notebook in notebooks.items():
        assert (ROOT / "notebooks" / name).stat().st_size < 1_000_000, f"{name} is over 1 MB"
        for cell in code_cells(notebook):
            assert len(cell.source.splitlines()) <= 25, f"{name}: a cell over 25 lines belongs in the package"


def imported(path):
    """Top-level names of the package's modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path.name}: write imports from stylenat in full")
        if isinstance(node, ast.ImportFrom) and node.module == "stylenat":
            yield from (alias.name for alias in node.names)
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
        yield from (name.split(".")[1] for name in names if name.startswith("stylenat."))


def test_modules_import_from_their_own_room_or_a_lower_one():
    arrows = set()
    for path in MODULES:
        room = path.relative_to(ROOT / "stylenat").parts[0].removesuffix(".py")
        if room == "__init__":  # the door: it may open on every room
            continue
        assert room in FLOOR, f"{room} has no floor yet: add it to FLOORS"
        for other in imported(path):
            arrows.add((room, other))
            beside = FLOOR[other] == FLOOR[room] and (other == room or FLOOR[room] in SHARED_FLOORS)
            assert beside or FLOOR[other] < FLOOR[room], f"{path.name} of {room} imports {other}, above it"
    assert ("figures", "reporting") in arrows


def test_readme_draws_the_floors():
    text = (ROOT / "README.md").read_text().split("## Where things are")[1]
    drawing = text.split("```")[1].strip("\n").splitlines()
    rooms = [set(line[:60].split()) for line in drawing]  # then comes what is in them
    assert rooms == [set(floor) for floor in reversed(FLOORS) if floor != ("__main__",)]


def test_files_of_an_archive_are_those_that_git_tracks():
    if not (ROOT / ".git").exists():
        pytest.skip("an unpacked archive")
    archived = [path for path in not_ignored(ROOT) if ".git" not in path.relative_to(ROOT).parts]
    assert set(tracked()) == set(archived)


def test_no_file_is_large():
    large = [path.relative_to(ROOT) for path in tracked() if path.stat().st_size > 4 * 2**20]
    assert not large


def test_no_file_names_a_path_of_somebodys_machine():
    for path in tracked():
        try:
            found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:  # an image or an archive
            continue
        assert not found, f"{path.relative_to(ROOT)} names {found[0]}"


@pytest.mark.parametrize(
    "root, rest", [("root", "x"), ("home", "ann/data"), ("work", "main"), ("Users", "ann/x")]
)
def test_a_machine_path_is_recognized(root, rest):
    path = f"/{root}/{rest}"  # in two parts, for this file is searched too
    assert MACHINE_PATH.search(f"see {path}") and ABSOLUTE_PATH.search(f'"{path}"')


@pytest.mark.parametrize("text", ["https://host/home/x", "network/root", "a /home or /work", "../home/x"])
def test_other_text_is_no_machine_path(text):
    assert not ABSOLUTE_PATH.search(text)

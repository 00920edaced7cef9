"""The files around the package: the Makefile's Python, hooks, workflow, citation, changelog."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CFF_REQUIRED = {"authors", "cff-version", "message", "title"}  # of schema 1.2.0
REFERENCE_REQUIRED = {"authors", "title", "type"}
FROM_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "VENV"}
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def load_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def recipe_lines(target):
    """The tools that a target calls, each line from the tool's name on."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return re.findall(r"^\t\$\(BIN\)/(.*)$", recipe[1], re.MULTILINE)


def python_of_version(folder, version):
    """A Python that takes itself for another version."""
    path = folder / "python"
    code = f"import sys; sys.version_info = {version}; "
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}$2"\n')
    path.chmod(0o755)
    return path


def make(*arguments):
    """A `make` that knows nothing of the one that may run these tests."""
    environment = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@needs_make
@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13)])
def test_make_refuses_an_old_python_in_one_line(tmp_path, version):
    python, environment = python_of_version(tmp_path, version), tmp_path / "environment"
    done = make("install", f"PYTHON={python}", f"VENV={environment}")
    assert done.returncode == 2 and not environment.exists()
    found = ".".join(map(str, version))
    assert f"Python 3.11 or newer is needed, and {python} is {found}: " in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@needs_make
def test_make_refuses_a_python_that_is_not_there(tmp_path):
    python = tmp_path / "python"
    done = make("install", f"PYTHON={python}", f"VENV={tmp_path / 'environment'}")
    assert done.returncode == 2 and f"{python} is not there" in done.stderr


@needs_make
def test_make_refuses_an_environment_of_an_old_python(tmp_path):
    (tmp_path / "bin").mkdir()
    python_of_version(tmp_path / "bin", (3, 10, 13))
    done = make("install", f"PYTHON={sys.executable}", f"VENV={tmp_path}")
    assert done.returncode == 2 and f"remove {tmp_path}" in done.stderr
    assert not (tmp_path / "installed").exists()


@needs_make
def test_make_installs_with_a_new_enough_python(tmp_path):
    environment = tmp_path / "environment"
    python = python_of_version(tmp_path, (3, 11, 0))
    done = make("--dry-run", "install", f"PYTHON={python}", f"VENV={environment}")
    assert done.returncode == 0 and f"{python} -m venv {environment}" in done.stdout


def test_hooks_run_what_make_test_checks_in_seconds():
    (repository,) = load_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = {hook["entry"] for hook in repository["hooks"]}
    checks = {line.removesuffix(" .") for line in recipe_lines("test") if not line.startswith("pytest")}
    assert {"ruff check", "ruff format --check"} <= checks
    missing = {check for check in checks if f".venv/bin/{check}" not in entries}
    assert not missing, f"no hook runs {missing}"


def test_workflow_runs_the_ci_script_on_every_python_that_the_project_names(project):
    workflow = load_yaml(".github/workflows/test.yml")
    assert {"push", "pull_request", "schedule"} <= set(workflow["on"])
    (job,) = workflow["jobs"].values()
    assert (ROOT / ".ci" / "run").is_file() and job["steps"][-1]["run"] == ".ci/run"
    named = []
    for classifier in project["classifiers"]:
        if match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier):
            named.append(match[1])
    assert job["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_citation_has_what_its_schema_requires(project):
    citation = load_yaml("CITATION.cff")
    assert citation.keys() >= CFF_REQUIRED and citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software" and str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    paper = citation["preferred-citation"]
    assert paper.keys() >= REFERENCE_REQUIRED and "2211.05770" in paper["url"]
    for author in citation["authors"] + paper["authors"]:
        assert "name" in author or {"given-names", "family-names"} <= author.keys()


def test_changelog_leads_from_unreleased_to_the_version(project):
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", project["version"]]


def test_package_says_that_it_is_typed():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert (ROOT / "stylenat" / "py.typed").is_file() and "py.typed" in package_data["stylenat"]

"""Places other than a clone: an archive without git, odd folders, no home, no network, ASCII terminals."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from test_repository import tracked

MODEL = "results/runs/noto-32-long/model"
NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The repository as an archive gives it, in a folder with spaces and letters beyond ASCII; no git."""
    root = tmp_path_factory.mktemp("a place") / "Übung mit 图像"
    for path in tracked():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def in_tree(tree, *words, without=(), home=None, **environment):
    """A process of this Python in the tree, which sees its package and neither HOME nor a network."""
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", *without)}
    (tree.parent / "sitecustomize.py").write_text(NO_NETWORK)
    variables["PYTHONPATH"] = f"{tree}{os.pathsep}{tree.parent}"
    variables |= {"CI": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=tree, env=variables, capture_output=True, check=False
    )


def files_of(tree):
    return {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}


def test_the_tree_has_no_git_and_uses_its_own_package(tree):
    assert not (tree / ".git").exists()
    done = in_tree(tree, "-c", "import stylenat; print(ascii(stylenat.__file__))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == ascii(str(tree / "stylenat" / "__init__.py"))


def test_tests_of_the_repository_pass_in_an_archive(tree):
    names = ("test_repository.py", "test_project_files.py", "test_provenance.py")
    paths = [tree / "tests" / name for name in names]
    done = in_tree(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths)
    assert done.returncode == 0, done.stdout.decode()[-2000:]
    assert b"[100%]" in done.stdout


COMMANDS = [
    ["--help"],
    ["presets"],
    ["data", "check", "noto-faces"],
    ["tables"],
    ["sample", MODEL, "--seeds", "0,1", "--device", "cpu", "--out", "Bilder ü"],
]
MISTAKES = [["data", "check", "ü"], ["train", "smoke", "--set", "widths=ü"], ["convert", "ü", "ä"]]


@pytest.mark.parametrize("words", COMMANDS + MISTAKES, ids=" ".join)
def test_commands_in_an_ascii_terminal_without_home_and_network(tree, words):
    done = in_tree(tree, "-m", "stylenat", *words, PYTHONIOENCODING="ascii")
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if words in MISTAKES else 0), done.stderr
    assert done.stderr.count(b"\n") == (words in MISTAKES), done.stderr
    if "--help" not in words:  # which click writes in UTF-8 to a stream of ASCII
        done.stdout.decode("ascii")
    done.stderr.decode("ascii")


@pytest.mark.parametrize("words", [["presets"], ["data", "check", "ü"]], ids=" ".join)
def test_commands_in_the_c_locale(tree, words):
    if not torch.__file__.isascii():
        pytest.skip("PyTorch itself is not imported from such a path where the locale is ASCII alone")
    done = in_tree(tree, "-m", "stylenat", *words, without=("LANG",), LC_ALL="C", PYTHONUTF8="0")
    assert b"Traceback" not in done.stderr
    assert (done.returncode, done.stderr.count(b"\n")) in ((0, 0), (2, 1)), done.stderr


# A command that prints what scores and files' names may hold.
SAY = r"""
import sys
import click
from stylenat.cli import commands, main
commands.add_command(click.Command("say", callback=lambda: print("482 \u00b1 8.5 \udcff")))
sys.exit(main(["say"]))
"""


def test_what_a_terminal_can_not_show_is_written_in_ascii(tree):
    done = in_tree(tree, "-c", SAY, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout.strip()) == (0, rb"482 \xb1 8.5 \udcff"), done.stderr


def test_a_checkout_that_is_only_read_is_left_as_it_was(tree, tmp_path):
    for name in ("results", "README.md"):
        source = tree / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    before = files_of(tree)
    # Where Numba keeps what it compiled if it can't write beside the package; the tests' user may be root.
    workspace = {"STYLENAT_WORKSPACE": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    for words in (
        ["tables"],
        ["train", "smoke", "--set", "nimg=16", "snapshot=16", "--device", "cpu"],
        ["sample", MODEL, "--seeds", "0", "--device", "cpu", "--out", tmp_path / "samples"],
    ):
        done = in_tree(tree, "-m", "stylenat", *words, **workspace)
        assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").glob("smoke-*")) and (tmp_path / "samples" / "grid.png").is_file()
    assert files_of(tree) == before


def test_a_home_that_is_not_there(tree):
    done = in_tree(tree, "-m", "stylenat", "data", "check", "~nobody-of-that-name/images")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"'~nobody-of-that-name/images': that home folder is unknown" in done.stderr


def test_weights_that_can_not_be_downloaded_are_named(tree):
    arguments = ["evaluate", MODEL, "--data", "noto-faces", "--metric", "fid", "--download"]
    empty = tree.parent / "empty"
    done = in_tree(tree, "-m", "stylenat", *arguments, TORCH_HOME=str(empty), TMPDIR=str(tree.parent))
    assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1

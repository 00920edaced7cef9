"""Which code ran on what, as records keep it."""

import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from stylenat import provenance as provenance_module
from stylenat.provenance import describe_device, provenance


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=folder, check=True)


def test_provenance_holds_the_versions_and_nothing_of_the_host():
    known = provenance()
    assert set(known) == {"commit", "dirty", "versions", "device", "threads", "platform"}
    assert torch.__version__.startswith(known["versions"]["torch"])
    assert known["versions"]["python"] == platform.python_version()
    assert known["threads"] == torch.get_num_threads()
    text = json.dumps(known)
    assert platform.node() not in text and str(Path.home()) not in text


def test_dirty_means_a_changed_source_not_a_result(tmp_path, monkeypatch):
    names = ["stylenat/provenance.py", "results/a.json", "figures/b.png", "docs/c.md", "README.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / names[0]))
    assert len(provenance()["commit"]) == 40
    (tmp_path / "scratch.txt").write_text("untracked")
    for name in names[1:]:
        (tmp_path / name).write_text("two")
    assert provenance()["dirty"] is False
    (tmp_path / names[0]).write_text("two")
    assert provenance()["dirty"] is True


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9554\nmodel name\t: other\n", "AMD EPYC 9554"),
        ("model name\t: unknown\n", f"{platform.machine()} CPU"),
        ("processor\t: 0\n", f"{platform.machine()} CPU"),
    ],
)
def test_a_cpu_is_named_by_its_model_or_else_its_kind(monkeypatch, cpuinfo, name):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    assert describe_device("cpu") == name


def test_provenance_works_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] is None and provenance()["dirty"] is None
    monkeypatch.undo()
    # Installed somewhere inside another project's clone: that project's commit is not ours.
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(
        provenance_module, "__file__", str(tmp_path / "site-packages" / "stylenat" / "provenance.py")
    )
    assert provenance()["commit"] is None

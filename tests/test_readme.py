"""README's commands and code are what the package has: each is parsed or run as it stands there.

Commands run in this process as `python -m stylenat` does, whatever parses them; what a reader puts in for
CHECKPOINT or PATH is put in here, too.
"""

import ast
import importlib
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from PIL import Image

from stylenat import neighborhood_attention, open_dataset
from stylenat.evaluation.metrics import METRICS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = str(ROOT / "results" / "runs" / "noto-32-long" / "model")
PUBLISHED = "FFHQ256_940k_flip.pt"  # not in the repository: the bundled model stands in for it
LONG = {
    "train",
    "doctor",
    "evaluate",
    "throughput",
    "compare",
    "ablation",
}  # or in need of weights: parsed, then refused
NO_DEVICE = "nowhere"


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no {language} block"
    return found


def lines_of(program):
    """Its command lines in README, of blocks and of running text, without their comments."""
    lines = "".join(blocks("sh")).splitlines()
    running_text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", running_text)]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]
    assert found, f"README has no line of {program}"
    return found


def name_of(words):
    return " ".join(words).removeprefix("python -m stylenat ")


COMMANDS = [words[3:] for words in lines_of("python -m stylenat")]
NOTEBOOKS = lines_of("papermill")
PYTHON = blocks("python")


@pytest.fixture
def run(monkeypatch, capsys):
    def run(words):
        """Exit code, stdout and stderr of `python -m stylenat WORDS`."""
        monkeypatch.setattr(sys, "argv", ["stylenat", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("stylenat", run_name="__main__")
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """What is put in for README's placeholders, in a workspace with the published numbers and a README."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "paper.csv", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(open_dataset("noto-faces", 32).stack(range(4))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    images = dict.fromkeys(("PATH", "~/images", "~/pictures"), str(folder))
    models = dict.fromkeys(("CHECKPOINT", "CHECKPOINT_OR_FOLDER", "old.pt"), MODEL)
    return images | models


def help_of(run, words):
    """What `--help` says of the command that a line begins with."""
    length = 2 if words[0] == "data" else 1
    code, out, _ = run([*words[:length], "--help"])
    assert code == 0
    return out


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_options_of_a_command_are_in_its_help(run, words):
    text = help_of(run, words)
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{option} is not in the help"


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] not in LONG], ids=name_of)
def test_short_commands_run(run, stand_ins, words):
    code, out, err = run([stand_ins.get(word, word) for word in words])
    assert code == 0 and out, err


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] in LONG], ids=name_of)
def test_long_commands_are_refused_for_nothing_but_a_missing_device_or_run(run, stand_ins, words):
    filled = [stand_ins.get(word, word) for word in words]
    code, _, err = run([*filled, "--device", NO_DEVICE])
    needs_run = words[0] == "evaluate" and "--data" not in words
    expected = words[1] if needs_run else NO_DEVICE
    assert code == 2 and expected in err and "--help" not in err


@pytest.mark.parametrize("words", NOTEBOOKS, ids=name_of)
def test_papermill_lines_name_a_notebook_and_its_parameters(words):
    _, source, _, *options = words
    notebook = nbformat.read(ROOT / source, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    declared = {node.target.id: ast.unparse(node.annotation) for node in ast.parse(cell.source).body}
    assert options and len(options) % 3 == 0
    for flag, name, value in zip(options[::3], options[1::3], options[2::3], strict=True):
        assert flag == "-p" and name in declared, f"{source} has no parameter {name}"
        kind = declared[name].split("[")[0]  # list[int]: papermill knows the container
        assert type(yaml.safe_load(value)).__name__ == kind, f"{name} is declared as {declared[name]}"


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code):
    """As they stand there, with the bundled model for the published file."""
    names = {}
    exec(compile(code.replace(f'"{PUBLISHED}"', repr(MODEL)), "README.md", "exec"), names)
    if "generator" in names:
        (images,) = [value for value in names.values() if torch.is_tensor(value)]
        assert images.shape == (4, 3, 32, 32) and images.dtype == torch.uint8
    else:
        q, k, v, partitions = (names[name] for name in ("q", "k", "v", "partitions"))
        exact = neighborhood_attention(q, k, v, partitions, backend="reference")
        torch.testing.assert_close(names["out"], exact)


def test_the_published_file_and_the_attention_are_among_the_python_blocks():
    assert any(PUBLISHED in code for code in PYTHON)
    assert any("neighborhood_attention(" in code for code in PYTHON)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(stylenat(?:\.\w+)+)(?:\(\))?`", README))))
def test_names_of_the_package_in_running_text_exist(name):
    found = importlib.import_module("stylenat")
    for part in name.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(f"{found.__name__}.{part}")


def first_cells(head):
    """The first cells of README's table whose first title is `head`."""
    rows = README.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [row.split("|")[1] for row in rows]


def test_every_metric_is_in_the_table_of_metrics():
    listed = re.findall(r"`([^`]+)`", " ".join(first_cells("metric")))
    assert listed == list(METRICS)


def test_every_notebook_is_in_the_table_of_notebooks():
    listed = re.findall(r"\]\(notebooks/([^)]+)\)", " ".join(first_cells("notebook")))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing

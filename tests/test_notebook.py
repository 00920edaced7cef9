"""Parameters of a notebook, under the real papermill; the progress bar's manners."""

import subprocess
import sys

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from stylenat import notebook
from stylenat.errors import UserError
from stylenat.progress import is_quiet, progress

DECLARED = """nimg: int = 1000  # images shown
dilation: int = 8
gamma: float = 10.0
data: str = "noto-faces"
flips: bool = True
seeds: list = [0, 1]"""
CHECK = "from stylenat.notebook import check_parameters\ncheck_parameters()"


class Shell:
    def __init__(self, *cells):
        self.user_ns = {"In": ["", *cells, CHECK]}


def check(monkeypatch, *cells):
    monkeypatch.setattr(notebook, "get_ipython", lambda: Shell(*cells))
    notebook.check_parameters()


@pytest.fixture
def run(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(source) for source in (DECLARED, CHECK, "print('done', nimg, gamma, seeds)")
    ]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)

    def run(**parameters):
        return papermill.execute_notebook(path, tmp_path / "out.ipynb", parameters, progress_bar=False)

    return run


def test_papermill_runs_with_and_without_parameters(run):
    assert run().cells[-1].outputs[0].text == "done 1000 10.0 [0, 1]\n"
    assert run(nimg=5, gamma=2, seeds=[3]).cells[-1].outputs[0].text == "done 5 2 [3]\n"


def test_papermill_stops_at_an_unknown_parameter_with_one_line(run):
    with pytest.raises(PapermillExecutionError) as caught:
        run(dilatoin=4)
    lines = [line for line in str(caught.value).splitlines() if line and not line.startswith("---")]
    assert lines[1:] == [
        "UserError: unknown parameter 'dilatoin', did you mean 'dilation'? "
        "There are nimg, dilation, gamma, data, flips, seeds"
    ]


def test_papermill_stops_at_a_value_of_another_type(run):
    with pytest.raises(
        PapermillExecutionError, match="UserError: parameter nimg='many' is str, expected int"
    ):
        run(nimg="many")


@pytest.mark.parametrize(
    "line, message",
    [
        ("nimg = 1000.0", "nimg=1000.0 is float, expected int"),
        ("nimg = True", "nimg=True is bool, expected int"),
        ("data = 5", "data=5 is int, expected str .*-r"),
        ("flips = 1", "flips=1 is int, expected bool"),
        ("nimg = float('nan')", "nimg=nan is float, expected int"),
        ("gamma = float('nan')", "gamma=nan: give a finite number"),
        ("gamma = float('inf')", "gamma=inf: give a finite number"),
        ("gamma = 1e999", "gamma=inf: give a finite number"),
        ("quux = 1", "unknown parameter 'quux'. There are nimg"),
    ],
)
def test_injected_values_are_refused_by_name(monkeypatch, line, message):
    with pytest.raises(UserError, match=message):
        check(monkeypatch, DECLARED, f"# Parameters\n{line}\n")


def test_injected_values_of_the_declared_types_pass(monkeypatch):
    check(monkeypatch, DECLARED, "# Parameters\nnimg = 7\ngamma = 1e300\nseeds = [4]\nflips = False\n")


def test_a_cell_with_other_statements_declares_nothing(monkeypatch):
    check(monkeypatch, DECLARED, "width: int = 'wide'\nprint(width)")


def test_rerunning_cells_in_any_order_does_not_matter(monkeypatch):
    check(
        monkeypatch, DECLARED, CHECK, "nimg = 'rebound'", "x = 1", DECLARED, "%%html\n<b>", CHECK, "(broken"
    )
    # A parameter added to the cell, and the cell run again.
    check(monkeypatch, DECLARED, CHECK, DECLARED + "\ncolor: str = 'red'", "# Parameters\ncolor = 'blue'")
    # A mistyped injection put right by hand.
    check(monkeypatch, DECLARED, "# Parameters\nnmig = 7", "# Parameters\nnimg = 7")
    with pytest.raises(UserError, match="'nmig', did you mean 'nimg'"):
        check(monkeypatch, "# Parameters\nnmig = 7", CHECK, DECLARED)


def test_a_declaration_of_another_type_is_refused(monkeypatch):
    with pytest.raises(UserError, match="parameter nimg='x' is str, expected int"):
        check(monkeypatch, "nimg: int = 'x'")


def test_without_the_parameters_cell_it_says_so(monkeypatch):
    with pytest.raises(UserError, match="run the notebook's parameters cell first"):
        check(monkeypatch, "x = 1")


def test_it_does_nothing_where_no_history_is_kept(monkeypatch):
    shell = Shell()
    shell.user_ns["In"] = [""]  # under nbval
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    notebook.check_parameters()


def test_it_does_nothing_in_a_plain_script():
    subprocess.run([sys.executable, "-c", CHECK], check=True)


def test_show_gives_the_notebook_a_png(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    from matplotlib.figure import Figure

    notebook.show(Figure((2, 1)))
    assert shown[0].data.startswith(b"\x89PNG")


def test_the_bar_is_seen_by_a_person_only(monkeypatch, capsys):
    for name in ("CI", "STYLENAT_QUIET", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert is_quiet()  # pytest's stderr is no terminal
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/train.ipynb")
    assert not is_quiet()
    assert list(progress(range(3), desc="shown")) == [0, 1, 2]
    assert "shown" in capsys.readouterr().err
    monkeypatch.setenv("CI", "true")
    assert is_quiet()
    assert list(progress(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("CI", "false")
    monkeypatch.setenv("STYLENAT_QUIET", "1")
    assert is_quiet()

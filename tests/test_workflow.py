"""The Snakefile: what runs, what goes on after an interruption, and what a changed preset makes run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import yaml
from helpers import ROOT

from stylenat.experiments.grid import load_grid
from stylenat.presets import get_config, run_id

pytestmark = pytest.mark.skipif(not find_spec("snakemake"), reason="pip install 'stylenat[pipeline]'")
PROFILE = str(ROOT / "workflow" / "profiles" / "slurm")
COSTS = yaml.safe_load((ROOT / "workflow" / "pipeline.yaml").read_text())["costs"]
# Stands for `stylenat`: notes its words, writes what the command would; a run whose name is in `fails` stops.
STUB = """
import json, pathlib, sys
words = sys.argv[1:]
with open("calls.txt", "a") as file:
    print(*words, file=file)
fails = pathlib.Path("fails")
if words[0] == "train" and fails.exists() and fails.read_text() in words:
    sys.exit(143)
if words[0] == "evaluate":
    path = pathlib.Path("results/runs", words[1], "result.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": json.loads(pathlib.Path("configs.json").read_text())[words[1]]}))
"""


def seeds(*numbers, **settings):
    return [{"preset": "smoke", "set": {"seed": number, **settings}} for number in numbers]


class Workspace:
    """A folder in which Snakemake runs, with the stub in place of the commands."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "stub.py").write_text(STUB)

    def plan(self, *runs, **options):
        configs = {}
        for run in runs:
            config = get_config(run["preset"], **run["set"])
            configs[run_id(config)] = config.to_dict()
        (self.folder / "configs.json").write_text(json.dumps(configs))
        entries = {"targets": {"tiny": {"runs": list(runs), **options}}, "costs": COSTS}
        entries["stylenat"] = f"{sys.executable} stub.py"
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(entries))
        return list(configs)

    def snakemake(self, *words, path=""):
        """Exit code and output, and the calls of the commands that it made."""
        calls = self.folder / "calls.txt"
        calls.unlink(missing_ok=True)
        done = snakemake(
            self.folder, "--configfile", "plan.yaml", "--replace-workflow-config", *words, path=path
        )
        made = calls.read_text().splitlines() if calls.exists() else []
        return done, made


def variables(folder, path=""):
    paths = os.pathsep.join(filter(None, [str(path), str(ROOT)]))
    return os.environ | {"STYLENAT_WORKSPACE": str(folder), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def command(*words):
    snakefile = str(ROOT / "workflow" / "Snakefile")
    return [sys.executable, "-m", "snakemake", "--snakefile", snakefile, *words]


def snakemake(folder, *words, path=""):
    done = subprocess.run(
        command(*words), cwd=folder, env=variables(folder, path), capture_output=True, text=True, check=False
    )
    done.output = done.stdout + done.stderr
    return done


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_a_grid_goes_on_where_it_stopped_and_only_what_changed_runs_again(workspace):
    first, second = workspace.plan(*seeds(1, 2))
    (workspace.folder / "fails").write_text("seed=2")
    done, calls = workspace.snakemake("--cores", "1", "tiny")
    assert done.returncode == 1 and sorted(calls) == [
        f"evaluate {first}", "train smoke --set seed=1", "train smoke --set seed=2",
    ]  # fmt: skip
    (workspace.folder / "fails").unlink()
    done, calls = workspace.snakemake("--cores", "1", "tiny")
    assert done.returncode == 0, done.output
    assert calls == ["train smoke --set seed=2", f"evaluate {second}", "tables", "figures"]
    (third, _) = workspace.plan(*seeds(1, r1_gamma=9.0), *seeds(2))
    done, calls = workspace.snakemake("--cores", "1", "tiny")
    assert calls == ["train smoke --set r1_gamma=9.0 seed=1", f"evaluate {third}", "tables", "figures"]
    done, calls = workspace.snakemake("--cores", "1", "tiny")
    assert calls == [] and "Nothing to be done" in done.output


def test_a_changed_preset_of_the_same_name_runs_again_with_what_depends_on_it(workspace):
    """`smoke` keeps its run id when presets.py changes it; the run of another preset stays."""
    runs = [{"preset": "smoke", "set": {}}, {"preset": "noto-32", "set": {}}]
    workspace.plan(*runs)
    assert workspace.snakemake("--cores", "1", "tiny")[0].returncode == 0
    patched = workspace.folder / "patched"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text(
        "import dataclasses\nfrom stylenat.presets import PRESETS\n"
        "PRESETS['smoke'] = dataclasses.replace(PRESETS['smoke'], r1_gamma=9.0)\n"
    )
    done, calls = workspace.snakemake("--cores", "1", "tiny", path=patched)
    assert done.returncode == 0, done.output
    assert calls == ["train smoke", "evaluate smoke", "tables", "figures"]


def test_a_record_of_another_machine_is_kept_and_one_to_be_made_again_is_made(workspace):
    (run,) = workspace.plan(*seeds(1))
    record = workspace.folder / "results" / "runs" / run / "result.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"config": get_config("smoke", seed=1).to_dict()}))
    content = record.read_text()
    _, calls = workspace.snakemake("--cores", "1", "tiny")
    assert calls == ["tables", "figures"] and record.read_text() == content
    workspace.plan(*seeds(1), again=True)
    _, calls = workspace.snakemake("--cores", "1", "tiny")
    assert calls[:2] == ["train smoke --set seed=1", f"evaluate {run} --replace"]
    (workspace.folder / "fails").write_text("seed=1")
    shutil.rmtree(workspace.folder / "runs" / run)
    done, calls = workspace.snakemake("--cores", "1", run, "tiny")
    assert done.returncode == 1 and record.is_file(), "what was recorded stays until it is replaced"


def test_the_papers_grid_prints_every_job_with_its_hours_and_their_source(tmp_path):
    done = snakemake(tmp_path, "-n", "paper")
    assert done.returncode == 0, done.output
    for cell in load_grid("ffhq-256").cells():
        assert f"train {cell.run_id}: 2,688.0 GPU-hours (as published, 14 days on 8 A100)" in done.output
        assert f"score {cell.run_id} of ffhq-256: 0.3 GPU-hours (30,000 images" in done.output
    assert (
        "train styleswin-256: 1,350.7 GPU-hours (as published, 14 days on 8 A100; times 1.005" in done.output
    )
    assert "paper: 63 of 63 runs are to be made, 170,1" in done.output


def test_a_cluster_would_get_the_same_jobs(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    done = snakemake(tmp_path, "-n", "--profile", PROFILE, "grid-smoke")
    assert done.returncode == 0, done.output
    assert done.output.count("train smoke-") == 2 and done.output.count("score smoke-") == 2


# A cluster of one machine: sbatch starts what it is given at once, sacct says how that ended.
SBATCH = r"""#!/bin/bash
exec 9>"$CLUSTER/lock"; flock 9
number=$(( $(ls "$CLUSTER" | grep -c '^job-') + 101 ))
for word in "$@"; do
  case "$word" in --wrap=*) printf '%s' "${word#--wrap=}" > "$CLUSTER/job-$number";; esac
done
echo "$@" >> "$CLUSTER/submitted"
( SLURM_JOB_ID=$number SLURM_JOBID=$number bash "$CLUSTER/job-$number" > "$CLUSTER/output-$number" 2>&1 \
  && echo "$number|COMPLETED" > "$CLUSTER/state-$number" || echo "$number|FAILED" > "$CLUSTER/state-$number"
) 9>&- < /dev/null > /dev/null 2>&1 &
echo $number
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
if [ $# = 0 ]; then exec bash; else exec "$@"; fi
"""
SACCT = """#!/bin/bash
cat "$CLUSTER"/state-* 2> /dev/null; true
"""


@pytest.mark.slow
def test_a_made_up_cluster_makes_a_target(workspace, monkeypatch):
    """Everything but Slurm itself: the profile's resources reach sbatch, and jobs run through the plugin."""
    pytest.importorskip("snakemake_executor_plugin_slurm")
    (run,) = workspace.plan(*seeds(1), gpus=8)
    cluster = workspace.folder / "cluster"
    cluster.mkdir()
    nothing = "#!/bin/sh\nexit 0\n"
    tools = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}
    for name in (*tools, "squeue", "sinfo", "scancel", "sacctmgr", "sshare", "scontrol"):
        (cluster / name).write_text(tools.get(name, nothing))
        (cluster / name).chmod(0o755)
    monkeypatch.setenv("CLUSTER", str(cluster))
    monkeypatch.setenv("PATH", f"{cluster}{os.pathsep}{os.environ['PATH']}")
    place = ["slurm_account=ours", "slurm_partition=gpus"]
    words = ["--profile", PROFILE, "--default-resources", *place, "runtime=720", "mem_mb=32000"]
    done, calls = workspace.snakemake(*words, "--slurm-init-seconds-before-status-checks", "2", "--", "tiny")
    assert done.returncode == 0, done.output
    assert calls == ["train smoke --set seed=1", f"evaluate {run}", "tables", "figures"]
    training, scoring = (cluster / "submitted").read_text().splitlines()
    for option in ("-t 1440", "--mem 128000", "--gpus=8", "-A ours", "-p gpus"):
        assert option in training
    for option in ("-t 720", "--mem 32000", "--gpus=1"):
        assert option in scoring


@pytest.mark.slow
def test_a_real_grid_interrupted_and_continued(tmp_path):
    """SIGINT to Snakemake and all it started, as Ctrl-C sends it; the same command again goes on."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    words = command("--cores", "2", "grid-smoke")
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            words, cwd=tmp_path, env=variables(tmp_path), stdout=output, stderr=output, start_new_session=True
        )
        states = []
        while process.poll() is None and not states:
            states = list((tmp_path / "runs").glob("smoke-*/state/*"))
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() != 0
    assert "stopped and saved at nimg=" in (tmp_path / "output").read_text()
    done = snakemake(tmp_path, "--cores", "2", "grid-smoke")
    assert done.returncode == 0, done.output
    for cell in load_grid("smoke").cells():
        lines = (tmp_path / "runs" / cell.run_id / "log.jsonl").read_text().splitlines()
        shown = [json.loads(line)["nimg"] for line in lines]
        assert shown == sorted(set(shown)) and shown[-1] == 320
        assert (tmp_path / "results" / "ablation" / "smoke" / f"{cell.run_id}.json").is_file()
    executed = tmp_path / "runs" / "pipeline" / "grid-smoke"
    assert sorted(path.name for path in executed.iterdir()) == ["figures", "tables", "tables.ipynb"]
    assert "Nothing to be done" in snakemake(tmp_path, "--cores", "2", "grid-smoke").output

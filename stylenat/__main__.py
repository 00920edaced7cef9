"""The command line: `python -m stylenat train | evaluate | data check | presets | tables | figures`."""

import argparse
import sys

from stylenat.checkpoint import Run
from stylenat.data import check
from stylenat.errors import UserError
from stylenat.experiment import score_run
from stylenat.figures import build_figures
from stylenat.presets import PRESETS, get_config, parse_overrides
from stylenat.records import load_runs
from stylenat.results import update_readme
from stylenat.training import train


def _train(arguments):
    config = get_config(arguments.preset, **parse_overrides(arguments.set))
    print(f"{config.run_id}: {config.cost}")
    run = train(config, arguments.out, arguments.device)
    print(f"trained to nimg={run.snapshots()[-1]}: {run.path}")


def _evaluate(arguments):
    record = score_run(Run.open(arguments.run, arguments.out), arguments.device)
    for key, entry in record["score"]["values"].items():
        print(f"{key}: {entry['value']:.4g} (floor {entry['floor']:.4g}, ceiling {entry['ceiling']:.4g})")
    print(record["score"]["protocol"]["note"])


def _check(arguments):
    print(check(arguments.path, arguments.resolution))


def _presets(_):
    for config in PRESETS.values():
        print(f"{config.preset:<14} {config.cost}")


def _tables(_):
    update_readme()
    print(f"tables of {len(load_runs())} runs: results/tables/ and README.md")


def _figures(_):
    for path in build_figures():
        print(path.relative_to(path.parents[1]))


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # on one line, as any other mistake
        self.exit(2, f"stylenat: {message}; `{self.prog} --help` tells more\n")


def _parser():
    parser = _Parser(prog="stylenat", description="Train, score and tabulate StyleNAT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, told, group=commands):
        sub = group.add_parser(name, help=told, description=told)
        sub.set_defaults(command=run)
        return sub

    for name, run, told in (
        ("train", _train, "train a preset; the same command again resumes it"),
        ("evaluate", _evaluate, "score every snapshot of a run and record it under results/runs"),
    ):
        sub = command(name, run, told)
        sub.add_argument("--out", metavar="DIR", help="folder of the runs (default: runs/)")
        sub.add_argument("--device", help="cpu, cuda, cuda:1 … (default: the GPU where there is one)")
        if name == "train":
            sub.add_argument("preset", help=", ".join(PRESETS))
            sub.add_argument(
                "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides of it"
            )
        else:
            sub.add_argument("run", help="a run's id, such as noto-32, or its folder")
    data = command("data", None, "look at a dataset").add_subparsers(required=True, metavar="COMMAND")
    sub = command("check", _check, "tell what is in a folder or zip of images", data)
    sub.add_argument("path", help="folder, zip, or noto-faces")
    sub.add_argument("--resolution", type=int, help="check that every image serves this many pixels")
    command("presets", _presets, "list the presets and what they cost")
    command("tables", _tables, "rebuild results/tables and the README's table from the records")
    command("figures", _figures, "rebuild figures/ from results/")
    return parser


def main(argv=None):
    """Run one command; a mistake, or what the system refuses, is one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except UserError as error:
        print(f"stylenat: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, missing rights
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        print(f"stylenat: {told}; mend that and give the same command again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stylenat: interrupted; the same command goes on from the last snapshot", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

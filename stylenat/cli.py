"""The command line: `python -m stylenat train | evaluate | sample | convert | …`."""

import argparse
import dataclasses
import json
import math
import re
import sys
import warnings
from pathlib import Path

import torch

from stylenat.benchmark.throughput import PROTOCOLS, describe, measure, table, to_csv
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import load_generator
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.samples import open_images
from stylenat.config import parse_overrides
from stylenat.data.check import check
from stylenat.data.sources import BUNDLED
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate, open_reference
from stylenat.evaluation.metrics import METRICS, OFFLINE
from stylenat.experiments.record import score_run
from stylenat.features.networks import NETWORKS
from stylenat.figures.build import build_figures
from stylenat.images import image_grid, save_gif, save_png
from stylenat.models.build import build_generator
from stylenat.paths import write_atomically
from stylenat.presets import PRESETS, get_config, run_id
from stylenat.progress import progress
from stylenat.reporting.records import load_records
from stylenat.reporting.tables import update_readme
from stylenat.sampling.sample import interpolate, sample_images
from stylenat.training.loop import train


def _train(arguments):
    config = get_config(arguments.preset, **parse_overrides(arguments.set))
    print(f"{run_id(config)}: {config.cost}")
    run = train(config, arguments.out, arguments.device, score_every=arguments.score_every)
    print(f"trained to nimg={run.snapshots()[-1]}: {run.path}")


def _evaluate(arguments):
    networks, more = _networks(arguments), []
    if arguments.data:
        scored = open_images(arguments.source, pick_device(arguments.device))
        score = evaluate(
            scored,
            open_reference(arguments.data, scored.resolution),
            arguments.metric or OFFLINE,
            seed=arguments.seed,
            truncation_psi=arguments.psi,
            count=arguments.count,
            networks=networks,
        )
    else:
        run = _run_to_score(arguments)
        record = score_run(
            run, arguments.device, metrics=arguments.metric or (), count=arguments.count, networks=networks
        )
        score, more = record.score, [record.memorization]
    print(score, *more, sep="\n")
    if arguments.json:
        write_atomically(Path(arguments.json), json.dumps(score.to_dict(), indent=1) + "\n")


def _run_to_score(arguments):
    source = arguments.source
    try:
        run = Run.open(source, arguments.out)
    except UserError:
        if not Path(source).expanduser().exists():
            raise
        raise UserError(f"{source} is no run: give the real images, such as --data {BUNDLED}") from None
    if (arguments.seed, arguments.psi) != (0, 1):
        raise UserError(
            f"runs are recorded at seed 0 and psi 1, not {arguments.seed} and {arguments.psi:g}: give --data "
            "to score without a record"
        )
    return run


def _networks(arguments):
    """The feature networks, those with a file of weights as the arguments tell."""
    told = {"path": arguments.weights, "sha256": arguments.sha256, "download": arguments.download}
    return {
        key: network.with_weights(**told) if network.file else network for key, network in NETWORKS.items()
    }


def _seeds(text):
    """`"0-3,8"` → `[0, 1, 2, 3, 8]`."""
    seeds = []
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if last < first or last >= 2**63:
            raise UserError(f"seeds {text!r}: write numbers and ranges with commas between, such as 0-15,42")
        seeds += range(first, last + 1)
    return seeds


def _sample(arguments):
    seeds, folder = _seeds(arguments.seeds), Path(arguments.out)
    if not math.isfinite(arguments.psi):
        raise UserError(f"psi {arguments.psi} is no number: give one, such as 0.7; 1 truncates nothing")
    generator = load_generator(arguments.checkpoint, arguments.partitions).to(pick_device(arguments.device))
    frames = None
    if arguments.gif is not None:
        frames = interpolate(generator, seeds, arguments.gif, truncation_psi=arguments.psi)
    images = []
    for seed in progress(seeds, unit="image"):
        images.append(sample_images(generator, [seed], truncation_psi=arguments.psi))
        save_png(folder / f"seed{seed:04d}.png", images[-1][0])
    columns = math.ceil(len(seeds) ** 0.5)
    save_png(folder / "grid.png", image_grid(torch.cat(images), columns))
    if frames is not None:
        save_gif(folder / "interpolation.gif", frames, scale=max(1, 256 // generator.resolution))
    print(f"{len(seeds)} images and their grid: {folder}")


def _convert(arguments):
    path = convert(
        arguments.source, arguments.target, partitions=arguments.partitions, compact=arguments.compact
    )
    print(f"converted: {path}")


def _check(arguments):
    print(check(arguments.path, arguments.resolution))


def _throughput(arguments):
    batches = arguments.batches and _batches(arguments.batches)
    changes = {"batches": batches, "rounds": arguments.rounds, "dtype": arguments.dtype}
    changes = {name: value for name, value in changes.items() if value is not None}
    protocol = dataclasses.replace(PROTOCOLS[arguments.protocol], **changes)
    rows = measure(build_generator(arguments.preset), protocol, arguments.preset, arguments.device)
    print(table(rows).to_string(index=False), describe(rows[0]), sep="\n")
    if arguments.csv:
        write_atomically(Path(arguments.csv), to_csv(rows))


def _batches(text):
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(f"batches {text!r}: write numbers with commas between, such as 1,4,16") from None


def _presets(_):
    for config in PRESETS.values():
        print(f"{config.preset:<14} {config.cost}")


def _tables(_):
    update_readme()
    print(f"tables of {len(load_records())} runs: results/tables/ and README.md")


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

    runs = "folder of the runs (default: runs/)"
    device = "cpu, cuda, cuda:1 … (default: the GPU where there is one)"
    partitions = "levels from 8 on, such as 16x7@1/8x7@1,8x7@2, of a file that stores no dilations"
    sub = command("train", _train, "train a preset; the same command again resumes it")
    sub.add_argument("preset", help=", ".join(PRESETS))
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides")
    sub.add_argument(
        "--score-every", type=int, default=0, metavar="N", help="score each N images, keep the best"
    )
    sub.add_argument("--out", metavar="DIR", help=runs)
    sub.add_argument("--device", help=device)
    sub = command(
        "evaluate", _evaluate, "score every snapshot of a run and record it; or score anything else"
    )
    sub.add_argument("source", help="a run alone; with --data any checkpoint, or a folder or zip of samples")
    sub.add_argument("--data", metavar="PATH", help="real images, or clean-fid's statistics (.npz)")
    sub.add_argument("--metric", metavar="NAMES", help=f"{','.join(METRICS)} (default: {','.join(OFFLINE)})")
    sub.add_argument("--count", type=int, help="generated images (default: 50,000; or all in the folder)")
    sub.add_argument("--seed", type=int, default=0, help="of the generated images (default: 0)")
    sub.add_argument("--psi", type=float, default=1.0, help="truncation (default: 1, none)")
    sub.add_argument("--json", metavar="FILE", help="write the score and its protocol")
    sub.add_argument("--weights", metavar="PATH", help="the metric's network, or its folder")
    sub.add_argument("--sha256", help="of weights that are not the standard ones")
    sub.add_argument("--download", action="store_true", help="fetch missing weights")
    sub.add_argument("--out", metavar="DIR", help=runs)
    sub.add_argument("--device", help=device)
    sub = command("sample", _sample, "write images of a checkpoint, and their grid")
    sub.add_argument("checkpoint", help="a published .pt, a model folder, a .safetensors file, or a run")
    sub.add_argument("--seeds", default="0-15", help="such as 0-15,42 (default: %(default)s)")
    sub.add_argument("--psi", type=float, default=1.0, help="truncation (default: 1, none)")
    sub.add_argument("--out", default="samples", metavar="DIR", help="folder (default: %(default)s)")
    sub.add_argument("--gif", type=int, metavar="FRAMES", help="interpolate, so many frames a seed")
    sub.add_argument("--device", help=device)
    sub.add_argument("--partitions", help=partitions)
    sub = command("convert", _convert, "make a model folder of a checkpoint, or a published .pt of a model")
    sub.add_argument("source", help="as the checkpoint of sample")
    sub.add_argument("target", help="a new folder, or a name that ends in .pt")
    sub.add_argument("--compact", action="store_true", help="the averaged generator alone, in float16")
    sub.add_argument("--partitions", help=partitions)
    data = command("data", None, "look at a dataset").add_subparsers(required=True, metavar="COMMAND")
    sub = command("check", _check, "tell what is in a folder or zip of images", data)
    sub.add_argument("path", help="folder, zip, or noto-faces")
    sub.add_argument("--resolution", type=int, help="check that every image serves this many pixels")
    sub = command("throughput", _throughput, "time a preset's generator, next to this machine's matmul time")
    sub.add_argument("preset", help=", ".join(PRESETS))
    sub.add_argument(
        "--protocol", choices=PROTOCOLS, default="ours", help="paper: batch 1, 500 rounds after 10, TF32"
    )
    sub.add_argument("--batches", metavar="N,N", help="(default: of the protocol)")
    sub.add_argument("--rounds", type=int, help="calls a batch size (default: of the protocol)")
    sub.add_argument("--dtype", help="float32 or bfloat16, which is autocast (default: float32)")
    sub.add_argument("--csv", metavar="FILE", help="write the rows with all that is known of them")
    sub.add_argument("--device", help=device)
    command("presets", _presets, "list the presets and what they cost")
    command("tables", _tables, "rebuild results/tables and the README's table from the records")
    command("figures", _figures, "rebuild figures/ from results/")
    return parser


def main(argv=None):
    """Run one command; a mistake, or what the system refuses, is one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
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

"""The command line: `stylenat train | evaluate | sample | convert | …`, also as `python -m stylenat`.

Each command imports the modules that do its work when it runs. They bring torch along, which takes seconds to
load, and `--help` should answer at once.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from stylenat.config import parse_overrides
from stylenat.errors import Stopped, UserError, check_number, one_line
from stylenat.paths import check_writable, expand, find_path, to_json, workspace, write_atomically
from stylenat.presets import PRESETS, get_config, run_id
from stylenat.progress import progress

if TYPE_CHECKING:
    from stylenat.checkpoints.run import Run
    from stylenat.evaluation.metrics import Score
    from stylenat.features.networks import FeatureNetwork

# Names of modules that import torch, repeated for the help; a test compares them.
METRIC_NAMES = (
    "fd-lite0", "kid-lite0", "pr-lite0", "fid", "kid", "pr", "fid-clean", "kid-clean", "fd-dinov2",
)  # fmt: skip
OFFLINE_NAMES = ("fd-lite0", "kid-lite0")
PROTOCOL_NAMES = ("paper", "ours")
DTYPE_NAMES = ("float32", "bfloat16", "float16", "auto")
LARGEST_SCORE_SEED = 2**63 // 10**6 - 1  # a score's images begin at seed N · 10⁶
MOST_SEEDS = 10**6  # of one call of `sample`
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it, see `distributed`


class _Command(click.Command):
    """A command whose options that may be repeated also take several values at once: `--set a=1 b=2`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the command's name into `ctx.params`.

        Raises:
            UsageError: an unknown option, a missing value, an argument too few or too many.
        """
        options = [param for param in self.params if isinstance(param, click.Option)]
        with_value = [option.opts[0] for option in options if not option.is_flag]
        repeatable = [option.opts[0] for option in options if option.multiple]
        try:
            _check_values(args, with_value)
            rest = super().parse_args(ctx, _repeat_options(args, repeatable))
            self._check_empty(ctx)
            return rest
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click leaves it out where a value is missing
            raise

    def _check_empty(self, ctx: click.Context) -> None:
        """Refuse empty words: what a shell makes of a variable that is not set would count as not given."""
        for param in self.params:
            value = ctx.params[param.name] if param.name else None
            if "" in (value if isinstance(value, tuple) else (value,)):
                raise click.BadParameter("it is empty, give a value", ctx, param)


class _Group(click.Group):
    """Commands in the order of this file."""

    command_class = _Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order in which the commands were defined."""
        return list(self.commands)


_CHECKPOINT = "A published .pt, a model folder, a .safetensors file, or a run."
_preset_argument = click.argument("preset", help=", ".join(PRESETS))
_runs_option = click.option("--out", metavar="DIR", help="Folder of the runs.", show_default="runs/")
_device_option = click.option(
    "--device", help="cpu, cuda, cuda:1 …", show_default="the GPU where there is one"
)
_psi_option = click.option(
    "--psi", type=float, default=1.0, show_default=True, help="Truncation; 1 truncates nothing."
)
_dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPE_NAMES),
    default="float32",
    show_default=True,
    help="Of large products; float16 on a GPU; auto: bfloat16 where there are instructions for it.",
)
_partitions_option = click.option(
    "--partitions",
    help="Levels from 8 on, such as 16x7@1/8x7@1,8x7@2, of a file that stores no dilations.",
)


@click.group(cls=_Group, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stylenat", message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Train, score and tabulate StyleNAT."""
    if context.invoked_subcommand != "train" and LAUNCHED in os.environ and os.environ["WORLD_SIZE"] != "1":
        raise UserError(f"{context.invoked_subcommand} is for one process: run it without torchrun")


@commands.command("train")
@_preset_argument
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE...",
    help="Override fields of the preset, such as seed=1 nimg=80000.",
)
@click.option(
    "--score-every",
    type=int,
    default=0,
    metavar="N",
    help="Score every N images and keep the best generator.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPE_NAMES),
    help="The setting dtype; auto: bfloat16 where there are instructions for it.",
    show_default="bfloat16 on a GPU, float32 on a CPU",
)
@click.option(
    "--from",
    "start",
    type=int,
    metavar="NIMG",
    help="Go on from an older snapshot and remove those after it.",
)
@_runs_option
@_device_option
def train_command(
    preset: str,
    settings: tuple[str, ...],
    score_every: int,
    dtype: str | None,
    start: int | None,
    out: str | None,
    device: str | None,
) -> None:
    """Train a preset; the same command again resumes it."""
    from stylenat.training.loop import go_back, train

    _check_range("score-every", score_every, 0)
    _check_range("from", start, 1)
    given = () if dtype is None else (f"dtype={dtype}",)
    overrides = parse_overrides((*settings, *given))
    config = get_config(preset, **overrides | _picked_dtype(overrides, device))
    if _is_first():
        print(f"{run_id(config)}: {config.cost}")
        if start is not None:
            go_back(config, start, out, device)
    run = train(config, out, device, score_every=score_every)
    if _is_first():
        print(f"trained to nimg={run.last_snapshot()}: {run.path}")


@commands.command("evaluate")
@click.argument("source", help="A run; with --data, any checkpoint or a folder or zip of samples.")
@click.option("--data", metavar="PATH", help="Real images, or clean-fid's statistics (.npz).")
@click.option(
    "--metric", metavar="NAMES", help=f"{', '.join(METRIC_NAMES)}.", show_default=",".join(OFFLINE_NAMES)
)
@click.option(
    "--count",
    type=int,
    help="Number of generated images.",
    show_default="50,000, or all in the folder",
)
@click.option("--seed", type=int, default=0, show_default=True, help="First seed of the generated images.")
@_psi_option
@_dtype_option
@click.option("--json", "json_path", metavar="FILE", help="Write the score and its protocol here.")
@click.option("--weights", metavar="PATH", help="The metric's network, or the folder that holds it.")
@click.option("--sha256", help="Hash of weights that are not the standard ones.")
@click.option("--download", is_flag=True, help="Download missing weights.")
@click.option("--replace", is_flag=True, help="Replace the record of another training of this run.")
@_runs_option
@_device_option
def evaluate_command(
    source: str,
    data: str | None,
    metric: str | None,
    count: int | None,
    seed: int,
    psi: float,
    dtype: str,
    json_path: str | None,
    weights: str | None,
    sha256: str | None,
    download: bool,
    replace: bool,
    out: str | None,
    device: str | None,
) -> None:
    """Score and record a run, or score other images.

    Without --data, every snapshot of the run is scored and its record written under results/runs/. With
    --data, the images or the checkpoint are scored against those real images, and nothing is recorded.
    """
    from stylenat.checkpoints.samples import check_held_out, open_images
    from stylenat.device import pick_device
    from stylenat.evaluation.evaluate import evaluate, open_reference
    from stylenat.evaluation.metrics import OFFLINE, parse_metrics
    from stylenat.experiments.record import score_run

    _check_range("count", count, 1)
    check_number("psi", psi)
    _check_range("seed", seed, 0, LARGEST_SCORE_SEED)
    metrics = parse_metrics(metric or OFFLINE)
    if json_path:
        check_writable(expand(json_path))
    networks = _feature_networks(weights, sha256, download)
    if data:
        scored = open_images(source, pick_device(device), dtype)
        reference = open_reference(data, scored.resolution)
        check_held_out(source, reference, metrics)
        score: Score | None = evaluate(
            scored,
            reference,
            metrics,
            seed=seed,
            truncation_psi=psi,
            count=count,
            networks=networks,
        )
        print(score)
    else:
        run = _open_run_to_record(source, out, seed, psi, dtype)
        record = score_run(run, device, metrics=metrics, count=count, networks=networks, replace=replace)
        score = record.score
        print(score, record.memorization, sep="\n")
    if json_path and score:
        write_atomically(expand(json_path), to_json(score.to_dict(), indent=1) + "\n")


@commands.command("sample")
@click.argument("checkpoint", help=_CHECKPOINT)
@click.option("--seeds", default="0-15", show_default=True, help="Such as 0-15,42.")
@_psi_option
@click.option("--out", default="samples", show_default=True, metavar="DIR", help="Folder of the images.")
@click.option(
    "--gif",
    type=int,
    metavar="FRAMES",
    help="Also interpolate, with this many frames per seed.",
)
@_dtype_option
@_device_option
@_partitions_option
def sample_command(
    checkpoint: str,
    seeds: str,
    psi: float,
    out: str,
    gif: int | None,
    dtype: str,
    device: str | None,
    partitions: str | None,
) -> None:
    """Write images of a checkpoint, and their grid.

    The folder can be scored as it is: datasets leave out the grid and the interpolation, and one that holds
    images of other seeds already is refused.
    """
    import torch

    from stylenat.checkpoints.load import load_generator
    from stylenat.checkpoints.lock import check_free, hold
    from stylenat.data.sources import SHEETS
    from stylenat.device import pick_device, pick_precision
    from stylenat.images import image_grid, save_gif, save_png
    from stylenat.models.precision import cast
    from stylenat.sampling.folder import remove_samples, sample_paths
    from stylenat.sampling.sample import interpolate, sample_images

    numbers = _parse_seeds(seeds)
    folder = expand(out)
    paths = sample_paths(folder, numbers)
    check_number("psi", psi)
    check_free(folder)
    check_writable(folder / SHEETS[0])
    place = pick_device(device)
    precision = pick_precision(dtype, place)
    generator = cast(load_generator(checkpoint, partitions).to(place), precision.name)
    frames = None
    if gif is not None:
        frames = interpolate(generator, numbers, gif, truncation_psi=psi)
    images: list[torch.Tensor] = []
    with hold(folder):
        paths = sample_paths(folder, numbers)  # again: others may have written meanwhile
        for seed, path in zip(progress(numbers, unit="image"), paths, strict=True):
            image = sample_images(generator, [seed], truncation_psi=psi)
            if not images:
                remove_samples(paths)  # not before there is an image to take their place
            images.append(image)
            save_png(path, images[-1][0])
        columns = math.ceil(len(numbers) ** 0.5)
        grid, interpolation = SHEETS
        save_png(folder / grid, image_grid(torch.cat(images), columns))
        if frames is not None:
            save_gif(folder / interpolation, frames, scale=max(1, 256 // generator.resolution))
    print(f"{len(numbers)} images and their grid, in {precision}: {folder}")


@commands.command("convert")
@click.argument("source", help=_CHECKPOINT)
@click.argument("target", help="A new folder, or a name that ends in .pt.")
@click.option("--compact", is_flag=True, help="Keep the averaged generator alone, in float16.")
@_partitions_option
def convert_command(source: str, target: str, compact: bool, partitions: str | None) -> None:
    """Write a checkpoint as a model folder, or as a published .pt."""
    from stylenat.checkpoints.convert import convert

    path = convert(source, target, partitions=partitions, compact=compact)
    print(f"converted: {path}")


@commands.group("data", no_args_is_help=False)
def data_commands() -> None:
    """Look at a dataset."""


@data_commands.command("check")
@click.argument("path", help="A folder, a zip, or a built-in set such as noto-faces.")
@click.option("--resolution", type=int, help="Check that every image is this many pixels wide and high.")
def check_command(path: str, resolution: int | None) -> None:
    """Report what is in a folder or zip of images."""
    from stylenat.data.check import check

    print(check(path, resolution))


@commands.command("throughput")
@_preset_argument
@click.option(
    "--protocol",
    "protocol_name",
    type=click.Choice(PROTOCOL_NAMES),
    default="ours",
    show_default=True,
    help="paper: batch 1, 500 rounds after 10, TF32.",
)
@click.option("--batches", metavar="N,N", help="Batch sizes.", show_default="of the protocol")
@click.option("--rounds", type=int, help="Timed calls per batch size.", show_default="of the protocol")
@_dtype_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all columns of the rows here.")
@_device_option
def throughput_command(
    preset: str,
    protocol_name: str,
    batches: str | None,
    rounds: int | None,
    dtype: str,
    csv_path: str | None,
    device: str | None,
) -> None:
    """Time a preset's generator, next to this machine's matmul time."""
    from stylenat.benchmark.throughput import describe, get_protocol, measure, table, to_csv
    from stylenat.models.build import build_generator

    protocol = get_protocol(protocol_name, **_protocol_changes(batches, rounds, dtype))
    if csv_path:
        check_writable(expand(csv_path))
    rows = measure(build_generator(preset), protocol, preset, device)
    print(table(rows).to_string(index=False), describe(rows[0]), sep="\n")
    if csv_path:
        write_atomically(expand(csv_path), to_csv(rows))


@commands.command("compare")
@click.argument("presets", nargs=-1)
@click.option("--batches", metavar="N,N", help="Batch sizes.", show_default="1,2")
@click.option("--rounds", type=int, help="Calls of each generator at each batch size.", show_default="5")
@_dtype_option
@click.option("--record", is_flag=True, help="Keep it in results/generators.json, for tables and figures.")
@_device_option
def compare_command(
    presets: tuple[str, ...],
    batches: str | None,
    rounds: int | None,
    dtype: str,
    record: bool,
    device: str | None,
) -> None:
    """Time generators side by side, each once a round; without presets, those of the paper."""
    from stylenat.benchmark.compare import INTERLEAVED, compare
    from stylenat.reporting.generators import comparison_text
    from stylenat.reporting.paper import PublishedNumbers, published_numbers
    from stylenat.reporting.rates import read_comparisons, record_comparison

    protocol = dataclasses.replace(INTERLEAVED, **_protocol_changes(batches, rounds, dtype))
    is_clone = workspace("results", "paper.csv").is_file()
    numbers = published_numbers() if is_clone else PublishedNumbers()
    if record:
        if presets:
            raise UserError(f"--record keeps the paper's generators: leave out {' '.join(presets)}")
        read_comparisons()  # what is damaged shows before hours of timing
        check_writable(workspace("results", "generators.json"))
    found = compare(presets, protocol, device)
    print(comparison_text([found], numbers))
    if record:
        record_comparison(found)


@commands.command("ablation")
@click.argument("grid", help="Such as avatars-32, of docs/ablation.md, or generators-32.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Runs at once, of one thread each.")
@click.option("--run", metavar="RUN", help="A single run of it, by its run id.")
@click.option("--costs", is_flag=True, help="Measure what each variant costs instead.")
@_device_option
def ablation_command(grid: str, jobs: int, run: str | None, costs: bool, device: str | None) -> None:
    """Run what is missing of a grid of the ablation; the same command again goes on."""
    from stylenat.benchmark.costs import measure_costs
    from stylenat.experiments.grid import load_grid
    from stylenat.experiments.report import COSTS
    from stylenat.experiments.runs import run_grid, run_one
    from stylenat.experiments.scoring import grid_folder

    plan = load_grid(grid)
    if run and costs:
        raise UserError("run and costs: give one of them; costs are measured of a grid's arms")
    if run:
        print(run_one(plan.find(run), device))
        return
    if not costs:
        run_grid(plan, jobs, device)
        return
    first = {variant.name: plan.cell(variant.name).config for variant in plan.variants}
    table = measure_costs(first, device)
    print(table.to_string(index=False))
    write_atomically(grid_folder(grid) / COSTS, table.to_csv(index=False, lineterminator="\n"))


@commands.command("doctor")
@click.option("--json", "json_path", metavar="FILE", help="Write all of it here, for a bug report.")
@_device_option
def doctor_command(json_path: str | None, device: str | None) -> None:
    """Say what this machine has, and check what it computes.

    Exits with 1 where something is wrong. What is missing or left out is not: it is optional, or can't be
    checked here.
    """
    from stylenat.doctor.examine import examine

    if json_path:
        check_writable(expand(json_path))
    report = examine(device, lambda verdict: print(verdict, flush=True))
    print(report.summary())
    if json_path:
        write_atomically(expand(json_path), report.to_json())
    if report.wrong:
        raise click.exceptions.Exit(1)


@commands.command("presets")
def presets_command() -> None:
    """List the presets and what they cost."""
    for config in PRESETS.values():
        print(f"{config.preset:<14} {config.cost}")


@commands.command("tables")
def tables_command() -> None:
    """Rebuild results/tables and README's tables from the records."""
    from stylenat.experiments.pages import page_blocks, update_pages
    from stylenat.reporting.records import load_records
    from stylenat.reporting.tables import update_readme

    pages = page_blocks()  # what is damaged shows before anything is written
    update_readme()
    update_pages(pages)
    print(f"tables of {len(load_records())} runs: results/tables/ and README.md")


@commands.command("figures")
def figures_command() -> None:
    """Rebuild figures/ from results/."""
    from stylenat.experiments.pages import draw_experiment_figures
    from stylenat.figures.build import draw_figures
    from stylenat.figures.style import save_all

    for path in save_all({**draw_figures(), **draw_experiment_figures()}):
        print(path.relative_to(path.parents[1]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; default: those of this process.

    Returns:
        The exit code: 0; 1 where `doctor` finds something wrong; 2 after a mistake or an error of the system,
        which is one line on stderr; 130 after Ctrl-C and 143 after SIGTERM, with one line that says how to go
        on.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # ± on a terminal of ASCII, or a file's name that is no UTF-8, is written as \xb1
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings(), _terminable():
            warnings.showwarning = _print_warning
            # Not `commands.main()`: that takes an EOFError for Ctrl-C.
            with commands.make_context("stylenat", words) as context:
                commands.invoke(context)
    except click.exceptions.Exit as stop:  # --help and --version
        return stop.exit_code
    except click.UsageError as error:
        return _refuse(_describe_usage_error(error))
    except UserError as error:
        return _refuse(str(error))
    except OSError as error:  # a full disk, missing rights
        return _refuse(f"{_describe_os_error(error)}; fix that and run the same command again")
    except KeyboardInterrupt as stop:
        known = stop if isinstance(stop, Stopped) else Stopped(f"interrupted; {_GO_ON}")
        return _end(str(known), 128 + known.number)
    except Exception:
        if _speaks():
            raise
        return 1
    return 0


_GO_ON = "run the same command again; a training goes on from its last snapshot"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is half written is removed."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(f"terminated; {_GO_ON}", number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# What goes to stderr


def _refuse(message: str) -> int:
    """Print a mistake as one line and return its exit code, 2."""
    return _end(one_line(message), 2)


def _end(message: str, code: int) -> int:
    """Print why a command ends, of several processes one alone, and return its exit code."""
    if _speaks():
        print(f"stylenat: {message}", file=sys.stderr, flush=True)
    return code


def _speaks() -> bool:
    """Whether it is for this process to say why a command ends."""
    if LAUNCHED not in os.environ:
        return True
    from stylenat.distributed import speaks_first

    return speaks_first()


def _is_first() -> bool:
    """Whether this process prints what all of them would: of those that torchrun started the first."""
    return LAUNCHED not in os.environ or os.environ["RANK"] == "0"


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the place in the code; stands in for `warnings.showwarning`."""
    if not _is_first():
        return
    print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _describe_usage_error(error: click.UsageError) -> str:
    """What is wrong with the words of a command line, and where the right ones are listed."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    separator = "" if message.endswith("?") else ";"  # Did you mean …?
    program = error.ctx.command_path if error.ctx else "stylenat"
    return f"{message}{separator} `{program} --help` shows more"


def _describe_os_error(error: OSError) -> str:
    """The file and what the system says of it, where both are known."""
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


# What the words of a command line mean


def _check_values(words: Sequence[str], with_value: Collection[str]) -> None:
    """Refuse an option that the next option follows where its value belongs, as in `--out --device cpu`.

    Args:
        words: of the command line.
        with_value: the options that take a value.

    Raises:
        BadOptionUsage: names the option.
    """
    for word, following in itertools.pairwise(words):
        if word in with_value and following.startswith("--"):
            raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.")


def _repeat_options(words: Sequence[str], repeatable: Collection[str]) -> list[str]:
    """Give every value its own option: `--set a=1 b=2` → `--set a=1 --set b=2`.

    Args:
        words: of the command line.
        repeatable: options that take one value or more: the next word, and those with a '=' up to the next
            option.

    Returns:
        The same words, with options added.
    """
    expanded: list[str] = []
    option = None  # whose values are being read
    for word in words:
        if word.startswith("-"):
            option = word if word in repeatable else None
        elif option and expanded[-1] != option and "=" in word:  # not the first value
            expanded.append(option)
        expanded.append(word)
    return expanded


def _parse_seeds(text: str) -> list[int]:
    """The seeds that are meant: `"0-3,8"` → `[0, 1, 2, 3, 8]`.

    Raises:
        UserError: the text is not made of numbers and rising ranges, a seed is 2⁶³ or more, or there are too
            many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?", part, re.ASCII)
        first = int(bounds[1]) if bounds else 0
        last = int(bounds[2] or bounds[1]) if bounds else -1
        if last < first or last >= 2**63:
            raise UserError(
                f"seeds {text!r}: write numbers below 2**63 and ranges with commas between, such as 0-15,42"
            )
        if last - first >= MOST_SEEDS - len(seeds):
            raise UserError(f"seeds {text!r} are more than {MOST_SEEDS:,}: give fewer in one call")
        seeds += range(first, last + 1)
    return seeds


def _check_range(name: str, value: int | None, least: int, most: int = 2**63 - 1) -> None:
    """Refuse an option's value that is out of its range.

    Args:
        name: of the option.
        value: as given; None: it was not.
        least: that is allowed.
        most: that is allowed.

    Raises:
        UserError: it is below or above.
    """
    if value is not None and not least <= value <= most:
        raise UserError(f"{name} {value} is out of range: give a whole number from {least} to {most}")


def _protocol_changes(batches: str | None, rounds: int | None, dtype: str | None) -> dict[str, Any]:
    """What options change of a protocol of throughput; those not given, nothing.

    Raises:
        UserError: as of `_parse_batches`.
    """
    given = {"batches": _parse_batches(batches) if batches else None, "rounds": rounds, "dtype": dtype}
    return {name: value for name, value in given.items() if value is not None}


def _parse_batches(text: str) -> tuple[int, ...]:
    """The batch sizes that are meant: `"1,4,16"` → `(1, 4, 16)`.

    Raises:
        UserError: the text is not made of whole numbers.
    """
    if not re.fullmatch(r"\s*-?\d{1,18}\s*(,\s*-?\d{1,18}\s*)*", text, re.ASCII):
        raise UserError(f"batches {text!r}: write numbers with commas between, such as 1,4,16")
    return tuple(map(int, text.split(",")))


def _picked_dtype(overrides: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """What the setting dtype is where it is "auto", for a run's type is part of what it is.

    Args:
        overrides: of `train`.
        device: to train on.
    """
    if overrides.get("dtype") != "auto":
        return {}
    from stylenat.device import pick_device, pick_precision

    precision = pick_precision("auto", pick_device(device))
    print(f"dtype auto: {precision}")
    return {"dtype": precision.name}


# What `evaluate` needs


def _open_run_to_record(source: str, runs: str | None, seed: int, psi: float, dtype: str) -> "Run":
    """The run that `evaluate` scores and records, where no real images are given.

    Args:
        source: the run's id or path.
        runs: folder of the runs; default: `runs/`.
        seed: as given; records are made with 0 alone.
        psi: as given; records are made with 1 alone.
        dtype: as given; records are made in float32 alone.

    Raises:
        UserError: there is no such run, or the setting is not that of records.
    """
    from stylenat.checkpoints.run import Run
    from stylenat.data.sources import BUNDLED

    try:
        run = Run.open(source, runs)
    except UserError:
        if not find_path(source).exists():
            raise
        raise UserError(f"{source} is no run: give the real images, such as --data {BUNDLED}") from None
    if (seed, psi) != (0, 1):
        raise UserError(
            f"runs are recorded at seed 0 and psi 1, not {seed} and {psi:g}: give --data "
            "to score without a record"
        )
    if dtype != "float32":
        raise UserError(f"runs are recorded in float32, not {dtype}: give --data to score without a record")
    return run


def _feature_networks(
    weights: str | None, sha256: str | None, download: bool
) -> Mapping[str, "FeatureNetwork"]:
    """The feature networks by name, with these weights where a network's weights are a file.

    Args:
        weights: the file or its folder; default: the usual places.
        sha256: hash of weights that are not the standard ones.
        download: whether missing weights are downloaded.
    """
    from stylenat.features.networks import NETWORKS

    networks = {}
    for name, network in NETWORKS.items():
        if network.file:
            networks[name] = network.with_weights(weights, sha256=sha256, download=download)
        else:
            networks[name] = network
    return networks

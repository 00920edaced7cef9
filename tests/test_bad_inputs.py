"""Bad inputs, a row each: refused in one line that names value and fix, within bounds, without a trace.

A row is a command line or a call. It runs in a folder of its own, which is the workspace, too; `make` puts
files there first. What holds of every one is in `test_a_bad_input`.
"""

import functools
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import ROOT, Painter, make_record
from hostile_files import (
    GIGABYTE,
    MARKER,
    TINY,
    broken_record,
    changed,
    changed_config,
    changed_info,
    compression_99,
    cut,
    declare_size,
    deep_stream,
    edit,
    hostile_pickle,
    huge_file,
    laughs,
    noise,
    noise_jpeg,
    npy,
    payload,
    pickled,
    png,
    png_bomb,
    png_chunk,
    png_head,
    put,
    set_flag,
    take,
    tensor_entry,
    torch_zip,
    two_of_one_name,
    write,
    write_bomb,
    write_images,
    write_model,
    write_npz,
    write_pt,
    write_results,
    write_run,
    write_safetensors,
    write_torch_zip,
    write_zip,
    zeros,
)
from PIL import Image

from stylenat import notebook
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    ShiftedWindows,
    dilated_levels,
    parse_partitions,
    published_partitions,
    split_heads,
)
from stylenat.benchmark.throughput import PROTOCOLS
from stylenat.checkpoints.load import load_discriminator, load_generator
from stylenat.cli import main
from stylenat.config import Config
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from stylenat.evaluation.evaluate import evaluate, nearest_training_images, open_reference
from stylenat.evaluation.intervals import intervals
from stylenat.evaluation.memorization import memorization
from stylenat.experiments.grid import load_grid
from stylenat.features.networks import NETWORKS
from stylenat.figures.attention import attention_figure
from stylenat.figures.results import receptive_fields
from stylenat.figures.samples import interpolation_strip, mixing_grid, sample_grid, truncation_sweep
from stylenat.images import image_grid, save_gif, save_png
from stylenat.models.build import build_discriminator, build_generator
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import StyleNAT
from stylenat.presets import get_config
from stylenat.reporting.records import write_record
from stylenat.sampling.attention_maps import attention_maps
from stylenat.sampling.projection import project
from stylenat.sampling.sample import interpolate, mix_styles, sample_images, slerp

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
MOST_SECONDS = 5  # of the processor
MOST_WAITING = 30  # seconds by the clock, on a machine with other work
MOST_MEMORY = 256 * 2**20  # bytes in main memory beyond those before
MOST_ADDRESSES = 4 * GIGABYTE  # bytes of address space beyond those before
LONGEST_LINE = 1500  # characters


@dataclass(frozen=True)
class BadInput:
    """A row of the table.

    Attributes:
        id: its name.
        run: a command line, as text or in words, or a call.
        parts: of the line that it ends with.
        make: puts files into the current folder.
        skip: why it can't be tried here; empty: it can.
    """

    id: str
    run: str | list[str] | Callable[[], object]
    parts: tuple[str, ...]
    make: Callable[[], object] = lambda: None
    skip: str = ""


def settings(*rows):
    """Rows of `train smoke --set …`."""
    return [
        BadInput(f"set-{name}", ["train", "smoke", "--set", *texts], parts) for name, texts, parts in rows
    ]


def of_partitions(*rows):
    """Rows of a preset's partitions."""
    return [
        BadInput(f"partitions-{name}", ["train", "smoke", "--set", f"partitions={text}"], parts)
        for name, text, parts in rows
    ]


def in_folder(*rows):
    """Rows of files in a folder `images`, which the check of a dataset refuses."""
    found = []
    for name, make, parts in rows:
        skip = "root may read anything" if name == "no-rights" and AS_ROOT else ""
        found.append(BadInput(f"image-{name}", "data check images", parts, make, skip))
    return found


def in_zip(*rows):
    """Rows of `set.zip`."""
    return [BadInput(f"zip-{name}", "data check set.zip", parts, make) for name, make, parts in rows]


def checkpoints(*rows, name="bad.pt", prefix="pt"):
    """Rows of a checkpoint that is sampled."""
    return [
        BadInput(f"{prefix}-{row}", f"sample {name} --seeds 0 --out out", parts, make)
        for row, make, parts in rows
    ]


def statistics(*rows):
    """Rows of `real.npz`, which images are compared with."""
    return [
        BadInput(
            f"npz-{name}",
            "evaluate images --data real.npz --metric fid",
            parts,
            lambda make=make: (write_images(count=20), make()),
        )
        for name, make, parts in rows
    ]


def parameters(*rows):
    """Rows of notebooks' parameters."""
    found = []
    for name, declared, injected, parts in rows:
        found.append(BadInput(f"notebook-{name}", partial(check_parameters, declared, injected), parts))
    return found


def calls(prefix, *rows):
    """Rows of public functions."""
    return [BadInput(f"{prefix}-{name}", call, parts) for name, call, parts in rows]


def check_parameters(declared, injected):
    """What a notebook's second cell does after these cells."""

    shell = SimpleNamespace(user_ns={"In": ["", declared, f"# Parameters\n{injected}\n"]})
    with patch.object(notebook, "get_ipython", lambda: shell):
        notebook.check_parameters()


# Settings

SETTINGS = settings(
    ("unknown", ["sed=1"], ("'sed'", "did you mean 'seed'?")),
    ("unknown-far", ["qqq=1"], ("unknown override 'qqq'", "There are data, resolution")),
    ("no-equals", ["seed"], ("'seed' has no '='", "write name=value")),
    ("no-name", ["=5"], ("unknown override ''", "There are data")),
    ("empty", [""], ("--set", "empty")),
    ("empty-value", ["seed="], ("seed=''", "expected int, such as 0")),
    ("text-for-int", ["seed=one"], ("seed='one' is str", "expected int")),
    ("float-for-int", ["nimg=1e3"], ("nimg=1000.0 is float", "expected int")),
    ("bool-for-int", ["nimg=True"], ("nimg=True is bool", "expected int")),
    ("bool-for-float", ["r1_gamma=False"], ("r1_gamma=False is bool", "expected float")),
    ("int-for-bool", ["compile=1"], ("compile=1 is int", "expected bool")),
    ("text-for-bool", ["compile=yes"], ("compile='yes' is str", "expected bool")),
    ("text-for-float", ["r1_gamma=weak"], ("r1_gamma='weak' is str", "expected float")),
    ("list-for-int", ["seed=[1]"], ("seed=[1] is list", "expected int")),
    ("dict-for-int", ["seed={1:2}"], ("seed={1: 2} is dict", "expected int")),
    ("int-for-tuple", ["widths=8"], ("widths=8 is int", "expected tuple")),
    ("int-for-text", ["data=5"], ("data=5 is int", "expected str")),
    ("none", ["data=None"], ("data=None", "expected str")),
    ("unicode-digits", ["seed=١"], ("seed='١' is str", "expected int")),
    ("superscript", ["seed=2²"], ("seed='2²' is str", "expected int")),
    ("zero", ["nimg=0"], ("nimg=0", "above 0")),
    ("negative", ["batch_size=-4"], ("batch_size=-4", "above 0, at most")),
    ("huge-count", [f"nimg={10**30}"], ("nimg=10000", "below 2**63")),
    ("huge-batch", ["batch_size=4000000000"], ("batch_size=4000000000", "at most 65536")),
    ("5000-digits", [f"nimg=1{'0' * 5000}"], ("nimg=", "expected int")),
    ("huge-int-for-float", [f"r1_gamma={10**400}"], ("r1_gamma=1000", "too large")),
    ("seed-negative", ["seed=-1"], ("seed=-1", "from 0 to 2**63 - 1")),
    ("seed-2-64", [f"seed={2**64}"], ("seed=18446744073709551616", "from 0 to 2**63 - 1")),
    ("beta", ["adam_beta2=1"], ("adam_beta2=1.0", "from 0 to below 1")),
    ("share", ["decay_start=1.5"], ("decay_start=1.5", "from 0 to 1")),
    ("twice", ["seed=1", "seed=2"], ("seed is set twice", "1 and '2'", "set it once")),
    ("nested", ["seed=" + "-" * 5000 + "1"], ("seed=", "expected int")),
    ("parentheses", ["seed=" + "(" * 5000], ("seed=", "expected int")),
    ("long-text", ["preset=" + "x" * 100_000], ("unknown override 'preset'",)),
    ("long-name", ["x" * 100_000 + "=1"], ("unknown override 'xxx", "There are data")),
    ("widths-of-text", ["widths=('8','8','8','8')"], ("widths=('8', '8', '8', '8')", "whole numbers")),
    ("widths-of-bools", ["widths=(True,8,8,8)"], ("widths=(True, 8, 8, 8)", "whole numbers")),
    ("widths-nested", ["widths=[[8],[8],[8],[8]]"], ("widths=([8], [8], [8], [8])", "whole numbers")),
    ("widths-none", ["widths=()"], ("0 widths", "resolution=32")),
    ("widths-of-a-million", ["widths=(1000000,1000000,1000000,1000000)"], ("widths", "take")),
    ("latent-of-a-million", ["latent_dim=1000000"], ("latent_dim=1000000", "take")),
    ("mapping-of-a-million", ["mapping_depth=1000000"], ("mapping_depth=1000000", "take")),
    ("discriminator-of-a-million", ["discriminator_widths=(1000000,8,8)"], ("discriminator_widths", "take")),
    ("width-7", ["widths=(8,7,8,8)"], ("widths=(8, 7, 8, 8)", "multiples of 4")),
    ("resolution-33", ["resolution=33"], ("32 pixels", "resolution=33")),
    ("levels-mixed", ["checkpoint_levels=(4,'a')"], ("checkpoint_levels", "'a'", "take of 4, 8")),
    ("levels-nested", ["checkpoint_levels=([4],)"], ("checkpoint_levels", "[4]", "take of 4, 8")),
    ("levels-other", ["checkpoint_levels=(5,)"], ("checkpoint_levels=5", "take of 4, 8")),
    ("accumulate", ["accumulate=3"], ("accumulate=3", "batch_size=16")),
    ("no-data", ["data="], ("data=''", "must be a folder, a zip")),
    (
        "data-climbs",
        ["data=../../../../nowhere"],
        ("'../../../../nowhere' not found", "give a folder or zip"),
    ),
)

PARTITIONS = of_partitions(
    ("no-dilation", "2x3", ("'2x3'", "heads x kernel @ dilation")),
    ("negative", "-1x3@1", ("'-1x3@1'", "heads x kernel @ dilation")),
    ("no-heads", "0x3@1/2x3@1/2x3@1", ("heads 0", "at least 1")),
    ("dilation-0", "2x3@0/2x3@1/2x3@1", ("dilation 0", "at least 1")),
    ("even", "2x4@1/2x3@1/2x3@1", ("kernel_size 4 is even", "give 3 or 5")),
    ("kernel-1", "2x1@1/2x3@1/2x3@1", ("kernel_size 1", "at least 3")),
    ("huge-heads", f"{10**12}x3@1/2x3@1/2x3@1", ("'1000000000000x3@1'", "heads x kernel @ dilation")),
    ("5000-digits", f"2x3@{'9' * 5000}/2x3@1/2x3@1", ("partitions '2x3@999", "heads x kernel @ dilation")),
    ("empty-level", "2x3@1//2x3@1", ("''", "heads x kernel @ dilation")),
    ("commas", ",", ("','", "heads x kernel @ dilation")),
    ("unicode-digits", "٢x3@1/2x3@1/2x3@1", ("'٢x3@1'", "heads x kernel @ dilation")),
    ("other-sum", "3x3@1/2x3@1/2x3@1", ("level 8 hold 3 heads", "expected 2")),
    (
        "over-the-image",
        "2x3@1/2x3@1/2x3@11",
        ("level 32", "k*d=33 tokens, over n=32", "take d of at most 10"),
    ),
    ("kernel-over-the-image", "2x9@1/2x3@1/2x3@1", ("level 8", "k=9", "smaller kernel")),
    ("levels", "2x3@1/" * 10_000 + "2x3@1", ("10001 levels", "expected 3")),
    ("not-text", "(1,2,3,4)", ("partitions", "1", "give")),
    ("tuple-of-text", "('2x3@1',)*4", ("partitions", "heads x kernel @ dilation")),
    ("windows-odd", "2x3@1/2xswin3/2x3@1", ("window_size 3", "even int")),
)

SEEDS = [
    BadInput(f"seeds-{name}", ["sample", "model", "--seeds", text, "--out", "out"], parts, write_model)
    for name, text, parts in (
        ("text", "one", ("'one'", "write numbers")),
        ("negative", "-1", ("'-1'", "write numbers")),
        ("float", "1.5", ("'1.5'", "write numbers")),
        ("2-64", str(2**64), ("18446744073709551616", "below 2**63")),
        ("falling", "5-3", ("'5-3'", "write numbers")),
        ("commas", ",,", ("',,'", "write numbers")),
        ("empty", "", ("--seeds", "empty")),
        ("a-billion", "0-1000000000", ("'0-1000000000'", "more than 1,000,000", "give fewer")),
        ("twice", "3,1-4", ("seed 3 is given twice", "give it once")),
        ("unicode-digits", "٣", ("'٣'", "write numbers")),
        ("5000-digits", "9" * 5000, ("seeds '999", "below 2**63")),
        ("many-ranges", ",".join(["0-999999"] * 3000), ("seeds '0-99", "more than 1,000,000")),
    )
]

WORDS = [
    BadInput("command-unknown", "trane smoke", ("'trane'", "Did you mean 'train'?")),
    BadInput("command-none", [], ("Missing command", "--help")),
    BadInput("option-unknown", "train smoke --sett seed=1", ("'--sett'", "Did you mean '--set'?")),
    BadInput("option-without-value", "sample model --out", ("'--out'", "requires an argument")),
    BadInput("preset-unknown", "train smoky", ("'smoky'", "did you mean 'smoke'?")),
    BadInput("preset-climbs", "train ../../etc/passwd", ("'../../etc/passwd'", "There are smoke")),
    BadInput("preset-empty", ["train", ""], ("PRESET", "empty")),
    BadInput("preset-long", ["train", "x" * 100_000], ("unknown preset 'xxx", "There are smoke")),
    BadInput("run-unknown", "evaluate noto-23", ("'noto-23' not found", "train it first")),
    BadInput("run-climbs", "evaluate ../../etc", ("'../../etc' not found", "train it first")),
    BadInput("run-empty", ["evaluate", ""], ("SOURCE", "empty")),
    BadInput("run-long", ["evaluate", "x" * 5000], ("'xxx", "too long; give another")),
    BadInput("run-null", ["evaluate", "a\0b"], ("'a\\x00b' not found",)),
    BadInput("run-is-images", "evaluate images", ("images is no run", "--data noto-faces"), write_images),
    BadInput("score-every-negative", "train smoke --score-every -1", ("score-every -1", "from 0")),
    BadInput("score-every-text", "train smoke --score-every often", ("'often'", "integer")),
    BadInput("device-unknown", "train smoke --device banana", ("'banana'", "take cpu")),
    BadInput("device-99", "train smoke --device cuda:99", ("'cuda:99'", "take cpu")),
    BadInput("device-empty", ["train", "smoke", "--device", ""], ("--device", "empty")),
    BadInput("device-long", ["train", "smoke", "--device", "x" * 100_000], ("device 'xxx", "take cpu")),
    BadInput(
        "metric-unknown",
        "evaluate images --data noto-faces --metric fidd",
        ("'fidd'", "did you mean 'fid'?"),
        write_images,
    ),
    BadInput(
        "metric-empty",
        ["evaluate", "images", "--data", "noto-faces", "--metric", ""],
        ("--metric", "empty"),
        write_images,
    ),
    BadInput(
        "metric-commas",
        "evaluate images --data noto-faces --metric ,",
        ("unknown metric ''", "There are fd-lite0"),
        write_images,
    ),
    BadInput("count-0", "evaluate images --data noto-faces --count 0", ("count 0", "from 1")),
    BadInput("count-huge", f"evaluate images --data noto-faces --count {10**30}", ("count 1000", "from 1")),
    BadInput("score-seed-negative", "evaluate images --data noto-faces --seed -1", ("seed -1", "from 0")),
    BadInput("json-empty", ["evaluate", "images", "--data", "noto-faces", "--json", ""], ("--json", "empty")),
    BadInput(
        "sha256-no-hash",
        "evaluate images --data images --metric fid --sha256 xyz",
        ("'xyz'", "64 hexadecimal"),
        lambda: write_images(count=20),
    ),
    BadInput("psi-text", "sample model --psi strong", ("'strong'", "float"), write_model),
    BadInput("gif-0", "sample model --gif 0", ("0 frames", "one frame or more"), write_model),
    BadInput("gif-a-billion", "sample model --gif 1000000000", ("1000000000 frames", "give"), write_model),
    BadInput("gif-of-one-seed", "sample model --seeds 1 --gif 4", ("1 seeds", "two seeds"), write_model),
    BadInput(
        "out-is-a-file",
        "sample model --seeds 0 --out out/x",
        ("out", "directory"),
        lambda: (write_model(), write("out")),
    ),
    BadInput("out-empty", ["sample", "model", "--out", ""], ("--out", "empty"), write_model),
    BadInput(
        "out-long", ["sample", "model", "--seeds", "0", "--out", "x" * 300], ("too long", "fix"), write_model
    ),
    BadInput("out-of-nobody", "sample model --out ~nobody-here/x", ("~nobody-here", "in full"), write_model),
    BadInput("checkpoint-none", "sample nowhere.pt", ("'nowhere.pt' not found", "give a published .pt")),
    BadInput("checkpoint-null", ["sample", "a\0b"], ("'a\\x00b'", "give another")),
    BadInput("checkpoint-long", ["sample", "x" * 5000], ("'xxx", "too long; give another")),
    BadInput(
        "convert-over-text",
        "convert model notes",
        ("notes exists", "give a new one"),
        lambda: (write_model(), write("notes/thesis.txt")),
    ),
    BadInput(
        "convert-partitions",
        "convert model new --partitions 2x3@1",
        ("describe 1 levels", "give one for each of 8"),
        write_model,
    ),
    BadInput(
        "convert-partitions-empty",
        ["convert", "model", "new", "--partitions", ""],
        ("--partitions", "empty"),
        write_model,
    ),
    BadInput("resolution-float", "data check noto-faces --resolution 2.5", ("'2.5'", "integer")),
    BadInput("resolution-0", "data check noto-faces --resolution 0", ("resolution 0", "whole number")),
    BadInput(
        "resolution-huge", f"data check images --resolution {10**30}", ("smaller", "at most 32"), write_images
    ),
    BadInput("protocol-unknown", "throughput smoke --protocol papper", ("'papper'", "'paper', 'ours'")),
    BadInput("batches-text", "throughput smoke --batches 1,two", ("'1,two'", "write numbers")),
    BadInput(
        "batches-huge", f"throughput smoke --batches {10**14}", (f"batches=({10**14},)", "at most 65,536")
    ),
    BadInput(
        "batches-5000-digits", ["throughput", "smoke", "--batches", "9" * 5000], ("batches '999", "write")
    ),
    BadInput("batches-unicode", "throughput smoke --batches ١", ("'١'", "write numbers")),
    BadInput("rounds-huge", f"throughput smoke --rounds {10**400}", ("rounds=1000", "at most 65,536")),
    BadInput("dtype", "throughput smoke --dtype float8", ("'float8'", "'float32', 'bfloat16', 'float16'")),
    BadInput("csv-empty", ["throughput", "smoke", "--csv", ""], ("--csv", "empty")),
    BadInput("compare-unknown", "compare smoke smkoe", ("'smkoe'", "did you mean 'smoke'")),
    BadInput("compare-twice", "compare smoke smoke", ("'smoke'", "name it once")),
    BadInput("compare-record", "compare smoke --record", ("--record", "leave out smoke")),
    BadInput("compare-half", "compare smoke --dtype float16 --device cpu", ("'float16'", "take float32")),
    BadInput("compare-rounds", f"compare smoke --rounds {10**400}", ("rounds=1000", "at most 65,536")),
]

# Datasets

ZIPS = in_zip(
    ("slip", lambda: write_zip("set.zip", [("../x.png", png())]), ("'../x.png'", "leads out", "pack")),
    ("slip-inside", lambda: write_zip("set.zip", [("a/../../x.png", png())]), ("leads out", "pack")),
    ("bomb", lambda: write_bomb("set.zip", "x.png"), ("x.png", "replace or remove")),
    (
        "bomb-in-an-image",
        lambda: write_bomb(
            "set.zip", "x.png", png_head(32, 32) + png_chunk(b"tEXt", b"", length=2**31 - 1)[:8]
        ),
        ("x.png", "replace or remove"),
    ),
    ("bomb-after-an-image", lambda: write_bomb("set.zip", "x.png", png()), ("x.png", "replace or remove")),
    (
        "says-more",
        lambda: (write_zip("set.zip", [("x.png", png())]), declare_size("set.zip", 2**31)),
        ("x.png", "replace or remove"),
    ),
    (
        "says-less",
        lambda: (write_zip("set.zip", [("x.png", png())]), declare_size("set.zip", 40)),
        ("x.png", "replace or remove"),
    ),
    (
        "encrypted",
        lambda: (write_zip("set.zip", [("x.png", png())]), set_flag("set.zip", 1)),
        ("x.png", "encrypted"),
    ),
    (
        "nested",
        lambda: (
            write_zip("in.zip", [("x.png", png())]),
            write_zip("set.zip", [("in.zip", Path("in.zip").read_bytes())]),
        ),
        ("in.zip", "no image format"),
    ),
    (
        "20000-members",
        lambda: write_zip("set.zip", [(f"{i}.png", b"") for i in range(20_000)]),
        ("20000 of 20000 files", "0.png", "replace or remove"),
    ),
    ("no-members", lambda: write_zip("set.zip", []), ("'set.zip' is empty", "put images there")),
    ("folders-alone", lambda: write_zip("set.zip", [("a/", b""), ("a/b/", b"")]), ("is empty", "put images")),
    (
        "system-files-alone",
        lambda: write_zip("set.zip", [(".x.png", b""), ("__MACOSX/x.png", b"")]),
        ("is empty", "put images"),
    ),
    ("truncated", lambda: (write_zip("set.zip", [("x.png", png())]), cut("set.zip")), ("set.zip", "zip")),
    (
        "crc",
        lambda: (
            write_zip("set.zip", [("x.png", png())], zipfile.ZIP_STORED),
            edit("set.zip", png(), png()[:-1] + b"x"),
        ),
        ("x.png", "CRC", "replace or remove"),
    ),
    ("same-name-twice", lambda: two_of_one_name("set.zip"), ("'x.png'", "one name", "pack")),
    (
        "unknown-compression",
        lambda: (write_zip("set.zip", [("x.png", png())]), compression_99("set.zip")),
        ("x.png", "replace or remove"),
    ),
    ("zero-bytes", lambda: write("set.zip"), ("set.zip is neither", "give a folder or zip")),
    ("text", lambda: write("set.zip", "hello"), ("set.zip is neither", "give a folder or zip")),
    (
        "list-damaged",
        lambda: (write_zip("set.zip", [("x.png", png())]), edit("set.zip", b"PK\1\2", b"PK\1\x09")),
        ("set.zip", "damaged", "pack"),
    ),
    ("fifo", lambda: os.mkfifo("set.zip"), ("set.zip is neither", "give a folder or zip")),
    (
        "device",
        lambda: Path("set.zip").symlink_to("/dev/zero"),
        ("set.zip is neither", "give a folder or zip"),
    ),
)


IMAGES = in_folder(
    (
        "bomb",
        lambda: write("images/x.png", png_bomb(60_000, 60_000)),
        ("x.png", "DecompressionBomb", "remove"),
    ),
    (
        "text-bomb",
        lambda: write(
            "images/x.png", png_head(32, 32) + png_chunk(b"zTXt", b"a\0\0" + zeros(64)) + png()[33:]
        ),
        ("x.png", "replace or remove"),
    ),
    ("zero-bytes", lambda: write("images/x.png"), ("x.png", "no image format", "replace or remove")),
    (
        "svg",
        lambda: write("images/x.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("x.svg", "no image"),
    ),
    ("text", lambda: write("images/x.png", "hello"), ("x.png", "no image format", "replace or remove")),
    (
        "postscript",
        lambda: write(
            "images/x.eps",
            f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n({MARKER}) (w) file closefile\nshowpage\n",
        ),
        ("x.eps", "no image format", "replace or remove"),
    ),
    (
        "cut-png",
        lambda: (write("images/x.png", noise()), cut("images/x.png")),
        ("x.png", "replace or remove"),
    ),
    ("cut-jpeg", lambda: (noise_jpeg("images/x.jpg"), cut("images/x.jpg")), ("x.jpg", "truncated", "remove")),
    ("no-pixels", lambda: write("images/x.png", png_head(0, 0)), ("x.png", "replace or remove")),
    (
        "32-bit",
        lambda: (write("images/y"), Image.new("F", (32, 32)).save("images/x.tiff")),
        ("x.tiff", "32 bits"),
    ),
    ("fifo", lambda: (write_images(), os.mkfifo("images/x.png")), ("x.png", "a pipe or a device")),
    (
        "broken-link",
        lambda: (write_images(), Path("images/x.png").symlink_to("gone")),
        ("x.png", "No such file"),
    ),
    (
        "link-to-a-device",
        lambda: (write_images(), Path("images/x.png").symlink_to("/dev/zero")),
        ("x.png", "a pipe or a device"),
    ),
    ("empty-folder", lambda: Path("images").mkdir(), ("'images' is empty", "put images there")),
    ("folder-called-png", lambda: Path("images/x.png").mkdir(parents=True), ("is empty", "put images there")),
    (
        "of-4-gb",
        lambda: huge_file("images/x.png", png()),
        ("x.png", "4,294,967,296 bytes", "replace or remove"),
    ),
    ("no-rights", lambda: (write_images(), Path("images/0.png").chmod(0)), ("0.png", "Permission")),
)


SETS = [
    BadInput("data-none", "data check nowhere", ("'nowhere' not found", "give a folder or zip")),
    BadInput("data-empty", ["data", "check", ""], ("PATH", "empty")),
    BadInput(
        "data-text",
        "data check x.txt",
        ("x.txt is neither", "give a folder or zip"),
        lambda: write("x.txt", "x"),
    ),
    BadInput("data-null", ["data", "check", "a\0b"], ("'a\\x00b'", "give another")),
    BadInput("data-long", ["data", "check", "x" * 5000], ("'xxx", "too long; give another")),
    BadInput(
        "data-1x1",
        "train smoke --set data=images",
        ("0.png is 1x1", "at most 1"),
        lambda: write("images/0.png", png(1)),
    ),
    BadInput(
        "samples-not-square",
        "evaluate images --data noto-faces",
        ("0.png", "32x16", "square"),
        lambda: write("images/0.png", png(32, 16)),
    ),
    BadInput(
        "samples-of-two-sizes",
        "evaluate images --data noto-faces",
        ("9.png", "16x16", "move it"),
        lambda: (write_images(), write("images/9.png", png(16))),
    ),
    BadInput(
        "samples-of-another-size",
        "evaluate images --data noto-faces",
        ("noto-faces", "not at 16"),
        lambda: write("images/0.png", png(16)),
    ),
    BadInput(
        "samples-too-few",
        "evaluate images --data noto-faces",
        ("images has 3 images", "give more"),
        write_images,
    ),
    BadInput(
        "real-too-few", "evaluate images --data images", ("3 images", "give 5 images or more"), write_images
    ),
]

# Checkpoints


CHECKPOINTS = checkpoints(
    (
        "random",
        lambda: write("bad.pt", np.random.default_rng(0).bytes(10_000)),
        ("bad.pt", "nothing was run"),
    ),
    ("zero-bytes", lambda: write("bad.pt"), ("bad.pt", "get it again")),
    ("html", lambda: write("bad.pt", "<html>404</html>"), ("bad.pt", "get it again")),
    ("cut", lambda: (write_pt(), cut("bad.pt")), ("bad.pt", "get it again")),
    *[(f"pickle-{n}", partial(hostile_pickle, n), ("bad.pt", "nothing was run")) for n in range(6)],
    (
        "torch-zip-that-calls",
        lambda: write_torch_zip("bad.pt", pickled({"g_ema": {}, "args": payload()})),
        ("bad.pt asks for", "nothing was run"),
    ),
    (
        "old-format-that-calls",
        lambda: torch.save({"g_ema": {}, "args": payload()}, "bad.pt", _use_new_zipfile_serialization=False),
        ("bad.pt", "nothing was run"),
    ),
    (
        "terabytes-of-storage",
        lambda: torch_zip((2**40,), (1,), storage_size=2**40),
        ("bad.pt", "get it again"),
    ),
    ("terabytes-of-shape", lambda: torch_zip((2**20, 2**20), (2**20, 1)), ("bad.pt", "get it again")),
    (
        "terabytes-of-strides",
        lambda: torch_zip((2**20, 2**20), (0, 0)),
        ("bad.pt", "input.input", "more than"),
    ),
    ("beyond-its-storage", lambda: torch_zip((4,), (1000,)), ("bad.pt", "get it again")),
    ("offset-beyond", lambda: torch_zip((4,), (1,), offset=2**40), ("bad.pt", "get it again")),
    ("numel-overflow", lambda: torch_zip((2**40, 2**40), (1, 1)), ("bad.pt", "get it again")),
    ("shape-negative", lambda: torch_zip((-4,), (1,)), ("bad.pt", "get it again")),
    (
        "one-storage-many-times",
        lambda: write_pt(tensors={f"t{i}": SHARED for i in range(10_000)}),
        ("bad.pt", "more than"),
    ),
    (
        "sparse",
        lambda: write_pt(
            tensors=changed(
                "g_ema",
                input__input=torch.zeros(1, 8, 4, 4).to_sparse(),
            )
        ),
        ("bad.pt", "input.input", "plain tensor"),
    ),
    (
        "of-integers",
        lambda: write_pt(tensors=changed("g_ema", input__input=torch.ones(1, 8, 4, 4).long())),
        ("input.input", "int64"),
    ),
    (
        "on-meta",
        lambda: write_pt(tensors=changed("g_ema", input__input=torch.ones(1, 8, 4, 4, device="meta"))),
        ("bad.pt", "input.input", "plain tensor"),
    ),
    (
        "complex",
        lambda: write_pt(tensors=changed("g_ema", input__input=torch.ones(1, 8, 4, 4) * 1j)),
        ("input.input", "complex64"),
    ),
    (
        "inflating",
        lambda: write_bomb("bad.pt", "archive/data.pkl", b"\x80\x02B" + (2**31 - 32).to_bytes(4, "little")),
        ("bad.pt", "compressed"),
    ),
    ("deep", lambda: write_torch_zip("bad.pt", deep_stream(50_000)), ("bad.pt", "nested")),
    (
        "laughs",
        lambda: write_torch_zip("bad.pt", pickled({"g_ema": {"a": torch.nn.Parameter}, "args": laughs()})),
        ("bad.pt",),
    ),
    ("laughs-of-settings", lambda: write_pt(args=laughs()), ("bad.pt", "settings")),
    ("list", lambda: torch.save([1], "bad.pt"), ("bad.pt holds list", "expected a dict")),
    ("no-network", lambda: torch.save({"model": {}}, "bad.pt"), ("none of g_ema", "'model'")),
    ("numbers", lambda: write_pt(tensors={"a": 1}), ("g_ema", "more than tensors")),
    ("keys-no-text", lambda: write_pt(tensors={1: torch.zeros(1)}), ("bad.pt", "name 1")),
    ("no-tensors", lambda: write_pt(tensors={}), ("g_ema is no generator",)),
    ("missing", lambda: write_pt(tensors=changed("g_ema", input__input=None)), ("lacks 1", "input.input")),
    ("extra", lambda: write_pt(tensors=changed("g_ema", more=torch.zeros(1))), ("left over 1", "more")),
    (
        "misshapen",
        lambda: write_pt(tensors=changed("g_ema", input__input=torch.zeros(1, 8, 4, 5))),
        ("other shapes 1", "(1, 8, 4, 5)", "(1, 8, 4, 4)"),
    ),
    (
        "scalar-weight",
        lambda: write_pt(tensors=changed("g_ema", style__1__weight=torch.zeros(()))),
        ("bad.pt", "style.1.weight"),
    ),
    (
        "scalar-table",
        lambda: write_pt(tensors=changed("g_ema", **{"layers__0__blocks__0__attn__rpb": torch.zeros(())})),
        ("bad.pt", "layers.0.blocks.0.attn.rpb"),
    ),
    (
        "level-a-billion",
        lambda: write_pt(tensors=changed("g_ema", layers__1000000000__x=torch.zeros(1))),
        ("bad.pt", "left over 1", "layers.1000000000.x"),
    ),
    (
        "level-of-5000-digits",
        lambda: write_pt(tensors=changed("g_ema", **{f"layers__{'9' * 5000}__x": torch.zeros(1)})),
        ("bad.pt", "left over 1", "layers.999"),
    ),
    (
        "dilations-of-text",
        lambda: write_pt(args={"dilations": ["a", "b", "c", "d"]}),
        ("bad.pt", "partitions"),
    ),
    ("fifo", lambda: os.mkfifo("bad.pt"), ("'bad.pt' not found", "give")),
)

SHARED = torch.zeros(2**18)


SAFETENSORS = checkpoints(
    (
        "length-2-60",
        lambda: write_safetensors("bad.safetensors", {}, length=2**60),
        ("bad.safetensors", "get it again"),
    ),
    ("no-json", lambda: write_safetensors("bad.safetensors", "{{{{"), ("bad.safetensors", "get it again")),
    ("json-list", lambda: write_safetensors("bad.safetensors", "[]"), ("bad.safetensors", "get it again")),
    (
        "json-deep",
        lambda: write_safetensors("bad.safetensors", "[" * 100_000),
        ("bad.safetensors", "get it again"),
    ),
    (
        "outside",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry(offsets=(0, 2**50))}),
        ("bad.safetensors", "get it again"),
    ),
    (
        "overlap",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry(), "b": tensor_entry()}),
        ("bad.safetensors", "get it again"),
    ),
    (
        "backwards",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry(offsets=(16, 0))}),
        ("bad.safetensors", "get it again"),
    ),
    (
        "dtype",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry("F1000")}),
        ("bad.safetensors", "F1000"),
    ),
    (
        "shape-negative",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry(shape=(-4,))}),
        ("bad.safetensors", "get it again"),
    ),
    (
        "shape-too-large",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry(shape=(2**62, 2**62))}),
        ("bad.safetensors", "get it again"),
    ),
    (
        "key-twice",
        lambda: write_safetensors(
            "bad.safetensors",
            '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        ),
        ("bad.safetensors",),
    ),
    ("zero-bytes", lambda: write("bad.safetensors"), ("bad.safetensors", "get it again")),
    (
        "other-tensors",
        lambda: write_safetensors("bad.safetensors", {"a": tensor_entry()}),
        ("bad.safetensors", "is no generator"),
    ),
    name="bad.safetensors",
    prefix="safetensors",
)

MODELS = checkpoints(
    ("zero-bytes", lambda: (write_model(), write("model/model.json")), ("model.json", "damaged", "convert")),
    (
        "no-json",
        lambda: (write_model(), write("model/model.json", "{")),
        ("model.json", "damaged", "convert"),
    ),
    (
        "no-utf8",
        lambda: (write_model(), write("model/model.json", b"\xff")),
        ("model.json", "damaged", "convert"),
    ),
    (
        "a-list",
        lambda: (write_model(), write("model/model.json", "[]")),
        ("model.json", "damaged", "convert"),
    ),
    (
        "a-number",
        lambda: (write_model(), write("model/model.json", "5")),
        ("model.json", "damaged", "convert"),
    ),
    (
        "deep",
        lambda: (write_model(), write("model/model.json", "[" * 100_000)),
        ("model.json", "damaged", "convert"),
    ),
    (
        "widths-of-a-million",
        lambda: write_model(widths=[10**6] * 4),
        ("model.json", "widths", "1000000", "convert"),
    ),
    (
        "other-resolution",
        lambda: write_model(resolution=1024),
        ("model.json", "resolution", "1024", "convert"),
    ),
    ("other-latents", lambda: write_model(latent_dim=512), ("model.json", "latent_dim", "512", "convert")),
    ("no-partitions", lambda: write_model(without=["partitions"]), ("model.json", "partitions", "convert")),
    ("partitions-number", lambda: write_model(partitions=5), ("model.json", "damaged", "convert")),
    (
        "partitions-numbers",
        lambda: write_model(partitions=[1, 2, 3, 4]),
        ("model.json", "damaged", "convert"),
    ),
    ("partitions-few", lambda: write_model(partitions=["2xfull"]), ("model.json", "partitions", "convert")),
    (
        "partitions-many",
        lambda: write_model(partitions=["2xfull"] + ["1x3@1,1x3@2"] * 9),
        ("model.json", "partitions", "convert"),
    ),
    (
        "partitions-other",
        lambda: write_model(partitions=["2xfull"] + ["2x5@1"] * 3),
        ("level 8", "do not fit"),
    ),
    (
        "no-tensors",
        lambda: (write_model(), Path("model/g_ema.safetensors").unlink()),
        ("no network 'g_ema'", "nothing"),
    ),
    (
        "tensors-fifo",
        lambda: (
            write_model(),
            Path("model/g_ema.safetensors").unlink(),
            os.mkfifo("model/g_ema.safetensors"),
        ),
        ("g_ema.safetensors", "pipe"),
    ),
    (
        "other-kind-of-generator",
        lambda: write_model(generator="HiT", tensors={"a": torch.zeros(1)}),
        ("model", "is no generator"),
    ),
    (
        "config-of-a-million",
        lambda: write_model(
            generator="Plain",
            tensors={"a": torch.zeros(1)},
            config=get_config("smoke").to_dict() | {"widths": [10**6] * 4, "discriminator_widths": [8] * 3},
        ),
        ("model", "widths", "take"),
    ),
    (
        "config-of-text",
        lambda: write_model(generator="Plain", tensors={"a": torch.zeros(1)}, config="x"),
        ("model", "configuration", "convert the run again"),
    ),
    name="model",
    prefix="model",
)


RUNS = [
    BadInput(f"run-{name}", "sample runs/tiny --seeds 0 --out out", parts, make)
    for name, make, parts in (
        (
            "config-deep",
            lambda: (write_run() / "config.json").write_text("[" * 100_000),
            ("config.json", "damaged"),
        ),
        (
            "config-list",
            lambda: (write_run() / "config.json").write_text("[]"),
            ("config.json", "no configuration"),
        ),
        ("config-unknown", partial(changed_config, color="red"), ("config.json", "color")),
        (
            "config-of-a-million",
            partial(changed_config, widths=[10**6] * 4),
            ("config.json", "widths", "take"),
        ),
        ("config-text", partial(changed_config, seed="one"), ("config.json", "seed='one'", "expected int")),
        ("config-float", partial(changed_config, seed=1.5), ("config.json", "seed=1.5", "expected int")),
        ("config-number", partial(changed_config, data=5), ("config.json", "data=5", "expected str")),
        ("config-partitions", partial(changed_config, partitions=[1, 2]), ("config.json", "partitions")),
    )
] + [
    BadInput("run-info-list", "evaluate runs/tiny", ("info.json", "damaged"), partial(changed_info, "[]")),
    BadInput("run-info-empty", "evaluate runs/tiny", ("info.json", "damaged"), partial(changed_info, "{}")),
    BadInput(
        "run-log-numbers",
        "evaluate runs/tiny",
        ("log.jsonl", "damaged"),
        lambda: (write_run() / "log.jsonl").write_text("1\n2\n"),
    ),
]

CONVERSIONS = [
    BadInput(f"convert-{name}", "convert model new", parts, make)
    for name, make, parts in (
        (
            "source-climbs",
            lambda: (write("result.json", "{}"), write_model(source="../..", nimg=1, config={"a": 1})),
            ("model.json",),
        ),
        ("config-poor", lambda: write_model(config={"data": "x"}, nimg=16), ("model.json", "convert")),
        ("nimg-text", lambda: write_model(nimg="many"), ("model.json", "convert")),
        ("source-number", lambda: write_model(source=5, minutes="long"), ("model.json", "convert")),
        ("score-list", lambda: write_model(score=[1]), ("model.json", "convert")),
        ("dataset-text", lambda: write_model(dataset="x"), ("model.json", "convert")),
    )
]

STATISTICS = statistics(
    ("none", lambda: None, ("real.npz", "can't be read", "clean-fid")),
    ("zero-bytes", lambda: write("real.npz"), ("real.npz", "clean-fid")),
    ("text", lambda: write("real.npz", "hello"), ("real.npz", "clean-fid")),
    (
        "pickled",
        lambda: write_npz("real.npz", mu=np.array([payload()]), sigma=np.eye(2)),
        ("real.npz", "clean-fid"),
    ),
    (
        "one-array",
        lambda: np.save("real.npy", np.eye(2)) or Path("real.npy").rename("real.npz"),
        ("real.npz", "clean-fid"),
    ),
    ("other-keys", lambda: write_npz("real.npz", a=np.eye(2)), ("real.npz", "mu", "clean-fid")),
    (
        "shapes",
        lambda: write_npz("real.npz", mu=np.zeros(3), sigma=np.eye(2)),
        ("(3,)", "(2, 2)", "clean-fid"),
    ),
    ("scalars", lambda: write_npz("real.npz", mu=np.zeros(()), sigma=np.zeros(())), ("()", "clean-fid")),
    (
        "dtype-text",
        lambda: write_npz("real.npz", mu=np.array(["a"]), sigma=np.array([["a"]])),
        ("real.npz", "clean-fid"),
    ),
    (
        "dtype-complex",
        lambda: write_npz("real.npz", mu=np.zeros(2) * 1j, sigma=np.eye(2)),
        ("real.npz", "complex"),
    ),
    (
        "dtype-record",
        lambda: write_npz("real.npz", mu=np.zeros(2, "f8,f8"), sigma=np.eye(2)),
        ("real.npz", "clean-fid"),
    ),
    (
        "shape-of-terabytes",
        lambda: write_npz("real.npz", mu=npy((2**40,)), sigma=np.eye(2)),
        ("real.npz", "bytes"),
    ),
    (
        "shape-negative",
        lambda: write_npz("real.npz", mu=npy((-4,)), sigma=np.eye(2)),
        ("real.npz", "clean-fid"),
    ),
    ("bomb", lambda: write_bomb("real.npz", "mu.npy", npy((2**28,))), ("real.npz", "bytes")),
    (
        "header-bomb",
        lambda: write_npz(
            "real.npz", mu=b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\x7f" + b"[" * 2**20, sigma=np.eye(2)
        ),
        ("real.npz", "clean-fid"),
    ),
    ("fifo", lambda: os.mkfifo("real.npz"), ("real.npz", "pipe")),
    ("device", lambda: Path("real.npz").symlink_to("/dev/zero"), ("real.npz", "pipe or a device")),
)


NPZ_OF_THREE = BadInput(
    "npz-of-other-features",
    lambda: open_reference("real.npz", 32).features(
        "all", NETWORKS["inception-legacy"], torch.device("cpu"), True
    ),
    ("real is of 3 features", "2048", "give the statistics of"),
    lambda: write_npz("real.npz", mu=np.zeros(3), sigma=np.eye(3)),
)


def weights(make):
    return lambda: (write_images(count=20), make())


WEIGHTS = [
    BadInput(
        f"weights-{name}",
        "evaluate images --data images --metric fid --count 20 --weights w",
        parts,
        weights(make),
    )
    for name, make, parts in (
        ("none", lambda: None, ("which is not at", "w")),
        ("altered", lambda: write("w", "hello"), ("sha256", "incomplete")),
        ("fifo", lambda: os.mkfifo("w"), ("w can't be read", "pipe")),
        ("device", lambda: Path("w").symlink_to("/dev/zero"), ("w can't be read", "pipe or a device")),
    )
]


# Records


RECORDS = [
    BadInput(f"record-{name}", "tables", ("results/runs/x/result.json", *parts), make)
    for name, make, parts in (
        ("zero-bytes", partial(broken_record, ""), ("no valid JSON", "restore")),
        ("no-json", partial(broken_record, "{"), ("no valid JSON", "restore")),
        ("no-utf8", partial(broken_record, b"\xff"), ("no valid JSON", "restore")),
        ("deep", partial(broken_record, "[" * 100_000), ("no valid JSON", "restore")),
        ("list", partial(broken_record, "[]"), ("no JSON object", "restore")),
        ("foreign", partial(broken_record, '{"loss": 1}'), ("lacks run_id", "restore")),
        ("other-run", put("run_id", value="y"), ("'y'", "rename")),
        ("newer", put("color", value="red"), ("'color' is unknown", "newer version")),
        ("nimg-text", put("nimg", value="many"), ("nimg='many'", "expected int")),
        ("minutes-text", put("minutes", value="long"), ("minutes='long'", "expected float")),
        ("minutes-none", put("minutes", value=None), ("minutes=None", "expected float")),
        ("device-number", put("device", value=5), ("device=5", "expected str")),
        ("dataset-text", put("dataset", value="x"), ("restore",)),
        ("dataset-none", put("dataset", "resolution", value="x"), ("resolution='x'", "expected int")),
        ("parameters-text", put("parameters", "generator", value="x"), ("generator='x'", "expected int")),
        ("score-list", put("score", value=[1]), ("restore",)),
        ("score-unknown", put("score", "values", value={"fdd_lite0": {}}), ("'fdd_lite0'", "There are fd_")),
        (
            "score-text",
            put("score", "values", "fd_lite0_128_train", "value", value="good"),
            ("value='good'", "expected float"),
        ),
        ("score-lacks", take("score", "values", "fd_lite0_128_train", "value"), ("value", "restore")),
        ("protocol-empty", put("score", "protocol", value={}), ("metrics", "restore")),
        ("protocol-text", put("score", "protocol", "metrics", value="x"), ("metrics", "restore")),
        ("protocol-lacks", take("score", "protocol", "metrics", "fd-lite0", "note"), ("note", "restore")),
        (
            "references-lack",
            put("score", "protocol", "metrics", "fd-lite0", "references", value={"train": {}}),
            ("n_real", "restore"),
        ),
        ("history-text", put("history", value="x"), ("restore",)),
        ("history-lacks", put("history", value=[{"nimg": 1}]), ("seconds", "restore")),
        (
            "memorization-text",
            put("memorization", value={"share": "x", "expected": 0.1, "error": 0.1}),
            ("share='x'", "expected float"),
        ),
        ("config-text", put("config", value="x"), ("config='x'", "expected dict")),
    )
] + [
    BadInput(
        "published-empty",
        "tables",
        ("paper.csv", "restore"),
        lambda: (write_results(), write("results/paper.csv")),
    ),
    BadInput(
        "published-other",
        "tables",
        ("paper.csv", "system", "restore"),
        lambda: (write_results(), write("results/paper.csv", "a,b\n1,2\n")),
    ),
    BadInput(
        "published-binary",
        "tables",
        ("paper.csv", "restore"),
        lambda: (write_results(), write("results/paper.csv", b"\xff\xfe\x00")),
    ),
    BadInput(
        "published-text",
        "tables",
        ("paper.csv", "'good'", "give plain numbers"),
        lambda: (write_results(), edit("results/paper.csv", b"2.046", b"good")),
    ),
    BadInput(
        "generators-empty",
        "tables",
        ("results/generators.json", "restore"),
        lambda: (write_results(), write("results/generators.json", "")),
    ),
    BadInput(
        "generators-other",
        "tables",
        ("results/generators.json", "'rates'", "restore"),
        lambda: (write_results(), write("results/generators.json", '{"comparisons": [{"device": "x"}]}')),
    ),
    BadInput(
        "generators-list",
        "figures",
        ("results/generators.json", "restore"),
        lambda: (write_results(), write("results/generators.json", "[1, 2]")),
    ),
    BadInput(
        "readme-without-markers",
        "tables",
        ("README.md", "put them back"),
        partial(write_results, "no markers"),
    ),
    BadInput(
        "log-empty",
        "figures",
        ("log.csv", "restore"),
        lambda: (put("seed", value=0)(), write("results/runs/x/log.csv")),
    ),
    BadInput(
        "log-other",
        "figures",
        ("log.csv", "nimg", "restore"),
        lambda: (put("seed", value=0)(), write("results/runs/x/log.csv", "a,b\n1,2\n")),
    ),
    BadInput(
        "log-text",
        "figures",
        ("log.csv", "restore"),
        lambda: (put("seed", value=0)(), write("results/runs/x/log.csv", "nimg,loss_g,loss_d\n1,good,bad\n")),
    ),
    BadInput(
        "samples-no-image",
        "figures",
        ("samples.png", "restore"),
        lambda: (put("seed", value=0)(), write("results/runs/x/samples.png", "x")),
    ),
]

NOTEBOOKS = parameters(
    ("unknown", "nimg: int = 5", "nimgs = 5", ("'nimgs'", "did you mean 'nimg'?")),
    ("text-for-int", "nimg: int = 5", "nimg = 'many'", ("nimg='many' is str", "expected int")),
    ("float-for-int", "nimg: int = 5", "nimg = 5.0", ("nimg=5.0 is float", "expected int")),
    ("bool-for-int", "nimg: int = 5", "nimg = True", ("nimg=True is bool", "expected int")),
    ("int-for-bool", "readme: bool = False", "readme = 1", ("readme=1 is int", "expected bool")),
    ("int-for-text", "data: str = ''", "data = 5", ("data=5 is int", "expected str", "-r")),
    ("none", "data: str = ''", "data = None", ("data=None", "expected str")),
    ("text-for-list", "seeds: list = [0]", "seeds = '[0]'", ("seeds='[0]' is str", "expected list")),
    ("list-of-text", "batches: list[int] = [1]", "batches = ['1']", ("batches=['1']", "expected list[int]")),
    ("code", "nimg: int = 5", f"nimg = __import__('os').system('touch {MARKER}')", ("nimg", "literal")),
    ("no-cell", "x = 1", "", ("no parameters are declared", "run the notebook's parameters cell")),
)

NOTEBOOK_CALLS = calls(
    "notebook",
    ("seeds-few", lambda: mixing_grid(tiny(), [0, 1], [], 16), ("no seed", "give one or more")),
    ("mix-level", lambda: mixing_grid(tiny(), [0], [1], 5), ("level 5", "take one of 4, 8, 16, 32")),
    ("level", lambda: attention_figure(tiny(), 0, 64, {"q": (0, 0)}), ("level 64", "take one of 4, 8")),
    ("query-outside", lambda: attention_figure(tiny(), 0, 16, {"q": (16, 0)}), ("(16, 0)", "0…15")),
    (
        "query-of-three",
        lambda: attention_figure(tiny(), 0, 16, {"q": (1, 2, 3)}),
        ("(1, 2, 3)", "row", "column"),
    ),
    (
        "query-of-text",
        lambda: attention_figure(tiny(), 0, 16, {"q": ("a", "b")}),
        ("('a', 'b')", "row", "column"),
    ),
    (
        "query-of-halves",
        lambda: attention_figure(tiny(), 0, 16, {"q": (0.5, 0)}),
        ("(0.5, 0)", "row", "column"),
    ),
    ("no-query", lambda: attention_figure(tiny(), 0, 16, {}), ("no query", "give one or more")),
    ("frames-0", lambda: interpolation_strip(tiny(), [0, 1], 0), ("0 frames", "one frame or more")),
    ("frames-half", lambda: interpolation_strip(tiny(), [0, 1], 0.5), ("0.5 frames", "one frame or more")),
    ("dilation-negative", lambda: load_grid("smoke").cell(dilation=-1), ("dilation -1", "give 1 to 10")),
    ("dilation-too-large", lambda: load_grid("smoke").cell(dilation=11), ("dilation 11", "give 1 to 10")),
    (
        "ablation-partitions",
        lambda: load_grid("smoke").cell("na", overrides={"partitions": "x"}),
        ("partitions='x'", "leave it out"),
    ),
    ("rounds-0", lambda: replace(PROTOCOLS["ours"], rounds=0), ("rounds=0", "whole numbers above 0")),
    ("rounds-half", lambda: replace(PROTOCOLS["ours"], rounds=0.5), ("rounds=0.5", "whole numbers")),
    (
        "batches-of-text",
        lambda: replace(PROTOCOLS["ours"], batches=("1",)),
        ("batches=('1',)", "whole numbers"),
    ),
    ("batches-none", lambda: replace(PROTOCOLS["ours"], batches=()), ("batches=()", "whole numbers")),
    ("dtype", lambda: replace(PROTOCOLS["ours"], dtype="half"), ("'half'", "float32, bfloat16, float16")),
)

# Public functions


@functools.cache
def tiny():
    return build_generator("smoke", **TINY).eval().requires_grad_(False)


def qkv(shape=(1, 8, 8, 2, 4), **options):
    return [torch.zeros(shape, **options) for _ in range(3)]


PARTS = (HeadPartition(2, 3, 1),)

ATTENTION = calls(
    "attention",
    ("kernel-even", lambda: HeadPartition(2, 4, 1), ("kernel_size 4 is even", "give 3 or 5")),
    (
        "kernel-huge",
        lambda: HydraNeighborhoodAttention(8, [HeadPartition(2, 10**6 + 1, 1)]),
        ("kernel_size 1000001", "at most"),
    ),
    ("dilation-0", lambda: HeadPartition(2, 3, 0), ("dilation 0", "at least 1")),
    ("heads-float", lambda: HeadPartition(2.0, 3, 1), ("heads 2.0", "give an int")),
    ("windows-odd", lambda: ShiftedWindows(3, 4), ("heads 3", "even int")),
    ("windows-huge", lambda: ShiftedWindows(2, 10**6), ("window_size 1000000", "at most")),
    ("full-no-heads", lambda: Full(0), ("heads 0", "at least 1")),
    (
        "shapes",
        lambda: neighborhood_attention(*qkv()[:2], torch.zeros(1, 8, 8, 2, 5), PARTS),
        ("(1, 8, 8, 2, 5)", "as one"),
    ),
    (
        "four-dimensions",
        lambda: neighborhood_attention(*qkv((8, 8, 2, 4)), PARTS),
        ("(8, 8, 2, 4)", "(B, H, W, heads, head_dim)"),
    ),
    ("heads", lambda: neighborhood_attention(*qkv((1, 8, 8, 3, 4)), PARTS), ("3 heads", "make them equal")),
    (
        "no-partition",
        lambda: neighborhood_attention(*qkv((1, 8, 8, 0, 4)), ()),
        ("partitions", "give one or more"),
    ),
    ("partition-text", lambda: neighborhood_attention(*qkv(), "2x3@1"), ("'2x3@1'", "parse_partitions")),
    ("grid", lambda: neighborhood_attention(*qkv((1, 2, 8, 2, 4)), PARTS), ("k=3", "n=2")),
    ("integers", lambda: neighborhood_attention(*qkv(dtype=torch.long), PARTS), ("torch.int64", "floating")),
    (
        "complex",
        lambda: neighborhood_attention(*qkv(dtype=torch.complex64), PARTS),
        ("torch.complex64", "floating"),
    ),
    (
        "devices",
        lambda: neighborhood_attention(*qkv()[:2], torch.zeros(1, 8, 8, 2, 4, device="meta"), PARTS),
        ("cpu", "meta", "one device"),
    ),
    (
        "types",
        lambda: neighborhood_attention(*qkv()[:2], torch.zeros(1, 8, 8, 2, 4).double(), PARTS),
        ("torch.float64", "torch.float32", "one type"),
    ),
    ("no-tensor", lambda: neighborhood_attention(*qkv()[:2], None, PARTS), ("NoneType", "tensor")),
    (
        "bias-size",
        lambda: neighborhood_attention(*qkv(), PARTS, [torch.zeros(2, 3, 3)]),
        ("(2, 3, 3)", "give one of (2, 5, 5)"),
    ),
    (
        "bias-count",
        lambda: neighborhood_attention(*qkv(), PARTS, [None, None]),
        ("2 bias tables", "give one"),
    ),
    (
        "bias-device",
        lambda: neighborhood_attention(*qkv(), PARTS, [torch.zeros(2, 5, 5, device="meta")]),
        ("cpu", "meta", "one device"),
    ),
    (
        "bias-integers",
        lambda: neighborhood_attention(*qkv(), PARTS, [torch.zeros(2, 5, 5).long()]),
        ("torch.int64", "floating"),
    ),
    (
        "backend",
        lambda: neighborhood_attention(*qkv(), PARTS, backend="fast"),
        ("'fast'", "take one of auto, tiled"),
    ),
    ("layer-heads", lambda: HydraNeighborhoodAttention(7, PARTS), ("dim 7", "heads that divide")),
    ("layer-level", lambda: HydraNeighborhoodAttention(8, PARTS, level=2), ("level 2", "k=3")),
    (
        "layer-input",
        lambda: HydraNeighborhoodAttention(8, PARTS)(torch.zeros(1, 8, 8, 4)),
        ("(1, 8, 8, 4)", "(B, H, W, 8)"),
    ),
    ("full-input", lambda: FullAttention(8, 2)(torch.zeros(1, 8, 8, 8)), ("8 × 8 tokens", "give 4 × 4")),
    ("split", lambda: split_heads(2, 3), ("2 heads in 3", "give from 1 to 2")),
    ("published-resolution", lambda: published_partitions(4, 12), ("resolution 12", "power of two")),
    ("dilated", lambda: dilated_levels((2, 2, 2), 6), ("dilation 6", "give 1 to 5")),
    ("text-none", lambda: parse_partitions(None), ("None", "heads x kernel @ dilation")),
)

MODEL_CALLS = calls(
    "model",
    ("preset-none", lambda: build_generator(None), ("None", "a preset's name")),
    ("preset-list", lambda: build_generator(["smoke"]), ("['smoke']", "a preset's name")),
    ("preset-unknown", lambda: build_generator("smoky"), ("'smoky'", "did you mean 'smoke'?")),
    ("override-unknown", lambda: build_generator("smoke", width=8), ("'width'", "did you mean 'widths'?")),
    (
        "overrides-of-a-config",
        lambda: build_generator(get_config("smoke"), seed=1),
        ("seed", "preset's name"),
    ),
    ("override-none", lambda: build_generator("smoke", widths=None), ("widths=None", "expected tuple")),
    (
        "override-partitions",
        lambda: build_generator("smoke", partitions=("2x3@1",) * 4),
        ("'2x3@1'", "partitions"),
    ),
    ("discriminator-none", lambda: build_discriminator(3.5), ("3.5", "a preset's name")),
    ("discriminator-no-widths", lambda: Discriminator(()), ("no widths", "give")),
    ("generator-no-levels", lambda: StyleNAT((), ()), ("0 widths", "give")),
    ("generator-levels", lambda: StyleNAT((8,), ()), ("1 widths and 0 partitions", "give one of each")),
    (
        "config-wrong-type",
        lambda: Config.from_dict(get_config("smoke").to_dict() | {"nimg": "x"}),
        ("nimg='x'", "expected int"),
    ),
    ("latents-shape", lambda: tiny()(torch.zeros(2, 5)), ("(2, 5)", "(B, 8)")),
    ("latents-row", lambda: tiny()(torch.zeros(8)), ("(8,)", "(B, 8)")),
    ("styles-shape", lambda: tiny().synthesis(torch.zeros(1, 3, 8)), ("(1, 3, 8)", "(B, 8, 8)")),
    (
        "images-shape",
        lambda: discriminator()(torch.zeros(4, 3, 16, 16)),
        ("(4, 3, 16, 16)", "(B, 3, 32, 32)"),
    ),
    ("images-batch", lambda: discriminator()(torch.zeros(6, 3, 32, 32)), ("batch of 6", "multiple of 4")),
    ("checkpoint-which", lambda: load_generator("x", which="best"), ("'best'", "take 'ema' or 'g'")),
    ("checkpoint-number", lambda: load_generator(5), ("5", "path")),
    ("checkpoint-none", lambda: load_discriminator(None), ("None", "path")),
)


@functools.cache
def discriminator():
    return build_discriminator("smoke", **TINY)


def images(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


def faces():
    return open_dataset("noto-faces", 32)


FEATURES = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()

FUNCTIONS = calls(
    "function",
    ("seeds-text", lambda: sample_images(tiny(), "012"), ("'012'", "give a list")),
    ("seeds-number", lambda: sample_images(tiny(), 3), ("3", "give a list")),
    ("seeds-float", lambda: sample_images(tiny(), [0.5]), ("0.5", "whole number")),
    ("seeds-bool", lambda: sample_images(tiny(), [True]), ("True", "whole number")),
    ("seeds-2-64", lambda: sample_images(tiny(), [2**64]), ("18446744073709551616", "from 0 to 2**63 - 1")),
    ("seeds-negative", lambda: sample_images(tiny(), range(-3, 3)), ("seed -3", "from 0")),
    ("seeds-none", lambda: sample_images(tiny(), []), ("no seed", "give one or more")),
    ("seeds-matrix", lambda: sample_images(tiny(), np.zeros((2, 2), int)), ("no row", "give a list")),
    ("seeds-a-billion", lambda: sample_images(tiny(), range(10**9)), ("1,000,000,000", "sample_batches")),
    ("batch-size-0", lambda: sample_images(tiny(), [0], batch_size=0), ("batch_size=0", "1 or more")),
    ("batch-size-half", lambda: sample_images(tiny(), [0], batch_size=0.5), ("batch_size=0.5", "1 or more")),
    ("interpolate-space", lambda: interpolate(tiny(), [0, 1], 2, space="x"), ("'x'", "'w' or 'z'")),
    ("interpolate-frames", lambda: interpolate(tiny(), [0, 1], 10**9), ("1000000000 frames", "give")),
    (
        "mix-level",
        lambda: mix_styles(tiny(), torch.zeros(1, 8), torch.zeros(1, 8), 7),
        ("level 7", "take one of"),
    ),
    (
        "mix-shapes",
        lambda: mix_styles(tiny(), torch.zeros(1, 8), torch.zeros(2, 8), 8),
        ("(1, 8)", "(2, 8)", "one shape"),
    ),
    (
        "slerp-shapes",
        lambda: slerp(torch.zeros(2, 3), torch.zeros(2, 4), 0.5),
        ("(2, 3)", "(2, 4)", "one shape"),
    ),
    ("project-size", lambda: project(tiny(), images(3, 16, 16)), ("(3, 16, 16)", "(3, 32, 32)")),
    ("project-type", lambda: project(tiny(), torch.zeros(3, 32, 32)), ("torch.float32", "torch.uint8")),
    ("project-steps", lambda: project(tiny(), images(3, 32, 32), steps=0), ("steps=0", "1 or more")),
    (
        "maps-block",
        lambda: attention_maps(tiny(), torch.zeros(1, 8), 8, (0, 0), block=2),
        ("block 2", "take 0 or 1"),
    ),
    ("dataset-split", lambda: open_dataset("noto-faces", 32, "valid"), ("'valid'", "choose one of")),
    ("dataset-resolution-bool", lambda: open_dataset("noto-faces", True), ("True", "whole number")),
    ("dataset-number", lambda: open_dataset(5, 32), ("5", "path")),
    ("reference-none", lambda: open_reference(None, 32), ("None", "path")),
    ("evaluate-list", lambda: evaluate([1], faces()), ("list", "give")),
    (
        "evaluate-reference-text",
        lambda: evaluate(images(40, 3, 32, 32), "noto-faces"),
        ("'noto-faces'", "open_dataset"),
    ),
    (
        "evaluate-floats",
        lambda: evaluate(images(400, 3, 32, 32, dtype=torch.float32), faces()),
        ("torch.float32", "torch.uint8"),
    ),
    (
        "evaluate-one-image",
        lambda: evaluate(images(3, 32, 32), faces()),
        ("(3, 32, 32)", "(395 or more, 3, 32, 32)"),
    ),
    ("evaluate-scalar", lambda: evaluate(torch.zeros(()), faces()), ("()", "(395 or more")),
    ("evaluate-seed", lambda: evaluate(Painter(), faces(), seed=-1), ("seed -1", "from 0")),
    ("evaluate-seed-text", lambda: evaluate(Painter(), faces(), seed="a"), ("'a'", "whole number")),
    (
        "evaluate-batch-size",
        lambda: evaluate(Painter(), faces(), batch_size=0),
        ("batch_size=0", "1 or more"),
    ),
    (
        "evaluate-no-metric",
        lambda: evaluate(images(400, 3, 32, 32), faces(), []),
        ("no metric", "choose from"),
    ),
    ("evaluate-metric-number", lambda: evaluate(images(400, 3, 32, 32), faces(), [5]), ("5", "fd-lite0")),
    ("neighbors-0", lambda: memorization(FEATURES, FEATURES, FEATURES, 0), ("neighbors 0", "1 or more")),
    ("nearest-list", lambda: nearest_training_images([1], faces()), ("list", "give")),
    ("distance-vector", lambda: frechet_distance(FEATURES[0], FEATURES), ("(4,)", "(images, dimensions)")),
    ("distance-dimensions", lambda: kernel_distance(FEATURES, FEATURES[:, :3]), ("(4, 3)", "same network")),
    ("distance-one", lambda: kernel_distance(FEATURES[:1], FEATURES), ("a set of 1", "give 2 or more")),
    ("distance-text", lambda: frechet_distance("a", FEATURES), ("'a'", "features")),
    ("distance-list", lambda: kernel_distance([[1.0]], FEATURES), ("list", "features")),
    (
        "distance-subsets",
        lambda: kernel_distance_subsets(FEATURES, FEATURES, 1),
        ("1 subsets", "give 2 or more"),
    ),
    ("precision-k", lambda: precision_recall(FEATURES, FEATURES, k=0), ("k is 0", "1 or more")),
    ("precision-k-half", lambda: precision_recall(FEATURES, FEATURES, k=1.5), ("k is 1.5", "1 or more")),
    (
        "intervals-splits",
        lambda: intervals(lambda a, b: {"x": 0.0}, FEATURES, FEATURES, splits=0),
        ("splits=0", "1 or more"),
    ),
    ("grid-columns", lambda: image_grid(images(2, 3, 4, 4), 0), ("columns=0", "1 or more")),
    ("figure-columns", lambda: sample_grid(images(2, 3, 4, 4), columns=0), ("columns=0", "1 or more")),
    ("figure-no-images", lambda: sample_grid(images(0, 3, 4, 4)), ("(0, 3, 4, 4)", "one or more")),
    ("figure-floats", lambda: sample_grid(torch.zeros(2, 3, 4, 4)), ("torch.float32", "torch.uint8")),
    ("png-floats", lambda: save_png("x.png", torch.zeros(3, 4, 4)), ("torch.float32", "torch.uint8")),
    ("png-batch", lambda: save_png("x.png", images(1, 3, 4, 4)), ("(1, 3, 4, 4)", "(3, H, W)")),
    ("gif-none", lambda: save_gif("x.gif", images(0, 3, 4, 4)), ("(0, 3, 4, 4)", "one or more")),
    ("sweep-no-psi", lambda: truncation_sweep(tiny(), [0], ()), ("no psi", "give one or more")),
    ("strip-no-space", lambda: interpolation_strip(tiny(), [0, 1], 2, ()), ("no space", "'w' or 'z'")),
    ("fields-query", lambda: receptive_fields(PARTS, 8, 8, {"q": (8, 0)}), ("(8, 0)", "0…7")),
    (
        "fields-full",
        lambda: receptive_fields((Full(2),), 4, 4, {"q": (0, 0)}),
        ("2xfull", "give neighborhoods"),
    ),
    ("record-name", lambda: write_record(make_record("../x")), ("'../x'", "lower-case letters")),
    ("record-name-empty", lambda: write_record(make_record("")), ("''", "lower-case letters")),
)

ROWS = [
    *SETTINGS,
    *PARTITIONS,
    *SEEDS,
    *WORDS,
    *ZIPS,
    *IMAGES,
    *SETS,
    *CHECKPOINTS,
    *SAFETENSORS,
    *MODELS,
    *RUNS,
    *CONVERSIONS,
    *STATISTICS,
    NPZ_OF_THREE,
    *WEIGHTS,
    *RECORDS,
    *NOTEBOOKS,
    *NOTEBOOK_CALLS,
    *ATTENTION,
    *MODEL_CALLS,
    *FUNCTIONS,
]


# What holds of every row


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is loaded once is no row's memory."""
    tiny()
    discriminator()
    faces()
    main(["presets"])
    neighborhood_attention(*qkv(), PARTS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, the workspace and the place of temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def listing(folder):
    """What is in a folder, as far as a change would show."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def in_bytes(name):
    """A line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 2**10
    raise KeyError(name)


class Endless(BaseException):
    """What no reader of a damaged file takes for damage."""


class Bounds:
    """Seconds and bytes that a block takes; no more than `MOST_ADDRESSES`, and no endless waiting."""

    def __enter__(self):
        self.began = time.process_time()
        self.handler = signal.signal(signal.SIGALRM, self._stop)
        signal.alarm(MOST_WAITING)
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
            self.memory = in_bytes("VmRSS")
            self.limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (in_bytes("VmSize") + MOST_ADDRESSES, self.limits[1]))
        return self

    def __exit__(self, *_):
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.handler)
        self.seconds = time.process_time() - self.began
        self.bytes = 0
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, self.limits)
            self.bytes = in_bytes("VmHWM") - self.memory

    def _stop(self, *_):
        raise Endless(f"no end after {MOST_WAITING} s")


def line_of(row, capsys):
    """The one line that a row ends with."""
    if callable(row.run):
        with pytest.raises(UserError) as caught:
            row.run()
        return str(caught.value)
    words = shlex.split(row.run) if isinstance(row.run, str) else row.run
    code = main(words)
    captured = capsys.readouterr()
    assert code == 2, captured.out + captured.err
    assert captured.err.startswith("stylenat: ") and captured.err.endswith("\n")
    return captured.err.removesuffix("\n")


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_a_bad_input(row, folder, capsys):
    if row.skip:
        pytest.skip(row.skip)
    row.make()
    before = listing(folder)
    with Bounds() as bounds:
        line = line_of(row, capsys)
    print(f"{bounds.seconds:.2f} s, {bounds.bytes / 2**20:.0f} MB: {line[:600]}")
    assert line.count("\n") == 0 and "Traceback" not in line
    assert len(line) <= LONGEST_LINE
    for part in row.parts:
        assert part in line, line[:600]
    assert bounds.seconds < MOST_SECONDS
    assert bounds.bytes < MOST_MEMORY
    assert not Path(MARKER).exists()
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["set-twice", "zip-bomb-in-an-image", "pt-torch-zip-that-calls"])
def test_a_bad_input_to_a_process(name, folder):
    (row,) = (row for row in ROWS if row.id == name)
    row.make()
    before = listing(folder)
    words = shlex.split(row.run) if isinstance(row.run, str) else row.run
    found = subprocess.run(
        [sys.executable, "-m", "stylenat", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert all(part in found.stderr for part in row.parts)
    assert not Path(MARKER).exists() and listing(folder) == before


def test_there_are_many_rows_of_different_names():
    counts = Counter(row.id for row in ROWS)
    assert not [name for name, count in counts.items() if count > 1]
    assert len(counts) >= 150

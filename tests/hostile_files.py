"""Files as no honest program writes them, and small whole ones to damage.

Each function writes into the current folder.
"""

import functools
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from helpers import ROOT, empty_blocks, make_record
from PIL import Image

from stylenat.attention.partitions import format_partitions
from stylenat.checkpoints.run import Run
from stylenat.models.build import build_discriminator, build_generator
from stylenat.presets import get_config
from stylenat.reporting.records import write_record

MARKER = "executed"  # a file that appears where a payload ran
GIGABYTE = 2**30
TINY = {
    "nimg": 16, "snapshot": 8, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
    "head_dim": 4, "latent_dim": 8, "mapping_depth": 1,
}  # fmt: skip


# Whole ones


@functools.cache
def tiny_tensors():
    """State dicts of a tiny generator and discriminator."""
    torch.manual_seed(0)
    config = get_config("smoke", **TINY)
    return {
        "g_ema": build_generator(config).state_dict(),
        "d": build_discriminator(config).state_dict(),
    }


def png(side=32, height=None, mode="RGB", **options):
    """Bytes of an image."""
    stream = io.BytesIO()
    Image.new(mode, (side, height or side)).save(stream, "PNG", **options)
    return stream.getvalue()


def write(name, content=b""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_images(folder="images", count=3):
    for i in range(count):
        write(f"{folder}/{i}.png", png())


def write_model(folder="model", tensors=None, without=(), **changes):
    """A model folder; `changes` replace entries of `model.json`, those of `without` are left out."""
    config = get_config("smoke", **TINY)
    facts = {
        "source": "tiny.pt", "resolution": 32, "widths": [8, 8, 8, 8], "latent_dim": 8,
        "partitions": [format_partitions(level) for level in config.partitions], "parameters": 1,
        "mean_style": {"styles": 10_000, "seed": 0}, "networks": ["g_ema"], "precision": "float32",
    }  # fmt: skip
    facts = {name: value for name, value in (facts | changes).items() if name not in without}
    write(f"{folder}/model.json", json.dumps(facts))
    write(f"{folder}/g_ema.safetensors", safetensors.torch.save(tensors or tiny_tensors()["g_ema"]))


def write_pt(name="bad.pt", tensors=None, args=None, **contents):
    """A checkpoint in the published layout."""
    networks = {"g_ema": tensors if tensors is not None else tiny_tensors()["g_ema"]}
    torch.save({"state_dicts": networks, "args": args, **contents}, name)


def changed(name, **tensors):
    """The tiny network's tensors with some replaced; None takes one away."""
    state = dict(tiny_tensors()[name])
    for key, tensor in tensors.items():
        state.pop(key.replace("__", "."), None)
        if tensor is not None:
            state[key.replace("__", ".")] = tensor
    return state


def write_run(folder="runs/tiny"):
    """The folder of a run with one snapshot."""
    config = get_config("smoke", **TINY)
    run = Run(folder)
    run.begin(config)
    info = {"nimg": 16, "seconds": 1.0, "peak_memory_bytes": 1, "attention": [], "provenance": {}}
    run.save(16, build_generator(config), {}, info)
    run.add_to_log({"nimg": 16, "seconds": 1.0, "loss_g": 1.0, "loss_d": 1.0})
    return run.path


# Zips


def write_zip(name, members, compression=zipfile.ZIP_DEFLATED):
    """A zip of `(name, bytes)` pairs."""
    with zipfile.ZipFile(name, "w", compression) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return Path(name)


def write_bomb(name, member, head=b"", size=2 * GIGABYTE):
    """A zip of a few MB whose member begins with `head` and inflates to `size` bytes."""
    block = bytes(2**20)
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _write_zeros(archive, member, head, size, block)


def _write_zeros(archive, member, head, size, block):
    # What one block deflates to, again and again: inflating is slow enough, deflating need not be.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    blocks = (size - len(head)) // len(block)
    content = b"".join([start, *[once] * blocks, packer.flush()])
    entry = zipfile.ZipInfo(member)
    entry.compress_type = zipfile.ZIP_STORED
    archive.writestr(entry, content)
    entry.compress_type = zipfile.ZIP_DEFLATED  # now the entry says what its bytes are
    entry.file_size = len(head) + blocks * len(block)
    archive.fp.seek(entry.header_offset)
    archive.fp.write(entry.FileHeader(zip64=False))
    archive.fp.seek(archive.start_dir)


def edit(name, old, new):
    """Replace bytes of a file."""
    content = Path(name).read_bytes()
    assert old in content
    Path(name).write_bytes(content.replace(old, new))


def cut(name, share=0.5):
    """Cut a file short."""
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: int(len(content) * share)])


def set_flag(name, flag):
    """Set a bit of the general purpose flags of every entry of a zip."""
    content = bytearray(Path(name).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + place] |= flag
            start = content.find(signature, start + 4)
    Path(name).write_bytes(content)


def declare_size(name, size):
    """Let the list of a zip say another size of its one member."""
    content = bytearray(Path(name).read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 24 : start + 28] = struct.pack("<I", size)
    Path(name).write_bytes(content)


def two_of_one_name(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_zip(name, [("x.png", png()), ("x.png", png(16))])


def compression_99(name):
    content = bytearray(Path(name).read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.find(signature) + place] = 99
    Path(name).write_bytes(content)


# Images


def png_chunk(kind, content, length=None):
    """A chunk of a PNG, which may say another length."""
    size = struct.pack(">I", len(content) if length is None else length)
    return size + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_head(width, height):
    """The first bytes of an RGB PNG."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png_bomb(width, height):
    """A small PNG that says it is as large as that."""
    return png_head(width, height) + png_chunk(b"IDAT", zlib.compress(bytes(2**20))) + png_chunk(b"IEND", b"")


def huge_file(name, head=b""):
    """A file of 4 GB that takes no room on the disk."""
    path = write(name, head)
    with path.open("r+b") as file:
        file.truncate(4 * GIGABYTE)


def zeros(megabytes):
    """So many MB of zeros, deflated."""
    return zlib.compress(bytes(megabytes * 2**20))


def noise():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
        stream, "PNG"
    )
    return stream.getvalue()


def noise_jpeg(name):
    Path(name).parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(name)


# Pickles


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payload():
    """What leaves a file where it is unpickled by a careless reader."""
    return Calls(os.system, f"touch {MARKER}")


def write_pickle(name, protocol, contents):
    """A plain pickle."""
    write(name, pickle.dumps(contents, protocol=protocol))


def write_torch_zip(name, stream, storages=(b"\0" * 16,), compression=zipfile.ZIP_STORED):
    """A file of torch's layout around a pickle stream of one's own."""
    members = [("archive/data.pkl", stream), ("archive/byteorder", b"little"), ("archive/version", b"3\n")]
    members += [(f"archive/data/{i}", storage) for i, storage in enumerate(storages)]
    write_zip(name, members, compression)


class _Storage:
    """A storage's persistent id, with a size of one's own."""

    def __init__(self, size):
        self.id = ("storage", torch.FloatStorage, "0", "cpu", size)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, _Storage) else None


def tensor_stream(shape, stride, storage_size=4, offset=0, key="input.input"):
    """A checkpoint's pickle with one tensor of that geometry."""
    rebuilt = Calls(torch._utils._rebuild_tensor_v2, _Storage(storage_size), offset, shape, stride, False, {})
    return pickled({"state_dicts": {"g_ema": {key: rebuilt}}, "args": None})


def pickled(contents):
    """A pickle stream as torch writes it."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(contents)
    return stream.getvalue()


def deep_list(depth):
    """A list in a list in a list …"""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def deep_stream(depth):
    """A pickle of `{"g_ema": {}, "args": [[[…]]]}`, written without recursion."""
    return (
        b"\x80\x02}(X\x05\x00\x00\x00g_ema}X\x04\x00\x00\x00args" + b"]" * depth + b"a" * (depth - 1) + b"u."
    )


def laughs(levels=60):
    """Lists that each hold the one before twice: 2^levels entries once written out."""
    value = ["ha"]
    for _ in range(levels):
        value = [value, value]
    return value


def hostile_pickle(protocol, name="bad.pt"):
    write_pickle(name, protocol, {"g_ema": {}, "args": payload()})


def torch_zip(shape, stride, **options):
    write_torch_zip("bad.pt", tensor_stream(shape, stride, **options))


# safetensors and arrays


def write_safetensors(name, header, data=b"\0" * 16, length=None):
    """A safetensors file with a header of one's own (text or JSON) and of a length that may lie."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    write(name, struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor_entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    """A tensor's entry in such a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def npy(shape, data=b"", descr="<f8"):
    """Bytes of an array that says it is of that shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def write_npz(name, **arrays):
    """clean-fid's statistics, or what says so: arrays, or the bytes of them."""
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            archive.writestr(f"{key}.npy", value if isinstance(value, bytes) else _npy_bytes(value))


def _npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


# Runs and records


def changed_config(**changes):
    path = write_run() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def changed_info(text):
    (write_run() / "state" / "000000016" / "info.json").write_text(text)


def write_results(readme=None):
    """A README to fill in, and the published numbers."""
    write("README.md", empty_blocks() if readme is None else readme)
    write("results/paper.csv", (ROOT / "results" / "paper.csv").read_bytes())


def broken_record(text):
    write_results()
    write("results/runs/x/result.json", text)


def changed_record(change):
    """The record of a run with an edit."""
    write_results()
    path = write_record(make_record("x"))
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def put(*names, value):
    """An edit that puts a value at a place."""

    def change(entries):
        inner = entries
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value

    return partial(changed_record, change)


def take(*names):
    """An edit that takes an entry away."""

    def change(entries):
        inner = entries
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]

    return partial(changed_record, change)

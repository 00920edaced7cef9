"""Tensors on disk: safetensors, written atomically; and an optimizer's state as named tensors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stylenat.errors import UserError
from stylenat.paths import is_stream, write_atomically

# What wrappers call the network that they hold; none of our modules has such a name.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
HASH = "sha256"  # in a file's metadata
ADVICE = "get it again, or delete the snapshot that it is of and resume from an older one"
Tensors = dict[str, Tensor]  # by name, as in a state dict


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as a safetensors file, atomically, with their hash in its metadata."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(contiguous, {HASH: _sha256(contiguous)}))


def check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Check that tensors hold finite numbers: one NaN among the weights makes every image black.

    Args:
        tensors: by name.
        where: the file or network that they are of, for the error.

    Raises:
        UserError: one holds NaN or infinity; names it.
    """
    for name, tensor in tensors.items():
        exact = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no test of its own
        if bad := int((~exact.isfinite()).sum()):
            raise UserError(
                f"{where}: {bad} of {tensor.numel()} numbers of {name} are NaN or infinite: take another "
                "checkpoint, of before its training went wrong"
            )


def load_tensors(path: Path, advice: str = ADVICE) -> Tensors:
    """Read a safetensors file; one that `save_tensors` wrote has to have the hash that it had then.

    Args:
        path: of the file.
        advice: what to do where it is damaged, the last words of the error.

    Raises:
        UserError: it is missing or damaged, or holds a number that is not finite.
    """
    tensors = _read_tensors(path, advice)
    check_finite(tensors, path)
    return tensors


def _read_tensors(path: Path, advice: str) -> Tensors:
    try:
        if is_stream(path):
            raise ValueError("a pipe or a device")
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get(HASH)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist: give a file that training wrote") from None
    except Exception as error:
        raise UserError(f"checkpoint {path} can't be read ({error}): {advice}") from error
    if stored is not None and stored != _sha256(tensors):
        raise UserError(f"checkpoint {path} is damaged, it has another sha256 than when written: {advice}")
    return tensors


def _sha256(tensors: Tensors) -> str:
    """Hex sha256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unwrapped(tensors: Mapping[str, Tensor], where: Path | str) -> Tensors:
    """A state dict without the names that wrappers of a network put into its keys.

    Args:
        tensors: of a network that may have been saved from within DataParallel (`module.`), `torch.compile`
            (`_orig_mod.`), FSDP or activation checkpointing, or several of them.
        where: the file, for errors.

    Raises:
        UserError: two keys become one.
    """
    found: Tensors = {}
    for key, tensor in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        if name in found:
            raise UserError(f"{where} holds {name!r} twice, once as {key!r}: save one network's state dict")
        found[name] = tensor
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimizer's moments and step counts by `"<index of the parameter>.<moment>"`."""
    tensors = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"{index}.{name}"] = value
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; learning rates and the like stay as the optimizer has them.

    Raises:
        ValueError: tensors of another optimizer.
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

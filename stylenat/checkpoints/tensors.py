"""What a run leaves on disk: safetensors for tensors, JSON for the rest; nothing is executed on loading."""

import safetensors.torch

from stylenat.errors import UserError
from stylenat.paths import write_atomically


def save_tensors(path, tensors):
    """Write a dict of tensors as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(tensors))


def load_tensors(path):
    """Read a safetensors file. Raises UserError if it is missing or damaged."""
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist: give a file that training wrote") from None
    except Exception as error:
        raise UserError(
            f"checkpoint {path} can't be read ({error}): delete its snapshot and resume from an older one"
        ) from error


def optimizer_tensors(optimizer):
    """An Adam's moments and step counts as a flat dict `"<parameter>.<moment>"` → tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer, tensors):
    """Undo `optimizer_tensors`: learning rates and the like stay as the optimizer has them."""
    state = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

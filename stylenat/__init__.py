"""StyleNAT, reproducible: Hydra neighborhood attention, the networks, training, scores, tables, figures."""

from importlib import import_module
from typing import Any

# Importing a name loads its module and no other (PEP 562).
_HOMES = {
    "PRESETS": "presets",
    "HeadPartition": "attention.partitions",
    "HydraNeighborhoodAttention": "attention.layers",
    "UserError": "errors",
    "build_discriminator": "models.build",
    "build_generator": "models.build",
    "cast": "models.precision",
    "evaluate": "evaluation.evaluate",
    "format_partitions": "attention.partitions",
    "get_config": "presets",
    "keep_freed_memory": "device",
    "load_discriminator": "checkpoints.load",
    "load_generator": "checkpoints.load",
    "neighborhood_attention": "attention.functional",
    "open_dataset": "data.dataset",
    "parse_partitions": "attention.partitions",
    "sample_images": "sampling.sample",
    "to_uint8": "images",
    "train": "training.loop",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stylenat' has no attribute {name!r}")
    return getattr(import_module(f"stylenat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

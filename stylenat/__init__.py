"""StyleNAT, reproducible: Hydra neighborhood attention, the networks, training, scores, tables, figures."""

from stylenat.attention import HydraNeighborhoodAttention, neighborhood_attention
from stylenat.data import open_dataset
from stylenat.device import keep_freed_memory
from stylenat.errors import UserError
from stylenat.evaluation import evaluate
from stylenat.images import to_uint8
from stylenat.partition import HeadPartition, format_partitions, parse_partitions
from stylenat.presets import PRESETS, build_discriminator, build_generator, get_config
from stylenat.pretrained import load_discriminator, load_generator
from stylenat.sampling import sample_images
from stylenat.training import train

__all__ = [
    "PRESETS",
    "HeadPartition",
    "HydraNeighborhoodAttention",
    "UserError",
    "build_discriminator",
    "build_generator",
    "evaluate",
    "format_partitions",
    "get_config",
    "load_discriminator",
    "load_generator",
    "neighborhood_attention",
    "open_dataset",
    "parse_partitions",
    "sample_images",
    "to_uint8",
    "train",
]

keep_freed_memory()

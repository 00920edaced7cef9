"""Networks of a configuration, freshly initialized."""

import dataclasses
from typing import Any

import torch

from stylenat.attention.partitions import local_levels
from stylenat.config import Config
from stylenat.errors import UserError
from stylenat.models.base import Generator
from stylenat.models.discriminator import Discriminator
from stylenat.models.hit import HiT
from stylenat.models.stylegan_xl import StyleGANXL
from stylenat.models.stylenat import StyleNAT
from stylenat.presets import get_config
from stylenat.stages import HiTStage, SynthesisStage

LEAST_KERNEL = 3  # of a neighborhood: fits every level


def build_generator(config: Config | str, /, **overrides: Any) -> Generator:
    """A freshly initialized generator: z `(B, latent_dim)` → images `(B, 3, R, R)`.

    Args:
        config: a configuration, or a preset's name.
        overrides: fields of a preset to replace, as of `get_config`.

    Raises:
        UserError: as of `get_config`.
    """
    resolved = _resolve(config, overrides)
    if resolved.generator == "hit":
        levels = [HiTStage(*stage) for stage in resolved.stages]
        return HiT(resolved.widths, levels, resolved.latent_dim)
    if resolved.generator == "stylegan-xl":
        stages = [SynthesisStage(*stage) for stage in resolved.stages]
        most, last = resolved.widths
        return StyleGANXL(stages, most, last, resolved.latent_dim, resolved.style_dim, resolved.mapping_depth)
    return StyleNAT(
        resolved.widths,
        resolved.partitions,
        resolved.latent_dim,
        resolved.mapping_depth,
        resolved.position_bias,
    )


def share_first_weights(generator: Generator, config: Config) -> None:
    """Give a generator the first weights that every arm of an ablation has in common, drawn from the seed.

    All tensors but position tables are those of the generator that has the same widths and heads, and local
    attention at every level. The random state afterwards depends on the seed alone, so what is drawn next is
    in common, too.

    Args:
        generator: freshly initialized, of `config`.
        config: of the arm.
    """
    torch.manual_seed(config.seed)
    partitions = local_levels(config.level_heads, LEAST_KERNEL)
    local = dataclasses.replace(config, partitions=partitions, position_bias=True)
    common = build_generator(local).state_dict()
    for name, tensor in generator.state_dict().items():
        if name in common and common[name].shape == tensor.shape:
            tensor.copy_(common[name])


def build_discriminator(config: Config | str, /, **overrides: Any) -> Discriminator:
    """A freshly initialized discriminator: images `(B, 3, R, R)` → logits `(B, 1)`.

    Args:
        config: a configuration, or a preset's name.
        overrides: fields of a preset to replace, as of `get_config`.

    Raises:
        UserError: as of `get_config`.
    """
    return Discriminator(_resolve(config, overrides).discriminator_widths)


def _resolve(config: Config | str, overrides: dict[str, Any]) -> Config:
    if isinstance(config, str):
        return get_config(config, **overrides)
    if not isinstance(config, Config):
        raise UserError(f"{config!r} is no configuration: give one, or a preset's name")
    if overrides:
        raise UserError(
            f"a configuration was given, and {', '.join(overrides)} besides: replace fields with "
            "dataclasses.replace, or give a preset's name"
        )
    return config

"""Networks of a configuration, freshly initialized."""

from typing import Any

from stylenat.config import Config
from stylenat.errors import UserError
from stylenat.models.base import Generator
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import StyleNAT
from stylenat.presets import get_config


def build_generator(config: Config | str, /, **overrides: Any) -> Generator:
    """A freshly initialized generator: z `(B, latent_dim)` → images `(B, 3, R, R)`.

    Args:
        config: a configuration, or a preset's name.
        overrides: fields of a preset to replace, as of `get_config`.

    Raises:
        UserError: as of `get_config`.
    """
    resolved = _resolve(config, overrides)
    return StyleNAT(resolved.widths, resolved.partitions, resolved.latent_dim, resolved.mapping_depth)


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

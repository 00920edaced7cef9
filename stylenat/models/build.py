"""Networks of a configuration, freshly initialized."""

from stylenat.config import Config
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import Generator
from stylenat.presets import get_config


def build_generator(config: Config | str, **overrides) -> Generator:
    """A freshly initialized generator: z `(B, latent_dim)` → images `(B, 3, R, R)`.

    Args:
        config: a configuration, or a preset's name.
        overrides: fields of a preset to replace, as of `get_config`.

    Raises:
        UserError: as of `get_config`.
    """
    config = _resolve(config, overrides)
    return Generator(config.widths, config.level_partitions(), config.latent_dim, config.mapping_depth)


def build_discriminator(config: Config | str, **overrides) -> Discriminator:
    """A freshly initialized discriminator: images `(B, 3, R, R)` → logits `(B, 1)`; see `build_generator`."""
    return Discriminator(_resolve(config, overrides).discriminator_widths)


def _resolve(config: Config | str, overrides: dict) -> Config:
    return get_config(config, **overrides) if isinstance(config, str) else config

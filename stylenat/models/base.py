"""What every generator offers, so that nothing outside of `models` reaches into one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stylenat.attention.layers import Attention
from stylenat.errors import UserError


def count_parameters(module: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


class MeanStyle(NamedTuple):
    """A mean style and what it was estimated from.

    Attributes:
        mean: the mean w `(latent_dim,)`.
        probe: styles `(n, latent_dim)` of fixed latents by the same weights; other weights give other ones.
    """

    mean: Tensor
    probe: Tensor


class Stage(NamedTuple):
    """What a generator computes for one level.

    Attributes:
        resolution: the level's, one of the generator's `resolutions`.
        modules: the modules that are called for it and for no other level.
    """

    resolution: int
    modules: tuple[nn.Module, ...]


class Generator(nn.Module, ABC):
    """A generator of images: z → style w by `mapping`, w or w+ → images by `synthesis`.

    A subclass defines `num_styles`, `first_style`, `mapping`, `synthesis` and `stages`, and `attention` where
    it has any.

    Args:
        resolutions: tokens or pixels a side of each level, ascending; the last is the image's.
        widths: channels of each level.
        latent_dim: size of z and of w.

    Attributes:
        resolutions: as given.
        widths: as given.
        latent_dim: as given.
        mean_style: what `sampling.sample.mean_style` keeps, which also tells whether it still holds.
        checkpoint_levels: resolutions whose activations are computed again in the backward pass, not kept.
    """

    def __init__(self, resolutions: Sequence[int], widths: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.widths = tuple(widths)
        self.latent_dim = latent_dim
        self.checkpoint_levels: tuple[int, ...] = ()
        self.mean_style: MeanStyle | None = None  # no buffer: a copy of other weights has no use for it

    @property
    def resolution(self) -> int:
        """Pixels a side of an image, R."""
        return self.resolutions[-1]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters, and of the latents that they take."""
        return next(self.parameters()).dtype

    @property
    @abstractmethod
    def num_styles(self) -> int:
        """Styles that a w+ holds."""

    @abstractmethod
    def first_style(self, resolution: int) -> int:
        """Index in a w+ of the first style that acts at a level.

        Raises:
            UserError: there is no such level.
        """

    @abstractmethod
    def mapping(self, z: Tensor) -> Tensor:
        """Latents z `(B, latent_dim)` → styles w `(B, latent_dim)`."""

    @abstractmethod
    def synthesis(self, w: Tensor) -> Tensor:
        """Styles w `(B, latent_dim)`, or w+ `(B, num_styles, latent_dim)`, → images `(B, 3, R, R)`."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The modules of every level, in the order in which they run."""

    def attention(self, resolution: int, block: int) -> Attention:
        """The attention layer of a block of a level.

        Raises:
            UserError: there is no such level or block, or it has no attention.
        """
        self.level_index(resolution)
        name = type(self).__name__
        raise UserError(f"level {resolution} of {name} has no attention to show: take another generator")

    def forward(self, z: Tensor) -> Tensor:
        """Latents z `(B, latent_dim)` → ImageNet-normalized images `(B, 3, R, R)`."""
        return self.synthesis(self.mapping(z))

    def level_index(self, resolution: int) -> int:
        """The place of a level among `resolutions`.

        Raises:
            UserError: there is no such level.
        """
        if resolution not in self.resolutions:
            known = ", ".join(map(str, self.resolutions))
            raise UserError(f"level {resolution!r} is none of this generator's: take one of {known}")
        return self.resolutions.index(resolution)

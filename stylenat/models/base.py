"""What every generator offers, so that nothing outside of `models` reaches into one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from stylenat.attention.layers import Attention
from stylenat.attention.transforms import transformed
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
    it has any to show.

    Args:
        resolutions: tokens or pixels a side of each level, ascending; the last is the image's.
        widths: channels of each level.
        latent_dim: size of z.
        style_dim: size of w; 0: that of z.

    Attributes:
        resolutions: as given.
        widths: as given.
        latent_dim: as given.
        style_dim: size of w.
        mean_style: what `sampling.sample.mean_style` keeps, which also tells whether it still holds.
        checkpoint_levels: resolutions whose activations are computed again in the backward pass, not kept.
        has_style_space: whether styles are learned, so that truncation means something.
        shows_attention: whether `attention` has layers to give.
    """

    has_style_space = True
    shows_attention = False

    def __init__(
        self, resolutions: Sequence[int], widths: Sequence[int], latent_dim: int, style_dim: int = 0
    ) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.widths = tuple(widths)
        self.latent_dim = latent_dim
        self.style_dim = style_dim or latent_dim
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
        """Latents z `(B, latent_dim)` → styles w `(B, style_dim)`."""

    @abstractmethod
    def synthesis(self, w: Tensor) -> Tensor:
        """Styles w `(B, style_dim)`, or w+ `(B, num_styles, style_dim)`, → images `(B, 3, R, R)`."""

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

    def describe_level(self, resolution: int) -> str:
        """What a level is made of, in a few words.

        Raises:
            UserError: there is no such level.
        """
        return f"{self.widths[self.level_index(resolution)]} channels"

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

    def call_level(self, resolution: int, module: nn.Module, *inputs: Any) -> Tensor:
        """`module(*inputs)`; of `checkpoint_levels`, the backward pass computes its activations again.

        Args:
            resolution: of the level that the module belongs to.
            module: without a side effect, such as running statistics.
            inputs: tensors, or sequences of them.
        """
        if resolution not in self.checkpoint_levels:
            return module(*inputs)
        # Transforms know no hooks on saved tensors, which recomputation needs.
        if not torch.is_grad_enabled() or transformed():
            return module(*inputs)
        if torch.compiler.is_compiling():
            return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
        # With the tensors of this call: `functional_call` may have put others in the place of the module's
        # own, and takes them away before the backward pass.
        tensors: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())

        def run(*inputs: Any) -> Tensor:
            return functional_call(module, tensors, inputs)

        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)

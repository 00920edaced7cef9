"""Generators whose large products are in bfloat16: weights are rounded once, and not at every call.

What is rounded are the weights and inputs of the linear layers of blocks and of the ways up (of StyleGAN-XL,
of its convolutions), where nearly all arithmetic is. Their sums stay in float32 within a product, and so do
the residual stream, norms, softmax, styles and colors.
"""

import copy

import torch
from torch import nn

from stylenat.attention.linear import Linear
from stylenat.device import pick_precision
from stylenat.errors import UserError
from stylenat.models.base import Generator
from stylenat.models.stylegan_xl import SynthesisLayer


def product_dtype(generator: Generator) -> torch.dtype:
    """Type of a generator's large products: that of its other tensors, but after `cast`."""
    for module in _castable(generator):
        return module.get_parameter("weight").dtype
    return generator.dtype


def cast(generator: Generator, dtype: str = "auto") -> Generator:
    """A generator to sample from whose large products are in a type.

    Its mean style and its latents are those of the weights as they were; it is not to be trained or saved.

    Args:
        generator: on the device where it is to be used, in float32.
        dtype: "float32", "bfloat16" or "auto", see `pick_precision`.

    Returns:
        A copy in eval mode, without gradients of weights; the generator itself where it has that type.

    Raises:
        UserError: an unknown type, a device that does not compute in it, a generator without layers that can,
            or one whose weights are rounded already and float32 is asked for.
    """
    wanted = pick_precision(dtype, generator.device).dtype
    found = product_dtype(generator)
    if found == wanted:
        return generator
    if wanted == torch.float32:
        raise UserError(f"the generator's weights are {found}: load it again for float32")
    if not _castable(generator):
        name = type(generator).__name__
        raise UserError(f"{name} has no layers that compute in bfloat16: take float32")
    rounded = copy.deepcopy(generator).eval().requires_grad_(False)
    for module in _castable(rounded):
        for name in ("weight", "bias") if isinstance(module, Linear) else ("weight",):
            parameter = getattr(module, name)
            if parameter is not None:
                parameter.data = parameter.data.to(wanted)
    return rounded


def _castable(generator: Generator) -> list[nn.Module]:
    """The modules whose weights `cast` rounds."""
    found: list[nn.Module] = []
    for module in generator.modules():
        is_convolution = isinstance(module, SynthesisLayer) and module.activation is not None
        if is_convolution or isinstance(module, Linear):
            found.append(module)
    return found

"""The matrix products that a network is made of, and the time that they take alone: the matmul time.

Imports nothing but PyTorch: scripts/bench.py also uses it beside the package of an older commit.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:  # scripts/bench.py also counts an older commit's products, which has no such module
    from stylenat.models.base import Generator

aten = torch.ops.aten
_CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
_DENSE = (aten.mm, aten.addmm, *_CONVOLUTIONS)
# Kinds of products.
WEIGHTS = "weights"
ATTENTION = "attention"
FILTERS = "filters"
# Where the weight and `groups` stand among the arguments.
_WEIGHT = {aten.convolution: 1, aten.convolution_backward: 2}
_GROUPS = {aten.convolution: 8, aten.convolution_backward: 9}


class Shape(NamedTuple):
    """What is kept of a tensor.

    Attributes:
        size: its size.
        stride: its stride, in elements.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]


class Product(NamedTuple):
    """A kind of matrix product.

    Attributes:
        operator: the PyTorch operator, an overload.
        arguments: what it is called with, a `Shape` for each tensor.
        macs: multiply-accumulates of one call.
        bytes: of operands and results, each counted once.
        level: the resolution it belongs to; None: to none, or it is part of a backward pass.
        kind: by learned weights, in attention, or by a fixed filter.
    """

    operator: Any
    arguments: tuple
    macs: int
    bytes: int
    level: int | None
    kind: str

    @property
    def dense(self) -> bool:
        """Whether it has learned weights."""
        return self.kind == WEIGHTS


class Recorder(TorchDispatchMode):
    """Counts the products of what runs inside.

    To be used on the meta device: there nothing is computed, and nothing is cut into slices.

    Attributes:
        products: how many calls there were of each product.
        level: the resolution that products belong to at the moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()
        self.level: int | None = None

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple = (), options: dict | None = None
    ) -> Any:
        out = operator(*arguments, **(options or {}))
        if operator.overloadpacket in flop_registry:
            self.products[self._product(operator, arguments, options or {}, out)] += 1
        return out

    def _product(self, operator: Any, arguments: tuple, options: dict, out: Any) -> Product:
        packet = operator.overloadpacket
        flops = flop_registry[packet](*arguments, **options, out_val=out)
        size = 0
        for leaf in tree_leaves((arguments, out)):
            if isinstance(leaf, torch.Tensor):
                size += leaf.numel() * leaf.element_size()
        kind = _kind(packet, arguments)
        if packet is aten.addmm:  # the product alone is timed, without adding the bias
            frozen = _freeze(arguments[1:])
            return Product(aten.mm.default, frozen, flops // 2, size, self.level, kind)
        return Product(operator, _freeze(arguments), flops // 2, size, self.level, kind)


def _kind(packet: Any, arguments: tuple) -> str:
    """The kind of a product."""
    if packet not in _DENSE:
        return ATTENTION
    return FILTERS if _is_filter(packet, arguments) else WEIGHTS


def _is_filter(packet: Any, arguments: tuple) -> bool:
    """Whether it is a fixed filter: a convolution of every channel by itself.

    Groups of more channels are modulated convolutions, an image a group (StyleGAN2, appendix B).
    """
    if packet not in _CONVOLUTIONS:
        return False
    groups = arguments[_GROUPS[packet]]
    channels = arguments[_WEIGHT[packet]].shape[1]  # of a group
    return groups > 1 and channels == 1


def _freeze(arguments: tuple) -> tuple:
    """The arguments as something hashable: tensors become `Shape`s, lists tuples."""

    def shape(x: Any) -> Any:
        return Shape(tuple(x.shape), x.stride()) if isinstance(x, torch.Tensor) else x

    return _as_tuples(tree_map(shape, tuple(arguments)))


def _as_tuples(x: Any) -> Any:
    if isinstance(x, Shape) or not isinstance(x, list | tuple):
        return x
    return tuple(_as_tuples(entry) for entry in x)


def generator_products(generator: "Generator", batch: int) -> Counter[Product]:
    """The products of one call of a generator; each belongs to a level, or to the mapping.

    Args:
        generator: it is copied to the meta device.
        batch: images a call.

    Returns:
        How many calls there are of each `Product`.
    """
    twin = copy.deepcopy(generator).to("meta").eval()
    recorder = Recorder()

    def mark(module: nn.Module, level: int) -> None:
        module.register_forward_pre_hook(lambda *_: setattr(recorder, "level", level))
        module.register_forward_hook(lambda *_: setattr(recorder, "level", None))

    for stage in twin.stages():
        for module in stage.modules:
            mark(module, stage.resolution)
    with recorder, torch.no_grad():  # inference mode would hide what linear layers are made of
        twin(torch.empty(batch, twin.latent_dim, device="meta"))
    return recorder.products


class Macs(NamedTuple):
    """Multiply-accumulates by the kind of their product.

    Attributes:
        weights: by learned weights.
        attention: in attention, a query with each of its keys.
        filters: by fixed filters.
    """

    weights: int
    attention: int
    filters: int


def macs(products: Counter[Product]) -> Macs:
    """Multiply-accumulates of all products."""
    counts = {WEIGHTS: 0, ATTENTION: 0, FILTERS: 0}
    for product, n in products.items():
        counts[product.kind] += n * product.macs
    return Macs(**counts)


class MatmulTime:
    """The machine's matmul time: calling it gives the seconds that the dense products take by themselves.

    Args:
        products: how many calls there are of each `Product`.
        device: where they are computed.
        dtype: of the operands.
    """

    def __init__(
        self, products: Counter[Product], device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = torch.device(device)
        self.calls: Counter[tuple[Any, tuple]] = Counter()
        for product, n in products.items():
            if product.dense:  # alike on every level
                self.calls[product.operator, product.arguments] += n
        extent = 1
        for _, arguments in self.calls:
            for x in arguments:
                if isinstance(x, Shape):
                    extent = max(extent, _extent(x))
        self.pool = torch.rand(extent, device=self.device).to(dtype)  # every operand is a view of it

    @torch.inference_mode()
    def __call__(self) -> float:
        """Seconds of the dense products, each kind timed once and counted as often as it is called."""
        seconds = 0.0
        for (operator, arguments), n in self.calls.items():
            operands = [self.pool.as_strided(*x) if isinstance(x, Shape) else x for x in arguments]

            def product(operator: Any = operator, operands: list = operands) -> Any:
                return operator(*operands)

            product()
            seconds += n * timed(product, self.device)
        return seconds


def _extent(shape: Shape) -> int:
    """Elements from the first to the last of a tensor."""
    return 1 + sum((n - 1) * stride for n, stride in zip(shape.size, shape.stride, strict=True))


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call; on a GPU by its events."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first = torch.cuda.Event(enable_timing=True)
    last = torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3

"""The products that a network is made of, and the time that the machine takes for them alone: the floor."""

import copy
import time
from collections import Counter
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
_CONVOLUTIONS = aten.convolution, aten.convolution_backward
_DENSE = aten.mm, aten.addmm, *_CONVOLUTIONS


class Shape(NamedTuple):
    """Of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]


class Product(NamedTuple):
    """A kind of product: operator, arguments with a `Shape` for each tensor, and what a call takes."""

    operator: object
    arguments: tuple
    macs: int
    bytes: int  # operands and results, once each
    level: int | None  # the resolution it belongs to; None: none, or in a backward pass
    dense: bool  # with learned weights: neither attention nor a fixed filter


class Recorder(TorchDispatchMode):
    """Counts the products of what runs inside in `products`, a `Counter` of `Product`.

    To be used on the meta device: there nothing is computed, and nothing cut into slices.
    """

    def __init__(self):
        super().__init__()
        self.products, self.level = Counter(), None

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        out = operator(*arguments, **(options or {}))
        packet = operator.overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*arguments, **(options or {}), out_val=out)
            tensors = tree_leaves((arguments, out))
            size = sum(x.numel() * x.element_size() for x in tensors if isinstance(x, torch.Tensor))
            groups = arguments[8 if packet is aten.convolution else 9] if packet in _CONVOLUTIONS else 1
            if packet is aten.addmm:  # the floor is of the product alone
                operator, arguments = aten.mm.default, arguments[1:]
            dense = packet in _DENSE and groups == 1  # the filters are convolutions of one channel each
            frozen = tree_map(_freeze, tuple(arguments))
            self.products[Product(operator, _tuples(frozen), flops // 2, size, self.level, dense)] += 1
        return out


def _freeze(x):
    return Shape(tuple(x.shape), x.stride()) if isinstance(x, torch.Tensor) else x


def _tuples(x):
    return tuple(map(_tuples, x)) if isinstance(x, list | tuple) and not isinstance(x, Shape) else x


def generator_products(generator, batch):
    """The products of one call, a `Counter` of `Product`; each belongs to a level, or to the mapping."""
    twin = copy.deepcopy(generator).to("meta").eval()
    with Recorder() as recorder, torch.no_grad():  # inference mode would hide what linear layers are made of
        for resolution, modules in twin.stages():
            for module in modules:
                module.register_forward_pre_hook(
                    lambda *_, level=resolution: setattr(recorder, "level", level)
                )
                module.register_forward_hook(lambda *_: setattr(recorder, "level", None))
        twin(torch.empty(batch, twin.latent_dim, device="meta"))
    return recorder.products


def macs(products):
    """Multiply-accumulates of dense products and of attention."""
    dense, attention = (
        sum(n * p.macs for p, n in products.items() if p.dense == wanted) for wanted in (True, False)
    )
    return dense, attention


class Floor:
    """The machine's floor: calling it gives the seconds that the dense products take by themselves.

    Args:
        products: a `Counter` of `Product`.
    """

    def __init__(self, products, device, dtype=torch.float32):
        self.device, self.products = torch.device(device), Counter()
        for product, n in products.items():
            if product.dense:  # alike on every level
                self.products[product.operator, product.arguments] += n
        shapes = [x for _, arguments in self.products for x in arguments if isinstance(x, Shape)]
        extent = max(1 + sum((n - 1) * s for n, s in zip(*x, strict=True)) for x in shapes)
        self.pool = torch.rand(extent, device=self.device).to(dtype)  # every operand is a view of it

    def _operands(self, arguments):
        return [self.pool.as_strided(*x) if isinstance(x, Shape) else x for x in arguments]

    @torch.inference_mode()
    def __call__(self):
        seconds = 0.0
        for (operator, arguments), n in self.products.items():
            operands = self._operands(arguments)
            operator(*operands)
            seconds += n * timed(lambda f=operator, x=operands: f(*x), self.device)
        return seconds


def timed(call, device):
    """Seconds of a call; on a GPU by its events."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3

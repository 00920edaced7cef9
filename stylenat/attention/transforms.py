"""What PyTorch's transforms ask of code that is more than plain operations: is one at work, and which.

Operators and autograd functions of our own know derivatives by reverse mode alone; a forward-mode tangent
would be lost in them without a word. Where `torch.func` or forward mode is at work, plain operations take
their place.
"""

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

_VMAP = torch._C._functorch.TransformType.Vmap


# PyTorch's compiler compiles again for other levels, so that a frame may hold the answers as constants.
@torch.compiler.assume_constant_result
def transformed() -> bool:
    """Whether a `torch.func` transform or forward-mode differentiation is at work."""
    return forward_mode() or torch._C._functorch.peek_interpreter_stack() is not None


@torch.compiler.assume_constant_result
def differentiated() -> bool:
    """Whether one is at work that differentiates, that is other than `vmap`."""
    return forward_mode() or func_differentiates()


@torch.compiler.assume_constant_result
def func_differentiates() -> bool:
    """Whether `torch.func` does."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return False
    return any(level.key() != _VMAP for level in torch._C._functorch.get_interpreter_stack())


@torch.compiler.assume_constant_result
def forward_mode() -> bool:
    """Whether tensors may have tangents: within `forward_ad.dual_level`, `jvp`, `jacfwd` or `hessian`."""
    return forward_ad._current_level >= 0


def plain_only() -> bool:
    """Whether code is compiled, traced or transformed, so that plain operations have to do."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed()


def differentiated_again(grad: Tensor) -> bool:
    """Whether a backward pass given this gradient has to be out of operations that have derivatives.

    So it is where a second derivative is asked for, or several first ones at once.
    """
    return torch.is_grad_enabled() or transformed() or batched(grad)


def batched(x: Tensor) -> bool:
    """Whether `is_grads_batched` works on this very tensor, by a `vmap` older than `torch.func`'s."""
    return torch._C._functorch.is_legacy_batchedtensor(x)


def wrapped(x: Tensor) -> bool:
    """Whether a `torch.func` transform works on this very tensor."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def sizes(x: Tensor) -> tuple[int, ...]:
    """A tensor's shape; in plain numbers under `torch.jit.trace`, too, which puts tensors in their place."""
    if not torch.jit.is_tracing():
        return tuple(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that the trace holds them as constants
        return tuple(int(size) for size in x.shape)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension.

    Under forward mode out of its parts, for PyTorch's own tangent then has no derivative by reverse mode.
    """
    if not forward_mode():
        return x.softmax(-1)
    powers = (x - x.detach().amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)

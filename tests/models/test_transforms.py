"""Every way PyTorch differentiates and transforms, of attention, its layers and both networks.

A subject is a small float64 module; beside it stands its twin of the same weights, made of plain operations
alone. All that can be differentiated is moved along three directions at once, `a` of shape `(3,)`: the input
and, but where they are frozen, the weights. What a transform gives is compared with nested reverse-mode
derivatives of the twin.
"""

import copy
import io
import multiprocessing
import pickle
import warnings
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_wheels, refusal, relative_error
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)

from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import Full, ShiftedWindows, parse_partitions
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import MLP, StyleNAT, Upsample
from stylenat.sampling.projection import project
from stylenat.sampling.sample import mean_style, sample_images

EXACT = 1e-9  # relative error in float64
DIRECTIONS = 3
OUTPUTS = 4
PARTITIONS = parse_partitions("1x3@1,1x3@2")


# The subjects


class Attention(nn.Module):
    """`neighborhood_attention` of q, k, v `(B, 3, H, W, heads, c)`, its tables as weights."""

    def __init__(self):
        super().__init__()
        self.backend = "auto"
        self.tables = nn.ParameterList(torch.randn(part.table_shape) for part in PARTITIONS)

    def forward(self, x):
        return neighborhood_attention(*x.unbind(1), PARTITIONS, self.tables, backend=self.backend)


class PlainMLP(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.fc1 = mlp.fc1
        self.fc2 = mlp.fc2

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class PlainLayerNorm(nn.Module):
    """PyTorch's own has wrong derivatives of higher order under `torch.func` and forward mode."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias

    def forward(self, x):
        deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * self.weight + self.bias


class PlainSpectralNorm(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.weight_orig = layer.weight_orig
        self.bias = layer.bias
        self.register_buffer("weight_u", layer.weight_u)
        self.register_buffer("weight_v", layer.weight_v)
        self.options = (
            {"stride": layer.stride, "padding": layer.padding} if self.weight_orig.ndim == 4 else None
        )

    def forward(self, x):
        largest = torch.einsum("o,oi,i->", self.weight_u, self.weight_orig.flatten(1), self.weight_v)
        weight = self.weight_orig / largest
        if self.options is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, **self.options)


def twin_of(module):
    """The same weights, in plain operations alone."""
    twin = copy.deepcopy(module)
    if isinstance(twin, MLP):
        return PlainMLP(twin)
    for parent in list(twin.modules()):
        if hasattr(parent, "backend"):
            parent.backend = "reference"
        for name, child in list(parent.named_children()):
            if isinstance(child, MLP):
                setattr(parent, name, PlainMLP(child))
            elif isinstance(child, nn.LayerNorm):
                setattr(parent, name, PlainLayerNorm(child))
            elif hasattr(child, "weight_orig"):
                setattr(parent, name, PlainSpectralNorm(child))
    return twin


def small_generator():
    generator = StyleNAT((8, 8), ((Full(2),), PARTITIONS), latent_dim=6, mapping_depth=1)
    for name, parameter in generator.named_parameters():
        if "style" not in name:
            nn.init.normal_(parameter, std=0.4)  # so that all parts count
    return generator


SUBJECTS = {
    "attention": (Attention, (3, 19, 6, 2, 1)),
    "hydra": (lambda: HydraNeighborhoodAttention(4, PARTITIONS), (18, 6, 4)),
    "full": (lambda: FullAttention(4, 2), (4, 4, 4)),
    "windows": (lambda: ShiftedWindowAttention(4, ShiftedWindows(2, 4)), (8, 8, 4)),
    "mlp": (lambda: MLP(3), (5, 7, 3)),
    "upsample": (lambda: Upsample(4, 8), (4, 4, 4)),
    "generator": (small_generator, (6,)),
    "discriminator": (lambda: Discriminator((6, 4)), (3, 16, 16)),
}


def make_module(name):
    torch.manual_seed(0)
    make, _ = SUBJECTS[name]
    module = make()
    if name in ("hydra", "full", "windows", "mlp", "upsample"):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    if name == "discriminator":
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        with torch.no_grad():
            module(torch.randn(4, *SUBJECTS[name][1]))  # a step of the power iteration
    return module.eval()


def make_input(name, batch=2):
    return torch.randn(
        batch, *SUBJECTS[name][1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@dataclass
class Subject:
    """A module as functions of `a`, the way along three directions from its input and weights.

    Attributes:
        module: in float64.
        x: its input.
        x_ways: three directions of it.
        weights: of the module.
        weight_ways: three directions of each.
        frozen: whether the weights stay where they are.
    """

    module: nn.Module
    x: Tensor
    x_ways: Tensor
    weights: dict[str, Tensor]
    weight_ways: dict[str, Tensor]
    frozen: bool = False

    def output(self, a):
        x = self.x + torch.tensordot(a, self.x_ways, 1)
        if self.frozen:
            return self.module(x)
        weights = {}
        for name, weight in self.weights.items():
            weights[name] = weight + torch.tensordot(a, self.weight_ways[name], 1)
        return functional_call(self.module, weights, (x,))

    def outputs(self, a):
        """A few numbers `(OUTPUTS,)`, each of them the sum of many outputs."""
        y = self.output(a).flatten()
        mix = torch.arange(OUTPUTS * len(y), dtype=y.dtype).cos().view(OUTPUTS, -1)
        return mix @ y.sin()

    def scalar(self, a):
        return self.outputs(a).square().sum() / 2


def make_subject(name, twin=False, frozen=False):
    module = make_module(name).double()
    if twin:
        module = twin_of(module)
    if frozen:
        module.requires_grad_(False)
    torch.manual_seed(2)
    x = make_input(name)
    weights = {key: value.detach() for key, value in module.named_parameters()}
    ways = {key: torch.randn(DIRECTIONS, *weights[key].shape).double() for key in sorted(weights)}
    x_ways = torch.randn(DIRECTIONS, *x.shape).double()
    return Subject(
        module,
        x,
        x_ways / 3,
        weights,
        {k: 0.03 * w * weights[k].norm() / w.norm() * 3**0.5 for k, w in ways.items()},
        frozen,
    )


# What is right: nested reverse-mode derivatives of the twin

HERE = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
POINTS = torch.stack([HERE, HERE.flip(0), -HERE, 2 * HERE])
WAY = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def nested_gradient(numbers, a):
    """The gradient of each of the numbers by a, itself a function of a."""
    rows = [torch.autograd.grad(number, a, create_graph=True)[0] for number in numbers.flatten()]
    return torch.stack(rows).view(*numbers.shape, DIRECTIONS)


@cache
def right(name, frozen=False):
    subject = make_subject(name, twin=True, frozen=frozen)

    def at(point):
        a = point.clone().requires_grad_()
        outputs = subject.outputs(a)
        scalar = outputs.square().sum() / 2
        first = nested_gradient(scalar, a)
        second = nested_gradient(first, a)
        found = {
            "outputs": outputs,
            "jacobian": nested_gradient(outputs, a),
            "gradient": first,
            "hessian": second,
        }
        if point is HERE and name != "generator":  # which would take seconds
            found["third"] = nested_gradient(second, a)
        return {key: value.detach() for key, value in found.items()}

    here = at(HERE)
    here["tangent"] = here["jacobian"] @ WAY
    points = [at(point) for point in POINTS]
    for key in ("outputs", "jacobian", "gradient", "hessian"):
        here[f"{key} at all points"] = torch.stack([each[key] for each in points])
    return here


# The transforms: name → (what it should equal, how)


def by_columns(pushforward):
    """A Jacobian out of one derivative for each direction."""
    return torch.stack([pushforward(way) for way in torch.eye(DIRECTIONS, dtype=torch.float64)], -1)


def by_vjp(f):
    _, pull = vjp(f, HERE)
    return torch.stack([pull(row)[0] for row in torch.eye(OUTPUTS, dtype=torch.float64)])


def by_linearize(f):
    _, push = linearize(f, HERE)
    return by_columns(push)


def by_dual(f):
    def push(way):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(HERE, way))).tangent

    return by_columns(push)


def forward_over_reverse(f):
    def push(way):
        with forward_ad.dual_level():
            a = forward_ad.make_dual(HERE.clone().requires_grad_(), way)
            (gradient,) = torch.autograd.grad(f(a), a, create_graph=True)
            return forward_ad.unpack_dual(gradient).tangent.detach()

    return by_columns(push)


def reverse_over_forward(f):
    def push(way):
        a = HERE.clone().requires_grad_()
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(a, way))).tangent
            return torch.autograd.grad(tangent, a)[0]

    return by_columns(push)


def dual_cotangent(f):
    """The Jacobian's rows as the derivative of a vector-Jacobian product by the vector."""
    a = HERE.clone().requires_grad_()
    outputs = f(a)
    rows = []
    for way in torch.eye(OUTPUTS, dtype=torch.float64):
        with forward_ad.dual_level():
            cotangent = forward_ad.make_dual(torch.ones(OUTPUTS, dtype=torch.float64), way)
            (row,) = torch.autograd.grad(outputs, a, cotangent, retain_graph=True)
            rows.append(forward_ad.unpack_dual(row).tangent)
    return torch.stack(rows)


def functional_cotangent(f):
    """The same, `torch.func.jvp` of an ordinary graph's backward pass."""
    a = HERE.clone().requires_grad_()
    outputs = f(a)

    def pull(cotangent):
        return torch.autograd.grad(outputs, a, cotangent, retain_graph=True)[0]

    ones = torch.ones(OUTPUTS, dtype=torch.float64)
    return torch.stack([jvp(pull, (ones,), (way,))[1] for way in torch.eye(OUTPUTS, dtype=torch.float64)])


def nested(f, order):
    a = HERE.clone().requires_grad_()
    found = f(a)
    for _ in range(order):
        found = nested_gradient(found, a)
    return found.detach()


def batched_cotangents(f):
    a = HERE.clone().requires_grad_()
    return torch.autograd.grad(f(a), a, torch.eye(OUTPUTS, dtype=torch.float64), is_grads_batched=True)[0]


def batched_second(f):
    a = HERE.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(a), a, create_graph=True)
    return torch.autograd.grad(first, a, torch.eye(DIRECTIONS, dtype=torch.float64), is_grads_batched=True)[0]


def compiled(f):
    torch._dynamo.reset()
    return torch.compile(f, backend="aot_eager")


def jvp_of_vmap(f):
    """Derivatives at all points at once, one direction at a time."""
    return by_columns(lambda way: jvp(vmap(f), (POINTS,), (way.expand_as(POINTS),))[1])


def vmap_of_jvp(f):
    return by_columns(lambda way: vmap(lambda a: jvp(f, (a,), (way,))[1])(POINTS))


FUNCTIONAL = torch.autograd.functional
OF_OUTPUTS = {
    "call": ("outputs", lambda f: f(HERE)),
    "no_grad": ("outputs", lambda f: torch.no_grad()(f)(HERE)),
    "inference_mode": ("outputs", lambda f: torch.inference_mode()(f)(HERE)),
    "vmap": ("outputs at all points", lambda f: vmap(f)(POINTS)),
    "vmap, out of order": ("outputs at all points", lambda f: vmap(f, in_dims=1, out_dims=1)(POINTS.T).T),
    "vmap of vmap": ("outputs at all points", lambda f: vmap(vmap(f))(POINTS.view(2, 2, -1)).flatten(0, 1)),
    "vmap by chunks": ("outputs at all points", lambda f: vmap(f, chunk_size=3)(POINTS)),
    "vjp": ("jacobian", by_vjp),
    "jacrev": ("jacobian", lambda f: jacrev(f)(HERE)),
    "jacfwd": ("jacobian", lambda f: jacfwd(f)(HERE)),
    "jvp": ("jacobian", lambda f: by_columns(lambda way: jvp(f, (HERE,), (way,))[1])),
    "linearize": ("jacobian", by_linearize),
    "forward_ad": ("jacobian", by_dual),
    "forward_ad, no_grad": ("jacobian", lambda f: by_dual(torch.no_grad()(f))),
    "forward_ad of the cotangent": ("jacobian", dual_cotangent),
    "jvp of the cotangent": ("jacobian", functional_cotangent),
    "is_grads_batched": ("jacobian", batched_cotangents),
    "functional.jacobian": ("jacobian", lambda f: FUNCTIONAL.jacobian(f, HERE)),
    "functional.jacobian, vectorized": ("jacobian", lambda f: FUNCTIONAL.jacobian(f, HERE, vectorize=True)),
    "functional.jacobian, forward": (
        "jacobian",
        lambda f: FUNCTIONAL.jacobian(f, HERE, vectorize=True, strategy="forward-mode"),
    ),
    "functional.jvp": ("jacobian", lambda f: by_columns(lambda way: FUNCTIONAL.jvp(f, HERE, way)[1])),
    "jvp of vmap": ("jacobian at all points", jvp_of_vmap),
    "vmap of jvp": ("jacobian at all points", vmap_of_jvp),
    "vmap of jacrev": ("jacobian at all points", lambda f: vmap(jacrev(f))(POINTS)),
    "vmap of jacfwd": ("jacobian at all points", lambda f: vmap(jacfwd(f))(POINTS)),
    "compile": ("outputs", lambda f: compiled(f)(HERE)),
    "compile of jvp": ("tangent", lambda f: compiled(lambda a: jvp(f, (a,), (WAY,))[1])(HERE)),
    "jvp of compile": ("tangent", lambda f: jvp(compiled(f), (HERE,), (WAY,))[1]),
    "compile of vmap": ("outputs at all points", lambda f: compiled(vmap(f))(POINTS)),
}
OF_SCALAR = {
    "grad": ("gradient", lambda f: grad(f)(HERE)),
    "vmap of grad": ("gradient at all points", lambda f: vmap(grad(f))(POINTS)),
    "grad of vmap": ("gradient at all points", lambda f: grad(lambda a: vmap(f)(a).sum())(POINTS)),
    "autograd": ("gradient", lambda f: nested(f, 1)),
    "autograd, twice": ("hessian", lambda f: nested(f, 2)),
    "autograd, three times": ("third", lambda f: nested(f, 3)),
    "jacrev of grad": ("hessian", lambda f: jacrev(grad(f))(HERE)),
    "jacrev of jacrev of grad": ("third", lambda f: jacrev(jacrev(grad(f)))(HERE)),
    "jacfwd of hessian": ("third", lambda f: jacfwd(hessian(f))(HERE)),
    "hessian": ("hessian", lambda f: hessian(f)(HERE)),
    "jacfwd of jacfwd": ("hessian", lambda f: jacfwd(jacfwd(f))(HERE)),
    "jacrev of jacfwd": ("hessian", lambda f: jacrev(jacfwd(f))(HERE)),
    "vmap of hessian": ("hessian at all points", lambda f: vmap(hessian(f))(POINTS)),
    "forward over reverse": ("hessian", forward_over_reverse),
    "reverse over forward": ("hessian", reverse_over_forward),
    "is_grads_batched, twice": ("hessian", batched_second),
    "functional.hessian": ("hessian", lambda f: FUNCTIONAL.hessian(f, HERE)),
    "functional.hessian, vectorized": ("hessian", lambda f: FUNCTIONAL.hessian(f, HERE, vectorize=True)),
    "functional.hvp": ("hessian", lambda f: by_columns(lambda way: FUNCTIONAL.hvp(f, HERE, way)[1])),
    "compile of grad": ("gradient", lambda f: compiled(grad(f))(HERE)),
    "autograd of compile": ("gradient", lambda f: nested(compiled(f), 1)),
}
THIRD = ("autograd, three times", "jacrev of jacrev of grad", "jacfwd of hessian")
FROZEN = (
    "autograd, twice",
    "autograd, three times",
    "functional.jvp",
    "forward_ad",
    "forward over reverse",
    "is_grads_batched, twice",
    "vmap of grad",
)
# Minutes, for the many operations of networks; what is not plain operations in them is in the other subjects.
SLOW = tuple(name for name in (*OF_OUTPUTS, *OF_SCALAR) if "compile" in name or name == "linearize")
LARGE = ("generator", "discriminator", "full", "windows")


def cells():
    for name in SUBJECTS:
        for transform in (*OF_OUTPUTS, *OF_SCALAR):
            if (name in LARGE and transform in SLOW) or (name == "generator" and transform in THIRD):
                continue
            yield pytest.param(name, transform, False, id=f"{transform} of {name}")
            if transform in FROZEN:
                yield pytest.param(name, transform, True, id=f"{transform} of frozen {name}")


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of slow fallbacks
@pytest.mark.parametrize(("name", "transform", "frozen"), list(cells()))
def test_derivatives_are_right(name, transform, frozen):
    subject = make_subject(name, frozen=frozen)
    if transform in OF_OUTPUTS:
        what, how = OF_OUTPUTS[transform]
        found = how(subject.outputs)
    else:
        what, how = OF_SCALAR[transform]
        found = how(subject.scalar)
    error = relative_error(found, right(name, frozen)[what])
    print(f"{transform} of {name}: relative error {error:.1e}")
    assert error < EXACT


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_called_right_agrees_with_finite_differences(name):
    """Each order against central differences of the order below, in steps of 1e-5 and with no derivative."""
    expected = right(name)
    subject = make_subject(name, twin=True)
    step = 1e-5

    def slopes(f):
        columns = []
        for way in step * torch.eye(DIRECTIONS, dtype=torch.float64):
            columns.append((f(HERE + way) - f(HERE - way)) / (2 * step))
        return torch.stack(columns, -1).detach()

    def gradient(point, order=1):
        a = point.clone().requires_grad_()
        found = subject.scalar(a)
        for _ in range(order):
            found = nested_gradient(found, a)
        return found.detach()

    assert relative_error(slopes(subject.outputs), expected["jacobian"]) < 1e-5
    assert relative_error(slopes(subject.scalar), expected["gradient"]) < 1e-5
    assert relative_error(slopes(gradient), expected["hessian"]) < 1e-5
    if "third" in expected:
        assert relative_error(slopes(lambda a: gradient(a, 2)), expected["third"]) < 1e-5


# Ways to carry a network elsewhere, and other types of numbers


def with_gradient(module, x):
    """Output and the input's gradient, as one vector."""
    inputs = x.clone().requires_grad_()
    out = module(inputs)
    (gradient,) = torch.autograd.grad(out.sum(), inputs)
    assert out.dtype == gradient.dtype
    return torch.cat([out.flatten(), gradient.flatten()]).detach()


def trained(name):
    """A module after a training step: its weights have gradients, and graphs were made."""
    module = make_module(name).double().train()
    module(make_input(name)).sum().backward()
    return module.eval()


def through_memory(save, load, thing):
    memory = io.BytesIO()
    save(thing, memory)
    memory.seek(0)
    return load(memory)


def saved(module, x):
    return through_memory(torch.save, lambda file: torch.load(file, weights_only=False), module)


def traced(module, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shapes become constants; that tracing is of the past
        return through_memory(torch.jit.save, torch.jit.load, torch.jit.trace(module, x))


def exported(module, x):
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    return through_memory(torch.export.save, torch.export.load, program).module()


CARRIED = {
    "pickle": lambda module, x: pickle.loads(pickle.dumps(module)),
    "torch.save": saved,
    "deepcopy": lambda module, x: copy.deepcopy(module),
    "DataParallel": lambda module, x: nn.DataParallel(module),
    "jit.trace": traced,
    "export": exported,
}


@cache
def carried_module(name, how):
    return CARRIED[how](trained(name), make_input(name))


@pytest.mark.parametrize("how", CARRIED)
@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_carried_elsewhere_is_the_same(name, how):
    module = trained(name)
    x = make_input(name)
    carried = carried_module(name, how)
    error = relative_error(with_gradient(carried, x), with_gradient(module, x))
    print(f"{how} of {name}: relative error {error:.1e}")
    assert error < (1e-14 if how in ("jit.trace", "export") else 1e-300)


@pytest.mark.parametrize("how", ["jit.trace", "export"])
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "discriminator"])
def test_traces_and_exports_take_other_batches(name, how):
    module = trained(name)
    carried = carried_module(name, how)
    for batch in (1, 5):
        x = make_input(name, batch)
        assert relative_error(carried(x), module(x)) < 1e-14


@pytest.mark.parametrize("how", ["jit.trace", "export"])
def test_a_carried_discriminator_refuses_a_batch_of_other_groups(how):
    """Batches of 2 are one group; 8 would be two groups of 4, and never four of 2."""
    carried = carried_module("discriminator", how)
    with pytest.raises((RuntimeError, AssertionError), match=r"Provided sizes|Guard failed"):
        carried(make_input("discriminator", 8))


@pytest.mark.parametrize("how", ["jit.trace", "export"])
def test_a_carried_attention_refuses_what_its_operator_does_not_know(how):
    module = trained("hydra")
    x = make_input("hydra")
    carried = carried_module("hydra", how)
    assert relative_error(vmap(carried)(x[None]), module(x)[None]) < 1e-14
    with pytest.raises((RuntimeError, NotImplementedError), match="has no forward-mode derivative: diff"):
        jvp(carried, (x,), (x,))
    with pytest.raises(RuntimeError, match="with functorch transforms"):  # PyTorch's own line
        grad(lambda y: carried(y).sum())(x)


# Largest relative errors of output and gradient.
TYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 0.005, torch.bfloat16: 0.12}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_other_types_of_numbers(name, dtype):
    module = make_module(name)
    x = make_input(name)
    expected = with_gradient(twin_of(module).double(), x)
    found = with_gradient(copy.deepcopy(module).to(dtype), x.to(dtype))
    error = relative_error(found, expected)
    print(f"{dtype} of {name}: relative error {error:.1e}")
    assert found.dtype == dtype and error < TYPES[dtype]


@pytest.mark.parametrize("name", SUBJECTS)
def test_autocast(name):
    module = make_module(name)
    x = make_input(name)
    expected = with_gradient(twin_of(module).double(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(inputs := x.float().requires_grad_())
    (gradient,) = torch.autograd.grad(found.float().sum(), inputs)
    error = relative_error(torch.cat([found.flatten().float(), gradient.flatten()]), expected)
    print(f"autocast of {name}: relative error {error:.1e}")
    assert error < 0.05


@pytest.mark.parametrize("name", SUBJECTS)
def test_shapes_alone(name):
    """Forward and backward on `meta`; forward on a GPU that is made up, of random weights and twice."""
    module = make_module(name)
    expected = module(make_input(name).float()).shape
    on_meta = copy.deepcopy(module).to("meta")
    x = make_input(name).float().to("meta").requires_grad_()
    out = on_meta(x)
    out.sum().backward()
    assert out.shape == expected and x.grad.shape == x.shape
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    with FakeTensorMode():
        state = {key: torch.empty(shape, device="cuda") for key, shape in shapes.items()}
        out = functional_call(module, state, torch.empty(x.shape, device="cuda"))
    assert out.shape == expected and out.device.type == "cuda"


def _call_all(modules, results):
    """In another process: what the modules give there."""
    results.put({name: with_gradient(module, make_input(name)).tolist() for name, module in modules.items()})


def test_spawned_processes():
    modules = {name: trained(name) for name in SUBJECTS}
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    worker = context.Process(target=_call_all, args=(modules, results))
    worker.start()
    found = results.get()
    worker.join()
    assert worker.exitcode == 0
    for name, module in modules.items():
        assert (
            relative_error(torch.tensor(found[name]).double(), with_gradient(module, make_input(name))) < 1e-6
        )


@pytest.mark.parametrize("dtype", TYPES)
def test_networks_of_other_types_sample(dtype):
    torch.manual_seed(0)
    generator = small_generator().eval()
    expected = sample_images(generator, range(4), truncation_psi=0.7)
    low = copy.deepcopy(generator).to(dtype)
    found = sample_images(low, range(4), truncation_psi=0.7)
    assert mean_style(low).dtype == dtype
    assert (found.int() - expected.int()).abs().float().mean() < (4 if dtype == torch.bfloat16 else 0.5)


@needs_wheels
def test_projection_of_a_float16_network_stays_finite():
    """Adam's smallest numbers are 0 in float16: its second step would divide 0 by 0."""
    torch.manual_seed(0)
    generator = small_generator().eval().half().requires_grad_(False)
    image = sample_images(generator, [0])[0]
    found = project(generator, image, steps=3)
    assert found.styles.dtype == torch.float16 and found.styles.isfinite().all()
    assert torch.tensor(found.losses).isfinite().all()


# What is refused


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd])
def test_a_discriminator_in_training_mode_is_refused(transform):
    """Its vectors would have to move within the transform."""
    module = make_module("discriminator").train()
    images = make_input("discriminator").float()
    state = copy.deepcopy(module.state_dict())
    assert refusal(transform(lambda x: module(x).sum()), images) == (
        "spectral norm moves its vectors at every call in training mode, which torch.func cannot transform: "
        "call eval() on the discriminator first"
    )
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_a_discriminator_in_training_mode_differentiates_forwards_as_backwards():
    module = make_module("discriminator").double().train()
    weights = {key: value.detach() for key, value in module.named_parameters()}
    way = {key: torch.randn_like(value) for key, value in weights.items()}
    images = make_input("discriminator")
    moved = copy.deepcopy(module)
    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    gradients = torch.autograd.grad(functional_call(moved, leaves, images).sum(), list(leaves.values()))
    expected = sum((g * w).sum() for g, w in zip(gradients, way.values(), strict=True))
    with forward_ad.dual_level():
        duals = {key: forward_ad.make_dual(value, way[key]) for key, value in weights.items()}
        found = forward_ad.unpack_dual(functional_call(module, duals, images).sum()).tangent
    assert relative_error(found, expected) < EXACT
    assert all(map(torch.equal, module.buffers(), moved.buffers()))


@pytest.mark.parametrize("levels", [(4,), (4, 8)])
def test_levels_that_are_computed_anew(levels):
    """Hooks on saved tensors, which recomputation needs, are unknown to `torch.func`: it does without."""
    subject = make_subject("generator")
    subject.module.checkpoint_levels = levels
    expected = right("generator")
    assert relative_error(grad(subject.scalar)(HERE), expected["gradient"]) < EXACT
    assert relative_error(hessian(subject.scalar)(HERE), expected["hessian"]) < EXACT
    assert relative_error(nested(subject.scalar, 2), expected["hessian"]) < EXACT

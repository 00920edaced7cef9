"""Products in bfloat16: near to float32, rounded once, everything else as it was."""

import pytest
import torch
from helpers import ROOT, Plain, refusal
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylenat.attention.linear import Linear
from stylenat.checkpoints.load import load_generator
from stylenat.images import psnr
from stylenat.models import mlp
from stylenat.models.build import build_generator
from stylenat.models.precision import cast, product_dtype
from stylenat.sampling.sample import interpolate, mean_style, sample_images, styles

BUNDLED = ROOT / "results" / "runs" / "noto-32-long" / "model"
OTHERS = ("smoke", "hit-32", "stylegan-xl-32")
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.convolution)


class Watch(TorchDispatchMode):
    """Notes the type of products' results, and which of some tensors are converted or copied."""

    def __init__(self, tensors=()):
        super().__init__()
        self.names = {tensor.data_ptr(): name for name, tensor in tensors}
        self.converted = []
        self.products = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        out = operator(*arguments, **(options or {}))
        if operator.overloadpacket in PRODUCTS:
            self.products.append(out.dtype)
        if operator.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.clone):
            for x in tree_leaves(arguments):
                if isinstance(x, torch.Tensor) and x.data_ptr() in self.names:
                    self.converted.append(self.names[x.data_ptr()])
        return out


@pytest.fixture(scope="module")
def trained():
    return load_generator(BUNDLED)


@pytest.fixture(scope="module")
def rounded(trained):
    return cast(trained, "bfloat16")


def build(preset):
    torch.manual_seed(0)
    return build_generator(preset).eval()


@pytest.mark.parametrize("psi", [1.0, 0.7])
def test_every_image_of_trained_weights_is_within_40_db(trained, rounded, psi):
    exact = sample_images(trained, range(40), truncation_psi=psi)
    found = sample_images(rounded, range(40), truncation_psi=psi)
    assert not torch.equal(exact, found)
    assert psnr(exact, found).min() > 40
    assert (exact.int() - found.int()).abs().float().mean() < 0.5  # of 255 levels


def test_psnr_is_its_definition():
    image = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    other = image.clone()
    other[1] += 51  # a fifth of the peak: 20 · log10(5) dB
    found = psnr(image, other)
    assert found[0] == torch.inf and found[1].item() == pytest.approx(13.9794, abs=1e-4)


def test_products_are_in_bfloat16_and_the_rest_is_not(trained, rounded):
    assert (product_dtype(trained), product_dtype(rounded)) == (torch.float32, torch.bfloat16)
    assert rounded.dtype == torch.float32  # of latents and styles
    lower = {name for name, x in rounded.named_parameters() if x.dtype == torch.bfloat16}
    linears = [name for name, module in rounded.named_modules() if isinstance(module, Linear)]
    assert len(linears) == 4 * 2 * len(trained.resolutions) + len(trained.resolutions) - 1
    assert {name.rpartition(".")[0] for name in lower} == set(linears)
    z = torch.randn(2, trained.latent_dim)
    with torch.no_grad():
        exact = trained.layers[0](torch.randn(2, 4, 4, trained.widths[0]), z.expand(2, *z.shape).unbind())
        with Watch() as watch:
            features = rounded.layers[0](torch.randn(2, 4, 4, trained.widths[0]), [z, z])
    assert features.dtype == exact.dtype == torch.float32  # the residual stream
    assert watch.products.count(torch.bfloat16) >= 4 * 2 + 1


def test_no_weight_is_converted_at_a_call(trained, rounded):
    z = torch.randn(1, trained.latent_dim)
    with torch.no_grad():
        rounded(z)
        with Watch(rounded.named_parameters()) as watch:
            rounded(z)
        with Watch(trained.named_parameters()) as under_autocast, torch.autocast("cpu", torch.bfloat16):
            trained(z)
    assert watch.converted == []
    assert len(under_autocast.converted) > 50


def test_the_original_is_left_alone():
    generator = build_generator("smoke")
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    copy = cast(generator, "bfloat16")
    assert not any(x.requires_grad for x in copy.parameters()) and not copy.training
    assert all(x.requires_grad for x in generator.parameters()) and generator.training
    after = generator.state_dict()
    assert list(before) == list(after) == list(copy.state_dict())
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert {x.dtype for x in after.values()} == {torch.float32}


def test_float32_is_the_generator_itself_and_its_layers_are_pytorch_s(trained, monkeypatch):
    assert cast(trained, "float32") is trained
    generator = build("smoke")
    monkeypatch.setattr(mlp, "_rounded_mlp", None)  # would fail
    z = torch.randn(2, generator.latent_dim)
    found = generator(z)
    gradients = torch.autograd.grad(found.square().sum(), list(generator.parameters()))
    monkeypatch.setattr(Linear, "forward", nn.Linear.forward)
    expected = generator(z)
    assert torch.equal(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(generator.parameters()))
    assert all(map(torch.equal, gradients, wanted))


def test_styles_and_their_mean_are_those_of_the_weights(trained, rounded):
    assert torch.equal(mean_style(rounded), mean_style(trained))
    assert torch.equal(styles(rounded, range(4), 0.7), styles(trained, range(4), 0.7))
    frames = interpolate(rounded, [0, 1], 2)
    assert psnr(frames, interpolate(trained, [0, 1], 2)).min() > 40


@pytest.mark.parametrize("preset", OTHERS)
def test_every_generator_has_a_near_one_in_bfloat16(preset):
    generator = build(preset)
    for name, x in generator.named_parameters():
        if name.endswith(("fc2.weight", "proj.weight")):  # freshly drawn, blocks would add next to nothing
            x.data.mul_(20)
    near = cast(generator, "bfloat16")
    z = torch.randn(2, generator.latent_dim)
    with torch.no_grad(), Watch() as watch:
        found = near(z)
    with torch.no_grad():
        exact = generator(z)
    assert torch.bfloat16 in watch.products and found.dtype == torch.float32
    assert 1e-4 < ((found - exact).norm() / exact.norm()).item() < 0.03


@pytest.mark.parametrize("preset", OTHERS)
def test_shapes_alone_will_do(preset):
    with torch.device("meta"):
        generator = cast(build_generator(preset), "bfloat16")
        assert product_dtype(generator) == torch.bfloat16
        out = generator(torch.empty(2, generator.latent_dim))
    assert out.shape == (2, 3, 32, 32) and out.dtype == torch.float32


@pytest.mark.parametrize("preset", OTHERS)
def test_so_will_a_gpu_that_is_not_there(preset):
    with torch.device("meta"):
        generator = cast(build_generator(preset), "bfloat16")
    kinds = {name: (x.shape, x.dtype) for name, x in generator.state_dict().items()}
    with FakeTensorMode(), torch.no_grad():
        state = {}
        for name, (shape, dtype) in kinds.items():
            state[name] = torch.empty(shape, dtype=dtype, device="cuda")
        assert torch.bfloat16 in {x.dtype for x in state.values()}
        z = torch.empty(2, generator.latent_dim, device="cuda")
        out = torch.func.functional_call(generator, state, z)
        assert out.shape == (2, 3, 32, 32) and out.dtype == torch.float32 and out.device.type == "cuda"


def test_gradients_of_a_style_come_through(trained, rounded):
    gradients = []
    for generator in (trained, rounded):
        w = styles(trained, [3]).clone().requires_grad_()
        gradients.append(torch.autograd.grad(generator.synthesis(w).square().mean(), w)[0])
    exact, found = gradients
    assert found.dtype == torch.float32
    assert ((found - exact).norm() / exact.norm()).item() < 0.05


def test_the_mlp_rounds_by_slices_what_it_rounds_at_once(monkeypatch):
    monkeypatch.setattr(mlp, "_HIDDEN", 64 * 7)  # slices of seven tokens
    x = torch.randn(2, 3, 5, 16)
    low = [torch.randn(size).div(4).bfloat16() for size in ((64, 16), (64,), (16, 64), (16,))]
    found = mlp.mlp(x, *low)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mlp.plain_mlp(x, *low).float(), rtol=0.02, atol=0.02)


def test_compiled_code_and_transforms_get_plain_operations(rounded):
    x = torch.randn(4, 1, 4, 4, rounded.widths[0])
    block = rounded.layers[0].blocks[0]
    style = torch.randn(1, rounded.style_dim)
    mapped = torch.func.vmap(lambda x: block(x, style))(x)
    torch.testing.assert_close(mapped[2], block(x[2], style), rtol=0.03, atol=0.03)


def test_what_cannot_be_cast_is_refused(trained, rounded):
    assert (
        refusal(cast, trained, "half") == "unknown dtype 'half'. There are float32, bfloat16, float16, auto"
    )
    assert refusal(cast, Plain(), "bfloat16") == "Plain has no layers that compute in bfloat16: take float32"
    assert "weights are torch.bfloat16: load it again for float32" in refusal(cast, rounded, "float32")
    assert cast(rounded, "bfloat16") is rounded

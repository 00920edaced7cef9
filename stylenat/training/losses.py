"""The losses, as functions that return scalar tensors (StyleNAT trains with StyleSwin's objective)."""

import torch
import torch.nn.functional as F


def generator_loss(fake_logits):
    """Non-saturating logistic loss of the generator (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits, fake_logits):
    """Logistic loss of the discriminator."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(logits, images):
    """Mean squared gradient norm of the logits at real images, without γ/2 (Mescheder et al. 2018, eq. 9).

    `images` must require a gradient; the penalty itself can be differentiated.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def consistency_loss(logits, augmented_logits):
    """Pulls the logits of images and of their augmented twins together (bCR, Zhao et al. 2021, section 3)."""
    return F.mse_loss(augmented_logits, logits)

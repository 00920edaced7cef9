"""The image space: uint8 images to what the networks see, and back."""

import io
import math

import torch
import torch.nn.functional as F
from PIL import Image

from stylenat.paths import write_atomically

# Torchvision's ImageNet statistics; the published generators were trained in this space.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _statistic(values, like):
    return torch.tensor(values, device=like.device, dtype=torch.float32).view(3, 1, 1)


def normalize(images):
    """uint8 `(B, 3, H, W)` → float32 `(B, 3, H, W)`, ImageNet-normalized."""
    return (images.float() / 255 - _statistic(MEAN, images)) / _statistic(STD, images)


def denormalize(images):
    """ImageNet-normalized `(B, 3, H, W)` → float32, 0 to 255 where in range; the input is left as it was."""
    return (images.float() * _statistic(STD, images) + _statistic(MEAN, images)) * 255


def to_uint8(images):
    """ImageNet-normalized `(B, 3, H, W)` → uint8, rounded and clipped."""
    return denormalize(images).round().clamp(0, 255).to(torch.uint8)


def image_grid(images, columns, gap=0):
    """Images uint8 `(N, 3, H, W)` side by side, row by row → one image `(3, rows · H, columns · W)`.

    `gap` white pixels stand between neighbors, and white in the places that the last row leaves empty.
    """
    empty = -len(images) % columns
    padded = F.pad(images, (0, gap, 0, gap, 0, 0, 0, empty), value=255)
    rows = padded.unflatten(0, (-1, columns))  # (rows, columns, 3, H + gap, W + gap)
    grid = rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return grid[:, : grid.shape[1] - gap, : grid.shape[2] - gap]


def enlarge(images, scale):
    """Images `(…, H, W)` → `(…, scale · H, scale · W)`, each pixel a square: nothing is blurred."""
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def save_png(path, image):
    """Write one image uint8 `(3, H, W)` as PNG, atomically."""
    buffer = io.BytesIO()
    _image(image).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def save_gif(path, images, *, frame_ms=40, scale=1):
    """Write images uint8 `(N, 3, H, W)` as a GIF that loops forever, atomically.

    All frames share one palette of 256 colors and none is dithered: what does not change does not flicker.

    Args:
        frame_ms: time of a frame; the format counts in steps of 10 ms.
        scale: whole factor by which tiny images are enlarged.
    """
    step = math.ceil((images.numel() / 2**19) ** 0.5)  # every so many pixels: refining a palette is slow
    sheet = _image(image_grid(images[..., ::step, ::step], 1))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    frames = [
        _image(enlarge(image, scale)).quantize(palette=palette, dither=Image.Dither.NONE) for image in images
    ]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    write_atomically(path, buffer.getvalue())


def _image(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())

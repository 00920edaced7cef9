"""Published statistics of real features: the mean and covariance that clean-fid stores in an `.npz`."""

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylenat.errors import UserError

_MODES = {"legacy_pytorch": "inception-legacy", "clean": "inception-clean"}  # as file names tell them


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean `(D,)` and covariance `(D, D)` of real features, float64; what `frechet_distance` takes.

    Attributes:
        name: the file's name without its ending, such as "ffhq_legacy_pytorch_trainval70k_256".
        manifest: the file's sha256.
    """

    name: str
    manifest: str
    mean: torch.Tensor
    covariance: torch.Tensor
    count: float = math.inf  # the file does not tell

    @classmethod
    def open(cls, path):
        """Read `mu` and `sigma` of an `.npz`.

        Raises:
            UserError: no such file, or one of another form.
        """
        path = Path(path).expanduser()
        try:
            content = path.read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                mean, covariance = (
                    torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma")
                )
        except OSError as error:
            raise UserError(
                f"statistics {path} can't be read ({error.strerror or error}): give clean-fid's .npz"
            ) from None
        except Exception as error:  # NumPy's reader raises several kinds
            raise UserError(
                f"statistics {path} hold no mu and sigma ({error}): give clean-fid's .npz"
            ) from None
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"statistics {path} hold mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}: give "
                "clean-fid's .npz, (D,) and (D, D)"
            )
        return cls(path.stem, hashlib.sha256(content).hexdigest(), mean, covariance)

    def of(self, network, features=False):
        """These statistics, if they may be compared with features of `network`.

        Raises:
            UserError: features themselves are asked for, other dimensions, or a name that tells of another
                network.
        """
        if features:
            raise UserError(
                f"{self.name} holds no features, only their mean and covariance: fid alone takes it"
            )
        told = next((own for mode, own in _MODES.items() if f"_{mode}_" in f"_{self.name}_"), network.key)
        if told != network.key or len(self.mean) != network.dims:
            raise UserError(
                f"{self.name} is of {len(self.mean)} features of {told}, not of {network.dims} of "
                f"{network.key}: give the statistics of the metric's own network"
            )
        return self

    def reference(self):
        """What a protocol says of it."""
        return {"split": self.name, "n_real": None, "statistics_sha256": self.manifest}

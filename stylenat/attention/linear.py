"""Linear layers whose weights may be in bfloat16 where all around them is float32."""

from torch import Tensor, nn


def in_type_of(x: Tensor, weight: Tensor) -> Tensor:
    """The input of a product in its weights' type, where that is a lower one; else as it is.

    Args:
        x: of any shape.
        weight: the product's other operand, float32 or what `models.precision.cast` made of it.
    """
    is_lower = weight.is_floating_point() and weight.element_size() < x.element_size()
    return x.to(weight.dtype) if is_lower else x


class Linear(nn.Linear):
    """PyTorch's, whose weights `models.precision.cast` may round: then its output, too, is in their type."""

    def forward(self, x: Tensor) -> Tensor:
        """`(…, in_features)` → `(…, out_features)`."""
        return super().forward(in_type_of(x, self.weight))

"""Neighborhood attention: one function and its layers; full and shifted-window attention."""

from stylenat.attention.auto import choices
from stylenat.attention.module import FullAttention, HydraNeighborhoodAttention, neighborhood_attention
from stylenat.attention.reference import receptive_field
from stylenat.attention.windows import ShiftedWindowAttention

__all__ = [
    "FullAttention",
    "HydraNeighborhoodAttention",
    "ShiftedWindowAttention",
    "choices",
    "neighborhood_attention",
    "receptive_field",
]

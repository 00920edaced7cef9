"""Neighborhood attention: one function and two layers over interchangeable backends."""

from stylenat.attention.module import FullAttention, HydraNeighborhoodAttention, neighborhood_attention
from stylenat.attention.reference import receptive_field

__all__ = ["FullAttention", "HydraNeighborhoodAttention", "neighborhood_attention", "receptive_field"]

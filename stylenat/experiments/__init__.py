"""Scored and recorded runs, and the ablation."""

"""Scores of generated images, none without its protocol."""

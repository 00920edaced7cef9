"""Pretrained feature networks, their weights and their resizing."""

"""What this machine has and can do, and whether what it computes is right: `python -m stylenat doctor`."""

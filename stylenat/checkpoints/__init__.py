"""Networks on disk: runs, published files, model folders."""

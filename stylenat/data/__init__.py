"""Images: their sources, datasets, batches and checks."""

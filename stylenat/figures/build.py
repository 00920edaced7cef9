"""Every figure, one function each: the same data give the same image, to the byte."""

import pandas as pd
import torch

from stylenat.checkpoints.load import load_generator
from stylenat.data.dataset import open_dataset
from stylenat.data.sources import BUNDLED
from stylenat.evaluation.evaluate import nearest_training_images
from stylenat.figures.attention import attention_figure
from stylenat.figures.results import (
    _samples,
    ablation_comparison,
    bubble_chart,
    receptive_fields,
    training_curves,
)
from stylenat.figures.samples import neighbors_figure, sample_grid, truncation_sweep
from stylenat.figures.style import save
from stylenat.paths import workspace
from stylenat.presets import get_config
from stylenat.reporting.records import load_runs


def _model_figures(generator):
    """The figures of the bundled model."""
    queries = {"query on an eye": (7, 5), "query in the corner": (0, 0)}
    dataset = open_dataset(BUNDLED, generator.resolution)
    found, samples = nearest_training_images(generator, dataset)
    return [
        save(neighbors_figure(samples, found, dataset.with_split("train")), "neighbors"),
        save(truncation_sweep(generator, range(4)), "truncation"),
        save(attention_figure(generator, 1, 16, queries, truncation_psi=0.7), "attention_maps"),
    ]


def build_figures():
    """Write every figure that results/ alone can give, and return their paths."""
    level = get_config("ffhq-256").partitions[3]  # 32 × 32 tokens
    queries = {"query in the middle": (16, 16), "query at the border": (0, 3)}
    paths = [
        save(bubble_chart(), "bubble_chart"),
        save(receptive_fields(level, 32, 32, queries), "receptive_fields"),
    ]
    model = workspace("results", "runs", "noto-32-long", "model")
    if model.is_dir():
        paths += _model_figures(load_generator(model))
    records = load_runs()
    for record in records:
        if "ablation" in record:
            continue
        metrics = workspace("results", "runs", record["run_id"], "metrics.csv")
        if metrics.is_file():
            paths.append(
                save(training_curves(pd.read_csv(metrics), record["history"]), f"curves-{record['run_id']}")
            )
        samples = _samples(record)
        if samples is not None:
            paths.append(
                save(
                    sample_grid(torch.tensor(samples).permute(2, 0, 1)[None], columns=1),
                    f"samples-{record['run_id']}",
                )
            )
    ablation = [record for record in records if "ablation" in record]
    return [*paths, save(ablation_comparison(ablation), "ablation")] if ablation else paths

"""Every figure that results/ alone can give, written to figures/."""

from pathlib import Path

import torch

from stylenat.checkpoints.load import load_generator
from stylenat.data.avatars import AVATARS
from stylenat.data.dataset import open_dataset
from stylenat.data.sources import BUNDLED
from stylenat.evaluation.evaluate import nearest_training_images
from stylenat.figures.attention import attention_figure
from stylenat.figures.results import (
    bubble_chart,
    receptive_fields,
    recorded_samples,
    training_curves,
)
from stylenat.figures.samples import neighbors_figure, sample_grid, truncation_sweep
from stylenat.figures.study import human_study
from stylenat.figures.style import save
from stylenat.paths import workspace
from stylenat.presets import get_config
from stylenat.reporting.paper import published_numbers
from stylenat.reporting.records import RunRecord, load_records, read_log
from stylenat.reporting.study import differences, published_groups


def build_figures() -> list[Path]:
    """Write every figure, and return their paths.

    Raises:
        UserError: a broken record, log or image of a run, a damaged bundled model, or a paper.csv that lacks
            a number.
    """
    records = load_records()
    for record in records:  # what is damaged shows before anything is written
        read_log(record.run_id)
        recorded_samples(record)
    avatars = open_dataset(AVATARS, 64, "heldout").stack(range(32))
    level = get_config("ffhq-256").partitions[3]  # 32 × 32 tokens
    queries = {"query in the middle": (16, 16), "query at the border": (0, 3)}
    groups = published_groups(published_numbers())
    paths = [
        save(bubble_chart(), "bubble_chart"),
        save(human_study(groups, differences(groups)), "human_study"),
        save(receptive_fields(level, 32, 32, queries), "receptive_fields"),
        save(sample_grid(avatars), "avatars"),
    ]
    model = workspace("results", "runs", "noto-32-long", "model")
    if model.is_dir():
        paths += _model_figures(model)
    for record in records:
        if not record.variant:
            paths += _run_figures(record)
    return paths


def _model_figures(model: Path) -> list[Path]:
    """The figures of the bundled model."""
    generator = load_generator(model)
    queries = {"query on an eye": (7, 5), "query in the corner": (0, 0)}
    dataset = open_dataset(BUNDLED, generator.resolution)
    found, samples = nearest_training_images(generator, dataset)
    return [
        save(neighbors_figure(samples, found, dataset.with_split("train")), "neighbors"),
        save(truncation_sweep(generator, range(4)), "truncation"),
        save(attention_figure(generator, 1, 16, queries, truncation_psi=0.7), "attention_maps"),
    ]


def _run_figures(record: RunRecord) -> list[Path]:
    """A run's curves and samples, as far as they are recorded."""
    paths = []
    log = read_log(record.run_id)
    if log is not None:
        curves = training_curves(log, record.history)
        paths.append(save(curves, f"curves-{record.run_id}"))
    samples = recorded_samples(record)
    if samples is not None:
        sheet = torch.tensor(samples).permute(2, 0, 1)[None]  # (1, 3, H, W)
        paths.append(save(sample_grid(sheet, columns=1), f"samples-{record.run_id}"))
    return paths

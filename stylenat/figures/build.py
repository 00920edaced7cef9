"""Every figure that results/ alone can give, written to figures/."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from stylenat.checkpoints.load import load_generator
from stylenat.data.avatars import AVATARS
from stylenat.data.dataset import open_dataset
from stylenat.data.sources import BUNDLED
from stylenat.evaluation.evaluate import nearest_training_images
from stylenat.figures.attention import attention_figure
from stylenat.figures.results import (
    bubble_chart,
    measured_bubble_chart,
    receptive_fields,
    recorded_samples,
    training_curves,
)
from stylenat.figures.samples import neighbors_figure, sample_grid, truncation_sweep
from stylenat.figures.study import human_study
from stylenat.paths import workspace
from stylenat.presets import get_config
from stylenat.reporting.paper import published_numbers
from stylenat.reporting.rates import recorded_comparison
from stylenat.reporting.records import RunRecord, load_records, read_log
from stylenat.reporting.study import differences, published_groups


def draw_figures() -> dict[str, Figure]:
    """Every figure but the ablation's, by the names of their files.

    Raises:
        UserError: a broken record, log or image of a run, a damaged bundled model, or a paper.csv that lacks
            a number.
    """
    records = load_records()
    avatars = open_dataset(AVATARS, 64, "heldout").stack(range(32))
    level = get_config("ffhq-256").partitions[3]  # 32 × 32 tokens
    queries = {"query in the middle": (16, 16), "query at the border": (0, 3)}
    numbers = published_numbers()
    groups = published_groups(numbers)
    figures = {
        "bubble_chart": bubble_chart(),
        "human_study": human_study(groups, differences(groups)),
        "receptive_fields": receptive_fields(level, 32, 32, queries),
        "avatars": sample_grid(avatars),
    }
    comparison = recorded_comparison()
    if comparison:
        figures["bubble_chart_measured"] = measured_bubble_chart(comparison, numbers)
    model = workspace("results", "runs", "noto-32-long", "model")
    if model.is_dir():
        figures |= _model_figures(model)
    for record in records:
        if not record.variant:
            figures |= _run_figures(record)
    return figures


def _model_figures(model: Path) -> dict[str, Figure]:
    """The figures of the bundled model, by name."""
    generator = load_generator(model)
    queries = {"query on an eye": (7, 5), "query in the corner": (0, 0)}
    dataset = open_dataset(BUNDLED, generator.resolution)
    found, samples = nearest_training_images(generator, dataset)
    return {
        "neighbors": neighbors_figure(samples, found, dataset.with_split("train")),
        "truncation": truncation_sweep(generator, range(4)),
        "attention_maps": attention_figure(generator, 1, 16, queries, truncation_psi=0.7),
    }


def _run_figures(record: RunRecord) -> dict[str, Figure]:
    """A run's curves and samples by name, as far as they are recorded."""
    figures = {}
    log = read_log(record.run_id)
    if log is not None:
        figures[f"curves-{record.run_id}"] = training_curves(log, record.history)
    samples = recorded_samples(record)
    if samples is not None:
        sheet = torch.tensor(samples).permute(2, 0, 1)[None]  # (1, 3, H, W)
        figures[f"samples-{record.run_id}"] = sample_grid(sheet, columns=1)
    return figures

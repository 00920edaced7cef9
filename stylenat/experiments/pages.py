"""What README.md and docs/ hold of experiments, and their figures: the ablation's and the generators'."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from stylenat.experiments import generators, report
from stylenat.experiments.grid import load_grid
from stylenat.paths import workspace
from stylenat.reporting import markdown


def draw_experiment_figures() -> dict[str, Figure]:
    """The figures of every recorded grid, by the names of their files."""
    return {**report.draw_ablation_figures(), **generators.draw_figures()}


def page_blocks() -> dict[Path, dict[str, str]]:
    """The blocks of README.md and docs/ablation.md that are built from grids, by page and name.

    Raises:
        UserError: a page without its markers, or damaged records.
    """
    analyses = report.recorded_grids()
    blocks = {"ablation": report.readme_block(analyses), "trained-alike": generators.readme_block()}
    pages = {workspace("README.md"): blocks}
    page = workspace("docs", "ablation.md")
    if page.is_file():  # a workspace that is no clone has none
        arms = report.to_markdown(report.plan_table(load_grid(report.PLANNED)))
        found = report.pilot_table(load_grid(report.PILOT))
        pilot = "Not recorded." if found is None else report.to_markdown(found)
        pages[page] = {"arms": arms, "pilot": pilot, "results": report.page_block(analyses)}
    for path, bodies in pages.items():
        markdown.check_blocks(path, bodies)
    return pages


def update_pages(pages: Mapping[Path, Mapping[str, str]] | None = None) -> None:
    """Rebuild the blocks of README.md and docs/ablation.md.

    Args:
        pages: as of `page_blocks`, which is the default.

    Raises:
        UserError: as of `page_blocks`.
    """
    for path, blocks in (page_blocks() if pages is None else pages).items():
        markdown.fill_blocks(path, blocks)

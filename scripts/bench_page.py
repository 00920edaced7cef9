"""Rebuild docs/performance.md and figures/performance.png from results/performance.json; measures nothing."""

from stylenat.benchmark.page import write_page

if __name__ == "__main__":
    write_page()

"""A picture of the losses over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def save_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the distribution loss and the correction's error of each progress line as PNG."""
    from matplotlib.figure import Figure  # slow to import, needed at the very end only

    steps = [record["step"] for record in records]
    figure = Figure(figsize=(7, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, key, title in zip(
        panels, ("plan", "refine_m"), ("plan: KL [nats]", "refine: L1 [m]"), strict=True
    ):
        panel.plot(steps, [record[key] for record in records])
        panel.set_xlabel("step")
        panel.set_title(title)
        panel.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)

"""From a finding to its picture: which panel shows what tells two sets apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.two_sample.kinds import Finding
from gebm_cli.core.two_sample.names import Kind
from gebm_cli.core.two_sample.sample_size import PowerCurve
from gebm_cli.core.two_sample.witness import witness
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.two_sample_panels import Panel, WitnessImages, WitnessValues, panel_of
from gebm_cli.experiment.two_sample_pictures import (
    TestPicture,
    save_matrix_picture,
    save_power_picture,
    save_test_picture,
)

MOST_ROWS = 10_000  # of each side that a witness is computed at
LABELS = {
    "mmd-fuse": "how far A and B are apart (normalised MMD², mostly that of the clearest of 16 kernels)",
    "mmd-agg": "how far A and B are apart (minus the smallest of 16 kernels' p-values)",
    "c2st": "how much higher the classifier's output is on A",
    "c2st-sign": "how much more often the classifier says A on A",
    "me": "distance of the mean features of A and B",
    "scf": "distance of the mean features of A and B",
}


def draw_test(path: Path, kind: Kind, a: Side, b: Side, finding: Finding, alpha: float) -> None:
    """The null histogram beside the witness: a curve, a map, or the samples that speak most for and against A = B."""
    outcome = finding.outcome
    label = LABELS.get(kind, "MMD²: how far A and B are apart")
    picture = TestPicture(
        (a.name, b.name), outcome.statistic, outcome.null, outcome.p_value, alpha, _panel(a, b, finding), label
    )
    save_test_picture(path, picture)


def _panel(a: Side, b: Side, finding: Finding) -> Panel:
    x, y = a.require_features("a picture"), b.require_features("a picture")
    if x.shape[1] <= 2 and finding.x.shape[1] == x.shape[1] and finding.scores is None:
        rows = (finding.rows[0].to(x.device)[:MOST_ROWS], finding.rows[1].to(y.device)[:MOST_ROWS])
        # Far from 0 float32 has no digits left.
        return panel_of(finding.kernel, x[rows[0]].double(), y[rows[1]].double())
    found = finding.scores or witness(finding.kernel, finding.x[:MOST_ROWS], finding.y[:MOST_ROWS])
    at_x, at_y = in_spreads(*found)
    if not all(isinstance(side.source, Input) and not side.source.is_points for side in (a, b)):
        return WitnessValues(at_x, at_y)
    reads = [reader_of(side, rows) for side, rows in zip((a, b), finding.rows, strict=True)]
    return WitnessImages(at_x, at_y, reads[0], reads[1])


def in_spreads(at_x: torch.Tensor, at_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The witness from the middle of its two means, in standard deviations: above 0 more like A, below 0 more like B."""
    middle, spread = (at_x.mean() + at_y.mean()) / 2, torch.cat([at_x, at_y]).std().clamp(min=1e-300)
    return (at_x - middle) / spread, (at_y - middle) / spread


def reader_of(side: Side, rows: torch.Tensor) -> Any:
    """How the image of the i-th tested row is read."""
    assert isinstance(side.source, Input)
    data = side.source.data

    def read(i: int) -> torch.Tensor:
        image: torch.Tensor = data[int(rows[i])]
        return image if isinstance(data, ImageSet) else image.cpu()

    return read


def draw_power(path: Path, curve: PowerCurve, pilot: tuple[int, int]) -> None:
    """The predicted power against the number of samples."""
    save_power_picture(path, curve, pilot, curve.alpha)


def draw_matrix(
    path: Path, names: list[str], pairs: list[tuple[int, int]], records: list[dict[str, Any]], alpha: float
) -> None:
    """The effect sizes and corrected p-values of all pairs."""
    size = (len(names), len(names))
    values, errors, adjusted = (torch.full(size, torch.nan, dtype=torch.float64) for _ in range(3))
    for (i, j), record in zip(pairs, records, strict=True):
        for at in ((i, j), (j, i)):
            values[at] = record["effect"]["mmd2"]
            errors[at], adjusted[at] = record["effect"]["mmd2_standard_error"], record["p_value_holm"]
    save_matrix_picture(path, names, values, errors, adjusted, alpha)

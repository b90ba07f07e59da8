"""Which of several runs has samples closer to the data: the relative test on KID for every two of them."""

from __future__ import annotations

import math
import shlex
from typing import Any

import torch

from gebm_cli.core.evaluation.kid import CUBIC
from gebm_cli.core.mmd import Sums, difference_of, row_means, sums_against
from gebm_cli.core.progress import Begin, Steps
from gebm_cli.core.two_sample.multiple import holm
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.extraction import Side, extract
from gebm_cli.experiment.inputs import Input, read_sample_set, split_of
from gebm_cli.experiment.report.found import Found
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.run_scores import same_data
from gebm_cli.experiment.run_sets import pairs_to_test
from gebm_cli.experiment.score_rows import SIDES
from gebm_cli.experiment.scoring import choose_features
from gebm_cli.experiment.sides import shared_draws

ALPHA = 0.05
RAW = "pixels"  # features that are the data themselves
FEWEST = 4  # samples, below which no standard error is worth its name


def compare_samples(
    founds: list[Found],
    labels: list[str],
    device: torch.device,
    begin: Begin,
    features: str | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """The tests of every two runs against the first one's training data, what is left out and why, and what has to be known.

    Each test is two-sided, for "both are equally far" (Bounliphone et al. 2016); of several the p-values are adjusted by Holm.
    What cannot be tested is told and is no error, unless it is the features that were asked for.
    """
    tests: dict[str, Any] = {"tests": [], "left_out": [], "notes": [], "caution": None}
    pairs, tests["left_out"] = pairs_to_test(founds, labels)
    pairs = {pair: kind for pair, kind in pairs.items() if _has_its_data(pair, founds, labels, tests["left_out"])}
    if not pairs:
        return tests
    try:
        sides, reference, settings = _sides(founds, pairs, device, begin, features, weights)
    except GebmError as error:
        if features is not None or weights is not None:
            raise
        tests["left_out"].append(f"the samples cannot be compared: {error}")
        return tests
    tests |= {"reference": reference.name, "n_reference": reference.n, **settings, "alpha": ALPHA}
    _add_tests(tests, pairs, sides, reference, labels)
    tests["caution"] = _caution(tests, pairs, founds, reference)
    return tests


def _caution(
    tests: dict[str, Any], pairs: dict[tuple[int, int], str], founds: list[Found], reference: Side
) -> str | None:
    """What KID cannot see of points, whose features are their coordinates, and the command that can; None of all else."""
    of_points = isinstance(reference.source, Input) and reference.source.is_points
    if not tests["tests"] or tests["features"] != RAW or not of_points:
        return None
    pair, kind = next(iter(pairs.items()))
    sets = [str(newest.path) for i in pair if (newest := founds[i].newest(kind)) is not None]
    command = shlex.join(["gebm", "two-sample-test", *sets, "--reference", "train"])
    return (
        "On raw coordinates KID's cubic kernel compares moments up to the third alone, so what looks closer may be further; "
        f"`{command}` asks the same of a Gaussian kernel, which compares all"
    )


def _has_its_data(pair: tuple[int, int], founds: list[Found], labels: list[str], left_out: list[str]) -> bool:
    first = founds[0].run
    for i in pair:
        run = founds[i].run
        if first is None or run is None or not same_data(first.experiment, run.experiment):
            left_out.append(
                f"{labels[pair[0]]} and {labels[pair[1]]}: {labels[i]} was trained on other data than {labels[0]}, whose training "
                "data are the reference"
            )
            return False
    return True


def _sides(
    founds: list[Found],
    pairs: dict[tuple[int, int], str],
    device: torch.device,
    begin: Begin,
    features: str | None,
    weights: str | None,
) -> tuple[dict[tuple[int, str], Side], Side, dict[str, Any]]:
    """Features of each run's newest set of each kind that is tested, and of the reference."""
    first = founds[0].run
    assert isinstance(first, Run)
    reference = split_of(first, "train")
    sources = _sources(founds, pairs, reference)
    learning = Steps(begin, "classifier", "images")
    one = next(iter(sources.values()))
    network = choose_features(one, reference, first, features, weights, device, "inception", learning)

    def extracted(source: Input, is_reference: bool) -> Side:
        tell = begin(f"features of {source.name}", "images", len(source.data))
        return extract(network, source, World(), is_reference, tell)

    real = extracted(reference, True)
    return {key: extracted(source, False) for key, source in sources.items()}, real, network.settings()


def _sources(founds: list[Found], pairs: dict[tuple[int, int], str], reference: Input) -> dict[tuple[int, str], Input]:
    """The newest set of each run and kind that is tested, of the shape of the reference."""
    sources = {}
    for i, kind in sorted({(i, kind) for pair, kind in pairs.items() for i in pair}):
        newest = founds[i].newest(kind)
        assert newest is not None, "pairs_to_test has looked"
        source = sources[i, kind] = read_sample_set(newest.path)
        if source.item_shape != reference.item_shape:
            raise UsageError(
                f"{source.name}: has samples of {source.item_shape}, and {reference.name} {reference.item_shape}"
            )
    return sources


def _add_tests(
    tests: dict[str, Any],
    pairs: dict[tuple[int, int], str],
    sides: dict[tuple[int, str], Side],
    reference: Side,
    labels: list[str],
) -> None:
    real = reference.require_features("the comparison")
    own = row_means(CUBIC, real) if len(real) >= FEWEST else None
    sums: dict[tuple[int, str], Sums] = {}

    def sums_of(key: tuple[int, str]) -> Sums:
        if key not in sums:
            sums[key] = sums_against(real, sides[key].require_features("the comparison"), CUBIC, own)
        return sums[key]

    for (i, j), kind in pairs.items():
        two = sides[i, kind], sides[j, kind]
        few = next((s for s in (reference, *two) if (s.n or 0) < FEWEST), None)
        if few is not None:
            told = f"{labels[i]} and {labels[j]}: {few.name} holds {few.n} samples, and the test needs {FEWEST}"
            tests["left_out"].append(told)
            continue
        tests["tests"].append(_tested(sums_of((i, kind)), sums_of((j, kind)), two, (labels[i], labels[j]), kind))
        tests["notes"] += [note for note in _dependent(*two) if note not in tests["notes"]]
    _adjust(tests["tests"])


def _tested(x: Sums, y: Sums, sides: tuple[Side, Side], labels: tuple[str, str], kind: str) -> dict[str, Any]:
    found = difference_of(y, x)  # b minus a
    assert found.x is not None and found.y is not None
    p = 2 * min(found.p_less, 1 - found.p_less) if found.standard_error > 0 else math.nan
    return {
        "a": labels[0],
        "b": labels[1],
        "of": SIDES[kind],
        "samples_a": sides[0].name,
        "samples_b": sides[1].name,
        "n_a": sides[0].n,
        "n_b": sides[1].n,
        "kid_a": found.y.value,
        "kid_a_standard_error": found.y.standard_error,
        "kid_b": found.x.value,
        "kid_b_standard_error": found.x.standard_error,
        "kid_b_minus_a": found.value,
        "standard_error": found.standard_error,
        "p_value": p,
    }


def _dependent(a: Side, b: Side) -> list[str]:
    """What is to be known of two sets that are not independent."""
    if a.row_counts == b.row_counts:
        return [f"{a.name} and {b.name}: hold the same samples, so no difference can be found between them"]
    streams = [side.source.stream for side in (a, b) if isinstance(side.source, Input)]
    if len(streams) == 2 and streams[0] is not None and streams[0] == streams[1]:  # of a run and a copy of its folder
        return [f"{a.name} and {b.name}: were drawn with the same random numbers, and are taken for independent"]
    return shared_draws(a, b)


def _adjust(tests: list[dict[str, Any]]) -> None:
    """Holm's p-values beside the own ones, and which run is closer where the difference is significant."""
    known = {k: test["p_value"] for k, test in enumerate(tests) if not math.isnan(test["p_value"])}
    adjusted = holm(known)
    for k, test in enumerate(tests):
        p = adjusted.get(k, math.nan)
        if len(tests) > 1:
            test["p_value_holm"] = p
        closer = test["a"] if test["kid_b_minus_a"] > 0 else test["b"]
        test |= {"significant": bool(p <= ALPHA), "closer": closer if p <= ALPHA else None}

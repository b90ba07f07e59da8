"""FID, KID, precision and recall of every sample set in a folder, against a fixed part of its run's training or held-out images.

    gebm sample --run RUN --sampler kla,mala,... --format npz --out SETS sample.diagnose=false
    gebm sample --run RUN --sampler none --format npz --out SETS/base
    python tests/benchmarks/score_sets.py RUN SETS [--n-real 4000] [--held-out]

All sets see the same features and the same reference, whose own part of KID and of precision is the long one: hence not all images.
The last column is the relative test of KID against the set drawn by `none` (one-sided p that the set is no closer).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.kid import kid_difference
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.run import find_run, runs_root
from gebm_cli.experiment.tracking import Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("sets", type=Path)
    parser.add_argument("--n-real", type=int, default=4000)
    parser.add_argument("--held-out", action="store_true", help="against images that neither stage has seen")
    asked = parser.parse_args()
    run = find_run(runs_root(None), asked.run)
    scorer = Scorer(run, torch.device("cpu"))
    whole = build_dataset(run.experiment.data).held_out if asked.held_out else scorer.reference.data
    assert whole is not None
    some = torch.randperm(len(whole), generator=make_generator(0, "reference"))[: asked.n_real]
    scorer.__dict__["reference"] = replace(scorer.reference, data=whole[some])
    found: dict[str, tuple[dict[str, Any], torch.Tensor]] = {}
    for file in sorted(asked.sets.glob("**/samples.npz")):
        images = torch.from_numpy(np.load(file)["images"]).permute(0, 3, 1, 2)
        name = yaml.safe_load((file.parent / "sample.yaml").read_text())["sampler"]
        found[name] = (scorer.score(iter(images.split(500))), scorer.features(images))
    print(scorer.describe())
    print("| sampler | FID | ratio | KID | precision | recall | p |\n|" + " --- |" * 7)
    base, at_base = found["none"]
    for name, (scores, features) in found.items():
        fid = f"{scores['fid']:.2f} ± {scores['fid_standard_error']:.2f} | {scores['fid'] / base['fid']:.2f}"
        kid = f"{scores['kid']:.4f} ± {scores['kid_standard_error']:.4f}"
        p = "" if name == "none" else f"{kid_difference(scorer.real, features, at_base).p_less:.1g}"
        print(f"| {name} | {fid} | {kid} | {scores['precision']:.3f} | {scores['recall']:.3f} | {p} |", flush=True)


if __name__ == "__main__":
    main()

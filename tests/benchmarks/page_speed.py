"""Time and size of a run's page, as it is and with a million lines of metrics, and of the table of a thousand runs.

    python tests/benchmarks/page_speed.py runs/digits-001

Every figure is of a process of its own: processor seconds, wall seconds, and the largest resident memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_LINES, N_RUNS = 1_000_000, 1_000


def main(run: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        one, million, many = (Path(root) / name for name in ("one", "million", "many"))
        for parent in (one, million):
            shutil.copytree(run, parent / run.name, ignore=shutil.ignore_patterns("images", "checkpoints"))
        lengthen(million / run.name / "metrics.jsonl")
        for k in range(N_RUNS):
            shutil.copytree(
                one / run.name, many / f"{run.name}-{k}", ignore=shutil.ignore_patterns("samples", "report.html")
            )
        for what, parent, command in [
            ("page", one, "report"),
            (f"page, {N_LINES} lines of metrics", million, "report"),
            (f"table of {N_RUNS} runs", many, "runs"),
        ]:
            print(json.dumps({"what": what, **measured([command, "--runs-dir", str(parent)])}), flush=True)
        print(json.dumps({"page_bytes": (one / run.name / "report.html").stat().st_size}))


def lengthen(path: Path) -> None:
    """The file's first row a million times, with other figures at other steps."""
    row = json.loads(path.read_text().splitlines()[0])
    names = [name for name in row if name not in ("stage", "step", "time_s")]
    numbers = random.Random(0)
    with open(path, "w") as file:
        for step in range(N_LINES):
            figures = {name: numbers.gauss(0, 1) for name in names}
            file.write(json.dumps({**row, **figures, "step": step + 1}) + "\n")


def measured(words: list[str]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "gebm_cli", *words], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.monotonic() - start
    return {"cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "largest_mb_so_far": after.ru_maxrss // 1024}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

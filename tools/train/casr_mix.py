"""The mean of two trainings' averaged weights, as a run that others begin from and `casr_export.py` takes.

    python casr_mix.py RUN1 RUN2 --share 0.22 --out OUT     # 0.78 of RUN1's weights and 0.22 of RUN2's

Between two stretches from the same start the error hardly rises on the straight line, so it gives what lies between their figures
without training a third one.
"""

import argparse
import json
from pathlib import Path

import torch


def mixed(first, second, share):
    """`(1 - share) first + share second`, tensor by tensor, in their own types; both have the same names and shapes."""
    if odd := first.keys() ^ second.keys():
        raise SystemExit(f"not of one kind: {sorted(odd)[:3]} and others are in one of the two only")
    return {k: torch.lerp(v.double(), second[k].double(), share).to(v.dtype) for k, v in first.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", type=Path, nargs=2)
    p.add_argument("--share", type=float, required=True, help="of the second run")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    first, second = (torch.load(run / "last.pt", weights_only=True) for run in a.runs)
    a.out.mkdir(parents=True, exist_ok=True)
    torch.save({"average": mixed(first["average"], second["average"], a.share), "config": first["config"]}, a.out / "last.pt")
    event = {"event": "mix", "of": [run.name for run in a.runs], "share": a.share}
    (a.out / "log.jsonl").write_text(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()

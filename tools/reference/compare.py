"""Compare two files of tensors, of PyTorch and of the engine, layer by layer.

    compare.py A.safetensors B.safetensors [--limit 1e-5] [--jump 10]

Prints relative L2 error and largest difference of every tensor of B against its counterpart in A, in the order in
which A's were computed (`reference.py` keeps it in its file). Traces are matched by module path: tokens [N, T, C]
with pictures [N, C, H, W] of as many pixels, and a value `a.to_q+to_k+to_v` with the three that it holds side by
side. A layer departs when its error is above --jump times the largest error of all layers before it, whose outputs
are its inputs, and above what f32 rounding explains; the first one is named.

Exits with 1 when an output of A is missing in B or, with --limit, when an output's relative L2 error is above it.
"""

import argparse
import json
import math
import sys

import numpy as np
from safetensors import safe_open

# Errors below this are the rounding of f32 sums, however much larger than those before.
ROUNDING = 1e-5


def read(path):
    """The tensors of a file in f64, in the order they were computed where the file says it."""
    with safe_open(path, "np") as f:
        names = json.loads((f.metadata() or {}).get("order", "null")) or sorted(f.keys())
        return {name: f.get_tensor(name).astype(np.float64) for name in names}


def tokens(x):
    """[N, T, C] of a picture [N, C, H, W]."""
    return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1) if x.ndim == 4 else x


def counterpart(a, name):
    """The tensor of `a` that `name` of the other file is: itself, or several side by side."""
    if name in a:
        return a[name]
    base, *more = name.split("+")
    parts = [base] + [f"{base.rpartition('.')[0]}.{leaf}" for leaf in more]
    if more and all(p in a for p in parts):
        return np.concatenate([tokens(a[p]) for p in parts], axis=-1)
    return None


def aligned(expected, got):
    """`got` with the axes of `expected`; None where it cannot be the same tensor."""
    if got.shape == expected.shape:
        return got
    if got.ndim == 4 and tokens(got).shape == expected.shape:
        return tokens(got)
    if expected.ndim == 4 and tokens(expected).shape == got.shape:
        return got.transpose(0, 2, 1).reshape(expected.shape)
    # rows [N, C] and a norm's [N, C, T] are pictures without the last axes
    same = got.size == expected.size and got.shape[:2] == expected.shape[:2]
    return got.reshape(expected.shape) if same else None


def pairs(a, b):
    """(name, expected, got) in the order of `a`; outputs last, as they were computed."""
    position = {name: i for i, name in enumerate(a)}
    found = []
    for name, got in b.items():
        expected = counterpart(a, name)
        if expected is None:
            continue
        got = aligned(expected, got)
        if got is not None:
            first, *more = name.split("+")
            last = f"{first.rpartition('.')[0]}.{more[-1]}" if more else name
            found.append((position.get(name, position.get(last, 0)), name, expected, got))
    found.sort(key=lambda f: f[0])
    return [(name, expected, got) for _, name, expected, got in found]


def errors(expected, got):
    """Relative L2 error and largest difference."""
    difference, norm = np.linalg.norm(expected - got), np.linalg.norm(expected)
    relative = difference / norm if norm else difference
    return float(relative) if math.isfinite(relative) else math.inf, float(np.abs(expected - got).max())


def is_trace(name):
    return name.startswith("trace.")


def table(a, b, jump=10.0):
    """Rows (name, shape, relative L2, largest difference, departs) of every pair, traces first."""
    found = pairs(a, b)
    rows, worst = [], 0.0
    for name, expected, got in [p for p in found if is_trace(p[0])] + [p for p in found if not is_trace(p[0])]:
        relative, largest = errors(expected, got)
        rows.append((name, expected.shape, relative, largest, relative > max(jump * worst, ROUNDING)))
        worst = max(worst, relative)
    return rows


def missing(a, b):
    """Outputs of `a` without a counterpart in `b`."""
    matched = {name for name, _, _ in pairs(a, b)}
    return [name for name in a if not is_trace(name) and name not in matched]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="what is right: PyTorch's")
    parser.add_argument("b", help="what is held against it")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--jump", type=float, default=10.0)
    args = parser.parse_args()
    a, b = read(args.a), read(args.b)
    rows = table(a, b, args.jump)
    width = max((len(r[0]) for r in rows), default=0)
    failed = False
    for name, shape, relative, largest, departs in rows:
        above = args.limit is not None and not is_trace(name) and not relative <= args.limit
        marks = ("  DEPARTS" if departs else "") + ("  ABOVE THE LIMIT" if above else "")
        print(f"{name:{width}}  {'x'.join(map(str, shape)):>16}  {relative:.3e}  {largest:.3e}{marks}")
        failed |= above
    names = {r[0] for r in rows}
    for what, here in [("A", a), ("B", b)]:
        alone = [n for n in here if is_trace(n) and n not in names]
        # a stacked value stands for its parts
        if alone and any(map(is_trace, b)) and any(map(is_trace, a)):
            print(f"{len(alone)} traced values stand in {what} alone, such as {', '.join(alone[:3])}")
    first = next((r[0] for r in rows if r[4]), None)
    print(f"the first layer that departs: {first}" if first else "no layer departs")
    for name in missing(a, b):
        print(f"{name}: missing or of another shape in {args.b}")
        failed = True
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

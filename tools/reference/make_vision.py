"""Write the committed cases of the networks that look at pictures for a system: superpixels, depth, SAM's encoder.

    make_vision.py [--out tests/data/reference]

Cases are those of `make_cases.py`: normalised `pixel_values` [N,3,H,W] (stored as f16) go in; `logits` [N,9,H,W],
`predicted_depth` [N,1,H,W] or `last_hidden_state` [N,C,H/P,W/P] come out. The published sizes are run by `full`.

Also writes tests/data/layouts/vision.txt.gz: the tensors of the published networks. A line: architecture, whose
naming (`transformers`, `original`), name, shape.
"""

import argparse
import gzip
from pathlib import Path

import torch

import architectures
import make_cases
import make_checkpoint
import original
from make_cases import BF16, F16, normal

# Seed, storage type and whether the names are those of the network's own repository.
CHECKPOINTS = {
    "tiny_spixel": (20, F16, False),
    "tiny_spixel_flat": (21, BF16, False),
    "tiny_depth": (22, F16, False),
    "tiny_depth_original": (23, F16, True),
    "tiny_sam": (24, F16, False),
    "tiny_sam_original": (25, F16, True),
}


def cases():
    """(case, component, checkpoint, batch, rows, columns)"""
    yield "superpixel_32x48", "superpixel", "tiny_spixel", 1, 32, 48
    yield "superpixel_flat_12x20", "superpixel", "tiny_spixel_flat", 3, 12, 20
    # the grid trained at, one of other sides, and one of a single patch
    yield "depth_21x21", "depth", "tiny_depth", 2, 21, 21
    yield "depth_28x49", "depth", "tiny_depth", 1, 28, 49
    yield "depth_7x7", "depth", "tiny_depth", 1, 7, 7
    yield "depth_original_42x70", "depth", "tiny_depth_original", 1, 42, 70
    yield "sam_40", "sam-encoder", "tiny_sam", 2, 40, 40
    yield "sam_original_36", "sam-encoder", "tiny_sam_original", 1, 36, 36


def names():
    """The lines of every published network."""
    for arch, (kind, config) in architectures.PUBLISHED.items():
        if kind not in ("superpixel", "depth", "sam"):
            continue
        with torch.device("meta"):
            tensors = architectures.network(kind, config).state_dict()
        layouts = {"original": tensors}
        if kind != "superpixel":
            layouts = {"transformers": tensors, "original": original.from_transformers(kind, tensors)}
        for naming, tensors in layouts.items():
            for name, t in tensors.items():
                yield f"{arch} {naming} {name} {'x'.join(map(str, t.shape)) or '.'}"


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/reference")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (seed, dtype, old_names) in CHECKPOINTS.items():
        make_checkpoint.write(name, seed, args.out / "checkpoints" / name, dtype, old_names)
    for index, (case, component, checkpoint, *shape) in enumerate(cases()):
        n, h, w = shape
        make_cases.add(args.out, case, component, checkpoint, {"pixel_values": normal([30, index], n, 3, h, w).half()})
    lines = list(names())
    listed = root / "tests/data/layouts/vision.txt.gz"
    with open(listed, "wb") as f, gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
        z.write("".join(line + "\n" for line in lines).encode())
    print(f"{listed}: {len(lines)} names, {listed.stat().st_size} bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main()

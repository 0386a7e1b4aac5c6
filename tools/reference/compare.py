"""Compare the tensors two safetensors files share: relative L2, largest difference, PSNR.

    compare.py A.safetensors B.safetensors [--limit 1e-5]

Exits with 1 when a tensor is missing in B or, with --limit, when a relative L2 error is above it.
"""

import argparse
import math
import sys

import numpy as np
from safetensors.numpy import load_file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--limit", type=float)
    args = parser.parse_args()
    a, b = load_file(args.a), load_file(args.b)
    failed = False
    for name in sorted(a):
        if name not in b or a[name].shape != b[name].shape:
            print(f"{name}: missing or of another shape in {args.b}")
            failed = True
            continue
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        norm, difference = np.linalg.norm(x), np.linalg.norm(x - y)
        relative = difference / norm if norm else difference
        mse = np.mean((x - y) ** 2)
        psnr = 10 * math.log10(np.ptp(x) ** 2 / mse) if mse and np.ptp(x) else math.inf
        print(f"{name}: relative L2 {relative:.3e}, largest {np.abs(x - y).max():.3e}, PSNR {psnr:.1f} dB")
        failed |= args.limit is not None and not relative <= args.limit
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

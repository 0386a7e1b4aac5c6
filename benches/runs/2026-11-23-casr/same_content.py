"""Two patches with the same content in different tiles: how far apart their enlargements are, with SARM and without.

    python same_content.py PHOTOGRAPHS TESSERA [FACTOR]

Of each photograph the middle is put at two places, a whole number of superpixel cells apart, of the middle of the next photograph, which
is enlarged by FACTOR (4) in tiles of 256. At 4 the picture has 256x256 pixels and the patch 96x96; beyond, both are reduced by 4 first
and have 96x96 and 36x36. Compared is the middle half of both patches, RMS in grey levels.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

folder, program = Path(sys.argv[1]), sys.argv[2]
factor = int(sys.argv[3]) if len(sys.argv) > 3 else 4
# Of the picture, of a patch, where patches begin, and by what both are reduced.
side, patch_side, places, reduction = (256, 96, [(8, 12), (140, 148)], 1) if factor == 4 else (96, 36, [(4, 8), (56, 60)], 4)
photographs = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))]


def middle(a, side):
    h, w = a.shape[:2]
    side *= reduction
    whole = a[(h - side) // 2 : (h - side) // 2 + side, (w - side) // 2 : (w - side) // 2 + side]
    return np.asarray(Image.fromarray(whole).resize((side // reduction,) * 2, Image.BICUBIC))


rows = []
for i, photograph in enumerate(photographs):
    picture, patch = middle(photographs[(i + 1) % len(photographs)], side).copy(), middle(photograph, patch_side)
    for y, x in places:
        picture[y : y + patch_side, x : x + patch_side] = patch
    row = []
    for off in ([], ["--off", "sarm"]):
        with tempfile.TemporaryDirectory() as work:
            Image.fromarray(picture).save(f"{work}/in.png")
            command = [program, "upscale", "-i", f"{work}/in.png", "-o", f"{work}/out.png", "--scale", str(factor), "--system", "casr", "--tile", "256", "-g", "cpu", *off]
            subprocess.run(command, check=True, capture_output=True)
            out = np.asarray(Image.open(f"{work}/out.png")).astype(float)
        first, last = factor * patch_side // 4, factor * patch_side * 3 // 4
        a, b = (out[factor * y + first : factor * y + last, factor * x + first : factor * x + last] for y, x in places)
        row.append(((a - b) ** 2).mean() ** 0.5)
    rows.append(row)
    print(f"with {row[0]:.3f}, without {row[1]:.3f}", flush=True)
print("mean: with %.3f, without %.3f" % tuple(np.mean(rows, 0)))

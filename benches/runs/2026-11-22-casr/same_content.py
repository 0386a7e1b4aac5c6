"""Two patches with the same content in different tiles: how far apart their enlargements are, with SARM and without.

    python same_content.py PHOTOGRAPHS TESSERA

Of each photograph the middle 96x96 pixels are put at two places, a whole number of superpixel cells apart, of
a 256x256 picture of the next photograph, which is enlarged by 4 in tiles of 256. Compared is the middle 48x48 of both (192x192 of
the result), RMS in grey levels.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

folder, program = Path(sys.argv[1]), sys.argv[2]
photographs = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))]


def middle(a, side):
    h, w = a.shape[:2]
    return a[(h - side) // 2 : (h - side) // 2 + side, (w - side) // 2 : (w - side) // 2 + side]


rows = []
for i, photograph in enumerate(photographs):
    picture, patch = middle(photographs[(i + 1) % len(photographs)], 256).copy(), middle(photograph, 96)
    places = [(8, 12), (140, 148)]
    for y, x in places:
        picture[y : y + 96, x : x + 96] = patch
    row = []
    for off in ([], ["--off", "sarm"]):
        with tempfile.TemporaryDirectory() as work:
            Image.fromarray(picture).save(f"{work}/in.png")
            command = [program, "upscale", "-i", f"{work}/in.png", "-o", f"{work}/out.png", "--scale", "4", "--system", "casr", "--tile", "256", "-g", "cpu", *off]
            subprocess.run(command, check=True, capture_output=True)
            out = np.asarray(Image.open(f"{work}/out.png")).astype(float)
        a, b = (out[4 * (y + 24) : 4 * (y + 72), 4 * (x + 24) : 4 * (x + 72)] for y, x in places)
        row.append(((a - b) ** 2).mean() ** 0.5)
    rows.append(row)
    print(f"with {row[0]:.3f}, without {row[1]:.3f}", flush=True)
print("mean: with %.3f, without %.3f" % tuple(np.mean(rows, 0)))

"""How strong a woven pattern is in pictures: the highest peak of the spectrum over its neighbourhood.

    python pattern.py PICTURE...

Of luma's differences along lines (then along columns) the power spectra of all lines are averaged; each frequency with a period of at most
16 pixels is held against the median of those around it. Content has no such peaks (1 to 2), from about three times on the eye sees a weave.
Printed are the peak of the whole picture and of its worst tile of 400 pixels, with their periods in pixels: in fur or cloth alone a
pattern is lost in the average of a whole picture.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 400  # pixels
LONGEST = 16  # the longest period looked for, pixels


def peak(luma):
    """The highest ratio and its period, over both axes, of luma [height, width]."""
    best = (0.0, 0.0)
    for lines in (luma, luma.T):
        differences = np.diff(lines, axis=1)
        count = differences.shape[1]
        power = (np.abs(np.fft.rfft(differences * np.hanning(count), axis=1)) ** 2).mean(0)
        for k in range(max(count // LONGEST, 8), len(power) - 3):
            reach = max(6, k // 6)
            around = np.median(np.r_[power[max(1, k - reach) : k - 2], power[k + 3 : k + reach]])
            best = max(best, (power[k - 1 : k + 2].mean() / around, count / k))
    return best


def worst_tile(luma, whole):
    """The highest peak of any tile; of a picture that has none, the peak of the `whole`."""
    height, width = luma.shape
    corners = [(y, x) for y in range(0, height - TILE + 1, TILE) for x in range(0, width - TILE + 1, TILE)]
    return max((peak(luma[y : y + TILE, x : x + TILE]) for y, x in corners), default=whole)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python pattern.py PICTURE...")
    for name in sys.argv[1:]:
        luma = np.asarray(Image.open(name).convert("L")).astype(float)
        if min(luma.shape) < 64:
            sys.exit(f"{name}: {luma.shape[1]}x{luma.shape[0]} pixels are too few for a spectrum: 64 a side are needed")
        whole = peak(luma)
        tile = worst_tile(luma, whole)
        print(f"{Path(name).name}: {whole[0]:.1f} (period {whole[1]:.1f}), worst tile {tile[0]:.1f} ({tile[1]:.1f})", flush=True)

"""Generated scenes whose depth is known, to train a small depth network on.

A ground that comes nearer towards the bottom, a backdrop, and things that stand on the ground or hang in the air:
flat boards, boards that lean, balls. Whatever is nearer hides what is farther, is larger and sharper; haze and the
grain of textures follow the distance. The map is inverse depth in [0, 1] (1 nearest), which is what Depth Anything
predicts up to scale and shift.

    python casr_scenes.py --out FOLDER --count 400 --seed 1
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pictures import camera, outline, palette, texture_bank

SHARD = 50


def grown(fields, which, factor, n, offset):
    """A texture seen `factor` times as large (nearer), as a [n, n] field."""
    step = np.clip((np.arange(n) / factor).astype(int) + offset, 0, None) % fields.shape[1]
    return fields[which][step][:, step]


def make_scene(seed, i, n):
    """(rgb uint8 [n, n, 3], inverse depth f16 [n, n])."""
    rng = np.random.default_rng([seed, i])
    y = np.linspace(0, 1, n, dtype=np.float32)[:, None].repeat(n, 1)
    fields = texture_bank(rng, n)
    colours = palette(rng, 64)
    horizon = rng.uniform(-0.1, 0.7)
    far = rng.uniform(0.0, 0.15)
    tilt = rng.normal(0, 0.1) * (np.linspace(-0.5, 0.5, n, dtype=np.float32)[None] * np.ones((n, 1), np.float32))
    inverse = np.clip(far + (y - horizon - tilt) / (1.05 - horizon) * rng.uniform(0.5, 1.0), far, 1)
    rgb = colours[0] * (1 + 0.4 * rng.normal() * (y[..., None] - 0.5))
    ground = inverse > far
    grain = grown(fields, 0, 1.5, n, 0) * rng.gamma(0.8, 0.1)
    # the ground's texture is finer where it is farther
    rows = np.clip(np.cumsum(1 / (0.15 + inverse[:, n // 2])), 0, None)
    rows = (rows / rows[-1] * (n - 1) * rng.uniform(0.6, 2)).astype(int) % n
    rgb = np.where(ground[..., None], colours[1] * (1 + (fields[1][rows] * rng.gamma(0.8, 0.12))[..., None]), rgb * (1 + 0.3 * grain[..., None]))
    things = int(rng.integers(6, 45))
    nearness = np.sort(rng.beta(1.2, 2.0, things)) * (0.98 - far) + far + 0.01
    for k, near in enumerate(nearness):
        radius = n * near * math.exp(rng.uniform(math.log(0.04), math.log(0.45)))
        cx = rng.uniform(-0.1, 1.1) * n
        foot = (horizon + (near - far) * (1.05 - horizon)) * n
        cy = foot - radius * rng.uniform(0.3, 1) if rng.random() < 0.75 else rng.uniform(0, 1) * n
        mask = Image.new("L", (n, n), 0)
        ImageDraw.Draw(mask).polygon(outline(rng, cx, cy, radius), fill=255)
        mask = np.asarray(mask) > 0
        if mask.sum() < 12:
            continue
        ys, xs = np.nonzero(mask)
        u, v = (xs - cx) / (radius + 1e-3), (ys - cy) / (radius + 1e-3)
        kind = rng.random()
        depth = np.full(len(ys), near, np.float32)
        shade = np.ones(len(ys), np.float32)
        if kind < 0.35:  # a ball: nearer in the middle, lit from one side
            bulge = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
            depth = near * (1 + 0.25 * radius / n * bulge)
            light = rng.normal(0, 1, 3)
            light /= np.linalg.norm(light) + 1e-6
            shade = 0.55 + 0.6 * np.clip(u * light[0] + v * light[1] + bulge * abs(light[2]), 0, None)
        elif kind < 0.6:  # a leaning board
            depth = near * (1 + rng.normal(0, 0.25) * u)
            shade = 1 + rng.normal(0, 0.2) * u
        texture = grown(fields, int(rng.integers(len(fields))), 0.5 + 2.5 * near, n, int(rng.integers(n)))[ys, xs] * rng.gamma(0.8, 0.1)
        inverse[ys, xs] = np.clip(depth, 0, 1)
        rgb[ys, xs] = colours[2 + k % 60] * (shade * (1 + texture))[:, None]
    haze = rng.uniform(0, 0.8) if rng.random() < 0.6 else 0.0
    share = (haze * (1 - inverse) ** 2)[..., None]
    rgb = rgb * (1 - share) + palette(rng, 1)[0] * share
    return camera(rng, np.clip(rgb, -0.2, 1.5).astype(np.float32)), inverse.astype(np.float16)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--count", type=int, default=400)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, a.count, SHARD):
        rgb, depth = zip(*(make_scene(a.seed, i, a.size) for i in range(first, first + SHARD)))
        np.savez(a.out / f"scenes-{a.seed}-{first // SHARD:03d}.npz", rgb=np.stack(rgb), depth=np.stack(depth))


if __name__ == "__main__":
    main()

"""Generated training pictures: no photograph, no data set, only rules and a seed.

Every picture is drawn at twice its size and shrunk, so its edges are anti-aliased like a lens and a
sensor would leave them. What is drawn imitates the statistics of photographs rather than their
content: occluding shapes with power-law sizes (dead leaves), shaded and textured surfaces, regular
structures in perspective, strokes and hair, type, defocused backgrounds, correlated colours, tone
curves; then what cameras add: a soft lens, sharpening, grain, compression.

    python pictures.py --out POOL --count 2400 --seed 1 --jobs 2

writes shards `pool-<seed>-<nnn>.npy` of uint8 [n, size, size, 3]. Shards may be added or removed
while a training run reads the folder. Picture i of a seed is the same on every run.
"""

import argparse
import io
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates

SHARD = 50


# ---------------------------------------------------------------- textures


def unit(field):
    """Zero mean, unit deviation."""
    field = field - field.mean()
    return (field / (field.std() + 1e-6)).astype(np.float32)


def noise_field(rng, n):
    """Gaussian noise with a 1/f^a spectrum, often stretched along one direction (grain, fur, cloth, clouds)."""
    fy = np.fft.fftfreq(n)[:, None].astype(np.float32)
    fx = np.fft.rfftfreq(n)[None, :].astype(np.float32)
    angle = rng.uniform(0, math.pi)
    stretch = 1.0 if rng.random() < 0.4 else rng.uniform(1.5, 12)
    a, b = math.cos(angle), math.sin(angle)
    u, v = (a * fx + b * fy), (-b * fx + a * fy)
    f = np.sqrt((u * stretch) ** 2 + v**2) + 1.0 / n
    amplitude = f ** -rng.uniform(0.4, 2.2)
    if rng.random() < 0.4:  # one dominant size
        centre = math.exp(rng.uniform(math.log(0.015), math.log(0.22)))
        amplitude = np.exp(-0.5 * (np.log(f / centre) / rng.uniform(0.2, 0.7)) ** 2)
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape, dtype=np.float32)).astype(np.complex64)
    return unit(np.fft.irfft2(amplitude * phase, s=(n, n)))


def pattern_field(rng, n):
    """Regular structures (stripes, bricks, grids, dots), bent or in perspective."""
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    angle = rng.uniform(0, math.pi)
    u = (x - n / 2) * math.cos(angle) + (y - n / 2) * math.sin(angle)
    v = -(x - n / 2) * math.sin(angle) + (y - n / 2) * math.cos(angle)
    tilt = 1 + rng.uniform(-0.9, 0.9) * u / n + rng.uniform(-0.9, 0.9) * v / n
    u, v = u / tilt, v / tilt
    if rng.random() < 0.4:
        bend = gaussian_filter(rng.standard_normal((n // 8, n // 8)), 6)
        bend = unit(map_coordinates(bend, [y / 8, x / 8], order=1, mode="nearest"))
        u = u + bend * rng.uniform(2, 14)
    period = math.exp(rng.uniform(math.log(4.5), math.log(60)))
    duty = rng.uniform(0.1, 0.9)
    kind = rng.integers(5)
    p, q = (u / period) % 1, (v / (period * rng.uniform(0.4, 2.5))) % 1
    if kind == 0:
        return unit(np.sin(2 * np.pi * p))
    if kind == 1:
        return unit((p < duty).astype(np.float32))
    if kind == 2:  # bricks
        row = np.floor(v / period)
        shifted = (u / (2 * period) + 0.5 * row) % 1
        joint = rng.uniform(0.04, 0.2)
        tone = np.sin(row * 12.9 + np.floor(u / (2 * period) + 0.5 * row) * 78.2) * rng.uniform(0, 0.6)
        return unit(((((v / period) % 1) > joint) & (shifted > joint / 2)) * (1 + tone))
    if kind == 3:
        return unit(((p < duty) ^ (q < duty)).astype(np.float32))
    r = (p - 0.5) ** 2 + (q - 0.5) ** 2
    return unit((r < (0.1 + 0.35 * duty) ** 2).astype(np.float32))


def texture_bank(rng, n):
    fields = [noise_field(rng, n) for _ in range(3)]
    fields.append(pattern_field(rng, n) if rng.random() < 0.7 else noise_field(rng, n))
    if rng.random() < 0.4:  # hard spots and cracks out of a smooth field
        fields[0] = unit((fields[0] > rng.uniform(-0.8, 1.5)).astype(np.float32))
    if rng.random() < 0.3:
        fields[1] = unit(np.exp(-np.abs(fields[1]) * rng.uniform(2, 8)))
    return np.stack(fields)


# ---------------------------------------------------------------- colours


def palette(rng, count):
    """Colours as photographs have them: mostly luminance, little and correlated chroma, around one cast."""
    cast = rng.normal(0, 0.07, 3)
    light = rng.beta(rng.uniform(0.7, 2.5), rng.uniform(0.7, 2.5), count)
    warm, green = rng.normal(0, rng.uniform(0.02, 0.2), count), rng.normal(0, rng.uniform(0.01, 0.1), count)
    rgb = light[:, None] + np.stack([warm + 0.3 * green, -green, -warm + 0.3 * green], 1) * (0.35 + light[:, None])
    if rng.random() < 0.12:
        rgb = rng.random((count, 3)) * 0.6 + rgb * 0.4
    if rng.random() < 0.06:
        rgb = rgb.mean(1, keepdims=True).repeat(3, 1)
        cast = cast * 0
    return np.clip(rgb + cast, 0, 1).astype(np.float32)


# ---------------------------------------------------------------- shapes


def outline(rng, cx, cy, r):
    """One closed outline: ellipse, box, polygon or wobbly blob."""
    kind = rng.random()
    turn, squeeze = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 1)
    if kind < 0.3:
        k = max(10, min(60, int(r)))
        t = np.linspace(0, 2 * math.pi, k, endpoint=False)
        x, y = np.cos(t), np.sin(t) * squeeze
    elif kind < 0.55:
        x, y = np.array([-1, 1, 1, -1.0]), np.array([-1, -1, 1, 1.0]) * squeeze
        if rng.random() < 0.4:
            turn = rng.normal(0, 0.03)
    elif kind < 0.75:
        t = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 8)))
        x, y = np.cos(t), np.sin(t)
    else:
        k = max(12, min(80, int(r * 1.5)))
        t = np.linspace(0, 2 * math.pi, k, endpoint=False)
        radius = 1 + sum(rng.normal(0, 0.35 / h) * np.cos(h * t + rng.uniform(0, 6.3)) for h in range(2, 9))
        x, y = radius * np.cos(t), radius * np.sin(t) * squeeze
    a, b = math.cos(turn) * r, math.sin(turn) * r
    return list(zip((cx + a * x - b * y).tolist(), (cy + b * x + a * y).tolist()))


def leaf_map(rng, n, count, r_min, r_max, exponent):
    """Index picture of `count` occluding shapes with radii of density r^-exponent; 0 where nothing was drawn."""
    index = Image.new("I", (n, n), 0)
    draw = ImageDraw.Draw(index)
    p = 1 - exponent
    radii = (r_min**p + rng.random(count) * (r_max**p - r_min**p)) ** (1 / p)
    if rng.random() < 0.5:
        radii = np.sort(radii)[::-1]
    for i, r in enumerate(radii):
        x, y = rng.uniform(-0.1 * n, 1.1 * n, 2)
        draw.polygon(outline(rng, x, y, r), fill=i + 1)
    return np.asarray(index)


def surface(rng, index, count):
    """Colours, shading and texture of every leaf in an index picture."""
    n = index.shape[0]
    colours = palette(rng, count + 1)
    y, x = np.mgrid[0:n, 0:n]
    fields = texture_bank(rng, n)
    which = rng.integers(0, len(fields), count + 1)
    ox, oy = rng.integers(0, n, count + 1), rng.integers(0, n, count + 1)
    strength = rng.gamma(0.8, rng.uniform(0.02, 0.12), count + 1).astype(np.float32)
    strength[rng.random(count + 1) < 0.25] = 0
    grain = fields[which[index], (y + oy[index]) % n, (x + ox[index]) % n] * strength[index]
    slope = rng.normal(0, rng.uniform(0.05, 0.6), (2, count + 1)).astype(np.float32) / n
    # Where a leaf's gradient is zero does not matter: its colour is random anyway.
    shade = slope[0][index] * (x - n / 2) + slope[1][index] * (y - n / 2)
    tint = 1 + 0.3 * rng.standard_normal(3).astype(np.float32)
    rgb = colours[index]
    return rgb * (1 + grain + shade)[..., None] + (0.25 * grain)[..., None] * tint


def leaves(rng, n, dense=True):
    count = int(math.exp(rng.uniform(math.log(40), math.log(1500 if dense else 150))))
    index = leaf_map(rng, n, count, rng.uniform(2, 12), rng.uniform(0.12, 0.6) * n, rng.uniform(1.5, 3.2))
    return surface(rng, index, count), index


def curve(rng, n, reach):
    """A smooth open curve of a few dozen points."""
    p = rng.uniform(-0.1 * n, 1.1 * n, 2) + rng.normal(0, reach, (4, 2)).cumsum(0)
    t = np.linspace(0, 1, 28)[:, None]
    xy = (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t * t * (1 - t) * p[2] + t**3 * p[3]
    return [tuple(v) for v in xy.tolist()]


def strokes(rng, canvas):
    """Lines, wires, branches and hair over a canvas."""
    n = canvas.shape[0]
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    colours = (palette(rng, 64) * 255).astype(int)
    for _ in range(rng.integers(1, 6)):
        width = int(max(1, math.exp(rng.uniform(0, 2.6))))
        base, spread = curve(rng, n, n * rng.uniform(0.1, 0.5)), n * rng.uniform(0.01, 0.2)
        straight = rng.random() < 0.4
        first = rng.integers(64)
        for _ in range(int(math.exp(rng.uniform(0, 4.2 if width < 4 else 1.5)))):
            shift, twist = rng.normal(0, spread, 2), rng.normal(0, spread, 2)
            line = [(x + shift[0] + twist[0] * k / 28, y + shift[1] + twist[1] * k / 28) for k, (x, y) in enumerate(base)]
            if straight:
                line = [line[0], line[-1]]
            draw.line(line, fill=tuple(colours[(first + rng.integers(4)) % 64]), width=width, joint="curve")
    return np.asarray(picture).astype(np.float32) / 255


def type_layer(rng, canvas, lines):
    """Printed words at several sizes and angles."""
    n = canvas.shape[0]
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    letters = "abcdefghijklmnopqrstuvwxyzetaoinshrdluABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-&%?!"
    for _ in range(lines):
        size = int(math.exp(rng.uniform(math.log(14), math.log(120))))
        font = ImageFont.load_default(size)
        text = " ".join("".join(rng.choice(list(letters), rng.integers(1, 10))) for _ in range(rng.integers(1, 8)))
        rows = "\n".join([text[i:] + text[:i] for i in range(rng.integers(1, 6))])
        mask = Image.new("L", (n, n), 0)
        at = tuple(rng.uniform(-0.2 * n, 0.7 * n, 2).tolist())
        ImageDraw.Draw(mask).multiline_text(at, rows, fill=255, font=font)
        mask = mask.rotate(rng.normal(0, 25) if rng.random() < 0.5 else 0, Image.BILINEAR)
        picture.paste(tuple((palette(rng, 1)[0] * 255).astype(int).tolist()), (0, 0), mask)
    return np.asarray(picture).astype(np.float32) / 255


# ---------------------------------------------------------------- pictures


def blur(picture, sigma):
    return gaussian_filter(picture, (sigma, sigma, 0), mode="reflect", truncate=3) if sigma > 0.05 else picture


def compose(rng, n):
    kind = rng.random()
    if kind < 0.07:  # almost nothing: gradients and clouds
        y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n
        a, b = palette(rng, 2)
        t = np.clip(x * rng.normal() + y * rng.normal() + 0.3, 0, 1)[..., None]
        cloud = noise_field(rng, n)[..., None] * rng.uniform(0, 0.06)
        canvas = a * (1 - t) + b * t + gaussian_filter(cloud, (4, 4, 0))
    elif kind < 0.17:  # one textured surface
        fields = texture_bank(rng, n)
        mix = np.tensordot(rng.normal(0, 0.08, (3, len(fields))) * 0.3 + rng.normal(0, 0.1, len(fields)), fields, 1)
        canvas = palette(rng, 1)[0] * 0.7 + 0.15 + np.moveaxis(mix, 0, 2)
    else:
        canvas, _ = leaves(rng, n)
    if rng.random() < 0.55 and kind > 0.07:  # depth: this becomes the background, perhaps out of focus
        canvas = blur(canvas, rng.choice([0, 0, 1, 2, 4, 8, 14]) * rng.uniform(0.7, 1.4))
        front, index = leaves(rng, n, dense=rng.random() < 0.5)
        mask = (index > 0).astype(np.float32)
        if rng.random() < 0.5:  # contact shadow
            shadow = gaussian_filter(np.roll(mask, rng.integers(-12, 12, 2), (0, 1)), rng.uniform(3, 20))
            canvas = canvas * (1 - rng.uniform(0.2, 0.8) * shadow)[..., None]
        mask = gaussian_filter(mask, rng.uniform(0.3, 1.8))[..., None]
        canvas = canvas * (1 - mask) + front * mask
    if rng.random() < 0.4:
        canvas = strokes(rng, canvas)
    if rng.random() < 0.16:
        canvas = type_layer(rng, canvas, rng.integers(1, 7))
    if rng.random() < 0.5:  # uneven light
        light = gaussian_filter(rng.standard_normal((20, 20)), 4)
        y, x = np.mgrid[0:n, 0:n] * (19 / n)
        light = unit(map_coordinates(light, [y, x], order=1))
        canvas = canvas * np.exp(light * rng.uniform(0, 0.5))[..., None]
    return canvas.astype(np.float32)


def camera(rng, picture):
    """Lens, tone curve, sharpening, grain, 8 bits, compression."""
    lens = rng.random()
    picture = blur(picture, 0 if lens < 0.3 else rng.uniform(0.2, 0.7) if lens < 0.75 else rng.uniform(0.6, 1.6))
    low, high = np.percentile(picture[::4, ::4], [0.5, 99.5])
    target = np.sort(rng.uniform(0, 1, 2)) if rng.random() < 0.3 else np.array([rng.uniform(-0.05, 0.1), rng.uniform(0.8, 1.1)])
    if target[1] - target[0] < 0.15:
        target[1] = target[0] + 0.15
    picture = (picture - low) / max(high - low, 0.02) * (target[1] - target[0]) + target[0]
    picture = np.clip(picture, 0, 1) ** math.exp(rng.normal(0, 0.35))
    if rng.random() < 0.25:
        picture = picture + rng.uniform(0.2, 1.2) * (picture - blur(picture, rng.uniform(0.6, 1.5)))
    if rng.random() < 0.45:
        sigma = math.exp(rng.uniform(math.log(0.003), math.log(0.05)))
        grey = rng.standard_normal(picture.shape[:2] + (1,)).astype(np.float32)
        colour = rng.standard_normal(picture.shape).astype(np.float32)
        share = rng.uniform(0, 1)
        grain = share * grey + math.sqrt(1 - share * share) * colour
        size = rng.choice([0, 0, 0.5, 0.8, 1.2]) * rng.uniform(0.7, 1.2)
        if size > 0:
            grain = blur(grain, size)
            grain /= grain.std() + 1e-6
        luma = np.clip(picture.mean(2, keepdims=True), 0, 1)
        picture = picture + sigma * grain * (1 if rng.random() < 0.4 else np.sqrt(luma + 0.05) * 1.3)
    out = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.25:
        packed = io.BytesIO()
        Image.fromarray(out).save(packed, "JPEG", quality=int(rng.integers(55, 97)), subsampling=int(rng.choice([0, 2])))
        out = np.asarray(Image.open(packed))
    return out


def make_picture(seed, i, size):
    rng = np.random.default_rng([seed, i])
    canvas = compose(rng, 2 * size)
    half = canvas.reshape(size, 2, size, 2, 3).mean((1, 3))
    return camera(rng, half)


def make_shard(task):
    path, seed, first, count, size = task
    if not path.exists():
        pictures = np.stack([make_picture(seed, first + i, size) for i in range(count)])
        part = path.with_suffix(".part")
        with open(part, "wb") as f:
            np.save(f, pictures)
        os.replace(part, path)
    return path


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--count", type=int, default=2400)
    p.add_argument("--first", type=int, default=0, help="index of the first picture (a multiple of 50)")
    p.add_argument("--size", type=int, default=320)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--jobs", type=int, default=2)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    tasks = []
    for first in range(a.first, a.first + a.count, SHARD):
        tasks.append((a.out / f"pool-{a.seed}-{first // SHARD:03d}.npy", a.seed, first, SHARD, a.size))
    with multiprocessing.Pool(a.jobs) as pool:
        for path in pool.imap_unordered(make_shard, tasks):
            print(path, flush=True)


if __name__ == "__main__":
    main()

"""Train a small superpixel network (SpixelFCN's layout) whose cells are n x n pixels of its own input.

    python casr_superpixel.py --pool POOL --run RUN --cell 4 --cpu-minutes 4

Loss as SpixelFCN's: every pixel's colour and position is rebuilt from the soft means of the nine superpixels around it;
squared error of the colour (scaled as the network's input), and of the position times --compactness^2 / cell^2. With
--enlarge K the network sees the picture reduced by K, and its probabilities, enlarged again, must rebuild the picture itself from
the reduced one's superpixels: regions then end where the edges of the enlarged picture are, which is what CASR paints. The published network
sees 16 x 16 cells; one trained for n x n gives probabilities at input resolution, to be enlarged by the stage's factor.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from casarbi_run import Run, arguments, picture_crop
from casr import MEAN
from liif import resize
from spixel import SpixelNet1l_bn
from train import Pool

WIDTHS = [8, 16, 32]


def shift(x, q):
    """Cells moved so that entry i holds what lies at neighbour q of i; zeros beyond the edge."""
    dy, dx = q // 3 - 1, q % 3 - 1
    return F.pad(x, (1, 1, 1, 1))[:, :, 1 + dy : 1 + dy + x.shape[2], 1 + dx : 1 + dx + x.shape[3]]


def rebuilt(features, p, cell, enlarge=1):
    """[n, c, h, w] from soft superpixel means: mean of cell j = sum of p over the pixels that see j, then back; with
    `enlarge`, back at so many times the size, by bilinearly enlarged probabilities."""
    weighted, weight = 0, 0
    for q in range(9):
        share = p[:, q : q + 1]
        # summed over a pixel's own cell, then handed to the neighbour q of it
        weighted = weighted + shift(F.avg_pool2d(features * share, cell), 8 - q)
        weight = weight + shift(F.avg_pool2d(share, cell), 8 - q)
    means = weighted / (weight + 1e-8)
    out = 0
    if enlarge > 1:
        p, cell = F.interpolate(p, scale_factor=enlarge, mode="bilinear", align_corners=False), cell * enlarge
    for q in range(9):
        out = out + shift(means, q).repeat_interleave(cell, 2).repeat_interleave(cell, 3) * p[:, q : q + 1]
    inside = 0
    for q in range(9):
        inside = inside + shift(torch.ones_like(means[:, :1]), q).repeat_interleave(cell, 2).repeat_interleave(cell, 3) * p[:, q : q + 1]
    return out / (inside + 1e-8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, 4, 2e-3, 8, 96)
    parser.add_argument("--cell", type=int, default=4)
    parser.add_argument("--compactness", type=float, default=0.01, help="weight of the position against the colour")
    parser.add_argument("--enlarge", type=int, default=1, help="also rebuild a picture of so many times the size")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    net, average = SpixelNet1l_bn(WIDTHS), SpixelNet1l_bn(WIDTHS)
    pool, held_out = Pool(a.pool), Pool(a.pool, held_out=True)
    run = Run(a.run, net, average, a)
    unit = 4 * a.cell * a.enlarge
    size = a.crop // unit * unit
    low = size // a.enlarge
    grid = torch.stack(torch.meshgrid(torch.arange(low), torch.arange(low), indexing="ij")).float()[None] / a.cell

    def errors(module, target):
        n = target.shape[0]
        rgb = resize(target, low, low).clamp(0, 1) if a.enlarge > 1 else target
        p = module(rgb - torch.tensor(MEAN)[None, :, None, None]).softmax(1)
        out = rebuilt(torch.cat([rgb, grid.expand(n, -1, -1, -1)], 1), p, a.cell)
        colour = ((out[:, :3] - rgb) ** 2).mean()
        if a.enlarge > 1:
            colour = colour + ((rebuilt(rgb, p, a.cell, a.enlarge) - target) ** 2).mean()
        return colour, ((out[:, 3:] - grid) ** 2).mean(), (p, rgb)

    def loss_of(rng):
        rgb = torch.stack([picture_crop(rng, pool, size, shrink=0.8) for _ in range(a.batch)])
        colour, place, _ = errors(net, rgb)
        return colour + a.compactness**2 * place * 10

    def measure():
        """Held-out PSNR of the soft rebuilding (of both sizes' errors together), and of the hard one (every pixel its likeliest superpixel's mean)."""
        # Buffers are not averaged: the running statistics are the trained network's own.
        for (_, b), (_, s) in zip(average.named_buffers(), net.named_buffers()):
            b.copy_(s)
        crops = [held_out.shards[held_out.keys[0]][i][:size, :size] for i in range(16)]
        rgb = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            target = rgb
            soft, _, (p, rgb) = errors(average, target)
            hard = F.one_hot(p.argmax(1), 9).permute(0, 3, 1, 2).float()
            flat = F.one_hot(torch.full(p.shape[0:1] + p.shape[2:], 4), 9).permute(0, 3, 1, 2).float()
            means = [((rebuilt(rgb, q, a.cell, a.enlarge) - target) ** 2).mean() for q in (hard, flat)]
        return {k: round(float(-10 * torch.log10(e)), 3) for k, e in zip(("soft", "hard", "squares"), [soft, *means])}

    run.train(loss_of, measure, {"config": {"block_out_channels": WIDTHS, "cell": a.cell}, "seed": a.seed})


if __name__ == "__main__":
    main()

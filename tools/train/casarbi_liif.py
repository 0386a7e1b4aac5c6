"""Train the small LIIF that gives CasArbi its base picture.

    python casarbi_liif.py --pool POOL --run RUN --cpu-minutes 15

L1 on [-1, 1] pictures; the enlargement is 2 in half of the batches, a factor of (1, 2] in a quarter, up to 8 in the
rest (the base of a whole cascade, and LIIF alone). The answer is added to the bicubic enlargement (`skip`), so a short
training begins where bicubic is.
"""

import argparse
import math

import numpy as np
import torch

from casarbi_run import Run, arguments, picture_crop, reduced
from liif import LIIF, resize
from train import Pool

CONFIG = dict(n_resblocks=6, n_feats=32, hidden=[64, 64, 64], local_ensemble=True, feat_unfold=True, cell_decode=True, skip="bicubic")


def new(config=CONFIG):
    net = LIIF(config)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                m.bias.zero_()
        for block in list(net.encoder.body)[:-1]:
            block.body[2].weight.mul_(0.3)
        net.imnet.layers[-1].weight.mul_(0.1)
    return net


# Smallest and largest factor that pick_factor draws.
TRAINED_SCALES = [1.02, 8.0]


def pick_factor(rng):
    r = rng.random()
    return 2.0 if r < 0.5 else float(rng.uniform(1.02, 2)) if r < 0.75 else float(math.exp(rng.uniform(math.log(2), math.log(8))))


def gain(net, pool, factors=(1.5, 2, 4), count=12, size=192):
    """Mean PSNR gain over bicubic on held-out generated pictures."""
    out = {}
    with torch.no_grad():
        for f in factors:
            gains = []
            for i in range(count):
                shard = pool.shards[pool.keys[i % len(pool.keys)]]
                hr = torch.from_numpy(shard[i % len(shard)][:size, :size].copy()).permute(2, 0, 1)[None].float() / 255
                low = round(size / f)
                lr = (resize(hr, low, low).clamp(0, 1) * 255).round() / 255
                y, u = net(2 * lr - 1, size, size) / 2 + 0.5, resize(lr, size, size)
                ey, eu = (float(((p.clamp(0, 1) - hr) ** 2).mean()) + 1e-9 for p in (y, u))
                gains.append(10 * math.log10(eu / ey))
            out[f"gain_x{f}"] = round(float(np.mean(gains)), 4)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(p, 15, 1.5e-3, 8, 96)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    net, average = new(), new()
    pool, held_out = Pool(a.pool), Pool(a.pool, held_out=True)
    run = Run(a.run, net, average, a)

    def loss_of(rng):
        hr = torch.stack([picture_crop(rng, pool, a.crop) for _ in range(a.batch)])
        low = max(8, round(a.crop / pick_factor(rng)))
        lr = 2 * reduced(rng, hr, low) - 1
        with torch.autocast("cpu", torch.bfloat16):
            y = net(lr, a.crop, a.crop)
        # What can be won shrinks with the factor, as does the share of the loss that is noise.
        return (y.float() - (2 * hr - 1)).abs().mean() * min(1.0, 2 * low / a.crop)

    run.train(loss_of, lambda: gain(average, held_out), {"config": CONFIG, "seed": a.seed})


if __name__ == "__main__":
    main()

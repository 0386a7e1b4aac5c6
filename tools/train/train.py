"""Train the one-step super-resolver end to end, on generated pictures only.

    python train.py --pool POOL --run RUN --minutes 80        # starts or resumes RUN
    python train.py --pool POOL --run RUN --minutes 4 --probe unet.block_out_channels=[96]

One optimiser for encoder, UNet and decoder; Charbonnier loss on RGB, weighed by 4 / scale (errors
shrink with the factor); exponential moving average of the weights; warm-up, then a cosine over
`--minutes` of training time (or `--steps`, whichever ends first). The first steps are a bootstrap:
the picture to which the decoder's output is added is a blurred one, then fades to the bicubic
picture. Without it the network settles on answering nothing, because the residual over bicubic is
weak and the path to it long. RUN/last.pt holds weights, average, optimiser and counters;
RUN/log.jsonl one JSON line per report. Shards named pool-0-* are held out: the reported gain over
bicubic is measured on them.
"""

import argparse
import io
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluate import load
from model import UNET_CONFIG, VAE_CONFIG, OneStep, macs_per_pixel, resize, upscale


# ---------------------------------------------------------------- pictures


class Pool:
    """Memory-mapped shards of uint8 pictures; the folder is read again now and then."""

    def __init__(self, folder, held_out=False):
        self.folder, self.held_out, self.shards = folder, held_out, {}
        self.refresh()

    def refresh(self):
        names = {p for p in self.folder.glob("pool-*.npy") if p.name.startswith("pool-0-") == self.held_out}
        self.shards = {p: self.shards.get(p) if p in self.shards else np.load(p, mmap_mode="r") for p in sorted(names)}
        self.keys = list(self.shards)

    def crop(self, rng, size):
        shard = self.shards[self.keys[rng.integers(len(self.keys))]]
        picture = shard[rng.integers(len(shard))]
        y, x = rng.integers(0, picture.shape[0] - size + 1), rng.integers(0, picture.shape[1] - size + 1)
        crop = np.rot90(picture[y : y + size, x : x + size], rng.integers(4))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.15:
            crop = crop[:, :, rng.permutation(3)]
        return crop


def pick_scale(rng):
    """Target factor: the whole ones most often, any real one besides."""
    r = rng.random()
    if r < 0.38:
        return 4.0
    if r < 0.56:
        return 3.0
    if r < 0.78:
        return 2.0
    return float(math.exp(rng.uniform(math.log(1.15), math.log(5.0)))) if r < 0.98 else float(rng.uniform(5, 8))


def degrade(rng, lr):
    """8-bit rounding for most, mild noise or JPEG for some. lr [n, 3, h, w]; returns it with [n, 2] strengths."""
    n = lr.shape[0]
    labels = torch.zeros(n, 2)
    for i in range(n):
        r = rng.random()
        if r < 0.10:
            sigma = rng.uniform(1, 20)
            labels[i, 0] = sigma / 50
            lr[i] += torch.from_numpy(rng.standard_normal(lr[i].shape, dtype=np.float32)) * (sigma / 255)
        if rng.random() < 0.85:
            lr[i] = (lr[i].clamp(0, 1) * 255).round() / 255
        if 0.10 <= r < 0.18:
            quality = int(rng.integers(50, 97))
            labels[i, 1] = (100 - quality) / 100
            picture = (lr[i].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            packed = io.BytesIO()
            Image.fromarray(picture).save(packed, "JPEG", quality=quality, subsampling=int(rng.choice([0, 2])))
            lr[i] = torch.from_numpy(np.asarray(Image.open(packed)).copy()).permute(2, 0, 1) / 255
    return lr, labels


def batch(rng, pool, count, size):
    """One scale per batch: u (bicubic), target, planes."""
    hr = np.stack([pool.crop(rng, size) for _ in range(count)])
    hr = torch.from_numpy(hr).permute(0, 3, 1, 2).float() / 255
    low = max(8, round(size / pick_scale(rng)))
    lr, labels = degrade(rng, resize(hr, low, low))
    planes = torch.cat([labels, torch.full((count, 1), low / size)], 1)
    return resize(lr, size, size), hr, planes


def base(u, step, hold, fade):
    """Bootstrap: what the residual is added to. Blurred at first, bicubic after hold + fade steps."""
    share = min(1.0, max(0.0, (step - hold) / fade))
    if share == 1:
        return u
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(u, (8, 8, 8, 8), mode="reflect"), 17, 1)
    return torch.lerp(blurred, u, share)


# ---------------------------------------------------------------- training


def held_out_gain(model, pool, scales=(4, 3, 2), count=12, size=240):
    """Mean PSNR gain over bicubic on held-out generated pictures."""
    out = {}
    with torch.no_grad():
        for s in scales:
            gains = []
            for i in range(count):
                shard = pool.shards[pool.keys[i % len(pool.keys)]]
                hr = torch.from_numpy(shard[i % len(shard)][:size, :size].copy()).permute(2, 0, 1)[None].float() / 255
                lr = (resize(hr, size // s, size // s).clamp(0, 1) * 255).round() / 255
                y, u = upscale(model, lr, s)
                gains.append(10 * math.log10(float(((u - hr) ** 2).mean() + 1e-9) / float(((y - hr) ** 2).mean() + 1e-9)))
            out[f"gain_x{s}"] = round(sum(gains) / len(gains), 4)
    return out


def configs(probe):
    """Model shape, with the overrides of a probe: `name=value` pairs."""
    vae, unet = dict(VAE_CONFIG), dict(UNET_CONFIG)
    for item in probe:
        key, value = item.split("=", 1)
        where, key = key.split(".", 1)
        (vae if where == "vae" else unet)[key] = json.loads(value)
    unet["in_channels"], unet["out_channels"] = vae["latent_channels"] + 3, vae["latent_channels"]
    return vae, unet


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pool", type=Path, required=True)
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=80, help="training time in all, over every resumption")
    p.add_argument("--steps", type=int, default=10**9)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--crop", type=int, default=144, help="target pixels; divisible by 16 and 3 keeps x2, x3, x4 exact")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warmup", type=int, default=150, help="steps from a rate of zero, at the start and after each resumption")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--eps", type=float, default=0.02, help="Charbonnier: quadratic below, linear above")
    p.add_argument("--report", type=float, default=120, help="seconds between reports")
    p.add_argument("--measure", type=int, default=5, help="every how many reports the gain on held-out pictures is measured")
    p.add_argument("--threads", type=int, default=2, help="0: two when the machine is idle, one when it is loaded (barriers starve there)")
    p.add_argument("--bootstrap", type=int, nargs=2, default=[150, 250], help="steps on the blurred base, steps to fade to bicubic")
    p.add_argument("--init", type=Path, help="begin with the weights of an exported folder, the optimiser anew")
    p.add_argument("--first-step", type=int, default=0, help="what the first step is called: crops follow from seed and step")
    p.add_argument("--probe", nargs="*", default=[], help="shape overrides, e.g. unet.block_out_channels=[96]")
    a = p.parse_args()
    torch.set_num_threads(a.threads or 1)
    torch.manual_seed(a.seed)
    a.run.mkdir(parents=True, exist_ok=True)
    last = a.run / "last.pt"
    state = torch.load(last, weights_only=True) if last.exists() else None
    vae, unet = (state["vae"], state["unet"]) if state else configs(a.probe)
    model = OneStep.new(vae, unet).to(memory_format=torch.channels_last)
    average = OneStep.new(vae, unet).eval()
    for q in average.parameters():
        q.requires_grad_(False)
    average.load_state_dict(model.state_dict())
    decay = [q for q in model.parameters() if q.dim() > 1]
    rest = [q for q in model.parameters() if q.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 1e-3}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.99), fused=True)
    step, spent, seen = a.first_step, 0.0, 0
    if a.init and not state:
        model.load_state_dict(load(a.init).state_dict())
        average.load_state_dict(model.state_dict())
    if state:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, seen = state["step"], state["spent"], state["seen"]
    pool, held_out = Pool(a.pool), Pool(a.pool, held_out=True)
    log = open(a.run / "log.jsonl", "a", buffering=1)

    def note(**line):
        print(json.dumps(line), flush=True)
        log.write(json.dumps(line) + "\n")

    note(event="start", step=step, spent=round(spent), args={k: str(v) for k, v in vars(a).items()}, vae=vae, unet=unet,
         parameters=sum(q.numel() for q in model.parameters()), macs=macs_per_pixel(average), pictures=sum(map(len, pool.shards.values())))

    def save():
        part = last.with_suffix(".part")
        torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                    "step": step, "spent": spent, "seen": seen, "seed": a.seed, "vae": vae, "unet": unet}, part)
        os.replace(part, last)

    sums, reported, first, lines = [0.0, 0.0, 0], spent, step, 0
    weights, averages = list(model.parameters()), list(average.parameters())
    while True:
        began = time.monotonic()
        if a.threads == 0 and step % 50 == 0:
            torch.set_num_threads(1 if os.getloadavg()[0] > 2.7 else 2)
        progress = max(step / a.steps, spent / (60 * a.minutes))
        if progress >= 1:
            break
        rate = a.lr * min(1, (step - first + 1) / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for g in optimiser.param_groups:
            g["lr"] = rate
        rng = np.random.default_rng([a.seed, step])
        u, hr, planes = batch(rng, pool, a.batch, a.crop)
        x = (2 * u - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.stages(x, planes)["decoder"]
        out = base(u, step, *a.bootstrap) + decoded.float() / 2
        scale = 1 / float(planes[0, 2])
        loss = (torch.sqrt((out - hr) ** 2 + a.eps**2) - a.eps).mean() * (4 / scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 0.5)
        optimiser.step()
        with torch.no_grad():
            keep = min(a.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, weights, 1 - keep)
        step, seen = step + 1, seen + a.batch
        sums = [sums[0] + loss.item(), sums[1] + float(norm), sums[2] + 1]
        spent += time.monotonic() - began
        if spent - reported >= a.report:
            reported, lines = spent, lines + 1
            gains = held_out_gain(average, held_out) if lines % a.measure == 0 else {}
            k = sums[2]
            note(step=step, spent=round(spent), loss=round(sums[0] / k, 6), norm=round(sums[1] / k, 4), rate=round(rate, 6),
                 seen=seen, **gains)
            sums = [0.0, 0.0, 0]
            pool.refresh()
            save()
    save()
    note(event="end", step=step, spent=round(spent), seen=seen, **held_out_gain(average, held_out, count=50))


if __name__ == "__main__":
    main()

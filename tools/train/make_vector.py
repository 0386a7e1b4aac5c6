"""One small test vector: the exported f16 weights run in f32 with diffusers, every stage kept.

    python make_vector.py --model OUT/onestep --out OUT/reference.safetensors

Tensors, NCHW f32: lr [1,3,14,18] in [0,1] (8-bit values), u (bicubic, target size 56 x 72), x = 2u - 1,
planes [1,3], z (latent mean * scaling_factor), unet_out (v), x0, decoder_out, out (clamped to [0,1]).
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from evaluate import load
from model import conditioning, resize

SCALE = 4


def picture(h=14, w=18):
    """A smooth gradient, a bright disc with a hard edge, a slanted bar and some noise: nothing flat, everything in range."""
    g = torch.Generator().manual_seed(7)
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    base = torch.stack([x / w, y / h, 1 - (x + y) / (w + h)])
    disc = ((x - 5.3) ** 2 + (y - 6.1) ** 2 < 12).float() * torch.tensor([0.5, 0.2, -0.4])[:, None, None]
    bar = ((x * 0.6 + y * 0.8 - 14).abs() < 1.5).float() * torch.tensor([-0.6, 0.3, 0.5])[:, None, None]
    noise = 0.04 * torch.randn(3, h, w, generator=g)
    return ((0.15 + 0.7 * base + disc + bar + noise).clamp(0, 1) * 255).round()[None] / 255


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    model, lr = load(a.model), picture()
    u = resize(lr, lr.shape[2] * SCALE, lr.shape[3] * SCALE)
    x, planes = 2 * u - 1, conditioning(SCALE)
    with torch.no_grad():
        s = model.stages(x, planes)
    tensors = {"lr": lr, "u": u, "x": x, "planes": planes, "z": s["z"], "unet_out": s["unet"], "x0": s["x0"],
               "decoder_out": s["decoder"], "out": s["out"].clamp(0, 1)}
    tensors = {k: t.float().contiguous() for k, t in tensors.items()}
    save_file(tensors, a.out, metadata={"scale": str(SCALE), "timestep": "999", "weights": "f16, run in f32"})
    for k, t in tensors.items():
        print(f"{k:12s} {tuple(t.shape)!s:18s} mean {t.mean():+.5f} rms {t.pow(2).mean().sqrt():.5f}")
    print(a.out, a.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

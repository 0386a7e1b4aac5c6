"""CasArbi against bicubic and LIIF on photographs that were never trained on.

    python casarbi_evaluate.py --model DIR|RUN/last.pt [--scales 2 3 4 5.3 ...] [--steps 4 8] [--folder F] [--json OUT]

Protocol: the middle of the photograph, at most --side pixels (0: all of it) and as many as are a whole number of input
pixels times the factor, half up; reduced in float by antialiased bicubic, rounded to 8 bits; the result rounded to 8 bits; RGB PSNR.
Then, at --deep: what every part changes when it is switched off (RMS in grey levels, same noise), and over --seeds seeds
the deviation on edges and on flat areas, the mean picture's PSNR and the samples' average.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from casarbi_run import picture_crop  # noqa: F401  (makes tools/reference importable)
from casarbi import CasArbi, seeded
from casarbi_train import networks
from evaluate import eight_bits, from_folder, photographs, psnr
from liif import resize


def load(path, overrides):
    path = Path(path)
    if path.is_dir():
        return CasArbi.load(path, overrides)
    state = torch.load(path, weights_only=True)
    nets = networks(state["liif_config"], state["denoiser"])
    nets.load_state_dict(state["average"])
    return CasArbi(nets.eval().requires_grad_(False), state["config"] | overrides)


def pair(picture, scale, side):
    """(hr, lr): the target is round(lr * scale)."""
    hr = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    low = [int(min(n, side or n) / scale + 1e-6) for n in hr.shape[2:]]
    while any(math.floor(l * scale + 0.5) > n for l, n in zip(low, hr.shape[2:])):
        low = [l - 1 for l in low]
    target = [math.floor(l * scale + 0.5) for l in low]
    y, x = ((n - t) // 2 for n, t in zip(hr.shape[2:], target))
    hr = hr[:, :, y : y + target[0], x : x + target[1]]
    return hr, eight_bits(resize(hr, *low))


def table(model, pictures, scales, steps, side):
    rows = []
    for scale in scales:
        for name, picture in pictures.items():
            hr, lr = pair(picture, scale, side)
            size = hr.shape[2:]
            row = {"scale": scale, "picture": name, "bicubic": psnr(eight_bits(resize(lr, *size)), hr)}
            row["liif"] = psnr(eight_bits(model.networks["liif"](2 * lr - 1, *size) / 2 + 0.5), hr)
            for n in steps:
                model.config["num_inference_steps"] = n
                row[f"steps_{n}"] = psnr(eight_bits(model.upscale(lr, scale, seeded(0))), hr)
            rows.append(row)
        mine = [r for r in rows if r["scale"] == scale]
        means = {k: sum(r[k] for r in mine) / len(mine) for k in mine[0] if isinstance(mine[0][k], float) and k != "scale"}
        worst = min(min(r[f"steps_{n}"] for n in steps) - r["bicubic"] for r in mine)
        print(f"x{scale:<5}", " ".join(f"{k} {v:.3f}" for k, v in means.items()), f"worst gain {worst:+.3f}", flush=True)
    return rows


def deep(model, pictures, scale, seeds, side):
    rows = []
    for name, picture in pictures.items():
        hr, lr = pair(picture, scale, side)
        full = model.upscale(lr, scale, seeded(0))
        row = {"scale": scale, "picture": name}
        for part in ("adapter", "liif", "guidance"):
            other = CasArbi(model.networks, model.config, {part}).upscale(lr, scale, seeded(0))
            row[f"off_{part}"] = 255 * float(((other - full) ** 2).mean().sqrt())
            row[f"psnr_without_{part}"] = psnr(eight_bits(other), hr)
        samples = torch.cat([model.upscale(lr, scale, seeded(i)) for i in range(seeds)])
        deviation = samples.std(0).mean(0) * 255
        grey = hr[0].mean(0)
        edges = (grey.diff(dim=0)[:, :-1] ** 2 + grey.diff(dim=1)[:-1] ** 2).sqrt()
        high, low = torch.quantile(edges, 0.8), torch.quantile(edges, 0.4)
        inner = deviation[:-1, :-1]
        row |= {"deviation_edges": float(inner[edges > high].mean()), "deviation_flat": float(inner[edges <= low].mean()),
                "mean_psnr": psnr(samples.mean(0, keepdim=True), hr), "samples_psnr": float(np.mean([psnr(s[None], hr) for s in samples]))}
        rows.append(row)
        print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scales", type=float, nargs="*", default=[2, 3, 4, 5.3, 7, 8, 10, 10.7, 12])
    p.add_argument("--steps", type=int, nargs="*", default=[4])
    p.add_argument("--side", type=int, default=0)
    p.add_argument("--extra", action="store_true")
    p.add_argument("--folder", type=Path)
    p.add_argument("--deep", type=float, nargs="*", default=[])
    p.add_argument("--seeds", type=int, default=8)
    p.add_argument("--set", nargs="*", default=[], help="sampler fields, e.g. guidance_strength=[0.5] kappa=1.0")
    p.add_argument("--json", type=Path)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    overrides = {}
    for item in a.set:
        key, value = item.split("=", 1)
        try:
            overrides[key] = json.loads(value)
        except json.JSONDecodeError:
            overrides[key] = value
    model = load(a.model, overrides)
    pictures = photographs(a.extra) | (from_folder(a.folder) if a.folder else {})
    with torch.no_grad():
        out = {"figures": table(model, pictures, a.scales, a.steps, a.side)}
        model.config["num_inference_steps"] = a.steps[0]  # the table left the last of them
        out["deep"] = [row for scale in a.deep for row in deep(model, pictures, scale, a.seeds, a.side)]
    if a.json:
        a.json.write_text(json.dumps(out | {"set": overrides}, indent=1))


if __name__ == "__main__":
    main()

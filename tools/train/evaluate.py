"""Quality against bicubic on photographs that ship inside Python packages. None is used for training.

    python evaluate.py --model DIR            # an exported folder (f16 weights run in f32)
    python evaluate.py --model RUN/last.pt    # the average of a training run
    python evaluate.py --model DIR --folder F --scales 4 --quick    # every picture of a folder besides

Protocol: the photograph cropped to a multiple of the factor, shrunk in float by the antialiased
bicubic filter, rounded to 8 bits; the result rounded to 8 bits; RGB PSNR of the full frame. GMSD
(lower is better) and HaarPSI (higher is better) by piq. Then the same with the UNet's output set to
zero, and the RMS of every projection that writes into a residual stream or an output.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import piq
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from model import OneStep, macs_per_pixel, resize, upscale

MAIN = ("astronaut", "chelsea", "coffee", "rocket")


def load(path):
    path = Path(path)
    if path.is_dir():
        vae = AutoencoderKL.from_pretrained(path / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False)
        unet = UNet2DConditionModel.from_pretrained(path / "unet", torch_dtype=torch.float32, low_cpu_mem_usage=False)
        return OneStep(vae, unet).eval()
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = OneStep.new(state["vae"], state["unet"])
    model.load_state_dict(state["average"])
    return model.eval()


def rgb(array):
    array = np.asarray(array)
    if array.ndim == 2:
        array = np.stack([array] * 3, 2)
    return np.ascontiguousarray(array[:, :, :3]).astype(np.uint8)


def photographs(extra):
    """name -> uint8 [h, w, 3]: the four main ones, and others as a check of robustness."""
    import skimage.data

    out = {n: rgb(getattr(skimage.data, n)()) for n in MAIN}
    if extra:
        for n in ("camera", "coins", "grass", "gravel", "brick", "moon", "retina", "hubble_deep_field"):
            picture = rgb(getattr(skimage.data, n)())
            out[n] = picture[:768, :768]
        out["motorcycle"] = rgb(skimage.data.stereo_motorcycle()[0])
        import matplotlib.cbook
        from sklearn.datasets import load_sample_images

        for n, picture in zip(("china", "flower"), load_sample_images().images):
            out[n] = rgb(picture)
        out["grace_hopper"] = rgb(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB"))
    return out


def from_folder(folder, side=1024):
    """name -> uint8 [h, w, 3]: every picture of a folder, shrunk so that no side is longer than `side` (what a
    camera's file holds at full size is softer than any enlargement of it can show)."""
    out = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        picture = Image.open(path).convert("RGB")
        ratio = side / max(picture.size)
        if ratio < 1:
            filter = Image.BOX if ratio < 0.3 else Image.LANCZOS
            picture = picture.resize((round(picture.width * ratio), round(picture.height * ratio)), filter)
        out[path.stem] = rgb(picture)
    return out


def psnr(a, b):
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-10))


def eight_bits(x):
    return (x.clamp(0, 1) * 255).round() / 255


def measure(model, picture, scale, zero_unet=False, metrics=True):
    hr = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    h, w = hr.shape[2] // scale * scale, hr.shape[3] // scale * scale
    hr = hr[:, :, :h, :w]
    lr = eight_bits(resize(hr, h // scale, w // scale))
    with torch.no_grad():
        y, u = (eight_bits(t) for t in upscale(model, lr, scale, zero_unet=zero_unet))
    row = {"bicubic": psnr(u, hr), "psnr": psnr(y, hr)}
    row["gain"] = row["psnr"] - row["bicubic"]
    if metrics:
        for name, f in (("gmsd", piq.gmsd), ("haarpsi", piq.haarpsi)):
            row[name + "_bicubic"], row[name] = float(f(u, hr, data_range=1.0)), float(f(y, hr, data_range=1.0))
    return row


def projections(model):
    """RMS of every convolution whose output is added to a residual stream or leaves a network."""
    out = {}
    for name, m in model.named_modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            out[name] = float(m.weight.float().pow(2).mean().sqrt())
    return out


def table(model, pictures, scales, metrics=True):
    rows = {}
    for s in scales:
        rows[s] = {n: measure(model, p, s, metrics=metrics) for n, p in pictures.items()}
        print(f"\nx{s}  {'picture':18s} {'bicubic':>8s} {'ours':>8s} {'gain':>7s}   GMSD bic/ours       HaarPSI bic/ours")
        for n, r in rows[s].items():
            tail = f"   {r['gmsd_bicubic']:.4f} / {r['gmsd']:.4f}    {r['haarpsi_bicubic']:.4f} / {r['haarpsi']:.4f}" if metrics else ""
            print(f"    {n:18s} {r['bicubic']:8.3f} {r['psnr']:8.3f} {r['gain']:+7.3f}{tail}")
        main = [r["gain"] for n, r in rows[s].items() if n in MAIN]
        other = [r["gain"] for n, r in rows[s].items() if n not in MAIN]
        print(f"    mean gain, the four: {sum(main) / len(main):+.3f}, worst {min(main):+.3f}", end="")
        print(f"; the others: {sum(other) / len(other):+.3f}, worst {min(other):+.3f}" if other else "")
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scales", type=int, nargs="*", default=[4, 3, 2])
    p.add_argument("--extra", action="store_true", help="the other photographs too")
    p.add_argument("--folder", type=Path, help="a folder of pictures, measured besides")
    p.add_argument("--quick", action="store_true", help="PSNR only")
    p.add_argument("--json", type=Path, help="write the figures here")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model = load(a.model)
    pictures = photographs(a.extra)
    if a.folder:
        pictures |= from_folder(a.folder)
    rows = table(model, pictures, a.scales, metrics=not a.quick)
    if a.quick:
        return
    four = {n: pictures[n] for n in MAIN}
    zeroed = {s: [measure(model, q, s, zero_unet=True, metrics=False)["gain"] for q in four.values()] for s in a.scales}
    print("\nUNet output zeroed, mean gain of the four:", {f"x{s}": round(sum(g) / len(g), 3) for s, g in zeroed.items()})
    rms = projections(model)
    outputs = {n: r for n, r in rms.items() if n.endswith(("conv2", "conv_out", "quant_conv", "conv_shortcut"))}
    low = min(outputs, key=outputs.get)
    print(f"smallest RMS of an output projection: {outputs[low]:.5f} ({low}); of any weight: {min(rms.values()):.5f}")
    macs = macs_per_pixel(model)
    print(f"multiply-adds per output pixel: {macs['folded']:.0f} (upsamplers folded), {macs['plain']:.0f} (not folded),",
          f"{macs['full']:.0f} at full resolution; parameters {sum(q.numel() for q in model.parameters())}")
    if a.json:
        zero = {s: sum(g) / len(g) for s, g in zeroed.items()}
        a.json.write_text(json.dumps({"figures": rows, "unet_zeroed_mean_gain": zero, "output_rms": outputs, "macs": macs}, indent=1))


if __name__ == "__main__":
    main()

"""Write a training run as the folder the engine reads: diffusers layout, f16 safetensors.

    python export.py --run RUN --out OUT/onestep [--figures figures.json]

The folder holds model_index.json (what the parts are and how they are put together), vae/, unet/,
scheduler/ and README.md (the model card). `--untrained` writes the shape with random weights.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import BETA_END, BETA_START, PLANES, TIMESTEP, TRAIN_STEPS, OneStep, macs_per_pixel

VERSION = "0.35.2"

INDEX = {
    "_class_name": "OneStepSuperResolution",
    "_diffusers_version": VERSION,
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "timestep": TIMESTEP,
    "num_inference_steps": 1,
    # What train.pick_scale draws.
    "trained_scales": [1.15, 8.0],
    "add_noise": False,
    "sample_posterior": False,
    "prediction_type": "v_prediction",
    "latent": "mean * scaling_factor",
    "resize": {"filter": "bicubic", "a": -0.5, "align_corners": False, "edge": "clamp", "size": "round(lr * scale)"},
    "residual": {"base": "bicubic", "gain": 1.0, "range": [-1, 1], "formula": "clamp((x + decoder) / 2 + 0.5, 0, 1), x = 2 * bicubic - 1"},
    "conditioning": {
        "where": "constant planes after the latent channels of the UNet input",
        "planes": list(PLANES),
        "default": {"noise_strength": 0.0, "jpeg_strength": 0.0, "inverse_scale": "1 / scale"},
        "meaning": {
            "noise_strength": "deviation of the input's noise in 8-bit levels / 50 (trained on 0 and 0.02 to 0.4)",
            "jpeg_strength": "(100 - JPEG quality) / 100 of the input, 0 for none (trained on 0 and 0.04 to 0.5)",
            "inverse_scale": "input size / target size",
        },
    },
    "encoder_hidden_states": "none: the UNet has no cross attention",
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": VERSION,
    "num_train_timesteps": TRAIN_STEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}


def card(model, state, log, figures, notes, remarks):
    macs, args = macs_per_pixel(model), next((l["args"] for l in log if l.get("event") == "start"), {})
    start = [l for l in log if l.get("event") == "start"]
    size = sum(q.numel() for q in model.parameters())
    lines = [
        "# onestep: a small one-step super-resolver",
        "",
        "License: MIT OR Apache-2.0",
        "",
        "A VAE encoder, a UNet and a VAE decoder (diffusers `AutoencoderKL` and `UNet2DConditionModel`, unmodified classes),",
        "trained together from scratch to predict what bicubic enlarging misses. One UNet call at t = 999 on the latent of",
        "the enlarged picture, v-prediction, nothing sampled; the decoder's output is added to the bicubic picture.",
        "`model_index.json` states the arithmetic.",
        "",
        f"- Parameters: {size:,} (f16). Multiply-adds per output pixel: {macs['folded']:,.0f} with the upsampling convolutions folded,",
        f"  {macs['plain']:,.0f} without; {macs['full']:,.0f} of them at full resolution. Total stride {model.stride}.",
        "- One set of weights for every factor above 1 (x2, x3, x4 and random real factors from 1.15 to 8 in training; little is left to gain past x6).",
        "",
        "## What it is not",
        "",
        "It has seen no photograph and knows no objects: it sharpens edges, lines and textures by their geometry and invents",
        "nothing. It is not a generative model, was trained for fidelity (no adversarial or perceptual loss), and stands beside",
        "the large published checkpoints only as something small that ships and runs everywhere. It removes noise and JPEG",
        "artefacts only mildly, and only when told their strength through the conditioning planes.",
        "",
        "## Training",
        "",
        "- Data: pictures drawn by `tools/train/pictures.py` (dead leaves, textures, patterns, strokes, type, defocus, tone",
        "  curves, grain, compression). No data set, no photograph, no other network. Crops of the picture are the target; the",
        "  input is the same crop shrunk by antialiased bicubic, mostly rounded to 8 bits, sometimes with noise or JPEG.",
    ]
    if state:
        pictures = max([l.get("pictures", 0) for l in start] + [0])
        lines += [
            f"- Pictures in the pool: {pictures}; crops seen: {state['seen']:,} of {args.get('crop')} x {args.get('crop')} target pixels.",
            f"- Steps: {state['step'] - (start[0]['step'] if start else 0):,} with batch {args.get('batch')}; wall time {state['spent'] / 60:.0f} minutes on one or two CPU cores (bf16 autocast); seed {state['seed']}.",
            f"- AdamW with warm-up and a cosine, Charbonnier loss (eps {args.get('eps')}), average of the weights. These are the averaged",
            "  weights, rounded to f16. Stretches of the run:",
        ]
        for l in start:
            g = l["args"]
            end = f"{g['steps']} steps" if float(g["steps"]) < 1e8 else f"{g['minutes']} minutes in all"
            init = f" with the weights of {g['init']}" if g.get("init", "None") != "None" else ""
            lines.append(f"    - from step {l['step']}{init}: learning rate {g['lr']}, until {end}, average {g['ema']}")
        lines += [f"- {note}" for note in notes]
    else:
        lines += ["- **Not trained**: random weights in the final shape."]
    if figures:
        lines += ["", "## Figures", "", "Photographs from Python packages, none used in training; 8-bit input and output, RGB PSNR, full frame.", "",
                  "| factor | picture | bicubic dB | this dB | gain | GMSD bicubic / this | HaarPSI bicubic / this |", "|---|---|---|---|---|---|---|"]
        for s, rows in figures["figures"].items():
            for name, r in rows.items():
                lines.append(f"| x{s} | {name} | {r['bicubic']:.2f} | {r['psnr']:.2f} | {r['gain']:+.2f} | {r['gmsd_bicubic']:.4f} / {r['gmsd']:.4f} | {r['haarpsi_bicubic']:.4f} / {r['haarpsi']:.4f} |")
        zero = ", ".join(f"x{s} {g:+.3f} dB" for s, g in figures["unet_zeroed_mean_gain"].items())
        low = min(figures["output_rms"].values())
        lines += ["", f"With the UNet's output set to zero the mean gain over astronaut, chelsea, coffee and rocket is: {zero}.",
                  f"The smallest RMS of a convolution that writes into a residual stream or an output is {low:.4f}."]
    lines += [""] * bool(remarks) + [f"- {remark}" for remark in remarks]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", type=Path)
    p.add_argument("--untrained", action="store_true")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--figures", type=Path, help="JSON of evaluate.py, for the model card")
    p.add_argument("--note", action="append", default=[], help="a further line on the training, for the model card")
    p.add_argument("--remark", action="append", default=[], help="a further line under the figures")
    a = p.parse_args()
    state, log = None, []
    if a.untrained:
        torch.manual_seed(0)
        model = OneStep.new()
    else:
        state = torch.load(a.run / "last.pt", weights_only=True, map_location="cpu")
        model = OneStep.new(state["vae"], state["unet"])
        model.load_state_dict(state["average"])
        log = [json.loads(line) for line in (a.run / "log.jsonl").read_text().splitlines()]
    for part in ("vae", "unet"):
        folder, network = a.out / part, getattr(model, part)
        folder.mkdir(parents=True, exist_ok=True)
        network.save_config(folder)
        weights = {}
        for k, w in network.state_dict().items():
            half = w.detach().half().contiguous()
            if not torch.isfinite(half).all():
                raise SystemExit(f"{part}.{k} does not fit f16")
            weights[k] = half
        save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (a.out / "scheduler").mkdir(exist_ok=True)
    (a.out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (a.out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    figures = json.loads(a.figures.read_text()) if a.figures else None
    (a.out / "README.md").write_text(card(model.eval(), state, log, figures, a.note, a.remark))
    total = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"{a.out}: {total:,} bytes")


if __name__ == "__main__":
    main()

"""Write the committed reference cases: tests/data/reference/{checkpoints,cases,cases.json}.

    make_cases.py [--out tests/data/reference]

A case is two files in the format of `tessera run`: cases/NAME.in.safetensors, what goes in, and
cases/NAME.out.safetensors, what PyTorch gives in f64 from the weights as the checkpoint's file holds them, stored
as f32. cases.json lists them, with the component, the checkpoint and the relative L2 errors of PyTorch's own runs
in f32, bf16 and f16, so that the engine's errors can be held to them where there is no PyTorch. Cases of networks
not listed here are left as they are.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import make_checkpoint
import reference

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
# Seed, storage type and names of each checkpoint.
CHECKPOINTS = {
    "tiny_unet_sd2": (0, F16, False),
    "tiny_unet_sd15": (1, F16, False),
    "tiny_unet_plain": (2, BF16, False),
    "tiny_unet_level": (3, F32, False),
    "tiny_controlnet": (4, F16, False),
    "tiny_vae": (5, F16, True),
    "tiny_vae_plain": (6, F16, False),
    "tiny_unet_v": (7, F16, False),
    "tiny_unet_narrow": (8, F16, False),
    "tiny_controlnet_sd15": (9, F16, False),
    "tiny_vae_deep": (10, F16, False),
}


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def denoiser(seed, n, size, steps, tokens, contexts, channels=4):
    """Inputs of a denoiser; `steps` are one number, or one of each item."""
    t = {"sample": normal([seed, 0], n, channels, *size), "timestep": torch.tensor(steps)}
    if tokens:
        t["encoder_hidden_states"] = normal([seed, 1], contexts, *tokens)
    return t


def picture(seed, n, height, width):
    """A picture as a ControlNet takes it: 0 to 1."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, 3, height, width), dtype=np.float32))


def cases():
    """(case, component, checkpoint, inputs): odd sides, 1 to 4 items, steps and contexts of their own or shared."""
    yield "unet_sd2_8x8", "unet", "tiny_unet_sd2", denoiser(1, 1, (8, 8), 999, (7, 20), 1)
    mixed = denoiser(2, 3, (9, 7), [998.5, 21.0, 998.5], (5, 20), 3)
    yield "unet_sd2_9x7", "unet", "tiny_unet_sd2", mixed
    yield "unet_sd15_7x10", "unet", "tiny_unet_sd15", denoiser(3, 4, (7, 10), [981, 741, 1, 261], (3, 10), 4)
    yield "unet_v_6x11", "unet", "tiny_unet_v", denoiser(4, 2, (6, 11), [981, 1], (6, 12), 1)
    yield "unet_narrow_65x63", "unet", "tiny_unet_narrow", denoiser(5, 1, (65, 63), [249], (9, 8), 1)
    yield "unet_plain_5x6", "unet", "tiny_unet_plain", denoiser(6, 1, (5, 6), 250, None, 0, channels=7)
    yield "unet_level_11x13", "unet", "tiny_unet_level", denoiser(7, 1, (11, 13), 999, None, 0, channels=19)
    control = dict(mixed, controlnet_cond=picture(8, 3, 18, 14), conditioning_scale=torch.tensor(0.75))
    yield "controlnet_9x7", "controlnet", "tiny_controlnet", control
    control = denoiser(9, 2, (7, 6), [401, 801], (4, 10), 1) | {"controlnet_cond": picture(9, 2, 28, 24)}
    yield "controlnet_sd15_7x6", "controlnet", "tiny_controlnet_sd15", control
    for seed, (name, latent, sides) in enumerate([("vae", 4, (12, 20)), ("vae_deep", 4, (40, 24)),
                                                  ("vae_plain", 5, (12, 20))]):
        yield f"{name}_encoder", "vae-encoder", f"tiny_{name}", {"sample": normal([10, seed], 1 + seed, 3, *sides)}
        yield f"{name}_decoder", "vae-decoder", f"tiny_{name}", {"sample": normal([11, seed], 4 - seed, latent, 5, 3)}
    # sides that are no multiple of the factor: what is over gives no latent
    yield "vae_odd_encoder", "vae-encoder", "tiny_vae_deep", {"sample": normal([12, 0], 1, 3, 43, 29)}


def add(out, case, component, checkpoint, inputs):
    """Writes one case and its row; returns what PyTorch gives in f64."""
    folder = out / "checkpoints" / checkpoint
    exact = reference.run(component, reference.load(component, folder, torch.float64), inputs)
    errors = {}
    for name in ("f32", "bf16", "f16"):
        network = reference.load(component, folder, reference.DTYPES[name])
        errors[name] = float(f"{reference.relative_l2(exact, reference.run(component, network, inputs)):.3e}")
    cases = out / "cases"
    cases.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in inputs.items()}, cases / f"{case}.in.safetensors")
    save_file({k: v.float().contiguous() for k, v in exact.items()}, cases / f"{case}.out.safetensors")
    index = out / "cases.json"
    rows = json.loads(index.read_text()) if index.exists() else []
    rows = [r for r in rows if r["name"] != case]
    rows.append(dict(name=case, component=component, checkpoint=checkpoint, pytorch=errors))
    rows.sort(key=lambda r: r["name"])
    index.write_text("[\n" + ",\n".join(f"  {json.dumps(r)}" for r in rows) + "\n]\n")
    rms = {k: round(v.double().square().mean().sqrt().item(), 3) for k, v in exact.items()}
    print(f"{case:24} errors of PyTorch {errors}, rms {min(rms.values())} to {max(rms.values())}")
    return exact


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/reference")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one order of sums, whatever machine makes them
    for name, (seed, dtype, old_names) in CHECKPOINTS.items():
        make_checkpoint.write(name, seed, args.out / "checkpoints" / name, dtype, old_names)
    for case, component, checkpoint, inputs in cases():
        exact = add(args.out, case, component, checkpoint, inputs)
        if case == "controlnet_9x7":
            # the residuals of one network are inputs of the other
            residuals = {k: v.float() for k, v in exact.items()}
            inputs = {k: inputs[k] for k in ("sample", "timestep", "encoder_hidden_states")} | residuals
            add(args.out, "unet_sd2_control_9x7", "unet", "tiny_unet_sd2", inputs)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size:,} bytes in all")


if __name__ == "__main__":
    with torch.no_grad():
        main()

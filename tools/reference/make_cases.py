"""Write the committed reference cases: tests/data/reference/{checkpoints,cases}.

    make_cases.py [--out tests/data/reference] [--trace]
    make_cases.py --full --out target/reference      (published sizes, computed in f32; several GB)

A case is one safetensors file: tensors `in.*` and `out.*` (NHWC, f32, computed in f64 from the weights as
the file holds them). `tests/reference.rs` says which network and checkpoint each belongs to. `--trace` also
writes every module's output, for finding where a difference begins; traces are not committed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import architectures
from make_checkpoint import fill, save
from reference import run, traced

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
CHECKPOINTS = {
    "tiny_unet_sd2": dict(dtype=F16),
    "tiny_unet_sd15": dict(dtype=F16),
    "tiny_unet_plain": dict(dtype=BF16),
    "tiny_unet_level": dict(dtype=F32),
    "tiny_controlnet": dict(dtype=F16),
    "tiny_vae": dict(dtype=F16, old_names=True),
    "tiny_vae_plain": dict(dtype=F16),
}

FULL_CHECKPOINTS = {name: dict(dtype=F16) for name in ["sd_vae", "sd21_unet", "sd15_unet", "sd21_controlnet"]}


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def integers(*values):
    """Row numbers as f32: the engine reads no integer tensors."""
    return torch.tensor(values, dtype=torch.float32)


def steps(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def cases():
    """(case, kind, checkpoint, inputs); odd sides, several items, steps and contexts in mixed order."""
    yield "unet_sd2_8x8", "unet", "tiny_unet_sd2", {
        "sample": normal(1, 1, 8, 8, 4), "timestep": steps(999), "encoder_hidden_states": normal(2, 1, 1, 7, 20)}
    mixed = {
        "sample": normal(3, 3, 9, 7, 4), "timestep": steps(21, 499), "encoder_hidden_states": normal(4, 2, 1, 5, 20),
        "step_row": integers(1, 0, 1), "ctx_row": integers(0, 1, 1)}
    yield "unet_sd2_9x7", "unet", "tiny_unet_sd2", mixed
    yield "unet_sd15_7x10", "unet", "tiny_unet_sd15", {
        "sample": normal(5, 2, 7, 10, 4), "timestep": steps(749), "encoder_hidden_states": normal(6, 1, 1, 3, 10)}
    yield "unet_plain_5x6", "unet", "tiny_unet_plain", {"sample": normal(7, 1, 5, 6, 7), "timestep": steps(250)}
    yield "unet_level_11x13", "unet", "tiny_unet_level", {"sample": normal(8, 1, 11, 13, 19), "timestep": steps(999)}
    control = dict(mixed, controlnet_cond=normal(9, 3, 18, 14, 3).abs() / 4, conditioning_scale=torch.tensor([0.75]))
    yield "controlnet_9x7", "controlnet", "tiny_controlnet", control
    for name in ["tiny_vae", "tiny_vae_plain"]:
        latent = architectures.ARCHITECTURES[name][1]["latent_channels"]
        kind = name.removeprefix("tiny_")
        yield f"{kind}_encoder", "vae_encoder", name, {"sample": normal(10, 1, 12, 20, 3)}
        yield f"{kind}_decoder", "vae_decoder", name, {"latent_sample": normal(11, 2, 5, 3, latent)}


def full_cases():
    """The same at the published sizes; the sides stay small for the sake of time."""
    yield "sd_vae_encoder", "vae_encoder", "sd_vae", {"sample": normal(20, 1, 136, 120, 3)}
    yield "sd_vae_decoder", "vae_decoder", "sd_vae", {"latent_sample": normal(21, 1, 17, 15, 4)}
    for seed, (name, dim) in enumerate([("sd21_unet", 1024), ("sd15_unet", 768), ("sd21_controlnet", 1024)]):
        inputs = {"sample": normal(30 + seed, 1, 25, 24, 4), "timestep": steps(999)}
        inputs["encoder_hidden_states"] = normal(40 + seed, 1, 1, 77, dim)
        if name.endswith("controlnet"):
            inputs["controlnet_cond"] = normal(50, 1, 200, 192, 3).abs() / 4
            inputs["conditioning_scale"] = torch.tensor([1.0])
        yield name, name.split("_")[1], name, inputs


def write_case(out, case, inputs, outputs):
    tensors = {f"in.{k}": v for k, v in inputs.items()}
    tensors |= {f"out.{k}": v.float().contiguous() for k, v in outputs.items()}
    (out / "cases").mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "cases" / f"{case}.safetensors")
    print(case, {k: f"{tuple(v.shape)} rms {v.square().mean().sqrt():.3f}" for k, v in outputs.items()})


def full(args):
    """One network in memory at a time."""
    loaded = None
    for seed, (case, kind, checkpoint, inputs) in enumerate(full_cases()):
        if checkpoint != loaded:
            _, model = architectures.build(checkpoint)
            fill(model, 100 + seed)
            save(model, args.out / "checkpoints" / checkpoint, **FULL_CHECKPOINTS[checkpoint])
            loaded = checkpoint
        write_case(args.out, case, inputs, run(kind, model, inputs))


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/reference")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--full", action="store_true", help="the published networks instead of the tiny ones")
    args = parser.parse_args()
    if args.full:
        return full(args)
    models = {}
    for seed, (name, how) in enumerate(CHECKPOINTS.items()):
        _, model = architectures.build(name)
        fill(model, seed)
        save(model, args.out / "checkpoints" / name, **how)
        models[name] = model.double()

    def write(case, inputs, outputs):
        write_case(args.out, case, inputs, outputs)

    residuals = None
    for case, kind, checkpoint, inputs in cases():
        outputs = (traced if args.trace else run)(kind, models[checkpoint], inputs)
        write(case, inputs, outputs)
        if kind == "controlnet":
            residuals = {k: v.float() for k, v in outputs.items() if "res_sample" in k and not k.startswith("trace")}
            inputs = {k: v for k, v in inputs.items() if k not in ("controlnet_cond", "conditioning_scale")} | residuals
            outputs = (traced if args.trace else run)("unet", models["tiny_unet_sd2"], inputs)
            write("unet_sd2_control_9x7", inputs, outputs)


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        main()

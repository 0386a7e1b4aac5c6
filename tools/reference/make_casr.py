"""Write the committed reference of CASR: tests/data/casr/{model/, reference.safetensors}.

    make_casr.py [--out tests/data/casr] | --published DIR

The model is small and seeded, stored as f16. The reference holds a picture and what whole jobs make of it in f32: in one
window a stage, in several, with parts switched off, and with other cells; and what SARM makes of seeded tiles in f64.
Windows are cut and blended here anew. --published writes SARM's reference at its published size, four tiles of 512
pixels, to DIR/casr instead (see tests/parts.rs).
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, SamVisionConfig, SamVisionModel

import architectures
import make_checkpoint
from casr import PIPELINE, Casr, Sarm, depth_map, index, probabilities, semantic_tokens, stages, superpixel_picture
from liif import resize
from make_casarbi import axis, ramps
from spixel import SpixelNet1l_bn

VAE = dict(
    in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
    block_out_channels=[8, 8, 16], layers_per_block=1, latent_channels=4, norm_num_groups=2, mid_block_add_attention=False,
    scaling_factor=0.5, act_fn="silu", sample_size=64,
)
UNET = dict(
    in_channels=11, out_channels=4, down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"],
    mid_block_type=None, block_out_channels=[16, 24], layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
    attention_head_dim=8, act_fn="silu", sample_size=16,
)
SPIXEL = dict(_class_name="SpixelNet1l_bn", block_out_channels=[6, 10, 12], cell_size=8)
SARM = dict(_class_name="Sarm", channels=16, num_attention_heads=2, cross_attention_dim=12, reduce=2)
DEPTH = architectures.depth_anything(16, 2, 4, [8, 8, 8, 8], 8, image=56, head=8)[1]
SAM = architectures.sam_vision(
    16, 2, 2, [1], image_size=64, mlp_dim=32, output_channels=12, patch_size=16, window_size=3)[1]
SETTINGS = dict(
    prediction_type="v_prediction", latents=["superpixels", "stage_input"], sample="stage_input",
    planes=["noise_strength", "inverse_scale", "cascaded"], residual="bicubic", cell=4, trained_cell=8, tile=128, overlap=32,
    sarm_token_budget=256, sarm_pooled_side=3, controlnet_conditioning_scale=0.7, sarm_scale=[0.8, 1.3],
)
SCHEDULER = dict(
    _class_name="DDPMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    prediction_type="v_prediction",
)
PICTURE = (24, 32)
UNIT = 8


def control():
    shared = {k: UNET[k] for k in ("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim", "attention_head_dim")}
    return ControlNetModel(**shared, mid_block_type="UNetMidBlock2D", conditioning_embedding_out_channels=(4, 8, 8))


def networks(seed):
    made = {
        "vae": AutoencoderKL(**VAE), "unet": UNet2DConditionModel(**UNET), "controlnet": control(),
        "superpixel": SpixelNet1l_bn.from_config(SPIXEL), "sarm": Sarm(SARM),
        "depth": DepthAnythingForDepthEstimation(DepthAnythingConfig.from_dict(copy.deepcopy(DEPTH))),
        "sam": SamVisionModel(SamVisionConfig.from_dict(copy.deepcopy(SAM))),
    }
    for i, net in enumerate(made.values()):
        make_checkpoint.fill(net.eval(), seed + i)
    # weak enough that every part leaves its mark and none drowns the picture
    made["vae"].decoder.conv_out.weight.mul_(0.2)
    return made


def of_sarm(sarm, keep, tiles, side, tokens):
    """What SARM gives in f64 for seeded features of `tiles` tiles of side x side, and `tokens` tokens of SAM's."""
    rng, c = np.random.default_rng(8), sarm.config
    normal = lambda *shape: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    x, semantic = normal(tiles, c["channels"], side, side), normal(1, tokens, c["cross_attention_dim"])
    exact = copy.deepcopy(sarm).double()
    cache = exact.cache(x.double(), budget=2**30, side=None)
    heard, deaf = (exact(x.double(), cache, s) for s in (semantic.double(), None))
    # tokens as [1, channels, 1, tokens], which the engine's tests turn into NHWC
    across = lambda t: t.transpose(1, 2)[:, :, None]
    keep |= {"sarm.in": x, "sarm.semantic": across(semantic), "sarm.cache": across(cache), "sarm.out": heard, "sarm.deaf": deaf}


def save(out, made, configs):
    for part, net in made.items():
        folder = out / part
        if part in ("vae", "unet", "controlnet"):
            net.save_pretrained(folder)
            (folder / "diffusion_pytorch_model.safetensors").unlink()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(json.dumps(configs[part], indent=2, sort_keys=True) + "\n")
        tensors = {k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}
        name = "model" if part in ("depth", "sam") else "diffusion_pytorch_model"
        save_file(tensors, folder / f"{name}.safetensors")
        kept = load_file(folder / f"{name}.safetensors")
        net.load_state_dict({**net.state_dict(), **{k: v.float() for k, v in kept.items()}})
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2, sort_keys=True) + "\n")
    library = {"vae": "diffusers", "unet": "diffusers", "controlnet": "diffusers", "depth": "transformers", "sam": "transformers"}
    parts = {k: (library.get(k, "casr"), type(v).__name__) for k, v in made.items()}
    (out / "model_index.json").write_text(index(parts, SETTINGS))


def stage(model, picture, original, size, tile, overlap, off, of):
    """One stage, of so many, by windows: [1, 3, h, w] -> [1, 3, *size], unclamped."""
    c, nets = model.config, model.networks
    fit = lambda n: n if n >= tile else -(-n // UNIT) * UNIT
    full = [fit(n) for n in size]
    mirrored = lambda v: F.pad(v, (0, full[1] - size[1], 0, full[0] - size[0]), mode="reflect")
    pictures = {k: mirrored(v) for k, v in model.pictures(picture, size, off).items()}
    depth = mirrored(depth_map(nets["depth"], picture, size, shorter=56))
    ys, h = axis(full[0], tile, overlap, UNIT)
    xs, w = axis(full[1], tile, overlap, UNIT)
    places = [(y, x) for y in ys for x in xs]
    cut = lambda v: torch.cat([v[:, :, y : y + h, x : x + w] for y, x in places])
    scale = (size[0] / picture.shape[2] * size[1] / picture.shape[3]) ** 0.5
    planes = torch.tensor([[0.0, 1 / scale, float(picture is not original)]]).expand(len(places), -1)
    semantic = None
    if "semantic" not in off:
        semantic = semantic_tokens(nets["sam"], original if c["semantic_reference"] == "original" else picture)
    tiles = model.tiles({k: cut(v) for k, v in pictures.items()}, cut(depth), torch.zeros(1, 1, 8), planes, semantic, off, of)
    wy, wx = ramps(ys, h, full[0]), ramps(xs, w, full[1])
    out = torch.zeros(1, 3, *full)
    for n, (y, x) in enumerate(places):
        weights = wy[ys.index(y), y : y + h, None] * wx[xs.index(x), None, x : x + w]
        out[0, :, y : y + h, x : x + w] += tiles[n] * weights
    return out[:, :, : size[0], : size[1]]


def upscale(model, picture, scale, tile=128, overlap=32, off=()):
    original, product = picture, 1.0
    h, w = picture.shape[2:]
    factors = stages(scale)
    for factor in factors:
        product *= factor
        size = [int(n * product + 0.5) for n in (h, w)]
        picture = stage(model, picture, original, size, tile, overlap, off, len(factors))
    return picture.clamp(0, 1)


def drawing(h, w):
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    wave = lambda a, b, c: 0.5 + 0.45 * torch.sin(a * x + b * y + c)
    out = torch.stack([wave(9, 4, 0), wave(3, 11, 1), wave(6, 7, 2)])
    out[:, h // 3 : h // 2, w // 4 : w // 2] = 0.9
    return (out * 255).round()[None] / 255


def main():
    root = Path(__file__).resolve().parents[2]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=root / "tests/data/casr")
    p.add_argument("--published", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.published:
        out, keep, sarm = a.published / "casr", {}, Sarm({}).eval()
        make_checkpoint.fill(sarm, 66)
        save(out / "model", {"sarm": sarm}, {"sarm": Sarm.CONFIG | {"_class_name": "Sarm"}})
        of_sarm(sarm, keep, 4, 64, 64 * 64)
        save_file({k: v.float().contiguous() for k, v in keep.items()}, out / "reference.safetensors")
        return
    made = networks(60)
    save(a.out / "model", made, {"superpixel": SPIXEL, "sarm": SARM, "depth": DEPTH, "sam": SAM})
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    model = Casr(made, SETTINGS, float(torch.cumprod(1 - betas, 0)[PIPELINE["timestep"]]))
    keep = {"picture": drawing(*PICTURE)}
    keep["x3"] = upscale(model, keep["picture"], 3)
    keep["x6.25"] = upscale(model, keep["picture"], 6.25)
    keep["x6.25.tiled"] = upscale(model, keep["picture"], 6.25, 64, 16)
    for part in ("superpixel", "depth", "sarm", "semantic"):
        keep[f"x3.{part}"] = upscale(model, keep["picture"], 3, off=(part,))
        apart = 255 * (keep[f"x3.{part}"] - keep["x3"]).square().mean().sqrt().item()
        print(f"without {part:10} {apart:.2f} grey levels")
    for name, change in [("cell", dict(cell=5)), ("nearest", dict(superpixel_rule="nearest")), ("original", dict(semantic_reference="original"))]:
        other = Casr(made, SETTINGS | change, model.root_a**2)
        keep[f"x6.25.{name}"] = upscale(other, keep["picture"], 6.25)
        apart = 255 * (keep[f"x6.25.{name}"] - keep["x6.25"]).square().mean().sqrt().item()
        print(f"{name:10} {apart:.2f} grey levels from the default")
    keep["superpixels"] = superpixel_picture(
        keep["picture"], probabilities(made["superpixel"], keep["picture"], 4, 8), (72, 96), 4)
    keep = {k: v.half() for k, v in keep.items()}
    of_sarm(made["sarm"], keep, 3, 6, 5)
    save_file({k: (v.float() if v.dtype == torch.float64 else v).contiguous() for k, v in keep.items()}, a.out / "reference.safetensors")
    print(sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main()

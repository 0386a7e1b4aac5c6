"""Write a CASR training as the folder the engine reads (f16), with its model card.

    python casr_export.py --stage1 RUN1 .. --stage2 RUN2 .. [--stage3 RUN3 ..] --superpixel S --depth D --out OUT/casr [--note TEXT ...] [--figures table.md]

Networks are the averaged ones: autoencoder, UNet and ControlNet of stage 1; SARM and its picture encoder of stage 2 (left out
without --stage2); all five of stage 3 where there is one; the superpixel and the depth network as stage 1 saw them.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import SamVisionConfig, SamVisionModel

import casr_depth
import casr_train
from casarbi_export import events, trained
from casr import Sarm, index
from evaluate import load
from spixel import SpixelNet1l_bn

# Fields that diffusers and transformers write and that say nothing about the function.
WRITTEN = ("_name_or_path", "_use_default_values", "_attn_implementation_autoset", "attn_implementation", "transformers_version", "dtype")


def averaged(run):
    return torch.load(run / "last.pt", weights_only=True)


def part(state, name):
    """The tensors of one network of a ModuleDict's state."""
    return {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(name + ".")}


def plain(config):
    """A config of transformers without what it only notes about itself."""
    return {k: plain(v) if isinstance(v, dict) else v for k, v in config.items() if k not in WRITTEN}


def write(folder, config, net, name="diffusion_pytorch_model"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}
    if not all(bool(torch.isfinite(v).all()) for v in tensors.values()):
        raise ValueError(f"{folder.name} has weights that do not fit f16")
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def training(name, log):
    """A card's line on a run, which may be the mean of two others (`casr_mix.py`)."""
    if log[0]["event"] != "mix":
        return trained(name, log)
    (one, two), share = log[0]["of"], log[0]["share"]
    return f"- {name}: no training, {1 - share:.2f} of the weights of `{one}` and {share:.2f} of those of `{two}`."


def card(counts, logs, notes, figures):
    alone, pair, more = casr_train.CONFIG["sarm_scale"]
    lines = [
        "# casr: a small cascade of one-step latent stages for any scale", "", "License: MIT OR Apache-2.0", "",
        "Stages of at most x4. Each sees a superpixel picture of its input, the input's bicubic enlargement and its depth, and adds",
        "what it makes to the enlargement; SARM lets each tile look at all of them, and what it was trained to add counts",
        f"{alone} times in jobs of one stage, {pair} of two, {more} of more (`sarm_scale`). The autoencoder and the UNet began as those of `onestep`;",
        "all networks were trained on generated pictures only; `tools/reference/casr.py` is the whole computation, `model_index.json` its parameters.", "",
        f"- Parameters: {sum(counts.values()):,} (f16): " + ", ".join(f"{k} {v:,}" for k, v in counts.items()) + ".", "",
        "## Training", "",
    ]
    lines += [training(name, log) for name, log in logs.items()]
    lines += [f"- {n}" for n in notes]
    if figures:
        lines += ["", "## Figures", "", figures.read_text().rstrip()]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--stage1", type=Path, nargs="+", required=True, help="its run; with stretches, all of them, the last one counts")
    p.add_argument("--stage2", type=Path, nargs="*", default=[], help="likewise")
    p.add_argument("--stage3", type=Path, nargs="*", default=[], help="likewise")
    p.add_argument("--superpixel", type=Path, required=True)
    p.add_argument("--depth", type=Path, required=True)
    p.add_argument("--onestep", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--note", action="append", default=[])
    p.add_argument("--figures", type=Path)
    a = p.parse_args()
    first, shape = averaged((a.stage3 or a.stage1)[-1])["average"], load(a.onestep)
    unet = casr_train.widened(shape.unet)
    control = casr_train.control(unet)
    nets = {"vae": AutoencoderKL.from_config(shape.vae.config), "unet": UNet2DConditionModel.from_config(unet.config), "controlnet": control}
    for name, net in nets.items():
        net.load_state_dict(part(first, name))
        write(a.out / name, {k: v for k, v in net.config.items() if k not in WRITTEN} | {"_class_name": type(net).__name__}, net)
    state = averaged(a.superpixel)
    config = {"_class_name": "SpixelNet1l_bn", "block_out_channels": state["config"]["block_out_channels"], "cell_size": state["config"]["cell"]}
    nets["superpixel"] = SpixelNet1l_bn.from_config(config)
    nets["superpixel"].load_state_dict(state["average"])
    write(a.out / "superpixel", config, nets["superpixel"])
    nets["depth"] = casr_depth.new()
    nets["depth"].load_state_dict(averaged(a.depth)["average"])
    config = plain(nets["depth"].config.to_diff_dict()) | {"architectures": ["DepthAnythingForDepthEstimation"]}
    write(a.out / "depth", config, nets["depth"], "model")
    if a.stage2:
        second = averaged((a.stage3 or a.stage2)[-1])["average"]
        nets |= {"sarm": Sarm(casr_train.SARM), "sam": SamVisionModel(SamVisionConfig(**casr_train.SAM))}
        for name in ("sarm", "sam"):
            nets[name].load_state_dict(part(second, name))
        write(a.out / "sarm", {"_class_name": "Sarm"} | nets["sarm"].config, nets["sarm"])
        config = plain(nets["sam"].config.to_diff_dict()) | {"architectures": ["SamVisionModel"]}
        write(a.out / "sam", config, nets["sam"], "model")
    (a.out / "scheduler").mkdir(exist_ok=True)
    (a.out / "scheduler" / "scheduler_config.json").write_text((a.onestep / "scheduler" / "scheduler_config.json").read_text())
    library = {"vae": "diffusers", "unet": "diffusers", "controlnet": "diffusers", "depth": "transformers", "sam": "transformers"}
    (a.out / "model_index.json").write_text(index({k: (library.get(k, "tessera"), type(v).__name__) for k, v in nets.items()}, casr_train.CONFIG | {"trained_scales": casr_train.TRAINED_SCALES}))
    runs = {"superpixel": a.superpixel, "depth": a.depth}
    stages = ("stage 1 (autoencoder, UNet, ControlNet)", a.stage1), ("stage 2 (SARM and its encoder)", a.stage2), ("stage 3 (all five)", a.stage3)
    for what, stretches in stages:
        runs |= {what if len(stretches) == 1 else f"{what}, stretch {i + 1}": run for i, run in enumerate(stretches)}
    counts = {k: sum(p.numel() for p in net.parameters()) for k, net in nets.items()}
    (a.out / "README.md").write_text(card(counts, {k: events(v) for k, v in runs.items()}, a.note, a.figures))
    print(sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main()

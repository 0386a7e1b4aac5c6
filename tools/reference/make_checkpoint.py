"""Write seeded synthetic checkpoints as published ones lie on the disk: config.json and safetensors.

    make_checkpoint.py --arch NAME --seed N --out DIR [--half | --bf16] [--old-names]
    make_checkpoint.py --pipeline NAME --seed N --out DIR [--half | --bf16]

--arch writes the folder of one network; a published one gets the published config.json, field by field.
--pipeline writes a whole diffusers folder: model_index.json, a folder per network, the scheduler's file (no
tokenizer: its vocabulary can't be made up). --old-names gives an autoencoder's attention the names that files
of SD 1.x and 2.x carry (query, key, value, proj_attn), and Depth Anything and SAM those of their own repositories.

Weights are normal with deviation 1/sqrt(fan in), the last layer of every residual branch half of that, so that
activations neither die nor leave f16's range (`reference.py` prints the largest); norms and biases are non-trivial.
"""

import argparse
import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import architectures
import original

# Ends of residual branches.
BRANCH_ENDS = re.compile(
    r"(conv2|to_out\.0|proj_out|ff\.net\.2|out_proj|fc2|convolution2|output\.dense|attn\.proj|lin2)\.weight$")
# Rows that are looked up, not summed over.
EMBEDDINGS = re.compile(r"((token|position)_embedding\.weight|(cls|mask)_token|position_embeddings|pos_embed)$")
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def fill(model, seed):
    """Sets every parameter from a stream of its own, so that adding one changes no other."""
    for index, (name, p) in enumerate(sorted(model.named_parameters())):
        rng = np.random.default_rng([seed, index])
        v = rng.standard_normal(p.numel(), dtype=np.float32).reshape(tuple(p.shape))
        if EMBEDDINGS.search(name):
            v *= 0.5
        elif re.search(r"rel_pos_[hw]$", name):
            v *= 0.2
        elif p.ndim > 1:
            v /= np.sqrt(np.prod(p.shape[1:]))
            if BRANCH_ENDS.search(name):
                v *= 0.5
        elif name.endswith(("weight", "lambda1")):
            v = 1 + 0.2 * v
        else:
            v *= 0.2
        p.copy_(torch.from_numpy(v))
    for index, (name, b) in enumerate(sorted(model.named_buffers())):
        # what batch norms have counted; other buffers are row numbers
        v = np.random.default_rng([seed, 1 << 20, index]).standard_normal(b.numel(), dtype=np.float32)
        if name.endswith("running_mean"):
            b.copy_(torch.from_numpy(0.2 * v))
        elif name.endswith("running_var"):
            b.copy_(torch.from_numpy(np.exp(0.4 * v)))


def old_name(name):
    for new, old in OLD_NAMES.items():
        name = re.sub(rf"(mid_block\.attentions\.0\.){re.escape(new)}\.", rf"\g<1>{old}.", name)
    return name


def save(model, kind, config, out, dtype=torch.float32, old_names=False):
    """Rounds the model's own weights to `dtype` (so that a reference run sees what the file holds) and
    writes the folder. A config with a class name is written as it is, any other as diffusers writes it."""
    for p in model.parameters():
        p.copy_(p.to(dtype).to(p.dtype))
    out.mkdir(parents=True, exist_ok=True)
    if "_class_name" in config or "architectures" in config:
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    else:
        model.save_config(out)
    stored = lambda t: t.to(dtype) if t.is_floating_point() else t
    tensors = {n: stored(t).contiguous() for n, t in model.state_dict().items()}
    if old_names and kind in ("depth", "sam"):
        tensors = original.from_transformers(kind, tensors)
    elif old_names:
        tensors = {old_name(n): t for n, t in tensors.items()}
    final = out / architectures.KINDS[kind][2]
    part = final.with_suffix(".part")  # so that one cut short is not taken for a checkpoint later
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, final)


def write(arch, seed, out, dtype, old_names=False):
    """Builds, fills and saves one network; returns it as the file holds it, in f32."""
    kind, model = architectures.build(arch)
    fill(model, seed)
    save(model, kind, architectures.ARCHITECTURES[arch][1], out, dtype, old_names)
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters as {dtype}")
    return model


def write_pipeline(name, seed, out, dtype):
    networks, scheduler = architectures.PIPELINES[name]
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": scheduler["_diffusers_version"]}
    for i, (folder, arch) in enumerate(sorted(networks.items())):
        kind = architectures.ARCHITECTURES[arch][0]
        write(arch, seed + i, out / folder, dtype, old_names=folder == "vae" and name != "sd-turbo")
        index[folder] = ["transformers" if kind in architectures.TRANSFORMERS else "diffusers",
                         architectures.KINDS[kind][0].__name__]
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (out / "scheduler").mkdir(parents=True, exist_ok=True)
    for path, value in [("scheduler/scheduler_config.json", scheduler), ("model_index.json", index)]:
        (out / path).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--arch", choices=sorted(architectures.ARCHITECTURES))
    what.add_argument("--pipeline", choices=sorted(architectures.PIPELINES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    width = parser.add_mutually_exclusive_group()
    width.add_argument("--half", action="store_true")
    width.add_argument("--bf16", action="store_true")
    parser.add_argument("--old-names", action="store_true")
    args = parser.parse_args()
    dtype = torch.float16 if args.half else torch.bfloat16 if args.bf16 else torch.float32
    if args.pipeline:
        write_pipeline(args.pipeline, args.seed, args.out, dtype)
    else:
        write(args.arch, args.seed, args.out, dtype, args.old_names)


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""Write a seeded synthetic checkpoint: a diffusers folder with config.json and safetensors.

    make_checkpoint.py --arch NAME --seed N --out DIR [--half | --bf16] [--old-names]

Weights are normal with deviation 1/sqrt(fan in), the last layer of every residual branch half of that,
so that activations neither die nor leave f16's range; norms and biases are non-trivial.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import architectures

# Ends of residual branches, and the products that attention scores are made of.
BRANCH_ENDS = re.compile(r"(conv2|to_out\.0|proj_out|ff\.net\.2)\.weight$")
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def fill(model, seed):
    """Sets every parameter from a stream of its own, so that adding one changes no other."""
    for index, (name, p) in enumerate(sorted(model.named_parameters())):
        rng = np.random.default_rng([seed, index])
        v = rng.standard_normal(p.numel(), dtype=np.float32).reshape(tuple(p.shape))
        if p.ndim > 1:
            v /= np.sqrt(np.prod(p.shape[1:]))
            if BRANCH_ENDS.search(name):
                v *= 0.5
        elif name.endswith("weight"):
            v = 1 + 0.2 * v
        else:
            v *= 0.2
        p.copy_(torch.from_numpy(v))


def old_name(name):
    for new, old in OLD_NAMES.items():
        name = re.sub(rf"(mid_block\.attentions\.0\.){re.escape(new)}\.", rf"\g<1>{old}.", name)
    return name


def save(model, out, dtype=torch.float32, old_names=False):
    """Rounds the model's own weights to `dtype` (so that a reference run sees what the file holds) and
    writes the folder."""
    for p in model.parameters():
        p.copy_(p.to(dtype).to(p.dtype))
    out.mkdir(parents=True, exist_ok=True)
    model.save_config(out)
    tensors = {n: t.to(dtype).contiguous() for n, t in model.state_dict().items()}
    if old_names:
        tensors = {old_name(n): t for n, t in tensors.items()}
    save_file(tensors, out / "diffusion_pytorch_model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", required=True, choices=sorted(architectures.ARCHITECTURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--old-names", action="store_true")
    args = parser.parse_args()
    _, model = architectures.build(args.arch)
    fill(model, args.seed)
    dtype = torch.float16 if args.half else torch.bfloat16 if args.bf16 else torch.float32
    save(model, args.out, dtype, args.old_names)
    print(f"{args.out}: {sum(p.numel() for p in model.parameters()):,} parameters as {dtype}")


if __name__ == "__main__":
    with torch.no_grad():
        main()

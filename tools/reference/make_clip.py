"""Write the committed cases of CLIP's two towers: tests/data/reference/{checkpoints,cases}/clip_*.

    make_clip.py [--out tests/data/reference]

A checkpoint is a folder as transformers publishes it: config.json and model.safetensors. Cases are those of
`make_cases.py`: `input_ids` [N,T] or `pixel_values` [N,C,S,S] (stored as f16) go in, `last_hidden_state` [N,T,C]
comes out. `tests/clip.rs` holds the engine to them. The published sizes are run by `full`.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

import make_cases

# Ends of residual branches: half as large, so that sums neither die nor leave f16's range.
BRANCH_ENDS = re.compile(r"(out_proj|fc2)\.weight$")


def text(act, hidden, heads, intermediate, layers, vocabulary):
    return CLIPTextModel, CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, hidden_act=act)


def vision(act, hidden, heads, intermediate, layers, image, patch):
    return CLIPVisionModel, CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=image, patch_size=patch, hidden_act=act)


# name: (class and config, seed, batch, tokens). Heads of 8, 16 and 64 channels, 77 and 257 tokens as the
# published ones have, middles off the vector width, a picture with pixels left over.
TINY = {
    "clip_text_quick": (text("quick_gelu", 32, 2, 44, 2, 67), 1, 3, 11),
    "clip_text_gelu": (text("gelu", 64, 1, 40, 1, 41), 2, 1, 77),
    "clip_vision_quick": (vision("quick_gelu", 24, 3, 36, 2, 48, 3), 3, 1, None),
    "clip_vision_gelu": (vision("gelu", 16, 1, 20, 1, 17, 5), 4, 2, None),
}


def fill(model, seed, dtype):
    """Sets every parameter from a stream of its own, rounded to `dtype`."""
    for index, (name, p) in enumerate(sorted(model.named_parameters())):
        v = np.random.default_rng([seed, index]).standard_normal(p.numel(), dtype=np.float32).reshape(tuple(p.shape))
        if "embedding" in name and "patch" not in name:
            v *= 0.5
        elif p.ndim > 1:
            v /= np.sqrt(np.prod(p.shape[1:]))
            if BRANCH_ENDS.search(name):
                v *= 0.5
        else:
            v = v * 0.2 + (1 if name.endswith("weight") else 0)
        p.copy_(torch.from_numpy(v).to(dtype).to(p.dtype))


def write(out, name, how, dtype):
    (kind, config), seed, batch, tokens = how
    model = kind(config).eval().requires_grad_(False)
    fill(model, seed, dtype)
    folder = out / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    described = {**config.to_dict(), "architectures": [kind.__name__], "torch_dtype": str(dtype).split(".")[1]}
    described = {k: v for k, v in described.items() if k not in ("dtype", "return_dict") and v is not None}
    (folder / "config.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    tensors = {n: t.to(dtype).contiguous() for n, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    rng = np.random.default_rng([seed, 1000])
    if tokens:
        ids = torch.from_numpy(rng.integers(0, config.vocab_size, (batch, tokens)))
        component, inputs = "text-encoder", {"input_ids": ids}
    else:
        shape = (batch, config.num_channels, config.image_size, config.image_size)
        pixels = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).half()
        component, inputs = "vision-encoder", {"pixel_values": pixels}
    make_cases.add(out, name, component, name, inputs)


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/reference")
    args = parser.parse_args()
    for name, how in TINY.items():
        write(args.out, name, how, torch.float16)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        main()

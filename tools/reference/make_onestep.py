"""Write a seeded model folder for the one-step system from published architectures, to plan and time full sizes with.

    make_onestep.py --out DIR [--pipeline sd21-base] [--seed N] [--half] [--configs-only]

The folder holds model_index.json, UNet, autoencoder and scheduler as `make_checkpoint.py` writes them, and a prompt
of seeded normals (77 tokens, as many channels as the UNet looks at). --configs-only leaves the networks' weights out:
enough for `tessera upscale --dry-run`, and written in a moment.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

import architectures
import make_checkpoint

INDEX = {
    "_class_name": "OneStepSuperResolution",
    "add_noise": False,
    "latent": "mean * scaling_factor",
    "num_inference_steps": 1,
    "sample_posterior": False,
    "timestep": 999,
}
TOKENS = 77


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pipeline", choices=sorted(architectures.PIPELINES), default="sd21-base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--configs-only", action="store_true")
    args = parser.parse_args()
    networks, scheduler = architectures.PIPELINES[args.pipeline]
    dtype = torch.float16 if args.half else torch.float32
    for i, folder in enumerate(("unet", "vae")):
        config = architectures.ARCHITECTURES[networks[folder]][1]
        if args.configs_only:
            (args.out / folder).mkdir(parents=True, exist_ok=True)
            (args.out / folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        else:
            make_checkpoint.write(networks[folder], args.seed + i, args.out / folder, dtype)
        if folder == "unet":
            channels = config["cross_attention_dim"]
    for path, value in [("scheduler/scheduler_config.json", scheduler), ("model_index.json", INDEX)]:
        (args.out / path).parent.mkdir(parents=True, exist_ok=True)
        (args.out / path).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    prompt = np.random.default_rng(args.seed).standard_normal((1, TOKENS, channels), dtype=np.float32)
    (args.out / "prompt").mkdir(exist_ok=True)
    save_file({"encoder_hidden_states": prompt}, args.out / "prompt" / "embeddings.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()

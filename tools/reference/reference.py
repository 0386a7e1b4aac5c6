"""Run a network in PyTorch on given tensors and write what comes out.

    reference.py --kind unet|vae_encoder|vae_decoder|controlnet --model DIR --in IN.safetensors
                 --out OUT.safetensors [--trace] [--double] [--repeat N]

Tensors are NHWC, named as the engine's graphs name them. `timestep` holds the steps, `encoder_hidden_states`
the contexts; `step_row` and `ctx_row` (optional) say which of them each item uses. `--trace` adds
the output of every module under its name; `--repeat` times the run.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import architectures


def nchw(x):
    return x.permute(0, 3, 1, 2).contiguous()


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x.contiguous()


def rows(inputs, key, batch):
    return inputs[key].long() if key in inputs else torch.zeros(batch, dtype=torch.long)


def run(kind, model, inputs):
    """NHWC tensors in, a dict of NHWC tensors out, in the model's precision."""
    dtype = next(model.parameters()).dtype
    first = inputs["latent_sample" if kind == "vae_decoder" else "sample"]
    x, batch = nchw(first).to(dtype), first.shape[0]
    if kind == "vae_encoder":
        h = model.encoder(x)
        h = model.quant_conv(h) if model.quant_conv is not None else h
        return {"latent_moments": nhwc(h)}
    if kind == "vae_decoder":
        return {"sample": nhwc(model.decode(x).sample)}
    t = inputs["timestep"].reshape(-1)[rows(inputs, "step_row", batch)]
    if "encoder_hidden_states" in inputs:
        context = inputs["encoder_hidden_states"][:, 0][rows(inputs, "ctx_row", batch)].to(dtype)
    else:
        context = torch.zeros(batch, 1, model.config.cross_attention_dim, dtype=dtype)
    if kind == "controlnet":
        scale = float(inputs["conditioning_scale"]) if "conditioning_scale" in inputs else 1.0
        picture = nchw(inputs["controlnet_cond"]).to(dtype)
        down, mid = model(x, t, context, picture, conditioning_scale=scale, return_dict=False)
        out = {f"down_block_res_samples.{i}": nhwc(d) for i, d in enumerate(down)}
        return {**out, "mid_block_res_sample": nhwc(mid)}
    residuals = {}
    if "mid_block_res_sample" in inputs:
        count = sum(name.startswith("down_block_res_samples.") for name in inputs)
        down = [nchw(inputs[f"down_block_res_samples.{i}"]).to(dtype) for i in range(count)]
        residuals["down_block_additional_residuals"] = tuple(down)
        residuals["mid_block_additional_residual"] = nchw(inputs["mid_block_res_sample"]).to(dtype)
    return {"sample": nhwc(model(x, t, encoder_hidden_states=context, **residuals).sample)}


def traced(kind, model, inputs):
    """Like `run`, with the output of every module."""
    seen = {}

    def hook(name):
        def keep(_module, _args, out):
            out = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
            if torch.is_tensor(out):
                seen[f"trace.{name}"] = nhwc(out.detach())

        return keep

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n]
    out = run(kind, model, inputs)
    for h in handles:
        h.remove()
    return {**seen, **out}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", required=True, choices=["unet", "vae_encoder", "vae_decoder", "controlnet"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--in", dest="inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--double", action="store_true", help="compute in f64 (what is written is f32)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = architectures.CLASSES[args.kind.split("_")[0]].from_pretrained(args.model).eval()
    model = model.double() if args.double else model.float()
    inputs = load_file(args.inputs)
    out = (traced if args.trace else run)(args.kind, model, inputs)
    save_file({k: v.float().contiguous() for k, v in out.items()}, args.out)
    for _ in range(args.repeat):
        start = time.perf_counter()
        run(args.kind, model, inputs)
        print(f"{time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    with torch.no_grad():
        main()

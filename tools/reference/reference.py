"""Run a network in PyTorch on the tensors that `tessera run` takes, and write what it writes.

    reference.py COMPONENT -m MODEL --in X.safetensors --out Y.safetensors
                 [--dtype f32|f64|bf16|f16] [--trace] [--threads N] [--repeat N]

COMPONENT is unet, vae-encoder, vae-decoder, controlnet, text-encoder, vision-encoder, superpixel, depth or
sam-encoder; MODEL the network's folder or a whole pipeline's. Tensors are NCHW or [N, T, C], named as diffusers and transformers name them. Results are
written as f32, whatever they were computed in. --trace adds the output of every module as `trace.<module path>`,
and the values that the engine's trace has where no module ends: `norm1+silu` (with the activation behind it),
`conv1+time_emb_proj` (with the time step's row), `attn1.sum` (with the residual), `attn1.softmax` (before the
output projection); `compare.py` holds them against the engine's own. The largest magnitude that
any module gave is printed: f16 holds 65504.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file, save_file

import architectures
import original
from make_checkpoint import OLD_NAMES

COMPONENTS = {
    "unet": "unet", "vae-encoder": "vae", "vae-decoder": "vae", "controlnet": "controlnet", "text-encoder": "text",
    "vision-encoder": "vision", "superpixel": "superpixel", "depth": "depth", "sam-encoder": "sam",
}
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}


def new_name(name):
    """The current name of a tensor of an autoencoder's attention."""
    if ".mid_block.attentions.0." in name:
        for new, old in OLD_NAMES.items():
            name = name.replace(f".{old}.", f".{new}.")
    return name


def load(component, path, dtype):
    """The network of `component` in the folder `path`, in `dtype`; its weights are read once, never initialised."""
    kind = COMPONENTS[component]
    if (path / "model_index.json").exists():
        path = path / architectures.KINDS[kind][1]
    config = json.loads((path / "config.json").read_text())
    if architectures.kind_of(config) != kind:
        raise SystemExit(f"{path} holds a {architectures.kind_of(config)}, not a {kind}")
    with torch.device("meta"):
        model = architectures.network(kind, config)
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= {new_name(n): t.to(dtype) if t.is_floating_point() else t for n, t in load_file(file).items()}
    if any(n.startswith(("pretrained.", "image_encoder.")) for n in tensors):
        tensors = original.to_transformers(kind, tensors, model)
    model.load_state_dict(tensors, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:  # position_ids, which files don't carry
            owner, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            setattr(owner, leaf, torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return model.eval().requires_grad_(False)


def positions(backbone):
    """DINOv2's own rule for positions where the config gives its offset (transformers has none), computed in the
    network's precision: transformers takes f32, also for a network in f64."""
    offset = getattr(backbone.config, "interpolate_offset", 0.0)
    e = backbone.embeddings

    def interpolated(tokens, height, width):
        table, (h, w) = e.position_embeddings, (height // e.patch_size, width // e.patch_size)
        side = round((table.shape[1] - 1) ** 0.5)
        if (h, w) == (side, side):
            return table
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = grid if grid.dtype in (torch.float32, torch.float64) else grid.float()
        how = {"size": (h, w)} if offset == 0 else {"scale_factor": ((h + offset) / side, (w + offset) / side)}
        grid = F.interpolate(grid, mode="bicubic", align_corners=False, **how).to(table.dtype)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    e.interpolate_pos_encoding = interpolated


def run(component, model, inputs):
    """What the network gives for `inputs`, by the names of `tessera run`, in the model's precision."""
    dtype = next(model.parameters()).dtype
    if component == "text-encoder":
        # transformers makes the causal mask in the default type
        torch.set_default_dtype(dtype)
        out = model(inputs["input_ids"].long()).last_hidden_state
        torch.set_default_dtype(torch.float32)
        return {"last_hidden_state": out}
    if component == "vision-encoder":
        return {"last_hidden_state": model(inputs["pixel_values"].to(dtype)).last_hidden_state}
    if component == "superpixel":
        return {"logits": model(inputs["pixel_values"].to(dtype))}
    if component == "depth":
        positions(model.backbone)
        return {"predicted_depth": model(inputs["pixel_values"].to(dtype)).predicted_depth[:, None]}
    if component == "sam-encoder":
        return {"last_hidden_state": model(inputs["pixel_values"].to(dtype)).last_hidden_state}
    x = inputs["sample"].to(dtype)
    if component == "vae-encoder":
        h = model.encoder(x)
        return {"latent_moments": h if model.quant_conv is None else model.quant_conv(h)}
    if component == "vae-decoder":
        return {"sample": model.decode(x).sample}
    batch = x.shape[0]
    t = inputs["timestep"].reshape(-1).expand(batch)
    if "encoder_hidden_states" in inputs:
        context = inputs["encoder_hidden_states"].to(dtype).expand(batch, -1, -1)
    else:
        context = torch.zeros(batch, 1, model.config.cross_attention_dim, dtype=dtype)
    if component == "controlnet":
        scale = float(inputs["conditioning_scale"]) if "conditioning_scale" in inputs else 1.0
        picture = inputs["controlnet_cond"].to(dtype)
        down, mid = model(x, t, context, picture, conditioning_scale=scale, return_dict=False)
        return {**{f"down_block_res_samples.{i}": d for i, d in enumerate(down)}, "mid_block_res_sample": mid}
    residuals = {}
    if "mid_block_res_sample" in inputs:
        count = sum(name.startswith("down_block_res_samples.") for name in inputs)
        down = [inputs[f"down_block_res_samples.{i}"].to(dtype) for i in range(count)]
        residuals["down_block_additional_residuals"] = tuple(down)
        residuals["mid_block_additional_residual"] = inputs["mid_block_res_sample"].to(dtype)
    return {"sample": model(x, t, encoder_hidden_states=context, **residuals).sample}


def first_tensor(out):
    if isinstance(out, (tuple, list)):
        return first_tensor(out[0]) if out else None
    if torch.is_tensor(out):
        return out
    return getattr(out, "sample", getattr(out, "last_hidden_state", None))


def hooks(model, keep):
    """Calls `keep(path, value)` for every module's output and for every value that only fusion leaves."""

    def output(module, path, f=lambda args, out: out):
        def hook(_module, args, out):
            value = f(args, first_tensor(out))
            if torch.is_tensor(value):
                keep(path, value.detach())

        return module.register_forward_hook(hook)

    def entering(module, path):
        return module.register_forward_pre_hook(lambda _module, args: keep(path, args[0].detach()))

    made = []
    silu = lambda _args, out: F.silu(out)
    for name, module in model.named_modules():
        if not name:
            continue
        made.append(output(module, name))
        leaf = name.rpartition(".")[2]
        if isinstance(module, TimestepEmbedding):
            made.append(output(module.linear_2, f"{name}.linear_2+silu", silu))
        if isinstance(module, ResnetBlock2D):
            made += [output(getattr(module, n), f"{name}.{n}+silu", silu) for n in ("norm1", "norm2")]
            if module.time_emb_proj is not None:
                # the row is made after the convolution, so norm2 sees the sum
                made.append(entering(module.norm2, f"{name}.conv1+time_emb_proj"))
        if isinstance(module, BasicTransformerBlock):
            made += [entering(module.norm2, f"{name}.attn1.sum"), entering(module.norm3, f"{name}.attn2.sum")]
        if isinstance(module, Attention):
            made.append(entering(module.to_out[0], f"{name}.softmax"))
        if isinstance(module, ControlNetConditioningEmbedding):
            made.append(output(module.conv_in, f"{name}.conv_in.act", silu))
            made += [output(b, f"{name}.blocks.{i}.act", silu) for i, b in enumerate(module.blocks)]
            made.append(entering(model.down_blocks[0].resnets[0], "conv_in.sum"))
        if leaf == "self_attn" and hasattr(module, "out_proj"):
            made.append(entering(module.out_proj, f"{name}.softmax"))
        if hasattr(module, "layer_norm2") and hasattr(module, "mlp"):  # a layer of CLIP
            made.append(entering(module.layer_norm2, f"{name}.self_attn.sum"))
    return made


def traced(component, model, inputs):
    """Like `run`, with the output of every module, in the order they were computed."""
    seen = {}
    made = hooks(model, lambda path, value: seen.__setitem__(f"trace.{path}", value))
    out = run(component, model, inputs)
    for handle in made:
        handle.remove()
    return {**seen, **out}


def peaked(component, model, inputs):
    """Like `run`, and the largest magnitude of any value on the way, with its module."""
    peak = (0.0, "")

    def keep(path, value):
        nonlocal peak
        peak = max(peak, (value.abs().max().item(), path))

    made = hooks(model, keep)
    out = run(component, model, inputs)
    for handle in made:
        handle.remove()
    return out, peak


def relative_l2(expected, got):
    """Relative L2 error of the tensors of `got`, taken together, in f64."""
    difference = sum((got[n].double() - e.double()).square().sum().item() for n, e in expected.items())
    return (difference / sum(e.double().square().sum().item() for e in expected.values())) ** 0.5


def write(path, tensors):
    """Writes f32 tensors; their order, which safetensors does not keep, goes to the metadata."""
    order = json.dumps(list(tensors))
    # copies: a module often gives the very tensor that its last child gave
    copies = {k: v.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format) for k, v in tensors.items()}
    save_file(copies, path, metadata={"order": order})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("component", choices=sorted(COMPONENTS))
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--in", dest="inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=0, help="time this many further runs")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = load(args.component, args.model, DTYPES[args.dtype])
    inputs = load_file(args.inputs)
    if args.trace:
        write(args.out, traced(args.component, model, inputs))
    else:
        out, (peak, where) = peaked(args.component, model, inputs)
        write(args.out, out)
        print(f"largest value {peak:.1f} ({where})")
    for _ in range(args.repeat):
        start = time.perf_counter()
        run(args.component, model, inputs)
        print(f"{time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""Write tests/data/layouts/names.txt.gz: which tensor of the ldm layout is which of diffusers' names.

    make_layouts.py [--out tests/data/layouts/names.txt.gz] [--tiny DIR]

The ldm names are made from diffusers' by the rules below. They are the truth because diffusers' own single-file
loader is then made to convert them back, and must give every tensor under the name it came from: with values on
tiny networks (several layer and level counts), with names and shapes on the published ones (on the meta device).
`--tiny` also writes the tiny networks as files, in both layouts.

A line: case, part, diffusers' name (`-`: not part of the network), ldm name, `.`, or the block of rows of a fused
tensor, and the shape of the whole stored tensor.
"""

import argparse
import gzip
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as loader
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import architectures

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}


def swap(rest, table):
    for ours, theirs in table.items():
        if rest.startswith(ours + "."):
            return theirs + rest[len(ours):]
    raise KeyError(rest)


def unet_name(name, layers, attends):
    """`attends`: the levels of the up path that have attention."""
    p = name.split(".")
    if p[0] == "mid_block":
        rest = ".".join(p[3:])
        if p[1] == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(p[2])}.{swap(rest, RESNET)}"
    if p[0] in ("down_blocks", "up_blocks"):
        level, what, i, rest = int(p[1]), p[2], int(p[3]), ".".join(p[4:])
        down = p[0] == "down_blocks"
        block = level * (layers + 1) + int(down)
        side = "input_blocks" if down else "output_blocks"
        if what == "resnets":
            return f"{side}.{block + i}.0.{swap(rest, RESNET)}"
        if what == "attentions":
            return f"{side}.{block + i}.1.{rest}"
        if what == "downsamplers":
            return f"{side}.{block + layers}.0.op.{p[-1]}"
        return f"{side}.{block + layers}.{2 if level in attends else 1}.conv.{p[-1]}"
    return swap(name, ENDS)


def controlnet_name(name, layers, hints):
    p = name.split(".")
    if p[0] == "controlnet_cond_embedding":
        n = {"conv_in": 0, "conv_out": 2 * (hints - 1)}.get(p[1])
        return f"input_hint_block.{2 * (int(p[2]) + 1) if n is None else n}.{p[-1]}"
    if p[0] == "controlnet_down_blocks":
        return f"zero_convs.{p[1]}.0.{p[2]}"
    if p[0] == "controlnet_mid_block":
        return f"middle_block_out.0.{p[1]}"
    return unet_name(name, layers, ())


def vae_name(name, levels):
    p = name.split(".")
    if p[0] in ("quant_conv", "post_quant_conv") or p[1] in ("conv_in", "conv_out"):
        return name
    if p[1] == "conv_norm_out":
        return f"{p[0]}.norm_out.{p[2]}"
    if p[1] == "mid_block":
        rest = ".".join(p[4:])
        if p[2] == "attentions":
            return f"{p[0]}.mid.attn_1.{swap(rest, ATTENTION)}"
        return f"{p[0]}.mid.block_{int(p[3]) + 1}.{rest}"
    side, level = ("down", int(p[2])) if p[0] == "encoder" else ("up", levels - 1 - int(p[2]))
    if p[3] == "resnets":
        return f"{p[0]}.{side}.{level}.block.{p[4]}." + ".".join(p[5:]).replace("conv_shortcut", "nin_shortcut")
    return f"{p[0]}.{side}.{level}.{side}sample.conv.{p[-1]}"


def open_clip_name(name):
    if name == "text_model.embeddings.position_embedding.weight":
        return "positional_embedding"
    if name == "text_model.embeddings.token_embedding.weight":
        return "token_embedding.weight"
    p = name.split(".")
    if p[1] == "final_layer_norm":
        return f"ln_final.{p[2]}"
    return f"transformer.resblocks.{p[3]}.{swap('.'.join(p[4:]), OPEN_CLIP)}"


class Layout:
    """The ldm file of one published model, and what each of its tensors is."""

    def __init__(self, case):
        self.case, self.file, self.lines, self.parts = case, {}, [], {}

    def add(self, part, name, stored, tensor, rows="."):
        shape = "x".join(map(str, tensor.shape)) or "1"
        self.lines.append(f"{self.case} {part} {name} {stored} {rows} {shape}")
        self.file[stored] = tensor

    def plain(self, part, model, prefix, rename):
        state = model.state_dict()
        self.parts[part] = state
        for name, tensor in state.items():
            if part == "vae" and name.endswith("weight") and ".attentions." in name and "group_norm" not in name:
                tensor = tensor[:, :, None, None]
            self.add(part, name, prefix + rename(name), tensor)

    def unet(self, model):
        attends = [i for i, kind in enumerate(model.config.up_block_types) if kind.startswith("CrossAttn")]
        layers = model.config.layers_per_block
        self.plain("unet", model, "model.diffusion_model.", lambda n: unet_name(n, layers, attends))
        self.same("unet", loader.convert_ldm_unet_checkpoint(dict(self.file), model.config))

    def controlnet(self, model, prefix):
        hints = 2 * len(model.config.conditioning_embedding_out_channels)
        layers = model.config.layers_per_block
        self.plain("controlnet", model, prefix, lambda n: controlnet_name(n, layers, hints))
        # diffusers knows the published count of hints only
        converted = loader.convert_controlnet_checkpoint(dict(self.file), model.config)
        self.same("controlnet", converted)

    def vae(self, model, prefix="first_stage_model."):
        levels = len(model.config.block_out_channels)
        self.plain("vae", model, prefix, lambda n: vae_name(n, levels))
        self.same("vae", loader.convert_ldm_vae_checkpoint(dict(self.file), model.config))

    def clip(self, model):
        prefix = "cond_stage_model.transformer."
        self.plain("text_encoder", model, prefix, lambda n: n)
        ids = torch.arange(77)[None]
        self.add("text_encoder", "-", prefix + "text_model.embeddings.position_ids", ids)
        converted = loader.convert_ldm_clip_checkpoint(dict(self.file))
        converted.pop("text_model.embeddings.position_ids")
        self.same("text_encoder", converted)

    def open_clip(self, model, prefix="cond_stage_model.model."):
        """The last block of the tower, which SD 2.x never runs, is in the file and not in the model."""
        state = model.state_dict()
        self.parts["text_encoder"] = state
        width, layers = model.config.hidden_size, model.config.num_hidden_layers
        for name, tensor in state.items():
            if not name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
                self.add("text_encoder", name, prefix + open_clip_name(name), tensor)
        for layer in range(layers):
            for leaf in ("weight", "bias"):
                names = [f"text_model.encoder.layers.{layer}.self_attn.{p}_proj.{leaf}" for p in "qkv"]
                fused = torch.cat([state[n] for n in names])
                for row, name in enumerate(names):
                    stored = f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{leaf}"
                    self.add("text_encoder", name, stored, fused, row)
        unused = [n for n in self.file if n.startswith(f"{prefix}transformer.resblocks.0.")]
        for stored in unused:
            self.add("text_encoder", "-", stored.replace("resblocks.0.", f"resblocks.{layers}."), self.file[stored])
        self.add("text_encoder", "-", prefix + "text_projection", torch.zeros_like(state[names[0][:-4] + "weight"]))
        self.add("text_encoder", "-", prefix + "logit_scale", torch.zeros(()))
        converted = loader.convert_open_clip_checkpoint(model, dict(self.file), prefix)
        converted.pop("text_projection.weight", None)
        # its list of what to leave out is for the published depth
        converted = {k: v for k, v in converted.items() if f".layers.{layers}." not in k}
        self.same("text_encoder", converted, width)

    def same(self, part, converted, _=None):
        state = self.parts[part]
        differ = set(state) ^ set(converted)
        assert not differ, (self.case, part, sorted(differ)[:5])
        for name, tensor in state.items():
            other = converted[name]
            assert other is not None and tuple(other.shape) == tuple(tensor.shape), (self.case, name)
            if not tensor.is_meta:
                assert torch.equal(other, tensor), (self.case, name)

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.clone().contiguous() for k, v in self.file.items()}, folder / f"{self.case}.safetensors")
        for part, state in self.parts.items():
            save_file({k: v.clone().contiguous() for k, v in state.items()}, folder / f"{self.case}.{part}.safetensors")


def text_model(width, layers, mlp, vocabulary=49408):
    return CLIPTextModel(CLIPTextConfig(hidden_size=width, num_hidden_layers=layers, intermediate_size=mlp,
                                        num_attention_heads=width // 2 if width < 64 else width // 64, vocab_size=vocabulary))


def published():
    network = lambda name: architectures.build(name)[1]
    with torch.device("meta"):
        case = Layout("sd15")
        case.unet(network("sd15_unet")), case.vae(network("sd_vae")), case.clip(text_model(768, 12, 3072))
        yield case
        case = Layout("sd21")
        case.unet(network("sd21_unet")), case.vae(network("sd_vae")), case.open_clip(text_model(1024, 23, 4096))
        yield case
        case = Layout("controlnet21")
        case.controlnet(network("sd21_controlnet"), "control_model.")
        yield case
        case = Layout("vae")
        case.vae(network("sd_vae"), "")
        yield case


def tiny():
    for seed, (levels, layers, linear) in enumerate([(1, 1, True), (2, 3, False), (3, 2, True), (4, 1, False)]):
        torch.manual_seed(seed)
        channels = (4, 8, 8, 12)[:levels]
        down = ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",)
        up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)
        blocks = dict(block_out_channels=channels, layers_per_block=layers, down_block_types=down, norm_num_groups=4,
                      attention_head_dim=2, cross_attention_dim=6, use_linear_projection=linear)
        vae = dict(block_out_channels=channels, layers_per_block=layers, norm_num_groups=4,
                   down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)
        case = Layout(f"tiny{seed}")
        case.unet(UNet2DConditionModel(up_block_types=up, **blocks))
        case.vae(AutoencoderKL(**vae))
        (case.clip if seed % 2 else case.open_clip)(text_model(8, 2, 16, 10))
        yield case
        case = Layout(f"tiny_controlnet{seed}")
        case.controlnet(ControlNetModel(**blocks), "" if seed % 2 else "control_model.")
        yield case


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/layouts/names.txt.gz")
    parser.add_argument("--tiny", type=Path)
    args = parser.parse_args()
    with torch.no_grad():
        for case in tiny():
            print(f"{case.case}: {len(case.file)} tensors with equal values")
            if args.tiny:
                case.write(args.tiny)
        lines = []
        for case in published():
            print(f"{case.case}: {len(case.file)} tensors with equal names and shapes")
            lines += case.lines
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # without a time stamp: the same lists give the same bytes
    with open(args.out, "wb") as f, gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
        z.write("".join(line + "\n" for line in lines).encode())
    print(f"{args.out}: {len(lines)} names, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

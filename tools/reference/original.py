"""Tensor names of Depth Anything's and SAM's own repositories, from transformers' names: for checkpoints in the
layouts that were published first."""

import re

DEPTH = [
    (r"^backbone\.embeddings\.cls_token$", "pretrained.cls_token"),
    (r"^backbone\.embeddings\.mask_token$", "pretrained.mask_token"),
    (r"^backbone\.embeddings\.position_embeddings$", "pretrained.pos_embed"),
    (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "pretrained.patch_embed.proj."),
    (r"^backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"pretrained.blocks.\1.attn.proj."),
    (r"^backbone\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"pretrained.blocks.\1.ls\2.gamma"),
    (r"^backbone\.encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"pretrained.blocks.\1.\2."),
    (r"^backbone\.layernorm\.", "pretrained.norm."),
    (r"^neck\.reassemble_stage\.layers\.(\d+)\.projection\.", r"depth_head.projects.\1."),
    (r"^neck\.reassemble_stage\.layers\.(\d+)\.resize\.", r"depth_head.resize_layers.\1."),
    (r"^head\.conv1\.", "depth_head.scratch.output_conv1."),
    (r"^head\.conv2\.", "depth_head.scratch.output_conv2.0."),
    (r"^head\.conv3\.", "depth_head.scratch.output_conv2.2."),
]
QKV = re.compile(r"^backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")
SAM = [
    (r"^vision_encoder\.pos_embed$", "image_encoder.pos_embed"),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm([12])\.", r"image_encoder.blocks.\1.norm\2."),
    (r"^vision_encoder\.layers\.(\d+)\.(attn|mlp)\.", r"image_encoder.blocks.\1.\2."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
]


def renamed(rules, name):
    for pattern, new in rules:
        if re.search(pattern, name):
            return re.sub(pattern, new, name)
    # the head's pyramid is counted from the other end, and from 1
    if m := re.match(r"^neck\.convs\.(\d+)\.weight$", name):
        return f"depth_head.scratch.layer{int(m[1]) + 1}_rn.weight"
    if m := re.match(r"^neck\.fusion_stage\.layers\.(\d+)\.(.*)$", name):
        rest = m[2].replace("projection.", "out_conv.")
        rest = re.sub(r"residual_layer([12])\.convolution([12])", r"resConfUnit\1.conv\2", rest)
        return f"depth_head.scratch.refinenet{4 - int(m[1])}.{rest}"
    raise SystemExit(f"no original name of {name}")


def from_transformers(kind, tensors):
    """The tensors of a network of `kind` (depth, sam) under the names of its own repository."""
    import torch

    out, stacked = {}, {}
    for name, t in tensors.items():
        if m := QKV.match(name):
            stacked.setdefault((m[1], m[3]), {})[m[2]] = t
        else:
            out[renamed(DEPTH if kind == "depth" else SAM, name)] = t
    for (layer, leaf), parts in stacked.items():
        out[f"pretrained.blocks.{layer}.attn.qkv.{leaf}"] = torch.cat([parts[n] for n in ("query", "key", "value")])
    return out


def to_transformers(kind, tensors, model):
    """The other way, for the network `model`."""
    split = {}
    for name, t in tensors.items():
        if m := re.match(r"^pretrained\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", name):
            for part, rows in zip(("query", "key", "value"), t.chunk(3)):
                split[f"backbone.encoder.layer.{m[1]}.attention.attention.{part}.{m[2]}"] = rows
    rules = DEPTH if kind == "depth" else SAM
    rest = {n: tensors[renamed(rules, n)] for n in model.state_dict() if not QKV.match(n)}
    return rest | split

"""CASR in PyTorch: stage planner, superpixel pictures, SARM, and one stage on a whole picture.

A model folder has model_index.json (class CasrPipeline, fields of PIPELINE below) and

    superpixel/    SpixelNet1l_bn                      labels cells of the stage input
    depth/         DepthAnythingForDepthEstimation     (transformers)
    controlnet/    ControlNetModel                     (diffusers) reads the depth map
    unet/  vae/  scheduler/                            as the one-step system has them
    sarm/          Sarm                                this file
    sam/           SamVisionModel                      (transformers) the tokens that SARM looks at

Only unet/ and vae/ are needed; each missing part is what the paper's ablation calls off. One stage, I in [0, 1]:

    u = bicubic(I);  S = superpixel picture of I at the target size;  d = depth map in [0, 1], three channels
    z_k = encode(2 p_k - 1) scaling_factor for every picture p_k of `latents`, in that order (mean, not sampled)
    v = unet([z..., planes], 999, residuals = controlnet([z..., planes], 999, d)), SARM before conv_norm_out
    x0 = (z - sqrt(1 - abar) v) / sqrt(abar)  (epsilon)   or   sqrt(abar) z - sqrt(1 - abar) v  (v_prediction)
    out = decode(x0 / scaling_factor), plus 2 u - 1 where `residual` is "bicubic"; (out + 1) / 2, clamped at the end only

with z the latent of the picture that `sample` names. Published checkpoints have latents ["superpixels"], no planes and
no residual. The shipped one has the enlargement's latent beside the superpixel picture's, since the latter alone lacks
what is smaller than a cell, and its residual base is the bicubic enlargement, as in the one-step weights.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn

from liif import resize

PIPELINE = {
    "timestep": 999,
    "prediction_type": "epsilon",
    "latents": ["superpixels"],
    "sample": "superpixels",
    # constant planes after the latents: "noise_strength", "jpeg_strength", "inverse_scale" (input side / target side of the
    # stage), "cascaded" (1 where the stage's input is the result of another, 0 where it is the picture)
    "planes": [],
    "residual": None,
    "largest_stage": 4.0,
    # superpixels: cells of cell x cell pixels of the stage input; a network trained for cells of `trained_cell` gets
    # its input enlarged by trained_cell / cell. rule: "probabilities" (enlarge, then argmax) or "nearest" (the reverse)
    "cell": 4,
    "trained_cell": 16,
    "superpixel_rule": "probabilities",
    "controlnet_conditioning_scale": 1.0,
    # SARM: whole keys and values while the tokens of all tiles are at most this many, else pooled to side x side a tile,
    # or to the next smaller side with which they are, at least 1
    "sarm_token_budget": 16384,
    "sarm_pooled_side": 8,
    # factor of what SARM adds, for jobs of one stage, of two and so on; the last counts for longer ones
    "sarm_scale": [1.0],
    # what SAM sees: "stage_input" or "original"
    "semantic_reference": "stage_input",
    "tile": 512,
    "overlap": 64,
}


def stages(scale, largest=4.0):
    """Factors, largest first: [s] up to 4, [4, s / 4] up to 16, [4, 3, s / 12] up to 48, beyond 4s in front."""
    if scale <= largest:
        return [scale]
    if scale <= 4 * largest:
        return [4.0, scale / 4]
    if scale <= 12 * largest:
        return [4.0, 3.0, scale / 12]
    return [4.0] + stages(scale / 4, largest)


# ---------------------------------------------------------------- superpixels

MEAN = (0.411, 0.432, 0.45)


def probabilities(net, picture, cell, trained_cell):
    """[1, 3, h, w] in [0, 1] -> softmax [1, 9, H, W] at the resolution the network saw, and that enlargement's ratio.

    The picture is enlarged by trained_cell / cell (bicubic), mirrored on the right and below up to a multiple of the
    cell and of the network's stride; what was added is cut off again."""
    ratio = trained_cell / cell
    if ratio != 1:
        picture = resize(picture, round(picture.shape[2] * ratio), round(picture.shape[3] * ratio))
    h, w = picture.shape[2:]
    unit = trained_cell
    while unit % 2 ** (net.levels - 1):
        unit += trained_cell
    x = F.pad(picture - torch.tensor(MEAN)[None, :, None, None], (0, -w % unit, 0, -h % unit), mode="reflect")
    return net(x)[:, :, :h, :w].softmax(1)


def labels(p, size, grid, low):
    """Ids [H, W] of the cells that the pixels of `size` = (H, W) belong to, from probabilities p of any size.

    p is enlarged bilinearly (half-pixel centres, edges clamped) to `size`; the first largest of the nine wins. A pixel's own cell
    is that of the input pixel it falls on; neighbour q lies (q // 3 - 1, q % 3 - 1) cells away, clamped to the grid.
    `low` = (h, w) of the stage input, `grid` = (rows, columns, cell)."""
    if tuple(p.shape[2:]) != tuple(size):
        p = F.interpolate(p, size=size, mode="bilinear", align_corners=False)
    q = p[0].argmax(0)
    rows, columns, cell = grid
    own = []
    for n, source in zip(size, low):
        own.append((((torch.arange(n, dtype=torch.float64) + 0.5) * source / n).floor().clamp(max=source - 1) / cell).floor().long())
    y = (own[0][:, None] + q // 3 - 1).clamp(0, rows - 1)
    x = (own[1][None, :] + q % 3 - 1).clamp(0, columns - 1)
    return y * columns + x


def superpixel_picture(picture, p, size, cell, rule="probabilities"):
    """[1, 3, h, w] -> [1, 3, *size]: every region in the mean colour of its members in the stage input; a region with
    no member takes the mean of its cell."""
    h, w = picture.shape[2:]
    grid = (-(-h // cell), -(-w // cell), cell)
    count = grid[0] * grid[1]
    low = labels(p, (h, w), grid, (h, w))
    own = labels(F.one_hot(torch.tensor([[[4]]]), 9).permute(0, 3, 1, 2).expand(1, 9, h, w).float(), (h, w), grid, (h, w))
    flat = picture[0].reshape(3, -1).double()

    def means(ids):
        members = torch.zeros(count, dtype=torch.float64).index_add_(0, ids.reshape(-1), torch.ones(h * w, dtype=torch.float64))
        return torch.zeros(3, count, dtype=torch.float64).index_add_(1, ids.reshape(-1), flat) / members, members

    (colours, members), (fallback, _) = means(low), means(own)
    colours = torch.where(members > 0, colours, fallback).float()
    if rule == "nearest":
        rows, columns = (((torch.arange(n, dtype=torch.float64) + 0.5) * m / n).long().clamp(max=m - 1) for n, m in zip(size, (h, w)))
        return colours[:, low[rows][:, columns]][None]
    return colours[:, labels(p, size, grid, (h, w))][None]


# ---------------------------------------------------------------- depth


def depth_map(net, picture, size, shorter=518, patch=14, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """[1, 3, h, w] in [0, 1] -> [1, 3, *size] in [0, 1]: the shorter side becomes `shorter` (bicubic), both sides
    the nearest multiples of the patch, up where that is less than `shorter`; the network's relative inverse depth from its least to its largest value; bilinear."""
    h, w = picture.shape[2:]
    ratio = shorter / min(h, w)
    near = lambda v: round(v / patch) * patch if round(v / patch) * patch >= shorter else -int(-v // patch) * patch
    x = resize(picture, *(near(n * ratio) for n in (h, w)))
    x = (x - torch.tensor(mean)[None, :, None, None]) / torch.tensor(std)[None, :, None, None]
    d = net(x).predicted_depth[:, None]
    d = (d - d.amin()) / (d.amax() - d.amin() + 1e-6)
    return F.interpolate(d, size=size, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)


# ---------------------------------------------------------------- semantic tokens


def semantic_tokens(sam, picture, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)):
    """[1, 3, h, w] in [0, 1] -> [1, tokens, channels]: the longer side becomes the encoder's, what remains of the square
    on the right and below is zero after the normalisation."""
    side, (h, w) = sam.config.image_size, picture.shape[2:]
    ratio = side / max(h, w)
    x = resize(picture, *(max(1, int(n * ratio + 0.5)) for n in (h, w)))
    mean, std = torch.tensor(mean) / 255, torch.tensor(std) / 255
    x = (x - mean[None, :, None, None]) / std[None, :, None, None]
    x = F.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
    return sam(x).last_hidden_state.flatten(2).transpose(1, 2)


# ---------------------------------------------------------------- SARM


class CrossAttention(nn.Module):
    """diffusers' names: to_q, to_k, to_v (no bias), to_out.0. [n, tokens, c] looks at [n or 1, keys, d]."""

    def __init__(self, channels, heads, keys):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = nn.Linear(keys, channels, bias=False), nn.Linear(keys, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x, context):
        n, t, c = x.shape
        context = context.expand(n, -1, -1)
        q, k, v = (f(y).reshape(n, y.shape[1], self.heads, -1).transpose(1, 2) for f, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context)))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class GeGlu(nn.Module):
    """net.0.proj: c -> 8c as (h, g), h * gelu(g); net.2: 4c -> c."""

    def __init__(self, channels):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(channels, 8 * channels)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x):
        h, g = self.net[0].proj(x).chunk(2, -1)
        return self.net[2](h * F.gelu(g))


class Sarm(nn.Module):
    """The semantic-aware refinement block: x [tiles, c, h, w] -> the same shape.

    Tokens are pixels of x, averaged over `reduce` x `reduce` of them. norm1 -> attn1: queries of the tile, keys and
    values of the tokens of every tile of the stage (`cache`, norm1 applied to them too); norm2 -> attn2: keys and
    values from SAM's tokens (left out where there are none); norm3 -> ff. Each is added. What the block added to the
    tokens is enlarged by nearest neighbour and added to x `scale` times. Output projections begin at zero.
    """

    CONFIG = dict(channels=320, num_attention_heads=5, cross_attention_dim=256, reduce=1, norm_eps=1e-5)

    def __init__(self, config):
        super().__init__()
        c = self.config = self.CONFIG | {k: v for k, v in config.items() if k in self.CONFIG}
        width, heads = c["channels"], c["num_attention_heads"]
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, c["norm_eps"]) for _ in range(3))
        self.attn1 = CrossAttention(width, heads, width)
        self.attn2 = CrossAttention(width, heads, c["cross_attention_dim"]) if c["cross_attention_dim"] else None
        self.ff = GeGlu(width)
        for last in (self.attn1.to_out[0], self.attn2.to_out[0] if self.attn2 else self.ff.net[2], self.ff.net[2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def tokens(self, x, side=None):
        """[tiles, c, h, w] -> [tiles, tokens, c]; `side`: pooled to side x side tokens a tile (the keys beyond the budget)."""
        x = F.avg_pool2d(x, self.config["reduce"]) if self.config["reduce"] > 1 else x
        x = F.adaptive_avg_pool2d(x, [min(side, n) for n in x.shape[2:]]) if side else x
        return x.flatten(2).transpose(1, 2)

    def cache(self, x, budget, side):
        """First pass: [1, keys, c] from the features of all tiles, whole while they fit the budget, pooled beyond it."""
        keys = self.tokens(x)
        if keys.shape[0] * keys.shape[1] > budget:
            pooled = (self.tokens(x, n) for n in range(side, 0, -1))
            keys = next((k for k in pooled if k.shape[0] * k.shape[1] <= budget), self.tokens(x, 1))
        return self.norm1(keys).reshape(1, -1, keys.shape[2])

    def forward(self, x, cache, semantic=None, scale=1.0):
        t = start = self.tokens(x)
        t = t + self.attn1(self.norm1(t), cache)
        if semantic is not None and self.attn2 is not None:
            t = t + self.attn2(self.norm2(t), semantic)
        t = t + self.ff(self.norm3(t))
        r = self.config["reduce"]
        added = (t - start).transpose(1, 2).reshape(x.shape[0], x.shape[1], x.shape[2] // r, x.shape[3] // r)
        return x + scale * added.repeat_interleave(r, 2).repeat_interleave(r, 3)


# ---------------------------------------------------------------- one stage


class Casr:
    """Networks by folder name (missing ones are off), the pipeline's fields, sqrt(abar) and sqrt(1 - abar)."""

    def __init__(self, networks, config, alpha_bar):
        self.networks, self.config = networks, PIPELINE | config
        self.root_a, self.root_b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def part(self, name):
        """A network that may lack; `networks` is a dict or a ModuleDict."""
        return self.networks[name] if name in self.networks else None

    def pictures(self, picture, size, off=()):
        """name -> [1, 3, *size] in [0, 1]: the stage's enlargement and, where there is a network, the superpixel picture."""
        c, out = self.config, {"stage_input": resize(picture, *size)}
        net = self.part("superpixel")
        out["superpixels"] = out["stage_input"]  # superpixels off: the enlargement takes their place
        if net is not None and "superpixel" not in off:
            p = probabilities(net, picture, c["cell"], c["trained_cell"])
            out["superpixels"] = superpixel_picture(picture, p, size, c["cell"], c["superpixel_rule"])
        return out

    def unet_features(self, sample, context, depth, off=()):
        """The UNet up to conv_norm_out: [n, c, h, w]."""
        unet, kept = self.networks["unet"], {}
        control = self.part("controlnet")
        t, residuals = self.config["timestep"], {}
        if control is not None and "depth" not in off:
            scale = self.config["controlnet_conditioning_scale"]
            down, mid = control(sample, t, context, depth, conditioning_scale=scale, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        norm = unet.conv_norm_out or unet.conv_out
        handle = norm.register_forward_pre_hook(lambda _, inputs: kept.update(x=inputs[0]))
        unet(sample, t, encoder_hidden_states=context, **residuals)
        handle.remove()
        return kept["x"]

    def finish(self, features):
        """conv_norm_out, SiLU, conv_out."""
        unet = self.networks["unet"]
        return unet.conv_out(F.silu(unet.conv_norm_out(features)))

    def tiles(self, pictures, depth, context, planes, semantic=None, off=(), of=1):
        """Every tile of a stage, one `of` so many, at once: pictures name -> [tiles, 3, h, w] in [0, 1], depth [tiles, 3, h, w] in [0, 1],
        planes [tiles, p] -> [tiles, 3, h, w] in [0, 1], unclamped."""
        c, vae = self.config, self.networks["vae"]
        z = {name: vae.encode(2 * pictures[name] - 1).latent_dist.mean * vae.config.scaling_factor for name in c["latents"]}
        n, _, h, w = z[c["sample"]].shape
        sample = torch.cat([z[name] for name in c["latents"]] + [planes[:, :, None, None].expand(-1, -1, h, w)], 1)
        x = self.unet_features(sample, context.expand(n, -1, -1), depth, off)
        sarm = self.part("sarm")
        if sarm is not None and "sarm" not in off:
            scale = c["sarm_scale"][min(of, len(c["sarm_scale"])) - 1]
            x = sarm(x, sarm.cache(x, c["sarm_token_budget"], c["sarm_pooled_side"]), semantic, scale)
        v = self.finish(x)
        if c["prediction_type"] == "epsilon":
            x0 = (z[c["sample"]] - self.root_b * v) / self.root_a
        else:
            x0 = self.root_a * z[c["sample"]] - self.root_b * v
        out = vae.decode(x0 / vae.config.scaling_factor).sample
        if c["residual"] == "bicubic":
            out = out + 2 * pictures["stage_input"] - 1
        return out / 2 + 0.5


def index(parts, config):
    """model_index.json: part -> (library, class), then the pipeline's fields."""
    return json.dumps({"_class_name": "CasrPipeline"} | {k: list(v) for k, v in parts.items()} | PIPELINE | config, indent=2) + "\n"

"""Train CASR's backbone and ControlNet (stage 1), SARM alone (stage 2), then all of them together (stage 3), from the
shipped one-step weights.

    python casr_train.py --pool POOL --run RUN1 --stage 1 --onestep weights/onestep --superpixel S/last.pt --depth D/last.pt
    python casr_train.py --pool POOL --run RUN2 --stage 2 --first RUN1/last.pt ...

The UNet's way down begins on a share of the superpixel picture's latent (--superpixel-share) in the enlargement's
place. The ControlNet is a second copy of it that sees the enlargement alone, and every skip begins as the mean of both
(`control`): training starts at an answer near the one-step network's, on which each part already tells. Parts that
began at zero, as a ControlNet usually does, had moved the answer by 0.2 grey levels after 13 minutes. Some inputs are
themselves results of a smaller stage, by the frozen one-step network (--cycle): later stages see such ones.

Stage 1: Charbonnier on RGB, plus the gradients' difference, plus --depth-consistency times the L1 of aligned depth maps
of the answer and of the target. Stage 2: everything frozen but SARM and the small image encoder it looks at; one picture
in four patches, as many tokens in common; the same loss, --self-similarity times the error that `tessera eval` prints
under that name, and --correlation times the L1 between the cosine self-correlations of the VAE encoder's features of the
answer and of the target. Stage 3: stage 2's loss, nothing frozen but the superpixel and the depth network. With --same
the last patch shows, in some steps, part of what the first shows, and what the answer makes of both is drawn together.
--whole: some pictures of stages 2 and 3 are one tile.
Factors are drawn from 1.15 to 4. Parts can be left out: --without superpixel depth.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import SamVisionConfig, SamVisionModel

import casr_depth
from casarbi_run import Run, arguments, picture_crop, reduced
from casr import Casr, Sarm, depth_map, semantic_tokens
from evaluate import load
from liif import resize
from model import alpha_bar, conditioning
from self_similarity import self_similarity_error
from spixel import SpixelNet1l_bn
from train import Pool

CONFIG = dict(
    prediction_type="v_prediction", latents=["superpixels", "stage_input"], sample="stage_input",
    planes=["noise_strength", "jpeg_strength", "inverse_scale", "cascaded"], residual="bicubic", cell=4, trained_cell=4,
    # Trained at 1; it adds less where a stage or two leave little to say, more where later stages fade it (README.md).
    sarm_token_budget=4096, sarm_pooled_side=64, sarm_scale=[0.4, 0.4, 1.75],
)
# Smallest and largest factor of a stage in training.
TRAINED_SCALES = [1.15, 4.0]
SARM = dict(channels=64, num_attention_heads=2, cross_attention_dim=32, reduce=1)
SAM = dict(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=2, mlp_dim=96, output_channels=32, image_size=256, patch_size=16,
    window_size=7, global_attn_indexes=[1],
)


def widened(unet, superpixels=0.0):
    """The one-step UNet with the superpixel latents' channels in front of its own, which take the share `superpixels` of
    the enlargement's part in its first convolution, and with one plane more (`cascaded`) that it does not see yet."""
    latents = unet.config.out_channels
    wide = UNet2DConditionModel(**{**unet.config, "in_channels": unet.config.in_channels + latents + 1})
    weights = unet.state_dict()
    old = weights["conv_in.weight"]
    own, planes = old[:, :latents], old[:, latents:]
    weights["conv_in.weight"] = torch.cat([superpixels * own, (1 - superpixels) * own, planes, 0 * planes[:, :1]], 1)
    wide.load_state_dict(weights)
    return wide


def control(unet):
    """A ControlNet that copies the UNet's way down, as a part that carries half of it from the start.

    Its 1 x 1 outputs begin as the identity, so that skips are twice what they were, and what reads them (the resnets'
    shortcuts; group norms do not mind) is halved in `unet`. It sees the enlargement's latent alone.
    """
    c = unet.config
    net = ControlNetModel(
        in_channels=c.in_channels, down_block_types=c.down_block_types, block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block, norm_num_groups=c.norm_num_groups, cross_attention_dim=c.cross_attention_dim,
        attention_head_dim=c.attention_head_dim, mid_block_type="UNetMidBlock2D", conditioning_embedding_out_channels=(8, 16, 32),
    )
    net.load_state_dict({k: w for k, w in unet.state_dict().items() if k in net.state_dict()}, strict=False)
    with torch.no_grad():
        first, latents = net.conv_in.weight, c.out_channels
        first[:, latents : 2 * latents] += first[:, :latents]
        first[:, :latents] = 0
        for out in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            torch.nn.init.dirac_(out.weight)
        skips = [out.weight.shape[0] for out in net.controlnet_down_blocks]
        for i, resnet in enumerate(r for block in unet.up_blocks for r in block.resnets):
            # What comes from below was doubled by the mid block's output only where it is the first.
            doubled = slice(None) if i == 0 else slice(-skips[-1], None)
            skips.pop()
            resnet.conv_shortcut.weight[:, doubled] /= 2
    return net


def averaged(path):
    """Averaged weights and configuration of a run (its last.pt), of one exported network (its folder) or of all networks of
    an exported model (the folder with model_index.json): training goes on from what ships."""
    path = Path(path)
    if (path / "model_index.json").exists():
        nets = {part.parent.name: averaged(part.parent)[0] for part in path.glob("*/*.safetensors")}
        return {f"{name}.{k}": v for name, net in nets.items() for k, v in net.items()}, {}
    if path.is_dir():
        weights = next(path.glob("*.safetensors"))
        return {k: v.float() for k, v in load_file(weights).items()}, json.loads((path / "config.json").read_text())
    state = torch.load(path, weights_only=True)
    return state["average"], state.get("config", {})


# Pixels at a picture's border that do not count as its texture: one bright line there would make up for all that lacks.
BORDER = 8


def inner(pictures):
    return pictures[:, :, BORDER:-BORDER, BORDER:-BORDER]


def lines(errors):
    """Steps between the means of neighbouring lines of an error, down and across; those near the border count thrice. Errors of
    content cancel along a line; stripes, and a line along the border, do not."""
    total = 0
    for along in (2, 3):
        steps = errors.mean(dim=5 - along).diff(dim=2).abs()
        total = total + steps.mean() + steps[:, :, :BORDER].mean() + steps[:, :, -BORDER:].mean()
    return total


def energy(pictures):
    """Deviations of the differences down and across of [n, 3, h, w], in two octaves: [n, 4]."""
    out = []
    for q in (pictures, F.avg_pool2d(pictures, 2)):
        out += [q.diff(dim=2).std(dim=(1, 2, 3)), q.diff(dim=3).std(dim=(1, 2, 3))]
    return torch.stack(out, 1)


def correlation(features):
    """R: cosine similarity of every two places of [n, c, h, w]."""
    f = F.normalize(features.flatten(2), dim=1)
    return f.transpose(1, 2) @ f


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(p, 25, 5e-4, 4, 128)
    p.add_argument("--stage", type=int, choices=[1, 2, 3], default=1)
    p.add_argument("--onestep", required=True)
    p.add_argument("--superpixel", help="last.pt of casr_superpixel.py, or the exported folder")
    p.add_argument("--depth", help="last.pt of casr_depth.py, or the exported folder")
    p.add_argument("--first", nargs="*", default=[], help="last.pt of runs, or exported models, to begin with, later ones over earlier ones; stages 2 and 3 need it")
    p.add_argument("--without", nargs="*", default=[], choices=["superpixel", "depth"])
    p.add_argument("--depth-consistency", type=float, default=0.0)
    p.add_argument("--correlation", type=float, default=0.1)
    p.add_argument("--superpixel-share", type=float, default=0.6, help="of the UNet's first view, at the start")
    p.add_argument("--only-superpixels", action="store_true", help="what the UNet's first view saw of the enlargement it sees of the superpixels, and stays blind to the former")
    p.add_argument("--charbonnier", type=float, default=0.02, help="errors below this (of 1) count by their square")
    p.add_argument("--same", type=float, nargs=2, default=[0.0, 0.0], help="from stage 2 on: weight of the difference between two patches of the same content; for pictures, and for inputs that are a stage's result")
    p.add_argument("--whole", type=float, default=0.0, help="from stage 2 on: share of steps that see pictures whole, not in four patches")
    p.add_argument("--texture", type=float, default=0.0, help="weight of the difference in `energy`, for inputs that are a stage's result")
    p.add_argument("--relative-texture", type=float, default=0.0, help="the same by ratios, for smooth pictures to count as much as others")
    p.add_argument("--self-similarity", type=float, nargs=2, default=[0.0, 0.0], help="from stage 2 on: weight of the self-similarity error, as `tessera eval` measures it; for pictures, and for inputs that are a stage's result")
    p.add_argument("--lines", type=float, default=0.0, help="weight of `lines`, for inputs that are a stage's result: losses of texture and self-similarity are easily met by stripes")
    p.add_argument("--edges", type=float, default=0.1, help="weight of the gradients' difference")
    p.add_argument("--decibels", type=float, nargs=2, default=[0.0, 0.0], help="weight of the logarithm of each picture's squared error; for pictures, and for inputs that are a stage's result")
    p.add_argument("--shrink", type=float, default=0.6, help="share of pictures that are made smaller, so sharper, first")
    p.add_argument("--backbone", type=float, default=0.1, help="the one-step networks' part of the learning rate")
    p.add_argument("--cycle", type=float, default=0.2, help="share of inputs that are a stage's result")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)

    def build():
        plain = load(a.onestep)
        unet = widened(plain.unet, a.superpixel_share)
        parts = {"vae": plain.vae, "unet": unet, "controlnet": control(unet)}
        if a.superpixel and "superpixel" not in a.without:
            weights, config = averaged(a.superpixel)
            parts["superpixel"] = SpixelNet1l_bn(config["block_out_channels"])
            parts["superpixel"].load_state_dict(weights, strict=False)
        if a.depth and "depth" not in a.without:
            parts["depth"] = casr_depth.new()
            parts["depth"].load_state_dict(averaged(a.depth)[0])
        if a.stage > 1:
            parts |= {"sarm": Sarm(SARM), "sam": SamVisionModel(SamVisionConfig(**SAM))}
        nets = torch.nn.ModuleDict(parts)
        for run in a.first:
            nets.load_state_dict(averaged(run)[0], strict=False)
        if a.only_superpixels:
            z, first = unet.config.out_channels, unet.conv_in.weight.data
            first[:, :z] += first[:, z : 2 * z]
            first[:, z : 2 * z] = 0
        backbone, refinement = {"vae", "unet", "controlnet"}, {"sarm", "sam"}
        trained = {1: backbone, 2: refinement, 3: backbone | refinement}[a.stage]
        for name, net in nets.items():
            net.requires_grad_(name in trained).train(name in trained)
        return nets

    # Channels last, as the processor's bfloat16 convolutions want them: a fifth faster.
    nets, average = (build().to(memory_format=torch.channels_last) for _ in range(2))
    pool, held_out = Pool(a.pool), Pool(a.pool, held_out=True)
    fresh = ("controlnet.controlnet_cond_embedding.", "controlnet.conv_in.", "unet.conv_in.", "sarm.", "sam.")
    if a.only_superpixels:
        z = nets["unet"].config.out_channels
        nets["unet"].conv_in.weight.register_hook(lambda gradient: gradient.index_fill(1, torch.arange(z, 2 * z), 0))
    run = Run(a.run, nets, average, a, lambda name: 1.0 if name.startswith(fresh) else a.backbone)
    teacher = load(a.onestep).requires_grad_(False)
    context = torch.zeros(1, 1, nets["unet"].config.cross_attention_dim)

    def answer(parts, lr, size, patches, cascaded=False):
        """lr [n, 3, h, w] -> [n, 3, size, size] in [0, 1]; each picture is cut into patches x patches tiles; `cascaded`:
        lr is a stage's result."""
        # Keys averaged over 2 x 2 tokens, as those of one tile of 512 pixels are.
        keys = (size // 2 ** len(parts["vae"].config.block_out_channels)) ** 2
        casr = Casr(parts, CONFIG | {"cell": 4, "sarm_token_budget": keys}, alpha_bar())
        with torch.no_grad():
            pictures = [casr.pictures(one[None].clamp(0, 1), (size, size)) for one in lr]
            pictures = {k: torch.cat([q[k] for q in pictures]) for k in pictures[0]}
            depth = torch.cat([depth_map(parts["depth"], one[None].clamp(0, 1), (size, size), casr_depth.SIDE) for one in lr]) if "depth" in parts else None
        off = () if depth is not None else ("depth",)
        part = size // patches

        def cut(x):
            return x.reshape(-1, 3, patches, part, patches, part).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, part, part)

        def some(i):
            """Pictures `i`, a slice, in one go."""
            of = {k: cut(q[i]).contiguous(memory_format=torch.channels_last) for k, q in pictures.items()}
            planes = torch.tensor([[0.0, 0.0, lr.shape[2] / size, float(cascaded)]]).expand(of["stage_input"].shape[0], -1)
            semantic = None
            if "sam" in parts:
                # Its patches are one convolution of 16 x 16, which in bfloat16 takes ten times as long.
                with torch.autocast("cpu", enabled=False):
                    semantic = semantic_tokens(parts["sam"], lr[i])
            y = casr.tiles(of, cut(depth[i]) if depth is not None else None, context, planes, semantic, off)
            return y.reshape(-1, patches, patches, 3, part, part).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, size, size)

        # SARM looks at all tiles that it is given: at one picture's.
        one = 1 if "sarm" in parts else lr.shape[0]
        return torch.cat([some(slice(i, i + one)) for i in range(0, lr.shape[0], one)]), pictures["stage_input"]

    def charbonnier(e, square=a.charbonnier):
        return (torch.sqrt(e**2 + square**2) - square).mean()

    def difference(y, hr):
        edges = (y - hr).diff(dim=2).abs().mean() + (y - hr).diff(dim=3).abs().mean()
        return charbonnier(y - hr) + a.edges * edges

    def decibels(y, hr):
        """Every picture's, smooth ones' too, down to an error of 1.5 levels; the logarithm weighs factors already."""
        return torch.log(((y - hr) ** 2).mean(dim=(1, 2, 3)) + (1.5 / 255) ** 2).mean()

    def loss_of(rng):
        hr = torch.stack([picture_crop(rng, pool, a.crop, a.shrink) for _ in range(a.batch)])
        part = a.crop // 2
        same = a.stage > 1 and any(a.same) and rng.random() < 0.4
        if same:
            dy, dx = (int(v) for v in rng.integers(0, part // 4 + 1, 2))
            hr[:, :, part:, part:] = hr[:, :, dy : dy + part, dx : dx + part]
        factor = 4.0 if rng.random() < 0.5 else float(math.exp(rng.uniform(*map(math.log, TRAINED_SCALES))))
        low = max(16, round(a.crop / factor))
        known = low
        cycled = rng.random() < a.cycle
        if cycled:
            low = -(-low // teacher.stride) * teacher.stride
            known = max(8, round(low / rng.uniform(1.5, 4)))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                before = 2 * resize(reduced(rng, hr, known), low, low) - 1
                lr = teacher(before, conditioning(low / known).expand(a.batch, -1)).clamp(0, 1)
        else:
            lr = reduced(rng, hr, low)
        # Small patches are mostly edges: some pictures are one tile.
        patches = 1 if a.stage == 1 or (not same and rng.random() < a.whole) else 2
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = answer(nets, lr, a.crop, patches, cascaded=cycled)
        y = y.float()
        total = difference(y, hr) * 4 * known / a.crop
        total = total + a.decibels[cycled] * decibels(y, hr)
        if cycled:
            total = total + a.lines * lines(y - hr)
            # What is enlarged again and again grows smooth: the mean answer of each stage is.
            made, wanted = energy(inner(y)), energy(inner(hr))
            total = total + a.texture * (made - wanted).abs().mean()
            total = total + a.relative_texture * ((made + 1e-3) / (wanted + 1e-3)).log().abs().mean()
        if same:
            # What both show, without what is near the edge of a patch.
            rows, columns, edge = part - dy, part - dx, 8
            one = y[:, :, dy + edge : part - edge, dx + edge : part - edge]
            other = y[:, :, part + edge : part + rows - edge, part + edge : part + columns - edge]
            total = total + a.same[cycled] * charbonnier(one - other, 1 / 255)
        if a.stage == 1 and a.depth_consistency and "depth" in nets:
            maps = [nets["depth"](casr_depth.normalised(q)).predicted_depth for q in (resize(y, casr_depth.SIDE, casr_depth.SIDE), resize(hr, casr_depth.SIDE, casr_depth.SIDE))]
            total = total + a.depth_consistency * (casr_depth.aligned(maps[0]) - casr_depth.aligned(maps[1])).abs().mean()
        if a.stage > 1 and a.correlation:
            r = [correlation(F.avg_pool2d(nets["vae"].encode(2 * q - 1).latent_dist.mean, 2)) for q in (y, hr)]
            total = total + a.correlation * (r[0] - r[1]).abs().mean()
        if a.stage > 1 and a.self_similarity[cycled]:
            total = total + a.self_similarity[cycled] * self_similarity_error(inner(y), inner(hr)).mean()
        return total

    def measure(size=128, count=8):
        out = {}
        with torch.no_grad():
            for s in (2, 4):
                total = 0.0
                for i in range(count):
                    hr = torch.from_numpy(held_out.shards[held_out.keys[0]][i][:size, :size].copy()).permute(2, 0, 1)[None].float() / 255
                    lr = (resize(hr, size // s, size // s).clamp(0, 1) * 255).round() / 255
                    y, u = answer(average, lr, size, 2 if a.stage == 2 else 1)
                    e = [float(((q.clamp(0, 1) - hr) ** 2).mean()) + 1e-9 for q in (y, u)]
                    total += 10 * math.log10(e[1] / e[0])
                out[f"gain_x{s}"] = round(total / count, 4)
        return out

    run.train(loss_of, measure, {"config": CONFIG, "seed": a.seed})


if __name__ == "__main__":
    main()

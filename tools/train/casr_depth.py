"""Train a small Depth Anything (transformers' class: DINOv2 backbone, DPT neck and head) on generated scenes.

    python casr_scenes.py --out SCENES --count 1200 --seed 1 && python casr_scenes.py --out SCENES --count 50 --seed 0
    python casr_depth.py --pool SCENES --run RUN --cpu-minutes 10

Scale and shift of inverse depth are free, as in the published training: both maps are brought to median 0 and mean
absolute deviation 1 before their L1; a second term compares gradients at four sizes. Shards of seed 0 are held out.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from casarbi_run import Run, arguments

SIDE = 168
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def new():
    backbone = Dinov2Config(
        hidden_size=96, num_hidden_layers=6, num_attention_heads=3, mlp_ratio=4, image_size=SIDE, patch_size=14,
        out_indices=[2, 3, 5, 6], reshape_hidden_states=False, apply_layernorm=True, layerscale_value=1.0,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=96, patch_size=14, neck_hidden_sizes=[24, 32, 48, 64],
        fusion_hidden_size=32, head_hidden_size=16, reassemble_factors=[4, 2, 1, 0.5],
    )
    net = DepthAnythingForDepthEstimation(config)
    # The last ReLU must not begin shut: nothing would ever open it.
    torch.nn.init.constant_(net.head.conv3.bias, 1.0)
    return net


class Scenes:
    def __init__(self, folder, held_out):
        paths = sorted(p for p in folder.glob("scenes-*.npz") if p.name.startswith("scenes-0-") == held_out)
        shards = [np.load(p) for p in paths]
        self.rgb, self.depth = (np.concatenate([s[k] for s in shards]) for k in ("rgb", "depth"))

    def batch(self, rng, count):
        """Crops of random sizes at SIDE x SIDE, mirrored at random: [n, 3, h, w] in [0, 1] and [n, h, w]."""
        rgb, depth = [], []
        for _ in range(count):
            i, side = rng.integers(len(self.rgb)), int(rng.integers(SIDE * 2 // 3, self.rgb.shape[1] + 1))
            y, x = rng.integers(0, self.rgb.shape[1] - side + 1, 2)
            part = torch.from_numpy(self.rgb[i, y : y + side, x : x + side].copy()).permute(2, 0, 1)[None].float() / 255
            map_ = torch.from_numpy(self.depth[i, y : y + side, x : x + side].astype(np.float32))[None, None]
            part = F.interpolate(part, size=(SIDE, SIDE), mode="bilinear", antialias=True)
            map_ = F.interpolate(map_, size=(SIDE, SIDE), mode="nearest")
            if rng.random() < 0.5:
                part, map_ = part.flip(3), map_.flip(3)
            rgb.append(part), depth.append(map_[:, 0])
        return torch.cat(rgb), torch.cat(depth)


def aligned(d):
    flat = d.flatten(1)
    middle = flat.median(1).values
    spread = (flat - middle[:, None]).abs().mean(1) + 1e-4
    return (d - middle[:, None, None]) / spread[:, None, None]


def loss(out, truth):
    a, b = aligned(out), aligned(truth)
    total = (a - b).abs().mean()
    for step in (1, 2, 4, 8):
        e = (a - b)[:, ::step, ::step]
        total = total + 0.25 * (e.diff(dim=1).abs().mean() + e.diff(dim=2).abs().mean())
    return total


def normalised(rgb):
    return (rgb - torch.tensor(MEAN)[None, :, None, None]) / torch.tensor(STD)[None, :, None, None]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(p, 10, 1e-3, 8, SIDE)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    net, average = new(), new()
    scenes, held_out = Scenes(a.pool, False), Scenes(a.pool, True)
    run = Run(a.run, net, average, a)

    def loss_of(rng):
        rgb, truth = scenes.batch(rng, a.batch)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(normalised(rgb)).predicted_depth
        return loss(out.float(), truth)

    def measure():
        """Mean L1 of aligned maps on held-out scenes, and Pearson's correlation."""
        rgb, truth = held_out.batch(np.random.default_rng(0), 24)
        with torch.no_grad():
            out = average(normalised(rgb)).predicted_depth
        pairs = [np.corrcoef(o.flatten().numpy(), t.flatten().numpy())[0, 1] for o, t in zip(out, truth)]
        return {"l1": round(float((aligned(out) - aligned(truth)).abs().mean()), 4), "correlation": round(float(np.mean(pairs)), 4)}

    run.train(loss_of, measure, {"seed": a.seed})


if __name__ == "__main__":
    main()

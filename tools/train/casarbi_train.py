"""Train CasArbi's small denoiser with its encoders, coordinate encoder and adapter, over a LIIF that stays as it is.

    python casarbi_train.py --pool POOL --run RUN --liif LIIFRUN/last.pt --cpu-minutes 40
    python casarbi_train.py ... --cascade single              # the baseline that enlarges in one stage
    python casarbi_train.py ... --no-adapter | --condition-noise 0 | --fixed-factor 0.5

x0 prediction, L1 on residual pictures. Every ingredient is a switch:

    --cascade          which factors are drawn: 2 with probability --fixed-factor, else a remainder in (1, 2]
                       (remainder_last, remainder_first); scale^(1/K) (uniform); anything up to 12 (single)
    --condition-noise  the stage input carries m forward steps of noise, m = 0..M drawn evenly: variance m times that of
                       the schedule's first step (general pictures: 3, faces: 5)
    --no-adapter       without coordinate encoder and adapter

The schedule's length is drawn from --lengths for every picture, then the step: the network hears sqrt(eta), so one set
of weights serves any number of steps.
"""

import argparse
import math

import numpy as np
import torch

from casarbi_run import Run, arguments, picture_crop, reduced  # first: it makes tools/reference importable
from casarbi import CasArbi, input_scale, seeded, sqrt_etas
from casarbi_denoiser import Denoiser
from liif import EDSR, LIIF, resize
from train import Pool

SAMPLER = dict(num_inference_steps=4, kappa=2.0, power=0.3, etas_end=0.99, min_noise_level=0.2, gain=4.0,
               input_scaling="wiener", data_deviation=0.25)
LR_ENCODER = dict(n_resblocks=4, n_feats=32)
HR_ENCODER = dict(n_resblocks=2, n_feats=16)
DENOISER = dict(
    lr_channels=32, hr_channels=16, block_out_channels=[16, 32, 64, 64], layers_per_block=1,
    attention_levels=[False, False, False, True], attention_window=16, num_attention_heads=1, norm_num_groups=4,
    time_proj_dim=32, time_embedding_dim=64, adapter=True, coordinate_bands=6, coordinate_channels=16,
    input_skip=True,
)
LARGEST = 12.0


def initialise(net):
    """Variance-preserving convolutions, weak residual branches, a nearly silent last convolution and adapter."""
    gains = {"conv1": 1.5, "conv2": 0.5, "conv_out": 0.1, "conv_in": 3.0}
    with torch.no_grad():
        for name, m in net.named_modules():
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
                gain = gains.get(name.rsplit(".", 1)[-1], 1.0)
                gain = 0.3 if ".heads." in name or name.endswith("to_out.0") else gain
                gain = 1.4 if ".body." in name else gain
                m.weight.normal_(0, gain / math.sqrt(m.weight[0].numel()))
                if m.bias is not None:
                    m.bias.zero_()
        for encoder in (net["lr_encoder"], net["hr_encoder"]):
            for block in list(encoder.body)[:-1]:
                block.body[2].weight.mul_(0.3)


def networks(liif_config, denoiser):
    parts = {"liif": LIIF(liif_config), "lr_encoder": EDSR(LR_ENCODER), "hr_encoder": EDSR(HR_ENCODER), "denoiser": Denoiser(denoiser)}
    return torch.nn.ModuleDict(parts)


def pick_factor(rng, cascade, fixed):
    if cascade == "single":
        return float(math.exp(rng.uniform(math.log(1.1), math.log(LARGEST))))
    if cascade == "uniform":
        scale = float(math.exp(rng.uniform(math.log(1.1), math.log(LARGEST))))
        return scale ** (1 / max(1, math.ceil(math.log2(scale))))
    return 2.0 if rng.random() < fixed else float(rng.uniform(1.05, 2))


def trained_scales(cascade, fixed):
    """Smallest and largest factor that pick_factor draws."""
    if fixed >= 1 and cascade not in ("single", "uniform"):
        return [2.0, 2.0]
    return {"single": [1.1, LARGEST], "uniform": [1.1, 2.0]}.get(cascade, [1.05, 2.0])


def random_window(rng, size, factor):
    """Where a crop could lie: (rect, full) of a target picture of a random size."""
    full = [int(math.exp(rng.uniform(math.log(size), math.log(2048)))) for _ in range(2)]
    y, x = (int(rng.integers(0, n - size + 1)) for n in full)
    return (y, x, size, size), tuple(full)


def measure(nets, pool, config, scales=(2, 4), count=8, size=128):
    """Mean PSNR gain over bicubic, and LIIF's own, on held-out generated pictures, guided as shipped, and the RMS in
    grey levels between samples of two seeds (near zero: the network has stopped listening to x_t)."""
    model, out = CasArbi(nets, config), {}
    with torch.no_grad():
        for s in scales:
            gains = []
            for i in range(count):
                shard = pool.shards[pool.keys[i % len(pool.keys)]]
                hr = torch.from_numpy(shard[i % len(shard)][:size, :size].copy()).permute(2, 0, 1)[None].float() / 255
                lr = (resize(hr, size // s, size // s).clamp(0, 1) * 255).round() / 255
                pictures = (model.upscale(lr, s, seeded(i)), resize(lr, size, size), nets["liif"](2 * lr - 1, size, size) / 2 + 0.5)
                e = [float(((p.clamp(0, 1) - hr) ** 2).mean()) + 1e-9 for p in pictures]
                apart = float(((model.upscale(lr, s, seeded(i + 100)) - pictures[0]) ** 2).mean().sqrt()) * 255 if i < 3 else math.nan
                gains.append([10 * math.log10(e[1] / e[0]), 10 * math.log10(e[1] / e[2]), apart])
            out[f"gain_x{s}"], out[f"liif_x{s}"], out[f"apart_x{s}"] = (round(float(g), 4) for g in np.nanmean(gains, 0))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(p, 40, 1e-3, 4, 128)
    p.add_argument("--liif", required=True, help="last.pt of casarbi_liif.py")
    p.add_argument("--cascade", choices=["remainder_last", "remainder_first", "uniform", "single"], default="remainder_last")
    p.add_argument("--fixed-factor", type=float, default=0.8, help="probability of factor 2 (0.5 for faces)")
    p.add_argument("--condition-noise", type=int, default=3, help="most forward steps of noise on the stage input")
    p.add_argument("--no-adapter", action="store_true")
    p.add_argument("--lengths", type=int, nargs="*", default=[4, 4, 4, 5, 6, 8, 15], help="schedule lengths drawn in training")
    p.add_argument("--last-step", type=float, default=0.4, help="probability that the step of least noise is drawn, beside its even share")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    state = torch.load(a.liif, weights_only=True)
    shape = DENOISER | {"adapter": not a.no_adapter}
    nets, average = networks(state["config"], shape), networks(state["config"], shape)
    initialise(nets)
    nets["liif"].load_state_dict(state["average"])
    nets["liif"].requires_grad_(False)
    pool, held_out = Pool(a.pool), Pool(a.pool, held_out=True)
    run = Run(a.run, nets, average, a)
    gain, kappa = SAMPLER["gain"], SAMPLER["kappa"]
    schedules = {n: sqrt_etas(n, kappa, SAMPLER["power"], SAMPLER["etas_end"], SAMPLER["min_noise_level"]) for n in set(a.lengths)}
    first = min(min(s) for s in schedules.values())
    denoiser = nets["denoiser"]

    def loss_of(rng):
        n, size = a.batch, a.crop
        hr = torch.stack([picture_crop(rng, pool, size) for _ in range(n)])
        factor = pick_factor(rng, a.cascade, a.fixed_factor)
        low = max(8, min(size - 1, round(size / factor)))
        lr = 2 * reduced(rng, hr, low) - 1
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        forward = torch.from_numpy(rng.integers(0, a.condition_noise + 1, n)).float()
        lr = lr + (kappa / gain * first * forward.sqrt())[:, None, None, None] * torch.randn(lr.shape, generator=generator)
        drawn = [schedules[a.lengths[rng.integers(len(a.lengths))]] for _ in range(n)]
        roots = torch.tensor([s[0 if rng.random() < a.last_step else rng.integers(len(s))] for s in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                base = nets["liif"](lr, size, size).float()
                x0, y = gain * (2 * hr - 1 - base), gain * (resize(lr, size, size) - base)
                r = roots[:, None, None, None]
                x = x0 + r**2 * (y - x0) + kappa * r * torch.randn(x0.shape, generator=generator)
                x = x * torch.tensor([input_scale(float(q), SAMPLER) for q in roots])[:, None, None, None]
            condition = denoiser.condition(nets["lr_encoder"](lr).float(), nets["hr_encoder"](base).float())
            coordinates = None
            if shape["adapter"]:
                windows = [denoiser.coordinate_encoder.features(*random_window(rng, size, factor)) for _ in range(n)]
                coordinates = denoiser.coordinate_encoder(torch.cat(windows))
            s = torch.full((n,), 1000 * low / size)
            out = denoiser(x, condition, 1000 * roots, s, coordinates)
        return (out.float() - x0).abs().mean()

    config = SAMPLER | {"cascade": a.cascade}
    extra = {"liif_config": state["config"], "denoiser": shape, "config": config, "seed": a.seed}
    run.train(loss_of, lambda: measure(average, held_out, config), extra)


if __name__ == "__main__":
    main()

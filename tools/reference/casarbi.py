"""CasArbi end to end in PyTorch: stages, the residual-shifting schedule, the sampler with guidance, model folders.

    python casarbi.py --model DIR --in LR.png --scale 5.3 --out SR.png [--seed N] [--steps N]

A model folder has model_index.json (class CasArbiPipeline, fields of PIPELINE below) and

    liif/          LIIF                      the base picture
    lr_encoder/    EDSR                      features of the stage input
    hr_encoder/    EDSR                      features of the base picture
    denoiser/      CasArbiDenoiser           with coordinate_encoder.* and adapter.* in the same file

each with config.json and diffusion_pytorch_model.safetensors. Arithmetic of one stage, pictures in [-1, 1]:

    base = LIIF(I)                     at the stage's target size (from the stage input, or from the original)
    y    = gain (bicubic(I) - base)    residual pictures are enlarged by `gain`
    x_T  = y + kappa sqrt_eta_T n_T
    for t = T..1:
        x0   = denoiser(c_t x_t, condition, 1000 sqrt_eta_t, 1000 / s)
        u    = base + x0 / gain
        u   <- u - strength s_h s_w A^T (A u - b)          guidance: A reduces by antialiased bicubic to b's size
        x0   = gain (u - base)
        x_{t-1} = (eta_{t-1} / eta_t) x_t + (alpha_t / eta_t) x0 + kappa sqrt(eta_{t-1} alpha_t / eta_t) n_{t-1}
    the stage's result is base + x0 / gain of the last step, unclamped; the last stage's is clamped.

c_t = 1 / sqrt(1 + v) (input_scaling "variance", ResShift's) or d^2 / (d^2 + v) ("wiener": what the best linear estimate of a
residual of deviation d = data_deviation keeps of x_t, so that steps of pure noise reach the network faintly), v = kappa^2 eta_t.
eta_0 = 0, alpha_t = eta_t - eta_{t-1}; s = s_h s_w under the root: sqrt((H / H_in) (W / W_in)).
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from casarbi_denoiser import Denoiser
from liif import EDSR, LIIF, resize, resize_adjoint

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASSES = {"liif": LIIF, "lr_encoder": EDSR, "hr_encoder": EDSR, "denoiser": Denoiser}
NAMES = {"liif": "LIIF", "lr_encoder": "EDSR", "hr_encoder": "EDSR", "denoiser": "CasArbiDenoiser"}

# Every parameter of the sampler, as model_index.json has it.
PIPELINE = {
    "num_inference_steps": 15,
    "kappa": 2.0,
    "power": 0.3,
    "etas_end": 0.99,
    "min_noise_level": 0.04,
    "gain": 4.0,
    # what x_t is multiplied by before the network: "variance" or "wiener" (see above)
    "input_scaling": "variance",
    "data_deviation": 0.25,
    # guidance: "off", "original" (the LR picture) or "previous" (the stage input); strengths per stage, last repeated
    "guidance": "previous",
    "guidance_strength": [0.5],
    # base: "stage_input" (LIIF of the stage input) or "original" (LIIF of the LR picture, by all factors so far)
    "base": "stage_input",
    # cascade: "remainder_last", "remainder_first", "uniform" or "single"
    "cascade": "remainder_last",
    "tile": 256,
    "overlap": 64,
}


# ---------------------------------------------------------------- stages and schedule


def stages(scale, rule="remainder_last"):
    """Factors of the stages, product `scale`. Fixed factor 2 and a remainder in (1, 2], K = ceil(log2 scale), at least 1."""
    count = max(1, math.ceil(math.log2(scale) - 1e-9))
    if rule == "single" or count == 1:
        return [scale]
    if rule == "uniform":
        return [scale ** (1 / count)] * count
    rest = scale / 2 ** (count - 1)
    return [2.0] * (count - 1) + [rest] if rule == "remainder_last" else [rest] + [2.0] * (count - 1)


def sizes(height, width, factors):
    """Target size of every stage: round(H0 * product), half up; the last is round(H0 * scale)."""
    out, product = [], 1.0
    for factor in factors:
        product *= factor
        out.append((math.floor(height * product + 0.5), math.floor(width * product + 0.5)))
    return out


def sqrt_etas(steps, kappa=2.0, power=0.3, etas_end=0.99, min_noise_level=0.04):
    """sqrt(eta_t) for t = 1..steps. One step alone has etas_end."""
    first = min(min_noise_level / kappa, min_noise_level)
    if steps == 1:
        return [etas_end]
    return [first * (etas_end / first) ** ((t / (steps - 1)) ** power) for t in range(steps)]


def input_scale(root, config):
    """c_t for root = sqrt(eta_t)."""
    v = (config["kappa"] * root) ** 2
    if config["input_scaling"] == "wiener":
        return config["data_deviation"] ** 2 / (config["data_deviation"] ** 2 + v)
    return 1 / math.sqrt(1 + v)


# ---------------------------------------------------------------- model


class CasArbi:
    """The networks and the sampler's parameters. `off` names parts to leave out: "adapter", "liif", "guidance",
    "denoiser" (the base picture is the stage's result)."""

    def __init__(self, networks, config=None, off=()):
        self.networks = networks
        self.config = PIPELINE | (config or {})
        self.off = set(off)

    @classmethod
    def load(cls, folder, config=None, off=()):
        folder = Path(folder)
        index = json.loads((folder / "model_index.json").read_text())
        networks = {}
        for part, kind in CLASSES.items():
            net = kind(json.loads((folder / part / "config.json").read_text()))
            net.load_state_dict({k: w.float() for k, w in load_file(folder / part / WEIGHTS).items()})
            networks[part] = net.eval().requires_grad_(False)
        return cls(networks, {k: v for k, v in index.items() if k in PIPELINE} | (config or {}), off)

    def save(self, folder, half=True):
        """Writes the folder's networks and model_index.json."""
        for part, net in self.networks.items():
            at = Path(folder) / part
            at.mkdir(parents=True, exist_ok=True)
            (at / "config.json").write_text(json.dumps({"_class_name": NAMES[part]} | net.config, indent=2) + "\n")
            weights = {k: w.detach().to(torch.float16 if half else torch.float32).contiguous() for k, w in net.state_dict().items()}
            if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
                raise ValueError(f"{part} has weights that do not fit f16")
            save_file(weights, at / WEIGHTS, metadata={"format": "pt"})
        parts = {part: ["tessera", NAMES[part]] for part in CLASSES}
        index = {"_class_name": "CasArbiPipeline"} | parts | self.config
        (Path(folder) / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    # ------------------------------------------------------------ one stage

    def base(self, picture, original, size):
        """The picture that residuals are added to, [n, 3, *size]."""
        source = original if self.config["base"] == "original" else picture
        if "liif" in self.off:
            return resize(source, *size)
        return self.networks["liif"](source, *size)

    def condition(self, picture, base):
        """[n, c0, h, w]: once per stage."""
        e_lr = self.networks["lr_encoder"](picture)
        return self.networks["denoiser"].condition(e_lr, self.networks["hr_encoder"](base))

    def coordinates(self, size, rect=None):
        """Coordinate features of a rectangle (y, x, h, w) of the stage's picture, or None with the adapter off."""
        denoiser = self.networks["denoiser"]
        if "adapter" in self.off or not denoiser.config["adapter"]:
            return None
        return denoiser.coordinate_encoder(denoiser.coordinate_encoder.features(rect or (0, 0, *size), size))

    def schedule(self):
        c = self.config
        return sqrt_etas(c["num_inference_steps"], c["kappa"], c["power"], c["etas_end"], c["min_noise_level"])

    def stage(self, index, picture, original, size, noise):
        """One stage on the whole picture. `noise(stage, t, shape)` gives the normals of x_t, t = T for the start."""
        c, denoiser = self.config, self.networks["denoiser"]
        base = self.base(picture, original, size)
        if "denoiser" in self.off:
            return base
        gain, kappa = c["gain"], c["kappa"]
        scale = math.sqrt((size[0] / picture.shape[2]) * (size[1] / picture.shape[3]))
        condition, coordinates = self.condition(picture, base), self.coordinates(size)
        reference = {"original": original, "previous": picture}.get(c["guidance"])
        strength = c["guidance_strength"][min(index, len(c["guidance_strength"]) - 1)]
        n = picture.shape[0]
        s = torch.full((n,), 1000 / scale)
        roots = self.schedule()
        x = gain * (resize(picture, *size) - base)
        x = x + kappa * roots[-1] * noise(index, len(roots), x.shape)
        for t in range(len(roots), 0, -1):
            eta, before = roots[t - 1] ** 2, roots[t - 2] ** 2 if t > 1 else 0.0
            x0 = denoiser(input_scale(roots[t - 1], c) * x, condition, torch.full((n,), 1000 * roots[t - 1]), s, coordinates)
            u = base + x0 / gain
            if reference is not None and strength != 0 and "guidance" not in self.off:
                h, w = reference.shape[2:]
                rest = resize(u, h, w) - reference
                u = u - strength * (size[0] / h) * (size[1] / w) * resize_adjoint(rest, *size)
                x0 = gain * (u - base)
            alpha = eta - before
            x = before / eta * x + alpha / eta * x0
            if t > 1:
                x = x + kappa * math.sqrt(before * alpha / eta) * noise(index, t - 1, x.shape)
        return u

    def upscale(self, lr, scale, noise, keep=None):
        """lr [n, 3, h, w] in [0, 1] -> [n, 3, round(h scale), round(w scale)] in [0, 1]. `keep` collects every stage."""
        original = picture = 2 * lr - 1
        factors = stages(scale, self.config["cascade"])
        for index, size in enumerate(sizes(lr.shape[2], lr.shape[3], factors)):
            picture = self.stage(index, picture, original, size, noise)
            if keep is not None:
                keep.append(picture)
        return (picture / 2 + 0.5).clamp(0, 1)


def seeded(seed):
    """A source of noise by PyTorch's generator; the engine has its own, so comparisons give both the same file."""
    def noise(stage, t, shape):
        generator = torch.Generator().manual_seed(hash((seed, stage, t)) & 0x7FFFFFFF)
        return torch.randn(shape, generator=generator)

    return noise


def main():
    import numpy as np
    from PIL import Image

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--in", dest="source", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--scale", type=float, default=4.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int)
    a = p.parse_args()
    model = CasArbi.load(a.model, {"num_inference_steps": a.steps} if a.steps else None)
    lr = torch.from_numpy(np.array(Image.open(a.source).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        out = model.upscale(lr, a.scale, seeded(a.seed))
    Image.fromarray((out[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(a.out)


if __name__ == "__main__":
    main()

"""Write tests/data/schedules/expected.json: every coefficient of diffusers' schedulers, in f64.

    make_schedules.py [--out tests/data/schedules/expected.json]

diffusers computes its schedules in f32. Here its own code runs with `float32` of torch and numpy replaced by
`float64` in the schedulers' modules. A step is linear in the latent, the prediction and the noise, so calling
`step()` on each of them alone, as 1 with the others 0, gives its coefficients without any cancellation.
A row is [timestep, input scale, clean from x, clean from prediction, next from x, from prediction, from noise].
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_euler_discrete


class Doubled:
    """A module whose `float32` is its `float64`."""

    def __init__(self, module):
        self._module = module
        self.float32 = module.float64

    def __getattr__(self, name):
        return getattr(self._module, name)


FRESH = {}
for module in (scheduling_ddim, scheduling_ddpm, scheduling_euler_discrete):
    module.torch, module.np = Doubled(module.torch), Doubled(module.np)
    module.randn_tensor = lambda *_args, **_kwargs: FRESH["noise"]

CLASSES = {
    "ddpm": scheduling_ddpm.DDPMScheduler,
    "ddim": scheduling_ddim.DDIMScheduler,
    "euler": scheduling_euler_discrete.EulerDiscreteScheduler,
}
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
# As Stable Diffusion 1.x and 2-base publish it: a PNDM config.
SD15 = dict(SD, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None, clip_sample=False)
SD21 = dict(SD15, prediction_type="v_prediction")
TURBO = dict(
    SD15, interpolation_type="linear", prediction_type="epsilon", sample_max_value=1.0, timestep_spacing="trailing",
    timestep_type="discrete", use_karras_sigmas=False)
PLAIN = dict(clip_sample=False)
ALL, FEW = [1, 2, 4, 20, 50], [1, 3, 7]

# name: (method, eta, config, counts)
CASES = {
    "sd15 ddim": ("ddim", 0.0, SD15, ALL),
    "sd21 ddim v": ("ddim", 0.0, SD21, ALL),
    "sd15 ddim eta 1": ("ddim", 1.0, SD15, ALL),
    "sd21 ddim v trailing eta 0.3": ("ddim", 0.3, dict(SD21, timestep_spacing="trailing"), FEW),
    "ddim sample linspace": (
        "ddim", 0.5, dict(SD, clip_sample=False, prediction_type="sample", timestep_spacing="linspace"), FEW),
    "linear ddim": ("ddim", 0.0, PLAIN, FEW),
    "sd15 ddpm": ("ddpm", 0.0, SD15, ALL),
    "sd21 ddpm v trailing": ("ddpm", 0.0, dict(SD21, timestep_spacing="trailing"), FEW),
    "ddpm large": ("ddpm", 0.0, dict(SD15, variance_type="fixed_large", timestep_spacing="linspace"), FEW),
    "ddpm log sample": ("ddpm", 0.0, dict(PLAIN, variance_type="fixed_small_log", prediction_type="sample"), FEW),
    "turbo euler": ("euler", 0.0, TURBO, ALL),
    "sd15 euler": ("euler", 0.0, SD15, ALL),
    "sd21 euler v": ("euler", 0.0, dict(SD21, timestep_spacing="leading"), ALL),
    "euler v end": (
        "euler", 0.0, dict(SD21, timestep_spacing="trailing", final_sigmas_type="sigma_min"), FEW),
    "euler sample": ("euler", 0.0, dict(SD, prediction_type="sample"), FEW),
}
# Where half steps fall between two whole ones: only the time steps.
TRAILING = [6, 9, 13, 16, 30, 48, 80, 96, 144, 333, 1000]


def one(value):
    return torch.tensor([[[[float(value)]]]], dtype=torch.float64)


def rows(method, eta, config, count):
    scheduler = CLASSES[method].from_config(config)
    scheduler.set_timesteps(count)
    out = []
    for i, t in enumerate(scheduler.timesteps):
        columns = []
        for x, p, n in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]:
            FRESH["noise"] = one(n)
            if method == "euler":
                scheduler._step_index = i
                scheduler.is_scale_input_called = True
            extra = dict(eta=eta, variance_noise=one(n) if eta else None) if method == "ddim" else {}
            step = scheduler.step(one(p), t, one(x), **extra)
            columns.append((step.pred_original_sample.item(), step.prev_sample.item()))
        if method == "euler":
            scheduler._step_index = i
        scale = scheduler.scale_model_input(one(1), t).item()
        (cx, nx), (cp, np_), (_, nn) = columns
        out.append([t.item(), scale, cx, cp, nx, np_, nn])
    return float(scheduler.init_noise_sigma), out


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/schedules/expected.json")
    args = parser.parse_args()
    cases = []
    for name, (method, eta, config, counts) in CASES.items():
        runs = []
        for count in counts:
            initial, steps = rows(method, eta, config, count)
            runs.append({"count": count, "initial": initial, "steps": steps})
        cases.append({"name": name, "method": method, "eta": eta, "config": config, "runs": runs})
    trailing = {}
    for count in TRAILING:
        scheduler = CLASSES["ddim"].from_config(dict(PLAIN, timestep_spacing="trailing"))
        scheduler.set_timesteps(count)
        trailing[str(count)] = [int(t) for t in scheduler.timesteps]
    trailing["1000"] = trailing["1000"][:1] + trailing["1000"][-1:]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"cases": cases, "trailing": trailing}, separators=(",", ":"))
    args.out.write_text(text.replace("],[", "],\n[").replace('{"name"', '\n{"name"') + "\n")
    print(f"{args.out}: {len(cases)} cases, {sum(len(r['steps']) for c in cases for r in c['runs'])} steps")


if __name__ == "__main__":
    main()

"""Write the committed reference of CasArbi: tests/data/casarbi/{model/, reference.safetensors}.

    make_casarbi.py [--out tests/data/casarbi] | --published DIR

The model is small and seeded, stored as f16. The reference holds a picture, what each network gives for seeded inputs
(f64, stored as f32), and pictures of the whole sampler in f32 with the engine's own noise, by `CasArbi.upscale` where
one window holds the stage, and by windows (`tiled` below, tables and masks made anew here) where it does not.
--published writes the networks' references at the published sizes to DIR/casarbi instead (see tests/parts.rs).
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.special import ndtri

import casarbi_denoiser
import make_checkpoint
from casarbi import CLASSES, CasArbi, input_scale, sizes, stages
from liif import bicubic_matrix, resize

SMALL = {
    "liif": dict(n_resblocks=2, n_feats=16, hidden=[32, 24], skip="bicubic"),
    "lr_encoder": dict(n_resblocks=2, n_feats=12),
    "hr_encoder": dict(n_resblocks=1, n_feats=8, res_scale=0.5),
    "denoiser": dict(
        lr_channels=12, hr_channels=8, block_out_channels=[16, 24, 32], layers_per_block=1,
        attention_levels=[False, True, False], attention_window=8, norm_num_groups=4, time_proj_dim=16,
        time_embedding_dim=24, coordinate_bands=4, coordinate_channels=12, input_skip=True,
    ),
}
SETTINGS = dict(num_inference_steps=4, min_noise_level=0.2, guidance_strength=[0.5, 0.25], input_scaling="wiener", data_deviation=0.5)
PICTURE = (12, 28)


# ---------------------------------------------------------------- the engine's noise


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011) on arrays of u64 that hold u32."""
    c, k = [np.asarray(v, np.uint64) for v in counter], list(key)
    low = np.uint64(0xFFFFFFFF)
    for r in range(10):
        if r:
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        p, q = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        shift = np.uint64(32)
        c = [(q >> shift) ^ c[1] ^ np.uint64(k[0]), q & low, (p >> shift) ^ c[3] ^ np.uint64(k[1]), p & low]
    return c


TABLE = ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)


def normals(seed, stage, purpose, step, rows, columns):
    """[1, 3, rows, columns]: the normal at each place is the mid-quantile that 16 bits of its own choose."""
    y, x = np.meshgrid(np.asarray(rows, np.uint64), np.asarray(columns, np.uint64), indexing="ij")
    rest = [np.full_like(y, stage << 16 | purpose), np.full_like(y, (step & 0xFFFF) << 16)]
    words = philox([y, x] + rest, [seed & 0xFFFFFFFF, seed >> 32])
    bits = [words[0] & np.uint64(0xFFFF), words[0] >> np.uint64(16), words[1] & np.uint64(0xFFFF)]
    return torch.from_numpy(np.stack([TABLE[b.astype(np.int64)] for b in bits])[None])


def engine_noise(seed, steps):
    """As `CasArbi.stage` asks for it."""
    def noise(stage, t, shape):
        purpose, step = (0, 0) if t == steps else (1, steps - 1 - t)
        return normals(seed, stage, purpose, step, range(shape[2]), range(shape[3]))

    return noise


# ---------------------------------------------------------------- windows


def axis(extent, tile, overlap, stride):
    """First pixels of windows of `tile` over `extent`, spread evenly."""
    if extent <= tile:
        return [0], extent
    step = max((tile - overlap) // stride * stride, stride)
    count = -(-(extent - tile) // step) + 1
    last = extent - tile
    at = lambda i: min(-(-(-(-i * last // (count - 1))) // stride) * stride, last)
    return [last if i + 1 == count else at(i) for i in range(count)], tile


def ramps(origins, size, extent):
    """[windows, extent]: linear weights that sum to one, in multiples of 2^-12."""
    raw = np.zeros((len(origins), extent))
    for k, o in enumerate(origins):
        i = np.arange(size)
        left = 1.0 if k == 0 else np.clip((i + 0.5) / (origins[k - 1] + size - o), 0, 1)
        right = 1.0 if k + 1 == len(origins) else np.clip((size - i - 0.5) / (o + size - origins[k + 1]), 0, 1)
        raw[k, o : o + size] = np.minimum(left, right)
    return torch.from_numpy(np.round(raw / raw.sum(0) * 4096) / 4096).float()


def restricted(n_from, n_to, begin, size):
    """The rows of the reduction `n_from` to `n_to` that read nothing beyond pixels begin .. begin + size."""
    m = bicubic_matrix(n_from, n_to).clone()
    outside = torch.ones(n_from, dtype=torch.bool)
    outside[begin : begin + size] = False
    m[(m[:, outside] != 0).any(1)] = 0
    return m[:, begin : begin + size]


def tiled(model, lr, scale, seed, tile, overlap, stride=4):
    """`CasArbi.upscale` by windows: what depends on the picture alone is made of the whole picture."""
    c, net = model.config, model.networks["denoiser"]
    original = picture = 2 * lr - 1
    roots, gain, kappa = model.schedule(), c["gain"], c["kappa"]
    steps = len(roots)
    for index, size in enumerate(sizes(lr.shape[2], lr.shape[3], stages(scale, c["cascade"]))):
        base, up = model.base(picture, original, size), resize(picture, *size)
        features = resize(model.networks["lr_encoder"](picture), *size)
        s = torch.tensor([1000 / math.sqrt(size[0] / picture.shape[2] * size[1] / picture.shape[3])])
        reference = {"original": original, "previous": picture}.get(c["guidance"])
        strength = c["guidance_strength"][min(index, len(c["guidance_strength"]) - 1)]
        (ys, h), (xs, w) = axis(size[0], tile, overlap, stride), axis(size[1], tile, overlap, stride)
        wy, wx = ramps(ys, h, size[0]), ramps(xs, w, size[1])
        out = torch.zeros_like(base)
        for i, y in enumerate(ys):
            for j, x0 in enumerate(xs):
                cut = lambda v: v[:, :, y : y + h, x0 : x0 + w]
                normal = lambda purpose, step: normals(seed, index, purpose, step, range(y, y + h), range(x0, x0 + w))
                b = cut(base)
                condition = net.conv_condition(torch.cat([cut(features), model.networks["hr_encoder"](b)], 1))
                coordinates = model.coordinates(size, (y, x0, h, w))
                x = gain * (cut(up) - b) + kappa * roots[-1] * normal(0, 0)
                for t in range(steps, 0, -1):
                    eta, before = roots[t - 1] ** 2, roots[t - 2] ** 2 if t > 1 else 0.0
                    seen = input_scale(roots[t - 1], c) * x
                    clean = net(seen, condition, torch.tensor([1000 * roots[t - 1]]), s, coordinates)
                    u = b + clean / gain
                    if reference is not None and strength:
                        rh, rw = reference.shape[2:]
                        a, d = restricted(size[0], rh, y, h), restricted(size[1], rw, x0, w)
                        kept = ((a != 0).any(1)[:, None] & (d != 0).any(1)[None]).float()
                        rest = (a @ u @ d.T - reference) * kept
                        u = u - strength * (size[0] / rh) * (size[1] / rw) * (a.T @ rest @ d)
                        clean = gain * (u - b)
                    alpha = eta - before
                    x = before / eta * x + alpha / eta * clean
                    if t > 1:
                        x = x + kappa * math.sqrt(before * alpha / eta) * normal(1, steps - t)
                out[:, :, y : y + h, x0 : x0 + w] += wy[i, y : y + h, None] * wx[j, x0 : x0 + w] * u
        picture = out
    return (picture / 2 + 0.5).clamp(0, 1)


# ---------------------------------------------------------------- files


def networks(configs, seed):
    out = {}
    for k, (part, kind) in enumerate(CLASSES.items()):
        out[part] = kind(configs.get(part, {})).eval()
        make_checkpoint.fill(out[part], seed + k)
    return out


def picture(height, width):
    """Gradients, edges and texture, [1, 3, h, w] in 0 to 1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rgb = [0.5 + 0.3 * np.sin(0.4 * x + 0.2 * y), ((x // 5 + y // 4) % 2) * 0.6 + 0.2, 0.2 + 0.6 * y / height]
    return torch.from_numpy(np.stack(rgb)[None].astype(np.float32))


SIZES = {"edsr": (9, 7), "edsr_scaled": (6, 5), "liif": ((7, 9), (17, 20)), "odd": (13, 11), "even": (16, 24)}
PUBLISHED = {"edsr": (64, 48), "edsr_scaled": (96, 96), "liif": ((48, 40), (80, 96)), "odd": (61, 75), "even": (128, 128)}


def of_networks(model, keep, sides=SIZES):
    """What each network gives in f64 for seeded inputs."""
    exact = {part: net.double() for part, net in model.networks.items()}
    rng = np.random.default_rng(5)
    normal = lambda *shape: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    x = keep["edsr.in"] = normal(1, 3, *sides["edsr"])
    keep["edsr.out"] = exact["lr_encoder"](x.double())
    x = keep["edsr_scaled.in"] = normal(2, 3, *sides["edsr_scaled"])
    keep["edsr_scaled.out"] = exact["hr_encoder"](x.double())
    x = keep["liif.in"] = normal(1, 3, *sides["liif"][0])
    keep["liif.out"] = exact["liif"](x.double(), *sides["liif"][1])
    net, sinusoid = exact["denoiser"], casarbi_denoiser.sinusoid
    casarbi_denoiser.sinusoid = lambda value, dim: sinusoid(value, dim).double()
    c0, cc, n = net.config["block_out_channels"][0], net.config["coordinate_channels"], 2 if sides is SIZES else 1
    for name in ("odd", "even"):
        h, w = sides[name]
        x, condition = normal(n, 3, h, w), normal(n, c0, h, w)
        coordinates, t, s = normal(1, cc, h, w).repeat(n, 1, 1, 1), torch.full((n,), 700.0), torch.full((n,), 625.0)
        for part, value in dict(x=x, condition=condition, coordinates=coordinates, t=t[:1], s=s[:1]).items():
            keep[f"denoiser_{name}.{part}"] = value
        given = [v.double() for v in (x, condition)] + [t, s]
        keep[f"denoiser_{name}.out"] = net(*given, coordinates.double())
        keep[f"denoiser_{name}.plain"] = net(*given, None)
    casarbi_denoiser.sinusoid = sinusoid
    for net in model.networks.values():
        net.float()


def main():
    root = Path(__file__).resolve().parents[2]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=root / "tests/data/casarbi")
    p.add_argument("--published", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.published:
        out, keep = a.published / "casarbi", {}
        CasArbi(networks({}, 50)).save(out / "model")
        of_networks(CasArbi.load(out / "model"), keep, PUBLISHED)
        save_file({k: v.float().contiguous() for k, v in keep.items()}, out / "reference.safetensors")
        return
    CasArbi(networks(SMALL, 40), SETTINGS).save(a.out / "model")
    model = CasArbi.load(a.out / "model")
    keep = {"picture": picture(*PICTURE)}
    of_networks(model, keep)
    steps = model.config["num_inference_steps"]
    for scale in (2, 3.3, 5.3):
        keep[f"x{scale}"] = model.upscale(keep["picture"], scale, engine_noise(7, steps))
        keep[f"x{scale}.tiled"] = tiled(model, keep["picture"], scale, 7, 32, 8)
    for name, change, off in [
        ("off", dict(guidance="off"), ()), ("original", dict(guidance="original"), ()), ("base", dict(base="original"), ()),
        ("uniform", dict(cascade="uniform"), ()), ("first", dict(cascade="remainder_first"), ()),
        ("single", dict(cascade="single"), ()), ("adapter", {}, ("adapter",)), ("one", dict(num_inference_steps=1), ()),
        ("liif", {}, ("liif",)), ("denoiser", {}, ("denoiser",)), ("plain", dict(base="original"), ("liif", "denoiser")),
        ("unlike", dict(base="original"), ("liif",)),
    ]:
        other = CasArbi(model.networks, model.config | change, off)
        noise = engine_noise(7, other.config["num_inference_steps"])
        keep[f"x3.3.{name}"] = other.upscale(keep["picture"], 3.3, noise)
        apart = (keep[f"x3.3.{name}"] - keep["x3.3"]).square().mean().sqrt().item()
        print(f"{name:10} {255 * apart:.2f} grey levels from the default")
    worst = {k: 255 * (v - keep[f"{k}.tiled"]).square().mean().sqrt().item() for k, v in keep.items() if f"{k}.tiled" in keep}
    print("windows against one window, grey levels:", worst)
    save_file({k: v.float().contiguous() for k, v in keep.items()}, a.out / "reference.safetensors")
    print(sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""Write tests/data/inception: a seeded synthetic checkpoint of the first three layers of Inception v3, and what PyTorch
and numpy make of two pictures with it.

    make_inception.py [--out tests/data/inception]

inception.safetensors: the layers' tensors as f16, under torchvision's names, and two that nobody asks for.
reference.safetensors: pictures `a` and `b` [H,W,3] as bytes; `features` [H',W',64] of `a`, computed in f64 and stored as f32;
`distance` [1] in f64: SIFID of the two as github.com/tamarott/SinGAN computes it (SIFID/inception.py, sifid_score.py with
64 dimensions): 2x - 1 goes in, and the covariance divides by one less than the number of positions. The trace of the
product's root comes from eigenvalues of symmetric matrices instead of scipy's general root.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# Name, channels in and out, stride, padding.
LAYERS = (
    ("Conv2d_1a_3x3", 3, 32, 2, 0),
    ("Conv2d_2a_3x3", 32, 32, 1, 0),
    ("Conv2d_2b_3x3", 32, 64, 1, 1),
)
SEED = 40
# Rows and columns; more positions than channels, and sides that a stride of 2 does and does not divide.
SIZES = {"a": (40, 49), "b": (47, 36)}


def checkpoint(rng):
    """Tensors whose activations keep their size from layer to layer, each number one that f16 holds."""
    tensors = {}
    for name, cin, cout, _, _ in LAYERS:
        tensors[f"{name}.conv.weight"] = rng.standard_normal((cout, cin, 3, 3)) * np.sqrt(2 / (9 * cin))
        tensors[f"{name}.bn.weight"] = 1 + 0.2 * rng.standard_normal(cout)
        tensors[f"{name}.bn.bias"] = 0.2 * rng.standard_normal(cout)
        tensors[f"{name}.bn.running_mean"] = 0.2 * rng.standard_normal(cout)
        tensors[f"{name}.bn.running_var"] = np.exp(0.3 * rng.standard_normal(cout))
    tensors["fc.bias"] = rng.standard_normal(10)
    tensors = {name: torch.from_numpy(t).half() for name, t in tensors.items()}
    tensors["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)
    return tensors


def network(tensors):
    """The three layers as torchvision's BasicConv2d has them, in f64."""
    layers = []
    for name, cin, cout, stride, padding in LAYERS:
        conv = torch.nn.Conv2d(cin, cout, 3, stride, padding, bias=False)
        norm = torch.nn.BatchNorm2d(cout, eps=0.001)
        layers.append((name, torch.nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=torch.nn.ReLU()))))
    net = torch.nn.Sequential(OrderedDict(layers)).double().eval()
    missing, unexpected = net.load_state_dict({k: v.double() for k, v in tensors.items()}, strict=False)
    assert all(m.endswith("num_batches_tracked") for m in missing) and unexpected == ["fc.bias"]
    return net


def picture(rng, rows, columns):
    """Waves of a few directions and some noise, in bytes."""
    y, x = np.mgrid[:rows, :columns]
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-0.9, 0.9, (6, 3))]
    mixed = np.stack(waves, -1) @ rng.standard_normal((6, 3)) * 30 + 128 + 20 * rng.standard_normal((rows, columns, 3))
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def features(net, bytes_):
    """[H',W',64] of a picture [H,W,3]."""
    values = torch.from_numpy(bytes_).double().permute(2, 0, 1)[None] / 255
    return net(2 * values - 1)[0].permute(1, 2, 0).numpy()


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def distance(one, other):
    """Frechet distance between Gaussian fits over all positions."""
    samples = [f.reshape(-1, f.shape[-1]) for f in (one, other)]
    (ma, mb), (sa, sb) = [s.mean(0) for s in samples], [np.cov(s, rowvar=False) for s in samples]
    joint = np.sqrt(np.maximum(np.linalg.eigvalsh(root(sa) @ sb @ root(sa)), 0)).sum()
    return np.sum((ma - mb) ** 2) + np.trace(sa) + np.trace(sb) - 2 * joint


def main():
    root_folder = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root_folder / "tests/data/inception")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    tensors = checkpoint(rng)
    net = network(tensors)
    pictures = {name: picture(rng, *size) for name, size in SIZES.items()}
    of = {name: features(net, bytes_) for name, bytes_ in pictures.items()}
    found = distance(of["a"], of["b"])
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "inception.safetensors")
    reference = {name: torch.from_numpy(bytes_) for name, bytes_ in pictures.items()}
    reference["features"] = torch.from_numpy(of["a"]).float().contiguous()
    reference["distance"] = torch.tensor([found], dtype=torch.float64)
    save_file(reference, args.out / "reference.safetensors")
    sizes = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"{args.out}: features {of['a'].shape}, {of['b'].shape}, SIFID {found:.9f}, {sizes} bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main()

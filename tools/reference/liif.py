"""Resampling, EDSR and LIIF in PyTorch: the definition of their tensor names, shapes and arithmetic.

    EDSR      feature encoder (published names: head.0, body.{i}.body.{0,2}, body.{n})
    LIIF      local implicit image function (published names: encoder.*, imnet.layers.{0,2,4,..})

Layout NCHW, pictures in [-1, 1], pixel centres at half integers. Every class has CONFIG (the fields of its
config.json with their published defaults) and is built by `Class(config)`.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------- resampling by tables


def _keys(x, a=-0.5):
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@functools.lru_cache(maxsize=256)
def bicubic_matrix(n_in, n_out, dtype=torch.float32):
    """[n_out, n_in], a = -0.5. Enlarging clamps the four taps to the edge; shrinking widens the kernel by the factor,
    leaves out what lies beyond the edge and makes every row sum to one (Pillow's rule)."""
    ratio = n_in / n_out
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * ratio - 0.5
    if ratio <= 1:
        taps = centre.floor()[:, None] - 1 + torch.arange(4, dtype=torch.float64)[None]
        m = torch.zeros(n_out, n_in, dtype=torch.float64)
        m.scatter_add_(1, taps.clamp(0, n_in - 1).long(), _keys(taps - centre[:, None]))
    else:
        m = _keys((torch.arange(n_in, dtype=torch.float64)[None] - centre[:, None]) / ratio)
    return (m / m.sum(1, keepdim=True)).to(dtype)


def resize(x, height, width):
    """Bicubic resize of [n, c, h, w]: rows first or columns first is the same."""
    rows = bicubic_matrix(x.shape[2], height, x.dtype)
    return rows @ (x @ bicubic_matrix(x.shape[3], width, x.dtype).T)


def resize_adjoint(x, height, width):
    """The adjoint of resizing [n, c, height, width] to x's size: A^T x (b)."""
    rows = bicubic_matrix(height, x.shape[2], x.dtype)
    return rows.T @ (x @ bicubic_matrix(width, x.shape[3], x.dtype))


# ---------------------------------------------------------------- EDSR


class ResBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x)))."""

    def __init__(self, feats, res_scale):
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(nn.Conv2d(feats, feats, 3, padding=1), nn.ReLU(), nn.Conv2d(feats, feats, 3, padding=1))

    def forward(self, x):
        return x + self.res_scale * self.body(x)


class EDSR(nn.Module):
    """EDSR-baseline without its upsampler and without the mean shift: [n, 3, h, w] -> [n, n_feats, h, w].

    h = head(x); out = h + body(h), body = n_resblocks blocks and a last convolution.
    """

    CONFIG = dict(n_colors=3, n_resblocks=16, n_feats=64, res_scale=1.0)

    def __init__(self, config):
        super().__init__()
        c = self.config = self.CONFIG | {k: v for k, v in config.items() if k in self.CONFIG}
        feats = c["n_feats"]
        self.head = nn.Sequential(nn.Conv2d(c["n_colors"], feats, 3, padding=1))
        blocks = [ResBlock(feats, c["res_scale"]) for _ in range(c["n_resblocks"])]
        self.body = nn.Sequential(*blocks, nn.Conv2d(feats, feats, 3, padding=1))

    def forward(self, x):
        h = self.head(x)
        return h + self.body(h)


# ---------------------------------------------------------------- LIIF


class MLP(nn.Module):
    """Linear, ReLU, ..., Linear: layers.0, layers.2, ..."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        layers = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))

    def forward(self, x):
        return self.layers(x)


def nearest_axis(n_in, n_out, side):
    """One axis of LIIF's grid: for every output position the nearest source cell after a shift by half a cell to
    `side` (-1, 1, or 0 for none), and the distance to its centre in cells.

    Output o lies at p = (o + 1/2) n_in / n_out in cells. With a shift the position is p + side / 2 + 1e-6 n_in / 2,
    held inside the picture by 1e-6 n_in / 2; its floor is the cell i (published code works in [-1, 1], where
    eps_shift = 1e-6 and the clamp is 1 - 1e-6). The relative coordinate is 2 (p - (i + 1/2)): the published one is the
    difference in [-1, 1] times n_in.
    """
    p = (torch.arange(n_out, dtype=torch.float64) + 0.5) * n_in / n_out
    eps = 1e-6 * n_in / 2
    shifted = (p + side / 2 + (eps if side else 0)).clamp(eps, n_in - eps)
    i = shifted.floor().clamp(0, n_in - 1)
    return i.long(), (2 * (p - (i + 0.5))).float()


class LIIF(nn.Module):
    """[n, 3, h, w] in [-1, 1] -> [n, 3, height, width] in [-1, 1].

    For every output pixel and each of the four cells around it (one cell without `local_ensemble`):
    input = [3x3 unfolded features (channel-major: c * 9 + ky * 3 + kx, zeros beyond the edge), relative y, relative x,
    cell y, cell x]; the MLP's answers are blended by the areas of the opposite cells. cell = 2 n_in / n_out per axis.

    `skip` is ours: "bicubic" adds the bicubic enlargement to the answer; published weights have null.
    """

    CONFIG = dict(EDSR.CONFIG, hidden=[256, 256, 256, 256], local_ensemble=True, feat_unfold=True, cell_decode=True, skip=None)

    def __init__(self, config):
        super().__init__()
        c = self.config = self.CONFIG | {k: v for k, v in config.items() if k in self.CONFIG}
        self.encoder = EDSR(c)
        self.features = c["n_feats"] * (9 if c["feat_unfold"] else 1)
        self.imnet = MLP(self.features + 2 + (2 if c["cell_decode"] else 0), c["hidden"], 3)

    def corners(self):
        return [(sy, sx) for sy in (-1, 1) for sx in (-1, 1)] if self.config["local_ensemble"] else [(0, 0)]

    def first_layer(self, features):
        """The part of imnet.layers.0 that sees features, at input resolution: unfolding and a linear layer are a 3x3
        convolution; taking a cell's row commutes with it, so every cell is computed once."""
        weight = self.imnet.layers[0].weight[:, : self.features]
        k = 3 if self.config["feat_unfold"] else 1
        return F.conv2d(features, weight.reshape(weight.shape[0], -1, k, k), self.imnet.layers[0].bias, padding=k // 2)

    def forward(self, x, height, width):
        n, _, h, w = x.shape
        first = self.first_layer(self.encoder(x)).permute(0, 2, 3, 1).contiguous()  # [n, h, w, hidden]
        extra = self.imnet.layers[0].weight[:, self.features :]  # relative y, relative x, cell y, cell x
        rest = self.imnet.layers[1:]
        answers, areas = [], []
        for sy, sx in self.corners():
            (iy, ry), (ix, rx) = nearest_axis(h, height, sy), nearest_axis(w, width, sx)
            q = first.index_select(1, iy).index_select(2, ix)  # [n, height, width, hidden]
            row, column = ry[:, None] * extra[:, 0], rx[:, None] * extra[:, 1]
            if self.config["cell_decode"]:
                row = row + 2 * h / height * extra[:, 2] + 2 * w / width * extra[:, 3]
            answers.append(rest(q + (row[:, None] + column[None]).to(q)))
            areas.append((ry[:, None] * rx[None]).abs() + 1e-9)
        total = sum(areas)
        # The answer of a cell weighs as much as the area towards the opposite cell: order (-,-), (-,+), (+,-), (+,+).
        out = sum(a * (b / total)[..., None] for a, b in zip(answers, reversed(areas))).permute(0, 3, 1, 2)
        return out + resize(x, height, width) if self.config["skip"] == "bicubic" else out

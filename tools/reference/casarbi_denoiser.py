"""CasArbi's denoiser in PyTorch: the definition of its tensor names, shapes and arithmetic.

A UNet of SR3's shape with diffusers' names; the coordinate encoder (`coordinate_encoder.*`) and the coordinate adapter
(`adapter.*`) lie inside it and in its file. Layout NCHW. Operations used: 3x3 and 1x1 convolutions (stride 1 or 2,
zero padding 1), nearest doubling before a convolution, group norm, SiLU, linear, attention in windows, modulation,
and bicubic enlarging of features.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from liif import resize


def sinusoid(value, dim):
    """[r] -> [r, dim]: cosines, then sines, of value * exp(-ln(10000) i / (dim / 2)) (diffusers, flip_sin_to_cos)."""
    frequency = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    angle = value.float()[:, None] * frequency[None]
    return torch.cat([angle.cos(), angle.sin()], 1)


def modulate(x, gb):
    """SFT: x [n, c, h, w], gb [n, 2c, h, w] (gamma, then beta) -> x (1 + gamma) + beta."""
    gamma, beta = gb.chunk(2, 1)
    return x * (1 + gamma) + beta


class Resnet(nn.Module):
    """norm1, (modulate), SiLU, conv1, + row of the embedding, norm2, SiLU, conv2, + shortcut."""

    def __init__(self, inputs, outputs, embedding, groups, eps):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding, gb=None):
        """`embedding` [n, e] is SiLU of the embedding already."""
        h = self.norm1(x)
        if gb is not None:
            h = modulate(h, gb)
        h = self.conv1(F.silu(h)) + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class WindowAttention(nn.Module):
    """x + to_out(attention(group_norm(x))) inside windows of `window` x `window` pixels from the top left corner.

    Windows over the right and bottom edge are filled with zeros after the norm, and these tokens take part (queries,
    keys and values have no bias, so theirs are zero: score 0). Scale 1 / sqrt(head channels).
    """

    def __init__(self, channels, heads, window, groups, eps):
        super().__init__()
        self.heads, self.window = heads, window
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x):
        n, c, h, w = x.shape
        s, rows, columns = self.window, -(-h // self.window), -(-w // self.window)
        t = F.pad(self.group_norm(x), (0, columns * s - w, 0, rows * s - h))
        t = t.reshape(n, c, rows, s, columns, s).permute(0, 2, 4, 3, 5, 1).reshape(n * rows * columns, s * s, c)
        q, k, v = (f(t).reshape(t.shape[0], s * s, self.heads, -1).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        t = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(t.shape))
        t = t.reshape(n, rows, columns, s, s, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, rows * s, columns * s)
        return x + t[:, :, :h, :w]


class Downsampler(nn.Module):
    """3x3, stride 2, padding 1: h -> ceil(h / 2). Names `downsamplers.0.conv`."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class Upsampler(nn.Module):
    """Nearest doubling, cropped to the skip's size, and a 3x3 convolution. Names `upsamplers.0.conv`."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, height, width):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
        return self.conv(x)


class Level(nn.Module):
    """One level of the way down or up: resnets.{j}, attentions.{j}, downsamplers.0 or upsamplers.0."""

    def __init__(self, resnets, attentions=(), downsampler=None, upsampler=None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if downsampler:
            self.downsamplers = nn.ModuleList([downsampler])
        if upsampler:
            self.upsamplers = nn.ModuleList([upsampler])

    def attend(self, j, x):
        return self.attentions[j](x) if hasattr(self, "attentions") else x


class CoordinateEncoder(nn.Module):
    """Coordinates of the full picture, Fourier features, two 3x3 convolutions with SiLU between (none after).

    x_j = -1 + (2 j + 1) / W with j and W counted in the full picture. Channels: x, sin(2^l pi x) for l = 0..L-1,
    cos(2^l pi x) for l = 0..L-1, then the same of y: 2 (1 + 2 L).
    """

    def __init__(self, bands, channels):
        super().__init__()
        self.bands = bands
        self.conv1 = nn.Conv2d(2 * (1 + 2 * bands), channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def features(self, rect, full):
        """rect = (y, x, h, w) of the picture `full` = (H, W), in target pixels -> [1, channels, h, w]. Zeros beyond
        the rectangle's edge (not the picture's) go into the convolutions."""
        y, x, h, w = rect
        octaves = math.pi * 2.0 ** torch.arange(self.bands, dtype=torch.float64)
        axes = []
        for begin, count, size in ((x, w, full[1]), (y, h, full[0])):
            u = -1 + (2 * torch.arange(begin, begin + count, dtype=torch.float64) + 1) / size
            angle = octaves[:, None] * u[None]
            axes.append(torch.cat([u[None], angle.sin(), angle.cos()]).float())
        c = axes[0].shape[0]
        return torch.cat([axes[0][:, None, :].expand(c, h, w), axes[1][:, :, None].expand(c, h, w)])[None]

    def forward(self, features):
        return self.conv2(F.silu(self.conv1(features)))


class Adapter(nn.Module):
    """The denoiser's way down without modulation and attention, and 1x1 heads that give gamma and beta.

    Embedding: linear_2(SiLU(linear_t(sinusoid(t)) + linear_s(sinusoid(s)))), t and s as `Denoiser.forward` says.
    conv_in: 3x3 on [the denoiser's first features, coordinate features].
    down_blocks.{i}.resnets.{j}: its output goes through heads.{k} (k counts them) to 2 c_in channels, c_in being the
    input channels of the denoiser's down_blocks.{i}.resnets.{j}.
    """

    def __init__(self, c):
        super().__init__()
        channels, dim = c["block_out_channels"], c["time_embedding_dim"]
        self.embedding = nn.ModuleDict({
            "linear_t": nn.Linear(c["time_proj_dim"], dim),
            "linear_s": nn.Linear(c["time_proj_dim"], dim, bias=False),
            "linear_2": nn.Linear(dim, dim),
        })
        self.conv_in = nn.Conv2d(channels[0] + c["coordinate_channels"], channels[0], 3, padding=1)
        levels, heads, inputs = [], [], channels[0]
        for i, width in enumerate(channels):
            resnets = []
            for _ in range(c["layers_per_block"]):
                resnets.append(Resnet(inputs, width, dim, c["norm_num_groups"], c["norm_eps"]))
                heads.append(nn.Conv2d(width, 2 * inputs, 1))
                inputs = width
            levels.append(Level(resnets, downsampler=Downsampler(width) if i + 1 < len(channels) else None))
        self.down_blocks, self.heads = nn.ModuleList(levels), nn.ModuleList(heads)

    def forward(self, first, coordinates, t, s):
        """[n, c0, h, w], [n or 1, cc, h, w] and the sinusoids [n, p] -> gamma and beta for every resnet on the way down."""
        e = self.embedding
        row = F.silu(e["linear_2"](F.silu(e["linear_t"](t) + e["linear_s"](s))))
        x = self.conv_in(torch.cat([first, coordinates.expand(first.shape[0], -1, -1, -1)], 1))
        out = []
        for level in self.down_blocks:
            for resnet in level.resnets:
                x = resnet(x, row)
                out.append(self.heads[len(out)](x))
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)
        return out


class Denoiser(nn.Module):
    """Predicts x0 of a residual picture. SR3's UNet with the published defaults below, diffusers' names.

    first = conv_in(x_t) + condition, condition = conv_condition([E_lr enlarged by bicubic, E_hr]) (once per stage: one
    convolution of [x_t, E_lr, E_hr], split by its inputs). Way down: resnets modulated by the adapter, attention where
    attention_levels says so, skips as diffusers keeps them (first, every resnet, every downsampling). Middle: resnet,
    attention, resnet. Way up: layers_per_block + 1 resnets on [x, skip]. conv_norm_out, SiLU, conv_out; with `input_skip`
the network's input (c_t x_t) is added to that.
    """

    CONFIG = dict(
        in_channels=3, out_channels=3, lr_channels=64, hr_channels=64, block_out_channels=[64, 128, 256, 512, 512],
        layers_per_block=2, attention_levels=[False, False, False, True, False], attention_window=16,
        num_attention_heads=1, norm_num_groups=32, norm_eps=1e-5, time_proj_dim=64, time_embedding_dim=256,
        adapter=True, coordinate_bands=10, coordinate_channels=64, input_skip=False,
    )

    def __init__(self, config):
        super().__init__()
        c = self.config = self.CONFIG | {k: v for k, v in config.items() if k in self.CONFIG}
        channels, dim, layers = c["block_out_channels"], c["time_embedding_dim"], c["layers_per_block"]
        norm = (c["norm_num_groups"], c["norm_eps"])
        last = len(channels) - 1

        def attentions(width, count, wanted):
            return [WindowAttention(width, c["num_attention_heads"], c["attention_window"], *norm) for _ in range(count * wanted)]

        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(c["time_proj_dim"], dim), "linear_2": nn.Linear(dim, dim)})
        self.conv_in = nn.Conv2d(c["in_channels"], channels[0], 3, padding=1)
        self.conv_condition = nn.Conv2d(c["lr_channels"] + c["hr_channels"], channels[0], 3, padding=1, bias=False)
        down, skips, x = [], [channels[0]], channels[0]
        for i, width in enumerate(channels):
            resnets = []
            for _ in range(layers):
                resnets.append(Resnet(x, width, dim, *norm))
                x = width
                skips.append(x)
            tail = Downsampler(width) if i < last else None
            skips += [width] * (i < last)
            down.append(Level(resnets, attentions(width, layers, c["attention_levels"][i]), downsampler=tail))
        self.down_blocks = nn.ModuleList(down)
        self.mid_block = Level([Resnet(x, x, dim, *norm) for _ in range(2)], attentions(x, 1, True))
        up = []
        for i, width in reversed(list(enumerate(channels))):
            resnets = []
            for _ in range(layers + 1):
                resnets.append(Resnet(x + skips.pop(), width, dim, *norm))
                x = width
            up.append(Level(resnets, attentions(width, layers + 1, c["attention_levels"][i]), upsampler=Upsampler(width) if i else None))
        self.up_blocks = nn.ModuleList(up)
        self.conv_norm_out = nn.GroupNorm(norm[0], x, norm[1])
        self.conv_out = nn.Conv2d(x, c["out_channels"], 3, padding=1)
        if c["adapter"]:
            self.coordinate_encoder = CoordinateEncoder(c["coordinate_bands"], c["coordinate_channels"])
            self.adapter = Adapter(c)

    def condition(self, e_lr, e_hr):
        """E_lr [n, lr_channels, h_lr, w_lr] and E_hr [n, hr_channels, h, w] -> [n, c0, h, w], once per stage."""
        return self.conv_condition(torch.cat([resize(e_lr, *e_hr.shape[2:]).to(e_hr), e_hr], 1))

    def forward(self, x, condition, t, s, coordinates=None):
        """x [n, 3, h, w]: x_t, normalised by the sampler. t [n] = 1000 sqrt(eta_t), s [n] = 1000 / scale of the stage.
        coordinates: what `coordinate_encoder` gives, or None: adapter off (gamma and beta zero)."""
        c = self.config
        t_row, s_row = sinusoid(t, c["time_proj_dim"]), sinusoid(s, c["time_proj_dim"])
        row = F.silu(self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](t_row))))
        skip = x if c["input_skip"] else 0
        x = self.conv_in(x) + condition
        gb = iter(self.adapter(x, coordinates, t_row, s_row)) if coordinates is not None else None
        skips = [x]
        for level in self.down_blocks:
            for j, resnet in enumerate(level.resnets):
                x = level.attend(j, resnet(x, row, next(gb) if gb else None))
                skips.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)
                skips.append(x)
        mid = self.mid_block
        x = mid.resnets[1](mid.attend(0, mid.resnets[0](x, row)), row)
        for level in self.up_blocks:
            for j, resnet in enumerate(level.resnets):
                x = level.attend(j, resnet(torch.cat([x, skips.pop()], 1), row))
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0](x, *skips[-1].shape[2:])
        return self.conv_out(F.silu(self.conv_norm_out(x))) + skip

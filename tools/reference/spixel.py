"""SpixelFCN, the superpixel network, written from its description: a U-Net of plain convolutions whose nine outputs
say to which of the nine cells around it a pixel belongs. Tensor names are those of the published checkpoint."""

import torch
from torch import nn


def conv(inputs, outputs, stride=1):
    layers = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
    return nn.Sequential(*layers)


def deconv(inputs, outputs):
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.1))


class SpixelNet1l_bn(nn.Module):
    """`block_out_channels` gives the widths by level, finest first; each level halves the sides."""

    def __init__(self, block_out_channels, in_channels=3, out_channels=9):
        super().__init__()
        self.levels = len(block_out_channels)
        below = in_channels
        for level, c in enumerate(block_out_channels):
            self.add_module(f"conv{level}a", conv(below, c, stride=1 if level == 0 else 2))
            self.add_module(f"conv{level}b", conv(c, c))
            below = c
        for level in reversed(range(self.levels - 1)):
            c = block_out_channels[level]
            self.add_module(f"deconv{level}", deconv(below, c))
            self.add_module(f"conv{level}_1", conv(2 * c, c))
            below = c
        self.pred_mask0 = nn.Conv2d(below, out_channels, 3, 1, 1)

    @classmethod
    def from_config(cls, config):
        return cls(config["block_out_channels"], config.get("in_channels", 3), config.get("out_channels", 9))

    def forward(self, x):
        """The nine logits; the published module gives their softmax."""
        seen = []
        for level in range(self.levels):
            x = getattr(self, f"conv{level}b")(getattr(self, f"conv{level}a")(x))
            seen.append(x)
        for level in reversed(range(self.levels - 1)):
            up = getattr(self, f"deconv{level}")(x)
            x = getattr(self, f"conv{level}_1")(torch.cat([seen[level], up], 1))
        return self.pred_mask0(x)

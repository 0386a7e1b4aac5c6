"""The one-step super-resolver: an AutoencoderKL and a UNet2DConditionModel, both unmodified diffusers classes.

    u   = bicubic(LR)                                  float, [0, 1], target size
    x   = 2 u - 1
    z   = mean(encode(x)) * scaling_factor
    v   = unet([z, noise_strength, jpeg_strength, 1/scale], t = 999)
    x0  = sqrt(abar_999) z - sqrt(1 - abar_999) v
    out = clamp((x + decode(x0 / scaling_factor)) / 2 + 0.5, 0, 1)

`resize` is the bicubic filter both of the input (enlarging: Keys, a = -0.5, no widening) and of the
low-resolution pictures (shrinking: the same kernel widened by the factor, as Pillow does).
"""

import functools
import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

TIMESTEP = 999
BETA_START, BETA_END, TRAIN_STEPS = 0.00085, 0.012, 1000
PLANES = ("noise_strength", "jpeg_strength", "inverse_scale")

VAE_CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    block_out_channels=[16, 16, 32],
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=2,
    mid_block_add_attention=False,
    scaling_factor=1.0,
    act_fn="silu",
    sample_size=256,
)
UNET_CONFIG = dict(
    in_channels=16 + len(PLANES),
    out_channels=16,
    down_block_types=["DownBlock2D"],
    up_block_types=["UpBlock2D"],
    mid_block_type=None,
    block_out_channels=[64],
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=8,
    attention_head_dim=8,
    act_fn="silu",
    sample_size=64,
)


def alpha_bar(t=TIMESTEP):
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return float(torch.cumprod(1 - betas, 0)[t])


# ---------------------------------------------------------------- bicubic


def _keys(x, a=-0.5):
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@functools.lru_cache(maxsize=512)
def bicubic_matrix(n_in, n_out):
    """[n_out, n_in] weights. Enlarging clamps taps to the edge; shrinking widens the kernel and renormalises."""
    ratio = n_in / n_out
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * ratio - 0.5
    if ratio <= 1:
        first = centre.floor()[:, None] - 1
        taps = first + torch.arange(4, dtype=torch.float64)[None]
        w = _keys(taps - centre[:, None])
        m = torch.zeros(n_out, n_in, dtype=torch.float64)
        m.scatter_add_(1, taps.clamp(0, n_in - 1).long(), w)
    else:
        m = _keys((torch.arange(n_in, dtype=torch.float64)[None] - centre[:, None]) / ratio)
    return (m / m.sum(1, keepdim=True)).float()


def resize(x, height, width):
    """Bicubic resize of [n, c, h, w]."""
    rows, columns = bicubic_matrix(x.shape[2], height), bicubic_matrix(x.shape[3], width)
    return rows.to(x.device) @ (x.float() @ columns.T.to(x.device))


# ---------------------------------------------------------------- network


class OneStep(nn.Module):
    def __init__(self, vae, unet):
        super().__init__()
        self.vae, self.unet = vae, unet
        a = alpha_bar()
        self.sqrt_a, self.sqrt_b = math.sqrt(a), math.sqrt(1 - a)

    @classmethod
    def new(cls, vae_config=VAE_CONFIG, unet_config=UNET_CONFIG):
        model = cls(AutoencoderKL(**vae_config), UNet2DConditionModel(**unet_config))
        model.initialise()
        return model

    def initialise(self):
        """Variance-preserving convolutions and weak (not zero) residual branches: the chain is long, and with
        the default scale the picture is lost in it and the network learns to answer nothing."""
        with torch.no_grad():
            for name, m in self.named_modules():
                if not isinstance(m, nn.Conv2d):
                    continue
                gain = {"conv1": 1.5, "conv2": 0.5}.get(name.rsplit(".", 1)[-1], 1.0)
                m.weight.normal_(0, gain / math.sqrt(m.weight[0].numel()))
                m.bias.zero_()
            self.vae.decoder.conv_out.weight.mul_(0.1)

    @property
    def stride(self):
        return 2 ** (len(self.vae.config.block_out_channels) - 1 + len(self.unet.config.block_out_channels) - 1)

    def stages(self, x, planes, zero_unet=False):
        """x [n, 3, h, w] in [-1, 1], planes [n, 3]; every intermediate result of the definition above."""
        scaling = self.vae.config.scaling_factor
        z = self.vae.encode(x).latent_dist.mean * scaling
        n, _, h, w = z.shape
        cond = planes.to(z)[:, :, None, None].expand(n, planes.shape[1], h, w)
        context = z.new_zeros(n, 1, self.unet.config.cross_attention_dim)
        t = torch.full((n,), TIMESTEP, device=z.device)
        v = self.unet(torch.cat([z, cond], 1), t, encoder_hidden_states=context).sample
        if zero_unet:
            v = v * 0
        x0 = self.sqrt_a * z.float() - self.sqrt_b * v.float()
        d = self.vae.decode(x0 / scaling).sample
        return {"z": z, "unet": v, "x0": x0, "decoder": d, "out": (x + d.float()) / 2 + 0.5}

    def forward(self, x, planes):
        return self.stages(x, planes)["out"]


def conditioning(scale, noise=0.0, jpeg=0.0):
    """Values of the constant planes: noise deviation / (50/255), (100 - JPEG quality) / 100, 1 / scale."""
    return torch.tensor([[noise, jpeg, 1.0 / scale]])


def upscale(model, lr, scale, noise=0.0, jpeg=0.0, zero_unet=False):
    """Whole picture at once: lr [1, 3, h, w] in [0, 1] -> [1, 3, round(h s), round(w s)], and the bicubic picture."""
    height, width = math.floor(lr.shape[2] * scale + 0.5), math.floor(lr.shape[3] * scale + 0.5)
    u = resize(lr, height, width)
    m = 64
    padded = nn.functional.pad(u, (0, -width % m, 0, -height % m), mode="reflect")
    out = model.stages(2 * padded - 1, conditioning(scale, noise, jpeg), zero_unet)["out"]
    return out[:, :, :height, :width].clamp(0, 1), u.clamp(0, 1)


def macs_per_pixel(model, size=256):
    """Multiply-adds of every convolution and linear layer per output pixel: (all, with folded upsamplers)."""
    total = {"plain": 0, "folded": 0, "full": 0}

    def hook(name):
        def count(m, inputs, output):
            if isinstance(m, nn.Conv2d):
                macs = output.numel() * m.weight[0].numel()
            else:
                macs = output.numel() * m.in_features
            total["plain"] += macs
            total["folded"] += macs * 4 / 9 if "upsampler" in name else macs
            if output.dim() == 4 and output.shape[-1] == size:
                total["full"] += macs * 4 / 9 if "upsampler" in name else macs

        return count

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size), conditioning(4.0))
    for handle in handles:
        handle.remove()
    return {k: v / size**2 for k, v in total.items()}


if __name__ == "__main__":
    net = OneStep.new()
    parts = {"vae": net.vae, "unet": net.unet}
    print({k: sum(p.numel() for p in m.parameters()) for k, m in parts.items()}, macs_per_pixel(net), "stride", net.stride)

"""PyTorch (diffusers) on the networks of `tessera bench model`: f32, batch 1, random weights.

python benches/torch_networks.py [THREADS] [RUNS]
"""

import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def report(name, f, runs):
    wall, used = [], []
    f()
    f()
    for _ in range(runs):
        start, start_used = time.perf_counter(), time.process_time()
        f()
        wall.append(time.perf_counter() - start)
        used.append(time.process_time() - start_used)
    wall.sort()
    print(f"{name:<24} {wall[0]:>10.4f} {wall[len(wall) // 2]:>10.4f} {min(used):>10.4f}", flush=True)


@torch.inference_mode()
def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'network':<24} {'best s':>10} {'median s':>10} {'cpu s':>10}")
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512,
    ).eval()
    for memory in (torch.contiguous_format, torch.channels_last):
        vae.to(memory_format=memory)
        z = torch.randn(1, 4, 64, 64).to(memory_format=memory)
        label = "nhwc" if memory == torch.channels_last else "nchw"
        report(f"vae decoder {label}", lambda: vae.decode(z).sample, runs)
    del vae
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024, use_linear_projection=True,
    ).eval()
    context = torch.randn(1, 77, 1024)
    for memory in (torch.contiguous_format, torch.channels_last):
        unet.to(memory_format=memory)
        x = torch.randn(1, 4, 64, 64).to(memory_format=memory)
        label = "nhwc" if memory == torch.channels_last else "nchw"
        report(f"unet {label}", lambda: unet(x, 999, context).sample, runs)


main()

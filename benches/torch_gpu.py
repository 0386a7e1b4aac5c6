"""PyTorch on a GPU beside `tessera bench`: the same kernels by the same names, and SD 2.1's networks, as lines of JSON.

python benches/torch_gpu.py OUT.jsonl [--dtype bf16] [--seconds 0.2] [--only kernels|networks] [--max-autotune]

Kernels are cuBLAS's, cuDNN's (channels last, the fastest of its algorithms) and the fastest of the attention backends, each
over operands that rotate through more than L2 holds. Networks (diffusers) run eagerly and as torch.compile makes them, channels
last, at random weights. Each figure is the median of runs of at least --seconds together by the card's own clock.
"""

import argparse
import json
import re
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Bytes that rotating operands take at least, as in src/run/bench/kernel.rs.
ROTATING = 128 << 20


def timed(run, seconds):
    """Median seconds of one call of `run(i)`."""
    for i in range(3):
        run(i)
    torch.cuda.synchronize()
    times, total, i = [], 0.0, 0
    calls = 1
    while total < seconds or len(times) < 5:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            run(i)
            i += 1
        end.record()
        end.synchronize()
        taken = begin.elapsed_time(end) / 1e3
        if taken < 0.005 and calls < 256:
            # Too short to be told from the wait for it.
            calls *= 2
            continue
        times.append(taken / calls)
        total += taken
    return sorted(times)[len(times) // 2]


def rotated(make):
    """Operands of one call, as many copies as rotate."""
    first = make()
    own = sum(t.numel() * t.element_size() for t in first)
    return [first] + [make() for _ in range(min(max(ROTATING // own, 1), 63))]


def of_conv(name, dtype):
    m = re.fullmatch(r"\w+ conv(up3x3|3x3|1x1) (\d+)(?:\+(\d+))?->(\d+) @(\d+)( x4)?", name)
    if not m:
        return None
    kind, c, oc, side, n = m[1], int(m[2]) + int(m[3] or 0), int(m[4]), int(m[5]), 4 if m[6] else 1
    k = 1 if kind == "1x1" else 3
    up = kind == "up3x3"

    def make():
        x = torch.randn(n, c, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(oc, c, k, k, dtype=dtype).to(memory_format=torch.channels_last)
        return x, w, torch.randn(oc, dtype=dtype)

    def call(x, w, b):
        return F.conv2d(F.interpolate(x, scale_factor=2.0) if up else x, w, b, padding=k // 2)

    out = 2 * side if up else side
    return make, call, 2.0 * n * out * out * c * oc * k * k


def of_gemm(name, dtype):
    m = re.fullmatch(r"\w+ (gemm|geglu) (\d+)x(\d+)->(\d+)( x4)?", name)
    if not m:
        return None
    gated, rows, k = m[1] == "geglu", int(m[2]) * (4 if m[5] else 1), int(m[3])
    n = int(m[4]) * (2 if gated else 1)

    def make():
        return torch.randn(rows, k, dtype=dtype), torch.randn(n, k, dtype=dtype), torch.randn(n, dtype=dtype)

    def call(x, w, b):
        y = F.linear(x, w, b)
        if not gated:
            return y
        value, gate = y.chunk(2, -1)
        return value * F.gelu(gate)

    return make, call, 2.0 * rows * k * n


def of_attention(name, dtype):
    m = re.fullmatch(r"\w+ attention (\d+)x(\d+) (\d+)x(\d+)( x4)?", name)
    if not m:
        return None
    q, k, heads, d = (int(m[i]) for i in range(1, 5))
    n = 4 if m[5] else 1

    def make():
        return tuple(torch.randn(n, heads, rows, d, dtype=dtype) for rows in (q, k, k))

    return make, F.scaled_dot_product_attention, 4.0 * n * q * k * heads * d


def of_norm(name, dtype):
    m = re.fullmatch(r"norm_apply\+silu (\d+) @(\d+)", name)
    if not m:
        return None
    c, side = int(m[1]), int(m[2])

    def make():
        x = torch.randn(1, c, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        return x, torch.randn(c, dtype=dtype), torch.randn(c, dtype=dtype)

    # With its statistics, which ours has as a launch of its own.
    return make, lambda x, w, b: F.silu(F.group_norm(x, min(32, c // 4), w, b)), 0.0


KERNELS = [
    "vae conv3x3 512->512 @64", "vae conv3x3 512->512 @128", "vae conv3x3 512->256 @256", "vae conv3x3 256->256 @256",
    "vae conv3x3 256->128 @512", "vae conv3x3 128->128 @512", "vae convup3x3 512->512 @128", "vae conv1x1 256->128 @512",
    "unet conv3x3 320->320 @64", "unet conv3x3 320+320->320 @64", "unet conv3x3 640->640 @32", "unet conv3x3 1280->1280 @16",
    "unet conv3x3 1280+1280->1280 @16", "unet conv3x3 1280->1280 @8", "unet conv3x3 1280+1280->1280 @8",
    "unet conv3x3 320->320 @64 x4", "unet conv3x3 640->640 @32 x4", "unet conv3x3 1280->1280 @16 x4", "unet conv3x3 1280->1280 @8 x4",
    "unet gemm 4096x320->320", "unet geglu 4096x320->1280", "unet gemm 4096x1280->320", "unet geglu 1024x640->2560",
    "unet geglu 256x1280->5120", "unet gemm 4096x320->320 x4", "unet geglu 4096x320->1280 x4", "unet geglu 1024x640->2560 x4",
    "unet geglu 256x1280->5120 x4", "square gemm 8192x8192->8192",
    "unet attention 4096x4096 5x64 x4", "unet attention 1024x1024 10x64 x4", "unet attention 4096x4096 5x64",
    "unet attention 4096x77 5x64", "unet attention 1024x1024 10x64", "vae attention 4096x4096 1x512",
    "norm_apply+silu 128 @512",
]
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def clock():
    asked = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "-i", "0"]
    said = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return float(said) if said.replace(".", "").isdigit() else None


class Out:
    def __init__(self, path, dtype):
        self.file, self.dtype = open(path, "w"), dtype

    def put(self, what, name, variant, seconds, flops=0.0):
        row = dict(
            what=what, name=name, variant=variant, dtype=self.dtype, seconds=seconds, flops=flops, clock_mhz=clock(),
            device=torch.cuda.get_device_name(), version=f"torch {torch.__version__}")
        print(json.dumps(row), file=self.file, flush=True)
        rate = f"{flops / seconds * 1e-12:8.1f} TFLOP/s" if flops else ""
        print(f"{name:<44} {variant:<20} {seconds * 1e3:>10.4f} ms {rate}", flush=True)


def kernels(out, dtype, seconds):
    for name in KERNELS:
        make, call, flops = next(filter(None, (of(name, dtype) for of in (of_conv, of_gemm, of_attention, of_norm))))
        copies = rotated(make)
        run = lambda i: call(*copies[i % len(copies)])
        if "attention" not in name:
            out.put("kernel", name, "torch", timed(run, seconds), flops)
            continue
        found = {}
        for backend in BACKENDS:
            try:
                with sdpa_kernel(backend):
                    found[backend.name.lower()] = timed(run, seconds)
            except RuntimeError:
                continue
        for variant, taken in sorted(found.items(), key=lambda f: f[1]):
            out.put("kernel", name, variant, taken, flops)


def networks(out, dtype, seconds, modes):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    last = torch.channels_last
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024, use_linear_projection=True).to(dtype=dtype, memory_format=last).eval()
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=512).to(dtype=dtype, memory_format=last).eval()
    random = lambda *shape: torch.randn(*shape, dtype=dtype).to(memory_format=last)
    context = torch.randn(4, 77, 1024, dtype=dtype)
    jobs = [
        ("unet 64x64 b4", lambda x: unet(x, 999, context, return_dict=False)[0], random(4, 4, 64, 64)),
        ("vae-decoder 64x64 b1", lambda z: vae.decode(z, return_dict=False)[0], random(1, 4, 64, 64)),
        ("vae-decoder 64x64 b4", lambda z: vae.decode(z, return_dict=False)[0], random(4, 4, 64, 64)),
        ("vae-encoder 512x512 b1", lambda x: vae.encode(x, return_dict=False)[0].mean, random(1, 3, 512, 512)),
        ("vae-encoder 512x512 b4", lambda x: vae.encode(x, return_dict=False)[0].mean, random(4, 3, 512, 512)),
    ]
    for mode in modes:
        for name, f, x in jobs:
            try:
                made = f if mode == "eager" else torch.compile(f, mode=None if mode == "compile" else mode)
                out.put("network", name, mode, timed(lambda _: made(x), seconds))
            except Exception as e:  # a mode that fails on one network is told and the others go on
                print(f"{name}: {mode} failed: {str(e).splitlines()[0]}", file=sys.stderr, flush=True)
            torch._dynamo.reset()


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--dtype", choices=["bf16", "f16"], default="bf16")
    p.add_argument("--seconds", type=float, default=0.2)
    p.add_argument("--only", choices=["kernels", "networks"])
    p.add_argument("--max-autotune", action="store_true", help="networks as torch.compile makes them after trying all it knows: minutes")
    a = p.parse_args()
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
    torch.set_default_device("cuda")
    torch.backends.cudnn.benchmark = True
    out = Out(a.out, a.dtype)
    if a.only != "networks":
        kernels(out, dtype, a.seconds)
    if a.only != "kernels":
        networks(out, dtype, a.seconds, ["max-autotune"] if a.max_autotune else ["eager", "compile"])


main()

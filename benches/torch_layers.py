"""PyTorch on the rows of `tessera bench kernels`, f32 on the host's cores: channels last, best of several runs.

python benches/torch_layers.py [THREADS]     # on a GPU: torch_gpu.py
"""

import sys
import time

import torch
import torch.nn.functional as F

CONVS = [
    ("vae", 64, 512, 512, 3, 1), ("vae", 128, 512, 512, 3, 1), ("vae", 256, 512, 256, 3, 1),
    ("vae", 256, 256, 256, 3, 1), ("vae", 512, 256, 128, 3, 1), ("vae", 512, 128, 128, 3, 1),
    ("vae", 512, 128, 3, 3, 1), ("vae", 128, 512, 512, 3, 2), ("vae", 512, 256, 128, 1, 1),
    ("unet", 64, 320, 320, 3, 1), ("unet", 64, 640, 320, 3, 1), ("unet", 32, 640, 640, 3, 1),
    ("unet", 16, 1280, 1280, 3, 1), ("unet", 16, 2560, 1280, 3, 1), ("unet", 8, 1280, 1280, 3, 1),
    ("unet", 8, 2560, 1280, 3, 1),
    ("small", 512, 3, 16, 3, 1), ("small", 512, 16, 16, 3, 1), ("small", 512, 16, 3, 3, 1),
    ("small", 256, 16, 32, 3, 1), ("small", 256, 32, 32, 3, 1), ("small", 128, 32, 64, 3, 1),
    ("small", 128, 64, 64, 3, 1), ("small", 128, 128, 64, 3, 1), ("small", 256, 32, 16, 3, 2),
]
GEMMS = [(4096, 320, 320), (4096, 320, 2560), (4096, 1280, 320), (1024, 640, 5120), (256, 1280, 10240), (77, 1024, 320)]
ATTENTIONS = [(4096, 4096, 5, 64), (4096, 77, 5, 64), (1024, 1024, 10, 64), (4096, 4096, 1, 512)]


def best(f):
    f()
    times, used, begin = [], [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < 0.6 and len(times) < 200):
        start, start_used = time.perf_counter(), time.process_time()
        f()
        times.append(time.perf_counter() - start)
        used.append(time.process_time() - start_used)
    times.sort()
    return times[0], times[len(times) // 2], min(used)


def row(name, flops, f):
    low, mid, used = best(f)
    print(f"{name:<42} {low * 1e3:>9.3f} {mid * 1e3:>9.3f} {used * 1e3:>9.3f} {flops / low * 1e-9:>9.1f} {flops / used * 1e-9:>9.1f}", flush=True)


@torch.inference_mode()
def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'layer':<42} {'best ms':>9} {'median':>9} {'cpu ms':>9} {'GFLOP/s':>9} {'per core':>9}")
    for name, side, c, oc, k, up in CONVS:
        x = torch.randn(1, c, side, side).to(memory_format=torch.channels_last)
        w = torch.randn(oc, c, k, k).to(memory_format=torch.channels_last)
        b = torch.randn(oc)
        out = side * up
        if up == 2:
            f = lambda: F.conv2d(F.interpolate(x, scale_factor=2.0), w, b, padding=k // 2)
        else:
            f = lambda: F.conv2d(x, w, b, padding=k // 2)
        kind = f"up{k}x{k}" if up == 2 else f"{k}x{k}"
        row(f"{name} conv{kind} {c}->{oc} @{side}", 2.0 * out * out * c * oc * k * k, f)
    for m, k, n in GEMMS:
        x, w, b = torch.randn(m, k), torch.randn(n, k), torch.randn(n)
        row(f"gemm {m}x{k}->{n}", 2.0 * m * k * n, lambda: F.linear(x, w, b))
    for q, k, heads, d in ATTENTIONS:
        a, b, c = torch.randn(1, heads, q, d), torch.randn(1, heads, k, d), torch.randn(1, heads, k, d)
        row(f"attention {q}x{k} {heads}x{d}", 4.0 * q * k * heads * d, lambda: F.scaled_dot_product_attention(a, b, c))
    for side, c in [(512, 128), (512, 16)]:
        x = torch.randn(1, c, side, side).to(memory_format=torch.channels_last)
        w, b = torch.randn(c), torch.randn(c)
        groups = min(32, c // 4)
        row(f"group_norm+silu {c} @{side}", 8.0 * side * side * c, lambda: F.silu(F.group_norm(x, groups, w, b)))


main()

"""A 3x3 convolution by ncnn's Vulkan backend, beside `tessera bench kernels -g wgpu:0`.

    python3 -m venv venv && venv/bin/pip install ncnn numpy && venv/bin/python benches/ncnn_conv.py

Prints wall and processor time of all threads; the weights are random. fp16 is off, so that arithmetic and
storage are f32 as in the bench's default.
"""

import os
import tempfile
import time

import ncnn
import numpy as np


def conv(channels: int, side: int, winograd: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        param, weights = os.path.join(folder, "c.param"), os.path.join(folder, "c.bin")
        with open(param, "w") as f:
            f.write("7767517\n2 2\nInput in 0 1 in\n")
            f.write(f"Convolution c 1 1 in out 0={channels} 1=3 4=1 5=0 6={channels * channels * 9}\n")
        with open(weights, "wb") as f:
            f.write(np.uint32(0).tobytes())  # the tag of plain f32
            f.write((np.random.default_rng(0).standard_normal(channels * channels * 9) * 0.02).astype(np.float32).tobytes())
        net = ncnn.Net()
        net.opt.use_vulkan_compute = True
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_winograd_convolution = winograd
        if ncnn.get_gpu_count() == 0:
            raise SystemExit("ncnn sees no Vulkan device")
        net.set_vulkan_device(0)
        if net.load_param(param) or net.load_model(weights):
            raise SystemExit("ncnn did not load the layer")
        pixels = np.random.default_rng(1).standard_normal((channels, side, side)).astype(np.float32)
        x = ncnn.Mat(pixels).clone()  # Mat refers to the array's memory
        wall, cpu = [], []
        for _ in range(4):
            a, b = time.perf_counter(), time.process_time()
            ex = net.create_extractor()
            ex.input("in", x)
            ok, out = ex.extract("out")
            assert ok == 0 and (out.w, out.h, out.c) == (side, side, channels)
            wall.append(time.perf_counter() - a)
            cpu.append(time.process_time() - b)
        flops = 2.0 * side * side * channels * channels * 9
        print(
            f"ncnn conv3x3 {channels}->{channels} @{side} winograd={winograd}: best {min(wall) * 1e3:.1f} ms, "
            f"cpu {min(cpu) * 1e3:.1f} ms, {flops / min(wall) / 1e9:.2f} GFLOP/s, {flops / min(cpu) / 1e9:.2f} per core",
            flush=True,
        )


if __name__ == "__main__":
    ncnn.create_gpu_instance()
    print("ncnn", ncnn.__version__)
    for winograd in (False, True):
        conv(128, 128, winograd)
        conv(320, 64, winograd)

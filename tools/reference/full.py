"""The published networks at full size: PyTorch in f32 against `tessera run` on the cpu in f32.

    full [--only WORD]... [--threads N] [--limit 5e-5] [--out target/reference] [--keep] [--tessera PROGRAM]

Makes seeded f16 checkpoints of the published architectures (once: 10 GB under --out), runs every case below in both,
one process at a time, and prints a table, which it also writes to OUT/full.md. Fails when a case has an error above
the limit. --keep takes PyTorch's outputs of an earlier run where they are, while one works on the engine. Needs 8 GB
of memory.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import architectures
import compare
import make_checkpoint
import reference
from make_cases import denoiser, normal, picture

ROOT = Path(__file__).resolve().parents[2]


def control(inputs, seed):
    n, _, h, w = inputs["sample"].shape
    return inputs | {"controlnet_cond": picture(seed, n, 8 * h, 8 * w)}


def ids(seed, n, length, vocabulary):
    """Prompts as a tokenizer gives them: begin, words, end, padding."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randint(1, vocabulary - 2, (n, length), generator=generator)
    out[:, 0] = vocabulary - 2
    for i in range(n):
        out[i, min(length - 1, 5 + 24 * i):] = vocabulary - 1
    return out


# (component, checkpoint, size as the table has it, inputs). Small sizes come first where networks are large.
CASES = [
    ("text-encoder", "clip_l_text", "77 tokens", lambda: {"input_ids": ids(1, 4, 77, 49408)}),
    ("text-encoder", "openclip_h_text", "77 tokens", lambda: {"input_ids": ids(2, 4, 77, 49408)}),
    ("vision-encoder", "clip_l_vision", "224x224", lambda: {"pixel_values": normal(3, 2, 3, 224, 224)}),
    ("vae-encoder", "sd_vae", "512x512", lambda: {"sample": 2 * picture(4, 1, 512, 512) - 1}),
    ("vae-decoder", "sd_vae", "64x64", lambda: {"sample": normal(5, 1, 4, 64, 64)}),
    ("vae-decoder", "sd_vae", "33x31", lambda: {"sample": normal(6, 2, 4, 33, 31)}),
    ("controlnet", "sd15_controlnet", "64x64", lambda: control(denoiser(7, 1, (64, 64), [981], (77, 768), 1), 7)),
    ("controlnet", "sd21_controlnet", "64x64", lambda: control(denoiser(8, 1, (64, 64), [999], (77, 1024), 1), 8)),
    ("controlnet", "sd21_controlnet", "25x31",
     lambda: control(denoiser(9, 3, (25, 31), [981, 1, 500], (77, 1024), 3), 9)),
    ("unet", "sd15_unet", "64x64", lambda: denoiser(10, 1, (64, 64), [981], (77, 768), 1)),
    ("unet", "sd15_unet", "40x24", lambda: denoiser(11, 4, (40, 24), [981, 741, 1, 261], (77, 768), 4)),
    ("unet", "sd21_unet", "64x64", lambda: denoiser(12, 1, (64, 64), [999], (77, 1024), 1)),
    ("unet", "sd21_unet", "65x63", lambda: denoiser(13, 1, (65, 63), [249], (77, 1024), 1)),
    ("unet", "sd21_unet", "72x56", lambda: denoiser(14, 2, (72, 56), [749, 21], (77, 1024), 2)),
    ("superpixel", "spixel_fcn", "512x512", lambda: {"pixel_values": picture(15, 1, 512, 512) - 0.43}),
    ("superpixel", "spixel_fcn", "208x336", lambda: {"pixel_values": picture(16, 3, 208, 336) - 0.43}),
    ("superpixel", "spixel_fcn_pruned", "512x512", lambda: {"pixel_values": picture(17, 1, 512, 512) - 0.43}),
    ("depth", "depth_anything_s", "518x518", lambda: {"pixel_values": normal(18, 1, 3, 518, 518)}),
    ("depth", "depth_anything_s", "518x686", lambda: {"pixel_values": normal(19, 2, 3, 518, 686)}),
    ("depth", "depth_anything_b", "518x518", lambda: {"pixel_values": normal(20, 1, 3, 518, 518)}),
    ("depth", "depth_anything_l", "518x924", lambda: {"pixel_values": normal(21, 1, 3, 518, 924)}),
    ("sam-encoder", "sam_vit_b", "1024x1024", lambda: {"pixel_values": normal(22, 1, 3, 1024, 1024)}),
    ("sam-encoder", "sam_vit_l", "1024x1024", lambda: {"pixel_values": normal(23, 1, 3, 1024, 1024)}),
    ("sam-encoder", "sam_vit_h", "1024x1024", lambda: {"pixel_values": normal(24, 1, 3, 1024, 1024)}),
    # with the residuals that PyTorch's ControlNet gave above
    ("unet", "sd21_unet", "25x31 + residuals", lambda: denoiser(9, 3, (25, 31), [981, 1, 500], (77, 1024), 3)),
]


def program(*command):
    """Runs a command; seconds and what it printed last."""
    began = time.monotonic()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - began
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    return done.returncode == 0, seconds, lines[-1] if lines else ""


def apart(work, *arguments):
    """Runs `work` in a process of its own, so that its memory goes back; seconds and what it returned."""
    began = time.monotonic()
    context = multiprocessing.get_context("fork")  # torch is imported already; this process starts no threads
    queue = context.SimpleQueue()

    def child():
        with torch.no_grad():
            queue.put(work(*arguments))

    process = context.Process(target=child)
    process.start()
    process.join()
    if process.exitcode != 0 or queue.empty():
        sys.exit(f"{work.__name__}{arguments}: exit code {process.exitcode}")
    return queue.get(), time.monotonic() - began


def pytorch(component, folder, given, expected, threads):
    """Writes PyTorch's outputs in f32; the largest magnitude on the way."""
    torch.set_num_threads(threads)
    model = reference.load(component, folder, torch.float32)
    out, (peak, _) = reference.peaked(component, model, load_file(given))
    reference.write(expected, out)
    return peak


# Checkpoints in the naming that came before diffusers' and transformers' present one.
OLD_NAMES = "sd_vae", "depth_anything_b", "sam_vit_l"


def write_checkpoint(arch, folder):
    make_checkpoint.write(arch, 100, folder, torch.float16, old_names=arch in OLD_NAMES)
    return True


def main():
    parser = argparse.ArgumentParser(prog="full", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="cases with this word in their name")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=5e-5)
    parser.add_argument("--out", type=Path, default=ROOT / "target/reference")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--tessera", type=Path, default=ROOT / "target/release/tessera")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process that has started threads cannot be forked safely
    cases, began, failed = args.out / "full", time.monotonic(), []
    cases.mkdir(parents=True, exist_ok=True)
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    say("| component | checkpoint | size | batch | outputs | relative L2 | largest difference "
        "| largest value | PyTorch s | tessera s |")
    say("|---|---|---|---|---|---|---|---|---|---|")
    for component, arch, size, inputs in CASES:
        name = f"{component}-{arch}-{size.replace(' ', '')}"
        if args.only and not any(word in name for word in args.only):
            continue
        folder = args.out / "checkpoints" / arch
        if not (folder / architectures.KINDS[architectures.ARCHITECTURES[arch][0]][2]).exists():
            apart(write_checkpoint, arch, folder)
        given, expected, got = (cases / f"{name}.{kind}.safetensors" for kind in ("in", "pytorch", "tessera"))
        tensors = inputs()
        if "residuals" in size:
            residuals = cases / "controlnet-sd21_controlnet-25x31.pytorch.safetensors"
            if not residuals.exists():
                sys.exit("the case with residuals needs the one that makes them: --only 25x31")
            tensors |= load_file(residuals)
        batch = next(iter(tensors.values())).shape[0]
        save_file(tensors, given)
        run = (component, "-m", folder, "--in", given, "--out")
        told = expected.with_suffix(".txt")
        if args.keep and told.exists():
            theirs, peak = told.read_text().split()
        else:
            told.unlink(missing_ok=True)
            peak, theirs = apart(pytorch, component, folder, given, expected, args.threads)
            theirs, peak = f"{theirs:.1f}", f"{peak:.1f}"
            told.write_text(f"{theirs} {peak}\n")
        start = f"| {component} | {arch} | {size} | {batch}"
        ok, ours, last = program(args.tessera, "run", *run, got, "--device", "cpu", "--dtype", "f32", "--threads", args.threads,
                                 "--overwrite")
        if not ok:
            say(f"{start} | | failed: {last} | | {peak} | {theirs} | |")
            failed.append(name)
            continue
        a, b = compare.read(expected), compare.read(got)
        rows = compare.table(a, b)
        worst, largest = max(r[2] for r in rows), max(r[3] for r in rows)
        say(f"{start} | {len(rows)} | {worst:.2e} | {largest:.2e} | {peak} | {theirs} | {ours:.1f} |")
        if compare.missing(a, b) or not worst <= args.limit:
            failed.append(name)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    say(f"\n{len(lines) - 2 - len(failed)} of {len(lines) - 2} cases within {args.limit:g}, "
        f"in {minutes} min {seconds} s with {args.threads} threads.")
    (args.out / "full.md").write_text("\n".join(lines) + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""What `tools/gpu_check` measured, together: python benches/gpu_table.py FOLDER writes FOLDER/table.md and FOLDER/figures.jsonl,
all figures with the way that ours were multiplied, f32's through tf32 (kernels-tf32.jsonl) too.

Ours by each way to multiply (kernels*.jsonl, networks*.jsonl, large*.jsonl: mma, wgmma, tma; apart: the best of them that the card has, with norms that
read their input for its statistics) beside PyTorch (torch.jsonl), and of both the rate that the better of ours has to the best of theirs.
Without torch.jsonl ours stand alone.
"""

import json
import sys
from pathlib import Path

WAYS = ["mma", "wgmma", "tma", "apart"]


def figures(path):
    """Figures of a file by what and name; of several variants of one name all."""
    rows = {}
    if path.exists():
        for line in path.read_text().splitlines():
            f = json.loads(line)
            rows.setdefault((f["what"], f["name"]), []).append(f)
    return rows


def least(rows):
    return min(rows, key=lambda f: f["seconds"]) if rows else None


def cell(f):
    if f is None:
        return "-"
    rate = f["flops"] / f["seconds"] * 1e-12 if f.get("flops") else None
    return f"{f['seconds'] * 1e3:.3f} ms" + (f", {rate:.0f} TF" if rate and rate >= 1 else "")


def tile(rows):
    """Seconds of one tile of 512 x 512 where four run at once: encoder, denoiser, decoder."""
    parts = [least(rows.get(("network", n))) for n in ("vae-encoder 512x512 b4", "unet 64x64 b4", "vae-decoder 64x64 b4")]
    return None if None in parts else dict(seconds=sum(f["seconds"] for f in parts) / 4, flops=0)


def main():
    folder = Path(sys.argv[1])
    ours = {}
    for way in WAYS:
        end = "" if way == "mma" else f"-{way}"
        ours[way] = {k: v for of in ("kernels", "networks", "large") for k, v in figures(folder / f"{of}{end}.jsonl").items()}
    theirs = figures(folder / "torch.jsonl")
    by_mode = {}
    for key, rows in theirs.items():
        for f in rows:
            by_mode.setdefault(f["variant"], {}).setdefault(key, []).append(f)
    names = [k for k in theirs] + [k for k in ours["mma"] if k not in theirs and k[0] in ("kernel", "network", "job", "phase")]
    lines = [f"| what | {' | '.join(WAYS)} | PyTorch | of it | times as fast |", "|---" * (len(WAYS) + 4) + "|"]

    def line(name, mine, other, label):
        best = least([f for f in mine if f is not None])
        ratio = f"{other['seconds'] / best['seconds']:.2f}" if other and best else "-"
        lines.append(f"| {name} | {' | '.join(cell(f) for f in mine)} | {cell(other)} | {label} | {ratio} |")

    for key in names:
        mine = [least(ours[way].get(key)) for way in WAYS]
        modes = sorted({f["variant"] for f in theirs.get(key, [])}) if key[0] == "network" else [None]
        for mode in modes or [None]:
            of = [f for f in theirs.get(key, []) if mode in (None, f["variant"])]
            other = least(of)
            line(key[1], mine, other, other["variant"] if other else "-")
    for mode, rows in sorted(by_mode.items()):
        if other := tile(rows):
            line("a tile of 512: encoder, denoiser, decoder, of four", [tile(ours[way]) for way in WAYS], other, mode)
    if not theirs:
        line("a tile of 512: encoder, denoiser, decoder, of four", [tile(ours[way]) for way in WAYS], None, "-")
    for way in WAYS:
        starts = [f["launch"] for rows in ours[way].values() for f in rows if f.get("launch")]
        if starts:
            lines.append(f"\nStarting a recorded segment takes the host {min(starts) * 1e6:.0f} to {max(starts) * 1e6:.0f} us ({way}, means over a network's).")
    with open(folder / "figures.jsonl", "w") as file:
        for way, rows in [*ours.items(), ("tf32", figures(folder / "kernels-tf32.jsonl")), ("torch", theirs)]:
            for f in (f for of in rows.values() for f in of):
                print(json.dumps({"way": way} | f), file=file)
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


main()

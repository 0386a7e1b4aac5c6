"""Write a CasArbi training as the folder the engine reads (f16), with its model card.

    python casarbi_export.py --run RUN --liif-run LIIFRUN --out OUT/casarbi [--figures figures.json ...]

--figures takes the JSON files of casarbi_evaluate.py; --set the sampler's fields, as there.
"""

import argparse
import json
from pathlib import Path

import casarbi_liif
from casarbi_evaluate import load
from casarbi_run import picture_crop  # noqa: F401  (makes tools/reference importable)
from casarbi_train import trained_scales
from casarbi import PIPELINE


def events(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def row(cells):
    return "| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells) + " |"


def trained(name, log, loss=""):
    """A line of a card: how long a run was, and with what."""
    starts = [e for e in log if e.get("event") == "start"]
    end = [e for e in log if "step" in e][-1]
    a = starts[-1]["args"]
    return (f"- {name}: {end['step']:,} steps of {a['batch']} crops of {a['crop']} x {a['crop']} target pixels, {end['cpu_seconds'] / 60:.1f} minutes of one"
            f" processor core, seed {a['seed']}, AdamW at {a['lr']} with warm-up and cosine{loss}; averaged weights.")


def card(model, logs, figures, notes):
    count = {k: sum(p.numel() for p in net.parameters()) for k, net in model.networks.items()}
    c = model.config
    lines = [
        "# casarbi: a small cascade of residual-shifting diffusion for any scale", "",
        "License: MIT OR Apache-2.0", "",
        "A scale is reached in stages of factor 2 and a remainder. In each, LIIF gives a base picture and a diffusion model in pixel",
        "space samples what it misses (ResShift's schedule, x0 prediction), guided towards agreement with the stage's input. All",
        "networks were trained from scratch; `tools/reference/casarbi.py` is the whole computation, `model_index.json` its parameters.", "",
        f"- Parameters: {sum(count.values()):,} (f16): " + ", ".join(f"{k} {v:,}" for k, v in count.items()) + ".",
        "- Multiply-adds per output pixel at factor 2: about 111,000 a step, and 121,000 once a stage (LIIF 69,000, encoders and condition 46,000, coordinates 6,000).",
        f"- {c['num_inference_steps']} steps a stage by default; the network hears sqrt(eta), so 4 to 15 steps use the same weights.", "",
        "## What it is not", "",
        "It has seen no photograph and no objects: only pictures drawn by `tools/train/pictures.py`. Its samples differ in edges",
        "and texture, but it does not invent content as the large published models do.", "",
        "## Training", "",
        "- Data: generated pictures (see `tools/train/README.md`), crops often reduced first; input reduced by antialiased bicubic,",
        "  mostly rounded to 8 bits.",
    ]
    lines += [trained(name, log, ", L1") for name, log in logs.items()]
    lines += [f"- {n}" for n in notes]
    for title, figure in figures.items():
        rows = figure["figures"]
        keys = [k for k in rows[0] if k.startswith("steps_")]
        lines += ["", f"## {title}", "", "RGB PSNR in dB, 8-bit input and output, one sample (seed 0), mean over "
                  f"{len({r['picture'] for r in rows})} photographs; worst is the least gain of one photograph.", "",
                  row(["factor", "bicubic", "LIIF"] + [k.replace("_", " ") for k in keys] + ["worst gain"]),
                  row(["---"] * (4 + len(keys)))]
        for scale in dict.fromkeys(r["scale"] for r in rows):
            mine = [r for r in rows if r["scale"] == scale]
            mean = {k: sum(r[k] for r in mine) / len(mine) for k in ["bicubic", "liif"] + keys}
            worst = min(r[k] - r["bicubic"] for r in mine for k in keys)
            lines.append(row([f"x{scale:g}"] + list(mean.values()) + [f"{worst:+.2f}"]))
        if figure.get("deep"):
            lines += ["", "RMS change in grey levels when a part is switched off (adapter, LIIF, guidance); deviation over seeds on edges and on flat",
                      "areas in grey levels; PSNR of the mean of the samples and the samples' average.", "",
                      row(["factor", "picture", "adapter", "LIIF", "guidance", "edges", "flat", "mean dB", "samples dB"]), row(["---"] * 9)]
            for r in figure["deep"]:
                lines.append(row([f"x{r['scale']:g}", r["picture"], r["off_adapter"], r["off_liif"], r["off_guidance"], r["deviation_edges"],
                                  r["deviation_flat"], r["mean_psnr"], r["samples_psnr"]]))
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--liif-run", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--figures", nargs="*", default=[], help="TITLE=figures.json")
    p.add_argument("--set", nargs="*", default=[])
    p.add_argument("--note", action="append", default=[])
    a = p.parse_args()
    overrides = {k: json.loads(v) for k, v in (item.split("=", 1) for item in a.set)}
    model = load(a.run / "last.pt", overrides)
    assert set(model.config) == set(PIPELINE)
    model.save(a.out)
    # The factors of a stage in training, and those of the base picture's network alone.
    started = [e["args"] for e in events(a.run) if e.get("event") == "start"][-1]
    index = json.loads((a.out / "model_index.json").read_text())
    index |= {"trained_scales": trained_scales(started["cascade"], float(started["fixed_factor"])), "liif_trained_scales": casarbi_liif.TRAINED_SCALES}
    (a.out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    figures = {title: json.loads(Path(path).read_text()) for title, path in (f.split("=", 1) for f in a.figures)}
    logs = {"LIIF": events(a.liif_run), "Denoiser, encoders and adapter": events(a.run)}
    (a.out / "README.md").write_text(card(model, logs, figures, a.note))
    print(f"{a.out}: {sum(f.stat().st_size for f in a.out.rglob('*') if f.is_file()):,} bytes")


if __name__ == "__main__":
    main()

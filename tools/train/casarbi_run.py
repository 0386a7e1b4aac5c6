"""What CasArbi's (and CASR's) trainings share: crops of the pool, and a loop that can be resumed.

A budget is processor time of this process (`time.process_time`), summed over resumptions: the machine may be shared.
RUN/last.pt holds weights, their average, the optimiser and counters; RUN/log.jsonl one JSON line per report.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "reference"))


def picture_crop(rng, pool, size, shrink=0.6):
    """[3, size, size] f32 in [0, 1] of a generated picture; with probability `shrink` the picture is made smaller
    first, by up to what the pool's size allows: enlarged pictures are themselves often reduced ones."""
    from model import resize

    wide = size
    if rng.random() < shrink:
        wide = int(rng.uniform(size, 320.99))
    crop = torch.from_numpy(np.ascontiguousarray(pool.crop(rng, wide))).permute(2, 0, 1)[None].float() / 255
    return (resize(crop, size, size).clamp(0, 1) if wide != size else crop)[0]


def reduced(rng, hr, low, eight_bits=0.85):
    """Antialiased bicubic reduction of [n, 3, h, w] to `low` x `low`, mostly rounded to 8 bits."""
    from model import resize

    lr = resize(hr, low, low)
    for i in range(lr.shape[0]):
        if rng.random() < eight_bits:
            lr[i] = (lr[i].clamp(0, 1) * 255).round() / 255
    return lr


class Run:
    """Weights, average, optimiser, counters and the log of one training."""

    def __init__(self, folder, module, average, args, share=lambda name: 1.0):
        """`share(name)`: a parameter's part of the learning rate."""
        self.folder, self.module, self.average, self.args = folder, module, average, args
        folder.mkdir(parents=True, exist_ok=True)
        average.load_state_dict(module.state_dict())
        average.eval().requires_grad_(False)
        self.weights = [p for p in module.parameters() if p.requires_grad]
        names = {id(p): n for n, p in module.named_parameters()}
        self.averages = [dict(average.named_parameters())[names[id(p)]] for p in self.weights]
        groups = {}
        for p in self.weights:
            groups.setdefault(share(names[id(p)]), []).append(p)
        self.shares = list(groups)
        self.optimiser = torch.optim.AdamW([{"params": ps} for ps in groups.values()], lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        self.step, self.spent = 0, 0.0
        self.last = folder / "last.pt"
        if self.last.exists():
            state = torch.load(self.last, weights_only=True)
            module.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.spent = state["step"], state["spent"]
        self.log = open(folder / "log.jsonl", "a", buffering=1)
        self.note(event="start", step=self.step, cpu_seconds=round(self.spent), args={k: str(v) for k, v in vars(args).items()},
                  parameters=sum(p.numel() for p in module.parameters()), trained=sum(p.numel() for p in self.weights))

    def note(self, **line):
        print(json.dumps(line), flush=True)
        self.log.write(json.dumps(line) + "\n")

    def save(self, extra):
        part = self.last.with_suffix(".part")
        torch.save({"model": self.module.state_dict(), "average": self.average.state_dict(), "step": self.step,
                    "spent": self.spent, "optimiser": self.optimiser.state_dict(), **extra}, part)
        os.replace(part, self.last)

    def train(self, loss_of, measure, extra, report=60, every=4):
        """`loss_of(rng)` gives the loss of one step, `measure()` figures for the log (every few reports)."""
        a, sums, reported, first, lines = self.args, [0.0, 0.0, 0], self.spent, self.step, 0
        while True:
            began = time.process_time()
            progress = self.spent / (60 * a.cpu_minutes)
            if progress >= 1 or self.step >= a.steps:
                break
            rate = a.lr * min(1, (self.step - first + 1) / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
            for g, part in zip(self.optimiser.param_groups, self.shares):
                g["lr"] = rate * part
            loss = loss_of(np.random.default_rng([a.seed, self.step]))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.weights, 0.5)
            if math.isfinite(float(norm)):
                self.optimiser.step()
                with torch.no_grad():
                    torch._foreach_lerp_(self.averages, self.weights, 1 - min(a.ema, (1 + self.step) / (10 + self.step)))
            self.step += 1
            sums = [sums[0] + loss.item(), sums[1] + float(norm), sums[2] + 1]
            self.spent += time.process_time() - began
            if self.spent - reported >= report:
                reported, lines = self.spent, lines + 1
                figures = measure() if lines % every == 0 else {}
                self.note(step=self.step, cpu_seconds=round(self.spent), loss=round(sums[0] / sums[2], 6),
                          norm=round(sums[1] / sums[2], 4), rate=round(rate, 6), **figures)
                sums = [0.0, 0.0, 0]
                self.save(extra)
        self.save(extra)
        self.note(event="end", step=self.step, cpu_seconds=round(self.spent), **measure())


def arguments(parser, minutes, lr, batch, crop):
    """The options that every training has."""
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cpu-minutes", type=float, default=minutes, help="processor time in all, over every resumption")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--crop", type=int, default=crop, help="target pixels a side")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--warmup", type=int, default=100, help="steps from a rate of zero, also after each resumption")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--threads", type=int, default=1)

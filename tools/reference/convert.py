"""Convert a PyTorch pickle (.bin, .ckpt, .pt, .pth) to safetensors.

    convert.py IN.bin OUT.safetensors

Only tensors are read: PyTorch's restricted unpickler refuses everything else, so no code in the file runs.
"""

import sys

import torch
from safetensors.torch import save_file


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    tensors = {k: v.detach().clone().contiguous() for k, v in state.items() if torch.is_tensor(v)}
    dropped = sorted(set(state) - set(tensors))
    if dropped:
        print(f"not tensors, left out: {', '.join(map(str, dropped))}", file=sys.stderr)
    save_file(tensors, sys.argv[2])
    print(f"{sys.argv[2]}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()

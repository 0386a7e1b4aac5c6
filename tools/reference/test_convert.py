"""Tests of tools/convert: `python tools/reference/test_convert.py` in the environment that setup makes."""

import contextlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

import torch
from safetensors.torch import load_file

CONVERT = Path(__file__).resolve().parents[1] / "convert"
MARK = "ran"


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/{MARK}",)


class Evaluated(Shell):
    def __reduce__(self):
        return eval, (f"open('{self.folder}/{MARK}', 'w')",)


class Script(Shell):
    """A harmless class with a state, as trainers leave them."""

    def __reduce__(self):
        return Script, (self.folder,), {"x": 1}


def load_tool():
    loader = SourceFileLoader("convert", str(CONVERT))
    module = types.ModuleType("convert")
    loader.exec_module(module)
    return module


TOOL = load_tool()


def run(source, *options):
    """In this process (importing PyTorch takes seconds): the exit code, what it said, what it wrote."""
    out = source.with_suffix(".safetensors")
    out.unlink(missing_ok=True)
    said, code, arguments = io.StringIO(), 0, sys.argv
    sys.argv = [str(CONVERT), str(source), str(out), *options]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            TOOL.main()
    except SystemExit as e:
        code = e.code
    finally:
        sys.argv = arguments
    assert "weights_only" not in said.getvalue(), said.getvalue()
    return code, said.getvalue(), load_file(out) if out.exists() else None


def refused(source, says, *options):
    code, said, tensors = run(source, *options)
    assert code == 3 and tensors is None and says in said, (source.name, code, said)


def converted(source, wanted, *options, says=""):
    code, said, tensors = run(source, *options)
    assert code == 0 and says in said, (source.name, code, said)
    assert tensors.keys() == wanted.keys(), (source.name, tensors.keys())
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), (source.name, name)


def test(folder):
    w = torch.randn(4, 4)

    def save(name, thing, **how):
        torch.save(thing, folder / name, **how)
        return folder / name

    state = {"a": w, "rows": w[:2], "turned": w.t(), "deep": {"x": torch.ones(2, dtype=torch.float64)}, "half": w.half()}
    wanted = {"a": w, "rows": w[:2], "turned": w.t().contiguous(), "deep.x": torch.ones(2), "half": w.half()}
    both = {"state_dict": state | {"step": 3}, "epoch": 1}
    converted(save("zip.ckpt", both), wanted, says="no tensors, left out: step")
    converted(save("legacy.pth", both, _use_new_zipfile_serialization=False), wanted, says="beside the weights, left out: epoch")
    converted(save("ema.pth", {"params": {"a": w}, "params_ema": {"a": w + 1}}), {"a": w + 1}, says="params")
    converted(save("ema.pth", {"params": {"a": w}, "params_ema": {"a": w + 1}}), {"a": w}, "--key", "params")
    converted(save("parameter.bin", {"a": torch.nn.Parameter(w)}), {"a": w})
    converted(save("half.bin", {"a": w, "n": torch.arange(3)}), {"a": w.half(), "n": torch.arange(3)}, "--half")
    trainer = {"state_dict": {"a": w}, "callbacks": {Script: 1, "o": Script(1)}}
    converted(save("trainer.ckpt", trainer), {"a": w}, says="stand-ins: __main__.Script")

    refused(save("big.bin", {"a": w * 1e6}), "beyond the range", "--half")
    refused(save("list.pt", {"a": w, "l": [w]}), "no tensors: l")
    converted(folder / "list.pt", {"a": w}, "--drop-other", says="left out: l")
    refused(save("tensor.pt", w), "not a dict")
    refused(save("key.pt", {"x": {"a": w}}), "--key")
    refused(save("sparse.pt", {"a": w.to_sparse()}), "sparse")
    refused(save("complex.pt", {"a": w.to(torch.complex64)}), "complex")
    refused(save("shell.ckpt", {"state_dict": {"a": w}, "e": Shell(folder)}), "nothing in it was run")
    refused(save("eval.ckpt", {"state_dict": {"a": w}, "e": Evaluated(folder)}), "nothing in it was run")
    refused(save("eval.pth", {"a": Evaluated(folder)}, _use_new_zipfile_serialization=False), "nothing in it was run")
    for protocol in (2, 4):
        (folder / "shell.pkl").write_bytes(pickle.dumps({"a": Shell(folder)}, protocol))
        refused(folder / "shell.pkl", "convert:")
    refused(save("script.pt", Script(1)), "not a dict")
    for name in ("zip.ckpt", "legacy.pth"):
        whole = (folder / name).read_bytes()
        for size in (0, 1, 4, len(whole) // 2, len(whole) - 20):
            cut = folder / ("cut_" + name)
            cut.write_bytes(whole[:size])
            refused(cut, "convert:")
    (folder / "text.pt").write_text("hello world")
    refused(folder / "text.pt", "not a file that PyTorch wrote")
    refused(folder / "absent.pt", "not a file")
    # an output that is there stays
    (folder / "keep.safetensors").write_text("mine")
    done = subprocess.run([sys.executable, CONVERT, folder / "zip.ckpt", folder / "keep.safetensors"], capture_output=True)
    assert done.returncode == 3 and (folder / "keep.safetensors").read_text() == "mine"
    assert not (folder / MARK).exists(), "code in a file ran"
    assert not list(folder.glob("*.part")), "unfinished files are left"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        test(Path(folder))
    print("tools/convert: ok")

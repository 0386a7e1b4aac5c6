"""Write tests/data/adapters: modules of a UNet and a text encoder, one LoRA of them in each naming, and what merging
it must give.

    make_adapters.py [--out tests/data/adapters]

merged = W + strength * alpha / rank * up @ down, computed in f64 with numpy from the factors as the files hold them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

STRENGTH = 0.75
UNET = {
    "time_embedding.linear_1": (8, 4),
    "down_blocks.0.resnets.0.conv1": (4, 4, 3, 3),
    "down_blocks.0.resnets.1.conv1": (4, 4, 3, 3),
    "down_blocks.0.resnets.1.time_emb_proj": (4, 8),
    "down_blocks.0.attentions.1.proj_in": (4, 4, 1, 1),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": (4, 4),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k": (4, 6),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0": (4, 4),
    "down_blocks.0.downsamplers.0.conv": (4, 4, 3, 3),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (10, 4),
    "mid_block.resnets.1.conv2": (4, 4, 3, 3),
    "up_blocks.0.upsamplers.0.conv": (4, 4, 3, 3),
    "up_blocks.1.resnets.0.conv_shortcut": (4, 8, 1, 1),
}
TEXT = {
    "text_model.encoder.layers.0.self_attn.q_proj": (4, 4),
    "text_model.encoder.layers.0.self_attn.out_proj": (4, 4),
    "text_model.encoder.layers.1.mlp.fc1": (8, 4),
}
# The same modules as the ldm layout numbers them (2 layers a level, 2 levels).
LDM = {
    "time_embedding.linear_1": "time_embed.0",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
    "down_blocks.0.resnets.1.time_emb_proj": "input_blocks.2.0.emb_layers.1",
    "down_blocks.0.attentions.1.proj_in": "input_blocks.2.1.proj_in",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": "input_blocks.2.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k": "input_blocks.2.1.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0": "input_blocks.2.1.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": "middle_block.1.transformer_blocks.0.ff.net.0.proj",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
    "up_blocks.1.resnets.0.conv_shortcut": "output_blocks.3.0.skip_connection",
}


def old_processor(module):
    """The name diffusers once gave the projections of an attention, or None where it is another module."""
    head, _, leaf = module.rpartition(".")
    if ".attn" in module and leaf.startswith("to_"):
        return f"{head}.processor.{leaf}_lora"
    if module.endswith("to_out.0"):
        return f"{head.rpartition('.')[0]}.processor.to_out_lora"
    return None


def text_processor(module):
    head, _, leaf = module.rpartition(".")
    table = {"q_proj": "to_q_lora", "out_proj": "to_out_lora"}
    return f"{head}.{table[leaf]}" if leaf in table else f"{module}.lora_linear_layer"


def factors(rng, modules, rank):
    """module -> (down, up) as numbers that f16 and f32 hold alike."""
    out = {}
    for module, shape in modules.items():
        down = rng.standard_normal((rank, *shape[1:])).astype(np.float16)
        up = rng.standard_normal((shape[0], rank) + ((1, 1) if len(shape) == 4 else ())).astype(np.float16)
        out[module] = (down, up)
    return out


def merged(weights, changes, scale):
    out = dict(weights)
    for module, (down, up) in changes.items():
        w = weights[module].astype(np.float64)
        rank = down.shape[0]
        delta = up.reshape(-1, rank).astype(np.float64) @ down.reshape(rank, -1).astype(np.float64)
        out[module] = w + STRENGTH * scale * delta.reshape(w.shape)
    return out


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/adapters")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    weights = {}
    for part, modules in (("unet", UNET), ("text_encoder", TEXT)):
        weights[part] = {m: rng.standard_normal(s).astype(np.float32) for m, s in modules.items()}
        save_file({f"{m}.weight": w for m, w in weights[part].items()}, out / f"{part}.safetensors")
    both = {"unet": factors(rng, UNET, 3), "text_encoder": factors(rng, TEXT, 2)}

    def write(name, tensors, scales, metadata=None):
        save_file(tensors, out / f"{name}.safetensors", metadata=metadata)
        expected = {}
        for part, changes in both.items():
            for module, w in merged(weights[part], changes, scales[part]).items():
                expected[f"{part}:{module}.weight"] = w.astype(np.float32)
        save_file(expected, out / f"{name}.expect.safetensors")

    # peft: one file of both networks; ranks and alphas in the file's metadata, as diffusers writes them
    tensors = {}
    for part, changes in both.items():
        for module, (down, up) in changes.items():
            tensors[f"{part}.{module}.lora_A.weight"], tensors[f"{part}.{module}.lora_B.weight"] = down, up
    fields = {"unet.r": 3, "unet.lora_alpha": 6, "unet.use_rslora": False, "unet.use_dora": False, "unet.peft_type": "LORA",
              "text_encoder.r": 2, "text_encoder.lora_alpha": 3}
    write("peft", tensors, {"unet": 2.0, "text_encoder": 1.5}, {"lora_adapter_metadata": json.dumps(fields), "format": "pt"})

    # diffusers' older naming, without any alpha
    tensors = {}
    for module, (down, up) in both["unet"].items():
        head = old_processor(module)
        head = f"unet.{head}" if head else f"unet.{module}.lora"
        tensors[f"{head}.down.weight"], tensors[f"{head}.up.weight"] = down.astype(np.float32), up.astype(np.float32)
    for module, (down, up) in both["text_encoder"].items():
        head = f"text_encoder.{text_processor(module)}"
        tensors[f"{head}.down.weight"], tensors[f"{head}.up.weight"] = down, up
    write("diffusers", tensors, {"unet": 1.0, "text_encoder": 1.0})

    # kohya's, with its own names of blocks and with the ldm layout's
    for name, table in (("kohya", {m: m for m in UNET}), ("kohya_ldm", LDM)):
        tensors = {}
        for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
            for module, (down, up) in both[part].items():
                head = prefix + table.get(module, module).replace(".", "_")
                tensors[f"{head}.lora_down.weight"], tensors[f"{head}.lora_up.weight"] = down, up
                tensors[f"{head}.alpha"] = np.array(1.5, dtype=np.float16)
        write(name, tensors, {"unet": 0.5, "text_encoder": 0.75})

    # a peft folder of one network, its config beside the weights, an alpha of its own for one kind of module
    folder = out / "peft_folder"
    folder.mkdir(exist_ok=True)
    tensors = {}
    for module, (down, up) in both["unet"].items():
        head = f"base_model.model.{module}"
        tensors[f"{head}.lora_A.default.weight"], tensors[f"{head}.lora_B.default.weight"] = down, up
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 12, "use_rslora": True, "use_dora": False, "bias": "none",
              "fan_in_fan_out": False, "alpha_pattern": {"to_q": 6}, "target_modules": ["to_q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    expected = merged(weights["unet"], both["unet"], 12 / np.sqrt(3))
    one = {m: f for m, f in both["unet"].items() if m.endswith("to_q")}
    expected |= {m: merged(weights["unet"], one, 6 / np.sqrt(3))[m] for m in one}
    save_file({f"unet:{m}.weight": w.astype(np.float32) for m, w in expected.items()}, out / "peft_folder.expect.safetensors")
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file())} bytes")


if __name__ == "__main__":
    main()

"""Makes tests/data/weights: malformed checkpoints and adapters, and what each must be refused with.

    python tools/corpus/make_weights.py        # needs only Python

Every class has at least two variants. `cases.json` lists them: file, class, how it is used (open a checkpoint, read
or check a tensor, open a model, open an adapter, merge it), the error's kind and a piece of its message. What can't
be a small file (bombs, folders, pipes, files that change while they are read) is made by tests/malformed.rs itself.
"""

import json
import struct
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "weights"
CASES = []


def raw(header, data=b""):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(name, dtype="F32", shape="[2]", begin=0, end=8, extra=""):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]{extra}}}'


def plain(*tensors, values=None):
    """A well-formed file: (name, shape) or (name, shape, dtype), filled with `values` or ones."""
    entries, data = [], b""
    for name, shape, *dtype in tensors:
        dtype = dtype[0] if dtype else "F32"
        count = 1
        for extent in shape:
            count *= extent
        form = {"F32": "<f", "F16": "<e", "I64": "<q", "F64": "<d", "U8": "<B"}[dtype]
        one = values or [1]
        block = b"".join(struct.pack(form, one[i % len(one)]) for i in range(count))
        entries.append(entry(name, dtype, json.dumps(shape), len(data), len(data) + len(block)))
        data += block
    return raw("{" + ",".join(entries) + "}", data)


def case(of, variant, content, says, how="open", kind="weights", **more):
    name = f"{of}_{variant}.safetensors"
    (OUT / name).write_bytes(content)
    CASES.append({"file": name, "class": of, "how": how, "kind": kind, "says": says, **more})


def headers():
    a = entry("a")
    case("zero_bytes", "empty", b"", "too short")
    case("zero_bytes", "three", b"\1\2\3", "too short")
    case("header_length", "beyond_64_bits", b"\xff" * 8, "header has")
    case("header_length", "99_megabytes", struct.pack("<Q", 99_000_000) + b"{" * 32, "header has 99000000 bytes")
    case("truncated", "in_header", struct.pack("<Q", 100) + b"{}", "truncated")
    case("truncated", "in_data", raw("{" + a + "}", bytes(7)), "truncated")
    case("truncated", "no_data", raw("{" + a + "}"), "truncated")
    case("trailing", "one_byte", raw("{" + a + "}", bytes(9)), "bytes after the last")
    case("trailing", "no_tensors", raw("{}", bytes(16)), "bytes after the last")
    case("not_json", "list", raw("[]"), "damaged header")
    case("not_json", "cut", raw('{"a":'), "damaged header")
    case("not_json", "two_values", raw("{} x"), "damaged header")
    case("not_json", "not_utf8", raw(b'{"\xff\xfe":1}'), "damaged header")
    deep = '"a":{"dtype":' + "[" * 400 + "1" + "]" * 400 + ',"shape":[],"data_offsets":[0,4]}'
    case("nested", "in_entry", raw("{" + deep + "}", bytes(4)), "damaged header")
    case("nested", "in_metadata", raw('{"__metadata__":{"x":' + '{"y":' * 400 + "1" + "}" * 401 + "}"), "damaged header")
    case("duplicate_key", "identical", raw("{" + a + "," + a + "}", bytes(8)), "occurs twice")
    other = entry("a", begin=8, end=16)
    case("duplicate_key", "different", raw("{" + a + "," + other + "}", bytes(16)), "occurs twice")
    case("duplicate_key", "in_entry", raw('{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
         "occurs twice")
    case("entry_keys", "unknown", raw("{" + entry("a", extra=',"x":1') + "}", bytes(8)), "unknown key")
    case("entry_keys", "missing", raw('{"a":{"dtype":"F32","shape":[2]}}', bytes(8)), "data_offsets")
    case("entry_keys", "negative_extent", raw("{" + entry("a", shape="[-2]") + "}", bytes(8)), "damaged header")
    case("stored_type", "unknown", raw("{" + entry("a", "Q4") + "}", bytes(8)), "unknown type `Q4`")
    case("stored_type", "lower_case", raw("{" + entry("a", "f32") + "}", bytes(8)), "unknown type `f32`")
    case("wrong_size", "shape", raw("{" + entry("a", shape="[3]") + "}", bytes(8)), "12 bytes")
    case("wrong_size", "type", raw("{" + entry("a", "F16") + "}", bytes(8)), "4 bytes")
    case("out_of_range", "reversed", raw("{" + entry("a", begin=8, end=0) + "}", bytes(8)), "range")
    far = (1 << 64) - 8
    case("out_of_range", "wraps", raw("{" + entry("a", begin=far, end=(1 << 64) - 1, shape="[7]", dtype="U8") + "}", bytes(8)),
         "overflows")
    case("shape_overflow", "product", raw("{" + entry("a", shape="[9223372036854775807,4]") + "}", bytes(8)), "overflows")
    case("shape_overflow", "bits", raw("{" + entry("a", shape="[2305843009213693952]", end=0) + "}"), "overflows")
    case("overlap", "half", raw("{" + a + "," + entry("b", begin=4, end=12) + "}", bytes(12)), "overlaps")
    case("overlap", "same_range", raw("{" + a + "," + entry("b") + "}", bytes(8)), "overlaps")
    case("hole", "between", raw("{" + a + "," + entry("b", shape="[1]", begin=12, end=16) + "}", bytes(16)), "a hole of 4 bytes")
    case("hole", "in_front", raw("{" + entry("a", begin=4, end=12) + "}", bytes(12)), "a hole of 4 bytes")
    case("rank", "nine", raw("{" + entry("a", shape="[1,1,1,1,1,1,1,1,2]") + "}", bytes(8)), "rank above 8")
    case("rank", "thousand", raw("{" + entry("a", shape="[" + "1," * 999 + "2]") + "}", bytes(8)), "rank above 8")
    case("name_length", "513", raw("{" + entry("n" * 513, shape="[]", end=4) + "}", bytes(4)), "a name of 513 bytes")
    case("name_length", "in_entry", raw("{" + entry("n" * 3000, shape="[]", end=4) + "}", bytes(4)), "a name of 3000 bytes")
    case("pickle", "zip", b"PK\x03\x04 an archive of a pickle", "pickle")
    case("pickle", "bare", b"\x80\x02}q\x00. a pickle", "pickle")


def values():
    inf, nan = float("inf"), float("nan")
    case("not_finite", "nan", plain(("w", [2, 3]), values=[0, 0, 0, nan, 0, 0]), "`w` element 3 (at [1, 0]) is NaN", "read", tensor="w")
    case("not_finite", "infinite_half", plain(("w", [4], "F16"), values=[0, -inf, 0, 0]), "`w` element 1 (at [1]) is -inf", "read", tensor="w")
    case("wrong_type", "whole_numbers", plain(("w", [2], "I64")), "has the type I64", "read", tensor="w")
    case("wrong_type", "double", plain(("w", [2], "F64")), "has the type F64", "check", want={"w": [2]})
    case("wrong_shape", "longer", plain(("w", [3])), "`w` is [3] here, the config asks for [2]", "check", want={"w": [2]})
    case("wrong_shape", "transposed", plain(("w", [3, 2])), "is [3, 2] here", "check", want={"w": [2, 3]})
    case("missing", "renamed", plain(("conv_in.weights", [2])), "`conv_in.weight` is missing (nearest: `conv_in.weights`)",
         "check", want={"conv_in.weight": [2]})
    case("missing", "all", plain(("x", [2])), "2 tensor(s) do not fit", "check", want={"conv_in.weight": [2], "conv_in.bias": [2]})


def families():
    unet = ("model.diffusion_model.input_blocks.0.0.weight", [2])
    for of, variant, name, says in [
        ("family_sdxl", "file", "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight", "SDXL"),
        ("family_sdxl", "unet", "add_embedding.linear_1.weight", "SDXL"),
        ("family_flux", "ldm", "double_blocks.0.img_attn.norm.key_norm.scale", "FLUX"),
        ("family_flux", "diffusers", "single_transformer_blocks.0.proj_out.weight", "FLUX"),
        ("family_sd3", "ldm", "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", "Stable Diffusion 3"),
        ("family_sd3", "diffusers", "transformer_blocks.0.attn.add_k_proj.weight", "Stable Diffusion 3"),
    ]:
        case(of, variant, plain(unet, (name, [2])), says, "model")
    case("no_network", "other_names", plain(("frobnicator.weight", [2])), "no network that is known", "model")
    case("no_network", "no_tensors", raw("{}"), "it has no tensors", "model")


def adapters():
    down, up, alpha = "lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight", "lora_unet_conv_in.alpha"
    good = [(down, [2, 4, 3, 3]), (up, [8, 2, 1, 1])]
    case("adapter_rank", "factors", plain((down, [2, 4, 3, 3]), (up, [8, 3, 1, 1])), "ranks of its factors", "adapter")
    case("adapter_rank", "zero", plain((down, [0, 4, 3, 3]), (up, [8, 0, 1, 1])), "ranks of its factors", "adapter")
    case("adapter_rank", "up_not_pointwise", plain((down, [2, 4, 1, 1]), (up, [8, 2, 3, 3])), "ranks of its factors", "adapter")
    case("adapter_alpha", "zero", plain(*good, (alpha, [1]), values=[0]), "alpha is 0", "adapter")
    case("adapter_alpha", "nan", plain(*good, (alpha, []), values=[float("nan")]), "alpha is NaN", "adapter")
    case("adapter_alpha", "two_numbers", plain(*good, (alpha, [2])), "not one number", "adapter")
    case("adapter_incomplete", "no_up", plain(good[0]), "has no up factor", "adapter")
    case("adapter_incomplete", "alpha_alone", plain((alpha, [1])), "has no down factor", "adapter")
    case("adapter_names", "unknown", plain(*good, ("something.else", [2])), "named in no way that is known: `something.else`", "adapter")
    case("adapter_names", "a_network", plain(("conv_in.weight", [8, 4, 3, 3])), "named in no way that is known", "adapter")
    case("adapter_unmatched", "module", plain((down.replace("in", "inn"), [2, 4, 3, 3]), (up.replace("in", "inn"), [8, 2, 1, 1])),
         "has no counterpart (nearest: `conv_in`)", "merge")
    case("adapter_unmatched", "network", plain(*[(n.replace("lora_unet", "lora_te"), s) for n, s in good]), "changes nothing of unet", "merge")
    case("adapter_shape", "inputs", plain((down, [2, 5, 3, 3]), good[1]), "but `conv_in.weight` is [8, 4, 3, 3]", "merge")
    case("adapter_shape", "outputs", plain(good[0], (up, [9, 2, 1, 1])), "but `conv_in.weight` is [8, 4, 3, 3]", "merge")
    case("adapter_kind", "loha", plain(("lora_unet_conv_in.hada_w1_a", [2, 2])), "LoHa", "adapter")
    case("adapter_kind", "lokr", plain(("lora_unet_conv_in.lokr_w1", [2, 2])), "LoKr", "adapter")
    case("adapter_kind", "dora", plain(*good, ("lora_unet_conv_in.dora_scale", [8, 1])), "DoRA", "adapter")
    case("adapter_kind", "middle", plain(*good, ("lora_unet_conv_in.lora_mid.weight", [2, 2, 3, 3])), "middle factor", "adapter")
    case("adapter_kind", "sdxl", plain(("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", [2, 2])), "SDXL", "adapter")
    case("adapter_not_finite", "factor", plain(*good, values=[float("inf")]), "element 0", "merge_read")
    case("adapter_not_finite", "product", plain(*good, values=[3e38]), "with its adapters", "merge_read")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.safetensors"):
        old.unlink()
    headers(), values(), families(), adapters()
    # the model that adapters are merged into
    (OUT / "base.safetensors").write_bytes(plain(("conv_in.weight", [8, 4, 3, 3])))
    classes = {c["class"] for c in CASES}
    single = [c for c in classes if sum(d["class"] == c for d in CASES) < 2]
    assert not single, single
    (OUT / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
    size = sum(f.stat().st_size for f in OUT.iterdir())
    print(f"{len(CASES)} files of {len(classes)} classes, {size} bytes")


if __name__ == "__main__":
    main()

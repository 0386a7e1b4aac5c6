//! Adapters: every naming merged to the numbers that numpy gives, swapped and stacked; and those that are
//! refused.

use crate::program;
use crate::source;
use crate::tolerance;
use crate::weights::{file, folder, tensors, write};
use std::path::PathBuf;
use tessera::Kind;
use tessera::graph::DType;
use tessera::graph::layout::Packing;
use tessera::weights::{Adapter, Checkpoint, Part};

/// Written by `tools/reference/make_adapters.py`.
fn data(name: &str) -> PathBuf {
    source::root().join("tests/data/adapters").join(name)
}

fn base(part: Part) -> Checkpoint {
    Checkpoint::open(&data(&format!("{}.safetensors", part.folder()))).expect("base")
}

fn adapter(name: &str) -> Adapter {
    Adapter::open(&data(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

const STRENGTH: f32 = 0.75;

#[test]
fn every_naming_merges_to_the_reference() {
    for (name, parts) in [
        ("peft", &[Part::Unet, Part::TextEncoder][..]),
        ("diffusers", &[Part::Unet, Part::TextEncoder]),
        ("kohya", &[Part::Unet, Part::TextEncoder]),
        ("kohya_ldm", &[Part::Unet, Part::TextEncoder]),
        ("peft_folder", &[Part::Unet]),
    ] {
        let file = if name == "peft_folder" { name.to_owned() } else { format!("{name}.safetensors") };
        let adapter = adapter(&file);
        // the folder's names do not say which network they are for
        assert_eq!(adapter.parts(), if name == "peft_folder" { &[][..] } else { parts }, "{name}");
        let expected = Checkpoint::open(&data(&format!("{name}.expect.safetensors"))).expect("expected");
        let mut compared = 0;
        for &part in parts {
            let plain = base(part);
            let merged =
                base(part).with_adapters(part, &[(&adapter, STRENGTH)]).unwrap_or_else(|e| panic!("{name}: {e}"));
            for t in plain.tensors() {
                let got = merged.read_f32(&t.name).expect("reads");
                let wanted = expected.read_f32(&format!("{}:{}", part.folder(), t.name)).expect("expected");
                let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (i, (g, w)) in got.iter().zip(&wanted).enumerate() {
                    assert!(
                        (g - w).abs() <= tolerance::ADAPTER_MERGE * largest,
                        "{name} {} [{i}]: {g}, not {w}",
                        t.name
                    );
                }
                assert!(got != plain.read_f32(&t.name).expect("reads"), "{name} left {} as it was", t.name);
                compared += 1;
            }
        }
        assert_eq!(compared, adapter.modules(), "{name}");
    }
}

#[test]
fn packed_weights_see_adapters_and_adapters_stack_in_order() {
    let (one, two) = (adapter("kohya.safetensors"), adapter("peft.safetensors"));
    let name = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight";
    let with = |list: &[(&Adapter, f32)]| base(Part::Unet).with_adapters(Part::Unet, list).expect("merges");
    let read = |c: &Checkpoint| c.read_f32(name).expect("reads");
    // the same factors with the same scale in the end, and nothing at strength 0
    assert_eq!(read(&with(&[(&one, 4.0)])), read(&with(&[(&two, 1.0)])));
    assert_eq!(read(&with(&[(&one, 0.0)])), read(&base(Part::Unet)));
    assert_eq!(
        read(&with(&[(&one, 1.0), (&two, 0.5)])),
        read(&with(&[(&one, 1.0)]).with_adapters(Part::Unet, &[(&two, 0.5)]).expect("more"))
    );
    let packing = Packing::LinearKn { input: 4, outs: vec![4], geglu: false };
    let pack = |c: &Checkpoint| c.packed(&[Some(name.to_owned())], &packing, DType::F32).expect("packs");
    let values: Vec<f32> =
        pack(&with(&[(&one, 1.0)])).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let merged = read(&with(&[(&one, 1.0)]));
    for (o, i) in (0..4).flat_map(|o| (0..4).map(move |i| (o, i))) {
        assert_eq!(values[i * 8 + o], merged[o * 4 + i]);
    }
    for strength in [f32::NAN, f32::INFINITY] {
        let e = base(Part::Unet).with_adapters(Part::Unet, &[(&one, strength)]).expect_err("strength");
        assert_eq!(e.kind(), Kind::Usage);
    }
}

#[test]
fn adapters_for_something_else_list_what_does_not_fit() {
    let e = base(Part::Unet).with_adapters(Part::Vae, &[(&adapter("kohya.safetensors"), 1.0)]).expect_err("vae");
    assert!(e.message().contains("changes nothing of vae; it changes unet, text_encoder"), "{e}");
    // another model: names that are not there, and shapes that differ
    let dir = folder();
    let q = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q";
    let other: Vec<(&str, &[u64])> =
        vec![("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight", &[6, 6])];
    let other = Checkpoint::open(&write(&dir, "m.safetensors", &tensors(&other))).expect("opens");
    let e = other.with_adapters(Part::Unet, &[(&adapter("kohya.safetensors"), 1.0)]).expect_err("other");
    assert_eq!(e.kind(), Kind::Weights);
    for part in [
        "13 of its modules do not fit",
        "has no counterpart",
        "but `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight` is [6, 6]",
    ] {
        assert!(e.message().contains(part), "wanted `{part}` in: {e}");
    }
    let near = format!("unet.{}.lora_A.weight", q.replace("to_q", "to_qq"));
    let up = near.replace("lora_A", "lora_B");
    let path = write(&dir, "a.safetensors", &tensors(&[(&near, &[1, 4]), (&up, &[4, 1])]));
    let e =
        base(Part::Unet).with_adapters(Part::Unet, &[(&Adapter::open(&path).expect("opens"), 1.0)]).expect_err("near");
    assert!(e.message().contains(&format!("nearest: `{q}`")), "{e}");
    // two modules that only dots tell apart
    let list: [(&str, &[u64]); 2] = [("a.b.weight", &[1, 1]), ("a_b.weight", &[1, 1])];
    let both = Checkpoint::open(&write(&dir, "b.safetensors", &tensors(&list))).expect("opens");
    let path = write(
        &dir,
        "c.safetensors",
        &tensors(&[("lora_unet_a_b.lora_down.weight", &[1, 1]), ("lora_unet_a_b.lora_up.weight", &[1, 1])]),
    );
    let e = both.with_adapters(Part::Unet, &[(&Adapter::open(&path).expect("opens"), 1.0)]).expect_err("two");
    assert!(e.message().contains("two modules at once"), "{e}");
}

/// Adapters of families that are not run are named from what their names or widths give away.
#[test]
fn adapters_of_other_families_are_refused_by_name() {
    let dir = folder();
    for (module, inputs, family) in [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, "SDXL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64, "SDXL"),
        ("lora_unet_single_blocks_0_linear1", 64, "FLUX"),
        ("lora_unet_double_blocks_0_img_mod_lin", 64, "FLUX"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv", 64, "SD3"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_k", 64, "SD3"),
    ] {
        let names = ["down", "up"].map(|f| format!("{module}.lora_{f}.weight"));
        let path = write(&dir, "a.safetensors", &tensors(&[(&names[0], &[1, inputs]), (&names[1], &[8, 1])]));
        let e = Adapter::open(&path).expect_err(family);
        assert!(e.kind() == Kind::Weights && e.message().contains(&format!("an adapter of {family}")), "{module}: {e}");
        // inspecting it says the same, not that it is no model
        let run = program::run(&["inspect", &path.to_string_lossy()]);
        assert!(run.code == Some(3) && run.stderr.contains(&format!("an adapter of {family}")), "{}", run.stderr);
    }
    // one of the neighbouring family that is run: whose contexts it reads
    let module = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k";
    let names = ["down", "up"].map(|f| format!("{module}.lora_{f}.weight"));
    let path = write(&dir, "b.safetensors", &tensors(&[(&names[0], &[1, 1024]), (&names[1], &[320, 1])]));
    let other = Adapter::open(&path).expect("opens");
    let e = base(Part::Unet).with_adapters(Part::Unet, &[(&other, 1.0)]).expect_err("other widths");
    assert!(e.message().contains("it reads contexts as Stable Diffusion 2.x has them"), "{e}");
}

/// Trainers store alpha as they like.
#[test]
fn an_alpha_of_any_number_type_scales() {
    let dir = folder();
    let q = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q";
    let names = [format!("unet.{q}.lora.down.weight"), format!("unet.{q}.lora.up.weight"), format!("unet.{q}.alpha")];
    let read = |dtype: &str, alpha: &[u8]| {
        let end = 32 + alpha.len();
        let header = format!(
            r#"{{"{}":{{"dtype":"F32","shape":[1,4],"data_offsets":[0,16]}},"{}":{{"dtype":"F32","shape":[4,1],
            "data_offsets":[16,32]}},"{}":{{"dtype":"{dtype}","shape":[],"data_offsets":[32,{end}]}}}}"#,
            names[0], names[1], names[2]
        );
        let mut data: Vec<u8> = (1u8..=8).flat_map(|v| (f32::from(v) / 8.0).to_le_bytes()).collect();
        data.extend(alpha);
        let a = Adapter::open(&write(&dir, "a.safetensors", &file(&header, &data))).unwrap_or_else(|e| panic!("{e}"));
        let merged = base(Part::Unet).with_adapters(Part::Unet, &[(&a, 1.0)]).expect("merges");
        merged.read_f32(&format!("{q}.weight")).expect("reads")
    };
    let of_f32 = read("F32", &3f32.to_le_bytes());
    assert_ne!(of_f32, read("F32", &4f32.to_le_bytes()));
    assert_eq!(read("F64", &3f64.to_le_bytes()), of_f32);
    assert_eq!(read("I32", &3i32.to_le_bytes()), of_f32);
    assert_eq!(read("I64", &3i64.to_le_bytes()), of_f32);
}

#[test]
fn folders_hold_an_adapter_under_its_usual_name() {
    let dir = folder();
    let pair: [(&str, &[u64]); 2] = [("unet.x.lora_A.weight", &[1, 1]), ("unet.x.lora_B.weight", &[1, 1])];
    assert!(Adapter::open(dir.path()).expect_err("empty").message().contains("holds none of"));
    write(&dir, "pytorch_lora_weights.bin", b"\x80\x02}q\x00.");
    assert!(Adapter::open(dir.path()).expect_err("pickle").advice().is_some_and(|a| a.contains("tools/convert")));
    write(&dir, "pytorch_lora_weights.safetensors", &tensors(&pair));
    assert_eq!(Adapter::open(dir.path()).expect("opens").modules(), 1);
    for (config, says) in [
        (r#"{"peft_type":"LORA","r":1,"lora_alpha":1,"use_dora":true}"#, "DoRA"),
        (r#"{"peft_type":"LOHA","r":1,"lora_alpha":1}"#, "LOHA"),
        (r#"{"peft_type":"LORA","r":1}"#, "no `lora_alpha`"),
        (r#"{"peft_type":"LORA","r":1,"lora_alpha":0}"#, "alpha is 0"),
        (r#"{"peft_type":"LORA","r":1,"lora_alpha":"8"}"#, "`lora_alpha` is"),
        (r#"{"peft_type":"LORA","lora_alpha":1,"lora_alpha":2}"#, "twice"),
        ("{", "JSON"),
    ] {
        write(&dir, "adapter_config.json", config.as_bytes());
        let e = Adapter::open(dir.path()).expect_err(says);
        assert_eq!(e.kind(), Kind::Weights);
        assert!(e.message().contains(says), "{config}: {e}");
    }
}

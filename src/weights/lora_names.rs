//! How adapters name what they change: peft's, diffusers' older and kohya's naming, read into one form.

use super::Part;

/// What one tensor of an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// rank x inputs.
    Down,
    /// outputs x rank.
    Up,
    /// One number: the change is scaled by alpha / rank.
    Alpha,
}

/// The module an adapter changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Module {
    /// By its path.
    Path(String),
    /// By its path with `_` for every dot, so that only a list of all modules tells it.
    Flat(String),
}

/// One tensor's name, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The name without what says the role: the same for the tensors of one module.
    pub(super) base: String,
    /// The network, where the name says it.
    pub(super) part: Option<Part>,
    pub(super) module: Module,
    pub(super) role: Role,
}

/// Endings of names and what they say, longest first where one ends another.
const ROLES: [(&str, Role); 9] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];
/// The same for processor names, which end the module's own name with `_lora`.
const PROCESSOR: [(&str, Role); 2] = [("_lora.down.weight", Role::Down), ("_lora.up.weight", Role::Up)];

/// Name parts of adapters of other kinds, and what to call them.
const OTHERS: [(&str, &str); 19] = [
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("lora_mid", "LoCon with a middle factor"),
    ("lora_embedding_", "an adapter of an embedding"),
    (".oft_", "OFT"),
    (".on_input", "IA3"),
    (".diff_b", "whole differences of weights"),
    (".lora_B.bias", "LoRA with biases"),
    (".lora_up.bias", "LoRA with biases"),
    ("lora_te2_", "an adapter of SDXL"),
    ("text_encoder_2.", "an adapter of SDXL"),
    ("lora_transformer_", "an adapter of SD3 or FLUX"),
    ("double_blocks", "an adapter of FLUX"),
    ("single_blocks", "an adapter of FLUX"),
    ("lora_te3_", "an adapter of SD3"),
    ("text_encoder_3.", "an adapter of SD3"),
    ("joint_blocks", "an adapter of SD3"),
];

/// The kind of adapter that `name` gives away, if it is one that is not merged here.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    if name.starts_with("transformer.") {
        return Some("an adapter of SD3 or FLUX");
    }
    if name.ends_with(".diff") {
        return Some("whole differences of weights");
    }
    OTHERS.iter().find(|(mark, _)| name.contains(mark)).map(|(_, kind)| *kind)
}

/// Reads one name; `None` when it is none of the known forms.
pub(super) fn parse(name: &str) -> Option<Key> {
    let (base, role, processor) = split(name)?;
    if let Some((part, flat)) =
        [("lora_unet_", Part::Unet), ("lora_te_", Part::TextEncoder), ("lora_te1_", Part::TextEncoder)]
            .iter()
            .find_map(|(prefix, part)| Some((*part, base.strip_prefix(prefix)?)))
    {
        return Some(Key { part: Some(part), module: Module::Flat(flat.to_owned()), base, role });
    }
    let wrapped = |s: &str| -> String { s.strip_prefix("base_model.model.").unwrap_or(s).to_owned() };
    let mut path = wrapped(&base);
    let mut part = None;
    for (prefix, p) in [
        ("unet.", Part::Unet),
        ("text_encoder.", Part::TextEncoder),
        ("vae.", Part::Vae),
        ("controlnet.", Part::ControlNet),
        ("image_encoder.", Part::ImageEncoder),
    ] {
        if let Some(rest) = path.strip_prefix(prefix) {
            (part, path) = (Some(p), wrapped(rest));
            break;
        }
    }
    path = path.replace(".processor.", ".");
    if processor {
        path = plain(&path);
    }
    Some(Key { base, part, module: Module::Path(path), role })
}

/// A name's base, its role, and whether the base is a processor's name.
fn split(name: &str) -> Option<(String, Role, bool)> {
    for (end, role) in ROLES {
        if let Some(base) = name.strip_suffix(end) {
            // alphas of processors keep the processor's name
            return Some((base.to_owned(), role, base.ends_with("_lora")));
        }
    }
    for (end, role) in PROCESSOR {
        if let Some(base) = name.strip_suffix(end) {
            return Some((format!("{base}_lora"), role, true));
        }
    }
    // peft puts the adapter's name in between
    for (middle, role) in [(".lora_A.", Role::Down), (".lora_B.", Role::Up)] {
        if let Some((base, adapter)) = name.rsplit_once(middle) {
            let adapter = adapter.strip_suffix(".weight")?;
            return (!adapter.is_empty() && !adapter.contains('.')).then(|| (base.to_owned(), role, false));
        }
    }
    None
}

/// The module behind a processor's name: `to_q_lora` is `to_q`, `to_out_lora` is `to_out.0`; text encoders
/// call the same projections otherwise.
fn plain(path: &str) -> String {
    let path = path.strip_suffix("_lora").unwrap_or(path);
    let Some((head, leaf)) = path.rsplit_once('.') else { return path.to_owned() };
    let text = head.ends_with("self_attn");
    let leaf = match (leaf, text) {
        ("to_out", false) => "to_out.0",
        ("to_out", true) => "out_proj",
        ("to_q", true) => "q_proj",
        ("to_k", true) => "k_proj",
        ("to_v", true) => "v_proj",
        (leaf, _) => leaf,
    };
    format!("{head}.{leaf}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_naming_leads_to_the_module() {
        let path = |s: &str| Module::Path(s.to_owned());
        let q = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q";
        let text = "text_model.encoder.layers.0.self_attn";
        for (name, part, module, role) in [
            (format!("unet.{q}.lora_A.weight"), Some(Part::Unet), path(q), Role::Down),
            (format!("base_model.model.{q}.lora_B.default.weight"), None, path(q), Role::Up),
            (format!("unet.base_model.model.{q}.lora_A.my-style.weight"), Some(Part::Unet), path(q), Role::Down),
            (format!("unet.{q}.lora.down.weight"), Some(Part::Unet), path(q), Role::Down),
            (format!("unet.{q}.alpha"), Some(Part::Unet), path(q), Role::Alpha),
            (
                "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight".into(),
                None,
                path("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"),
                Role::Up,
            ),
            (
                format!("text_encoder.{text}.to_out_lora.up.weight"),
                Some(Part::TextEncoder),
                path(&format!("{text}.out_proj")),
                Role::Up,
            ),
            (
                format!("text_encoder.{text}.k_proj.lora_linear_layer.down.weight"),
                Some(Part::TextEncoder),
                path(&format!("{text}.k_proj")),
                Role::Down,
            ),
            (
                "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight".into(),
                Some(Part::Unet),
                Module::Flat("mid_block_attentions_0_proj_in".into()),
                Role::Down,
            ),
            (
                "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha".into(),
                Some(Part::TextEncoder),
                Module::Flat("text_model_encoder_layers_0_mlp_fc1".into()),
                Role::Alpha,
            ),
        ] {
            let key = parse(&name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((key.part, key.module, key.role), (part, module, role), "{name}");
        }
        for name in ["conv_in.weight", "x.lora_A.a.b.weight", "x.lora_A..weight", "", "lora_down.weight"] {
            assert_eq!(parse(name), None, "{name}");
        }
        // the tensors of one module share a base
        let base = |n: &str| parse(n).map(|k| k.base);
        assert_eq!(base("a.processor.to_q_lora.down.weight"), base("a.processor.to_q_lora.alpha"));
    }
}

//! The ldm layout's names of tensors, in diffusers' naming: pure functions of a name and of the few counts
//! that the numbering of blocks depends on.
//!
//! The ldm layout numbers a UNet's blocks through: with `layers` resnets a level, `input_blocks` 1 ..=
//! `layers` are the first level's, the next one is its downsampling, and so on; `output_blocks` hold
//! `layers + 1` resnets a level, and the upsampling stands with the last of them. Autoencoders number the
//! levels of the decoder from the finest.

use crate::limits;

/// A stored tensor in diffusers' naming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mapped {
    /// The same tensor under this name.
    One(String),
    /// Equal blocks of its rows, in order, are these tensors.
    Rows([String; 3]),
    /// Known, and no part of the network: buffers, and what the network never runs.
    Unused,
    /// Nothing that is known.
    Unknown,
}

impl From<Option<String>> for Mapped {
    fn from(name: Option<String>) -> Mapped {
        name.map_or(Mapped::Unknown, Mapped::One)
    }
}

/// Layers of a resnet: diffusers, ldm UNet.
const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];
/// Modules of a UNet that have one name: diffusers, ldm.
const UNET: [(&str, &str); 5] = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];
/// The middle of a UNet: diffusers, ldm.
const MIDDLE: [(&str, &str); 3] =
    [("resnets.0", "middle_block.0"), ("attentions.0", "middle_block.1"), ("resnets.1", "middle_block.2")];
/// The autoencoder's middle attention: diffusers, ldm.
const VAE_ATTENTION: [(&str, &str); 5] =
    [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")];
/// Layers of OpenCLIP's text blocks: transformers, OpenCLIP.
const OPEN_CLIP: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

/// `rest` without the module it begins with, when it begins with whole name parts `module`.
fn after<'a>(rest: &'a str, module: &str) -> Option<&'a str> {
    rest.strip_prefix(module)?.strip_prefix('.')
}

/// Renames the leading module of `rest` by a table, right to left (or left to right when `back`).
fn renamed(rest: &str, table: &[(&str, &str)], back: bool) -> Option<String> {
    table.iter().find_map(|&(diffusers, ldm)| {
        let (from, to) = if back { (diffusers, ldm) } else { (ldm, diffusers) };
        if rest == from { Some(to.to_owned()) } else { after(rest, from).map(|leaf| format!("{to}.{leaf}")) }
    })
}

/// The number that `rest` begins with, and what follows its dot.
fn number(rest: &str) -> Option<(usize, &str)> {
    let (n, rest) = rest.split_once('.')?;
    Some((n.parse().ok().filter(|&n: &usize| n < limits::MAX_TENSORS)?, rest))
}

/// Resnets per level of an ldm UNet or ControlNet with tensors `names` (prefix removed): the blocks in front
/// of the first downsampling.
pub(super) fn unet_layers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let (mut first_down, mut last) = (None::<usize>, 0);
    for (n, rest) in names.filter_map(|name| number(after(name, "input_blocks")?)) {
        last = last.max(n);
        if rest.starts_with("0.op.") {
            first_down = Some(first_down.map_or(n, |d| d.min(n)));
        }
    }
    // block 0 is conv_in
    first_down.map_or(last, |d| d.saturating_sub(1)).max(1)
}

/// A UNet's tensor `name`, in diffusers' naming.
pub(super) fn unet(name: &str, layers: usize) -> Option<String> {
    if let Some(name) = renamed(name, &UNET, false) {
        return Some(name);
    }
    let middle = |(diffusers, rest): (&str, &str)| {
        let rest = if diffusers.starts_with("resnets") { renamed(rest, &RESNET, false)? } else { rest.to_owned() };
        Some(format!("mid_block.{diffusers}.{rest}"))
    };
    if let Some(found) = MIDDLE.iter().find_map(|&(d, l)| Some((d, after(name, l)?))) {
        return middle(found);
    }
    let (side, (block, rest)) = match after(name, "input_blocks") {
        Some(rest) => ("down_blocks", number(rest)?),
        None => ("up_blocks", number(after(name, "output_blocks")?)?),
    };
    let down = side == "down_blocks";
    let block = if down { block.checked_sub(1)? } else { block };
    let (level, layer) = (block / (layers + 1), block % (layers + 1));
    let (slot, rest) = number(rest)?;
    if let Some(leaf) = after(rest, "op").filter(|_| down && slot == 0) {
        return Some(format!("{side}.{level}.downsamplers.0.conv.{leaf}"));
    }
    if let Some(leaf) = after(rest, "conv").filter(|_| !down && (slot == 1 || slot == 2)) {
        return Some(format!("{side}.{level}.upsamplers.0.conv.{leaf}"));
    }
    match slot {
        0 => Some(format!("{side}.{level}.resnets.{layer}.{}", renamed(rest, &RESNET, false)?)),
        1 => Some(format!("{side}.{level}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

/// The other way round: what the ldm layout may call the module or tensor `name` of a UNet. Two names where
/// only the presence of attention decides.
pub(super) fn unet_stored(name: &str, layers: usize) -> Vec<String> {
    let one = |name: Option<String>| name.into_iter().collect();
    if let Some(name) = renamed(name, &UNET, true) {
        return vec![name];
    }
    if let Some(rest) = after(name, "mid_block") {
        let found = MIDDLE.iter().find_map(|&(d, l)| Some((d, l, after(rest, d)?)));
        return one(found.and_then(|(diffusers, ldm, rest)| {
            let rest = if diffusers.starts_with("resnets") { renamed(rest, &RESNET, true)? } else { rest.to_owned() };
            Some(format!("{ldm}.{rest}"))
        }));
    }
    let (down, rest) = match after(name, "down_blocks") {
        Some(rest) => (true, rest),
        None => match after(name, "up_blocks") {
            Some(rest) => (false, rest),
            None => return Vec::new(),
        },
    };
    let Some((level, rest)) = number(rest) else { return Vec::new() };
    let (side, first) = if down { ("input_blocks", 1) } else { ("output_blocks", 0) };
    let block = |layer: usize| first + level * (layers + 1) + layer;
    if let Some(leaf) = rest.strip_prefix("downsamplers.0.conv").filter(|_| down) {
        return vec![format!("{side}.{}.0.op{leaf}", block(layers))];
    }
    if let Some(leaf) = rest.strip_prefix("upsamplers.0.conv").filter(|_| !down) {
        return [1, 2].iter().map(|slot| format!("{side}.{}.{slot}.conv{leaf}", block(layers))).collect();
    }
    if let Some((layer, rest)) = after(rest, "resnets").and_then(number) {
        return one(renamed(rest, &RESNET, true).map(|rest| format!("{side}.{}.0.{rest}", block(layer))));
    }
    one(after(rest, "attentions").and_then(number).map(|(layer, rest)| format!("{side}.{}.1.{rest}", block(layer))))
}

/// The last convolution of a ControlNet's picture embedding, as the ldm layout numbers it (activations count).
pub(super) fn last_hint<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.filter_map(|name| number(after(name, "input_hint_block")?)).map(|(n, _)| n).max().unwrap_or(0)
}

/// A ControlNet's tensor `name`, in diffusers' naming.
pub(super) fn controlnet(name: &str, layers: usize, last_hint: usize) -> Option<String> {
    if let Some((n, leaf)) = after(name, "input_hint_block").and_then(number) {
        let module = match n {
            0 => "conv_in".to_owned(),
            n if n == last_hint => "conv_out".to_owned(),
            n if n % 2 == 0 => format!("blocks.{}", n / 2 - 1),
            _ => return None,
        };
        return Some(format!("controlnet_cond_embedding.{module}.{leaf}"));
    }
    if let Some((n, leaf)) = after(name, "zero_convs").and_then(number) {
        return Some(format!("controlnet_down_blocks.{n}.{}", after(leaf, "0")?));
    }
    if let Some(leaf) = after(name, "middle_block_out.0") {
        return Some(format!("controlnet_mid_block.{leaf}"));
    }
    unet(name, layers)
}

/// Levels of an ldm autoencoder.
pub(super) fn vae_levels<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.filter_map(|name| number(after(name, "decoder.up")?)).map(|(n, _)| n + 1).max().unwrap_or(0)
}

/// An autoencoder's tensor `name`, in diffusers' naming.
pub(super) fn vae(name: &str, levels: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (side, rest) = name.split_once('.').filter(|(side, _)| ["encoder", "decoder"].contains(side))?;
    if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        return Some(name.to_owned());
    }
    if let Some(leaf) = after(rest, "norm_out") {
        return Some(format!("{side}.conv_norm_out.{leaf}"));
    }
    if let Some(rest) = after(rest, "mid.attn_1") {
        return Some(format!("{side}.mid_block.attentions.0.{}", renamed(rest, &VAE_ATTENTION, false)?));
    }
    let resnet = |rest: &str| match after(rest, "nin_shortcut") {
        Some(leaf) => format!("conv_shortcut.{leaf}"),
        None => rest.to_owned(),
    };
    for (i, block) in ["mid.block_1", "mid.block_2"].iter().enumerate() {
        if let Some(rest) = after(rest, block) {
            return Some(format!("{side}.mid_block.resnets.{i}.{}", resnet(rest)));
        }
    }
    let (level, rest, blocks, sampling) = if side == "encoder" {
        let (level, rest) = number(after(rest, "down")?)?;
        (level, rest, "down_blocks", ("downsample", "downsamplers"))
    } else {
        let (level, rest) = number(after(rest, "up")?)?;
        (levels.checked_sub(level + 1)?, rest, "up_blocks", ("upsample", "upsamplers"))
    };
    if let Some(leaf) = after(rest, sampling.0) {
        return Some(format!("{side}.{blocks}.{level}.{}.0.{leaf}", sampling.1));
    }
    let (layer, rest) = number(after(rest, "block")?)?;
    Some(format!("{side}.{blocks}.{level}.resnets.{layer}.{}", resnet(rest)))
}

/// A tensor of the text encoder of SD 1.x, in transformers' naming. Early files leave `text_model` out.
pub(super) fn clip(name: &str) -> Mapped {
    if name.ends_with("position_ids") {
        return Mapped::Unused;
    }
    Mapped::One(if name.starts_with("text_model.") { name.to_owned() } else { format!("text_model.{name}") })
}

/// Blocks of an OpenCLIP text tower.
pub(super) fn open_clip_layers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.filter_map(|name| number(after(name, "transformer.resblocks")?)).map(|(n, _)| n + 1).max().unwrap_or(0)
}

/// How many of an OpenCLIP tower's blocks SD 2.x runs: it conditions on the last but one. A tower of 23 has
/// lost its last already.
pub(super) fn open_clip_used(layers: usize) -> usize {
    if layers == 23 { 23 } else { layers.saturating_sub(1) }
}

/// A tensor of OpenCLIP's text tower, in transformers' naming; `used` blocks of it are run.
pub(super) fn open_clip(name: &str, used: usize) -> Mapped {
    match name {
        "positional_embedding" => return Mapped::One("text_model.embeddings.position_embedding.weight".into()),
        "token_embedding.weight" => return Mapped::One("text_model.embeddings.token_embedding.weight".into()),
        "text_projection" | "logit_scale" | "attn_mask" => return Mapped::Unused,
        _ => {}
    }
    if let Some(leaf) = after(name, "ln_final") {
        return Mapped::One(format!("text_model.final_layer_norm.{leaf}"));
    }
    let Some((layer, rest)) = after(name, "transformer.resblocks").and_then(number) else { return Mapped::Unknown };
    if layer >= used {
        return Mapped::Unused;
    }
    let head = format!("text_model.encoder.layers.{layer}");
    if let Some(leaf) = rest.strip_prefix("attn.in_proj_") {
        return Mapped::Rows(["q", "k", "v"].map(|p| format!("{head}.self_attn.{p}_proj.{leaf}")));
    }
    renamed(rest, &OPEN_CLIP, false).map(|rest| format!("{head}.{rest}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_numbers_follow_the_layers_and_come_back() {
        for (ldm, diffusers) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.1.1.proj_in.weight", "down_blocks.0.attentions.0.proj_in.weight"),
            ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("input_blocks.4.0.skip_connection.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("input_blocks.11.0.emb_layers.1.bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
            ("middle_block.0.in_layers.2.weight", "mid_block.resnets.0.conv1.weight"),
            ("middle_block.1.norm.bias", "mid_block.attentions.0.norm.bias"),
            ("middle_block.2.out_layers.3.bias", "mid_block.resnets.1.conv2.bias"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
            ("output_blocks.11.1.norm.weight", "up_blocks.3.attentions.2.norm.weight"),
            ("out.2.weight", "conv_out.weight"),
            ("time_embed.2.bias", "time_embedding.linear_2.bias"),
        ] {
            assert_eq!(unet(ldm, 2).as_deref(), Some(diffusers));
            assert!(unet_stored(diffusers, 2).iter().any(|s| s == ldm), "{diffusers}: {:?}", unet_stored(diffusers, 2));
        }
        assert_eq!(
            unet("input_blocks.3.0.in_layers.2.weight", 3).as_deref(),
            Some("down_blocks.0.resnets.2.conv1.weight")
        );
        for name in [
            "input_blocks.99999999999999999999.0.op.weight",
            "input_blocks.x.0.op.weight",
            "input_blocks.0.1.x",
            "out.1.x",
            "",
            ".",
        ] {
            assert_eq!(unet(name, 2), None, "{name}");
        }
    }

    #[test]
    fn counts_are_read_from_the_names() {
        let names = [
            "input_blocks.0.0.weight",
            "input_blocks.1.0.in_layers.0.weight",
            "input_blocks.4.0.op.weight",
            "input_blocks.8.0.op.weight",
        ];
        assert_eq!(unet_layers(names.into_iter()), 3);
        assert_eq!(unet_layers(names[..2].iter().copied()), 1);
        assert_eq!(vae_levels(["decoder.up.0.x", "decoder.up.3.x"].into_iter()), 4);
        assert_eq!(
            vae("decoder.up.0.block.2.nin_shortcut.weight", 4).as_deref(),
            Some("decoder.up_blocks.3.resnets.2.conv_shortcut.weight")
        );
        assert_eq!(vae("decoder.up.4.block.2.conv1.weight", 4), None);
        assert_eq!(
            controlnet("input_hint_block.14.weight", 2, 14).as_deref(),
            Some("controlnet_cond_embedding.conv_out.weight")
        );
        assert_eq!(
            controlnet("input_hint_block.4.weight", 2, 14).as_deref(),
            Some("controlnet_cond_embedding.blocks.1.weight")
        );
    }

    #[test]
    fn fused_projections_are_split_and_the_last_block_is_left_out() {
        let rows = open_clip("transformer.resblocks.3.attn.in_proj_weight", 23);
        assert!(
            matches!(&rows, Mapped::Rows([q, _, v]) if q == "text_model.encoder.layers.3.self_attn.q_proj.weight" && v.ends_with("v_proj.weight")),
            "{rows:?}"
        );
        assert_eq!(open_clip("transformer.resblocks.23.ln_1.bias", 23), Mapped::Unused);
        assert_eq!((open_clip_used(24), open_clip_used(23), open_clip_used(0)), (23, 23, 0));
        assert_eq!(
            clip("embeddings.token_embedding.weight"),
            Mapped::One("text_model.embeddings.token_embedding.weight".into())
        );
    }
}

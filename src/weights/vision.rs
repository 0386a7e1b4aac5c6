//! Tensor names of the networks that look at pictures for a system (superpixels, depth, SAM's encoder): what is no
//! part of what is run, and the names that Depth Anything's and SAM's own repositories gave before transformers did.

use super::ldm::Mapped;

/// Tensors of a superpixel network as it was published: all but the predictions at coarse levels, which only its
/// training looked at.
pub(super) fn superpixel(name: &str) -> Mapped {
    let coarse = name.strip_prefix("pred_mask").and_then(|rest| rest.split('.').next());
    match coarse {
        Some(level) if level != "0" => Mapped::Unused,
        _ if name.ends_with(".num_batches_tracked") => Mapped::Unused,
        _ => Mapped::One(name.to_owned()),
    }
}

/// Tensors of Depth Anything under transformers' names: all but the token that stands for masked patches in training
/// and the half of the coarsest fusion that has nothing to fuse.
pub(super) fn depth(name: &str) -> Mapped {
    let unused = ["backbone.embeddings.mask_token", "neck.fusion_stage.layers.0.residual_layer1."];
    match unused.iter().any(|u| name.starts_with(u)) {
        true => Mapped::Unused,
        false => Mapped::One(name.to_owned()),
    }
}

/// Tensors of SAM under transformers' names: those of the picture's encoder.
pub(super) fn sam(name: &str) -> Mapped {
    let others = ["prompt_encoder.", "mask_decoder.", "shared_image_embedding."];
    match others.iter().any(|o| name.starts_with(o)) {
        true => Mapped::Unused,
        false => Mapped::One(name.to_owned()),
    }
}

/// Transformers' names of a tensor of Depth Anything's own checkpoints.
pub(super) fn original_depth(name: &str) -> Mapped {
    if let Some(rest) = name.strip_prefix("pretrained.") {
        return backbone(rest);
    }
    let known = name.strip_prefix("depth_head.").and_then(|rest| {
        if let Some(rest) = rest.strip_prefix("projects.") {
            let (i, leaf) = rest.split_once('.')?;
            return Some(format!("neck.reassemble_stage.layers.{i}.projection.{leaf}"));
        }
        if let Some(rest) = rest.strip_prefix("resize_layers.") {
            let (i, leaf) = rest.split_once('.')?;
            return Some(format!("neck.reassemble_stage.layers.{i}.resize.{leaf}"));
        }
        let rest = rest.strip_prefix("scratch.")?;
        if let Some(rest) = rest.strip_prefix("refinenet") {
            // counted from the finest, from 1; transformers counts from the coarsest
            let (i, leaf) = rest.split_once('.')?;
            let layer = 4u32.checked_sub(i.parse().ok()?)?;
            let leaf = match leaf.strip_prefix("out_conv.") {
                Some(leaf) => format!("projection.{leaf}"),
                None => leaf.replace("resConfUnit", "residual_layer").replace(".conv", ".convolution"),
            };
            return Some(format!("neck.fusion_stage.layers.{layer}.{leaf}"));
        }
        if let Some(leaf) = rest.strip_prefix("output_conv1.") {
            return Some(format!("head.conv1.{leaf}"));
        }
        if let Some(rest) = rest.strip_prefix("output_conv2.") {
            let (i, leaf) = rest.split_once('.')?;
            let conv = 2 + i.parse::<u32>().ok().filter(|i| *i < 4)? / 2;
            return Some(format!("head.conv{conv}.{leaf}"));
        }
        let (i, leaf) = rest.strip_prefix("layer")?.split_once("_rn.")?;
        let i = i.parse::<u32>().ok()?.checked_sub(1)?;
        Some(format!("neck.convs.{i}.{leaf}"))
    });
    known.map_or(Mapped::Unknown, |name| depth(&name))
}

/// Transformers' names of a tensor of DINOv2's own.
fn backbone(name: &str) -> Mapped {
    let embedding = match name {
        "cls_token" => Some("cls_token"),
        "pos_embed" => Some("position_embeddings"),
        "mask_token" => return Mapped::Unused,
        "patch_embed.proj.weight" => Some("patch_embeddings.projection.weight"),
        "patch_embed.proj.bias" => Some("patch_embeddings.projection.bias"),
        _ => None,
    };
    if let Some(leaf) = embedding {
        return Mapped::One(format!("backbone.embeddings.{leaf}"));
    }
    if let Some(leaf) = name.strip_prefix("norm.") {
        return Mapped::One(format!("backbone.layernorm.{leaf}"));
    }
    let Some((i, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
        return Mapped::Unknown;
    };
    let layer = format!("backbone.encoder.layer.{i}");
    if let Some(leaf) = rest.strip_prefix("attn.qkv.") {
        return Mapped::Rows(["query", "key", "value"].map(|p| format!("{layer}.attention.attention.{p}.{leaf}")));
    }
    let same = ["norm1.", "norm2.", "mlp.fc1.", "mlp.fc2."].iter().any(|s| rest.starts_with(s));
    match rest {
        "ls1.gamma" => Mapped::One(format!("{layer}.layer_scale1.lambda1")),
        "ls2.gamma" => Mapped::One(format!("{layer}.layer_scale2.lambda1")),
        _ if same => Mapped::One(format!("{layer}.{rest}")),
        _ => match rest.strip_prefix("attn.proj.") {
            Some(leaf) => Mapped::One(format!("{layer}.attention.output.dense.{leaf}")),
            None => Mapped::Unknown,
        },
    }
}

/// Transformers' names of a tensor of SAM's own checkpoints.
pub(super) fn original_sam(name: &str) -> Mapped {
    let Some(rest) = name.strip_prefix("image_encoder.") else { return sam(name) };
    const NECK: [(&str, &str); 4] =
        [("neck.0.", "conv1."), ("neck.1.", "layer_norm1."), ("neck.2.", "conv2."), ("neck.3.", "layer_norm2.")];
    if let Some((leaf, new)) = NECK.iter().find_map(|(old, new)| Some((rest.strip_prefix(old)?, new))) {
        return Mapped::One(format!("vision_encoder.neck.{new}{leaf}"));
    }
    if let Some(leaf) = rest.strip_prefix("patch_embed.proj.") {
        return Mapped::One(format!("vision_encoder.patch_embed.projection.{leaf}"));
    }
    if rest == "pos_embed" {
        return Mapped::One("vision_encoder.pos_embed".into());
    }
    let Some((i, leaf)) = rest.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
        return Mapped::Unknown;
    };
    let leaf = match leaf.split_once('.') {
        Some(("norm1", leaf)) => format!("layer_norm1.{leaf}"),
        Some(("norm2", leaf)) => format!("layer_norm2.{leaf}"),
        _ => leaf.to_owned(),
    };
    Mapped::One(format!("vision_encoder.layers.{i}.{leaf}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(mapped: Mapped) -> String {
        match mapped {
            Mapped::One(name) => name,
            Mapped::Rows(names) => names.join(" "),
            Mapped::Unused => "unused".into(),
            Mapped::Unknown => "unknown".into(),
        }
    }

    #[test]
    fn names_of_the_first_repositories_are_transformers_names() {
        for (old, new) in [
            ("pretrained.cls_token", "backbone.embeddings.cls_token"),
            ("pretrained.blocks.11.ls2.gamma", "backbone.encoder.layer.11.layer_scale2.lambda1"),
            ("pretrained.blocks.3.attn.proj.bias", "backbone.encoder.layer.3.attention.output.dense.bias"),
            ("pretrained.mask_token", "unused"),
            ("depth_head.scratch.refinenet4.resConfUnit1.conv2.bias", "unused"),
            (
                "depth_head.scratch.refinenet1.resConfUnit2.conv1.weight",
                "neck.fusion_stage.layers.3.residual_layer2.convolution1.weight",
            ),
            ("depth_head.scratch.refinenet3.out_conv.bias", "neck.fusion_stage.layers.1.projection.bias"),
            ("depth_head.scratch.layer2_rn.weight", "neck.convs.1.weight"),
            ("depth_head.scratch.output_conv2.2.bias", "head.conv3.bias"),
            ("depth_head.scratch.stem_transpose.weight", "unknown"),
            ("depth_head.scratch.refinenet9.out_conv.bias", "unknown"),
            ("depth_head.projects.3.bias", "neck.reassemble_stage.layers.3.projection.bias"),
        ] {
            assert_eq!(one(original_depth(old)), new, "{old}");
        }
        let q = "backbone.encoder.layer.0.attention.attention";
        let rows = format!("{q}.query.bias {q}.key.bias {q}.value.bias");
        assert_eq!(one(original_depth("pretrained.blocks.0.attn.qkv.bias")), rows);
        for (old, new) in [
            ("image_encoder.blocks.7.norm2.weight", "vision_encoder.layers.7.layer_norm2.weight"),
            ("image_encoder.blocks.7.attn.rel_pos_h", "vision_encoder.layers.7.attn.rel_pos_h"),
            ("image_encoder.neck.3.bias", "vision_encoder.neck.layer_norm2.bias"),
            ("mask_decoder.iou_token.weight", "unused"),
        ] {
            assert_eq!(one(original_sam(old)), new, "{old}");
        }
        assert_eq!(one(superpixel("pred_mask2.weight")), "unused");
        assert_eq!(one(superpixel("pred_mask0.weight")), "pred_mask0.weight");
    }
}

//! What a single file holds, told from the names of its tensors: which networks, in which naming; and which
//! families it belongs to that this program does not run.

use super::Part;
use super::header::TensorInfo;
use super::json::quoted;
use super::ldm::{self, Mapped};
use super::vision;
use crate::error::{Error, Kind, Result};
use crate::limits;
use std::collections::HashSet;

/// How the tensors of one network are named in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// diffusers' or transformers'.
    Diffusers,
    /// The ldm layout; of text encoders CLIP's.
    Ldm,
    /// OpenCLIP's.
    OpenClip,
    /// That of the repository a network was published in, before transformers had it.
    Original,
}

/// One network found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) part: Part,
    pub(super) naming: Naming,
    /// What its tensors' names begin with.
    pub(super) prefix: &'static str,
}

/// A tensor by which a network is known: what the name is behind one of the prefixes, and what it tells.
struct Mark {
    part: Part,
    naming: Naming,
    prefixes: &'static [&'static str],
    any_of: &'static [&'static str],
    none_of: &'static [&'static str],
}

const MARKS: [Mark; 16] = [
    Mark {
        part: Part::Unet,
        naming: Naming::Ldm,
        prefixes: &["model.diffusion_model.", ""],
        any_of: &["input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight"],
        none_of: &["zero_convs.0.0.weight"],
    },
    Mark {
        part: Part::ControlNet,
        naming: Naming::Ldm,
        prefixes: &["control_model.", ""],
        any_of: &["zero_convs.0.0.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Vae,
        naming: Naming::Ldm,
        prefixes: &["first_stage_model.", "vae.", ""],
        any_of: &["encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::TextEncoder,
        naming: Naming::Ldm,
        prefixes: &["cond_stage_model.transformer."],
        any_of: &["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::TextEncoder,
        naming: Naming::OpenClip,
        // the second one is how Turbo's trainer calls the same tower
        prefixes: &["cond_stage_model.model.", "conditioner.embedders.0.model."],
        any_of: &["token_embedding.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Unet,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["up_blocks.0.resnets.0.conv1.weight"],
        none_of: &["controlnet_cond_embedding.conv_in.weight"],
    },
    Mark {
        part: Part::ControlNet,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["controlnet_cond_embedding.conv_in.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Vae,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::TextEncoder,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["text_model.embeddings.token_embedding.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::ImageEncoder,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["vision_model.embeddings.class_embedding"],
        none_of: &[],
    },
    // OpenCLIP's text tower as a file of its own.
    Mark {
        part: Part::TextEncoder,
        naming: Naming::OpenClip,
        prefixes: &[""],
        any_of: &["transformer.resblocks.0.ln_1.weight"],
        none_of: &["visual.proj"],
    },
    Mark {
        part: Part::Superpixel,
        naming: Naming::Original,
        // as its training saves it: alone, from several devices, and with the rest of a run's state
        prefixes: &["", "module.", "state_dict.", "state_dict.module."],
        any_of: &["conv0a.0.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Depth,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["neck.reassemble_stage.layers.0.projection.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Depth,
        naming: Naming::Original,
        prefixes: &["", "module."],
        any_of: &["depth_head.projects.0.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Sam,
        naming: Naming::Diffusers,
        prefixes: &[""],
        any_of: &["vision_encoder.patch_embed.projection.weight"],
        none_of: &[],
    },
    Mark {
        part: Part::Sam,
        naming: Naming::Original,
        prefixes: &["", "module."],
        any_of: &["image_encoder.patch_embed.proj.weight"],
        none_of: &[],
    },
];

/// Name parts that only other families have, in the order they are looked for; and what to say.
const FAMILIES: [(&str, &str); 20] = [
    ("hada_w1_a", "a LoHa adapter"),
    ("lokr_w1", "a LoKr adapter"),
    ("lora_down.weight", "a LoRA adapter"),
    ("lora.down.weight", "a LoRA adapter"),
    ("lora_A.", "a LoRA adapter"),
    ("double_blocks.", "FLUX"),
    ("single_blocks.", "FLUX"),
    ("single_transformer_blocks.", "FLUX"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("transformer_blocks.0.attn.add_k_proj.", "Stable Diffusion 3"),
    ("conditioner.embedders.0.transformer.", "SDXL"),
    ("conditioner.embedders.1.", "SDXL"),
    ("add_embedding.linear_1.", "SDXL"),
    ("label_emb.0.", "SDXL or unCLIP"),
    ("double_layers.", "AuraFlow"),
    ("clip_txt_mapper.", "Stable Cascade"),
    ("cap_embedder.", "Lumina"),
    ("motion_modules.", "AnimateDiff"),
    ("class_embedding.weight", "a UNet conditioned on a class or a noise level (x4 upscaler)"),
    ("label_emb.weight", "a UNet conditioned on a class or a noise level (x4 upscaler)"),
];

/// What to do with an adapter where a model is wanted.
pub(crate) const IS_ADAPTER: &str = "give it beside a model, as an adapter";

/// Finds the networks among `tensors`. Another family is an error that names it; so is a file in which
/// nothing is known.
pub(super) fn detect(path: &str, tensors: &[TensorInfo]) -> Result<Vec<Found>> {
    let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{path}: {why}"));
    let names: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    let family = FAMILIES.iter().find_map(|(mark, family)| {
        // whole parts of a name only: the mark begins one
        let holds = |name: &&str| name.match_indices(mark).any(|(at, _)| at == 0 || name.as_bytes()[at - 1] == b'.');
        tensors.iter().map(|t| t.name.as_str()).find(holds).map(|name| (name, *family))
    });
    if let Some((name, family)) = family {
        let e = bad(format!("this is {family} (it has `{}`)", quoted(name)));
        return Err(if family.ends_with("adapter") {
            e.advise(IS_ADAPTER)
        } else {
            e.advise("networks of Stable Diffusion 1.x and 2.x are run; use one of those")
        });
    }
    let mut found: Vec<Found> = Vec::new();
    for mark in &MARKS {
        // the first naming that fits is the one; a file does not hold one network twice
        if found.iter().all(|f| f.part != mark.part) {
            found.extend(mark.find(&names));
        }
    }
    if found.is_empty() {
        let shown: Vec<String> = tensors.iter().take(3).map(|t| format!("`{}`", quoted(&t.name))).collect();
        let shown = if shown.is_empty() { "it has no tensors".into() } else { format!("it has {}", shown.join(", ")) };
        return Err(bad(format!("no network that is known; {shown}"))
            .advise("UNets, autoencoders, ControlNets, CLIP text and vision encoders, SpixelFCN, Depth Anything and SAM are read, in the naming of diffusers or transformers, or the one they were published in"));
    }
    found.sort_by_key(|f| f.part);
    Ok(found)
}

impl Mark {
    fn find(&self, names: &HashSet<&str>) -> Option<Found> {
        let has = |prefix: &str, list: &[&str]| list.iter().any(|n| names.contains(format!("{prefix}{n}").as_str()));
        let prefix = self.prefixes.iter().find(|p| has(p, self.any_of) && !has(p, self.none_of))?;
        Some(Found { part: self.part, naming: self.naming, prefix })
    }
}

/// How the tensors of `part` are named among those of its own folder; of a network that has one naming only, that.
pub(super) fn of_folder(part: Part, tensors: &[TensorInfo]) -> Found {
    let names: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    let own = MARKS.iter().filter(|m| m.part == part && part.is_looked_at()).find_map(|m| m.find(&names));
    own.unwrap_or(tower(part))
}

/// One tower of a whole CLIP in transformers' naming.
pub(super) fn tower(part: Part) -> Found {
    Found { part, naming: Naming::Diffusers, prefix: "" }
}

impl Found {
    /// The network's own tensors, under diffusers' names.
    pub(super) fn select(&self, path: &str, tensors: &[TensorInfo]) -> Result<Vec<TensorInfo>> {
        let mine: Vec<(&TensorInfo, &str)> =
            tensors.iter().filter_map(|t| Some((t, t.name.strip_prefix(self.prefix)?))).collect();
        let names = || mine.iter().map(|(_, name)| *name);
        let (layers, levels, hint) = match (self.naming, self.part) {
            (Naming::Ldm, Part::Vae) => (0, ldm::vae_levels(names()), 0),
            (Naming::Ldm, _) => (ldm::unet_layers(names()), 0, ldm::last_hint(names())),
            (Naming::OpenClip, _) => (ldm::open_clip_used(ldm::open_clip_layers(names())), 0, 0),
            (Naming::Diffusers | Naming::Original, _) => (0, 0, 0),
        };
        let map = |name: &str| match (self.naming, self.part) {
            (Naming::Diffusers, Part::TextEncoder | Part::ImageEncoder) if of_another_tower(self.part, name) => {
                Mapped::Unused
            }
            (Naming::Original, Part::Depth) => vision::original_depth(name),
            (Naming::Original, Part::Sam) => vision::original_sam(name),
            (_, Part::Superpixel) => vision::superpixel(name),
            (_, Part::Depth) => vision::depth(name),
            (_, Part::Sam) => vision::sam(name),
            (Naming::Diffusers | Naming::Original, _) => Mapped::One(name.to_owned()),
            (Naming::OpenClip, _) => ldm::open_clip(name, layers),
            (Naming::Ldm, Part::Unet) => ldm::unet(name, layers).into(),
            (Naming::Ldm, Part::ControlNet) => ldm::controlnet(name, layers, hint).into(),
            (Naming::Ldm, Part::Vae) => ldm::vae(name, levels).into(),
            (Naming::Ldm, Part::TextEncoder) => ldm::clip(name),
            (Naming::Ldm, Part::ImageEncoder) => Mapped::Unknown,
        };
        let mut out = Vec::with_capacity(mine.len());
        for (t, name) in mine {
            match map(name) {
                Mapped::One(name) => out.push(t.renamed(name)),
                Mapped::Rows(names) => out.extend(rows(path, t, names)?),
                Mapped::Unused => {}
                // Where the file names networks by prefix, what is unknown under ours is surplus of ours, and
                // is reported as such; otherwise it may be another network's.
                Mapped::Unknown if !self.prefix.is_empty() => out.push(t.clone()),
                Mapped::Unknown => {}
            }
        }
        let mut seen = HashSet::new();
        match out.iter().find(|t| !seen.insert(t.name.as_str())) {
            None => Ok(out),
            Some(t) => Err(Error::new(
                Kind::Weights,
                "weights",
                format!("{path}: two tensors are `{}`; one is stored as `{}`", quoted(&t.name), quoted(t.stored())),
            )),
        }
    }
}

/// Whether tensor `name` of a whole CLIP is none of the tower `part`: the other tower's, or what compares
/// the two.
fn of_another_tower(part: Part, name: &str) -> bool {
    let other = if part == Part::TextEncoder { "vision_model." } else { "text_model." };
    name == "logit_scale" || [other, "text_projection.", "visual_projection."].iter().any(|head| name.starts_with(head))
}

/// Equal blocks of the rows of `t` as tensors of their own: rows are contiguous.
fn rows(path: &str, t: &TensorInfo, names: [String; 3]) -> Result<Vec<TensorInfo>> {
    let parts = names.len() as u64;
    let first = t.shape.first().copied().unwrap_or(0);
    if first == 0 || !first.is_multiple_of(parts) {
        let why = format!("{path}: `{}` is {:?}, not {parts} equal blocks of rows", quoted(&t.name), t.shape);
        return Err(Error::new(Kind::Weights, "weights", why));
    }
    let bytes = t.bytes / parts;
    let part = |(name, i): (String, u64)| {
        let mut view = t.renamed(name);
        view.shape[0] = first / parts;
        (view.offset, view.bytes) = (t.offset + i * bytes, bytes);
        view
    };
    Ok(names.into_iter().zip(0..).map(part).collect())
}

/// The number of tensors `{head}{i}{tail}` that are there, counted from 0 without a gap.
pub(super) fn count(has: impl Fn(&str) -> bool, head: &str, tail: &str) -> usize {
    (0..limits::MAX_TENSORS).take_while(|i| has(&format!("{head}{i}{tail}"))).count()
}

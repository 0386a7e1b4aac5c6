//! `UNet2DConditionModel`: the denoiser of Stable Diffusion 1.x and 2.x and of smaller relatives.

use super::Extents;
use super::blocks::{BlockConfig, Mid, heads_fit, heads_misfit};
use super::config::Fields;
use super::resnet::{resnet, upsample};
use super::transformer::transformer;
use crate::error::Result;
use crate::graph::op::{Lifetime, Padding, Pointwise};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;
use serde_json::json;

/// A UNet as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct UNet2DConditionModel {
    blocks: BlockConfig,
    out_channels: u32,
    center_input: bool,
    /// Whether a level of the up path has transformers, coarsest first.
    up_attention: Vec<bool>,
}

const UP: [&str; 2] = ["UpBlock2D", "CrossAttnUpBlock2D"];

impl UNet2DConditionModel {
    /// Reads `unet/config.json`.
    pub fn from_config(text: &str) -> Result<UNet2DConditionModel> {
        let mut f = Fields::new("UNet2DConditionModel", text)?;
        let mut blocks = BlockConfig::read(&mut f)?;
        let levels = blocks.channels.len();
        let up = f.choices("up_block_types", &[0, 1, 1, 1], &UP)?;
        if up.len() != levels {
            return Err(f.wrong("up_block_types", format!("expected one per block_out_channels, {levels}")));
        }
        let up_attention: Vec<bool> = up.iter().map(|&i| i == 1).collect();
        for (i, &attends) in up_attention.iter().enumerate() {
            let (level, c) = (levels - 1 - i, blocks.channels[levels - 1 - i]);
            if attends && !heads_fit(c, blocks.heads[level]) {
                return Err(f.wrong("attention_head_dim", heads_misfit(c, blocks.heads[level])));
            }
            if attends && blocks.context[level].is_none() {
                return Err(f.wrong("cross_attention_dim", format!("level {level} has attention and needs it")));
            }
        }
        if let Some(dim) = f.optional_channels("time_embedding_dim")? {
            blocks.time_dim = dim;
        }
        let out_channels = f.u32("out_channels", 4, limits::MAX_CHANNELS)?;
        let center_input = f.bool("center_input_sample", false)?;
        f.only("time_embedding_type", &[json!("positional")])?;
        f.only("attention_type", &[json!("default")])?;
        for key in ["conv_in_kernel", "conv_out_kernel"] {
            f.only(key, &[json!(3)])?;
        }
        for key in [
            "dual_cross_attention",
            "class_embeddings_concat",
            "mid_block_only_cross_attention",
            "resnet_skip_time_act",
        ] {
            f.only(key, &[json!(false)])?;
        }
        f.only("resnet_out_scale_factor", &[json!(1)])?;
        for key in [
            "reverse_transformer_layers_per_block",
            "time_embedding_act_fn",
            "timestep_post_act",
            "time_cond_proj_dim",
            "cross_attention_norm",
        ] {
            f.only(key, &[])?;
        }
        f.finish()?;
        Ok(UNet2DConditionModel { blocks, out_channels, center_input, up_attention })
    }

    /// Channels of `sample` as it enters.
    pub fn in_channels(&self) -> u32 {
        self.blocks.in_channels
    }

    /// Channels of the prediction.
    pub fn out_channels(&self) -> u32 {
        self.out_channels
    }

    /// Input side over the coarsest level's side: window origins are multiples of it.
    pub fn stride(&self) -> u32 {
        1 << (self.blocks.channels.len() - 1)
    }

    /// Channels of the context tokens; `None` when no layer looks at a context, and then the graph has no
    /// input `encoder_hidden_states`.
    pub fn context_channels(&self) -> Option<u32> {
        if self.looks_at_context() { self.blocks.context.iter().flatten().next().copied() } else { None }
    }

    /// Number of `down_block_res_samples` of a ControlNet that fits.
    pub fn skips(&self) -> usize {
        self.blocks.skips()
    }

    fn looks_at_context(&self) -> bool {
        self.blocks.looks_at_context() || self.up_attention.contains(&true)
    }

    /// The graph: inputs `sample`, `timestep` and, where a layer looks at it, `encoder_hidden_states`;
    /// output `sample`, f32.
    pub fn build(&self, e: &Extents, dtype: DType) -> Result<Graph> {
        self.build_with(e, dtype, false)
    }

    /// Like [`UNet2DConditionModel::build`], with the residuals of a ControlNet as further inputs:
    /// `down_block_res_samples.N` and `mid_block_res_sample`.
    pub fn build_with_residuals(&self, e: &Extents, dtype: DType) -> Result<Graph> {
        self.build_with(e, dtype, true)
    }

    /// The graph up to the features that the last norm takes: inputs as those of [`UNet2DConditionModel::build`], or with
    /// a ControlNet's `residuals`; output `hidden_states`, [`UNet2DConditionModel::feature_channels`] of `dtype`.
    pub fn build_features(&self, e: &Extents, dtype: DType, residuals: bool) -> Result<Graph> {
        let mut builder = self.builder("unet features", e, dtype, residuals);
        let x = self.features(&mut builder, e, dtype, residuals)?;
        builder.output("hidden_states", x);
        Ok(builder.finish())
    }

    /// The rest of it: from `hidden_states` `[batch, height, width, feature channels]` to `sample`, f32.
    pub fn build_head(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let e = Extents { batch, ..Extents::of(height, width) };
        let mut builder = self.builder("unet head", &e, dtype, false);
        let shape = Shape::new(batch, height, width, self.feature_channels());
        let x = builder.input("hidden_states", shape, dtype, Lifetime::Window);
        self.head(&mut builder, x)?;
        Ok(builder.finish())
    }

    /// Channels of the features that the last norm takes.
    pub fn feature_channels(&self) -> u32 {
        self.blocks.channels[0]
    }

    fn builder(&self, what: &str, e: &Extents, dtype: DType, residuals: bool) -> Builder {
        let kind = if residuals { "+residuals" } else { "" };
        Builder::new(format!("{what}{kind} {}x{} b{} {}", e.height, e.width, e.batch, dtype.name()), dtype)
    }

    fn build_with(&self, e: &Extents, dtype: DType, residuals: bool) -> Result<Graph> {
        let mut builder = self.builder("unet", e, dtype, residuals);
        let x = self.features(&mut builder, e, dtype, residuals)?;
        self.head(&mut builder, x)?;
        Ok(builder.finish())
    }

    fn features(&self, b: &mut Builder, e: &Extents, dtype: DType, residuals: bool) -> Result<ValueId> {
        let c = &self.blocks;
        let sample = b.input("sample", Shape::new(e.batch, e.height, e.width, c.in_channels), dtype, Lifetime::Window);
        let time = c.time(b, e.steps)?;
        let context = if self.looks_at_context() { c.context_input(b, e, dtype)? } else { None };
        let mut x = sample;
        if self.center_input {
            let op = Pointwise { alpha: 2.0, beta: None, gamma: -1.0, act: Act::None, clamp: None, table: false };
            x = b.push("center", Op::Pointwise(op), &[x])?;
        }
        let x = b.conv("conv_in", x, c.channels[0], 3, 1, Padding::all(1))?;
        let mut skips = c.down(b, x, time, context)?;
        let mut x = skips[skips.len() - 1];
        if c.mid != Mid::None {
            x = c.middle(b, x, time, context)?;
        }
        if residuals {
            // diffusers adds them after the middle has read the unchanged skips
            for (i, skip) in skips.iter_mut().enumerate() {
                *skip = add_input(b, &format!("down_block_res_samples.{i}"), *skip, dtype)?;
            }
            x = add_input(b, "mid_block_res_sample", x, dtype)?;
        }
        self.up(b, x, skips, time, context)
    }

    fn head(&self, b: &mut Builder, x: ValueId) -> Result<()> {
        let x = b.group_norm("conv_norm_out", x, self.blocks.groups, self.blocks.eps, Act::Silu)?;
        // f32: one rounding of the prediction to a half type costs the early steps dearly
        let x = b.conv_as("conv_out", x, self.out_channels, 3, 1, Padding::all(1), DType::F32)?;
        b.output("sample", x);
        Ok(())
    }

    fn up(
        &self,
        b: &mut Builder,
        mut x: ValueId,
        mut skips: Vec<ValueId>,
        time: ValueId,
        context: Option<ValueId>,
    ) -> Result<ValueId> {
        let c = &self.blocks;
        let levels = c.channels.len();
        for (i, &attends) in self.up_attention.iter().enumerate() {
            let level = levels - 1 - i;
            b.module(&format!("up_blocks.{i}"), |b| {
                for j in 0..=c.layers[level] {
                    if let Some(skip) = skips.pop() {
                        x = b.push(&format!("resnets.{j}.concat"), Op::Concat, &[x, skip])?;
                    }
                    x = resnet(b, &format!("resnets.{j}"), x, c.channels[level], c.norm(), Some(time))?;
                    if attends {
                        x = transformer(b, &format!("attentions.{j}"), x, c.transformer(level, context)?)?;
                    }
                }
                // the next level's skip fixes the size: odd sides double to one less
                if let Some(&skip) = skips.last() {
                    let s = b.shape(skip);
                    x = upsample(b, x, [s.h, s.w])?;
                }
                Ok(())
            })?;
        }
        Ok(x)
    }
}

/// `x` plus a window input of its shape.
fn add_input(b: &mut Builder, name: &str, x: ValueId, dtype: DType) -> Result<ValueId> {
    let shape = b.shape(x);
    let r = b.input(name, shape, dtype, Lifetime::Window);
    b.add(&format!("{name}.sum"), x, r)
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::{SD15_UNET, SD21_UNET, TURBO_UNET};
    use super::*;
    use std::collections::HashSet;

    fn build(config: &str, e: &Extents) -> Graph {
        UNet2DConditionModel::from_config(config).expect("config").build(e, DType::F16).expect("graph")
    }

    #[test]
    fn published_networks_have_the_published_number_of_parameters() {
        let e = Extents::of(64, 64);
        assert_eq!(parameters(&build(SD21_UNET, &e)), 865_910_724);
        assert_eq!(parameters(&build(TURBO_UNET, &e)), 865_910_724);
        assert_eq!(parameters(&build(SD15_UNET, &e)), 859_520_964);
    }

    #[test]
    fn the_tensors_are_diffusers_and_each_is_declared_once() {
        let g = build(SD21_UNET, &Extents::of(64, 64));
        let names: HashSet<&str> = g.weights.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names.len(), g.weights.len());
        assert_eq!(names.len(), 686);
        for name in [
            "conv_in.weight",
            "time_embedding.linear_2.bias",
            "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            "down_blocks.2.downsamplers.0.conv.bias",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
            "up_blocks.3.resnets.2.conv_shortcut.weight",
            "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
            "up_blocks.0.upsamplers.0.conv.weight",
            "conv_norm_out.weight",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.bias"));
    }

    #[test]
    fn odd_sides_come_back_exactly_and_the_prediction_is_f32() {
        for (h, w) in [(9, 7), (64, 64), (13, 40), (1, 1)] {
            let g = build(SD21_UNET, &Extents { batch: 2, ..Extents::of(h, w) });
            let (name, id) = &g.outputs[0];
            assert_eq!((name.as_str(), g.value(*id).shape), ("sample", Shape::new(2, h, w, 4)));
            assert_eq!(g.value(*id).dtype, DType::F32);
        }
    }

    #[test]
    fn time_tables_have_a_row_per_step_and_contexts_a_row_per_context() {
        let g = build(SD21_UNET, &Extents { steps: 50, contexts: 2, ..Extents::of(16, 16) });
        let rows: Vec<u32> = g.values.iter().filter(|v| v.name.ends_with("time_emb_proj")).map(|v| v.shape.n).collect();
        assert_eq!(rows, vec![50; 22]);
        let keys: Vec<_> = g.values.iter().filter(|v| v.name.ends_with("attn2.to_k")).collect();
        assert_eq!(keys.len(), 16);
        assert!(keys.iter().all(|v| v.lifetime == Lifetime::Context && v.shape.n == 2 && v.shape.w == 77));
        let step = g.values.iter().find(|v| v.name == "time_embedding.linear_2+silu").expect("time");
        assert_eq!((step.lifetime, step.dtype, step.shape), (Lifetime::Step, DType::F32, Shape::new(50, 1, 1, 1280)));
    }

    #[test]
    fn control_residuals_are_inputs_of_the_skips_shapes() {
        let net = UNet2DConditionModel::from_config(SD21_UNET).expect("config");
        let g = net.build_with_residuals(&Extents::of(9, 7), DType::F32).expect("graph");
        let inputs: Vec<_> = g
            .values
            .iter()
            .filter(|v| v.name.starts_with("down_block_res_samples."))
            .filter(|v| !v.name.ends_with(".sum"))
            .collect();
        assert_eq!((inputs.len(), net.skips()), (12, 12));
        assert_eq!(inputs[11].shape, Shape::new(1, 2, 1, 1280));
        assert!(g.values.iter().any(|v| v.name == "mid_block_res_sample"));
    }

    fn changed(key: &str, value: &str) -> String {
        let mut map: serde_json::Map<_, _> = serde_json::from_str(SD21_UNET).expect("json");
        map.insert(key.into(), serde_json::from_str(value).expect("value"));
        serde_json::to_string(&map).expect("text")
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value) in [
            ("class_embed_type", "\"timestep\""),
            ("num_class_embeds", "10"),
            ("addition_embed_type", "\"text_time\""),
            ("dual_cross_attention", "true"),
            ("only_cross_attention", "true"),
            ("resnet_time_scale_shift", "\"scale_shift\""),
            ("mid_block_scale_factor", "1.4"),
            ("mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\""),
            ("act_fn", "\"gelu\""),
            ("act_fn", "null"),
            ("conv_in_kernel", "5"),
            ("time_embedding_type", "\"fourier\""),
            ("encoder_hid_dim", "64"),
            ("attention_type", "\"gated\""),
            ("down_block_types", "[\"DownBlock2D\"]"),
            ("up_block_types", "[\"AttnUpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\"]"),
            ("norm_num_groups", "48"),
            ("norm_num_groups", "null"),
            ("attention_head_dim", "[5,10,20,7]"),
            ("attention_head_dim", "[5,10,20]"),
            ("attention_head_dim", "[80,10,20,20]"),
            ("cross_attention_dim", "null"),
            ("block_out_channels", "[320,640,1280,0]"),
            ("block_out_channels", "[]"),
            ("layers_per_block", "-1"),
            ("layers_per_block", "1e9"),
            ("downsample_padding", "2"),
            ("freq_shift", "160"),
            ("norm_eps", "0"),
            ("in_channels", "\"4\""),
            ("a_field_of_tomorrow", "null"),
        ] {
            let e = UNet2DConditionModel::from_config(&changed(key, value)).expect_err(key);
            assert_eq!(e.kind(), crate::Kind::Weights, "{key}: {e}");
            assert!(e.message().contains(key), "{key}={value}: {e}");
        }
    }

    #[test]
    fn small_configs_need_no_context_where_nothing_attends() {
        let text = r#"{"in_channels":19,"out_channels":16,"down_block_types":["DownBlock2D"],"up_block_types":
            ["UpBlock2D"],"mid_block_type":null,"block_out_channels":[64],"layers_per_block":2,"norm_num_groups":2,
            "cross_attention_dim":8,"attention_head_dim":8}"#;
        let net = UNet2DConditionModel::from_config(text).expect("config");
        assert_eq!((net.in_channels(), net.out_channels(), net.stride(), net.context_channels()), (19, 16, 1, None));
        let g = net.build(&Extents::of(20, 30), DType::F32).expect("graph");
        let inputs: Vec<&str> =
            g.nodes.iter().filter(|n| matches!(n.op, Op::Input(_))).map(|n| g.value(n.output).name.as_str()).collect();
        assert_eq!(inputs, ["sample", "timestep"]);
    }
}

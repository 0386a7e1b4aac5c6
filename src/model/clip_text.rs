//! `CLIPTextModel`: the text encoders of the published diffusion models, CLIP-L's and OpenCLIP-H's.
//!
//! The graph begins behind the embeddings: picking a row per token is no product, and the op set stays closed
//! (`docs/decisions/012-lookups-stay-on-the-host.md`). It ends with `last_hidden_state`; the pooled output and
//! the projection behind it are not computed, for no diffusion model here looks at them.

use super::clip::Encoder;
use super::config::Fields;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::op::Lifetime;
use crate::graph::{Builder, DType, Graph, Shape};
use crate::limits;
use crate::weights::Checkpoint;

const TOKENS: &str = "text_model.embeddings.token_embedding.weight";
const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

/// A text encoder as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextModel {
    encoder: Encoder,
    vocabulary: u32,
    positions: u32,
}

impl ClipTextModel {
    /// Reads `text_encoder/config.json`, or the config of a whole CLIP. How many layers run is the config's
    /// `num_hidden_layers`: models that use the last layer but one publish one layer less.
    pub fn from_config(text: &str) -> Result<ClipTextModel> {
        let section = ["text_config", "text_config_dict"];
        let mut f = Fields::transformers("CLIPTextModel", "clip_text_model", section, text)?;
        let encoder = Encoder::read(&mut f, [512, 2048, 8])?;
        let vocabulary = f.u32("vocab_size", 49_408, limits::MAX_VOCABULARY)?;
        let positions = f.u32("max_position_embeddings", 77, limits::MAX_POSITIONS)?;
        f.finish()?;
        Ok(ClipTextModel { encoder, vocabulary, positions })
    }

    /// Channels of the output, a UNet's `cross_attention_dim`.
    pub fn hidden_size(&self) -> u32 {
        self.encoder.hidden
    }

    /// Most tokens of one text.
    pub fn max_tokens(&self) -> u32 {
        self.positions
    }

    /// Tokens known; ids are below it.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The tensors that [`ClipTextModel::embed`] reads, beside those of the graph.
    pub fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.encoder.hidden);
        let rows = [(TOKENS, self.vocabulary), (POSITIONS, self.positions)];
        rows.map(|(name, n)| (name.to_owned(), vec![u64::from(n), hidden])).to_vec()
    }

    /// The graph of `batch` texts of `tokens` tokens each: input `inputs_embeds` `[batch, 1, tokens, hidden]`
    /// as [`ClipTextModel::embed`] gives it, output `last_hidden_state` of that shape; both f32, values in
    /// between as `dtype`.
    pub fn build(&self, batch: u32, tokens: u32, dtype: DType) -> Result<Graph> {
        self.check_tokens(tokens as usize)?;
        let mut builder = Builder::new(format!("text_encoder {tokens} b{batch} {}", dtype.name()), dtype);
        let b = &mut builder;
        let shape = Shape::new(batch, 1, tokens, self.encoder.hidden);
        let x = b.input("inputs_embeds", shape, DType::F32, Lifetime::Window);
        let x = b.module("text_model", |b| {
            let x = self.encoder.build(b, x, true, dtype)?;
            b.layer_norm_as("final_layer_norm", x, self.encoder.eps, DType::F32)
        })?;
        b.output("last_hidden_state", x);
        Ok(builder.finish())
    }

    /// The values of `inputs_embeds` for texts of equally many ids: each token's row plus its position's.
    pub fn embed(&self, checkpoint: &Checkpoint, ids: &[Vec<u32>]) -> Result<Vec<f32>> {
        let wrong = |why: String| Error::new(Kind::Usage, "model", why);
        let tokens = ids.first().map_or(0, Vec::len);
        self.check_tokens(tokens)?;
        for (i, row) in ids.iter().enumerate() {
            if row.len() != tokens {
                return Err(wrong(format!("text {i} has {} tokens, text 0 has {tokens}", row.len())));
            }
            if let Some((at, id)) = row.iter().enumerate().find(|(_, id)| **id >= self.vocabulary) {
                let why = format!("text {i}, token {at}: id {id} is outside the vocabulary of {}", self.vocabulary);
                return Err(wrong(why).advise("use the tokenizer that was published with this text encoder"));
            }
        }
        let wanted = self.host_tensors();
        checkpoint.check(wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice())))?;
        let hidden = self.encoder.hidden as usize;
        let count = extent::product("inputs_embeds", &[ids.len() as u64, tokens as u64, hidden as u64])?;
        if count > limits::MAX_VALUE_ELEMENTS {
            let why = format!("inputs_embeds has {count} elements, the limit is {}", limits::MAX_VALUE_ELEMENTS);
            return Err(Error::new(Kind::Limit, "model", why));
        }
        let (rows, positions) = (checkpoint.read_f32(TOKENS)?, checkpoint.read_f32(POSITIONS)?);
        let mut out = Vec::with_capacity(extent::to_usize("inputs_embeds", count)?);
        for row in ids {
            for (id, position) in row.iter().zip(positions.chunks_exact(hidden)) {
                let token = rows.chunks_exact(hidden).nth(*id as usize).unwrap_or_default();
                out.extend(token.iter().zip(position).map(|(t, p)| t + p));
            }
        }
        Ok(out)
    }

    fn check_tokens(&self, tokens: usize) -> Result<()> {
        if tokens >= 1 && tokens <= self.positions as usize {
            return Ok(());
        }
        let why = format!("a text of {tokens} tokens; this text encoder takes 1 to {}", self.positions);
        Err(Error::new(Kind::Usage, "model", why).advise("let the tokenizer cut and pad the text"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::{SD15_TEXT, SD21_TEXT, VIT_L14};
    use super::*;

    fn all_parameters(net: &ClipTextModel) -> u64 {
        let graph = net.build(1, 77, DType::F16).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        let host: u64 = net.host_tensors().iter().map(|(_, s)| s.iter().product::<u64>()).sum();
        parameters(&graph) + host
    }

    /// transformers counts the same: `sum(p.numel() for p in CLIPTextModel(config).parameters())`.
    #[test]
    fn the_published_networks_have_the_published_numbers_of_parameters() {
        let l = ClipTextModel::from_config(SD15_TEXT).expect("config");
        assert_eq!((l.hidden_size(), l.max_tokens(), l.vocabulary()), (768, 77, 49_408));
        assert_eq!(all_parameters(&l), 123_060_480);
        let h = ClipTextModel::from_config(SD21_TEXT).expect("config");
        assert_eq!(all_parameters(&h), 340_387_840);
        let g = h.build(2, 40, DType::F16).expect("graph");
        assert_eq!(g.value(g.outputs[0].1).shape, Shape::new(2, 1, 40, 1024));
        assert_eq!(g.value(g.outputs[0].1).dtype, DType::F32);
    }

    #[test]
    fn the_config_of_a_whole_clip_is_read_by_its_section() {
        let whole = format!(
            r#"{{"architectures":["CLIPModel"],"model_type":"clip","projection_dim":768,"text_config":{SD15_TEXT},
            "text_config_dict":null,"vision_config":{VIT_L14},"logit_scale_init_value":2.6592,"pruned_heads":{{}}}}"#
        );
        let plain = ClipTextModel::from_config(SD15_TEXT).expect("config");
        assert_eq!(ClipTextModel::from_config(&whole).expect("whole"), plain);
        // what transformers does: where the second section is given, the first one does not count
        let second = whole.replace("\"text_config_dict\":null", r#""text_config_dict":{"hidden_size":64}"#);
        assert_eq!(ClipTextModel::from_config(&second).expect("second").hidden_size(), 64);
        let odd = whole.replace("\"logit_scale_init_value\"", "\"towers\"");
        assert!(ClipTextModel::from_config(&odd).expect_err("towers").message().contains("towers"));
    }

    #[test]
    fn what_is_not_this_network_is_refused_by_name() {
        for (from, to, name) in [
            ("\"quick_gelu\"", "\"gelu_new\"", "hidden_act"),
            ("\"quick_gelu\"", "null", "hidden_act"),
            ("\"num_attention_heads\":12", "\"num_attention_heads\":11", "num_attention_heads"),
            ("\"num_attention_heads\":12", "\"num_attention_heads\":64", "multiples of 8"),
            ("\"vocab_size\":49408", "\"vocab_size\":0", "vocab_size"),
            ("\"vocab_size\":49408", "\"vocab_size\":49408,\"rotary\":true", "rotary"),
            ("\"vocab_size\":49408", "\"vocab_size\":1,\"pruned_heads\":{\"0\":[1]}", "pruned_heads"),
            ("CLIPTextModel", "T5EncoderModel", "T5EncoderModel"),
            ("clip_text_model", "t5", "model_type"),
        ] {
            let e = ClipTextModel::from_config(&SD15_TEXT.replace(from, to)).expect_err(name);
            assert!(e.kind() == Kind::Weights && e.message().contains(name), "{e}");
        }
        assert!(ClipTextModel::from_config(VIT_L14).expect_err("other tower").message().contains("architectures"));
        let projected = SD15_TEXT.replace("CLIPTextModel", "CLIPTextModelWithProjection");
        assert!(ClipTextModel::from_config(&projected).is_ok());
    }

    #[test]
    fn more_tokens_than_positions_are_refused() {
        let net = ClipTextModel::from_config(SD15_TEXT).expect("config");
        for tokens in [0, 78, u32::MAX] {
            let e = net.build(1, tokens, DType::F32).expect_err("tokens");
            assert!(e.kind() == Kind::Usage && e.message().contains("1 to 77"), "{e}");
        }
    }
}

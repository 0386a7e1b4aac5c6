//! Reads a checkpoint's `config.json` field by field: every field is honoured, refused by name, or on a
//! list of fields that do not touch the result; a field nobody knows is refused.

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::json::{self, quoted};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Fields that say nothing about the function computed, each with the reason.
pub const IGNORED: [(&str, &str); 14] = [
    ("_class_name", "checked by the caller"),
    ("_diffusers_version", "which version wrote the file"),
    ("_name_or_path", "where it was loaded from"),
    ("_use_default_values", "which fields the writer filled in by itself; all of them are read by name"),
    ("_commit_hash", "where it was loaded from"),
    ("sample_size", "the size trained at; graphs are built for any size"),
    ("dropout", "training only"),
    ("decay", "averaging of weights in training"),
    ("inv_gamma", "averaging of weights in training"),
    ("min_decay", "averaging of weights in training"),
    ("optimization_step", "averaging of weights in training"),
    ("power", "averaging of weights in training"),
    ("update_after_step", "averaging of weights in training"),
    ("use_ema_warmup", "averaging of weights in training"),
];

/// The same for configs of transformers. The second half stood in every config until transformers wrote only
/// what differs from its defaults; CLIP's own code reads none of it.
pub const IGNORED_TRANSFORMERS: [(&str, &str); 64] = [
    ("architectures", "checked by the caller"),
    ("model_type", "checked by the caller"),
    ("transformers_version", "which version wrote the file"),
    ("_name_or_path", "where it was loaded from"),
    ("_commit_hash", "where it was loaded from"),
    ("torch_dtype", "how the tensors were stored; the file says it itself"),
    ("dtype", "how the tensors were stored; the file says it itself"),
    ("_attn_implementation_autoset", "which of several equal implementations runs"),
    ("dropout", "training only"),
    ("attention_dropout", "training only"),
    ("initializer_factor", "training only"),
    ("initializer_range", "training only"),
    ("gradient_checkpointing", "training only"),
    ("projection_dim", "of the projection behind the pooled output, which is not computed"),
    ("pad_token_id", "the tokenizer pads; the network looks at every token"),
    ("bos_token_id", "the tokenizer adds it"),
    ("eos_token_id", "says which token the pooled output is; it is not computed"),
    ("add_cross_attention", "decoders of other families"),
    ("bad_words_ids", "text generation"),
    ("begin_suppress_tokens", "text generation"),
    ("chunk_size_feed_forward", "other families; the result would be the same"),
    ("cross_attention_hidden_size", "decoders of other families"),
    ("decoder_start_token_id", "text generation"),
    ("diversity_penalty", "text generation"),
    ("do_sample", "text generation"),
    ("early_stopping", "text generation"),
    ("encoder_no_repeat_ngram_size", "text generation"),
    ("exponential_decay_length_penalty", "text generation"),
    ("finetuning_task", "a note"),
    ("forced_bos_token_id", "text generation"),
    ("forced_eos_token_id", "text generation"),
    ("id2label", "classifiers"),
    ("is_decoder", "decoders of other families"),
    ("is_encoder_decoder", "other families"),
    ("label2id", "classifiers"),
    ("length_penalty", "text generation"),
    ("max_length", "text generation"),
    ("min_length", "text generation"),
    ("no_repeat_ngram_size", "text generation"),
    ("num_beam_groups", "text generation"),
    ("num_beams", "text generation"),
    ("num_return_sequences", "text generation"),
    ("output_attentions", "what else is returned"),
    ("output_hidden_states", "what else is returned"),
    ("output_scores", "text generation"),
    ("prefix", "text generation"),
    ("problem_type", "classifiers"),
    ("remove_invalid_values", "text generation"),
    ("repetition_penalty", "text generation"),
    ("return_dict", "how results are returned"),
    ("return_dict_in_generate", "text generation"),
    ("sep_token_id", "other families"),
    ("suppress_tokens", "text generation"),
    ("task_specific_params", "text generation"),
    ("temperature", "text generation"),
    ("tf_legacy_loss", "training only"),
    ("tie_encoder_decoder", "other families"),
    ("tie_word_embeddings", "language models"),
    ("tokenizer_class", "which tokenizer it was trained with; the tokenizer's folder says it itself"),
    ("top_k", "text generation"),
    ("top_p", "text generation"),
    ("torchscript", "how it was exported"),
    ("typical_p", "text generation"),
    ("use_bfloat16", "an option of another framework"),
];
/// What the config of a whole CLIP (both towers) holds beside the towers' own configs. Heads are pruned by
/// the towers' own.
const OF_BOTH_TOWERS: [&str; 6] = [
    "text_config",
    "text_config_dict",
    "vision_config",
    "vision_config_dict",
    "logit_scale_init_value",
    "pruned_heads",
];

/// An error about a config.
pub(super) fn bad(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Weights, "model", format!("{what} config: {why}"))
}

/// A config being read. Getters take a field's default from diffusers, mark it as read, and check type
/// and range; [`Fields::finish`] refuses what was never asked for.
pub(super) struct Fields {
    what: &'static str,
    map: Map<String, Value>,
    seen: BTreeSet<&'static str>,
    ignored: &'static [(&'static str, &'static str)],
}

impl Fields {
    /// Parses `text` and checks that it is a config of `class`.
    pub(super) fn new(class: &'static str, text: &str) -> Result<Fields> {
        let map = parse(class, text)?;
        match map.get("_class_name") {
            None => {}
            Some(Value::String(s)) if s == class => {}
            Some(v) => return Err(bad(class, format!("_class_name is {}", show(v)))),
        }
        Ok(Fields { what: class, map, seen: BTreeSet::new(), ignored: &IGNORED })
    }

    /// Parses `text`, a config of transformers, and checks that it describes `class` (or the same with a
    /// projection behind it) by `architectures` and `model_type`. The config of a whole CLIP is accepted as
    /// well: then `section` of it is read, or `{section}_dict` where that is given, which transformers prefers.
    pub(super) fn transformers(
        class: &'static str,
        model_type: &str,
        section: [&'static str; 2],
        text: &str,
    ) -> Result<Fields> {
        let mut map = parse(class, text)?;
        let whole = map.get("model_type").and_then(Value::as_str) == Some("clip");
        if whole {
            let ignored = |k: &str| IGNORED_TRANSFORMERS.iter().any(|(name, _)| *name == k);
            if let Some(k) = map.keys().find(|k| !ignored(k) && !OF_BOTH_TOWERS.contains(&k.as_str())) {
                return Err(bad(class, format!("unknown field {} beside `{}`", quoted(k), section[0])));
            }
            let inner = section.iter().rev().find_map(|s| map.get(*s)).filter(|v| !v.is_null());
            let inner = inner.or_else(|| map.get(section[0])).and_then(Value::as_object).cloned();
            map = inner.ok_or_else(|| bad(class, format!("`{}` is no object", section[0])))?;
        }
        let projected = format!("{class}WithProjection");
        let named = map.get("architectures").and_then(|a| a.get(0)).filter(|_| !whole);
        if let Some(v) = named.filter(|v| ![class, &projected].contains(&v.as_str().unwrap_or_default())) {
            return Err(bad(class, format!("architectures[0] is {}", show(v))));
        }
        match map.get("model_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(s)) if s == model_type => {}
            Some(v) => return Err(bad(class, format!("model_type is {}", show(v)))),
        }
        Ok(Fields { what: class, map, seen: BTreeSet::new(), ignored: &IGNORED_TRANSFORMERS })
    }

    fn refuse(&self, key: &str, why: impl std::fmt::Display) -> Error {
        let value = self.map.get(key).map_or_else(|| "absent".into(), show);
        bad(self.what, format!("`{key}` is {value}: {why}"))
    }

    /// The field, `None` when absent.
    fn take(&mut self, key: &'static str) -> Option<&Value> {
        self.seen.insert(key);
        self.map.get(key)
    }

    /// A whole number from 1 to `max`.
    fn count(&self, key: &str, value: &Value, max: u64) -> Result<u32> {
        match value.as_u64() {
            Some(v) if v >= 1 && v <= max => Ok(v as u32),
            _ => Err(self.refuse(key, format!("expected a whole number from 1 to {max}"))),
        }
    }

    /// A whole number from 1 to `max`.
    pub(super) fn u32(&mut self, key: &'static str, default: u32, max: u64) -> Result<u32> {
        match self.take(key).cloned() {
            None => Ok(default),
            Some(v) => self.count(key, &v, max),
        }
    }

    /// Channels, or `None` when the field is null or absent.
    pub(super) fn optional_channels(&mut self, key: &'static str) -> Result<Option<u32>> {
        match self.take(key).cloned() {
            None | Some(Value::Null) => Ok(None),
            Some(v) => self.count(key, &v, limits::MAX_CHANNELS).map(Some),
        }
    }

    /// A finite number.
    pub(super) fn f32(&mut self, key: &'static str, default: f32) -> Result<f32> {
        match self.take(key) {
            None => Ok(default),
            Some(v) => match v.as_f64() {
                Some(v) if (v as f32).is_finite() => Ok(v as f32),
                _ => Err(self.refuse(key, "expected a finite number")),
            },
        }
    }

    /// A finite number, or `None` when the field is null or absent.
    pub(super) fn optional_f32(&mut self, key: &'static str) -> Result<Option<f32>> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.f32(key, 0.0).map(Some),
        }
    }

    /// An epsilon: positive and below 1.
    pub(super) fn eps(&mut self, key: &'static str, default: f32) -> Result<f32> {
        let v = self.f32(key, default)?;
        if v > 0.0 && v < 1.0 { Ok(v) } else { Err(self.refuse(key, "expected a number between 0 and 1")) }
    }

    /// True or false; null counts as false, as Python reads it.
    pub(super) fn bool(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(v)) => Ok(*v),
            Some(Value::Null) => Ok(false),
            Some(_) => Err(self.refuse(key, "expected true or false")),
        }
    }

    /// A list of 1 to the limit of levels truth values.
    pub(super) fn bools(&mut self, key: &'static str, default: &[bool]) -> Result<Vec<bool>> {
        let Some(value) = self.take(key).cloned() else { return Ok(default.to_vec()) };
        let items = value.as_array().filter(|a| !a.is_empty() && a.len() <= limits::MAX_NETWORK_LEVELS);
        let found: Option<Vec<bool>> = items.and_then(|a| a.iter().map(Value::as_bool).collect());
        let why = format!("expected a list of 1 to {} truth values", limits::MAX_NETWORK_LEVELS);
        found.ok_or_else(|| self.refuse(key, why))
    }

    /// A text among `allowed`; returns its index. `None` when null.
    pub(super) fn choice(&mut self, key: &'static str, default: usize, allowed: &[&str]) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(v) => match v.as_str().and_then(|s| allowed.iter().position(|a| *a == s)) {
                Some(i) => Ok(Some(i)),
                None => Err(self.refuse(key, format!("supported are {}", allowed.join(", ")))),
            },
        }
    }

    /// A list of texts among `allowed`, as indices; the list has 1 to the limit of levels.
    pub(super) fn choices(&mut self, key: &'static str, default: &[usize], allowed: &[&str]) -> Result<Vec<usize>> {
        let Some(value) = self.take(key).cloned() else { return Ok(default.to_vec()) };
        let items = value.as_array().filter(|a| !a.is_empty() && a.len() <= limits::MAX_NETWORK_LEVELS);
        let Some(items) = items else {
            return Err(self.refuse(key, format!("expected a list of 1 to {} names", limits::MAX_NETWORK_LEVELS)));
        };
        let index = |v: &Value| v.as_str().and_then(|s| allowed.iter().position(|a| *a == s));
        let found: Option<Vec<usize>> = items.iter().map(index).collect();
        found.ok_or_else(|| self.refuse(key, format!("supported are {}", allowed.join(", "))))
    }

    /// A list of 1 to the limit of levels channel counts.
    pub(super) fn channels_list(&mut self, key: &'static str, default: &[u32]) -> Result<Vec<u32>> {
        let Some(value) = self.take(key).cloned() else { return Ok(default.to_vec()) };
        match value.as_array() {
            Some(a) if !a.is_empty() && a.len() <= limits::MAX_NETWORK_LEVELS => {
                a.iter().map(|v| self.count(key, v, limits::MAX_CHANNELS)).collect()
            }
            _ => Err(self.refuse(key, format!("expected a list of 1 to {} numbers", limits::MAX_NETWORK_LEVELS))),
        }
    }

    /// One number per level: a list of `levels`, or one number for all of them.
    pub(super) fn per_level(&mut self, key: &'static str, default: u32, max: u64, levels: usize) -> Result<Vec<u32>> {
        match self.take(key).cloned() {
            None => Ok(vec![default; levels]),
            Some(Value::Array(a)) if a.len() == levels => a.iter().map(|v| self.count(key, v, max)).collect(),
            Some(Value::Array(_)) => Err(self.refuse(key, format!("expected one number per level, {levels}"))),
            Some(v) => Ok(vec![self.count(key, &v, max)?; levels]),
        }
    }

    /// Refuses the field unless it is absent, null, or equal to one of `accepted`: the value that leaves
    /// the function as it is built here.
    pub(super) fn only(&mut self, key: &'static str, accepted: &[Value]) -> Result<()> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(()),
            Some(v) if accepted.iter().any(|a| same(a, v)) => Ok(()),
            Some(_) if accepted.is_empty() => Err(self.refuse(key, "not supported; it must be null")),
            Some(_) => {
                let list: Vec<String> = accepted.iter().map(show).collect();
                Err(self.refuse(key, format!("not supported; it must be {}", list.join(" or "))))
            }
        }
    }

    /// Whether the field is there and null.
    pub(super) fn is_null(&mut self, key: &'static str) -> bool {
        self.take(key).is_some_and(Value::is_null)
    }

    /// A field that is read only together with another one that is refused, so that it has no effect.
    pub(super) fn without_effect(&mut self, key: &'static str) {
        self.seen.insert(key);
    }

    /// An error about the field `key` found by the caller.
    pub(super) fn wrong(&self, key: &str, why: impl std::fmt::Display) -> Error {
        self.refuse(key, why)
    }

    /// Refuses every field that was not read and is not on the list of those without effect ([`IGNORED`],
    /// [`IGNORED_TRANSFORMERS`]).
    pub(super) fn finish(self) -> Result<()> {
        let known = |k: &str| self.seen.contains(k) || self.ignored.iter().any(|(name, _)| *name == k);
        let unknown: Vec<String> = self.map.keys().filter(|k| !known(k)).map(|k| quoted(k)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let shown = unknown.iter().take(limits::MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
        Err(bad(self.what, format!("{} unknown field(s): {shown}", unknown.len()))
            .advise("this program would ignore what they mean, so it refuses; remove them only if they have no effect"))
    }
}

/// `text` as one JSON object, not above the size limit.
fn parse(class: &str, text: &str) -> Result<Map<String, Value>> {
    if text.len() as u64 > limits::MAX_CONFIG_BYTES {
        let why = format!("{} bytes, the limit is {}", text.len(), limits::MAX_CONFIG_BYTES);
        return Err(Error::new(Kind::Limit, "model", format!("{class} config: {why}")));
    }
    json::object(&format!("{class} config"), text.as_bytes())
}

/// Equal, numbers by value (1 and 1.0 are the same).
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    }
}

fn show(v: &Value) -> String {
    quoted(&v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let f = Fields::new("Net", r#"{"_class_name":"Net","sample_size":64,"frobnicate":1}"#).expect("parses");
        let e = f.finish().expect_err("unknown");
        assert_eq!(e.kind(), Kind::Weights);
        assert!(e.message().contains("frobnicate") && !e.message().contains("sample_size"), "{e}");
    }

    #[test]
    fn wrong_types_and_ranges_name_the_field_and_the_value() {
        let text = r#"{"a":0,"b":"x","c":[1,2],"d":1e-5,"e":true,"g":null,"h":1.0,"i":"zz"}"#;
        let mut f = Fields::new("Net", text).expect("parses");
        assert!(f.u32("a", 1, 8).expect_err("zero").message().contains("`a` is 0"));
        assert!(f.u32("b", 1, 8).expect_err("text").message().contains("`b`"));
        assert!(f.per_level("c", 1, 8, 3).expect_err("2 of 3").message().contains("3"));
        assert_eq!(f.per_level("c", 1, 8, 2).expect("two"), [1, 2]);
        assert_eq!(f.eps("d", 0.5).expect("eps"), 1e-5);
        assert!(f.bool("e", false).expect("bool") && !f.bool("g", true).expect("null is false"));
        f.only("h", &[json!(1)]).expect("1.0 is 1");
        assert!(f.only("e", &[json!(false)]).expect_err("true").message().contains("must be false"));
        assert!(f.choice("i", 0, &["p", "q"]).expect_err("zz").message().contains("p, q"));
        f.finish().expect("all read");
    }

    #[test]
    fn another_class_is_refused() {
        let e = Fields::new("Net", r#"{"_class_name":"Other"}"#).err().expect("other class");
        assert!(e.message().contains("Other"));
    }
}

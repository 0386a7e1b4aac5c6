//! Reads a checkpoint's `config.json` field by field: every field is honoured, refused by name, or on a
//! list of fields that do not touch the result; a field nobody knows is refused.

use super::ignored::{IGNORED, IGNORED_TRANSFORMERS};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::json::{self, quoted};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A model of several networks, whose config has one network's as a section.
struct Whole {
    model_type: &'static str,
    /// What it holds beside the sections' own fields.
    fields: &'static [&'static str],
}

/// Heads of CLIP's towers are pruned by the towers' own configs.
const WHOLES: [Whole; 2] = [
    Whole {
        model_type: "clip",
        fields: &[
            "text_config",
            "text_config_dict",
            "vision_config",
            "vision_config_dict",
            "logit_scale_init_value",
            "pruned_heads",
        ],
    },
    Whole { model_type: "sam", fields: &["vision_config", "prompt_encoder_config", "mask_decoder_config"] },
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
    /// projection behind it) by `architectures` and `model_type`. The config of a whole CLIP or SAM is accepted as
    /// well: then `section` of it is read, or `{section}_dict` where that is given, which transformers prefers.
    pub(super) fn transformers(
        class: &'static str,
        model_type: &str,
        section: [&'static str; 2],
        text: &str,
    ) -> Result<Fields> {
        let mut map = parse(class, text)?;
        let named = map.get("model_type").and_then(Value::as_str);
        let whole = WHOLES.iter().find(|w| named == Some(w.model_type));
        if let Some(whole) = whole {
            let ignored = |k: &str| IGNORED_TRANSFORMERS.iter().any(|(name, _)| *name == k);
            if let Some(k) = map.keys().find(|k| !ignored(k) && !whole.fields.contains(&k.as_str())) {
                return Err(bad(class, format!("unknown field {} beside `{}`", quoted(k), section[0])));
            }
            let inner = section.iter().rev().find_map(|s| map.get(*s)).filter(|v| !v.is_null());
            let inner = inner.or_else(|| map.get(section[0])).and_then(Value::as_object).cloned();
            map = inner.ok_or_else(|| bad(class, format!("`{}` is no object", section[0])))?;
        }
        Fields::of_transformers(class, model_type, map, whole.is_none())
    }

    /// The config of a network inside another's, which is the field `key`.
    pub(super) fn section(&mut self, key: &'static str, class: &'static str, model_type: &str) -> Result<Fields> {
        match self.take(key).cloned() {
            Some(Value::Object(map)) => Fields::of_transformers(class, model_type, map, false),
            _ => Err(self.refuse(key, "expected the config of a network")),
        }
    }

    /// `named` where `architectures` has to be right.
    fn of_transformers(class: &'static str, model_type: &str, map: Map<String, Value>, named: bool) -> Result<Fields> {
        let projected = format!("{class}WithProjection");
        let named = map.get("architectures").and_then(|a| a.get(0)).filter(|_| named);
        if let Some(v) = named.filter(|v| ![class, &projected].contains(&v.as_str().unwrap_or_default())) {
            return Err(bad(class, format!("architectures[0] is {}", show(v))));
        }
        match map.get("model_type") {
            None | Some(Value::Null) => {}
            // sections of published files leave it empty
            Some(Value::String(s)) if s == model_type || s.is_empty() => {}
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
        self.f64(key, f64::from(default)).map(|v| v as f32)
    }

    /// A number that is finite as an f32, too.
    pub(super) fn f64(&mut self, key: &'static str, default: f64) -> Result<f64> {
        match self.take(key) {
            None => Ok(default),
            Some(v) => match v.as_f64() {
                Some(v) if (v as f32).is_finite() => Ok(v),
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

    /// A list of whole numbers from 0 to `max`, at most `most` of them; `None` when the field is null or absent.
    pub(super) fn indices(&mut self, key: &'static str, most: usize, max: u64) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.take(key).filter(|v| !v.is_null()).cloned() else { return Ok(None) };
        let list = value.as_array().filter(|a| a.len() <= most);
        let number = |v: &Value| v.as_u64().filter(|&v| v <= max).map(|v| v as u32);
        let list: Option<Vec<u32>> = list.and_then(|a| a.iter().map(number).collect());
        list.map(Some).ok_or_else(|| self.refuse(key, format!("expected at most {most} whole numbers from 0 to {max}")))
    }

    /// A list of texts, at most the limit of layers; `None` when the field is null or absent.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key).filter(|v| !v.is_null()).cloned() else { return Ok(None) };
        let list = value.as_array().filter(|a| a.len() <= limits::MAX_LEVEL_LAYERS as usize);
        let list: Option<Vec<String>> = list.and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.map(Some).ok_or_else(|| self.refuse(key, "expected a list of names"))
    }

    /// A list of finite numbers, at most `most` of them; `None` when the field is null or absent.
    pub(super) fn numbers(&mut self, key: &'static str, most: usize) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.take(key).filter(|v| !v.is_null()).cloned() else { return Ok(None) };
        let list = value.as_array().filter(|a| a.len() <= most);
        let list: Option<Vec<f64>> = list.and_then(|a| a.iter().map(Value::as_f64).collect());
        list.map(Some).ok_or_else(|| self.refuse(key, format!("expected at most {most} numbers")))
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

//! Which tokens are special, what pads, and how long a text may be.

use super::super::config::bad;
use super::{Files, split};
use crate::error::Result;
use crate::limits;
use crate::weights::json::{self, quoted};
use serde_json::{Map, Value};
use std::collections::HashMap;

const CONFIG: &str = "CLIPTokenizer";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Length of a text where the config gives none: every published CLIP's.
const MAX_LENGTH: u64 = 77;

/// Fields of tokenizer_config.json without effect, each with the reason.
const WITHOUT_EFFECT: [(&str, &str); 14] = [
    ("add_prefix_space", "CLIP's tokenizer does not read it"),
    ("auto_map", "which Python class reads it"),
    ("clean_up_tokenization_spaces", "decoding only"),
    ("do_lower_case", "CLIP's tokenizer always lower-cases"),
    ("errors", "decoding only"),
    ("model_input_names", "which tensors the Python class returns"),
    ("name_or_path", "where it was loaded from"),
    ("processor_class", "which Python class reads it"),
    ("special_tokens_map_file", "where it was loaded from"),
    ("tokenizer_file", "where it was loaded from"),
    ("truncation", "encoding always cuts"),
    ("use_fast", "which of two Python classes reads it"),
    ("__type", "how the file was written"),
    ("max_length", "texts have `model_max_length` ids"),
];
/// Fields that must have one value, or be absent.
const ONLY: [(&str, &str); 4] = [
    ("padding_side", "\"right\""),
    ("truncation_side", "\"right\""),
    ("split_special_tokens", "false"),
    ("extra_special_tokens", "{}"),
];
/// The special tokens, in the order of [`Specials::read`], with CLIP's own.
const NAMES: [(&str, &str); 4] = [("bos_token", START), ("eos_token", END), ("unk_token", END), ("pad_token", END)];

/// What stands around a text, and the tokens cut out of it as they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Specials {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) unknown: u32,
    pub(super) pad: u32,
    pub(super) max_length: usize,
    /// Text and id, longest first.
    whole: Vec<(String, u32)>,
    /// Ids of CLIP's own two marks, which are found even in other case.
    marks: [u32; 2],
}

impl Specials {
    /// Reads the files that say so. As in transformers, `special_tokens_map.json` overrides the config's
    /// special tokens, unless the config lists `added_tokens_decoder`: then it is a newer file and has the say.
    pub(super) fn read(files: &Files<'_>, vocabulary: &HashMap<String, u32>) -> Result<Specials> {
        let object = |name: &str, text: Option<&str>| -> Result<Map<String, Value>> {
            text.map_or(Ok(Map::new()), |t| json::object(name, t.as_bytes()))
        };
        let mut config = object("tokenizer_config.json", files.config)?;
        let map = object("special_tokens_map.json", files.special_tokens)?;
        let newer = config.get("added_tokens_decoder").is_some_and(|v| !v.is_null());
        check(&config, &map)?;
        if !newer {
            config.extend(map);
        }
        let mut added: HashMap<String, u32> = HashMap::new();
        let mut add = |name: &str, token: String, id: Option<u64>| -> Result<u32> {
            let known = vocabulary.get(&token).or_else(|| added.get(&token)).copied();
            let id = match (known, id) {
                (Some(known), None) => known,
                (Some(known), Some(id)) if u64::from(known) == id => known,
                (None, Some(id)) if id < limits::MAX_VOCABULARY => id as u32,
                (Some(known), Some(id)) => {
                    let why = format!("`{}` is {id} in {name} and {known} in vocab.json", quoted(&token));
                    return Err(bad(CONFIG, why));
                }
                (None, _) => {
                    let why = format!("`{name}` is `{}`, which has no id in vocab.json", quoted(&token));
                    return Err(bad(CONFIG, why).advise("use the files of one and the same tokenizer"));
                }
            };
            added.insert(token, id);
            Ok(id)
        };
        if newer {
            let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
            let decoder = decoder.ok_or_else(|| bad(CONFIG, "`added_tokens_decoder` is no object"))?;
            for (id, value) in decoder {
                let id = id.parse().map_err(|_| bad(CONFIG, format!("added token id `{}`", quoted(id))))?;
                add("added_tokens_decoder", token("added_tokens_decoder", value)?, Some(id))?;
            }
        } else {
            for (name, id) in object("added_tokens.json", files.added_tokens)? {
                let id = id.as_u64().ok_or_else(|| bad(CONFIG, format!("id of `{}`", quoted(&name))))?;
                add("added_tokens.json", name, Some(id))?;
            }
        }
        if let Some(Value::Array(more)) = config.get("additional_special_tokens") {
            for value in more {
                add("additional_special_tokens", token("additional_special_tokens", value)?, None)?;
            }
        }
        let mut ids = [0; 4];
        for (slot, (name, default)) in ids.iter_mut().zip(NAMES) {
            let text = config.get(name).map_or(Ok(default.to_owned()), |v| token(name, v))?;
            *slot = add(name, text, None)?;
        }
        let [start, end, unknown, pad] = ids;
        let max_length = match config.get("model_max_length") {
            None | Some(Value::Null) => MAX_LENGTH,
            Some(v) => v.as_u64().filter(|v| (3..=limits::MAX_POSITIONS).contains(v)).ok_or_else(|| {
                let why = format!("expected a whole number from 3 to {}", limits::MAX_POSITIONS);
                bad(CONFIG, format!("`model_max_length` is {}: {why}", quoted(&v.to_string())))
            })?,
        };
        let of = |mark: &str| added.get(mark).or_else(|| vocabulary.get(mark)).copied().unwrap_or(unknown);
        let marks = split::MARKS.map(of);
        if added.len() > limits::MAX_ADDED_TOKENS {
            let why = format!("{} added tokens, the limit is {}", added.len(), limits::MAX_ADDED_TOKENS);
            return Err(bad(CONFIG, why));
        }
        let mut whole: Vec<(String, u32)> = added.into_iter().collect();
        whole.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        Ok(Specials { start, end, unknown, pad, max_length: max_length as usize, whole, marks })
    }

    /// `text` up to the first special token, that token's id, and what follows.
    pub(super) fn cut<'a>(&self, text: &'a str) -> (&'a str, Option<u32>, &'a str) {
        // The leftmost, and of those that begin there the longest: `whole` is sorted that way.
        let begins = |at: usize| self.whole.iter().find(|(token, _)| text[at..].starts_with(token.as_str()));
        match text.char_indices().find_map(|(at, _)| begins(at).map(|found| (at, found))) {
            Some((at, (token, id))) => (&text[..at], Some(*id), &text[at + token.len()..]),
            None => (text, None, ""),
        }
    }

    /// The id of a piece that is one of CLIP's own marks.
    pub(super) fn named(&self, piece: &str) -> Option<u32> {
        split::MARKS.iter().position(|m| *m == piece).map(|i| self.marks[i])
    }
}

/// Refuses what is not honoured.
fn check(config: &Map<String, Value>, map: &Map<String, Value>) -> Result<()> {
    let special = |k: &str| NAMES.iter().any(|(name, _)| *name == k) || k == "additional_special_tokens";
    for (key, value) in config {
        let shown = || format!("`{}` is {}", quoted(key), quoted(&value.to_string()));
        match key.as_str() {
            "added_tokens_decoder" | "model_max_length" => {}
            "tokenizer_class" if ["CLIPTokenizer", "CLIPTokenizerFast"].contains(&value.as_str().unwrap_or("")) => {}
            k if special(k) || WITHOUT_EFFECT.iter().any(|(name, _)| *name == k) => {}
            k => match ONLY.iter().find(|(name, _)| *name == k) {
                Some((_, only)) if value.to_string() == *only => {}
                Some((_, only)) => return Err(bad(CONFIG, format!("{}: it must be {only}", shown()))),
                None => return Err(bad(CONFIG, format!("{}: not supported", shown()))),
            },
        }
    }
    match map.keys().find(|k| !special(k)) {
        Some(key) => Err(bad(CONFIG, format!("unknown special token `{}`", quoted(key)))),
        None => Ok(()),
    }
}

/// A token given as its text, or as an object with its text and how it is looked for.
fn token(name: &str, value: &Value) -> Result<String> {
    let content = value.as_str().or_else(|| value.get("content").and_then(Value::as_str)).unwrap_or_default();
    if content.is_empty() {
        return Err(bad(CONFIG, format!("`{name}` is {}, expected a token", quoted(&value.to_string()))));
    }
    // These change which white space and which neighbours a token takes along.
    for key in ["lstrip", "rstrip", "single_word"] {
        if value.get(key).and_then(Value::as_bool) == Some(true) {
            return Err(bad(CONFIG, format!("`{name}`: `{key}` is true, which is not supported")));
        }
    }
    Ok(content.to_owned())
}

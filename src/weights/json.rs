//! JSON read strictly: a key that occurs twice is an error.
//!
//! `serde_json` alone keeps the last of two equal keys without a word, so a header or a config could say
//! one thing to us and another to whoever checked it before. Depth is bounded by `serde_json` (128).

use crate::error::{Error, Kind, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// `bytes` as one JSON object. `what` names the file in the error.
pub fn object(what: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{what}: {why}"));
    let value: Strict = serde_json::from_slice(bytes).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    match value.0 {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(bad("not a JSON object".into()))
        }
    }
}

/// A foreign text fit to stand in an error: control characters escaped, length bounded.
pub fn quoted(text: &str) -> String {
    let limit = crate::limits::MAX_QUOTED;
    let mut out: String = text.chars().take(limit).flat_map(char::escape_debug).collect();
    if text.chars().nth(limit).is_some() {
        out.push_str("...");
    }
    out
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Strict, D::Error> {
        d.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
        Ok(Strict(Value::from(v)))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
        Ok(Strict(Value::from(v)))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Strict, E> {
        Number::from_f64(v).map(|n| Strict(Value::Number(n))).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
        Ok(Strict(Value::String(v.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(v)) = seq.next_element()? {
            out.push(v);
        }
        Ok(Strict(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if out.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{}` occurs twice", quoted(&key))));
            }
            out.insert(key, value);
        }
        Ok(Strict(Value::Object(out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_occurs_twice_is_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":{"a":1,"a":1}}"#, r#"{"x":[{"k":0,"k":0}]}"#] {
            let e = object("f.json", text.as_bytes()).expect_err("twice");
            assert!(e.message().contains("occurs twice"), "{e}");
        }
        assert_eq!(object("f.json", br#"{"a":[1,2.5,"t",null,true,{"b":-1}]}"#).expect("valid").len(), 1);
    }

    #[test]
    fn depth_and_kind_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(object("f.json", deep.as_bytes()).is_err());
        assert!(object("f.json", b"[1]").expect_err("array").message().contains("not a JSON object"));
        assert!(object("f.json", b"{\"a\":1} x").is_err());
    }
}

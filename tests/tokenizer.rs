//! The tokenizer against transformers: `tests/data/tokenizer`, which `tools/reference/make_tokenizer.py` writes
//! with `transformers.CLIPTokenizer`.

use crate::source;
use serde_json::Value;
use std::path::PathBuf;
use tessera::model::tokenizer::{Files, Tokenizer};
use tessera::{Kind, limits};

fn data() -> PathBuf {
    source::root().join("tests/data/tokenizer")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(data().join(name)).expect(name)
}

/// The texts of the tokenizer whose configs are in the folder `name`.
struct Texts {
    vocabulary: String,
    merges: String,
    config: String,
    special: String,
}

impl Texts {
    fn of(name: &str) -> Texts {
        Texts {
            vocabulary: read("vocab.json"),
            merges: read("merges.txt"),
            config: read(&format!("{name}/tokenizer_config.json")),
            special: read(&format!("{name}/special_tokens_map.json")),
        }
    }

    fn files(&self) -> Files<'_> {
        Files {
            vocabulary: &self.vocabulary,
            merges: &self.merges,
            config: Some(&self.config),
            special_tokens: Some(&self.special),
            added_tokens: None,
        }
    }
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().expect("ids").iter().map(|i| i.as_u64().expect("id") as u32).collect()
}

#[test]
fn every_text_becomes_what_transformers_makes_of_it() {
    let expected: Value = serde_json::from_str(&read("expected.json")).expect("JSON");
    let mut failed = Vec::new();
    for (name, case) in expected.as_object().expect("configs") {
        let texts = Texts::of(name);
        let tokenizer = Tokenizer::from_files(&texts.files()).expect(name);
        assert_eq!(u64::from(tokenizer.pad_id()), case["pad"].as_u64().expect("pad"), "{name}");
        let rows = case["texts"].as_array().expect("texts");
        assert!(rows.len() >= 60, "{name}: {} texts", rows.len());
        for row in rows {
            let text = row["text"].as_str().expect("text");
            let got = tokenizer.tokenize(text).expect("fits");
            let mut encoded = ids(&row["encoded"]);
            encoded.resize(77, tokenizer.pad_id());
            if got != ids(&row["ids"]) || tokenizer.encode(text).expect("fits") != encoded {
                failed.push(format!("{name}: {text:?}: {got:?}, transformers has {}", row["ids"]));
            }
        }
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_folder_is_read_and_its_pad_token_honoured() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(data().join(name), folder.path().join(name)).expect("copy");
    }
    let tokenizer = Tokenizer::open(folder.path()).expect("the two files are enough");
    assert_eq!((tokenizer.pad_id(), tokenizer.max_length()), (833, 77), "CLIP's own defaults");
    let special = folder.path().join("special_tokens_map.json");
    std::fs::write(&special, r#"{"pad_token":"!"}"#).expect("write");
    let tokenizer = Tokenizer::open(folder.path()).expect("opens");
    assert_eq!(tokenizer.pad_id(), 0);
    let ids = tokenizer.encode("").expect("empty");
    assert_eq!((ids.len(), ids[0], ids[1], ids[2], ids[76]), (77, 832, 833, 0, 0));
    let long = tokenizer.encode(&"a ".repeat(500)).expect("cut");
    assert_eq!((long.len(), long[76]), (77, 833), "the end token stays");
    std::fs::write(folder.path().join("added_tokens.json"), r#"{"<new>":900}"#).expect("write");
    let tokenizer = Tokenizer::open(folder.path()).expect("opens");
    assert_eq!(tokenizer.tokenize("a<new>!").expect("fits")[1..], [900, 0]);
    std::fs::remove_file(folder.path().join("merges.txt")).expect("remove");
    let e = Tokenizer::open(folder.path()).expect_err("merges");
    assert!(e.kind() == Kind::Weights && e.message().contains("merges.txt"), "{e}");
}

#[test]
fn damaged_configs_are_refused_by_name() {
    let texts = Texts::of("newer");
    let refused = |config: &str, special: &str, name: &str| {
        let files = Files { config: Some(config), special_tokens: Some(special), ..texts.files() };
        let e = Tokenizer::from_files(&files).expect_err(name);
        assert!(e.kind() == Kind::Weights && e.message().contains(name), "{name}: {e}");
    };
    for (config, name) in [
        (r#"{"pad_token":"<pad>"}"#, "<pad>"),
        (r#"{"pad_token":null}"#, "pad_token"),
        (r#"{"bos_token":{"content":"<|startoftext|>","lstrip":true}}"#, "lstrip"),
        (r#"{"model_max_length":2}"#, "model_max_length"),
        (r#"{"model_max_length":1000000000000000019884624838656}"#, "model_max_length"),
        (r#"{"padding_side":"left"}"#, "padding_side"),
        (r#"{"tokenizer_class":"T5Tokenizer"}"#, "T5Tokenizer"),
        (r#"{"split_special_tokens":true}"#, "split_special_tokens"),
        (r#"{"frobnicate":1}"#, "frobnicate"),
        (r#"{"additional_special_tokens":["<x>"]}"#, "<x>"),
        (r#"{"added_tokens_decoder":{"5":{"content":"!"}}}"#, "in vocab.json"),
        (r#"{"added_tokens_decoder":{"x":{"content":"!"}}}"#, "added token id"),
        (r#"{"added_tokens_decoder":{"99999999":{"content":"<x>"}}}"#, "<x>"),
        ("[]", "tokenizer_config.json"),
    ] {
        refused(config, "{}", name);
    }
    refused("{}", r#"{"mask_token":"!"}"#, "mask_token");
    refused("{}", r#"{"unk_token":""}"#, "unk_token");
}

#[test]
fn endless_prompts_are_refused_and_long_ones_end() {
    let texts = Texts::of("sd2");
    let tokenizer = Tokenizer::from_files(&texts.files()).expect("opens");
    let most = limits::MAX_PROMPT_BYTES;
    let start = std::time::Instant::now();
    for text in ["the", "!", "é", "a\u{301}", " "] {
        assert!(tokenizer.encode(&text.repeat(most / text.len())).is_ok());
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    let e = tokenizer.encode(&"é".repeat(most)).expect_err("long");
    assert!(e.kind() == Kind::Limit && e.message().len() < 400, "{e}");
}

//! CLIP's tokenizer: byte-level byte-pair encoding of lower-cased words, from a checkpoint's own `tokenizer/`
//! folder.
//!
//! The rules are those of transformers' `CLIPTokenizer` (the slow one, which diffusion pipelines load) where the
//! package `ftfy` is absent. In order:
//!
//! 1. Special and added tokens are cut out of the text as they stand, case included, leftmost first, longest
//!    first. Where the pad token is `!`, as Stable Diffusion 2 has it, so is every exclamation mark.
//! 2. Between them: characters of the categories Cc, Cf, Cn, Co and U+FFFD are dropped, except tab, line feed
//!    and carriage return; white space becomes a space; each CJK ideograph stands alone; Unicode's normal form
//!    C; words split at spaces; lower case by Unicode's full mapping. Accents stay. `ftfy` would also repair
//!    mojibake and straighten quotes, and would not split ideographs.
//! 3. Words split into pieces as the original's expression does: a contraction (`'s 't 're 've 'm 'll 'd`), a
//!    run of letters, one number, or a run of anything else.
//! 4. A piece's UTF-8 bytes, written as printable characters and with `</w>` behind the last one, are merged
//!    pair by pair in the order of `merges.txt`. What is not in `vocab.json` becomes the unknown token.
//! 5. The ids are cut to `model_max_length - 2`, put between start and end token, and padded on the right.

mod bpe;
mod config;
mod split;

use super::unicode;
use crate::error::{Error, Kind, Result};
use crate::weights::json::quoted;
use crate::{fs, limits};
use bpe::Merges;
use config::Specials;
use std::path::Path;

/// The texts of a tokenizer's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    /// `vocab.json`: every token's id.
    pub vocabulary: &'a str,
    /// `merges.txt`: pairs to merge, best first, behind one line of heading.
    pub merges: &'a str,
    /// `tokenizer_config.json`.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<&'a str>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a str>,
}

/// A tokenizer as its files describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokenizer {
    merges: Merges,
    specials: Specials,
}

impl Tokenizer {
    /// Reads a `tokenizer/` folder: `vocab.json` and `merges.txt`, and as far as they are there
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
    pub fn open(folder: &Path) -> Result<Tokenizer> {
        let text = |name: &str, limit: u64| -> Result<String> {
            let path = folder.join(name);
            let bytes = fs::File::open(&path).and_then(|mut f| f.read_all(limit)).map_err(|e| {
                let e = Error::new(Kind::Weights, "model", e.message().to_owned());
                e.advise("a tokenizer folder holds vocab.json, merges.txt and tokenizer_config.json")
            })?;
            String::from_utf8(bytes)
                .map_err(|_| Error::new(Kind::Weights, "model", format!("{} is not UTF-8 text", path.display())))
        };
        let optional = |name: &str| {
            let there = folder.join(name).exists();
            if there { text(name, limits::MAX_CONFIG_BYTES).map(Some) } else { Ok(None) }
        };
        let vocabulary = text("vocab.json", limits::MAX_VOCABULARY_BYTES)?;
        let merges = text("merges.txt", limits::MAX_VOCABULARY_BYTES)?;
        let [config, special_tokens, added_tokens] =
            ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"].map(optional);
        let (config, special_tokens, added_tokens) = (config?, special_tokens?, added_tokens?);
        Tokenizer::from_files(&Files {
            vocabulary: &vocabulary,
            merges: &merges,
            config: config.as_deref(),
            special_tokens: special_tokens.as_deref(),
            added_tokens: added_tokens.as_deref(),
        })
        .map_err(|e| e.at(folder.display()))
    }

    /// The same from the files' texts.
    pub fn from_files(files: &Files<'_>) -> Result<Tokenizer> {
        let vocabulary = bpe::vocabulary(files.vocabulary)?;
        let specials = Specials::read(files, &vocabulary)?;
        let merges = Merges::read(files.merges, vocabulary, specials.unknown)?;
        Ok(Tokenizer { merges, specials })
    }

    /// Ids of every encoded text: `model_max_length`.
    pub fn max_length(&self) -> usize {
        self.specials.max_length
    }

    /// Id that texts are padded with.
    pub fn pad_id(&self) -> u32 {
        self.specials.pad
    }

    /// `text` as exactly [`Tokenizer::max_length`] ids: start token, the text's own as far as they fit, end
    /// token, padding. A text above the limit of `limits::MAX_PROMPT_BYTES` is refused.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let s = &self.specials;
        let mut ids = vec![s.start];
        ids.extend(self.tokenize(text)?.into_iter().take(s.max_length - 2));
        ids.push(s.end);
        ids.resize(s.max_length, s.pad);
        Ok(ids)
    }

    /// The ids of `text` alone, all of them.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > limits::MAX_PROMPT_BYTES {
            let shown = quoted(text.get(..limits::MAX_QUOTED).unwrap_or_default());
            let why = format!("a prompt of {} bytes ({shown}...)", text.len());
            return Err(Error::new(Kind::Limit, "model", why)
                .advise(format!("only some {} tokens of it would count; shorten it", self.specials.max_length)));
        }
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, special, after) = self.specials.cut(rest);
            for word in split::words(before) {
                for piece in split::pieces(&word) {
                    match self.specials.named(piece) {
                        Some(id) => ids.push(id),
                        None => self.merges.encode(piece, &mut ids),
                    }
                }
            }
            ids.extend(special);
            rest = after;
        }
        Ok(ids)
    }
}

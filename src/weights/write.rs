//! Writes safetensors files: f32, names sorted, header padded so that the data begins on 8 bytes.
//!
//! The header comes first and holds every range, so names and shapes are declared before any value; values
//! then go through one by one, and no more than one tensor is in memory.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs::{AtomicFile, io_error};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// Values converted to bytes at a time.
const CHUNK: usize = 1 << 14;

/// A safetensors file on its way to its place; see [`AtomicFile`] for what a failure leaves there.
#[derive(Debug)]
pub struct TensorWriter {
    file: AtomicFile,
    /// Name and number of values of each tensor, in the file's order.
    tensors: Vec<(String, u64)>,
    written: usize,
}

impl TensorWriter {
    /// Starts a file at `target` with tensors of these names and shapes (outermost extent first, `[]` is a
    /// scalar), which must then come in the order of [`TensorWriter::names`].
    pub fn create(target: &Path, overwrite: bool, tensors: &[(String, Vec<u64>)]) -> Result<TensorWriter> {
        let mut sorted: Vec<&(String, Vec<u64>)> = tensors.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(twice) = sorted.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Error::new(Kind::Internal, "weights", format!("two tensors called `{}`", twice[0].0)));
        }
        let (mut header, mut begin, mut counts) = (Map::new(), 0u64, Vec::with_capacity(sorted.len()));
        for (name, shape) in sorted {
            let count = extent::product(name, shape)?;
            let end = extent::product(name, &[count, 4])?.checked_add(begin).ok_or_else(|| {
                Error::new(Kind::Limit, "weights", format!("{}: more than 2^64 bytes", target.display()))
            })?;
            header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}));
            counts.push((name.clone(), count));
            begin = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut file = AtomicFile::create(target, overwrite)?;
        let length = (text.len() as u64).to_le_bytes();
        file.write_all(&length)
            .and_then(|()| file.write_all(&text))
            .map_err(|e| io_error("cannot write", target, &e))?;
        Ok(TensorWriter { file, tensors: counts, written: 0 })
    }

    /// The names in the order in which the values must come.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// Writes the values of the next tensor, which must be `name`, outermost extent first.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let expected = self.tensors.get(self.written).map(|(n, c)| (n.as_str(), *c));
        if expected != Some((name, values.len() as u64)) {
            let why = format!("{} values of `{name}` where {expected:?} should come", values.len());
            return Err(Error::new(Kind::Internal, "weights", why));
        }
        let mut bytes = [0u8; CHUNK * 4];
        for chunk in values.chunks(CHUNK) {
            for (b, v) in bytes.chunks_exact_mut(4).zip(chunk) {
                b.copy_from_slice(&v.to_le_bytes());
            }
            let part = &bytes[..chunk.len() * 4];
            self.file.write_all(part).map_err(|e| io_error("cannot write", self.file.target(), &e))?;
        }
        self.written += 1;
        Ok(())
    }

    /// Moves the complete file to its place.
    pub fn finish(self) -> Result<()> {
        if self.written != self.tensors.len() {
            let why = format!("{} of {} tensors were written", self.written, self.tensors.len());
            return Err(Error::new(Kind::Internal, "weights", why));
        }
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Checkpoint;

    #[test]
    fn what_is_written_is_read_back_by_the_strict_reader() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.safetensors");
        let tensors = [("b".to_owned(), vec![2, 3]), ("a\"\u{fc}".to_owned(), vec![]), ("c".to_owned(), vec![0, 4])];
        let mut w = TensorWriter::create(&path, false, &tensors).expect("created");
        assert_eq!(w.names().collect::<Vec<_>>(), ["a\"\u{fc}", "b", "c"]);
        assert!(w.write("b", &[0.0; 6]).is_err(), "not in order");
        w.write("a\"\u{fc}", &[7.5]).expect("scalar");
        assert!(w.write("b", &[0.0; 5]).is_err(), "too short");
        w.write("b", &[1.0, 2.0, 3.0, 4.0, 5.0, -0.0]).expect("values");
        w.write("c", &[]).expect("empty");
        assert!(!path.exists(), "not before it is complete");
        w.finish().expect("in place");
        let file = Checkpoint::open(&path).expect("reads");
        assert_eq!(file.read_f32("b").expect("b"), [1.0, 2.0, 3.0, 4.0, 5.0, -0.0]);
        assert_eq!(file.read_f32("a\"\u{fc}").expect("a"), [7.5]);
        let bytes = std::fs::read(&path).expect("bytes");
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().expect("8")) % 8, 0);
        // The published reader agrees.
        let theirs = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors reads it");
        assert_eq!(theirs.tensor("b").expect("b").shape(), [2, 3]);
    }

    #[test]
    fn an_incomplete_file_never_appears() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.safetensors");
        let tensors = [("a".to_owned(), vec![1]), ("b".to_owned(), vec![1])];
        let mut w = TensorWriter::create(&path, false, &tensors).expect("created");
        w.write("a", &[1.0]).expect("one");
        assert!(w.finish().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
        assert!(TensorWriter::create(&path, false, &[tensors[0].clone(), tensors[0].clone()]).is_err());
    }
}

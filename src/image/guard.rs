//! The last resort against a decoder's own panic: it becomes an error.
//!
//! Also the row counter: a source that is asked for one row too many, or for a row of another
//! length, refuses here, once for all formats.

use super::{Header, RowSource, bad};
use crate::error::{Error, Kind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Runs `call`; a panic in it becomes [`Kind::BadInput`]. What `call` was working on must not be
/// used again after that.
pub(super) fn guard<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(bad(format!("the decoder gave up on damaged data ({text})")))
        }
    }
}

/// A source whose rows are counted, whose panics are errors, and whose errors name the file.
pub(super) struct Guarded {
    inner: Box<dyn RowSource>,
    path: PathBuf,
    next: u64,
    failed: bool,
}

impl Guarded {
    pub(super) fn new(inner: Box<dyn RowSource>, path: &Path) -> Guarded {
        let path = if super::is_pipe(path) { Path::new("standard input") } else { path };
        Guarded { inner, path: path.to_owned(), next: 0, failed: false }
    }
}

impl RowSource for Guarded {
    fn header(&self) -> &Header {
        self.inner.header()
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        let header = self.inner.header();
        if row.len() != header.row_len() || self.next >= header.height || self.failed {
            let text = format!(
                "row {} of {} asked for, into {} values where a row has {}",
                self.next,
                header.height,
                row.len(),
                header.row_len()
            );
            return Err(Error::new(Kind::Internal, "image", text));
        }
        let y = self.next;
        self.next += 1;
        let read = guard(|| self.inner.read_row(row));
        self.failed = read.is_err();
        read.map_err(|e| e.at(format!("{}: row {y}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let e = guard::<()>(|| panic!("index {} out of range", 7)).expect_err("a panic");
        assert_eq!(e.kind(), Kind::BadInput);
        assert!(e.message().contains("index 7"), "{e}");
    }
}

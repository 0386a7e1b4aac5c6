//! The one error type, its kinds and the exit code of each.
//!
//! Text form: `stage: what: why [what to do]`. Callers match on [`Error::kind`]; the text is for
//! people and may change between releases.

use std::fmt;

/// What went wrong, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller asked for something that makes no sense (a scale of 0, unknown option value).
    Usage,
    /// An input picture is missing, damaged, or not what it says it is.
    BadInput,
    /// A stated limit was exceeded (see `limits.rs`).
    Limit,
    /// A model folder, its config or its tensors are missing, damaged or do not fit.
    Weights,
    /// The device asked for does not exist or cannot run the plan.
    Device,
    /// The device went away while working.
    DeviceLost,
    /// Memory ran out, or the budget is too small for any plan.
    Memory,
    /// A file or folder could not be read or written.
    Io,
    /// A computed value is not finite, or overflowed its storage type.
    NonFinite,
    /// The job was cancelled.
    Cancelled,
    /// A broken promise inside this program: always a bug here.
    Internal,
}

impl Kind {
    /// Every kind, in the order of the table in the README.
    pub const ALL: [Kind; 11] = [
        Kind::Usage,
        Kind::BadInput,
        Kind::Limit,
        Kind::Weights,
        Kind::Device,
        Kind::DeviceLost,
        Kind::Memory,
        Kind::Io,
        Kind::NonFinite,
        Kind::Cancelled,
        Kind::Internal,
    ];

    /// The exit code of the program when this kind ends it.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Weights => 3,
            Kind::Device | Kind::DeviceLost => 4,
            Kind::Memory => 5,
            Kind::BadInput | Kind::Limit | Kind::Io => 6,
            Kind::NonFinite | Kind::Internal => 7,
            Kind::Cancelled => 130,
        }
    }

    /// The kind's name as printed by `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::BadInput => "bad_input",
            Kind::Limit => "limit",
            Kind::Weights => "weights",
            Kind::Device => "device",
            Kind::DeviceLost => "device_lost",
            Kind::Memory => "memory",
            Kind::Io => "io",
            Kind::NonFinite => "non_finite",
            Kind::Cancelled => "cancelled",
            Kind::Internal => "internal",
        }
    }
}

struct Inner {
    kind: Kind,
    stage: String,
    message: String,
    advice: Option<String>,
}

/// An error: a [`Kind`], the stage it happened in, what and why, and what to do about it.
pub struct Error(Box<Inner>);

/// The result type of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` met in `stage` (for example `image`, `weights`, `plan`); `message` says
    /// what and why, with the values.
    pub fn new(kind: Kind, stage: impl Into<String>, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, stage: stage.into(), message: message.into(), advice: None }))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Error {
        self.0.advice = Some(advice.into());
        self
    }

    /// Puts `what` (a file name, a tensor, a tile) in front of the message.
    #[must_use]
    pub fn at(mut self, what: impl fmt::Display) -> Error {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The stage it happened in.
    pub fn stage(&self) -> &str {
        &self.0.stage
    }

    /// What and why, without the stage and the advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, when there is something.
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// The exit code of the program when this error ends it.
    pub fn exit_code(&self) -> u8 {
        self.0.kind.exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.stage, self.0.message)?;
        if let Some(advice) = &self.0.advice {
            write!(f, " [{advice}]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_names_stage_and_advice() {
        let e = Error::new(Kind::Io, "image", "disk full").at("a.png").advise("free some space");
        assert_eq!(e.to_string(), "image: a.png: disk full [free some space]");
        assert_eq!(e.exit_code(), 6);
    }

    #[test]
    fn every_kind_has_a_code_and_a_distinct_name() {
        let names: std::collections::HashSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|k| k.exit_code() > 1));
    }
}

//! The account of device memory: what is held, the most that was, and the cap.

use crate::error::{Error, Kind, Result};

/// Device bytes of one backend: buffers, and whatever else it allocates on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    held: u64,
    peak: u64,
    cap: Option<u64>,
}

impl Account {
    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Most bytes held at once since [`Account::limit`] was last called.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Refuses from now on what would bring the bytes held above `cap`; counts the peak anew.
    pub fn limit(&mut self, cap: Option<u64>) {
        (self.cap, self.peak) = (cap, self.held);
    }

    /// Whether `bytes` more may be held.
    pub fn fits(&self, bytes: u64) -> bool {
        self.cap.is_none_or(|cap| self.held.saturating_add(bytes) <= cap)
    }

    /// Enters `bytes`; called before they are allocated. An error of kind `Memory` where the cap forbids it.
    pub fn take(&mut self, bytes: u64, what: &str) -> Result<()> {
        if !self.fits(bytes) {
            let cap = self.cap.unwrap_or(u64::MAX);
            let why = format!("{bytes} bytes ({what}) beside {} held exceed the cap of {cap}", self.held);
            return Err(Error::new(Kind::Memory, "backend", why).advise("use a smaller tile or a larger --vram"));
        }
        self.held += bytes;
        self.peak = self.peak.max(self.held);
        Ok(())
    }

    /// Takes `bytes` out again.
    pub fn give(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_the_peak_is_remembered() {
        let mut a = Account::default();
        a.take(100, "before").expect("no cap yet");
        a.limit(Some(150));
        assert_eq!(a.take(51, "too much").expect_err("above the cap").kind(), Kind::Memory);
        a.take(50, "just").expect("fits");
        a.give(120);
        a.take(10, "again").expect("fits");
        assert_eq!((a.held(), a.peak()), (40, 150));
        a.limit(None);
        assert_eq!(a.peak(), 40);
        a.take(u64::MAX - 40, "all").expect("no cap");
    }
}

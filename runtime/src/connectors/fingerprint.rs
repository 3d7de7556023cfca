//! A fixed hash over what sources and sinks say of themselves: equal on every node and version.

/// FNV-1a over tagged, length-prefixed parts.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// A hash that depends on `what` is being described.
    pub fn new(what: &str) -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325).bytes(what.as_bytes())
    }

    /// Adds a number.
    pub fn number(self, number: u64) -> Fingerprint {
        self.raw(&number.to_le_bytes())
    }

    /// Adds some bytes and how many they are.
    pub fn bytes(self, bytes: &[u8]) -> Fingerprint {
        self.number(bytes.len() as u64).raw(bytes)
    }

    /// The hash over everything added.
    pub fn finish(self) -> u64 {
        self.0
    }

    fn raw(self, bytes: &[u8]) -> Fingerprint {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Fingerprint(bytes.iter().fold(self.0, step))
    }
}

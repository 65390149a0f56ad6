//! The bytes that travel: the same in every process, so that each side can tell what must come.

/// After so many bytes the pattern begins again. A prime number of bytes more than a power of two, so that a
/// block delivered twice or left out does not fit.
pub(crate) const PERIOD: usize = 65_537;
/// So much of every read is compared. All of it would cost the generator more than the transfer does.
const SAMPLE: usize = 32;

/// The pattern, once and a half, so that a slice of it can begin anywhere.
#[derive(Debug)]
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        Self { bytes: period.iter().cycle().take(8 * PERIOD).copied().collect() }
    }

    /// The bytes that follow after `offset` bytes of the stream, at least six periods of them.
    pub(crate) fn from(&self, offset: u64) -> &[u8] {
        let period = u64::try_from(PERIOD).unwrap();
        &self.bytes[usize::try_from(offset % period).unwrap()..]
    }

    /// Whether `bytes` may stand at `offset` of the stream; looks at their beginning and their end.
    pub(crate) fn fits(&self, offset: u64, bytes: &[u8]) -> bool {
        let sample = bytes.len().min(SAMPLE);
        let tail = bytes.len() - sample;
        bytes[..sample] == self.from(offset)[..sample]
            && bytes[tail..] == self.from(offset + u64::try_from(tail).unwrap())[..sample]
    }
}

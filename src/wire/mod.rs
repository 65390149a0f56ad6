//! Floor 2: bytes on the wire and what they mean. No I/O, no time: slices in, values out.

mod greeting;

pub use greeting::is_greeting;

//! The binary: its entry, and nothing else.

fn main() {}

//! How messages put what stands in a file. The words themselves are shared with those who read requests.

pub(super) use crate::model::{is_unprintable, meant, nearest, quote};

//! Durations and sizes: numbers that have their unit with them.

use std::time::Duration;

use crate::model::parse_duration as duration;

use super::key::{Key, Kind};
use super::keys;
use super::read::Reader;
use super::value::{Given, Raw, Value};
use super::view::View;

/// The longest duration: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

/// After so long a silence the kernel can be told to keep a connection alive: at most 32767 s.
const KEEPALIVE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(9 * 3600);

/// A thread that stays awake for longer gains nothing: waking up takes a fraction of this.
const BUSY_POLL_MAX: Duration = Duration::from_millis(1);

/// A size in bytes.
fn size(given: &Given<'_>, key: &Key) -> Result<u64, String> {
    let Kind::Size { min, max } = key.kind else { return Err(given.mismatch(key)) };
    let text = given.text(key)?;
    let bytes = bytes(text).map_err(|why| given.but(key, why))?;
    let fits = Some(bytes).filter(|bytes| (min..=max).contains(bytes));
    fits.ok_or_else(|| given.but(key, &format!("is not between \"{}\" and \"{}\"", as_size(min), as_size(max))))
}

/// Bytes as a file says them, in the largest unit in which they are a whole number.
pub(super) fn as_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let steps = (0..UNITS.len()).rev().find(|step| bytes.is_multiple_of(1 << (10 * step)) && bytes > 0).unwrap_or(0);
    format!("{}{}", bytes >> (10 * steps), UNITS.get(steps).unwrap_or(&""))
}

/// Numbers that the plan holds in another width than the file's.
macro_rules! widths {
    ($($int:ty),+) => {$(
        impl Value for $int {
            fn blank() -> Self {
                0
            }

            fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
                let number: u64 = match key.kind {
                    Kind::Size { .. } => size(given, key)?,
                    Kind::Flag | Kind::Integer { .. } | Kind::Duration { .. } | Kind::Word(_) | Kind::Method
                    | Kind::UrlPath | Kind::Statuses | Kind::Secret | Kind::Pool | Kind::Binds | Kind::Address
                    | Kind::Backends | Kind::Networks | Kind::Names(_) | Kind::Rate | Kind::Ip
                    | Kind::Text { .. } | Kind::Command | Kind::Argv | Kind::Texts(_) | Kind::Directory | Kind::File
                    | Kind::Table(_) | Kind::Tables(_) => u32::read(given, key)?.into(),
                };
                Self::try_from(number).map_err(|_| given.mismatch(key))
            }
        }
    )+};
}

widths!(u16, u64, usize);

/// The bytes that a text such as "64KiB" means.
///
/// # Errors
///
/// Says what is wrong with it, as the end of a sentence.
pub fn bytes(text: &str) -> Result<u64, &'static str> {
    const WANTED: &str =
        "is no size; write a whole number with its unit (B, KB, KiB, MB, MiB, GB, GiB), such as \"64KiB\"";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text.get(digits.len()..).unwrap_or_default().trim() {
        "" => return Err("has no unit; write B, KiB, MiB or GiB behind it, such as \"64KiB\""),
        "B" => 1,
        "KB" | "kB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(WANTED),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WANTED);
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or("is larger than anything")
}

impl Value for Duration {
    fn blank() -> Self {
        Self::ZERO
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let Kind::Duration { min } = key.kind else { return Err(given.mismatch(key)) };
        let parsed = match &given.raw {
            Raw::Text(text) => duration(text).map_err(|why| given.but(key, &why)),
            Raw::Integer(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() < 10 => Err(given
                .but(key, &format!("has no unit; write \"{digits}s\" for seconds, \"{digits}ms\" for milliseconds"))),
            Raw::Integer(_) | Raw::Flag(_) => Err(given.mismatch(key)),
        }?;
        if parsed < min {
            return Err(given.but(key, &format!("is too short; it must be at least \"{}ms\"", min.as_millis())));
        }
        if parsed > DURATION_MAX {
            return Err(given.but(key, "is too long; a year (\"8760h\") is the most"));
        }
        Ok(parsed)
    }
}

/// `tcp_keepalive`: none, or what the kernel can count.
pub(super) fn keepalive(reader: &mut Reader<'_>, daemon: &View<'_>) -> Duration {
    let key = &keys::TCP_KEEPALIVE;
    let idle: Duration = reader.get(daemon, key);
    if !idle.is_zero() && !KEEPALIVE.contains(&idle) {
        let message = format!("`{}` is out of bounds; write \"0s\" for never, or from \"1s\" to \"9h\"", key.name);
        reader.faults.wrong(daemon.place(key), message);
    }
    idle
}

/// `busy_poll`: none, or a moment.
pub(super) fn busy_poll(reader: &mut Reader<'_>, listener: &View<'_>) -> Duration {
    let key = &keys::BUSY_POLL;
    let time: Duration = reader.get(listener, key);
    if time > BUSY_POLL_MAX {
        let message = format!("`{}` is too long; \"1ms\" is the most", key.name);
        reader.faults.wrong(listener.place(key), message);
    }
    time
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Given, Value, bytes, duration};
    use crate::config::key::Key;
    use crate::config::keys;

    fn text<T: Value>(text: &str, key: &Key) -> Result<T, String> {
        T::read(&Given::literal(text), key)
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, millis) in
            [("250ms", 250), ("1s 500ms", 1500), ("5m", 300_000), ("0s", 0), (" 1h30m ", 5_400_000), ("1.5s", 1500)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, why) in [
            ("5", "has no unit"),
            ("-5s", "is negative"),
            ("5s ago", "is negative"),
            ("1mo", "no days, months or years"),
            ("1y", "no days"),
            ("1d", "no days"),
            ("", "is no duration"),
            ("soon", "is no duration"),
            ("99999999999999999999s", "is no duration"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(text::<Duration>("5ms", &keys::INTERVAL).unwrap_err().contains("at least \"10ms\""));
        assert!(text::<Duration>("8761h", &keys::INTERVAL).unwrap_err().contains("a year"));
    }

    #[test]
    fn a_size_has_a_unit() {
        for (text, count) in [("64KiB", 65536), ("16 MiB", 16 << 20), ("1GB", 1_000_000_000), ("7B", 7), ("1kB", 1000)]
        {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for (text, why) in [
            ("64", "has no unit"),
            ("64K", "is no size"),
            ("KiB", "is no size"),
            ("-1KiB", "is no size"),
            ("1.5MiB", "is no size"),
            ("99999999999GiB", "larger"),
            ("é", "is no size"),
        ] {
            assert!(bytes(text).unwrap_err().contains(why), "{text}");
        }
        assert!(text::<usize>("1KiB", &keys::RELAY_BUFFER).unwrap_err().contains("between \"4KiB\" and \"1MiB\""));
    }

    proptest! {
        #[test]
        fn a_duration_in_milliseconds_reads_back(millis in 0u64..31_536_000_000) {
            prop_assert_eq!(duration(&format!("{millis}ms")), Ok(Duration::from_millis(millis)));
        }
    }
}

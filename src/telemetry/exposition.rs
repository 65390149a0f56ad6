//! The families of backends, written in Prometheus' text format. Ten thousand backends are 45 MB of text, so it is
//! handed on in pieces as it is made, and nothing is formatted that can be put together.

use crate::model::{DialError, Direction, MonoTime, NotLetIn, TunnelState};

use super::backends::{BackendMetrics, Histogram, RESULTS};
use super::family::{SECONDS, full};

/// A piece is handed on once it has this many bytes; always at a line's end.
pub(super) const PIECE: usize = 64 * 1024;

/// A piece may be so much longer, by the lines of the backend that fills it.
const MORE: usize = 8 * 1024;

/// What a family's lines are.
enum Lines {
    /// One number.
    Count(fn(&BackendMetrics) -> u64),
    /// One for each of these values of a label.
    Each(&'static str, &'static [&'static [&'static str]], fn(&BackendMetrics, usize) -> u64),
    /// The same, but there may be none.
    EachKnown(&'static str, &'static [&'static str], fn(&BackendMetrics, usize) -> Option<u64>),
    /// A number that there may not be.
    Known(fn(&BackendMetrics) -> Option<u64>),
    /// A time in nanoseconds that there may not be, written in seconds.
    Time(fn(&BackendMetrics) -> Option<u64>),
    /// The same, up to now.
    UpTo(fn(&BackendMetrics, MonoTime) -> Option<u64>),
    /// How often it took how long.
    Times(fn(&BackendMetrics) -> &Histogram),
}

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    lines: Lines,
}

const fn counter(name: &'static str, help: &'static str, lines: Lines) -> Family {
    Family { name, kind: "counter", help, lines }
}

const fn gauge(name: &'static str, help: &'static str, lines: Lines) -> Family {
    Family { name, kind: "gauge", help, lines }
}

const fn histogram(name: &'static str, help: &'static str, of: fn(&BackendMetrics) -> &Histogram) -> Family {
    Family { name, kind: "histogram", help, lines: Lines::Times(of) }
}

/// All families of backends; each line has the labels `backend` and `pool`, and perhaps one more.
const FAMILIES: [Family; 19] = [
    counter("backend_connections_total", "Number of sessions established.", Lines::Count(BackendMetrics::connections)),
    gauge("backend_connections_active", "Number of sessions open now.", Lines::Count(BackendMetrics::active)),
    counter(
        "backend_connect_failures_total",
        "Number of dials that failed, or were followed by nothing, by reason.",
        Lines::Each("reason", &[DialError::LABELS, NotLetIn::LABELS], BackendMetrics::connect_failures),
    ),
    histogram(
        "backend_connect_seconds",
        "Time of dials that became sessions, in seconds.",
        BackendMetrics::connect_seconds,
    ),
    counter(
        "backend_bytes_total",
        "Number of bytes moved, by direction.",
        Lines::Each("direction", &[Direction::LABELS], |of, index| {
            Direction::ALL.get(index).map_or(0, |direction| of.moved(*direction))
        }),
    ),
    gauge("backend_healthy", "1 if its checks say that it is healthy, else 0.", Lines::Count(BackendMetrics::healthy)),
    gauge("backend_eligible", "1 if it may get new sessions, else 0.", Lines::Count(BackendMetrics::eligible)),
    gauge(
        "backend_latency_seconds",
        "Time of its last good check, in seconds; 0 before the first.",
        Lines::Time(|of| Some(of.latency_nanos())),
    ),
    gauge(
        "backend_last_active_timestamp_seconds",
        "When a session to it last began, in seconds since 1970; 0 before the first.",
        Lines::Time(|of| Some(of.last_active_nanos())),
    ),
    counter(
        "check_total",
        "Number of checks made, by result.",
        Lines::Each("result", &[&RESULTS], BackendMetrics::checks),
    ),
    counter("check_failures_total", "Number of checks that failed.", Lines::Count(BackendMetrics::check_failures)),
    histogram("check_seconds", "Time that checks took, in seconds.", BackendMetrics::check_seconds),
    gauge(
        "replication_lag_bytes",
        "Bytes of the write-ahead log that a PostgreSQL server has not replayed; 0 of a primary, left out if not known.",
        Lines::Known(BackendMetrics::behind_bytes),
    ),
    gauge(
        "replication_lag_seconds",
        "Time since the primary had written what a PostgreSQL server has not replayed, in seconds; left out if not known.",
        Lines::Time(BackendMetrics::behind_nanos),
    ),
    gauge(
        "standby_healthy",
        "1 if a PostgreSQL standby may get new sessions, else 0; left out of what is no standby.",
        Lines::Known(BackendMetrics::standby_healthy),
    ),
    gauge(
        "monitor_connected",
        "1 while the monitor has a session to a PostgreSQL server, else 0; without one its role is the one it had last, or none.",
        Lines::Known(BackendMetrics::monitor_connected),
    ),
    gauge(
        "tunnel_state",
        "1 for the state that the backend's tunnel is in, 0 for the others; left out of backends without a tunnel.",
        Lines::EachKnown("state", TunnelState::LABELS, BackendMetrics::tunnel_state),
    ),
    counter(
        "tunnel_restarts_total",
        "Number of times that the backend's tunnel was started after the first time.",
        Lines::Known(BackendMetrics::tunnel_restarts),
    ),
    gauge(
        "tunnel_uptime_seconds",
        "Time for which checks have come through the backend's tunnel, in seconds; 0 while they do not.",
        Lines::UpTo(BackendMetrics::tunnel_up_nanos),
    ),
];

/// Writes all families of `backends` as they are `now`, and has `give` take each piece of text; ends as soon as that says no.
pub(super) fn write(backends: &[std::sync::Arc<BackendMetrics>], now: MonoTime, give: &mut dyn FnMut(Vec<u8>) -> bool) {
    let mut text = Vec::with_capacity(PIECE + MORE);
    for family in &FAMILIES {
        let head = Head::of(family);
        text.extend_from_slice(head.comment.as_bytes());
        for backend in backends {
            head.write(&family.lines, backend, now, &mut text);
            if text.len() >= PIECE {
                let piece = std::mem::replace(&mut text, Vec::with_capacity(PIECE + MORE));
                if !give(piece) {
                    return;
                }
            }
        }
    }
    give(text);
}

/// What the lines of one family have in common.
struct Head {
    comment: String,
    /// The name and the opening brace; of a histogram that of its buckets, then of its sum and its count.
    open: String,
    sum: String,
    count: String,
    /// What comes after the labels of the backend, up to the value: for each value of a further label.
    close: Vec<String>,
}

impl Head {
    fn of(family: &Family) -> Self {
        let Family { name, kind, help, lines } = family;
        let name = full(name);
        let (open, close) = match lines {
            Lines::Count(_) | Lines::Known(_) | Lines::Time(_) | Lines::UpTo(_) => {
                (format!("{name}{{"), vec!["} ".to_owned()])
            }
            Lines::Each(label, values, _) => {
                let close = values.iter().copied().flatten().map(|value| format!(",{label}=\"{value}\"}} "));
                (format!("{name}{{"), close.collect())
            }
            Lines::EachKnown(label, values, _) => {
                let close = values.iter().map(|value| format!(",{label}=\"{value}\"}} "));
                (format!("{name}{{"), close.collect())
            }
            Lines::Times(_) => {
                let bounds = SECONDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                (format!("{name}_bucket{{"), bounds.map(|bound| format!(",le=\"{bound}\"}} ")).collect())
            }
        };
        Self {
            comment: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            open,
            sum: format!("{name}_sum{{"),
            count: format!("{name}_count{{"),
            close,
        }
    }

    fn write(&self, lines: &Lines, backend: &BackendMetrics, now: MonoTime, text: &mut Vec<u8>) {
        let labels = backend.labels();
        match lines {
            Lines::Count(read) => self.line(labels, read(backend), text),
            Lines::Known(read) => {
                if let Some(value) = read(backend) {
                    self.line(labels, value, text);
                }
            }
            Lines::Time(read) => self.seconds(labels, read(backend), text),
            Lines::UpTo(read) => self.seconds(labels, read(backend, now), text),
            Lines::EachKnown(_, _, read) => {
                for (index, close) in self.close.iter().enumerate() {
                    let Some(value) = read(backend, index) else { continue };
                    join(text, &[&self.open, labels, close]);
                    put(text, value);
                    text.push(b'\n');
                }
            }
            Lines::Each(_, _, read) => {
                for (index, close) in self.close.iter().enumerate() {
                    join(text, &[&self.open, labels, close]);
                    put(text, read(backend, index));
                    text.push(b'\n');
                }
            }
            Lines::Times(read) => self.histogram(labels, read(backend), text),
        }
    }

    fn seconds(&self, labels: &str, nanos: Option<u64>, text: &mut Vec<u8>) {
        if let Some(nanos) = nanos {
            join(text, &[&self.open, labels, "} "]);
            put_seconds(text, nanos);
            text.push(b'\n');
        }
    }

    fn line(&self, labels: &str, value: u64, text: &mut Vec<u8>) {
        join(text, &[&self.open, labels, "} "]);
        put(text, value);
        text.push(b'\n');
    }

    fn histogram(&self, labels: &str, of: &Histogram, text: &mut Vec<u8>) {
        let (counts, sum) = of.read();
        let mut so_far = 0;
        for (close, count) in self.close.iter().zip(counts) {
            so_far += count;
            join(text, &[&self.open, labels, close]);
            put(text, so_far);
            text.push(b'\n');
        }
        join(text, &[&self.sum, labels, "} "]);
        put_seconds(text, sum);
        join(text, &["\n", &self.count, labels, "} "]);
        put(text, so_far);
        text.push(b'\n');
    }
}

fn join(text: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        text.extend_from_slice(part.as_bytes());
    }
}

/// Digits that a number of 64 bits may have.
const DIGITS: usize = 20;

/// Writes a whole number.
fn put(text: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; DIGITS];
    let mut left = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    text.extend_from_slice(digits.get(DIGITS - used..).unwrap_or_default());
}

/// Writes nanoseconds as seconds, without zeros at the end.
fn put_seconds(text: &mut Vec<u8>, nanos: u64) {
    put(text, nanos / 1_000_000_000);
    let mut fraction = nanos % 1_000_000_000;
    if fraction == 0 {
        return;
    }
    text.push(b'.');
    let mut unit = 100_000_000;
    while fraction > 0 {
        text.push(b'0' + u8::try_from(fraction / unit).unwrap_or_default());
        fraction %= unit;
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::{put, put_seconds};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 1, 9, 10, 99, 100, 1_234_567_890, u64::MAX - 1, u64::MAX] {
            assert_eq!(written(|text| put(text, number)), number.to_string());
        }
        let seconds = [
            (0, "0"),
            (1, "0.000000001"),
            (250_000, "0.00025"),
            (1_500_000_000, "1.5"),
            (1_000_000_001, "1.000000001"),
            (1_763_756_906_123_456_789, "1763756906.123456789"),
            (u64::MAX, "18446744073.709551615"),
        ];
        for (nanos, expected) in seconds {
            assert_eq!(written(|text| put_seconds(text, nanos)), expected);
        }
    }
}

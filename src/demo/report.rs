//! What people read: an introduction, one line for each thing that happens, and the sum.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::model::MonoTime;

use super::tally::Count;

/// How wide the column with the words is. A line is 97 wide.
const WORDS: usize = 52;
/// What stands before the words.
const INDENT: usize = 22;

/// Something to tell.
#[derive(Debug)]
pub(super) struct News {
    /// When it happened.
    pub(super) at: MonoTime,
    /// Who says so.
    pub(super) voice: Voice,
    /// Whose.
    pub(super) pool: Pool,
    /// What, in words.
    pub(super) text: String,
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// The script, of what it does to the servers.
    Demo,
    /// The daemon, of what it decides.
    Proxy,
    /// A client.
    Client,
}

/// The two pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// The echo servers.
    Echo,
    /// PostgreSQL.
    Postgres,
}

impl Pool {
    /// The pool's name in the configuration, and its listener's.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Postgres => "pg",
        }
    }
}

impl Voice {
    const fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Proxy => "proxy",
            Self::Client => "client",
        }
    }

    const fn color(self) -> &'static str {
        match self {
            Self::Demo => "33",
            Self::Proxy => "36",
            Self::Client => "31",
        }
    }
}

/// Writes for people.
#[derive(Debug)]
pub(super) struct Report<W> {
    out: W,
    color: bool,
}

impl Report<io::Stdout> {
    /// To standard output; in colour where that is a terminal and nobody asked for none.
    pub(super) fn stdout() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { out: io::stdout(), color: io::stdout().is_terminal() && !plain }
    }
}

impl<W: Write> Report<W> {
    /// A line as it is.
    pub(super) fn plain(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// What the columns of the lines to come are.
    pub(super) fn head(&mut self) -> io::Result<()> {
        let head = format!(
            "{:>8}  {:<6} {:<4} {:<WORDS$}{:>7}{:>7}{:>9}",
            "time", "who", "pool", "what happened", "served", "failed", "longest"
        );
        let head = self.paint("1", &head);
        self.plain(&head)
    }

    /// What happened, with what the pool's clients saw since its last line.
    pub(super) fn news(&mut self, news: &News, window: Count) -> io::Result<()> {
        let at = news.at.since(MonoTime::ZERO).as_secs_f64();
        let mut lines = wrap(&news.text, WORDS).into_iter();
        let first = format!("{:<WORDS$}", lines.next().unwrap_or_default());
        let failed = format!("{:>7}", window.failed);
        let failed = if window.failed == 0 { failed } else { self.paint("31;1", &failed) };
        let line = format!(
            "{at:>7.2}s  {:<6} {:<4} {}{:>7}{failed}{:>9}",
            news.voice.name(),
            news.pool.name(),
            self.paint(news.voice.color(), &first),
            window.served,
            wait(window),
        );
        self.plain(&line)?;
        for more in lines {
            let more = self.paint(news.voice.color(), &more);
            self.plain(&format!("{:INDENT$}{more}", ""))?;
        }
        Ok(())
    }

    /// Who served one pool's clients.
    pub(super) fn served_by(&mut self, pool: Pool, names: &[(String, u64)], cut: u64) -> io::Result<()> {
        let mut parts: Vec<String> = names.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if parts.is_empty() {
            parts.push("nobody".to_owned());
        }
        let mut line = format!("{:<4} served by: {}", pool.name(), parts.join(", "));
        if cut > 0 {
            line.push_str(&format!("; {cut} were cut off by a kill in their midst and came again"));
        }
        self.plain(&line)
    }

    /// The last line.
    pub(super) fn summary(&mut self, all: Count) -> io::Result<()> {
        self.plain(&format!(
            "served {}, failed {}, longest wait {} ms",
            all.served,
            all.failed,
            all.longest.as_millis()
        ))
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wait(window: Count) -> String {
    match window.longest {
        Duration::ZERO => "-".to_owned(),
        longest => format!("{} ms", longest.as_millis()),
    }
}

/// `text` in lines of at most `width` characters, broken between words where it can be.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let gap = usize::from(length > 0);
            if length > 0 && length + gap + rest.len() > width {
                lines.push(String::new());
                length = 0;
                continue;
            }
            let piece: String = rest.drain(..rest.len().min(width)).collect();
            if let Some(line) = lines.last_mut() {
                line.extend((gap == 1).then_some(' '));
                line.push_str(&piece);
                length += gap + piece.chars().count();
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{News, Pool, Report, Voice, wrap};
    use crate::demo::tally::Count;
    use crate::model::MonoTime;

    fn written(color: bool, write: impl FnOnce(&mut Report<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        write(&mut Report { out: &mut out, color });
        String::from_utf8(out).unwrap()
    }

    fn news(text: &str) -> News {
        let at = MonoTime::ZERO + Duration::from_millis(12_250);
        News { at, voice: Voice::Proxy, pool: Pool::Echo, text: text.to_owned() }
    }

    #[test]
    fn the_last_line_is_the_one_that_scripts_read() {
        let all = Count { served: 1200, failed: 0, cut: 3, longest: Duration::from_micros(1_499_900) };
        assert_eq!(written(true, |r| r.summary(all).unwrap()), "served 1200, failed 0, longest wait 1499 ms\n");
    }

    #[test]
    fn lines_stand_in_columns_and_are_at_most_100_wide() {
        let window = Count { served: 123_456, failed: 12, cut: 0, longest: Duration::from_millis(61) };
        let long = "backend alpha is unhealthy (dead): connection reset; confirmed in 51.2ms";
        let text = written(false, |report| {
            report.head().unwrap();
            report.news(&news("failover from alpha to beta (dead)"), Count::default()).unwrap();
            report.news(&news(long), window).unwrap();
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0].len(), 97);
        let (words, counts) = ("failover from alpha to beta (dead)", "      0      0        -");
        assert_eq!(lines[1], format!("  12.25s  proxy  echo {words:<52}{counts}"));
        assert!(lines[2].ends_with(" 123456     12    61 ms"), "{text}");
        assert_eq!(lines[3], format!("{:22}confirmed in 51.2ms", ""), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn color_changes_no_width() {
        let strip = |text: &str| {
            let mut plain = String::new();
            let mut parts = text.split('\x1b');
            plain.push_str(parts.next().unwrap());
            parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
            plain
        };
        let window = Count { served: 1, failed: 1, cut: 0, longest: Duration::from_millis(1) };
        let colored = written(true, |report| report.news(&news("down"), window).unwrap());
        assert!(colored.contains('\x1b'));
        assert_eq!(strip(&colored), written(false, |report| report.news(&news("down"), window).unwrap()));
    }

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn who_served_is_told_with_what_was_cut() {
        let names = [("alpha".to_owned(), 10), ("beta".to_owned(), 2)];
        let line = |cut| written(false, |report| report.served_by(Pool::Echo, &names, cut).unwrap());
        assert_eq!(line(0), "echo served by: alpha 10, beta 2\n");
        assert!(line(1).contains("1 were cut off by a kill"));
    }
}

//! The text format of Prometheus, read.

use std::collections::BTreeMap;

/// What every family's name begins with.
pub const PREFIX: &str = "changeover_";

/// One line of the exposition.
#[derive(Debug)]
pub struct Sample {
    /// The name, with its prefix and, for a histogram, its suffix.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Every sample in `text`. Panics on a line that is not one.
#[track_caller]
pub fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let (text, after) = after.split_once('"')?;
        labels.insert(label.to_owned(), text.to_owned());
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The sum of the samples of the family `name` (without the prefix) that carry `labels`; none if there are none.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let name = format!("{PREFIX}{name}");
    let carries = |sample: &Sample| labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|found| found == v));
    let found = samples(text).into_iter().filter(|sample| sample.name == name && carries(sample));
    found.map(|sample| sample.value).reduce(|a, b| a + b)
}

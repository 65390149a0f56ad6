//! Texts of tunnels with places to fill in: what is known when the file is read is filled in then, and what the daemon
//! chooses later stays a place.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::command::{Bit, WORD_MAX, bits};
use crate::config::wording::{nearest, quote};
use crate::model::{Address, Part, Secret, Text};

/// What is filled in of the tunnel itself, as it is written.
pub(super) const OWN: &[&str] = &["local_port", "target", "target_host", "target_port", "file"];

/// What is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hole {
    LocalPort,
    Target,
    TargetHost,
    TargetPort,
    File,
    /// The value of an option.
    Option(String),
    /// Nothing, if the option is given.
    If(String),
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hidden(Secret),
    Hole(Hole),
}

/// A text with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Template(Vec<Piece>);

/// A word, or some that go together; they go if an option in one of them is left out.
pub(super) type Words = Vec<Template>;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// That.
    pub(super) text: String,
    /// Whether it was looked up, and so may be a secret.
    pub(super) is_hidden: bool,
}

/// What is known of a tunnel when the file is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Where it leads.
    pub(super) target: Option<&'a Address>,
    /// What its provider was told.
    pub(super) settings: &'a BTreeMap<String, Setting>,
}

/// How what is filled in is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is.
    Plain,
    /// As between double quotes in TOML, JSON and YAML.
    Quoted,
}

impl Template {
    /// A text that was looked up, in which nothing is filled in.
    pub(super) fn hidden(text: &str) -> Self {
        Self(vec![Piece::Hidden(Secret::new(text))])
    }

    /// What `text` says, in which `options` may be filled in; or what is wrong with it, to be put behind it.
    pub(super) fn parse(text: &str, options: &[&str]) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("has a NUL in it, which neither an argument nor a variable can have".to_owned());
        }
        let bits = bits(text)
            .map_err(|brace| format!("has a single `{brace}`; write {brace}{brace} for the character itself"))?;
        let piece = |bit| match bit {
            Bit::Text(text) => Ok(Piece::Text(text)),
            Bit::Hole(name) => hole(name, options).map(Piece::Hole).ok_or_else(|| unknown(name, options)),
        };
        bits.into_iter().map(piece).collect::<Result<_, _>>().map(Self)
    }

    /// The same for one word of a command line.
    pub(super) fn word(text: &str, options: &[&str]) -> Result<Self, String> {
        if text.len() > WORD_MAX {
            return Err(format!("is too long; {WORD_MAX} bytes is the most"));
        }
        Self::parse(text, options)
    }

    /// The options that it is about.
    pub(super) fn options(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Hole(Hole::Option(name) | Hole::If(name)) => Some(name.as_str()),
            Piece::Text(_) | Piece::Hidden(_) | Piece::Hole(_) => None,
        })
    }

    /// Whether the target is filled in somewhere.
    pub(super) fn wants_target(&self) -> bool {
        let of_target = |hole: &Hole| matches!(hole, Hole::Target | Hole::TargetHost | Hole::TargetPort);
        self.0.iter().any(|piece| matches!(piece, Piece::Hole(hole) if of_target(hole)))
    }

    /// Whether it begins with an option's value.
    pub(super) fn leads_with_option(&self) -> Option<&str> {
        match self.0.first() {
            Some(Piece::Hole(Hole::Option(name))) => Some(name),
            Some(Piece::Text(_) | Piece::Hidden(_) | Piece::Hole(_)) | None => None,
        }
    }

    /// The text with what is known; none if an option in it was left out.
    pub(super) fn fill(&self, known: Known<'_>, style: Style) -> Option<Text> {
        let mut parts = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            let part = match piece {
                Piece::Text(text) => Part::Shown(Arc::from(text.as_str())),
                Piece::Hidden(secret) => Part::Hidden(secret.clone()),
                Piece::Hole(Hole::LocalPort) => Part::LocalPort,
                Piece::Hole(Hole::File) => Part::File,
                Piece::Hole(Hole::Target) => shown(&known.target?.to_string(), style),
                Piece::Hole(Hole::TargetHost) => shown(&known.target?.command_host(), style),
                Piece::Hole(Hole::TargetPort) => shown(&known.target?.port()?.to_string(), style),
                Piece::Hole(Hole::Option(name)) => {
                    let Setting { text, is_hidden } = known.settings.get(name)?;
                    if *is_hidden { Part::Hidden(Secret::new(&styled(text, style))) } else { shown(text, style) }
                }
                // A flag that is off is as if it were not there.
                Piece::Hole(Hole::If(name)) => {
                    known.settings.get(name).filter(|setting| setting.text != "false")?;
                    continue;
                }
            };
            push(&mut parts, part);
        }
        Some(Text(parts))
    }
}

fn shown(text: &str, style: Style) -> Part {
    Part::Shown(Arc::from(styled(text, style)))
}

/// Adds a part; what is for all to read is one part with what stands before it.
fn push(parts: &mut Vec<Part>, part: Part) {
    if let (Some(Part::Shown(before)), Part::Shown(more)) = (parts.last_mut(), &part) {
        *before = Arc::from(format!("{before}{more}"));
    } else {
        parts.push(part);
    }
}

fn styled(text: &str, style: Style) -> String {
    match style {
        Style::Plain => text.to_owned(),
        Style::Quoted => text.chars().fold(String::new(), |mut quoted, c| {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => quoted.push(c),
            }
            quoted
        }),
    }
}

/// The lines of a file with what is known; those in which an option was left out are gone.
pub(super) fn lines(lines: &[Template], known: Known<'_>) -> Text {
    let mut parts = Vec::new();
    for line in lines {
        for part in line.fill(known, Style::Quoted).into_iter().flat_map(|text| text.0) {
            push(&mut parts, part);
        }
    }
    Text(parts)
}

fn hole(name: &str, options: &[&str]) -> Option<Hole> {
    match name {
        "local_port" => Some(Hole::LocalPort),
        "target" => Some(Hole::Target),
        "target_host" => Some(Hole::TargetHost),
        "target_port" => Some(Hole::TargetPort),
        "file" => Some(Hole::File),
        name => match name.strip_prefix('?') {
            Some(name) => options.contains(&name).then(|| Hole::If(name.to_owned())),
            None => options.contains(&name).then(|| Hole::Option(name.to_owned())),
        },
    }
}

fn unknown(name: &str, options: &[&str]) -> String {
    let known = || OWN.iter().chain(options).copied();
    let named = quote(&format!("{{{name}}}"));
    match nearest(name, known()) {
        Some(guess) => format!("has {named}, which is unknown; did you mean {{{guess}}}?"),
        None => {
            let known: Vec<String> = known().map(|name| format!("{{{name}}}")).collect();
            format!("has {named}, which is unknown; known are {}; write {{{{ for the brace itself", known.join(", "))
        }
    }
}

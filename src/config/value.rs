//! One value of the file at a time: what stands there becomes what the plan holds, or a message
//! that says why not and what would be right.

use std::borrow::Cow;

use crate::model::{
    AccessRole, Attach, Balance, Failback, JwtAlgorithm, LogFormat, LogLevel, PoolKind, ProxyProtocol, Resend,
    SessionPolicy, Target, TlsMode, WatchSession, WebhookFormat, WhenDown,
};

use super::key::{Key, Kind, Preset};
use super::wording::{nearest, quote};

/// A plain value as it stands in the file, or as its default.
#[derive(Debug, Clone)]
pub(super) enum Raw<'t> {
    /// A boolean.
    Flag(bool),
    /// An integer, in decimal.
    Integer(Cow<'t, str>),
    /// A text.
    Text(Cow<'t, str>),
}

/// A plain value and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Given<'t> {
    /// The value.
    pub(super) raw: Raw<'t>,
    /// In words, if it does not stand in the file itself. Such a value is never printed: a wrong
    /// variable may hold anybody's secret.
    pub(super) origin: Option<String>,
}

impl Given<'_> {
    /// A text as it would stand in the file.
    #[cfg(test)]
    pub(super) const fn literal(text: &str) -> Given<'_> {
        Given { raw: Raw::Text(Cow::Borrowed(text)), origin: None }
    }

    /// The default of `key`.
    fn preset(key: &Key) -> Option<Given<'static>> {
        let raw = match key.preset {
            Preset::Flag(flag) => Raw::Flag(flag),
            Preset::Integer(number) => Raw::Integer(Cow::Owned(number.to_string())),
            Preset::Text(text) => Raw::Text(Cow::Borrowed(text)),
            Preset::Required(_) | Preset::Optional(_) | Preset::Empty | Preset::Section => return None,
        };
        Some(Given { raw, origin: None })
    }

    /// The value for a message, or what it is if it must not be shown.
    pub(super) fn shown(&self, key: &Key) -> String {
        if key.kind == Kind::Secret {
            return "the value (not shown)".to_owned();
        }
        match (&self.origin, &self.raw) {
            (Some(origin), _) => format!("the value of {origin} (not shown)"),
            (None, Raw::Flag(flag)) => format!("`{flag}`"),
            (None, Raw::Integer(text) | Raw::Text(text)) => quote(text),
        }
    }

    /// The value if it is a text.
    pub(super) fn text(&self, key: &Key) -> Result<&str, String> {
        match &self.raw {
            Raw::Text(text) => Ok(text),
            Raw::Flag(_) | Raw::Integer(_) => Err(self.mismatch(key)),
        }
    }

    /// The message that this is not what `key` takes.
    pub(super) fn mismatch(&self, key: &Key) -> String {
        format!("`{}` takes {}, not {}", key.name, key.kind.wanted(), self.shown(key))
    }

    /// The message that the value of `key` is wrong, and why.
    pub(super) fn but(&self, key: &Key, why: &str) -> String {
        format!("`{}`: {} {why}", key.name, self.shown(key))
    }
}

/// What can be read from one plain value.
pub(super) trait Value: Sized {
    /// What stands for a default that cannot be read. A test proves that all of them can.
    fn blank() -> Self;

    /// The value, or what is wrong with it and what would be right.
    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String>;

    /// The default of `key`.
    fn preset(key: &Key) -> Self {
        Given::preset(key).and_then(|given| Self::read(&given, key).ok()).unwrap_or_else(Self::blank)
    }
}

impl Value for bool {
    fn blank() -> Self {
        false
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        match given.raw {
            Raw::Flag(flag) => Ok(flag),
            Raw::Integer(_) | Raw::Text(_) => Err(given.mismatch(key)),
        }
    }
}

impl Value for u32 {
    fn blank() -> Self {
        0
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let (Raw::Integer(digits), Kind::Integer { min, max }) = (&given.raw, key.kind) else {
            return Err(given.mismatch(key));
        };
        let number = digits.parse::<Self>().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| given.mismatch(key))
    }
}

/// A word that is none of those known, and the one that was probably meant.
pub(super) fn unknown_word(given: &Given<'_>, key: &Key, words: &[&str]) -> String {
    let guess = match &given.raw {
        Raw::Text(text) => nearest(text, words.iter().copied()),
        Raw::Flag(_) | Raw::Integer(_) => None,
    };
    match guess {
        Some(guess) => format!("{}; did you mean \"{guess}\"?", given.mismatch(key)),
        None => given.mismatch(key),
    }
}

macro_rules! words {
    ($($name:ident),+ $(,)?) => {$(
        impl Value for $name {
            fn blank() -> Self {
                const FIRST: $name = $name::ALL[0];
                FIRST
            }

            fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
                let word = given.text(key)?;
                Self::from_label(word).ok_or_else(|| unknown_word(given, key, Self::LABELS))
            }
        }
    )+};
}

words!(LogFormat, LogLevel, PoolKind, Balance, Resend, WhenDown, Failback, SessionPolicy, ProxyProtocol);
words!(Target, TlsMode, WatchSession, AccessRole, JwtAlgorithm, WebhookFormat, Attach);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Given, Raw, Value};
    use crate::config::command::Template;
    use crate::config::key::{Key, Kind, Preset};
    use crate::config::keys::{self, KEYS};
    use crate::model::{Address, Failback, LogFormat, Rate, Secret, StatusRange};

    fn readable(key: &Key, given: &Given<'_>) -> Result<(), String> {
        match key.kind {
            Kind::Flag => bool::read(given, key).map(drop),
            Kind::Integer { .. } => u32::read(given, key).map(drop),
            Kind::Duration { .. } => Duration::read(given, key).map(drop),
            Kind::Size { .. } => usize::read(given, key).map(drop),
            Kind::Word(words) => {
                let Raw::Text(word) = &given.raw else { return Err(given.mismatch(key)) };
                words.iter().find(|known| *known == word).map(drop).ok_or_else(|| given.mismatch(key))
            }
            Kind::Method | Kind::UrlPath | Kind::Pool | Kind::Names(_) => String::read(given, key).map(drop),
            Kind::Statuses => Vec::<StatusRange>::read(given, key).map(drop),
            Kind::Secret => Secret::read(given, key).map(drop),
            Kind::Binds | Kind::Address | Kind::Backends => Address::read(given, key).map(drop),
            Kind::Networks => ipnet::IpNet::read(given, key).map(drop),
            Kind::Rate => Option::<Rate>::read(given, key).map(drop),
            Kind::Text { .. } => String::read(given, key).map(drop),
            Kind::Command => Template::read(given, key).map(drop),
            Kind::Ip => std::net::IpAddr::read(given, key).map(drop),
            Kind::Directory | Kind::File => std::path::PathBuf::read(given, key).map(drop),
            // What stands in these is judged word by word.
            Kind::Argv | Kind::Texts(_) | Kind::Table(_) | Kind::Tables(_) => Ok(()),
        }
    }

    #[test]
    fn every_default_is_a_value_that_its_key_takes() {
        for key in KEYS {
            if let Some(given) = Given::preset(key) {
                assert_eq!(readable(key, &given), Ok(()), "{}", key.name);
            }
            let has_default = matches!(key.preset, Preset::Flag(_) | Preset::Integer(_) | Preset::Text(_));
            assert_eq!(Given::preset(key).is_some(), has_default, "{}", key.name);
        }
        assert_eq!(usize::preset(&keys::RELAY_BUFFER), 65536);
        assert_eq!(Duration::preset(&keys::DRAIN_TIMEOUT), Duration::from_secs(30));
        assert_eq!(Failback::preset(&keys::FAILBACK), Failback::Automatic);
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = LogFormat::read(&Given::literal("jsn"), &keys::LOG_FORMAT).unwrap_err();
        assert_eq!(error, "`format` takes one of \"auto\", \"text\" or \"json\", not `jsn`; did you mean \"json\"?");
    }

    #[test]
    fn a_value_from_elsewhere_is_not_repeated() {
        let raw = Raw::Text(Cow::Borrowed("postgres://user:hunter2@db"));
        let given = Given { raw, origin: Some("the environment variable `DB`".to_owned()) };
        // These take whatever it is.
        let any = |key: &Key| {
            let is_table = matches!(key.kind, Kind::Table(_) | Kind::Tables(_));
            is_table
                || matches!(key.kind, Kind::Argv | Kind::Texts(_))
                || matches!(key.kind, Kind::Pool | Kind::Names(_) | Kind::Secret | Kind::Text { .. } | Kind::Command)
        };
        for key in KEYS.iter().filter(|key| !any(key)) {
            let error = readable(key, &given).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_value_panic(noise in "\\PC{0,40}|[0-9a-zA-Z:./,\\-]{0,40}") {
            for key in KEYS {
                let given = Given { raw: Raw::Text(Cow::Borrowed(&noise)), origin: None };
                if let Err(message) = readable(key, &given) {
                    prop_assert!(!message.is_empty());
                }
            }
        }

    }
}

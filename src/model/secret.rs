//! A value that must never be printed.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// What is shown of a value that may not be, though it is not known to be a secret. At run time no key takes it, so that nobody
/// writes it back by mistake.
pub const HIDDEN: &str = "[not shown]";

/// What stands where a secret was begins with this.
const MASK: &str = "secret ";

/// A secret from the configuration. It has no `Display`, its `Debug` says only that it is there, and only the mask of one is
/// ever serialised.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Secret {
    text: Arc<str>,
    is_mask: bool,
}

impl Secret {
    /// Takes the text into keeping.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: Arc::from(text), is_mask: false }
    }

    /// What stands for a secret where it must not be known: equal to another mask if the numbers are, and to no secret.
    #[must_use]
    pub fn mask(number: u64) -> Self {
        Self { text: format!("{MASK}{number}").into(), is_mask: true }
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    /// Fails unless it is a mask: whoever forgets to mask a secret writes nothing at all.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_mask {
            return Err(ser::Error::custom("a secret is not written out"));
        }
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads a mask.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let number = text.strip_prefix(MASK).and_then(|number| number.parse().ok());
        number.map(Self::mask).ok_or_else(|| de::Error::custom("not the mask of a secret, such as \"secret 1\""))
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn no_secret_is_ever_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)).matches("hunter2").count(), 0);
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn only_the_mask_of_a_secret_is_written() {
        let error = serde_json::to_string(&Secret::new("hunter2")).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(
            serde_json::to_string(&Secret::new("secret 1")).is_err(),
            "a secret that looks like a mask is a secret"
        );
        let mask = Secret::mask(7);
        let json = serde_json::to_string(&mask).unwrap();
        assert_eq!(json, "\"secret 7\"");
        assert_eq!(serde_json::from_str::<Secret>(&json).unwrap(), mask);
        assert_ne!(mask, Secret::mask(8));
        for bad in ["\"hunter2\"", "\"secret x\"", "7"] {
            assert!(serde_json::from_str::<Secret>(bad).is_err(), "{bad}");
        }
    }
}

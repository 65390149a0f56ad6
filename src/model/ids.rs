//! Names as people write them, and numbers as the program counts them. Newtypes throughout, so
//! that a pool's name can never be passed where a backend's is meant.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! names {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self { Self(Arc::from(name)) }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(Cow::<'de, str>::deserialize(deserializer)?.as_ref()))
            }
        }
    )+};
}

names! {
    /// A listener's name: its key under `[listeners]`.
    ListenerName,
    /// A pool's name: its key under `[pools]`.
    PoolName,
    /// A backend's name within its pool; in the short form its address.
    BackendName,
    /// A webhook's name: its key under `[webhooks]`.
    WebhookName,
    /// Who had something done: a token's name, a Unix user, or `changeover` itself.
    Actor,
}

impl Actor {
    /// The daemon itself.
    #[must_use]
    pub fn changeover() -> Self {
        Self::from("changeover")
    }
}

macro_rules! numbers {
    ($($(#[$meta:meta])* $name:ident($int:ty)),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self { Self(self.0 + 1) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )+};
}

numbers! {
    /// One backend of one pool at one address, for the life of the process; never used twice.
    BackendId(u32),
    /// One thing that is probed: an address and the way to ask it, shared by the backends that agree on both.
    TargetId(u32),
    /// One question to one target. An answer that carries an older number is ignored.
    ProbeId(u64),
    /// One watch of one server. What an older one tells is ignored.
    WatchId(u64),
    /// One run of a tunnel. What an older one tells is ignored.
    RunId(u64),
    /// A backend's number that fences compare: a session admitted under an older one may not go on.
    Epoch(u64),
    /// The number of a route table; grows by one with each table published.
    Generation(u64),
}

//! What a key is: where it stands, what it takes, what it is when it is left out, and why.

use std::time::Duration;

/// A kind of table in the file. Each has its own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The file itself.
    Root,
    /// `[daemon]`.
    Daemon,
    /// `[admin]`.
    Admin,
    /// `[admin.tokens.NAME]`.
    Token,
    /// `[admin.jwt]`.
    Jwt,
    /// `[admin.tls]`.
    Tls,
    /// `[log]`.
    Log,
    /// `[listeners.NAME]`.
    Listener,
    /// `[pools.NAME]`.
    Pool,
    /// `[pools.NAME.check]`, and `check` of a backend.
    Check,
    /// `http` of a check.
    Http,
    /// `agent` of a check.
    Agent,
    /// `expect` of a check.
    Expect,
    /// `[pools.NAME.failover]`.
    Failover,
    /// `[pools.NAME.failover.sessions]`.
    Sessions,
    /// `[pools.NAME.postgres]`.
    Postgres,
    /// `[pools.NAME.backends.NAME]`.
    Backend,
    /// `[pools.NAME.backends.NAME.tunnel]`.
    Tunnel,
    /// `lookup` of a tunnel or of a provider.
    Lookup,
    /// `[webhooks.NAME]`.
    Webhook,
    /// `[tunnel_providers.NAME]`.
    Provider,
    /// `[tunnel_providers.NAME.options.NAME]`.
    ProviderOption,
}

impl Part {
    /// Every part, in the order of the reference.
    pub(super) const ALL: &'static [Self] = &[
        Self::Root,
        Self::Daemon,
        Self::Admin,
        Self::Token,
        Self::Jwt,
        Self::Tls,
        Self::Log,
        Self::Listener,
        Self::Pool,
        Self::Check,
        Self::Http,
        Self::Agent,
        Self::Expect,
        Self::Failover,
        Self::Sessions,
        Self::Postgres,
        Self::Backend,
        Self::Tunnel,
        Self::Lookup,
        Self::Provider,
        Self::ProviderOption,
        Self::Webhook,
    ];

    /// Its name in the schema, and its pattern in the file.
    pub(super) const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Root => ("root", ""),
            Self::Daemon => ("daemon", "daemon"),
            Self::Admin => ("admin", "admin"),
            Self::Token => ("token", "admin.tokens.NAME"),
            Self::Jwt => ("jwt", "admin.jwt"),
            Self::Tls => ("tls", "admin.tls"),
            Self::Log => ("log", "log"),
            Self::Listener => ("listener", "listeners.NAME"),
            Self::Pool => ("pool", "pools.NAME"),
            Self::Check => ("check", "pools.NAME.check"),
            Self::Http => ("http", "pools.NAME.check.http"),
            Self::Agent => ("agent", "pools.NAME.check.agent"),
            Self::Expect => ("expect", "pools.NAME.check.expect"),
            Self::Failover => ("failover", "pools.NAME.failover"),
            Self::Sessions => ("sessions", "pools.NAME.failover.sessions"),
            Self::Postgres => ("postgres", "pools.NAME.postgres"),
            Self::Backend => ("backend", "pools.NAME.backends.NAME"),
            Self::Tunnel => ("tunnel", "pools.NAME.backends.NAME.tunnel"),
            // `lookup` itself is how any text is looked up.
            Self::Lookup => ("address_lookup", "pools.NAME.backends.NAME.tunnel.lookup"),
            Self::Webhook => ("webhook", "webhooks.NAME"),
            Self::Provider => ("tunnel_provider", "tunnel_providers.NAME"),
            Self::ProviderOption => ("tunnel_option", "tunnel_providers.NAME.options.NAME"),
        }
    }
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds.
    Integer {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A duration with its unit, at least so long.
    Duration {
        /// The shortest.
        min: Duration,
    },
    /// A number of bytes with its unit, within bounds.
    Size {
        /// The least, in bytes.
        min: u64,
        /// The most, in bytes.
        max: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// An HTTP method.
    Method,
    /// The path of an HTTP request.
    UrlPath,
    /// HTTP statuses and ranges of them.
    Statuses,
    /// A text that is never printed.
    Secret,
    /// The name of a pool.
    Pool,
    /// One address to listen on, or a list of them.
    Binds,
    /// An address to connect to.
    Address,
    /// A list of addresses, or tables by name.
    Backends,
    /// A list of networks and IP addresses.
    Networks,
    /// A list of names or kinds, such as this one.
    Names(&'static str),
    /// So many in a time, or none.
    Rate,
    /// An IP address.
    Ip,
    /// Any text that is not too long.
    Text {
        /// The most bytes.
        max: u32,
    },
    /// A program and its arguments.
    Command,
    /// A program and its arguments, as they stand there; words that go together may be a list of their own.
    Argv,
    /// Texts by names of the user's choice, such as these.
    Texts(&'static str),
    /// The absolute path of a directory.
    Directory,
    /// The absolute path of a file.
    File,
    /// A table of this part.
    Table(Part),
    /// Tables of this part by name.
    Tables(Part),
}

/// What a key is when it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preset {
    /// It may not be left out. With an example, as it stands in the file.
    Required(&'static str),
    /// It may, and then there is nothing. With an example, as it stands in the file.
    Optional(&'static str),
    /// This.
    Flag(bool),
    /// This.
    Integer(u32),
    /// This text.
    Text(&'static str),
    /// An empty list.
    Empty,
    /// A table whose keys have their own.
    Section,
}

/// One key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// The table it stands in.
    pub(super) part: Part,
    /// The key.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
    /// What it is when it is left out.
    pub(super) preset: Preset,
    /// What it does, in a sentence.
    pub(super) doc: &'static str,
    /// Why it is what it is when it is left out; for a required key, what to write.
    pub(super) reason: &'static str,
}

impl Key {
    /// The default, or else the example, as it stands in the file.
    pub(super) fn literal(&self) -> String {
        match self.preset {
            Preset::Required(example) | Preset::Optional(example) => example.to_owned(),
            Preset::Flag(flag) => flag.to_string(),
            Preset::Integer(number) => number.to_string(),
            Preset::Text(text) => format!("\"{text}\""),
            Preset::Empty => "[]".to_owned(),
            Preset::Section => String::new(),
        }
    }
}

impl Kind {
    /// What would be right, for the end of "it takes …".
    pub(super) fn wanted(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Duration { .. } => "a duration in quotes with its unit, such as \"250ms\" or \"1m 30s\"".to_owned(),
            Self::Size { .. } => "a size in quotes with its unit, such as \"64KiB\"".to_owned(),
            Self::Word(words) => format!("one of {}", listed(words.iter().copied())),
            Self::Method => "an HTTP method in quotes, such as \"HEAD\" or \"GET\"".to_owned(),
            Self::UrlPath => "the path of a URL in quotes, such as \"/health\"".to_owned(),
            Self::Statuses => "HTTP statuses in quotes, such as \"200-399\" or \"200,204\"".to_owned(),
            Self::Secret => {
                "a string, or better { file = \"PATH\" }, { credential = \"NAME\" } or { env = \"NAME\" }".to_owned()
            }
            Self::Pool => "the name of a pool in quotes".to_owned(),
            Self::Binds => "\"IP:PORT\", \"unix:PATH\" or a list of them".to_owned(),
            Self::Address => "\"HOST:PORT\" or \"unix:PATH\"".to_owned(),
            Self::Backends => "a list of addresses such as [\"10.0.0.1:5432\"], or tables by name".to_owned(),
            Self::Networks => "a list of networks and IP addresses such as [\"10.0.0.0/8\"]".to_owned(),
            Self::Names(example) => format!("a list of strings such as {example}"),
            Self::Rate => "a rate in quotes such as \"100/s\" or \"100/min\", or \"0\" for none".to_owned(),
            Self::Ip => "an IP address of this machine in quotes, such as \"10.0.0.9\"".to_owned(),
            Self::Text { max } => format!("a string of at most {max} bytes"),
            Self::Command => "a list of strings, the program's path first".to_owned(),
            Self::Argv => "a list of strings, the program first".to_owned(),
            Self::Texts(example) => format!("a table of texts such as {example}"),
            Self::Directory => "the absolute path of a directory in quotes, such as \"/var/lib/changeover\"".to_owned(),
            Self::File => "the absolute path of a file in quotes, such as \"/etc/changeover/ca.pem\"".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Tables(_) => "tables by name".to_owned(),
        }
    }
}

/// Words in quotes, with commas and a last "or".
pub(super) fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

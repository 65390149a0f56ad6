//! Providers of tunnels, which are data: those that come with the program stand in `providers/`, in the format in which
//! the user writes others.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::DeTable;

use crate::config::key::{Key, Kind, Part, listed};
use crate::config::keys;
use crate::config::read::Reader;
use crate::config::value::{Given, Raw, Value, unknown_word};
use crate::config::view::{Node, View};
use crate::config::wording::{nearest, quote};
use crate::model::Attach;

use super::literal;
use super::lookup::{self, LookupDraft};
use super::template::{OWN, Template, Words};
use super::words::{self, name_is_plain};

/// The most providers of the user's own.
const PROVIDERS_MAX: usize = 100;
/// The most options of a provider, and entries of its environment.
pub(in crate::config) const TEXTS_MAX: usize = 64;
/// The most texts by which a program says that it will never work.
pub(super) const FATAL_MAX: usize = 100;
/// The longest of them, in bytes.
pub(super) const LINE_MAX: usize = 256;

/// Those that come with the program, as `[tunnel_providers.NAME]` without its header.
const BUILT_IN: &[(&str, &str)] = &[
    ("ssh", include_str!("../providers/ssh.toml")),
    ("cloudflared", include_str!("../providers/cloudflared.toml")),
    ("tailscale", include_str!("../providers/tailscale.toml")),
    ("ngrok", include_str!("../providers/ngrok.toml")),
    ("frp", include_str!("../providers/frp.toml")),
    ("chisel", include_str!("../providers/chisel.toml")),
    ("wstunnel", include_str!("../providers/wstunnel.toml")),
    ("rathole", include_str!("../providers/rathole.toml")),
    ("command", include_str!("../providers/command.toml")),
];

/// The provider whose command line is the tunnel's own.
pub(super) const COMMAND: &str = "command";

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OptionKind {
    Text,
    Number,
    Flag,
    Path,
    Key,
    Server,
}

impl Value for OptionKind {
    fn blank() -> Self {
        Self::Text
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let kinds = [Self::Text, Self::Number, Self::Flag, Self::Path, Self::Key, Self::Server];
        let known = match &given.raw {
            Raw::Text(word) => kinds.into_iter().zip(keys::OPTION_KINDS).find(|(_, known)| *known == word),
            Raw::Flag(_) | Raw::Integer(_) => None,
        };
        known.map(|(kind, _)| kind).ok_or_else(|| unknown_word(given, key, keys::OPTION_KINDS))
    }
}

impl OptionKind {
    /// What is wrong with `text`, to be put behind it.
    pub(super) fn refuse(self, text: &str) -> Option<&'static str> {
        if text.is_empty() {
            return Some("is empty; leave it out");
        }
        if text.chars().any(char::is_control) {
            return Some("has more than one line, or what cannot be seen");
        }
        let is_server = |text: &str| !text.starts_with('-') && !text.contains(char::is_whitespace);
        match self {
            Self::Text => None,
            Self::Number if text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit()) => None,
            Self::Number => Some("is no whole number from 0 to 999999999"),
            Self::Flag if matches!(text, "true" | "false") => None,
            Self::Flag => Some("is neither true nor false"),
            Self::Path | Self::Key if text.starts_with('/') => None,
            Self::Path | Self::Key => Some("is no absolute path; write one that begins with /"),
            Self::Server if is_server(text) => None,
            Self::Server => Some("is no server; write its host, with a port or as a URL if need be"),
        }
    }
}

/// An option of a provider.
#[derive(Debug, Clone)]
pub(super) struct OptionDef {
    pub(super) kind: OptionKind,
    pub(super) default: Option<String>,
    pub(super) is_required: bool,
    pub(super) is_secret: bool,
}

/// A provider.
#[derive(Debug, Clone)]
pub(in crate::config) struct Provider {
    pub(super) name: String,
    /// What it can give, the usual one first. Never empty.
    pub(super) attach: Vec<Attach>,
    /// What its command line begins with, whatever it is to give.
    command: Vec<Words>,
    /// What follows, by what it is to give.
    shapes: BTreeMap<Attach, Vec<Words>>,
    pub(super) env: Vec<(String, Template)>,
    /// The lines of its file, each with its end.
    pub(super) file: Vec<Template>,
    pub(super) ready: Option<String>,
    pub(super) fatal: Vec<String>,
    pub(super) lookup: Option<LookupDraft>,
    pub(super) version: Vec<Words>,
    pub(super) version_after: String,
    pub(super) options: BTreeMap<String, OptionDef>,
}

impl Provider {
    /// The words of the command line by which it gives `attach`; none if no program is run for that.
    pub(super) fn words(&self, attach: Attach) -> Option<impl Iterator<Item = &Words>> {
        let shape = self.shapes.get(&attach)?;
        Some(self.command.iter().chain(shape))
    }

    /// Whether an option has to do with how it gives `attach`.
    pub(super) fn is_about(&self, attach: Attach, option: &str) -> bool {
        let words = self.words(attach).into_iter().flatten().flatten();
        let runs = self.shapes.contains_key(&attach);
        let around = self.env.iter().map(|(_, text)| text).chain(&self.file).filter(|_| runs);
        let asked = self.lookup.iter().filter(|_| attach == Attach::Address).flat_map(LookupDraft::templates);
        words.chain(around).chain(asked).any(|text| text.options().any(|name| name == option))
    }
}

/// The providers that there are.
#[derive(Debug, Default)]
pub(in crate::config) struct Providers {
    own: BTreeMap<String, Option<Arc<Provider>>>,
    /// Those of the program's that were wanted already.
    built_in: BTreeMap<&'static str, Option<Arc<Provider>>>,
}

impl Providers {
    /// The names of all.
    fn names(&self) -> impl Iterator<Item = &str> {
        BUILT_IN.iter().map(|(name, _)| *name).chain(self.own.keys().map(String::as_str))
    }
}

/// Reads `[tunnel_providers]`, before any tunnel.
pub(in crate::config) fn take_in(reader: &mut Reader<'_>, root: &View<'_>) {
    let named = reader.tables(root, &keys::TUNNEL_PROVIDERS, Part::Provider, PROVIDERS_MAX);
    for entry in named {
        if BUILT_IN.iter().any(|(name, _)| *name == entry.name) {
            let name = quote(entry.name);
            let message =
                format!("there is a provider {name} already, which comes with the program; write another name");
            reader.faults.wrong(entry.place, message);
            continue;
        }
        let provider = provider(reader, entry.name, &entry.view).map(Arc::new);
        reader.providers.own.insert(entry.name.to_owned(), provider);
    }
}

/// The provider that a tunnel names; nothing if that is wrong, which is then said.
pub(super) fn find(reader: &mut Reader<'_>, view: &View<'_>) -> Option<Arc<Provider>> {
    let key = &keys::PROVIDER;
    let name: String = reader.required(view, key)?;
    if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        let known = reader.providers.built_in.get(name).cloned();
        let provider = known.unwrap_or_else(|| built_in(reader, name, text).map(Arc::new));
        reader.providers.built_in.insert(name, provider.clone());
        if provider.is_none() {
            // A test reads them all.
            let message = format!("`{}`: {} as it comes with this program is wrong", key.name, quote(name));
            reader.faults.wrong(view.place(key), message);
        }
        return provider;
    }
    if let Some(own) = reader.providers.own.get(&name) {
        // What is wrong with it was said where it stands.
        return own.clone();
    }
    let is_literal = view.node(key).is_some_and(|node| node.get_ref().is_str());
    let shown = if is_literal { quote(&name) } else { "that name (not shown)".to_owned() };
    let meant = match nearest(&name, reader.providers.names()) {
        Some(guess) => format!("did you mean \"{guess}\"?"),
        None => format!(
            "there is {}; write [tunnel_providers.NAME] for one of your own",
            listed(reader.providers.names()).replace(" or ", " and ")
        ),
    };
    reader.faults.wrong(view.place(key), format!("`{}`: there is no provider {shown}; {meant}", key.name));
    None
}

/// One of those that come with the program.
fn built_in(reader: &Reader<'_>, name: &'static str, text: &'static str) -> Option<Provider> {
    let mut aside = reader.aside();
    let table = DeTable::parse(text).ok()?.into_inner();
    let view = aside.alone(Part::Provider, name, &table);
    provider(&mut aside, name, &view)
}

fn provider(reader: &mut Reader<'_>, name: &str, view: &View<'_>) -> Option<Provider> {
    let before = reader.faults.count();
    let attach = attaches(reader, view);
    let options = options(reader, view);
    let names: Vec<&str> = options.keys().map(String::as_str).collect();
    let command = words::argv(reader, view, &keys::PROVIDER_COMMAND, &names).unwrap_or_default();
    let mut shapes = BTreeMap::new();
    for (shape, key) in Attach::ALL.iter().zip([
        &keys::PROVIDER_LISTEN,
        &keys::PROVIDER_STDIO,
        &keys::PROVIDER_SOCKS5,
        &keys::PROVIDER_HTTP_CONNECT,
        &keys::PROVIDER_ADDRESS,
    ]) {
        let Some(words) = words::argv(reader, view, key, &names) else { continue };
        if !attach.is_empty() && !attach.contains(shape) {
            let message =
                format!("`{shape}` is given, but `attach` does not have it; write it there, or leave this out");
            reader.faults.wrong(view.place(key), message);
        }
        shapes.insert(*shape, words);
    }
    let provider = Provider {
        name: name.to_owned(),
        command,
        shapes,
        env: words::env(reader, view, &keys::PROVIDER_ENV, &names),
        file: words::file(reader, view, &keys::PROVIDER_FILE, &names).unwrap_or_default(),
        ready: words::line(reader, view, &keys::PROVIDER_READY),
        fatal: words::fatal(reader, view, &keys::PROVIDER_FATAL),
        lookup: lookup::read(reader, view, &keys::PROVIDER_LOOKUP, &names),
        version: words::argv(reader, view, &keys::VERSION, &names).unwrap_or_default(),
        version_after: reader.get(view, &keys::VERSION_AFTER),
        options: options.clone(),
        attach,
    };
    refuse_shown_secrets(reader, view, &provider);
    (reader.faults.count() == before).then_some(provider)
}

/// What it can give.
fn attaches(reader: &mut Reader<'_>, view: &View<'_>) -> Vec<Attach> {
    let key = &keys::PROVIDER_ATTACH;
    reader.demand(view, key);
    let mut found = Vec::new();
    for item in reader.list(view, key, Attach::ALL.len(), "entries") {
        let Some(word) = reader.convert::<String>(item, key) else { continue };
        match Attach::from_label(&word) {
            Some(attach) => found.push(attach),
            None => {
                let is_literal = item.get_ref().is_str();
                let shown = if is_literal { quote(&word) } else { "what stands there (not shown)".to_owned() };
                let known = listed(Attach::LABELS.iter().copied());
                reader.faults.wrong(item.span(), format!("`{}`: {shown} is none of {known}", key.name));
            }
        }
    }
    if found.is_empty()
        && view.node(key).is_some_and(|node| node.get_ref().as_array().is_some_and(|list| list.is_empty()))
    {
        let message = format!("`{}` is empty; write {} = {}", key.name, key.name, key.literal());
        reader.faults.wrong(view.place(key), message);
    }
    found
}

/// Its options by name.
fn options(reader: &mut Reader<'_>, view: &View<'_>) -> BTreeMap<String, OptionDef> {
    let named = reader.tables(view, &keys::PROVIDER_OPTIONS, Part::ProviderOption, TEXTS_MAX);
    let mut options = BTreeMap::new();
    for entry in named {
        if OWN.contains(&entry.name) || !name_is_plain(entry.name) {
            let own = listed(OWN.iter().copied());
            let message = format!(
                "{} is no name for an option; write lower-case letters, digits and _, and none of {own}",
                quote(entry.name)
            );
            reader.faults.wrong(entry.place, message);
            continue;
        }
        let view = &entry.view;
        let kind = reader.get(view, &keys::OPTION_KIND);
        let said: Option<bool> = reader.given(view, &keys::OPTION_SECRET);
        let option = OptionDef {
            kind,
            default: reader.given(view, &keys::OPTION_DEFAULT),
            is_required: reader.get(view, &keys::OPTION_REQUIRED),
            is_secret: said.unwrap_or_else(|| kind == OptionKind::Text && literal::names_secret(entry.name)),
        };
        if let Some(node) = view.node(&keys::OPTION_DEFAULT) {
            refuse_default(reader, node, &option);
        }
        options.insert(entry.name.to_owned(), option);
    }
    options
}

fn refuse_default(reader: &mut Reader<'_>, node: &Node<'_>, option: &OptionDef) {
    let Some(default) = &option.default else { return };
    let key = &keys::OPTION_DEFAULT;
    let message = if option.is_secret {
        reader.hide(node);
        Some("a secret has none; leave it out".to_owned())
    } else if option.is_required {
        Some("what must be given has none; leave one of the two out".to_owned())
    } else {
        let shown = node.get_ref().as_str().map_or_else(|| "the value (not shown)".to_owned(), quote);
        option.kind.refuse(default).map(|why| format!("{shown} {why}"))
    };
    if let Some(message) = message {
        reader.faults.wrong(node.span(), format!("`{}`: {message}", key.name));
    }
}

/// No secret stands on a command line, or in what is looked up over HTTP.
fn refuse_shown_secrets(reader: &mut Reader<'_>, view: &View<'_>, provider: &Provider) {
    let secret = |text: &Template| {
        text.options()
            .find(|name| provider.options.get(*name).is_some_and(|option| option.is_secret))
            .map(str::to_owned)
    };
    let shapes = provider.shapes.values().flatten();
    let words = provider.command.iter().chain(shapes).chain(&provider.version).flatten();
    let asked = provider.lookup.iter().flat_map(LookupDraft::templates);
    if let Some(name) = words.chain(asked).find_map(secret) {
        let name = quote(&name);
        let message = format!(
            "option {name} is a secret and stands in a command line, which all users of the host can read; \
             give it by `env` or `file`"
        );
        reader.faults.wrong(view.span.clone(), message);
    }
}

/// A key for the value of one option, in messages.
pub(super) const fn one_of(key: &Key, is_secret: bool) -> Key {
    Key { kind: if is_secret { Kind::Secret } else { Kind::Text { max: 16384 } }, ..*key }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use toml::de::DeTable;

    use super::{BUILT_IN, Part, Reader, provider};
    use crate::config::{OsSources, keys};

    #[test]
    fn each_provider_that_comes_with_the_program_is_right() {
        for (name, text) in BUILT_IN {
            let mut reader = Reader::new(&OsSources);
            let table = DeTable::parse(text).unwrap_or_else(|error| panic!("{name}: {error}")).into_inner();
            let view = reader.alone(Part::Provider, name, &table);
            let found = provider(&mut reader, name, &view);
            let faults = reader.faults.into_errors(name, text);
            let found = found.unwrap_or_else(|| panic!("{faults}"));
            assert!(!found.attach.is_empty() && text.starts_with("# "), "{name}");
            assert!(keys::PROVIDER.doc.contains(name), "the reference does not have {name}");
            // What nothing is made of is no option.
            for option in found.options.keys() {
                let used = found.attach.iter().any(|attach| found.is_about(*attach, option));
                assert!(used, "{option} of {name} is for nothing");
            }
        }
    }
}

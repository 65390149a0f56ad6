//! `options` of a tunnel: what its provider was told.

use std::collections::BTreeMap;

use toml::de::DeValue;

use crate::config::key::listed;
use crate::config::keys;
use crate::config::read::Reader;
use crate::config::view::{Node, View};
use crate::config::wording::{nearest, quote};
use crate::model::Attach;

use super::provider::{OptionDef, OptionKind, Provider, one_of};
use super::template::Setting;
use super::words::{self, ELSEWHERE};

/// How many names a message lists.
const LISTED_MAX: usize = 40;

/// What was said, and what is so if nothing is said.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// By name.
    pub(super) all: BTreeMap<String, Setting>,
    /// How many of them were said.
    pub(super) given: usize,
}

/// The options of a tunnel that attaches in this way; without `is_run` nothing is demanded, for nobody needs it.
pub(super) fn read(
    reader: &mut Reader<'_>,
    view: &View<'_>,
    provider: &Provider,
    attach: Attach,
    is_run: bool,
) -> Settings {
    let mut settings = Settings::default();
    // Who says something of a program that need not be run wants it.
    let is_run = is_run || (attach == Attach::Address && view.node(&keys::OPTIONS).is_some());
    let mut told: Vec<&str> = Vec::new();
    for (name, node) in words::texts(reader, view, &keys::OPTIONS) {
        settings.given += 1;
        told.push(name);
        let Some(option) = provider.options.get(name) else {
            // Whatever it is, it may be a secret behind a mistyped name.
            reader.hide(node);
            reader.faults.wrong(node.span(), unknown(provider, name));
            continue;
        };
        if !provider.is_about(attach, name) {
            let others: Vec<&str> = provider
                .attach
                .iter()
                .filter(|other| provider.is_about(**other, name))
                .map(|other| other.label())
                .collect();
            if option.is_secret {
                reader.hide(node);
            }
            let message = format!(
                "`options`: {} is nothing to {} with attach = \"{attach}\", but with {}; leave it out",
                quote(name),
                provider.name,
                listed(others.into_iter())
            );
            reader.faults.wrong(node.span(), message);
            continue;
        }
        if let Some(setting) = value(reader, node, name, option) {
            settings.all.insert(name.to_owned(), setting);
        }
    }
    // What is no table may well have been meant to have them all.
    let is_table = view.node(&keys::OPTIONS).is_none_or(|node| node.get_ref().is_table());
    for (name, option) in provider.options.iter().filter(|_| is_table) {
        if told.contains(&name.as_str()) {
            continue;
        }
        if let Some(default) = &option.default {
            settings.all.insert(name.clone(), Setting { text: default.clone(), is_hidden: false });
        } else if option.is_required && is_run && provider.is_about(attach, name) {
            let message = format!(
                "`options`: {} needs {} with attach = \"{attach}\"; write options = {{ {name} = {} }}",
                provider.name,
                quote(name),
                example(option)
            );
            reader.faults.missing(view.place(&keys::OPTIONS), message);
        }
    }
    settings
}

/// What would be right, as it stands in the file.
const fn example(option: &OptionDef) -> &'static str {
    match (option.is_secret, option.kind) {
        (true, _) => "{ file = \"PATH\" }",
        (false, OptionKind::Number) => "1",
        (false, OptionKind::Flag) => "true",
        (false, OptionKind::Path | OptionKind::Key) => "\"/PATH\"",
        (false, OptionKind::Server) => "\"HOST\"",
        (false, OptionKind::Text) => "\"…\"",
    }
}

/// What is said of an option that a provider does not have.
fn unknown(provider: &Provider, name: &str) -> String {
    let known = || provider.options.keys().map(String::as_str);
    let (of, shown) = (&provider.name, quote(name));
    match nearest(name, known()) {
        Some(guess) => format!("`options`: {of} has no {shown}; did you mean `{guess}`?"),
        None if provider.options.is_empty() => format!("`options`: {of} has no {shown}, nor any other; leave it out"),
        None => {
            let known = listed(known().take(LISTED_MAX)).replace('"', "`").replace(" or ", " and ");
            format!("`options`: {of} has no {shown}; known are {known}")
        }
    }
}

fn value(reader: &mut Reader<'_>, node: &Node<'_>, name: &str, option: &OptionDef) -> Option<Setting> {
    let key = one_of(&keys::OPTIONS, option.is_secret);
    let is_typed = matches!(node.get_ref(), DeValue::String(_) | DeValue::Integer(_) | DeValue::Boolean(_));
    let shown =
        |text: &str| if is_typed && !option.is_secret { quote(text) } else { "the value (not shown)".to_owned() };
    let name = quote(name);
    if is_typed && option.is_secret {
        reader.hide(node);
        reader.faults.wrong(node.span(), format!("`options`: {name} is a secret; {ELSEWHERE}"));
        return None;
    }
    let (text, is_hidden) = words::text(reader, node, &key)?;
    let why = option.kind.refuse(&text);
    if let Some(why) = why {
        reader.faults.wrong(node.span(), format!("`options`: {name}: {} {why}", shown(&text)));
        return None;
    }
    Some(Setting { text, is_hidden })
}

//! What stands in a tunnel or in a provider of one: command lines, environments, files and lines of output.

use std::collections::BTreeSet;
use std::sync::Arc;

use toml::de::DeValue;

use crate::config::command::WORDS_MAX;
use crate::config::key::Key;
use crate::config::keys;
use crate::config::read::Reader;
use crate::config::view::{Node, View};
use crate::config::wording::quote;
use crate::model::Text;

use super::literal;
use super::provider::{FATAL_MAX, LINE_MAX, TEXTS_MAX, one_of};
use super::template::{Known, Style, Template, Words};

/// What is to be done with a secret that stands where it must not.
pub(super) const ELSEWHERE: &str =
    "write { file = \"PATH\" }, { credential = \"NAME\" } or { env = \"NAME\" } in its place";

/// The command line under `key`, in which `options` may be filled in; empty if it is wrong, which is then said, and none
/// if it is absent.
pub(super) fn argv(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, options: &[&str]) -> Option<Vec<Words>> {
    let node = view.node(key)?;
    let DeValue::Array(list) = node.get_ref() else {
        reader.hide(node);
        let (name, wanted, what) = (key.name, key.kind.wanted(), node.get_ref().type_str());
        let message = format!("`{name}` takes {wanted}, not a value of type {what}; no shell splits it");
        reader.faults.wrong(node.span(), message);
        return Some(Vec::new());
    };
    let mut typed: Vec<(&Node<'_>, &str)> = Vec::new();
    let mut all: Vec<Words> = Vec::with_capacity(list.len());
    let before = reader.faults.count();
    for item in list {
        let group = item.get_ref().as_array();
        let words: Vec<&Node<'_>> = group.map_or_else(|| vec![item], |group| group.iter().collect());
        let one = words.into_iter().filter_map(|node| {
            let text = literal_word(reader, node, key)?;
            typed.push((node, text));
            match Template::word(text, options) {
                Ok(word) => Some(word),
                Err(why) => {
                    reader.faults.wrong(node.span(), format!("`{}`: {} {why}", key.name, quote(text)));
                    None
                }
            }
        });
        all.push(one.collect());
    }
    if typed.is_empty() || typed.len() > WORDS_MAX {
        let count = typed.len();
        if reader.faults.count() == before {
            let message =
                format!("`{}` has {count} words; write from 1 to {WORDS_MAX}, such as {}", key.name, key.literal());
            reader.faults.wrong(node.span(), message);
        }
        return Some(Vec::new());
    }
    refuse_secret(reader, key, node, &typed);
    Some(if reader.faults.count() == before { all } else { Vec::new() })
}

/// The words of a command line with what is known; those in which an option was left out are gone.
pub(super) fn fill<'a>(words: impl IntoIterator<Item = &'a Words>, known: Known<'_>) -> Vec<Text> {
    let group = |group: &Words| group.iter().map(|word| word.fill(known, Style::Plain)).collect::<Option<Vec<_>>>();
    words.into_iter().filter_map(group).flatten().collect()
}

/// The variables with what is known; those in which an option was left out are gone.
pub(super) fn fill_env(env: &[(String, Template)], known: Known<'_>) -> Vec<(Arc<str>, Text)> {
    let one = |(name, text): &(String, Template)| Some((Arc::from(name.as_str()), text.fill(known, Style::Plain)?));
    env.iter().filter_map(one).collect()
}

/// A word as it stands there. One that is looked up is refused: whatever it is, it may be a secret.
fn literal_word<'t>(reader: &mut Reader<'_>, node: &'t Node<'_>, key: &Key) -> Option<&'t str> {
    if let Some(text) = node.get_ref().as_str() {
        return Some(text);
    }
    reader.hide(node);
    let name = key.name;
    let message = if node.get_ref().is_table() {
        format!(
            "`{name}` takes words as they are, and no table: what is looked up may be a secret, and all users of the host \
             can read a command line; give it to the program by `env`, or by a file that {{file}} stands for"
        )
    } else {
        format!("`{name}` takes {}, not {}", key.kind.wanted(), node.get_ref().type_str())
    };
    reader.faults.wrong(node.span(), message);
    None
}

fn refuse_secret(reader: &mut Reader<'_>, key: &Key, node: &Node<'_>, typed: &[(&Node<'_>, &str)]) {
    let words: Vec<&str> = typed.iter().map(|(_, text)| *text).collect();
    let Some(found) = literal::in_argv(&words) else { return };
    reader.hide(node);
    // The word that it stands in, or that it is said in.
    let at = typed.iter().find(|(_, text)| text.contains(found)).map_or_else(|| node.span(), |(node, _)| node.span());
    let message = format!(
        "`{}`: what is given to {} is a secret, and all users of the host can read a command line; \
         give it to the program by `env`, or by a file that {{file}} stands for",
        key.name,
        quote(found)
    );
    reader.faults.wrong(at, message);
}

/// The variables under `key`, in which `options` may be filled in.
pub(super) fn env(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, options: &[&str]) -> Vec<(String, Template)> {
    let mut env = Vec::new();
    for (name, node) in texts(reader, view, key) {
        let is_name = |name: &str| {
            name.len() <= LINE_MAX
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !is_name(name) {
            reader.hide(node);
            let message =
                format!("`{}`: {} is no name of a variable; write letters, digits and _", key.name, quote(name));
            reader.faults.wrong(node.span(), message);
            continue;
        }
        if node.get_ref().as_str().is_some_and(|text| literal::is_literal(name, text)) {
            reader.hide(node);
            let message = format!("`{}`: {} is a secret by its name; {ELSEWHERE}", key.name, quote(name));
            reader.faults.wrong(node.span(), message);
            continue;
        }
        let one = one_of(key, false);
        let Some((text, is_hidden)) = text(reader, node, &one) else { continue };
        let template = if is_hidden {
            if text.contains('\0') {
                Err("has a NUL in it, which no variable can have".to_owned())
            } else {
                Ok(Template::hidden(&text))
            }
        } else {
            Template::parse(&text, options)
        };
        match template {
            Ok(template) => env.push((name.to_owned(), template)),
            Err(why) => {
                let shown = if is_hidden { "the value (not shown)".to_owned() } else { quote(&text) };
                reader.faults.wrong(node.span(), format!("`{}`: {shown} {why}", key.name));
            }
        }
    }
    env
}

/// The entries of the table under `key`, at most as many as there may be.
pub(super) fn texts<'t>(reader: &mut Reader<'_>, view: &View<'t>, key: &Key) -> Vec<(&'t str, &'t Node<'t>)> {
    let Some(node) = view.node(key) else { return Vec::new() };
    let Some(table) = node.get_ref().as_table() else {
        reader.hide(node);
        let (name, wanted, what) = (key.name, key.kind.wanted(), node.get_ref().type_str());
        reader.faults.wrong(node.span(), format!("`{name}` takes {wanted}, not a value of type {what}"));
        return Vec::new();
    };
    if table.len() > TEXTS_MAX {
        let message = format!("`{}` has {} entries; {TEXTS_MAX} is the most", key.name, table.len());
        reader.faults.wrong(node.span(), message);
        return Vec::new();
    }
    table.iter().map(|(name, node)| (name.get_ref().as_ref(), node)).collect()
}

/// A text, a number or a flag, as text; and whether it was looked up.
pub(super) fn text(reader: &mut Reader<'_>, node: &Node<'_>, key: &Key) -> Option<(String, bool)> {
    use crate::config::value::Raw;
    let given = reader.scalar(node, key)?;
    let is_hidden = given.origin.is_some();
    let text = match &given.raw {
        Raw::Flag(flag) => flag.to_string(),
        Raw::Integer(text) | Raw::Text(text) => text.to_string(),
    };
    if text.len() > 16384 {
        let message = format!("`{}`: {} is too long; 16384 bytes is the most", key.name, given.shown(key));
        reader.faults.wrong(node.span(), message);
        return None;
    }
    Some((text, is_hidden))
}

/// The lines of the file under `key`, in which `options` may be filled in; one that is looked up is as it is.
pub(super) fn file(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, options: &[&str]) -> Option<Vec<Template>> {
    let node = view.node(key)?;
    let content: String = reader.convert(node, key)?;
    let Some(typed) = node.get_ref().as_str() else {
        return Some(vec![Template::hidden(&content)]);
    };
    if let Some(name) = literal::in_file(typed) {
        reader.hide(node);
        let message = format!("`{}`: {} in it is a secret by its name; {ELSEWHERE}", key.name, quote(name));
        reader.faults.wrong(node.span(), message);
        return None;
    }
    let mut lines = Vec::new();
    for line in content.split_inclusive('\n') {
        match Template::parse(line, options) {
            Ok(line) => lines.push(line),
            Err(why) => {
                let message = format!("`{}`: {} {why}", key.name, quote(line.trim_end()));
                reader.faults.wrong(node.span(), message);
                return None;
            }
        }
    }
    Some(lines)
}

/// The text under `key` that a line of output is looked through for.
pub(super) fn line(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> Option<String> {
    let node = view.node(key)?;
    let text: String = reader.convert(node, key)?;
    refuse_line(reader, node, key, &text).then_some(text)
}

/// The same, each one of a list.
pub(super) fn fatal(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> Vec<String> {
    let mut found = Vec::new();
    for item in reader.list(view, key, FATAL_MAX, "entries") {
        let Some(text) = reader.convert::<String>(item, key) else { continue };
        if refuse_line(reader, item, key, &text) {
            found.push(text);
        }
    }
    found
}

/// Whether `text` can be found in a line of output.
fn refuse_line(reader: &mut Reader<'_>, node: &Node<'_>, key: &Key, text: &str) -> bool {
    let fits = !text.trim().is_empty() && text.len() <= LINE_MAX && !text.chars().any(char::is_control);
    if !fits {
        let shown = node.get_ref().as_str().map_or_else(|| "the value (not shown)".to_owned(), quote);
        let message = format!(
            "`{}`: {shown} is in no line of output; write from 1 to {LINE_MAX} bytes that can be seen, on one line",
            key.name
        );
        reader.faults.wrong(node.span(), message);
    }
    fits
}

/// Whether a name is of lower-case letters, digits and `_`.
pub(super) fn name_is_plain(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The variables of a tunnel's own, over those of its provider.
pub(super) fn over(provider: &[(String, Template)], own: Vec<(String, Template)>) -> Vec<(String, Template)> {
    let names: BTreeSet<String> = own.iter().map(|(name, _)| name.clone()).collect();
    provider.iter().filter(|(name, _)| !names.contains(name)).cloned().chain(own).collect()
}

/// Says that what stands under `key` is for something else; answers whether it is there.
pub(super) fn refuse_given(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, why: &str) -> bool {
    let Some(node) = view.node(key) else { return false };
    if *key == keys::OPTIONS || *key == keys::TUNNEL_ENV || *key == keys::TUNNEL_COMMAND || *key == keys::TUNNEL_FILE {
        reader.hide(node);
    }
    reader.faults.wrong(node.span(), format!("`{}` is given, but {why}", key.name));
    true
}

//! `lookup` of a tunnel: how a backend's address is found out.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::config::key::Key;
use crate::config::keys;
use crate::config::read::Reader;
use crate::config::view::View;
use crate::model::{Address, HttpCheck, LookupPlan, LookupSource, Part, ProgramPlan, Secret, StatusRange, Text};

use super::template::{Known, Style, Template, Words};
use super::words;

/// The longest path of a URL, in bytes.
const PATH_MAX: usize = 2048;

/// A look-up, with places to fill in.
#[derive(Debug, Clone)]
pub(super) struct LookupDraft {
    asked: Asked,
    authorization: Option<Secret>,
    interval: Duration,
    timeout: Duration,
    place: Range<usize>,
}

#[derive(Debug, Clone)]
enum Asked {
    Command(Vec<Words>),
    Http { url: Template, pointer: Template },
}

impl LookupDraft {
    /// The texts in it.
    pub(super) fn templates(&self) -> Vec<&Template> {
        match &self.asked {
            Asked::Command(words) => words.iter().flatten().collect(),
            Asked::Http { url, pointer } => vec![url, pointer],
        }
    }

    /// The look-up with what is known; `env` is what its program's environment has besides.
    pub(super) fn plan(
        &self,
        reader: &mut Reader<'_>,
        known: Known<'_>,
        env: &[(Arc<str>, Text)],
    ) -> Option<LookupPlan> {
        let source = match &self.asked {
            Asked::Command(words) => {
                let argv = words::fill(words, known);
                let is_local = |text: &Text| text.0.iter().any(|part| matches!(part, Part::LocalPort | Part::File));
                if argv.iter().any(is_local) {
                    let message =
                        "`command`: {local_port} and {file} are the tunnel's own; nothing is filled in for them here";
                    reader.faults.wrong(self.place.clone(), message.to_owned());
                    return None;
                }
                let env = env.iter().filter(|(_, text)| !is_local(text)).cloned().collect();
                LookupSource::Command(Arc::new(ProgramPlan { argv, env, file: None }))
            }
            Asked::Http { url, pointer } => {
                let (address, path) = match parse(&flat(url, known)) {
                    Ok(found) => found,
                    Err(why) => {
                        let message = format!("`url`: the value (not shown) {why}");
                        reader.faults.wrong(self.place.clone(), message);
                        return None;
                    }
                };
                let pointer = flat(pointer, known);
                if !is_pointer(&pointer) {
                    let message = "`pointer`: the value is no JSON pointer; write the keys and numbers that lead to the address, \
                                   each behind a /, such as \"/tunnels/0/public_url\"";
                    reader.faults.wrong(self.place.clone(), message.to_owned());
                    return None;
                }
                let authorization = self.authorization.clone();
                let expect = vec![StatusRange { first: 200, last: 299 }];
                let request = HttpCheck { method: "GET".to_owned(), path, port: 0, expect, authorization };
                LookupSource::Http { address, request, pointer: Arc::from(pointer) }
            }
        };
        Some(LookupPlan { source, interval: self.interval, timeout: self.timeout })
    }
}

/// The text itself, in which nothing is the daemon's choice; empty if an option is left out.
fn flat(text: &Template, known: Known<'_>) -> String {
    text.fill(known, Style::Plain).map(|text| text.expose(crate::model::Filling::default())).unwrap_or_default()
}

/// Reads the look-up under `key`, in which `options` may be filled in.
pub(super) fn read(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, options: &[&str]) -> Option<LookupDraft> {
    view.node(key)?;
    let place = view.place(key);
    let view = reader.table(view, key);
    let url: Option<Secret> = reader.given(&view, &keys::LOOKUP_URL);
    let command = words::argv(reader, &view, &keys::LOOKUP_COMMAND, options);
    let pointer: Option<String> = reader.given(&view, &keys::POINTER);
    let authorization = reader.given(&view, &keys::LOOKUP_AUTHORIZATION);
    let interval = reader.get(&view, &keys::LOOKUP_INTERVAL);
    let timeout = reader.get(&view, &keys::LOOKUP_TIMEOUT);
    let has_url = view.node(&keys::LOOKUP_URL).is_some();
    let asked = match (has_url, command) {
        (false, None) => {
            let message = format!("[{}] asks nobody; write `url` and `pointer`, or `command`", view.label);
            reader.faults.missing(view.span.clone(), message);
            return None;
        }
        (true, Some(_)) => {
            let message = "`command` is given, but `url` is asked; leave one of them out".to_owned();
            reader.faults.wrong(view.place(&keys::LOOKUP_COMMAND), message);
            return None;
        }
        (false, Some(words)) => {
            for key in [&keys::POINTER, &keys::LOOKUP_AUTHORIZATION] {
                words::refuse_given(reader, &view, key, "a `command` is asked; leave it out");
            }
            Asked::Command(words)
        }
        (true, None) => {
            reader.demand(&view, &keys::POINTER);
            let is_literal = view.node(&keys::LOOKUP_URL).is_some_and(|node| node.get_ref().is_str());
            let url = template(reader, &view, &keys::LOOKUP_URL, url?.expose(), is_literal.then_some(options))?;
            let is_literal = view.node(&keys::POINTER).is_some_and(|node| node.get_ref().is_str());
            let pointer = template(reader, &view, &keys::POINTER, &pointer?, is_literal.then_some(options))?;
            Asked::Http { url, pointer }
        }
    };
    Some(LookupDraft { asked, authorization, interval, timeout, place })
}

/// A text with places to fill in; without `options` it was looked up, and is as it is.
fn template(
    reader: &mut Reader<'_>,
    view: &View<'_>,
    key: &Key,
    text: &str,
    options: Option<&[&str]>,
) -> Option<Template> {
    let Some(options) = options else { return Some(Template::hidden(text)) };
    match Template::parse(text, options) {
        Ok(template) => Some(template),
        Err(why) => {
            reader.faults.wrong(view.place(key), format!("`{}`: the value (not shown) {why}", key.name));
            None
        }
    }
}

/// The server and the path of a URL; or what is wrong with it.
fn parse(url: &str) -> Result<(Address, String), &'static str> {
    if url.starts_with("https://") {
        return Err("is asked over TLS, which a lookup does not speak; write a `command` that does, such as curl");
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err("is no URL of a server; write \"http://HOST:PORT/PATH\"");
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("has a user in it; write `authorization`");
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let address: Address = address.parse().map_err(|_| "has no host; write \"http://HOST:PORT/PATH\"")?;
    if address.port() == Some(0) {
        return Err("has port 0, where nobody listens");
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.len() > PATH_MAX || path.contains('#') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has a path that cannot be asked for; write at most 2048 visible ASCII characters, without a #");
    }
    Ok((address, path))
}

fn is_pointer(text: &str) -> bool {
    let escapes = || text.match_indices('~').all(|(at, _)| text[at + 1..].starts_with(['0', '1']));
    text.starts_with('/') && !text.chars().any(char::is_control) && escapes()
}

#[cfg(test)]
mod tests {
    use super::{is_pointer, parse};

    #[test]
    fn a_url_is_a_server_and_a_path() {
        for (url, address, path) in [
            ("http://127.0.0.1:4040/api/tunnels", "127.0.0.1:4040", "/api/tunnels"),
            ("http://agent", "agent:80", "/"),
            ("http://[::1]:4040/a?b=c", "[::1]:4040", "/a?b=c"),
            ("http://[::1]/a", "[::1]:80", "/a"),
            ("http://agent?b", "agent:80", "/?b"),
        ] {
            let found = parse(url).map(|(address, path)| (address.to_string(), path));
            assert_eq!(found, Ok((address.to_owned(), path.to_owned())), "{url}");
        }
        for (url, why) in [
            ("https://a/", "over TLS"),
            ("ftp://a/", "no URL"),
            ("http://a:b@c/", "has a user"),
            ("http:///x", "has no host"),
            ("http://a:0/", "port 0"),
            ("http://a/ b", "cannot be asked"),
        ] {
            assert!(parse(url).is_err_and(|error| error.contains(why)), "{url}");
        }
    }

    #[test]
    fn a_pointer_has_its_escapes() {
        assert!(is_pointer("/tunnels/0/public_url") && is_pointer("/a~1b/~0"));
        assert!(!is_pointer("") && !is_pointer("a/b") && !is_pointer("/a~") && !is_pointer("/a~2"));
    }
}

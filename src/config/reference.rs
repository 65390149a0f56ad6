//! The reference file: every key with its default and its reason, printed from the table of keys.

use super::key::{Key, Kind, Part, Preset};
use super::keys;

/// The longest line of a comment.
const WIDTH: usize = 110;

const HEAD: &str = "\
# Every key of changeover's configuration, with its default and why it is that.
#
# A key that is left out takes the value that stands here, so a real file is much shorter: see the
# other files beside this one. Keys with a # before them have no default, so that an example stands
# there, or would not go together with another line.
# Listeners, pools, backends, webhooks and providers of tunnels have names of your choice: orders, pg1, pager, x.
#
# Durations and sizes are strings with a unit: \"250ms\", \"1m 30s\", \"64KiB\". Any string may be
# { env = \"NAME\" } or { file = \"PATH\" } (less one newline at its end); a relative PATH starts where
# the daemon was started; { credential = \"NAME\" } is the file NAME in $CREDENTIALS_DIRECTORY, which systemd
# sets for LoadCredential=. Unknown keys are errors. `changeover check` shows every error at once.
#
# This file is printed from the program's own table of keys, and a test holds it to it.
";

/// The text of `config/reference.toml`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for part in Part::ALL.iter().copied().filter(|part| *part != Part::Root) {
        match aside(part) {
            Some(when) => text.push_str(&format!("\n# {when}:\n# [{}]\n", header(part))),
            None => text.push_str(&format!("\n[{}]\n", header(part))),
        }
        for key in keys::of(part) {
            write(&mut text, key);
        }
    }
    text
}

/// When a part is for, if it is not for all: it is shown as a comment then.
const fn aside(part: Part) -> Option<&'static str> {
    match part {
        Part::Token => Some("For each caller with a token of its own"),
        Part::Jwt => Some("For callers with a JWT"),
        Part::Tls => Some("For TLS at the IP addresses of the admin server"),
        Part::Http => Some("With kind = \"http\" above"),
        Part::Agent => Some("With kind = \"agent\" above"),
        Part::Expect => Some("With kind = \"expect\" above"),
        Part::Postgres => Some("With kind = \"postgres\" above"),
        Part::Tunnel => Some("For a backend that is reached through a tunnel"),
        Part::Lookup => Some("For a tunnel whose address has to be looked up"),
        Part::Provider => Some("For a provider of tunnels of your own"),
        Part::ProviderOption => Some("For each option that it has"),
        Part::Webhook => Some("For each receiver of events, of which there may be none"),
        Part::Root
        | Part::Daemon
        | Part::Admin
        | Part::Log
        | Part::Listener
        | Part::Pool
        | Part::Check
        | Part::Failover
        | Part::Sessions
        | Part::Backend => None,
    }
}

/// The header of a part, with the names of the example.
fn header(part: Part) -> String {
    let pattern = part.names().1.replace("backends.NAME", "backends.pg1").replace("tokens.NAME", "tokens.ops");
    let pattern = pattern.replace("webhooks.NAME", "webhooks.pager").replace("options.NAME", "options.user");
    let pattern = pattern.replace("tunnel_providers.NAME", "tunnel_providers.x");
    pattern.replace("NAME", "orders")
}

fn write(text: &mut String, key: &Key) {
    let literal = key.literal();
    match (key.kind, key.preset) {
        (Kind::Table(Part::Tunnel), _) => {
            comment(text, key.doc);
            text.push_str(
                "# tunnel = { provider = \"ssh\", target = \"db.internal:5432\", options = { host = \"bastion\" } }\n",
            );
        }
        (Kind::Table(_), _) if key.part == Part::Backend => {
            comment(text, key.doc);
            text.push_str("# check = { interval = \"5s\", http = { port = 8009 } }\n");
        }
        (Kind::Table(_) | Kind::Tables(_), _) => {}
        (kind, preset) => {
            comment(text, &format!("{} {}", key.doc, key.reason));
            // What has no default, and what would contradict another line, is shown as a comment.
            let is_example =
                kind == Kind::Backends || aside(key.part).is_some() || matches!(preset, Preset::Optional(_));
            let mark = if is_example { "# " } else { "" };
            text.push_str(&format!("{mark}{} = {literal}\n", key.name));
        }
    }
}

/// A comment in lines of bearable length.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

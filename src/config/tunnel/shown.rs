//! A tunnel as it was understood, for people: in a line or two, and in full. No secret is in it.

use std::fmt::Write;

use crate::config::key::Key;
use crate::config::keys;
use crate::model::{
    Attach, BackendPlan, CheckKind, HIDDEN, HttpCheck, LookupPlan, LookupSource, Part, ProgramPlan, Text, TunnelPlan,
    spoken,
};

use super::provider::COMMAND;

/// How a backend is reached, to be put behind its address.
pub(in crate::config) fn way(backend: &BackendPlan) -> String {
    backend.tunnel.as_ref().map(|plan| format!(" through {} ({})", plan.provider, plan.via.attach)).unwrap_or_default()
}

/// What is said of its tunnel in lines of their own, each with its end.
pub(in crate::config) fn note(backend: &BackendPlan) -> String {
    let Some(plan) = backend.tunnel.as_deref() else { return String::new() };
    let mut parts = Vec::new();
    if let Some(program) = &plan.program {
        let each = if plan.via.attach == Attach::Stdio { " for each connection" } else { "" };
        let secrets = if program.secrets().next().is_some() { ", told what is not shown" } else { "" };
        parts.push(format!("runs {}{each}{secrets}", program.argv.first().map(Text::to_string).unwrap_or_default()));
        if plan.via.attach != Attach::Stdio {
            let says = plan.ready.as_ref().map(|text| format!(" says {text:?} and")).unwrap_or_default();
            parts.push(format!("which{says} is open within {}", spoken(plan.ready_timeout)));
        }
    }
    parts.extend(plan.proxy.iter().map(|proxy| format!("asks the proxy at {proxy}, which somebody else runs")));
    parts.extend(plan.lookup.as_ref().map(asked));
    if plan.program.is_some() && plan.via.attach != Attach::Stdio {
        parts.push(match plan.restart_after {
            0 => "is not started anew for failed checks".to_owned(),
            failures => format!("is started anew after {failures} failed checks"),
        });
        parts.push(format!("tried again after {} up to {}", spoken(plan.retry_initial), spoken(plan.retry_max)));
    }
    if parts.is_empty() {
        parts.push("somebody else sees to it".to_owned());
    }
    let mut lines = format!("      tunnel: {}\n", parts.join(", "));
    if backend.check.kind == CheckKind::Tcp && plan.via.attach != Attach::Address {
        lines.push_str(
            "      note: this check proves that the way stays open for 300 ms, not that anything answers at its end\n",
        );
    }
    lines
}

fn asked(lookup: &LookupPlan) -> String {
    let whom = match &lookup.source {
        LookupSource::Command(program) => program.argv.first().map(Text::to_string).unwrap_or_default(),
        LookupSource::Http { address, request, .. } => url(address, request),
    };
    format!("its address is asked of {whom} every {}", spoken(lookup.interval))
}

fn url(address: &crate::model::Address, request: &HttpCheck) -> String {
    format!("http://{address}{}", HttpCheck::shown_path(&request.path))
}

/// The whole of a tunnel as it would stand in a file with `provider = "command"`, which takes nothing from a provider. What was
/// looked up is not shown.
#[must_use]
pub fn explain_tunnel(plan: &TunnelPlan) -> String {
    let via = &plan.via;
    let mut lines = Lines(format!(
        "# What provider = \"{}\" comes to; {HIDDEN} stands for what was looked up.\n[pools.{}.backends.{}.tunnel]\n",
        plan.provider,
        name(via.pool.as_str()),
        name(via.backend.as_str())
    ));
    lines.put(&keys::PROVIDER, &quoted(COMMAND));
    lines.put(&keys::ATTACH, &quoted(via.attach.label()));
    if !super::is_looked_up(&via.target) {
        lines.put(&keys::TUNNEL_TARGET, &quoted(&via.target.to_string()));
    }
    if let Some(program) = &plan.program {
        lines.program(&keys::TUNNEL_COMMAND, program);
        lines.env(program);
        if let Some(file) = &program.file {
            lines.put(&keys::TUNNEL_FILE, &shown(file));
        }
    }
    if let Some(proxy) = &plan.proxy {
        lines.put(&keys::PROXY, &quoted(&proxy.to_string()));
    }
    if let (Some(ready), Some(_)) = (&plan.ready, &plan.program) {
        lines.put(&keys::READY, &quoted(ready));
    }
    if plan.program.is_some() {
        lines.put(&keys::READY_TIMEOUT, &quoted(&spoken(plan.ready_timeout)));
        if !plan.fatal.is_empty() {
            lines.list(keys::FATAL.name, plan.fatal.iter().map(|text| quoted(text)));
        }
    }
    lines.put(&keys::RESTART_AFTER, &plan.restart_after.to_string());
    for (key, time) in [
        (&keys::RETRY_INITIAL, plan.retry_initial),
        (&keys::RETRY_MAX, plan.retry_max),
        (&keys::RETRY_RESET, plan.retry_reset),
    ] {
        lines.put(key, &quoted(&spoken(time)));
    }
    if plan.program.is_some() {
        lines.put(&keys::STOP_GRACE, &quoted(&spoken(plan.stop_grace)));
    }
    if let Some(lookup) = &plan.lookup {
        lines.lookup(plan, lookup);
    }
    lines.0
}

/// A table in the making.
struct Lines(String);

impl Lines {
    fn put(&mut self, key: &Key, literal: &str) {
        self.line(key.name, literal);
    }

    fn line(&mut self, name: &str, literal: &str) {
        // Writing to a string cannot fail.
        match writeln!(self.0, "{name} = {literal}") {
            Ok(()) | Err(std::fmt::Error) => {}
        }
    }

    fn list(&mut self, name: &str, items: impl Iterator<Item = String>) {
        self.line(name, &format!("[{}]", items.collect::<Vec<_>>().join(", ")));
    }

    /// A command line.
    fn program(&mut self, key: &Key, program: &ProgramPlan) {
        self.list(key.name, program.argv.iter().map(shown));
    }

    fn env(&mut self, program: &ProgramPlan) {
        if !program.env.is_empty() {
            let entries: Vec<String> =
                program.env.iter().map(|(name, text)| format!("{name} = {}", shown(text))).collect();
            self.put(&keys::TUNNEL_ENV, &format!("{{ {} }}", entries.join(", ")));
        }
    }

    fn lookup(&mut self, plan: &TunnelPlan, lookup: &LookupPlan) {
        if let (LookupSource::Command(program), None) = (&lookup.source, &plan.program) {
            self.env(program);
        }
        let header = format!(
            "[pools.{}.backends.{}.tunnel.{}]\n",
            name(plan.via.pool.as_str()),
            name(plan.via.backend.as_str()),
            keys::LOOKUP.name
        );
        self.0.push_str(&header);
        match &lookup.source {
            LookupSource::Command(program) => self.program(&keys::LOOKUP_COMMAND, program),
            LookupSource::Http { address, request, pointer } => {
                self.put(&keys::LOOKUP_URL, &doubled(&url(address, request)));
                self.put(&keys::POINTER, &doubled(pointer));
                if request.authorization.is_some() {
                    self.put(&keys::LOOKUP_AUTHORIZATION, &quoted(HIDDEN));
                }
            }
        }
        self.put(&keys::LOOKUP_INTERVAL, &quoted(&spoken(lookup.interval)));
        self.put(&keys::LOOKUP_TIMEOUT, &quoted(&spoken(lookup.timeout)));
    }
}

/// A text as it stands in a file, without what was looked up: braces that are no places are doubled.
fn shown(text: &Text) -> String {
    let parts = text.0.iter().map(|part| match part {
        Part::Shown(shown) => shown.replace('{', "{{").replace('}', "}}"),
        Part::Hidden(_) => HIDDEN.to_owned(),
        Part::LocalPort => "{local_port}".to_owned(),
        Part::File => "{file}".to_owned(),
    });
    quoted(&parts.collect::<String>())
}

fn doubled(text: &str) -> String {
    quoted(&text.replace('{', "{{").replace('}', "}}"))
}

/// A string of TOML. JSON's are such, but for what stands for a character of the upper planes, which is as it is in both.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A name in a header.
fn name(text: &str) -> String {
    let is_bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare { text.to_owned() } else { quoted(text) }
}

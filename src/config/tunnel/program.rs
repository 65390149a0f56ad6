//! The program of a tunnel: its command line, its environment and its file, with what is known filled in.

use std::sync::Arc;

use crate::config::keys;
use crate::config::read::Reader;
use crate::config::view::View;
use crate::config::wording::quote;
use crate::model::{Attach, Part, ProgramPlan, Text};

use super::Way;
use super::options::Settings;
use super::provider::COMMAND;
use super::template::{self, Known, Template, Words};
use super::words;

/// What a program is made with.
#[derive(Debug)]
pub(super) struct Around<'a> {
    /// Whether somebody else runs the proxy.
    pub(super) proxy: bool,
    /// What the provider was told.
    pub(super) settings: &'a Settings,
    /// The same, to be filled in.
    pub(super) known: Known<'a>,
    /// What the environment has besides.
    pub(super) env: Vec<(Arc<str>, Text)>,
}

/// The program; none if there is none to run, or if something is wrong with it, which is then said.
pub(super) fn of(reader: &mut Reader<'_>, view: &View<'_>, way: Way<'_>, around: &Around<'_>) -> Option<ProgramPlan> {
    let Way { provider, attach } = way;
    if around.proxy {
        let why = "somebody else runs the `proxy`, so that no program is started; leave one of the two out";
        for key in [&keys::TUNNEL_COMMAND, &keys::OPTIONS] {
            words::refuse_given(reader, view, key, why);
        }
        return None;
    }
    let own = if provider.name == COMMAND { own_command(reader, view, attach)? } else { Vec::new() };
    let all: Vec<&Words> = if provider.name == COMMAND {
        own.iter().collect()
    } else {
        match provider.words(attach) {
            // Whoever says nothing about its program wants none.
            Some(_) if attach == Attach::Address && around.settings.given == 0 => return None,
            Some(words) => words.collect(),
            None => {
                refuse_missing(reader, view, way);
                return None;
            }
        }
    };
    refuse_dashes(reader, view, &all, around);
    if attach == Attach::Address
        && around.known.target.is_none()
        && all.iter().copied().flatten().any(Template::wants_target)
    {
        let message = format!("[{}] has no `target`, which the program is told", view.label);
        reader.faults.lacking(view.span.clone(), keys::TUNNEL_TARGET.name, message);
    }
    if attach != Attach::Address && around.known.target.is_none() {
        // That it must be given was said.
        return None;
    }
    let argv = words::fill(all, around.known);
    let Some(first) = argv.first().filter(|word| !word.0.is_empty()) else {
        let message = format!("`options`: {} has no program to run without those that are left out", provider.name);
        reader.faults.wrong(view.place(&keys::PROVIDER), message);
        return None;
    };
    let mut file = file(reader, view, way, around.known);
    if !matches!(first.0.as_slice(), [Part::Shown(_) | Part::Hidden(_)]) {
        let message =
            format!("`command`: {} is no program; write its path or its name first", quote(&first.to_string()));
        reader.faults.wrong(view.place(&keys::TUNNEL_COMMAND), message);
        return None;
    }
    let texts = || argv.iter().chain(around.env.iter().map(|(_, text)| text));
    let wants_file = texts().any(|text| text.0.contains(&Part::File));
    if wants_file && file.is_none() {
        let message = "`command`: {file} stands for the path of a file, and there is none; write `file`".to_owned();
        reader.faults.wrong(view.place(&keys::TUNNEL_COMMAND), message);
    } else if !wants_file {
        let why = "its path is told nobody; write {file} in `command` or `env`";
        words::refuse_given(reader, view, &keys::TUNNEL_FILE, why);
        file = None;
    }
    let is_told = texts().chain(&file).any(Text::wants_port);
    refuse_port(reader, view, attach, is_told);
    Some(ProgramPlan { argv, env: around.env.clone(), file })
}

/// The command line that the tunnel itself has.
fn own_command(reader: &mut Reader<'_>, view: &View<'_>, attach: Attach) -> Option<Vec<Words>> {
    let key = &keys::TUNNEL_COMMAND;
    let words = words::argv(reader, view, key, &[]);
    if words.is_none() && attach != Attach::Address {
        let proxy = match attach {
            Attach::Socks5 | Attach::HttpConnect => ", or proxy = \"HOST:PORT\" if somebody else runs it",
            Attach::Listen | Attach::Stdio | Attach::Address => "",
        };
        let message = format!("[{}] has no `command`; write command = {}{proxy}", view.label, key.literal());
        reader.faults.lacking(view.span.clone(), key.name, message);
    }
    words.filter(|words| !words.is_empty())
}

/// Says that the provider runs nothing for this.
fn refuse_missing(reader: &mut Reader<'_>, view: &View<'_>, way: Way<'_>) {
    let Way { provider, attach } = way;
    match attach {
        Attach::Socks5 | Attach::HttpConnect if provider.attach.contains(&attach) => {
            let message = format!("[{}] has no `proxy`; write proxy = {}", view.label, keys::PROXY.literal());
            reader.faults.lacking(view.span.clone(), keys::PROXY.name, message);
        }
        Attach::Listen | Attach::Stdio if provider.attach.contains(&attach) => {
            let message = format!("[tunnel_providers.{}] says no program for attach = \"{attach}\"", provider.name);
            reader.faults.wrong(view.place(&keys::PROVIDER), message);
        }
        // What the provider does not give at all was said.
        Attach::Socks5 | Attach::HttpConnect | Attach::Listen | Attach::Stdio | Attach::Address => {}
    }
}

/// What begins with a dash would be taken for another option of the program.
fn refuse_dashes(reader: &mut Reader<'_>, view: &View<'_>, words: &[&Words], around: &Around<'_>) {
    for name in words.iter().copied().flatten().filter_map(Template::leads_with_option) {
        if around.settings.all.get(name).is_some_and(|setting| setting.text.starts_with('-')) {
            let message = format!(
                "`options`: {} begins with -, which its program would take for an option of its own",
                quote(name)
            );
            reader.faults.wrong(view.place(&keys::OPTIONS), message);
        }
    }
}

/// The file, as the tunnel has it or its provider.
fn file(reader: &mut Reader<'_>, view: &View<'_>, way: Way<'_>, known: Known<'_>) -> Option<Text> {
    if way.provider.name == COMMAND {
        let lines = words::file(reader, view, &keys::TUNNEL_FILE, &[])?;
        return Some(template::lines(&lines, known));
    }
    let lines = &way.provider.file;
    (!lines.is_empty()).then(|| template::lines(lines, known))
}

/// A program that is to open a port is told which; one that is to open none is not.
fn refuse_port(reader: &mut Reader<'_>, view: &View<'_>, attach: Attach, is_told: bool) {
    let key = &keys::TUNNEL_COMMAND;
    let place = if view.node(key).is_some() { view.place(key) } else { view.place(&keys::PROVIDER) };
    match (attach, is_told) {
        (Attach::Listen | Attach::Socks5 | Attach::HttpConnect, false) => {
            let message = format!(
                "`command`: the program is not told the port that it is to open; write {{local_port}} there, \
                 such as {}",
                key.literal()
            );
            reader.faults.wrong(place, message);
        }
        (Attach::Stdio | Attach::Address, true) => {
            let message = format!("`command`: with attach = \"{attach}\" there is no {{local_port}}; leave it out");
            reader.faults.wrong(place, message);
        }
        (Attach::Listen | Attach::Socks5 | Attach::HttpConnect, true) | (Attach::Stdio | Attach::Address, false) => {}
    }
}

/// What is given for a program, though none is run; a look-up's program has the tunnel's environment too.
pub(super) fn refuse_idle(reader: &mut Reader<'_>, view: &View<'_>, is_asked: bool) {
    if reader.faults.count() > 0 {
        // It may be that there is none because of what is wrong.
        return;
    }
    let mut about = vec![&keys::READY, &keys::FATAL, &keys::READY_TIMEOUT, &keys::STOP_GRACE];
    if !is_asked {
        about.push(&keys::TUNNEL_ENV);
    }
    for key in about {
        words::refuse_given(reader, view, key, "no program is run here; leave it out");
    }
}

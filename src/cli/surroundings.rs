//! What a command's help cannot say option by option: with which codes it ends, which variables it heeds, which files are its own.
//! The help of the program and the man pages say it from here.

use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit::Exit;
use super::{DEFAULT_CONFIG, token};

/// Commands that a line is said of.
enum Of {
    /// Those with this option.
    Option(&'static str),
    /// These.
    Named(&'static [&'static str]),
}

/// A name, and what it is for.
struct Line {
    name: &'static str,
    said: &'static str,
    of: Of,
}

const fn line(name: &'static str, said: &'static str, of: Of) -> Line {
    Line { name, said, of }
}

/// Commands that understand the configuration as the daemon does.
const UNDERSTAND: Of = Of::Named(&["run", "check", "doctor"]);

const ENVIRONMENT: &[Line] = &[
    line("CHANGEOVER_ADMIN", "the daemon's admin address, unless --admin names it", Of::Option("admin")),
    line(token::VARIABLE, "the token to present, unless --token-file names a file with one", Of::Option("token_file")),
    line("STATE_DIRECTORY", "where the state is, if daemon.state_dir is left out; systemd sets it", UNDERSTAND),
    line(
        "NOTIFY_SOCKET",
        "where systemd is told that it is ready, reloads or stops; systemd sets it",
        Of::Named(&["run"]),
    ),
    line("NO_COLOR", "if it says anything, nothing is in colour", Of::Option("json")),
    line("CREDENTIALS_DIRECTORY", "where each { credential = \"NAME\" } is; systemd sets it", UNDERSTAND),
    line("{ env = \"NAME\" }", "any variable of which the configuration says so", Of::Option("config")),
];

const FILES: &[Line] = &[
    line(DEFAULT_CONFIG, "the configuration, unless --config names another", Of::Option("config")),
    line("changeover.redb", "in daemon.state_dir: orders, changes at run time, and the history", Of::Named(&["run"])),
];

impl Of {
    /// Whether `command` is one of them, or one below it is.
    fn has(&self, command: &Command) -> bool {
        let is_it = match self {
            Self::Option(name) => command.get_arguments().any(|argument| argument.get_id() == name),
            Self::Named(names) => names.contains(&command.get_name()),
        };
        is_it || command.get_subcommands().any(|below| self.has(below))
    }
}

/// Each part's title, and its lines as far as they are `command`'s.
fn parts(command: &Command) -> Vec<(&'static str, Vec<(String, &'static str)>)> {
    let codes = Exit::ALL.iter().map(|exit| (exit.code().to_string(), exit.said())).collect();
    let of = |lines: &'static [Line]| {
        let heeded = lines.iter().filter(|line| line.of.has(command));
        heeded.map(|line| (line.name.to_owned(), line.said)).collect::<Vec<_>>()
    };
    let parts = vec![("Exit status", codes), ("Environment", of(ENVIRONMENT)), ("Files", of(FILES))];
    parts.into_iter().filter(|(_, lines)| !lines.is_empty()).collect()
}

/// What stands behind the help of `command`, which has all of it below.
#[must_use]
pub fn help(command: &Command) -> String {
    let part = |(title, lines): (&str, Vec<(String, &str)>)| {
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<String> = lines.iter().map(|(name, said)| format!("  {name:width$}  {said}")).collect();
        format!("{title}:\n{}", lines.join("\n"))
    };
    parts(command).into_iter().map(part).collect::<Vec<_>>().join("\n\n")
}

/// The same as sections of the man page of `command`.
pub(super) fn sections(command: &Command) -> Roff {
    let mut page = Roff::new();
    for (title, lines) in parts(command) {
        page.control("SH", [title.to_uppercase().as_str()]);
        for (name, said) in lines {
            page.control("TP", []).text([bold(name)]).text([roman(said)]);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use clap::{Command, Subcommand};

    use super::super::{ClientCommand, Exit};
    use super::{ENVIRONMENT, help};

    fn variables(command: &Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(|of| of.get_env()).map(|name| name.to_string_lossy().into_owned());
        own.chain(command.get_subcommands().flat_map(variables)).collect()
    }

    #[test]
    fn every_variable_that_an_option_takes_is_told() {
        let all = variables(&ClientCommand::augment_subcommands(Command::new("changeover")));
        assert!(!all.is_empty());
        for name in all {
            assert!(ENVIRONMENT.iter().any(|line| line.name == name), "{name}");
        }
    }

    #[test]
    fn a_command_is_told_of_what_it_heeds() {
        let command = ClientCommand::augment_subcommands(Command::new("changeover"));
        let drain = help(command.find_subcommand("drain").unwrap());
        assert!(drain.contains("CHANGEOVER_ADMIN") && drain.contains("/etc/changeover/"), "{drain}");
        assert!(!drain.contains("STATE_DIRECTORY"), "{drain}");
        let schema = help(&Command::new("schema"));
        assert!(schema.contains("Exit status:") && !schema.contains("Environment"), "{schema}");
        assert!(Exit::ALL.iter().all(|exit| schema.contains(exit.said())), "{schema}");
    }
}

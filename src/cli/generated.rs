//! What is generated from the definition of the command line itself: completions and man pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::{PossibleValuesParser, Resettable};
use clap_complete::env::Shells;
use clap_mangen::Man;
use clap_mangen::roff::Roff;

use super::exit::CliError;
use super::{print, surroundings};

/// The variable by which a shell's script asks this program what comes next.
pub const COMPLETE_VARIABLE: &str = "CHANGEOVER_COMPLETE";

/// The shells that there are scripts for.
const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// Which shell.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell that is to read it
    #[arg(value_name = "SHELL", value_parser = PossibleValuesParser::new(SHELLS))]
    shell: String,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for this and one for each command into this directory [default: print this one]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Bash takes words apart at each colon, and the names of backends that are addresses have them: before it completes, the parts are put
/// together, and what stands on the line already is taken off what it offers.
const BASH_COLONS: &str = r#"
_changeover_with_colons() {
    local parts=("${COMP_WORDS[@]:0:COMP_CWORD+1}") whole=() part after_colon=
    [[ ${parts[COMP_CWORD]} == : ]] || parts[COMP_CWORD]=$2
    for part in "${parts[@]}"; do
        if [[ ${#whole[@]} -gt 0 && ( -n $after_colon || $part == : ) ]]; then
            whole[${#whole[@]}-1]+=$part
        else
            whole+=("$part")
        fi
        after_colon=
        [[ $part != : ]] || after_colon=yes
    done
    local COMP_WORDS=("${whole[@]}") COMP_CWORD=$((${#whole[@]} - 1))
    local word=${COMP_WORDS[COMP_CWORD]}
    _clap_complete_changeover "$1" "$word" "$3"
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
}
complete -o nospace -o bashdefault -F _changeover_with_colons changeover
"#;

/// Prints the script by which a shell completes the command line.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn completions(args: &CompletionArgs, command: &Command) -> Result<(), CliError> {
    let name = command.get_name();
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell);
    let shell = shell.ok_or_else(|| CliError::Internal(format!("there is no script for {}", args.shell)))?;
    let mut script = Vec::new();
    let written = shell.write_registration(COMPLETE_VARIABLE, name, name, name, &mut script);
    written.map_err(|error| CliError::Internal(error.to_string()))?;
    if args.shell == "bash" {
        script.extend_from_slice(BASH_COLONS.as_bytes());
    }
    print(&String::from_utf8_lossy(&script))
}

/// Prints the man page of the program, or writes that and those of all commands into a directory.
///
/// # Errors
///
/// If a page cannot be written.
pub fn man(args: &ManArgs, command: Command) -> Result<(), CliError> {
    // What stands behind the help has sections of its own here.
    let mut command = command.disable_help_subcommand(true).after_help(Resettable::Reset);
    command.build();
    match &args.out {
        None => print(&String::from_utf8_lossy(&page(command)?)),
        Some(directory) => {
            fs::create_dir_all(directory).map_err(|error| unwritten(directory, &error))?;
            write_all(&command, directory)
        }
    }
}

/// Writes the page of `command` and those of its commands, as far as people are told of them.
fn write_all(command: &Command, directory: &Path) -> Result<(), CliError> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_all(below, directory)?;
    }
    let file = directory.join(Man::new(command.clone()).get_filename());
    fs::write(&file, page(command.clone())?).map_err(|error| unwritten(&file, &error))
}

fn page(command: Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    write_page(command, &mut page).map_err(|error| CliError::Internal(error.to_string()))?;
    // Each section begins as a page of its own does.
    let begin = Roff::new().render();
    Ok(format!("{begin}{}", String::from_utf8_lossy(&page).replace(&begin, "")).into_bytes())
}

/// In the order of man-pages(7).
fn write_page(command: Command, page: &mut Vec<u8>) -> io::Result<()> {
    // Without a date: the same program has the same pages.
    let man = Man::new(command.clone()).manual("changeover").source(concat!("changeover ", env!("CARGO_PKG_VERSION")));
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(page)?;
    }
    surroundings::sections(&command).to_writer(page)?;
    if command.get_version().is_some() {
        man.render_version_section(page)?;
    }
    Ok(())
}

fn unwritten(path: &Path, error: &std::io::Error) -> CliError {
    let cause = format!("{} cannot be written: {error}", path.display());
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return CliError::Unwritable(cause);
    }
    CliError::Internal(format!("{cause}; name another directory with --out"))
}

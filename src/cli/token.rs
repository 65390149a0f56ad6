//! The token that is presented to the daemon: out of a file or the environment, never out of the command line, which every
//! process of the host can read. It is in no message.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::model::Secret;

use super::exit::CliError;
use super::warn;

/// Where the token is if no file is named.
pub(super) const VARIABLE: &str = "CHANGEOVER_TOKEN";

/// The longest that a token may be, in bytes: the daemon takes no longer one.
const TOKEN_MAX: usize = 8 << 10;

/// The bits of a file's mode by which others than its owner and its group read it.
const READ_BY_OTHERS: u32 = 0o004;

/// The token in `file`, else that of the environment, else none. Warns of a file that everybody may read, unless it is to be quiet.
pub(super) fn find(file: Option<&Path>, is_quiet: bool) -> Result<Option<Secret>, CliError> {
    if let Some(path) = file {
        return in_file(path, is_quiet).map(Some);
    }
    match std::env::var(VARIABLE) {
        Ok(text) => checked(&text, &format!("the token in {VARIABLE}")).map(Some),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(CliError::Token(format!(
            "the token in {VARIABLE} is not text; set it to what the daemon's operator gave you"
        ))),
    }
}

fn in_file(path: &Path, is_quiet: bool) -> Result<Secret, CliError> {
    let name = path.display();
    let unread = |error: std::io::Error| {
        let cause = format!("the token file {name} cannot be read: {error}");
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return CliError::Unreadable(cause);
        }
        CliError::Token(format!("{cause}; name another with --token-file, or set {VARIABLE}"))
    };
    let file = File::open(path).map_err(unread)?;
    let mode = file.metadata().map_err(unread)?.permissions().mode();
    if mode & READ_BY_OTHERS != 0 && !is_quiet {
        warn(&format!("changeover: everybody on this host may read the token file {name}; mend it: chmod 600 {name}"));
    }
    let mut text = String::new();
    let most = u64::try_from(TOKEN_MAX).unwrap_or(u64::MAX).saturating_add(2);
    file.take(most).read_to_string(&mut text).map_err(unread)?;
    checked(&text, &format!("the token in {name}"))
}

/// `text` without the white space around it, if it is one that can be sent (RFC 6750, 2.1). What is wrong with it is said without it.
fn checked(text: &str, what: &str) -> Result<Secret, CliError> {
    let token = text.trim();
    let wrong = |why: &str| Err(CliError::Token(format!("{what} {why}")));
    if token.is_empty() {
        return wrong("is empty; put the token there, and nothing else");
    }
    if token.len() > TOKEN_MAX {
        return wrong(&format!("is longer than {TOKEN_MAX} bytes, which the daemon takes none of"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(
            "has spaces, line ends or other characters that no token has; put the token there, and nothing else",
        );
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{TOKEN_MAX, checked, find};

    #[test]
    fn a_token_is_taken_from_its_file_without_the_line_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret.token-_~+/=").unwrap();
        let token = find(Some(file.path()), false).unwrap().unwrap();
        assert_eq!(token.expose(), "s3cret.token-_~+/=");
        assert!(find(Some("/no/such/file".as_ref()), false).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said_without_it() {
        for bad in ["", "  \n", "hunter2 hunter2", "hunter2\nhunter2", "hünter2", &"hunter2".repeat(TOKEN_MAX)] {
            let told = checked(bad, "the token in X").unwrap_err().to_string();
            assert!(told.starts_with("the token in X ") && !told.contains("hunter2"), "{told}");
        }
    }
}

//! Secrets that stand where all can read them: in the file itself, or on a command line.

/// Words by one of which a name is that of a secret.
const SECRETS: &[&str] = &["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "AUTHKEY"];
/// The same, where they are the last word of the name.
const WHOLE: &[&str] = &["AUTH", "AUTHORIZATION", "KEY", "PASS", "PSK", "PWD"];
/// Words by which a name is that of a place, or of what all may know.
const PLACES: &[&str] = &["FILE", "PATH", "DIR", "DIRECTORY", "SOCK", "SOCKET", "URL", "PUBLIC"];

/// Whether `name`, of a variable, an argument or a setting, is that of a secret.
pub(super) fn names_secret(name: &str) -> bool {
    let words = words(name);
    let is_place = words.iter().any(|word| PLACES.contains(&word.as_str()))
        || words.last().is_some_and(|word| word.ends_with("FILE"));
    let is_whole = words.last().is_some_and(|word| WHOLE.contains(&word.as_str()));
    let is_secret = |word: &String| SECRETS.iter().any(|secret| word.contains(secret));
    !is_place && (is_whole || words.iter().any(is_secret))
}

/// Whether the value of something that is called `name` is a secret that stands there: a place is none, nor is what is filled in.
pub(super) fn is_literal(name: &str, value: &str) -> bool {
    let value = value.trim_matches(['"', '\'', ' ']);
    let is_elsewhere = value.is_empty()
        || value.starts_with(['{', '$'])
        || matches!(value, "yes" | "no" | "true" | "false")
        || (value.len() <= 4 && value.bytes().all(|b| b.is_ascii_digit()))
        || value.starts_with("file:")
        || (value.starts_with('/') && words(name).iter().any(|word| word == "KEY"));
    names_secret(name) && !is_elsewhere
}

/// The argument or variable of a command line whose value is a secret that stands there.
pub(super) fn in_argv<'a>(argv: &[&'a str]) -> Option<&'a str> {
    for (at, word) in argv.iter().enumerate() {
        let next = argv.get(at + 1).copied().filter(|next| !next.starts_with('-'));
        let found = in_word(word, next).or_else(|| {
            // What a shell is given is a command line of its own.
            let parts: Vec<&str> = word.split([' ', '\t', '\n', ';', '&', '|', '(', ')']).collect();
            if parts.len() > 1 { in_argv(&parts) } else { None }
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

fn in_word<'a>(word: &'a str, next: Option<&str>) -> Option<&'a str> {
    if let Some((_, behind)) = word.split_once("://")
        && let Some((before, _)) = behind.split(['/', '?']).next().and_then(|authority| authority.rsplit_once('@'))
        && let Some((user, password)) = before.split_once(':')
        && !password.is_empty()
        && !password.starts_with('{')
    {
        let end = word.len() - behind.len() + user.len();
        return word.get(..end);
    }
    let bare = word.trim_start_matches(['"', '\'']);
    if let Some((name, _)) = bare.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
        return Some(name);
    }
    match bare.split_once('=') {
        Some((name, value)) => is_literal(name.trim_start_matches('-'), value).then_some(name),
        None if bare.starts_with('-') => {
            next.is_some_and(|next| is_literal(bare.trim_start_matches('-'), next)).then_some(bare)
        }
        None => None,
    }
}

/// The setting of a file whose value is a secret that stands there.
pub(super) fn in_file(text: &str) -> Option<&str> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
        let (name, value) = line.split_once(['=', ':'])?;
        let name = name.trim().trim_matches(['"', '\'']);
        is_literal(name, value.trim()).then_some(name)
    })
}

/// The words of a name, in capitals: `secretKey`, `secret_key` and `SECRET-KEY` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        let is_new = !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_small);
        was_small = c.is_ascii_lowercase();
        if is_new {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_ascii_alphanumeric()) {
            word.push(c.to_ascii_uppercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::{in_argv, in_file, names_secret};

    #[test]
    fn a_name_says_whether_it_is_that_of_a_secret() {
        for name in
            ["TOKEN", "NGROK_AUTHTOKEN", "TUNNEL_SERVICE_TOKEN_SECRET", "AUTH", "secretKey", "api-key", "PGPASSWORD"]
        {
            assert!(names_secret(name), "{name}");
        }
        for name in [
            "TUNNEL_TOKEN_FILE",
            "SSH_AUTH_SOCK",
            "authfile",
            "keepalive",
            "AUTHOR",
            "auth.method",
            "KEYBOARD",
            "remotePublicKey",
            "NAME",
        ] {
            assert!(!names_secret(name), "{name}");
        }
    }

    #[test]
    fn a_secret_on_a_command_line_is_found() {
        for (argv, found) in [
            (&["x", "--token", "abc"][..], "--token"),
            (&["x", "--auth=user:pass"], "--auth"),
            (&["x", "-password", "abc"], "-password"),
            (&["x", "--service-token-secret", "abc"], "--service-token-secret"),
            (&["sh", "-c", "TOKEN=abc exec x"], "TOKEN"),
            (&["env", "AUTH=user:pass", "x"], "AUTH"),
            (&["sh", "-c", "cd /; x --secret 'a b'"], "--secret"),
            (&["x", "-H", "Authorization: Bearer abc"], "Authorization"),
            (&["x", "https://user:pass@host/"], "https://user"),
        ] {
            assert_eq!(in_argv(argv), Some(found), "{argv:?}");
        }
    }

    #[test]
    fn what_is_no_secret_may_stand_there() {
        for argv in [
            &["x", "--token-file", "/run/token"][..],
            &["x", "--auth-key=file:/run/key"],
            &["x", "--tls-key", "/etc/x.pem"],
            &["x", "--token", "--verbose"],
            &["sh", "-c", "TOKEN=$(cat /run/token) exec x"],
            &["ssh", "-o", "PasswordAuthentication=no", "-o", "StrictHostKeyChecking=accept-new"],
            &["ssh", "-o", "IdentitiesOnly=yes", "-o", "ControlPath=none", "user@host"],
            &["x", "https://host/a:b@c"],
        ] {
            assert_eq!(in_argv(argv), None, "{argv:?}");
        }
        assert_eq!(in_file("a = 1\nauth.token = \"abc\"\n"), Some("auth.token"));
        assert_eq!(in_file("token = \"{token}\"\npublicKey = \"abc\"\n# token\n"), None);
    }
}

//! What to do about what programs of tunnels say: of those whose words are known.

use std::path::PathBuf;

use crate::model::{Address, CheckError, DialError, ProbeError};

/// What a word of advice names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Whom the program connects to, if that is said.
    pub(super) server: Option<String>,
    /// At which port, if that is said beside it.
    pub(super) port: Option<String>,
    /// The option with its key, and the key.
    pub(super) key: Option<(String, PathBuf)>,
    /// The file of the hosts that are known.
    pub(super) known_hosts: Option<PathBuf>,
    /// Where it leads.
    pub(super) target: String,
}

/// Which advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    KeyMode,
    HostChanged,
    HostUnknown,
    Algorithms,
    TooManyKeys,
    KeyRefused,
    Option,
    Forbidden,
    Target,
    Name,
    Port,
    ServerRefuses,
    ServerSilent,
    Secret,
    Certificate,
}

/// Words in small letters, and what they mean; those that say more are before those that follow from them.
const KNOWN: &[(&str, Advice)] = &[
    ("unprotected private key file", Advice::KeyMode),
    ("remote host identification has changed", Advice::HostChanged),
    ("host key verification failed", Advice::HostUnknown),
    ("host key is known for", Advice::HostUnknown),
    ("no matching host key type", Advice::Algorithms),
    ("no matching key exchange method", Advice::Algorithms),
    ("too many authentication failures", Advice::TooManyKeys),
    ("permission denied (", Advice::KeyRefused),
    ("bad configuration option", Advice::Option),
    ("administratively prohibited", Advice::Forbidden),
    ("open failed: ", Advice::Target),
    ("could not resolve hostname", Advice::Name),
    ("name or service not known", Advice::Name),
    ("name resolution", Advice::Name),
    ("no such host", Advice::Name),
    ("address already in use", Advice::Port),
    ("connection refused", Advice::ServerRefuses),
    ("timed out", Advice::ServerSilent),
    ("no route to host", Advice::ServerSilent),
    ("network is unreachable", Advice::ServerSilent),
    ("unauthorized", Advice::Secret),
    ("authentication failed", Advice::Secret),
    ("x509", Advice::Certificate),
    ("certificate verify failed", Advice::Certificate),
];

/// What to do if a program has `said` this, if any of it is known.
pub(super) fn mend(said: &[String], about: &About) -> Option<String> {
    let small: Vec<String> = said.iter().map(|line| line.to_lowercase()).collect();
    let (_, advice) = KNOWN.iter().find(|(words, _)| small.iter().any(|line| line.contains(words)))?;
    Some(advice.words(about))
}

impl Advice {
    fn words(self, about: &About) -> String {
        let server = about.server.as_deref().unwrap_or("its server");
        let at = about.port.as_ref().map_or_else(|| server.to_owned(), |port| format!("{server} port {port}"));
        let option = about.key.as_ref().map_or("identity_file", |(option, _)| option);
        let hosts =
            about.known_hosts.as_ref().map_or("~/.ssh/known_hosts".to_owned(), |path| path.display().to_string());
        let port = about.port.as_ref().map(|port| format!("-p {port} ")).unwrap_or_default();
        match self {
            Self::KeyMode => match &about.key {
                Some((_, path)) => format!("chmod 600 {}", path.display()),
                None => "chmod 600 the key".to_owned(),
            },
            Self::HostChanged => format!(
                "ask the owner of {server} whether its key is another now; if so, take the old one out of {hosts} \
                 (`ssh-keygen -R`) and add the new one"
            ),
            Self::HostUnknown => format!(
                "`ssh-keyscan {port}{server} >> {hosts}`, and compare the key with what its owner says \
                 (`ssh-keygen -l -f {hosts}`)"
            ),
            Self::Algorithms => {
                format!("bring {server} or this host's ssh up to date: they have no algorithm in common")
            }
            Self::TooManyKeys => format!("name the one key to offer as {option}"),
            Self::KeyRefused => match &about.key {
                Some((_, path)) => format!(
                    "add {}.pub to ~/.ssh/authorized_keys of the user on {server}; or name another {option} or user",
                    path.display()
                ),
                None => format!("name an identity_file whose public key is in ~/.ssh/authorized_keys on {server}"),
            },
            Self::Option => "take a newer version of its program, or leave the option out".to_owned(),
            Self::Forbidden => format!(
                "let {server} forward to {}: AllowTcpForwarding and PermitOpen there, `permitopen` of the key",
                about.target
            ),
            Self::Target => at_far_end(&about.target),
            Self::Name => format!("see what `getent hosts {server}` says, or write its address"),
            Self::Port => "run this again: a port that was free was taken (`ss -tlnp` says by whom)".to_owned(),
            Self::ServerRefuses => format!("see whether {at} is where it listens, and whether it is up"),
            Self::ServerSilent => format!("see whether {at} is up, and whether a firewall lets this host through"),
            Self::Secret => "see whether its secrets are those that the far side knows".to_owned(),
            Self::Certificate => format!("see whether this host trusts the certificate of {server}"),
        }
    }
}

/// What to do about a target that is not there.
fn at_far_end(target: &str) -> String {
    format!(
        "start what listens at {target} as seen from the tunnel's far end, or set `target` to where it is from there"
    )
}

/// What to do if a check through a tunnel to `target` has failed so, by somebody else's `proxy` if there is one; none if a tunnel
/// makes no difference.
pub(super) fn behind(error: ProbeError, target: &str, proxy: Option<&Address>) -> Option<String> {
    match error {
        ProbeError::Dial(DialError::TargetRefused) | ProbeError::Check(CheckError::ClosedEarly) => {
            Some(at_far_end(target))
        }
        ProbeError::Dial(DialError::TargetUnreachable | DialError::Unreachable | DialError::TimedOut)
        | ProbeError::Check(CheckError::AnswerTimedOut) => Some(format!(
            "see whether {target} answers, as seen from the tunnel's far end, and whether it lets that through"
        )),
        ProbeError::Dial(DialError::ProxyRefused) => {
            Some(format!("see the log of its proxy, and whether that may go to {target}"))
        }
        ProbeError::Dial(DialError::TunnelDown) => Some(match proxy {
            Some(proxy) => format!("start its proxy, or see whether it listens at {proxy}"),
            None => "see what its program says when it is run by hand".to_owned(),
        }),
        ProbeError::Dial(
            DialError::Refused | DialError::Unresolved | DialError::SourceAddress | DialError::Local | DialError::Other,
        )
        | ProbeError::Check(
            CheckError::SourceRefused
            | CheckError::UnexpectedStatus
            | CheckError::UnexpectedAnswer
            | CheckError::Malformed
            | CheckError::CannotConnectNow
            | CheckError::Slow
            | CheckError::AgentDown
            | CheckError::CommandFailed,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            server: Some("bastion".to_owned()),
            port: Some("2222".to_owned()),
            key: Some(("identity_file".to_owned(), PathBuf::from("/etc/key"))),
            known_hosts: Some(PathBuf::from("/etc/hosts.known")),
            target: "db:5432".to_owned(),
        }
    }

    #[test]
    fn what_is_known_of_a_programs_words_says_what_to_do() {
        for (said, wanted) in [
            ("tun@bastion: Permission denied (publickey).", "add /etc/key.pub to ~/.ssh/authorized_keys"),
            ("Host key verification failed.", "`ssh-keyscan -p 2222 bastion >> /etc/hosts.known`"),
            ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "ask the owner of bastion"),
            ("ssh: Could not resolve hostname bastion: Name or service not known", "getent hosts bastion"),
            ("ssh: connect to host bastion port 2222: Connection refused", "whether bastion port 2222 is where"),
            ("ssh: connect to host bastion port 2222: Connection timed out", "firewall"),
            (
                "channel 2: open failed: connect failed: Connection refused",
                "start what listens at db:5432 as seen from",
            ),
            ("channel 2: open failed: administratively prohibited: open failed", "AllowTcpForwarding"),
            ("bind [127.0.0.1]:1: Address already in use", "ss -tlnp"),
            ("HTTP 401 Unauthorized", "secrets"),
        ] {
            let mend = mend(&[said.to_owned()], &about()).unwrap_or_default();
            assert!(mend.contains(wanted), "{said}: {mend}");
        }
        assert_eq!(mend(&["hello".to_owned()], &about()), None);
        assert_eq!(mend(&[], &about()), None);
    }

    #[test]
    fn the_cause_counts_and_not_what_follows_from_it() {
        let said = ["@ WARNING: UNPROTECTED PRIVATE KEY FILE! @", "tun@bastion: Permission denied (publickey)."];
        assert_eq!(mend(&said.map(str::to_owned), &about()), Some("chmod 600 /etc/key".to_owned()));
        let said = ["Host key verification failed.", "REMOTE HOST IDENTIFICATION HAS CHANGED"];
        assert!(mend(&said.map(str::to_owned), &about()).unwrap().starts_with("ask the owner"));
    }

    #[test]
    fn words_without_names_are_whole_as_well() {
        for (words, _) in KNOWN {
            let about = About { target: "db:1".to_owned(), ..About::default() };
            let mend = mend(&[(*words).to_owned()], &about).unwrap();
            assert!(!mend.is_empty() && !mend.contains("  "), "{mend}");
        }
    }

    #[test]
    fn a_target_is_told_as_the_far_end_sees_it() {
        for error in [
            ProbeError::Check(CheckError::ClosedEarly),
            ProbeError::Check(CheckError::AnswerTimedOut),
            ProbeError::Dial(DialError::TargetRefused),
            ProbeError::Dial(DialError::TargetUnreachable),
        ] {
            let mend = behind(error, "db:5432", None).unwrap();
            assert!(mend.contains("db:5432") && mend.contains("as seen from the tunnel's far end"), "{mend}");
        }
        assert_eq!(behind(ProbeError::Check(CheckError::UnexpectedStatus), "db:5432", None), None);
    }
}

//! Where the daemon of a file answers. It is all that its clients want of the file: what else is wrong with it, or is looked up
//! where only the daemon finds it, keeps nobody from reaching a daemon that runs.

use std::io::ErrorKind;
use std::path::Path;

use toml::de::DeTable;

use crate::model::Address;

use super::fault::ConfigErrors;
use super::read::Reader;
use super::source::{self, OsSources, Sources};
use super::view::View;
use super::{default_admin_bind, dismantle, keys, listeners, text_of, unread};

/// The addresses of a daemon's admin server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAt {
    /// Where it listens.
    pub bind: Vec<Address>,
    /// Whether TLS is spoken at the IP addresses.
    pub is_tls: bool,
}

/// Why a file does not say where the admin server is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminAtError {
    /// Whoever asks may not read the file. The operating system's words.
    #[error("{0}")]
    Denied(String),
    /// What is wrong.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

/// The admin server's addresses in the configuration file at `path`.
///
/// # Errors
/// If it cannot be read, or does not say them for sure.
pub fn admin_at(path: &Path) -> Result<AdminAt, AdminAtError> {
    let file = path.display().to_string();
    let bytes = source::read(path, source::FILE_MAX).map_err(|error| {
        let is_denied = error.kind() == ErrorKind::PermissionDenied;
        if is_denied { AdminAtError::Denied(error.to_string()) } else { unread(&file, &error).into() }
    })?;
    Ok(within(&file, &text_of(bytes, &file)?, &OsSources)?)
}

/// The same in `text`, which messages call `file`.
fn within(file: &str, text: &str, sources: &dyn Sources) -> Result<AdminAt, ConfigErrors> {
    let mut reader = Reader::new(sources);
    let (tree, errors) = DeTable::parse_recoverable(text);
    reader.broken(&errors);
    let sure = errors.iter().filter_map(toml::de::Error::span).map(|span| span.start).min();
    let table = tree.into_inner();
    // Nobody looks here for what must not be shown, so that of all that stands in the file only the address is.
    let admin = table.get(keys::ADMIN.name).and_then(|node| node.get_ref().as_table());
    let others = table.iter().filter(|(name, _)| admin.is_none() || name.get_ref() != keys::ADMIN.name);
    let of_admin = admin.into_iter().flatten().filter(|(name, _)| name.get_ref() != keys::ADMIN_BIND.name);
    others.chain(of_admin).for_each(|(_, node)| reader.hide(node));
    let found = {
        let root = reader.root(&table);
        let admin = reader.table(&root, &keys::ADMIN);
        addresses(&mut reader, &admin, sure.unwrap_or(usize::MAX))
    };
    dismantle(table);
    found.ok_or_else(|| reader.faults.into_errors(file, text))
}

/// The addresses in `admin`, a table of a file that is TOML up to the byte `sure`: what stands behind that may be another table's.
/// Without any it is the default, unless something is wrong that may be their place: whom is asked is told the token.
fn addresses(reader: &mut Reader<'_>, admin: &View<'_>, sure: usize) -> Option<AdminAt> {
    let is_tls = admin.node(&keys::ADMIN_TLS).is_some();
    let node = admin.node(&keys::ADMIN_BIND);
    if node.is_some_and(|node| node.span().end <= sure) {
        let before = reader.faults.count();
        let bind = listeners::binds(reader, admin, &keys::ADMIN_BIND).into_iter().map(|bind| bind.address);
        // Where TLS may be spoken after all, the table of it being broken or misspelt, nothing is said in clear to another host.
        let is_plain = sure == usize::MAX && before == 0;
        let bind: Vec<Address> = bind.filter(|address| is_tls || is_plain || is_near(address)).collect();
        let is_right = reader.faults.count() == before && !bind.is_empty();
        return is_right.then_some(AdminAt { bind, is_tls });
    }
    let bind = default_admin_bind().parse().ok().filter(|_| reader.faults.is_empty())?;
    Some(AdminAt { bind: vec![bind], is_tls })
}

/// Whether who dials it stays on this host.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Ip(address) => address.ip().to_canonical().is_loopback() || address.ip().is_unspecified(),
        Address::Name { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::SourceError;
    use super::{Sources, within};

    /// An environment in which nothing is set, and files of which none can be read.
    struct Nothing;

    impl Sources for Nothing {
        fn env(&self, _: &str) -> Result<String, SourceError> {
            Err(SourceError::Unset)
        }

        fn file(&self, _: &str) -> Result<String, SourceError> {
            Err(SourceError::Unreadable("Permission denied".to_owned()))
        }
    }

    fn found(text: &str) -> Result<(Vec<String>, bool), String> {
        let at = within("f", text, &Nothing).map_err(|errors| errors.to_string())?;
        Ok((at.bind.iter().map(ToString::to_string).collect(), at.is_tls))
    }

    #[test]
    fn nothing_but_the_address_need_be_right() {
        let at = "[admin]\nbind = ['unix:/a', '127.0.0.1:1']\n";
        for rest in [
            "",
            "rate_limit = 'x'\nbnd = 5\n",
            "[admin.jwt]\nkey = { file = '/jwt' }\nalgorithm = 'HS999'\n",
            "[admin.tokens.ops]\nsha256 = { env = 'OPS' }\n",
            "[webhooks.pager]\nurl = { env = 'PAGER' }\n",
            "[pools.p]\nbackends = [5]\n[listener.l]\n",
            "[pools.p\nbackends = ['a:1']\n",
            "[listeners.l]\nbind = 127.0.0.1:1\n",
        ] {
            let wanted = (vec!["unix:/a".to_owned(), "127.0.0.1:1".to_owned()], false);
            assert_eq!(found(&format!("{at}{rest}")), Ok(wanted), "{rest}");
        }
        let tls = "[admin.tls]\ncertificate = '/a'\nkey = { file = '/b' }\n";
        assert_eq!(found(&format!("{at}{tls}")).map(|(_, is_tls)| is_tls), Ok(true));
        assert_eq!(found(tls), Ok((vec!["127.0.0.1:7072".to_owned()], true)));
        assert_eq!(found("[pools.p]\nbackends = [5]\n"), Ok((vec!["127.0.0.1:7072".to_owned()], false)));
    }

    #[test]
    fn a_token_is_not_carried_to_an_address_that_is_a_guess() {
        for (text, wanted) in [
            ("[amdin]\nbind = 'unix:/a'\n", "did you mean `admin`?"),
            ("[admin]\nbnd = 'unix:/a'\n", "did you mean `bind`?"),
            ("[admin]\nbind = 'unix:a'\n", "begins with /"),
            ("[admin]\nbind = ['unix:/a', '127.0.0.1']\n", "no port"),
            ("[admin]\nbind = { env = 'ADMIN' }\n", "is not set"),
            ("admin = 'unix:/a'\n", "is a table"),
            ("[admin]\nbind = unix:/a\n", "not TOML"),
            ("[pools.p\n[admin]\nbind = 'unix:/a'\n", "not TOML"),
            ("[admin]\n[listeners.l\nbind = '10.0.0.1:1'\n", "not TOML"),
            ("[pools.p]\nbackends = ['a:1\n", "not TOML"),
            ("[admin]\nbind = '10.0.0.1:1'\n[admin.tls\nkey = '/key'\n", "not TOML"),
            ("[admin]\nbind = '10.0.0.1:1'\n[admin.tsl]\nkey = '/key'\n", "did you mean `tls`?"),
            ("[admin]\nbind = '10.0.0.1:1'\n[amdin.tls]\nkey = '/key'\n", "did you mean `admin`?"),
        ] {
            let told = found(text).unwrap_err();
            assert!(told.starts_with("f:") && told.contains(wanted), "{text}: {told}");
        }
    }

    #[test]
    fn no_secret_of_the_file_is_in_what_is_said() {
        for text in [
            "admin = { bind = 5, tokens = { a = { sha256 = 'hunter2' } } }\n",
            "admin = { bnd = 5, jwt = { key = 'hunter2' } }\n",
            "amdin = { jwt = { key = 'hunter2' } }\n",
            "webhooks.a = { url = 'hunter2', 5 }\n",
        ] {
            let told = found(text).unwrap_err();
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}

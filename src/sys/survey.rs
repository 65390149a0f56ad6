//! What the host would allow, for those who ask before they do it. Nothing here changes anything.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, Rlimit, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::lookup_host;

use crate::model::Address;

use super::limits::Descriptors;
use super::unbound::listening_unix;

/// Whether this process may listen at `address`. It does not: nobody can connect meanwhile, and whoever listens there already loses
/// nobody.
///
/// # Errors
///
/// Why not; `AddrInUse` if somebody listens there.
pub fn may_bind(address: &Address) -> io::Result<()> {
    match address {
        Address::Ip(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&(*address).into())
        }
        Address::Unix(path) => may_bind_unix(path),
        Address::Name { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name is no address to listen at")),
    }
}

fn may_bind_unix(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        Ok(_) if listening_unix(path).is_some() => return Err(io::ErrorKind::AddrInUse.into()),
        // One that a killed predecessor left is removed.
        Ok(_) => {}
    }
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// What there is to know of a directory before something is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Whose it is.
    pub owner: u32,
    /// Its permissions.
    pub mode: u32,
    /// Whether this process may make files in it.
    pub is_writable: bool,
    /// The bytes that are free for this user.
    pub free: u64,
}

/// Looks at the directory `path`.
///
/// # Errors
///
/// If it is not there, is no directory, or may not be looked at.
pub fn directory(path: &Path) -> io::Result<Directory> {
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let space = statvfs(path)?;
    Ok(Directory {
        owner: found.uid(),
        mode: found.mode() & 0o7777,
        is_writable: access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        free: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// The most descriptors that a process of this user may have when it raises its limit as far as it is let.
#[must_use]
pub fn descriptor_limit() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = maximum.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    Descriptors { limit, started_with: current }
}

/// The addresses that `host` has now.
///
/// # Errors
///
/// If it cannot be looked up.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Whether something keeps the kernel's clock right, as the kernel knows it; none if it does not say.
#[must_use]
pub fn is_clock_set() -> Option<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all of the struct is integers, for which zero is a value, and `modes` of zero has the kernel write to it and change
    // nothing else.
    #[expect(unsafe_code, reason = "no safe wrapper of adjtimex exists")]
    let status = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    (status >= 0).then_some(status != libc::TIME_ERROR)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::{descriptor_limit, directory, may_bind};
    use crate::model::Address;

    fn kind(address: &str) -> Option<std::io::ErrorKind> {
        may_bind(&address.parse::<Address>().unwrap()).err().map(|error| error.kind())
    }

    #[test]
    fn an_address_that_is_taken_is_known_without_a_connection_to_it() {
        use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, AlreadyExists, NotFound};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(kind(&listener.local_addr().unwrap().to_string()), Some(AddrInUse));
        assert!(listener.accept().is_err(), "nobody has connected");
        assert_eq!(kind("127.0.0.1:0"), None);
        assert_eq!(kind("192.0.2.1:1"), Some(AddrNotAvailable));
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("unix:{}/{name}", dir.path().display());
        let socket = UnixListener::bind(dir.path().join("held")).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(kind(&path("held")), Some(AddrInUse));
        assert!(socket.accept().is_err(), "nobody has connected");
        drop(socket);
        assert_eq!(kind(&path("held")), None, "left behind");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(kind(&path("file")), Some(AlreadyExists));
        assert_eq!(kind(&path("new")), None);
        assert_eq!(kind(&path("no/such/directory")), Some(NotFound));
    }

    #[test]
    fn a_directory_has_an_owner_and_room() {
        let dir = tempfile::tempdir().unwrap();
        let found = directory(dir.path()).unwrap();
        assert!(found.is_writable && found.free > 0 && found.owner == super::super::own_uid(), "{found:?}");
        assert!(directory(&dir.path().join("none")).is_err());
        assert!(descriptor_limit().limit > 0);
    }
}

//! A small file that is the daemon's own: nobody else reads it, and what somebody else put in its place is not believed.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::own_uid;

/// What is in the file at `path`, at most `max` bytes; none if there is no file.
///
/// # Errors
///
/// If it cannot be read, is a link or another's, or is longer.
pub fn read_private(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != own_uid() || about.mode() & 0o022 != 0 {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is no file that only this user can write"));
    }
    let mut bytes = Vec::new();
    if file.take(max + 1).read_to_end(&mut bytes)? as u64 > max {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it has more than {max} bytes")));
    }
    Ok(Some(bytes))
}

/// Puts a file with `bytes` at `path`: whoever reads has the old one or the new one, and never a part.
///
/// # Errors
///
/// If it cannot be written.
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{read_private, replace_private};

    #[test]
    fn a_file_is_replaced_whole_and_only_our_own_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_private(&path, 9).unwrap(), None);
        fs::write(dir.path().join("f.new"), "left by one that was killed").unwrap();
        replace_private(&path, b"one").unwrap();
        replace_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_private(&path, 2).is_err(), "too long");
        let link = dir.path().join("l");
        symlink(&path, &link).unwrap();
        assert!(read_private(&link, 9).is_err(), "a link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_private(&path, 9).is_err(), "others can write it");
    }
}

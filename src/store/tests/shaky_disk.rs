//! A disk in memory that is full, broken or slow when it is told to be, and keeps what was written.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use redb::{Database, StorageBackend};

use crate::model::WallTime;
use crate::store::file::{Medium, Trouble, builder};

#[derive(Debug, Default)]
struct Inside {
    bytes: Vec<u8>,
    write_fails: Option<ErrorKind>,
    read_fails: Option<ErrorKind>,
    /// How many more writes succeed before they fail.
    writes_left: Option<u64>,
    hangs: bool,
    aside: Vec<Vec<u8>>,
    opened: u64,
    is_in_use: bool,
}

/// The disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct ShakyDisk {
    inside: Arc<(Mutex<Inside>, Condvar)>,
}

impl ShakyDisk {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.0.lock().unwrap()
    }

    /// From now on every write fails like this, or none.
    pub(super) fn fail_writes(&self, kind: Option<ErrorKind>) {
        let mut inside = self.lock();
        inside.write_fails = kind;
        inside.writes_left = None;
    }

    /// After `count` more writes every write fails.
    pub(super) fn fail_after(&self, count: u64) {
        self.lock().writes_left = Some(count);
    }

    pub(super) fn fail_reads(&self, kind: Option<ErrorKind>) {
        self.lock().read_fails = kind;
    }

    /// From now on writes take for ever, or no more.
    pub(super) fn hang(&self, hangs: bool) {
        self.lock().hangs = hangs;
        self.inside.1.notify_all();
    }

    pub(super) fn spoil(&self) {
        let mut inside = self.lock();
        let len = inside.bytes.len();
        inside.bytes[9..len].fill(0xa5);
    }

    /// Another disk with the same on it: what a process that starts after a crash finds.
    pub(super) fn image(&self) -> Self {
        let image = Self::default();
        image.lock().bytes.clone_from(&self.lock().bytes);
        image
    }

    pub(super) fn aside(&self) -> usize {
        self.lock().aside.len()
    }

    pub(super) fn opened(&self) -> u64 {
        self.lock().opened
    }

    fn may_write(&self) -> io::Result<MutexGuard<'_, Inside>> {
        let mut inside = self.inside.1.wait_while(self.lock(), |inside| inside.hangs).unwrap();
        if let Some(left) = &mut inside.writes_left {
            if *left == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *left -= 1;
        }
        match inside.write_fails {
            Some(kind) => Err(kind.into()),
            None => Ok(inside),
        }
    }

    fn may_read(&self) -> io::Result<MutexGuard<'_, Inside>> {
        let inside = self.lock();
        match inside.read_fails {
            Some(kind) => Err(kind.into()),
            None => Ok(inside),
        }
    }
}

/// Where `len` bytes at `offset` are.
fn place(offset: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + len
}

impl StorageBackend for ShakyDisk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(u64::try_from(self.may_read()?.bytes.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let inside = self.may_read()?;
        let bytes = inside.bytes.get(place(offset, out.len())).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        self.lock().is_in_use = false;
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.may_write()?.bytes.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.may_write().map(drop)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.may_write()?.bytes[place(offset, data.len())].copy_from_slice(data);
        Ok(())
    }
}

impl Medium for ShakyDisk {
    fn open(&mut self) -> Result<Database, Trouble> {
        let mut inside = self.lock();
        if inside.is_in_use {
            return Err(Trouble::InUse);
        }
        inside.is_in_use = true;
        inside.opened += 1;
        drop(inside);
        Ok(builder().create_with_backend(self.clone())?)
    }

    fn set_aside(&mut self, _: WallTime) -> io::Result<String> {
        let mut inside = self.may_write()?;
        let bytes = std::mem::take(&mut inside.bytes);
        inside.aside.push(bytes);
        Ok(format!("aside {}", inside.aside.len()))
    }

    fn copy(&self) -> io::Result<Vec<u8>> {
        Ok(self.may_read()?.bytes.clone())
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.lock().bytes.len()).unwrap()
    }

    fn name(&self) -> String {
        "the shaky disk".to_owned()
    }
}

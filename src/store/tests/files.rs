//! Files that are new, in use, from the future, unfinished or spoilt.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::{all, clock, close, event, ids, kinds, wait, wall};
use crate::model::{BackendName, PoolName, StorePlan};
use crate::store::{Change, FILE_NAME, Opened, StoppedTunnel, StoreError, open};

fn in_directory(directory: &Path) -> StorePlan {
    StorePlan { state_dir: Some(directory.to_owned()), ..StorePlan::default() }
}

fn try_open(directory: &Path) -> Result<Opened, StoreError> {
    open(&in_directory(directory), Duration::ZERO, clock())
}

fn registration(name: &str) -> Change {
    let key = (PoolName::from("orders"), BackendName::from(name));
    Change::Registration(key, Some("{\"address\":\"10.0.0.9:1\"}".to_owned()))
}

/// A directory with a store that was closed in good order, and its file.
fn filled() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let store = try_open(directory.path()).unwrap();
    assert!(wait(store.handle.change(vec![registration("a")], vec![event("one", "orders")])).unwrap().is_durable);
    close(store);
    let file = directory.path().join(FILE_NAME);
    (directory, file)
}

/// The files that lie beside the store's own.
fn aside(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != FILE_NAME).collect()
}

#[test]
fn the_file_and_its_directory_are_the_daemons_alone() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("var/lib/changeover");
    let store = try_open(&directory).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(FILE_NAME)), 0o600);
    close(store);
}

#[test]
fn a_file_that_is_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let first = try_open(directory.path()).unwrap();
    let error = try_open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&directory.path().join(FILE_NAME).display().to_string()), "{message}");
    let closing = first.handle.close();
    let second = open(&in_directory(directory.path()), super::DEADLINE, clock()).unwrap();
    assert!(wait(closing), "the one that hands over has closed it meanwhile");
    close(second);
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let (directory, file) = filled();
    let database = Database::open(&file).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", 7).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = try_open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, .. }), "{error}");
    assert!(error.to_string().contains("move the file away"), "{error}");
    assert_eq!(aside(directory.path()), Vec::<String>::new());
    let database = Database::open(&file).unwrap();
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(META).unwrap().get("format").unwrap().unwrap().value(), 7);
    assert_eq!(read.list_tables().unwrap().count(), 12);
}

#[test]
fn a_file_from_before_there_was_something_to_keep_is_read_as_it_is() {
    let stopped = StoppedTunnel { since: wall(), actor: "ops".into() };
    for (table, change) in [
        ("webhooks", Change::Cursor("pager".into(), Some(7))),
        ("stopped_tunnels", Change::StoppedTunnel(("p".into(), "b".into()), Some(stopped))),
    ] {
        let (directory, file) = filled();
        let database = Database::open(&file).unwrap();
        let write = database.begin_write().unwrap();
        let table: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new(table);
        assert!(write.delete_table(table).unwrap(), "it was there");
        write.commit().unwrap();
        drop(database);
        let store = try_open(directory.path()).unwrap();
        assert!(!store.state.is_empty() && !all(&store.handle).events.is_empty());
        let mut wanted = store.state.clone();
        wanted.apply(change.clone());
        assert!(wait(store.handle.change(vec![change], Vec::new())).unwrap().is_durable);
        close(store);
        let store = try_open(directory.path()).unwrap();
        assert_eq!(store.state, wanted);
        close(store);
        assert_eq!(aside(directory.path()), Vec::<String>::new(), "nothing was moved out of the way");
    }
}

#[test]
fn an_event_that_cannot_be_read_is_passed_over_and_all_else_is_there() {
    const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
    let directory = tempfile::tempdir().unwrap();
    let store = try_open(directory.path()).unwrap();
    for kind in ["one", "two", "three"] {
        wait(store.handle.change(vec![registration(kind)], vec![event(kind, "orders")])).unwrap();
    }
    let two = all(&store.handle).events[1].id;
    close(store);
    let file = directory.path().join(FILE_NAME);
    let database = Database::open(&file).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(HISTORY).unwrap().insert(two, b"no event".as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let store = try_open(directory.path()).unwrap();
    assert_eq!(store.state.registrations.len(), 3);
    assert_eq!(kinds(&all(&store.handle)), ["one", "three"]);
    close(store);
    assert_eq!(aside(directory.path()), Vec::<String>::new(), "nothing was moved out of the way");
}

#[test]
fn a_corrupt_file_is_moved_aside_and_a_fresh_one_begun() {
    type Spoil = fn(&Path);
    let ways: &[(&str, Spoil)] = &[
        ("text", |file| fs::write(file, "this is no database\n").unwrap()),
        ("a short file", |file| fs::write(file, b"redb").unwrap()),
        ("an end cut off", |file| {
            let len = fs::metadata(file).unwrap().len();
            OpenOptions::new().write(true).open(file).unwrap().set_len(len / 3).unwrap();
        }),
        ("a header alone", |file| OpenOptions::new().write(true).open(file).unwrap().set_len(64).unwrap()),
        ("noise behind the magic number", |file| {
            let len = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
            let mut open = OpenOptions::new().write(true).open(file).unwrap();
            open.seek(SeekFrom::Start(9)).unwrap();
            open.write_all(&vec![0x5a; len - 9]).unwrap();
        }),
        ("noise behind the header", |file| {
            let len = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
            let mut open = OpenOptions::new().write(true).open(file).unwrap();
            open.seek(SeekFrom::Start(4096)).unwrap();
            open.write_all(&vec![0xff; len - 4096]).unwrap();
        }),
    ];
    for (way, spoil) in ways {
        let (directory, file) = filled();
        spoil(&file);
        let store = try_open(directory.path()).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert!(store.state.is_empty(), "{way}");
        assert!(wait(store.handle.change(vec![registration("b")], Vec::new())).unwrap().is_durable, "{way}");
        assert_eq!(kinds(&all(&store.handle)), ["store.set_aside"], "{way}");
        let names = aside(directory.path());
        assert_eq!(names.len(), 1, "{way}: {names:?}");
        assert!(names[0].starts_with("changeover.redb.corrupt-20") && names[0].ends_with('Z'), "{way}: {names:?}");
        close(store);
        let store = try_open(directory.path()).unwrap();
        assert_eq!(store.state.registrations.len(), 1, "{way}");
        assert!(ids(&all(&store.handle))[0] > 1, "{way}: ids that may have been given are not given again");
        close(store);
    }
}

#[test]
fn a_file_whose_making_was_cut_short_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE_NAME), vec![0; 1 << 20]).unwrap();
    let store = try_open(directory.path()).unwrap();
    assert_eq!(all(&store.handle).events, []);
    assert_eq!(aside(directory.path()), Vec::<String>::new());
    close(store);
}

#[test]
fn what_people_have_to_mend_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    fs::create_dir(directory.path().join(FILE_NAME)).unwrap();
    for wrong in [file.join("below"), directory.path().to_owned()] {
        let error = try_open(&wrong).unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error}");
        assert!(error.to_string().contains(FILE_NAME) && error.to_string().contains("state_dir"), "{error}");
    }
}

#[test]
fn a_file_from_before_there_were_clusters_is_read() {
    let lineages: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("lineages");
    let (directory, file) = filled();
    let database = Database::open(&file).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(lineages).unwrap());
    write.commit().unwrap();
    drop(database);
    close(try_open(directory.path()).unwrap());
    assert_eq!(aside(directory.path()), Vec::<String>::new());
}

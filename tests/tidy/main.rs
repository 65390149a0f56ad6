//! The wall between the rooms of `src/`. One package has no crate walls, so this test reads the
//! source and holds what the compiler cannot:
//!
//! - `floors`: imports only go down, as the table allows;
//! - `words`: `unsafe`, clocks, runtimes, statics and the like stay in their rooms;
//! - `shape`: headers, names, the sizes of files and functions, the README's code map;
//! - `comments`: the reasons that must be written, and the marks that must not.
//!
//! It fails with every breach at once, as `file:line: message`. A rule that proves wrong is changed
//! here, with its reason, and not worked round. `planted` tests this test.

mod comments;
mod floors;
mod lexer;
mod planted;
mod shape;
mod source;
mod words;

use std::fmt;
use std::path::Path;
use std::{fs, io};

/// One place that breaks one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    path: String,
    line: usize,
    message: String,
}

impl Breach {
    fn new(path: &str, line: usize, message: String) -> Self {
        Self { path: path.to_owned(), line, message }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Every breach in the tree `files` (path and text), in the order of path and line.
fn check(files: &[(String, String)]) -> Vec<Breach> {
    let sources = source::sources(files);
    let mut breaches = floors::check(&sources);
    breaches.extend(shape::check_readme(files, &sources));
    for source in &sources {
        breaches.extend(comments::check_marks(source));
        if source.path.starts_with("src/") {
            breaches.extend(words::check(source));
            breaches.extend(shape::check(source));
            breaches.extend(comments::check_reasons(source));
        }
    }
    breaches.sort();
    breaches.dedup();
    breaches
}

/// The files under `root/folder`, by their path below `root`.
fn read(root: &Path, folder: &str, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(root, &path, files)?;
        } else if path.ends_with(".rs") {
            files.push((path, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

#[test]
fn the_source_is_tidy() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read(root, "src", &mut files)?;
    read(root, "tests", &mut files)?;
    match fs::read_to_string(root.join("README.md")) {
        Ok(text) => files.push(("README.md".to_owned(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let breaches: Vec<String> = check(&files).iter().map(Breach::to_string).collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
    Ok(())
}

#[test]
fn the_table_only_goes_down_and_has_no_cycle() {
    assert_eq!(floors::table_faults(floors::ROOMS), Vec::<String>::new());
}

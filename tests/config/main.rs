//! The configuration as operators meet it: the files that come with the program, bad files and what
//! is said about them, and files that are nonsense.
#![allow(clippy::unwrap_used, clippy::let_underscore_must_use)]

mod callers;
mod elsewhere;
mod errors;
mod files;
mod malformed;
mod overlay;
mod overlay_model;
mod postgres;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "this part of what the end-to-end tests share is for all of them"
)]
#[path = "../support/process.rs"]
mod process;
mod tunnels;
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "as above")]
#[path = "../support/wait.rs"]
mod wait;
mod webhooks;

use std::path::{Path, PathBuf};

use changeover::config::{ConfigErrors, SourceError, Sources, parse};
use changeover::model::Plan;

/// A secret that must never appear in any output.
const SECRET: &str = "hunter2Sw0rdfish";

/// An environment and files that are the same on every machine.
struct Fake;

impl Sources for Fake {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        match name {
            "CHANGEOVER_ADMIN_BIND" => Ok("127.0.0.1:7073".to_owned()),
            "DATABASE_URL" => Ok(format!("postgres://user:{SECRET}@db")),
            "POOL" => Ok("orders".to_owned()),
            "TIMEOUT" => Ok("7s".to_owned()),
            "CREDENTIALS_DIRECTORY" => Ok("/run/credentials/changeover.service".to_owned()),
            "BASTION" => Ok("bastion-c".to_owned()),
            _ => Err(SourceError::Unset),
        }
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        match path {
            "/etc/changeover/patroni-authorization" => Ok(format!("Bearer {SECRET}")),
            "/etc/changeover/orders.pw"
            | "/etc/changeover/wstunnel-prefix"
            | "/etc/changeover/cloudflare-id"
            | "/etc/changeover/cloudflare-secret"
            | "/run/credentials/changeover.service/token" => Ok(SECRET.to_owned()),
            "/etc/changeover/orders-ca.pem" | "/etc/changeover/hooks-ca.pem" => {
                Ok("-----BEGIN CERTIFICATE-----\n".to_owned())
            }
            "/etc/ssl/bundle.pem" => Err(SourceError::TooLong),
            "/binary" => Err(SourceError::NotText),
            _ => Err(SourceError::Unreadable("No such file or directory (os error 2)".to_owned())),
        }
    }
}

fn read(text: &str) -> Result<Plan, ConfigErrors> {
    parse("test.toml", text, &Fake)
}

/// The files in `config/`, by name.
fn good_files() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn file(name: &str) -> String {
    good_files().into_iter().find(|(path, _)| path.ends_with(name)).unwrap().1
}

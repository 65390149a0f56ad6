//! A real browser, as Debian has it (`chromium` and `chromium-driver`), without a window.
//!
//! Each has a driver, a port and a profile of its own, and is gone with its test. No part of `support`, so that the other
//! test programs are built without what speaks to it.

// As in `support`: it is all for tests, and none exports any of it.
#![allow(unreachable_pub)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::error::Elapsed;

use crate::support::process::{Guarded, lines};
use crate::support::{DEADLINE, dial, wait_until};

/// What the browser is told at its start. It runs as root in containers, where its sandbox cannot; and of itself it must
/// ask nobody anything, so that what it asks is the page's doing.
const ARGUMENTS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// How long the browser may take over one thing that it is asked for: it is the slowest of all that the tests start.
const PATIENCE: Duration = DEADLINE.saturating_mul(2);

/// Drivers that are started, one after the other, until one listens.
const DRIVERS_MAX: usize = 3;

/// An open page.
#[derive(Debug)]
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    driver: SocketAddr,
    session: String,
    _process: Guarded,
    _profile: TempDir,
}

impl Browser {
    /// Opens `url` in a window of `width` by `height`.
    #[track_caller]
    pub fn open(url: &str, width: u32, height: u32) -> Self {
        let (process, driver) = start_driver();
        wait_until("the driver accepts", DEADLINE, || TcpStream::connect(driver).is_ok());
        let profile = tempfile::tempdir().expect("a directory");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(ToString::to_string).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        arguments.push(format!("--window-size={width},{height}"));
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let client = in_time(&runtime, async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wanted.as_object().expect("an object").clone());
            builder.connect(&format!("http://{driver}")).await
        });
        let client = client.expect("the browser answers").expect("the browser starts");
        let session = in_time(&runtime, client.session_id()).expect("the browser answers");
        let session = session.expect("asked").expect("a session");
        let browser = Self { runtime, client: Some(client), driver, session, _process: process, _profile: profile };
        browser.size(width, height, 1.0);
        browser.goto(url);
        browser
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is open")
    }

    /// What comes of asking the browser; panics if nothing does.
    #[track_caller]
    fn answered<T>(&self, asked: impl Future<Output = T>) -> T {
        in_time(&self.runtime, asked).expect("the browser answers")
    }

    /// Loads `url`.
    #[track_caller]
    pub fn goto(&self, url: &str) {
        self.answered(self.client().goto(url)).unwrap_or_else(|e| panic!("{url}: {e}"));
    }

    /// Runs `script` in the page; what it returns.
    #[track_caller]
    pub fn js(&self, script: &str) -> Value {
        self.answered(self.client().execute(script, Vec::new())).unwrap_or_else(|e| panic!("{script}: {e}"))
    }

    /// Whether `expression` is true in the page.
    #[track_caller]
    pub fn is(&self, expression: &str) -> bool {
        self.js(&format!("return Boolean({expression})")) == true
    }

    /// Waits until `expression` is true in the page; shows the page's text if that is in vain.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        let start = Instant::now();
        while !self.is(expression) {
            assert!(start.elapsed() < DEADLINE, "in vain waited until {expression}, on:\n{}", self.text("body"));
        }
    }

    /// The text of the first element that `css` finds, as it is seen.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        let text = self.js(&format!("return document.querySelector({})?.innerText ?? '(nothing there)'", json!(css)));
        text.as_str().expect("text").to_owned()
    }

    /// The name of what has the focus, as it is read.
    #[track_caller]
    pub fn text_of_focus(&self) -> String {
        let name = r"const focus = document.activeElement;
            const label = focus.labels?.[0]?.firstChild ?? focus;
            return (label.textContent || focus.id || focus.tagName).replace(/\s+/g, ' ').trim()";
        self.js(name).as_str().expect("text").to_owned()
    }

    /// Waits until the text of the first element that `css` finds has `wanted` in it.
    #[track_caller]
    pub fn wait_text(&self, css: &str, wanted: &str) {
        self.wait(&format!("(document.querySelector({})?.innerText ?? '').includes({})", json!(css), json!(wanted)));
    }

    /// Clicks as a mouse does, which misses what is covered by something else.
    #[track_caller]
    pub fn click(&self, css: &str) {
        let clicked = self.answered(async { self.client().find(Locator::Css(css)).await?.click().await });
        clicked.unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    /// Types `text` where the focus is; [`Key`]s are among its characters.
    #[track_caller]
    pub fn keys(&self, text: &str) {
        let press =
            |actions: KeyActions, value: char| actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        let actions = text.chars().fold(KeyActions::new("keyboard".to_owned()), press);
        self.answered(self.client().perform_actions(actions)).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }

    /// Types one key.
    #[track_caller]
    pub fn key(&self, key: Key) {
        self.keys(&char::from(key).to_string());
    }

    /// What the browser's own protocol answers to `command`.
    #[track_caller]
    pub fn ask(&self, command: &str, parameters: &Value) -> Value {
        self.extra("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// What has been logged of `kind` (`browser`, `performance`) since this was last asked.
    #[track_caller]
    pub fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.extra("se/log", &json!({ "type": kind }));
        entries.as_array().unwrap_or_else(|| panic!("no list: {entries}")).clone()
    }

    /// What no client library knows of.
    #[track_caller]
    fn extra(&self, what: &str, body: &Value) -> Value {
        let (path, body) = (format!("/session/{}/{what}", self.session), body.to_string());
        let answer = exchange(self.driver, &path, &body).unwrap_or_else(|e| panic!("{what}: {e}"));
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{what}: {answer}");
        answer["value"].clone()
    }

    /// Gives the page `width` by `height` pixels, each of them `scale` wide.
    #[track_caller]
    pub fn size(&self, width: u32, height: u32, scale: f64) {
        let wanted = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", &wanted);
    }

    /// Has the page believe that the person wants `value` of the media feature `name`, and of those that were set before.
    #[track_caller]
    pub fn prefer(&self, features: &[(&str, &str)]) {
        let features: Vec<Value> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.ask("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// A picture of what is seen, as PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        self.answered(self.client().screenshot()).expect("a picture")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session; without one it would leave it behind.
        if let Some(client) = self.client.take() {
            in_time(&self.runtime, client.close()).ok();
        }
    }
}

/// What `asked` comes to, unless that takes too long.
fn in_time<T>(runtime: &Runtime, asked: impl Future<Output = T>) -> Result<T, Elapsed> {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await })
}

/// What the driver answers to `body`. It leaves the connection open, so that the length says where the answer ends.
fn exchange(driver: SocketAddr, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = dial(driver)?;
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let (mut reader, mut length) = (BufReader::new(stream), 0);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        line.clear();
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer)?;
    Ok(answer)
}

/// A driver that listens, and where. It takes a port that is free at `[::1]` and then wants the same one at `127.0.0.1`, where
/// any other test may have it: then it gives up at once, and another one is started.
#[track_caller]
fn start_driver() -> (Guarded, SocketAddr) {
    let mut said = String::new();
    for _ in 0..DRIVERS_MAX {
        let (output, writer) = io::pipe().expect("a pipe");
        let mut command = Command::new("chromedriver");
        // Of a group of its own, so that a signal to the tests' group does not end it before its browser.
        command.arg("--port=0").process_group(0).stdin(Stdio::null());
        command.stdout(writer.try_clone().expect("a copy")).stderr(writer);
        let started = command.spawn();
        let process = started.unwrap_or_else(|e| panic!("chromedriver: {e}; ./tests/run installs chromium-driver"));
        let process = Guarded(process);
        // With the copies that it keeps for another start the output would never end.
        drop(command);
        match port_of(output) {
            Ok(port) => return (process, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            Err(words) => said.push_str(&words),
        }
    }
    panic!("{DRIVERS_MAX} drivers named no port within {DEADLINE:?} each. They said:\n{said}");
}

/// The port at which the driver says that it listens; if it does not, all that it said.
fn port_of(output: io::PipeReader) -> Result<u16, String> {
    let (lines, begun, mut said) = (lines(output), Instant::now(), String::new());
    while let Ok(line) = lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
        // The first line has the port that was asked for: any.
        let port = line.rsplit_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.'));
        if let Some(port) = port.and_then(|port| port.parse().ok()) {
            // Read on, so that the driver never waits for room in the pipe.
            std::thread::spawn(move || lines.iter().for_each(drop));
            return Ok(port);
        }
        said.push_str(&format!("{line}\n"));
    }
    Err(said)
}

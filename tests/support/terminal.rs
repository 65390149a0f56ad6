//! A program on a pseudo-terminal of 80 columns and 24 lines, with what stands on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::process::Guarded;
use super::wait::{DEADLINE, wait_until};

/// Leaves the alternate screen (xterm).
const LEAVES: &str = "\x1b[?1049l";

/// The program on a terminal.
pub struct Seat {
    /// Its process.
    pub process: Guarded,
    keys: File,
    /// The same terminal, to ask how it is set.
    terminal: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    raw: Arc<Mutex<Vec<u8>>>,
}

impl Seat {
    /// Starts it there.
    pub fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let slave =
            open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("the other side");
        let end = || slave.try_clone().expect("cloned");
        command.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let process = Guarded(command.spawn().expect("the program starts"));
        let keys = File::from(master);
        let mut output = keys.try_clone().expect("cloned");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let raw = Arc::<Mutex<Vec<u8>>>::default();
        let (shown, kept) = (Arc::clone(&screen), Arc::clone(&raw));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().expect("lock").process(&bytes[..count]);
                kept.lock().expect("lock").extend_from_slice(&bytes[..count]);
            }
        });
        Self { process, keys, terminal: slave, screen, raw }
    }

    /// What stands on the screen.
    pub fn text(&self) -> String {
        self.screen.lock().expect("lock").screen().contents()
    }

    /// All that was ever written to it.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().expect("lock")).into_owned()
    }

    /// Presses these keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("pressed");
    }

    /// Waits until `words` stand on the screen.
    #[track_caller]
    pub fn wait(&self, words: &str) {
        let begun = std::time::Instant::now();
        while !self.text().contains(words) {
            assert!(begun.elapsed() < DEADLINE, "no `{words}` on\n{}", self.text());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Whether each key goes to the program at once.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal).expect("a terminal").local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for its end, after which the terminal is as it was.
    #[track_caller]
    pub fn wait_end(&mut self) -> Option<i32> {
        let code = self.process.wait().code();
        wait_until("the screen is given back", DEADLINE, || self.raw().contains(LEAVES));
        assert!(!self.is_raw(), "the terminal is as it was");
        code
    }
}

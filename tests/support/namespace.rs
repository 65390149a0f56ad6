//! A network of its own for a server, which can be cut off without a word.

use std::net::Ipv4Addr;
use std::process::Command;

use super::process::run;

/// A network namespace with one address, reached over a pair of virtual interfaces. Removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Its address.
    pub inside: Ipv4Addr,
    outside: Ipv4Addr,
}

impl Namespace {
    /// A namespace; none, which is printed, where making one is not permitted.
    #[track_caller]
    pub fn make() -> Option<Self> {
        // 198.18.0.0/15 is set aside for tests of networks, and a quarter of a line of four is as good as any other.
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + fastrand::u32(0..1 << 15) * 4;
        let name = format!("cut{}", fastrand::u32(..));
        let made = Self { name, inside: Ipv4Addr::from(first + 2), outside: Ipv4Addr::from(first + 1) };
        if let Err(why) = try_ip(&["netns", "add", &made.name]) {
            eprintln!("skipped: network namespaces are not to be had here: {why}");
            return None;
        }
        let (here, there) = (made.name.as_str(), "there");
        let (own, peer) = (format!("{}/30", made.outside), format!("{}/30", made.inside));
        let pair = ["link", "add", here, "type", "veth", "peer", "name", there, "netns", here];
        if let Err(why) = try_ip(&pair) {
            eprintln!("skipped: pairs of virtual interfaces are not to be had here: {why}");
            return None;
        }
        ip(&["addr", "add", &own, "dev", here]);
        ip(&["link", "set", here, "up"]);
        // Else it gets an address of IPv6 by itself, and that is told as a change of the network seconds later.
        try_ip(&["-n", here, "link", "set", there, "addrgenmode", "none"]).ok();
        ip(&["-n", here, "addr", "add", &peer, "dev", there]);
        ip(&["-n", here, "link", "set", there, "up"]);
        ip(&["-n", here, "link", "set", "lo", "up"]);
        Some(made)
    }

    /// `command` in this namespace, in the same directory and with the same variables.
    pub fn inside_of(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.name)).arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.get_current_dir().map(|dir| inside.current_dir(dir));
        inside
    }

    /// It has another interface from now on, `name`, that leads nowhere.
    #[track_caller]
    pub fn add_interface(&self, name: &str) {
        ip(&["-n", &self.name, "link", "add", name, "type", "veth", "peer", "name", &format!("{name}-peer")]);
    }

    /// From now on every packet that would leave it is dropped: nothing is refused, and nothing acknowledged.
    #[track_caller]
    pub fn cut(&self) {
        ip(&["-n", &self.name, "route", "add", "blackhole", &format!("{}/32", self.outside)]);
    }

    /// Ends what [`Self::cut`] began.
    #[track_caller]
    pub fn mend(&self) {
        ip(&["-n", &self.name, "route", "del", "blackhole", &format!("{}/32", self.outside)]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its interface goes with it, and so does the one here. What still runs in it would keep both.
        for end in [["link", "del", &self.name], ["netns", "del", &self.name]] {
            if let Err(why) = try_ip(&end) {
                eprintln!("{end:?}: {why}");
            }
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    if let Err(why) = try_ip(args) {
        panic!("ip {args:?}: {why}");
    }
}

fn try_ip(args: &[&str]) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(args);
    if Command::new("ip").arg("-V").output().is_err() {
        return Err("there is no program ip (iproute2)".to_owned());
    }
    let ended = run(&mut command);
    if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr.trim().to_owned()) }
}

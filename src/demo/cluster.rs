//! A real PostgreSQL primary with two streaming standbys, in a directory of their own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::sys::Clock;

use super::ports;
use super::postgres::Toolbox;
use super::process::{Guarded, run};
use super::script::Servers;

/// Their names, in the order of preference; the first is the primary.
pub(super) const NAMES: [&str; 3] = ["primary", "standby1", "standby2"];
/// The superuser, as whom the demo's clients come.
pub(super) const USER: &str = "postgres";
/// How long one step of making or starting a server may take.
const STEP: Duration = Duration::from_secs(30);
/// How long a server may take to shut down at once.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// From one look at a starting server to the next.
const LOOK: Duration = Duration::from_millis(20);
/// Small and quick, for data that nobody misses; loopback only, and no socket in the file system.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
shared_buffers = '16MB'
max_connections = 40
max_wal_senders = 10
wal_keep_size = '128MB'
wal_retrieve_retry_interval = '100ms'
hot_standby = on
password_encryption = 'scram-sha-256'
";

#[derive(Debug)]
struct Server {
    name: &'static str,
    address: SocketAddr,
    data: PathBuf,
    process: Option<Guarded>,
}

/// The three. Stopped and reaped when dropped.
#[derive(Debug)]
pub(super) struct Cluster {
    tools: Toolbox,
    password: String,
    servers: Vec<Server>,
}

/// How to come to one server as a client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    tools: Toolbox,
    /// The superuser's password.
    pub(super) password: String,
}

impl Client {
    /// What `query` answers at `address`, within `limit`.
    pub(super) fn ask(&self, address: SocketAddr, query: &str, limit: Duration) -> anyhow::Result<String> {
        let mut psql = self.tools.psql();
        psql.args(["-X", "-A", "-t", "-c", query]);
        psql.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
        psql.env("PGUSER", USER).env("PGDATABASE", "postgres").env("PGPASSWORD", &self.password);
        psql.env("PGCONNECT_TIMEOUT", limit.as_secs().max(2).to_string());
        psql.env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
        Ok(run(&mut psql, limit + Duration::from_secs(5))?.trim().to_owned())
    }
}

impl Cluster {
    /// Makes and starts all three. `progress` is told each step, and says whether to go on.
    pub(super) fn start(tools: Toolbox, mut progress: impl FnMut(String) -> bool) -> anyhow::Result<Self> {
        let addresses = ports::free::<3>()?;
        let servers = NAMES.into_iter().zip(addresses).map(|(name, address)| {
            let data = tools.home().join(name);
            Server { name, address, data, process: None }
        });
        let mut cluster = Self { servers: servers.collect(), password: password()?, tools };
        let mut step = |text: String| if progress(text) { Ok(()) } else { bail!("told to stop") };
        step(format!("initdb of {}", cluster.tools.bin().display()))?;
        cluster.init()?;
        step("starting the primary".to_owned())?;
        cluster.restore(0)?;
        for index in 1..cluster.servers.len() {
            step(format!("pg_basebackup, starting {}", cluster.name(index)))?;
            cluster.copy(index)?;
            cluster.restore(index)?;
        }
        step("waiting for replication".to_owned())?;
        cluster.replicates()?;
        Ok(cluster)
    }

    /// Names and addresses, in the order of preference.
    pub(super) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.servers.iter().map(|server| (server.name, server.address)).collect()
    }

    /// How to come to them as a client.
    pub(super) fn client(&self) -> Client {
        Client { tools: self.tools.clone(), password: self.password.clone() }
    }

    fn init(&self) -> anyhow::Result<()> {
        let primary = self.server(0)?;
        // The directory is its account's own, so only that account and root can read the password there.
        let password = self.tools.home().join("password");
        fs::write(&password, &self.password).context("cannot write the password")?;
        let owner = fs::metadata(self.tools.home())?;
        std::os::unix::fs::chown(&password, Some(uid(&owner)), Some(gid(&owner)))?;
        let mut initdb = self.tools.server("initdb");
        initdb.arg("-D").arg(&primary.data).arg("--pwfile").arg(&password);
        initdb.args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&mut initdb, STEP).context("initdb failed")?;
        let mut settings = OpenOptions::new().append(true).open(primary.data.join("postgresql.conf"))?;
        settings.write_all(SETTINGS.as_bytes()).context("cannot write postgresql.conf")
    }

    /// Makes a standby from the primary.
    fn copy(&self, index: usize) -> anyhow::Result<()> {
        let (primary, standby) = (self.server(0)?, self.server(index)?);
        let mut backup = self.tools.server("pg_basebackup");
        backup.arg("-D").arg(&standby.data).args(["-U", USER, "-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        backup.args(["-h", &primary.address.ip().to_string(), "-p", &primary.address.port().to_string()]);
        backup.env("PGPASSWORD", &self.password).env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
        run(&mut backup, STEP).map(drop).context("pg_basebackup failed")
    }

    fn replicates(&self) -> anyhow::Result<()> {
        let (primary, client) = (self.server(0)?, self.client());
        let wanted = (self.servers.len() - 1).to_string();
        let clock = Clock::start();
        let deadline = clock.now() + STEP;
        loop {
            let query = "select count(*) from pg_stat_replication where state = 'streaming'";
            if client.ask(primary.address, query, STEP)? == wanted {
                return Ok(());
            }
            if clock.now() >= deadline {
                bail!("the standbys do not stream from the primary");
            }
            thread::park_timeout(LOOK);
        }
    }

    fn server(&self, index: usize) -> anyhow::Result<&Server> {
        self.servers.get(index).context("no such server")
    }

    fn log(&self, server: &Server) -> PathBuf {
        self.tools.home().join(format!("{}.log", server.name))
    }

    fn spawn(&self, server: &Server) -> anyhow::Result<Guarded> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(server)).context("cannot open its log")?;
        let mut postgres = self.tools.server("postgres");
        postgres.arg("-D").arg(&server.data).args(["-p", &server.address.port().to_string()]);
        postgres.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Guarded::spawn(&mut postgres)
    }

    fn stop(&self, server: &Server) -> Command {
        let mut stop = self.tools.server("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-t", &SHUTDOWN.as_secs().to_string(), "-D"]).arg(&server.data);
        stop
    }
}

impl Servers for Cluster {
    fn name(&self, index: usize) -> &'static str {
        self.servers.get(index).map_or("", |server| server.name)
    }

    fn kill(&mut self, index: usize) {
        if let Some(server) = self.servers.get_mut(index) {
            server.process = None;
        }
    }

    /// Starts it and waits until it answers. While children of a killed one still hold the shared
    /// memory it refuses, so that it may take several tries.
    fn restore(&mut self, index: usize) -> anyhow::Result<()> {
        let (clock, client) = (Clock::start(), self.client());
        let deadline = clock.now() + STEP;
        let address = self.server(index)?.address;
        let mut process = self.spawn(self.server(index)?)?;
        while client.ask(address, "select 1", STEP).is_err() {
            if clock.now() >= deadline {
                let server = self.server(index)?;
                bail!("{} does not start: {}", server.name, last_line(&self.log(server)));
            }
            if process.ended().is_some() {
                process = self.spawn(self.server(index)?)?;
            }
            thread::park_timeout(LOOK);
        }
        if let Some(server) = self.servers.get_mut(index) {
            server.process = Some(process);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            if let Some(server) = self.servers.get(index)
                && server.process.is_some()
            {
                // Takes the server's children along; the guard is for one that does not heed it.
                run(&mut self.stop(server), SHUTDOWN).ok();
            }
            if let Some(process) = self.servers.get_mut(index).and_then(|server| server.process.as_mut()) {
                process.wait(SHUTDOWN);
            }
        }
    }
}

/// Nobody else on the machine shall be superuser here, with the rights of the account that runs it.
fn password() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 12];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn uid(of: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(of)
}

fn gid(of: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::gid(of)
}

fn last_line(log: &std::path::Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next_back().unwrap_or("its log is empty").to_owned()
}

//! The servers of postgres pools: each logged in to once, as the monitor would, with the monitor's own login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::dial::Ways;
use crate::model::{
    BackendName, BackendPlan, DialError, LoginError, Plan, PoolName, PoolPlan, PostgresPlan, Role, SystemId, TlsMode,
    WatchError, WatchSession, WatchSpec, spoken,
};
use crate::sys::Clock;
use crate::watch::{Complaint, Examined, Watcher};

use super::Finding;

/// With more, a standby that is promoted may sleep on for as long before it heeds the order.
const RETRY_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// Clocks further apart than this are told, in seconds.
const CLOCKS_APART_MAX: f64 = 2.0;

/// What one login to a server came to.
#[derive(Debug)]
pub(super) struct Login {
    findings: Vec<Finding>,
    /// As far as it is known.
    system: Option<SystemId>,
    is_primary: bool,
}

/// Logins that were made already, by pool and backend: those through tunnels, while these were up.
pub(super) type Logins = BTreeMap<(PoolName, BackendName), Login>;

/// All servers of all clusters. Those that a tunnel leads to are logged in to by whoever tries that, and are in `logins`.
pub(super) async fn findings(plan: &Plan, mut logins: Logins, clock: Clock) -> Vec<Finding> {
    let watcher = Watcher::new(clock, Ways::default());
    let mut findings = Vec::new();
    for pool in plan.pools.values() {
        if let Some(postgres) = &pool.postgres {
            findings.extend(cluster(&watcher, pool, postgres, &mut logins).await);
        }
    }
    findings
}

async fn cluster(
    watcher: &Watcher,
    pool: &PoolPlan,
    postgres: &Arc<PostgresPlan>,
    logins: &mut Logins,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut systems, mut primaries) = (BTreeMap::<SystemId, Vec<String>>::new(), Vec::new());
    for backend in &pool.backends {
        let made = match backend.tunnel {
            Some(_) => logins.remove(&(pool.name.clone(), backend.name.clone())),
            None => Some(login(watcher, &pool.name, backend, postgres).await),
        };
        let Some(made) = made else { continue };
        if let Some(system) = made.system {
            systems.entry(system).or_default().push(backend.name.to_string());
        }
        if made.is_primary {
            primaries.push(backend.name.to_string());
        }
        findings.extend(made.findings);
    }
    findings.extend(together(pool, &systems, &primaries));
    findings
}

/// Logs in once.
pub(super) async fn login(
    watcher: &Watcher,
    pool: &PoolName,
    backend: &BackendPlan,
    postgres: &Arc<PostgresPlan>,
) -> Login {
    let what = format!("server {pool}/{}", backend.name);
    let limit = backend.check.timeout;
    let spec = WatchSpec {
        address: backend.address.clone(),
        approach: backend.approach.clone(),
        timeout: limit,
        postgres: Arc::clone(postgres),
    };
    // The login has a limit of its own, and the questions after it are few.
    let examined = timeout(limit * 2, watcher.examine(&spec)).await.unwrap_or_else(|_| {
        let detail = format!("it lets the monitor in, and then does not answer within {}", spoken(limit));
        Err(Complaint { error: Some(WatchError::Login(LoginError::TimedOut)), detail, code: None })
    });
    match examined {
        Ok(examined) => Login {
            system: examined.facts.system,
            is_primary: examined.facts.role == Role::Primary,
            findings: server(&what, &examined, postgres),
        },
        // Its check has said that it is not there.
        Err(Complaint { error: Some(WatchError::Dial(DialError::Refused)), .. }) => {
            let finding =
                Finding::warn(what, "nothing is known of it: nobody listens there", "start it, and run this again");
            Login { system: None, is_primary: false, findings: vec![finding] }
        }
        Err(complaint) => {
            Login { system: None, is_primary: false, findings: vec![shut_out(what, &complaint, postgres)] }
        }
    }
}

/// What is to be said of a server that lets the monitor in.
fn server(what: &str, examined: &Examined, plan: &PostgresPlan) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (user, role) = (&plan.user, examined.facts.role.label());
    let version = examined.version.as_deref().map(|version| format!(", PostgreSQL {version}")).unwrap_or_default();
    let timeline = examined.facts.timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
    findings.push(Finding::ok(what, format!("{user} is let in: {role}{timeline}{version}")));
    let mut warn = |found: String, mend: String| findings.push(Finding::warn(what, found, mend));
    if plan.session == WatchSession::Replication && !examined.has_database {
        warn(
            format!("{user} is let in for replication alone: how far standbys have replayed is not known"),
            format!("add `{}` to its pg_hba.conf beside `replication`", plan.database),
        );
    }
    if examined.is_superuser == Some(true) {
        warn(
            format!("the role {user} is a superuser, which watching does not take"),
            format!("ALTER ROLE {user} NOSUPERUSER REPLICATION"),
        );
    }
    if plan.session == WatchSession::Plain && examined.may_replicate == Some(true) {
        warn(
            "session is \"plain\", though the role may replicate: histories are not read".to_owned(),
            "leave out postgres.session".to_owned(),
        );
    }
    if examined.is_encrypted == Some(false) && plan.tls == TlsMode::Prefer {
        warn(
            "the connection is not encrypted: the server has no ssl, or its pg_hba.conf wants none".to_owned(),
            "set ssl = on there and tls = \"require\" or more here; or tls = \"disable\", if that is meant".to_owned(),
        );
    }
    if let Some(interval) = examined.retry_interval.filter(|interval| *interval > RETRY_INTERVAL_MAX) {
        warn(
            format!("wal_retrieve_retry_interval is {}: so long a promotion may take to be heeded", spoken(interval)),
            "ALTER SYSTEM SET wal_retrieve_retry_interval = '50ms'; SELECT pg_reload_conf()".to_owned(),
        );
    }
    if let Some(apart) = examined.clock_offset.filter(|apart| apart.abs() > CLOCKS_APART_MAX) {
        warn(
            format!(
                "its clock is {:.0} s {} this host's",
                apart.abs(),
                if apart > 0.0 { "ahead of" } else { "behind" }
            ),
            "let chrony or systemd-timesyncd keep both".to_owned(),
        );
    }
    findings
}

/// What is to be said of a server that does not let the monitor in.
fn shut_out(what: String, complaint: &Complaint, plan: &PostgresPlan) -> Finding {
    let PostgresPlan { user, database, .. } = plan;
    let found = format!("{user} is not let in: {}", complaint.detail);
    let mend = match (complaint.code.as_deref(), complaint.error) {
        (Some("28P01"), _) => format!("ALTER ROLE {user} PASSWORD '…' there, or mend postgres.password here"),
        (Some("28000"), _) => format!(
            "add `host postgres,replication {user} THIS-HOST/32 scram-sha-256` to its pg_hba.conf (hostssl if ssl is on) \
             and SELECT pg_reload_conf(); or CREATE ROLE {user} LOGIN REPLICATION, if there is none"
        ),
        (Some("42501"), _) => format!("ALTER ROLE {user} LOGIN REPLICATION, or set postgres.session = \"plain\""),
        (Some("3D000"), _) => format!("name a database that is there: `{database}` is not"),
        (Some("53300"), _) => "raise max_wal_senders there (with session = \"plain\": max_connections)".to_owned(),
        (Some("57P03"), _) => "it starts or stops: run this again".to_owned(),
        (_, Some(WatchError::Login(LoginError::Tls))) => {
            "mend postgres.tls or postgres.ca_file here, or ssl and its certificate there".to_owned()
        }
        (_, Some(WatchError::Login(LoginError::NotAuthorized))) => {
            format!("set postgres.password to that of {user}, or change what its pg_hba.conf wants of it")
        }
        (_, Some(WatchError::Login(LoginError::NotPostgres))) => "name the port of a PostgreSQL server".to_owned(),
        (_, None) => "run this again".to_owned(),
        (_, Some(WatchError::Dial(_) | WatchError::Login(_))) => "see its log".to_owned(),
    };
    Finding::fail(what, found, mend)
}

/// Whether they are one cluster, with one primary.
fn together(pool: &PoolPlan, systems: &BTreeMap<SystemId, Vec<String>>, primaries: &[String]) -> Vec<Finding> {
    let what = format!("cluster {}", pool.name);
    let mut findings = Vec::new();
    if systems.len() > 1 {
        let each: Vec<String> =
            systems.iter().map(|(system, names)| format!("{} of {system}", names.join(", "))).collect();
        let found = format!("its servers are of different clusters: {}", each.join("; "));
        findings.push(Finding::fail(what.clone(), found, "leave out those that are no copies of the primary"));
    }
    match primaries {
        [] if systems.is_empty() => {}
        [] => findings.push(Finding::fail(
            what,
            "no server is the primary: nobody can write",
            "promote one: SELECT pg_promote()",
        )),
        [one] => findings.push(Finding::ok(what, format!("{one} is the primary"))),
        several => findings.push(Finding::warn(
            what,
            format!("{} all say that they are the primary", several.join(", ")),
            "`changeover explain` says which one is followed; stop the others, and make standbys of them",
        )),
    }
    findings
}

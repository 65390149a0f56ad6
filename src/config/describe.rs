//! The plan as it was understood, for people.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::model::{
    Address, AdminPlan, AgentCheck, Approach, Argument, BackendPlan, CheckKind, CheckPlan, ExpectCheck, Failback,
    FailoverPlan, HttpCheck, LimitsPlan, ListenerPlan, Plan, PoolName, PoolPlan, PostgresPlan, ProxyProtocol,
    StatusRange, StorePlan, Target, WatchSession, WebhookPlan, WhenDown, spoken,
};

use super::keys;
use super::tunnel;
use super::units::as_size;
use super::value::Value;

/// What the plan comes to: listeners, their pools, the tiers of those, and by what rules. No secret
/// is in it.
#[must_use]
pub fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    match write(&mut text, plan) {
        Ok(()) | Err(fmt::Error) => text,
    }
}

fn write(out: &mut String, plan: &Plan) -> fmt::Result {
    let daemon = &plan.daemon;
    let or = |number: usize, zero: &str| if number == 0 { zero.to_owned() } else { number.to_string() };
    writeln!(
        out,
        "daemon: workers {}, max sessions {}, drain timeout {}, relay buffer {} KiB",
        or(daemon.workers, "one per core"),
        or(daemon.max_sessions, "by the descriptor limit"),
        spoken(daemon.drain_timeout),
        daemon.relay_buffer >> 10,
    )?;
    match &daemon.store.state_dir {
        None => writeln!(out, "state: in memory only, lost at the end")?,
        Some(path) => {
            let StorePlan { history_max_age: age, history_max_size: size, .. } = daemon.store;
            let age = if age.is_zero() { String::new() } else { format!(" for {}", spoken(age)) };
            writeln!(out, "state: in {}; history kept{age}, up to {} KiB", path.display(), size >> 10)?;
        }
    }
    write_admin(out, &plan.admin)?;
    writeln!(out, "log: {} from level {}", plan.log.format, plan.log.level)?;
    for listener in plan.listeners.values() {
        write_listener(out, listener)?;
    }
    for pool in plan.pools.values() {
        let used = plan.listeners.values().any(|listener| listener.pool == pool.name);
        write_pool(out, pool, used)?;
    }
    plan.webhooks.values().try_for_each(|webhook| write_webhook(out, webhook))
}

fn write_webhook(out: &mut String, webhook: &WebhookPlan) -> fmt::Result {
    let WebhookPlan { name, url, kinds, pools, secret, format, timeout, give_up_after, ca_file } = webhook;
    let signed = if secret.is_some() { "signed" } else { "not signed" };
    writeln!(out, "\nwebhook {name} to {url}: {format}, {signed}")?;
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    let of = if names.is_empty() { "all pools".to_owned() } else { names.join(", ") };
    writeln!(out, "  posts {} of {of}", kinds.join(", "))?;
    writeln!(
        out,
        "  each attempt takes {} at most; gives an event up after {}",
        spoken(*timeout),
        spoken(*give_up_after)
    )?;
    match ca_file {
        Some(file) => writeln!(out, "  trusts the certificates in {}", file.display()),
        None => Ok(()),
    }
}

/// Who may call, by what; and what is unwise about it.
fn write_admin(out: &mut String, admin: &AdminPlan) -> fmt::Result {
    let AdminPlan { bind, rate, tokens, jwt, tls } = admin;
    let by = if tls.is_some() { ", over TCP by TLS" } else { "" };
    writeln!(out, "admin: {}{by}", addresses(bind))?;
    if let Some(tls) = tls {
        writeln!(out, "  certificate {}, key {}", tls.certificate.display(), tls.key.display())?;
    }
    match rate {
        Some(rate) => writeln!(out, "  changes: at most {} of each caller in {}", rate.count, spoken(rate.per))?,
        None => writeln!(out, "  changes: as many as anybody likes")?,
    }
    for token in tokens {
        let pools = token.pools.as_ref().map(|pools| pools.iter().map(PoolName::as_str).collect::<Vec<_>>().join(", "));
        let of = pools.map_or_else(|| "all pools".to_owned(), |pools| format!("only {pools}"));
        writeln!(out, "  token {}: {} of {of}", token.name, token.role)?;
    }
    if let Some(jwt) = jwt {
        let of = |what: &str, value: &Option<String>| match value {
            Some(value) => format!("{what} {value:?}"),
            None => format!("any {what}"),
        };
        let (issuer, audience) = (of("issuer", &jwt.issuer), of("audience", &jwt.audience));
        writeln!(out, "  JWT by {}: {issuer}, {audience}, role in {:?}", jwt.algorithm, jwt.role_claim)?;
    }
    let is_open = |address: &&Address| match address {
        Address::Ip(addr) => !addr.ip().to_canonical().is_loopback(),
        Address::Name { .. } | Address::Unix(_) => false,
    };
    match bind.iter().find(is_open) {
        Some(address) if tls.is_none() && (!tokens.is_empty() || jwt.is_some()) => writeln!(
            out,
            "  warning: callers of {address} send their tokens in clear, and whoever listens in can use them; \
             write [admin.tls], or listen on loopback behind something that speaks TLS"
        ),
        _ => Ok(()),
    }
}

fn write_listener(out: &mut String, listener: &ListenerPlan) -> fmt::Result {
    let never =
        |timeout: Duration| if timeout.is_zero() { "never".to_owned() } else { format!("after {}", spoken(timeout)) };
    let target = match listener.target {
        Target::Any => "",
        Target::Primary => ", its primary",
        Target::Standby => ", its standbys",
        Target::PreferStandby => ", its standbys or else its primary",
    };
    writeln!(out, "\nlistener {} on {} -> pool {}{target}", listener.name, addresses(&listener.bind), listener.pool)?;
    writeln!(
        out,
        "  closes idle sessions: {}; half-closed ones: {}",
        never(listener.idle_timeout),
        never(listener.half_close_timeout)
    )?;
    if !listener.busy_poll.is_zero() {
        writeln!(out, "  stays awake for {} after each move of bytes", spoken(listener.busy_poll))?;
    }
    write_limits(out, &listener.limits)
}

/// What of a listener's limits is set.
fn write_limits(out: &mut String, limits: &LimitsPlan) -> fmt::Result {
    let LimitsPlan { max_connections, max_connections_per_client, rate, allow, deny, .. } = limits;
    let mut parts = Vec::new();
    if *max_connections > 0 {
        parts.push(format!("{max_connections} at once"));
    }
    if *max_connections_per_client > 0 {
        parts.push(format!("{max_connections_per_client} of each client"));
    }
    if let Some(rate) = rate {
        parts.push(format!("{} of each client in {}", rate.count, spoken(rate.per)));
    }
    if !parts.is_empty() {
        writeln!(out, "  connections: at most {}", parts.join(", "))?;
    }
    if !allow.is_empty() {
        writeln!(out, "  allows only {allow}")?;
    }
    if !deny.is_empty() {
        writeln!(out, "  denies {deny}")?;
    }
    match (limits.accept_proxy_protocol, limits.proxy_protocol_from.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => writeln!(out, "  expects the PROXY protocol, and believes everybody"),
        (true, false) => writeln!(out, "  expects the PROXY protocol from {}", limits.proxy_protocol_from),
    }
}

fn write_pool(out: &mut String, pool: &PoolPlan, used: bool) -> fmt::Result {
    let unused = if used { "" } else { ", used by no listener" };
    writeln!(out, "\npool {}: {}, {} within a tier{unused}", pool.name, pool.kind, pool.balance)?;
    writeln!(
        out,
        "  connect: up to {} backends, {} each; sent again without an answer: {}",
        pool.dial.connect_attempts,
        spoken(pool.dial.connect_timeout),
        pool.dial.resend
    )?;
    let hold = &pool.hold;
    match hold.when_down {
        WhenDown::Hold => {
            writeln!(out, "  when down: hold up to {} clients for {}", hold.hold_limit, spoken(hold.hold))?;
        }
        WhenDown::Refuse | WhenDown::UsePreferred => writeln!(out, "  when down: {}", hold.when_down)?,
    }
    let failover = &pool.failover;
    let leave = if failover.automatic { "automatic" } else { "on order" };
    match failover.failback {
        _ if pool.postgres.is_some() => {
            writeln!(out, "  failover: {leave}, to whoever is promoted{}", idle_failback(failover))?;
        }
        Failback::Automatic => {
            writeln!(out, "  failover: {leave}; failback: automatic after {}", spoken(failover.failback_after))?;
        }
        Failback::Manual => writeln!(out, "  failover: {leave}; failback: on order")?,
    }
    let sessions = &failover.sessions;
    writeln!(
        out,
        "  sessions: dead {}, unreachable {}, check failed {}, drained {}, left by failback {}",
        sessions.dead, sessions.unreachable, sessions.check_failed, sessions.drained, sessions.failed_back
    )?;
    if pool.postgres.is_some() {
        writeln!(out, "  sessions: demoted {}, lagging {}", sessions.demoted, sessions.lagging)?;
    }
    pool.postgres.as_deref().map_or(Ok(()), |postgres| write_postgres(out, postgres))?;
    write_tiers(out, pool)
}

/// What of a failback is set for a pool that has none.
fn idle_failback(failover: &FailoverPlan) -> String {
    let after = Duration::preset(&keys::FAILBACK_AFTER);
    let set: Vec<&str> = [
        (failover.failback != Failback::preset(&keys::FAILBACK)).then_some(keys::FAILBACK.name),
        (failover.failback_after != after).then_some(keys::FAILBACK_AFTER.name),
    ]
    .into_iter()
    .flatten()
    .collect();
    match set.is_empty() {
        true => String::new(),
        false => format!("; no effect: {}, for it follows the primary, whatever its priority", set.join(", ")),
    }
}

/// How the servers of a cluster are watched, and how far a standby may be behind.
fn write_postgres(out: &mut String, postgres: &PostgresPlan) -> fmt::Result {
    let PostgresPlan { user, password, database, tls, ca_file, session, .. } = postgres;
    let session = match session {
        WatchSession::Replication => " for replication",
        WatchSession::Plain => "",
    };
    let password = password.as_ref().map_or_else(|| "no password".to_owned(), |secret| format!("password {secret:?}"));
    writeln!(out, "  watched by {user:?}, {password}, logged in to {database:?}{session}")?;
    let trusted = ca_file.as_ref().map(|path| format!(", trusting {}", path.display()));
    writeln!(out, "  watched over TLS: {tls}{}", trusted.unwrap_or_default())?;
    let (beat, deadline) = (spoken(postgres.heartbeat), spoken(postgres.heartbeat_deadline));
    writeln!(out, "  heartbeat: every {beat}, deadline {deadline}; promotion: {}", postgres.promotion)?;
    let bytes = (postgres.max_lag > 0).then(|| as_size(postgres.max_lag));
    let age = (!postgres.max_lag_time.is_zero()).then(|| spoken(postgres.max_lag_time));
    match (bytes, age) {
        (None, None) => writeln!(out, "  standbys may be behind without a limit"),
        (Some(limit), None) | (None, Some(limit)) => writeln!(out, "  standbys may be behind by {limit}"),
        (Some(bytes), Some(age)) => writeln!(out, "  standbys may be behind by {bytes} and by {age}"),
    }
}

fn write_tiers(out: &mut String, pool: &PoolPlan) -> fmt::Result {
    let mut backends: Vec<&BackendPlan> = pool.backends.iter().collect();
    backends.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    for (at, tier) in backends.chunk_by(|a, b| a.priority == b.priority).enumerate() {
        let priority = tier.first().map_or(0, |backend| backend.priority);
        writeln!(out, "  tier {} (priority {priority})", at + 1)?;
        for backend in tier {
            let (name, address) = (backend.name.to_string(), backend.address.to_string());
            let place = if tunnel::is_looked_up(&backend.address) {
                format!("{name} at an address that is looked up")
            } else if name == address {
                name
            } else {
                format!("{name} at {address}")
            };
            let weight = if backend.weight == 1 { String::new() } else { format!(", weight {}", backend.weight) };
            let limit = match backend.max_connections {
                0 => String::new(),
                limit => format!(", at most {limit} sessions"),
            };
            let approach = approach(&backend.approach);
            let way = tunnel::way(backend);
            writeln!(out, "    {place}{way}{weight}{limit}{approach}; check: {}", check(&backend.check))?;
            out.push_str(&tunnel::note(backend));
        }
    }
    Ok(())
}

fn approach(Approach { source_address, send_proxy_protocol, via: _ }: &Approach) -> String {
    let source = source_address.map(|source| format!(", dialled from {source}")).unwrap_or_default();
    match send_proxy_protocol {
        ProxyProtocol::None => source,
        version @ (ProxyProtocol::V1 | ProxyProtocol::V2) => format!("{source}, PROXY protocol {version}"),
    }
}

fn check(check: &CheckPlan) -> String {
    let what = match &check.kind {
        CheckKind::Tcp => "tcp connect".to_owned(),
        CheckKind::Http(http) => request(http),
        CheckKind::Agent(agent) => ask_agent(agent),
        CheckKind::Expect(expect) => ask_for(expect),
        CheckKind::Tls => "tls handshake".to_owned(),
        CheckKind::Command(command) => {
            format!("command {}", command.argv.iter().map(word).collect::<Vec<_>>().join(" "))
        }
        CheckKind::Postgres => "postgres".to_owned(),
        CheckKind::None => return "none, it is taken to be fit".to_owned(),
    };
    let recovery = check.recovery_interval.map(|every| format!(", every {} while unhealthy", spoken(every)));
    let attempts = match check.recovery_attempts {
        0 => String::new(),
        attempts => {
            let wait = spoken(check.recovery_backoff);
            format!(", given up after {attempts} more failures with doubling waits from {wait}")
        }
    };
    let slow = check.max_latency.map(|limit| format!(", slow above {}", spoken(limit)));
    format!(
        "{what} every {}{}, timeout {}{}, unhealthy after {}, healthy after {}{attempts}",
        spoken(check.interval),
        recovery.unwrap_or_default(),
        spoken(check.timeout),
        slow.unwrap_or_default(),
        check.unhealthy_threshold,
        check.healthy_threshold
    )
}

fn ask_agent(agent: &AgentCheck) -> String {
    let port = if agent.port == 0 { String::new() } else { format!(" at port {}", agent.port) };
    // It may be a key, and nobody knows here whether it stands in the file.
    let send = if agent.send.is_empty() { String::new() } else { format!(", sent {} bytes,", agent.send.len()) };
    format!("agent{port}{send}")
}

fn ask_for(ExpectCheck { send, answer }: &ExpectCheck) -> String {
    // As above.
    let send = if send.is_empty() { String::new() } else { format!("sent {} bytes, ", send.len()) };
    let answer =
        if answer.is_empty() { "any answer".to_owned() } else { format!("an answer of {} bytes", answer.len()) };
    format!("expect, {send}{answer},")
}

/// A word of a command line: quoted if it would not read as one.
fn word(argument: &Argument) -> String {
    match argument {
        Argument::Shown(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => text.clone(),
        Argument::Shown(text) => format!("{text:?}"),
        Argument::Hidden(secret) => format!("{secret:?}"),
    }
}

fn request(http: &HttpCheck) -> String {
    let port = if http.port == 0 { String::new() } else { format!(" at port {}", http.port) };
    let authorization = http.authorization.as_ref().map(|secret| format!(", authorization {secret:?}"));
    let range = |range: &StatusRange| {
        if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
    };
    let expect: Vec<String> = http.expect.iter().map(range).collect();
    let expect = expect.join(",");
    let path = HttpCheck::shown_path(&http.path);
    format!("{} {path}{port} expecting {expect}{}", http.method, authorization.unwrap_or_default())
}

fn addresses(list: &[Address]) -> String {
    list.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
}

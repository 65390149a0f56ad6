//! The table of keys: each one's place, kind, default, purpose and reason, once. The reader, the
//! schema, the reference file and the messages are all made from it.

use std::time::Duration;

use crate::model::{
    Balance, Failback, LogFormat, LogLevel, PoolKind, ProxyProtocol, Resend, SessionPolicy, Target, TlsMode,
    WatchSession, WhenDown,
};

use super::key::{Key, Kind, Part, Preset};

macro_rules! keys {
    ($($part:ident { $($(#[$meta:meta])* $id:ident = $name:literal, $kind:expr, $preset:expr, $doc:literal, $reason:literal;)+ })+) => {
        $($(
            #[doc = $doc]
            pub(in crate::config) const $id: Key = Key {
                part: Part::$part, name: $name, kind: $kind, preset: $preset, doc: $doc, reason: $reason,
            };
        )+)+

        /// The keys of this file.
        const HERE: &[&Key] = &[$($(&$id,)+)+];
    };
}

mod outside;
mod tunnels;

pub(super) use outside::*;
pub(super) use tunnels::*;

/// Those of this file and of those outside.
const FIRST: &[&Key] = &joined::<{ HERE.len() + outside::KEYS.len() }>(HERE, outside::KEYS);
/// Every key; those of one part and one file stand together, in the order of the reference.
pub(super) const KEYS: &[&Key] = &joined::<{ FIRST.len() + tunnels::KEYS.len() }>(FIRST, tunnels::KEYS);

const fn joined<const N: usize>(first: &[&'static Key], second: &[&'static Key]) -> [&'static Key; N] {
    let mut all = [first[0]; N];
    let mut at = 1;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

/// Any duration.
const ANY: Kind = Kind::Duration { min: Duration::ZERO };
/// A duration in which something must be able to happen.
const SOME: Kind = Kind::Duration { min: Duration::from_millis(1) };
/// A duration from one probe to the next.
const PERIOD: Kind = Kind::Duration { min: Duration::from_millis(10) };
/// A duration from one heartbeat to the next, or in which several fit.
const BEAT: Kind = Kind::Duration { min: Duration::from_millis(2) };
/// What becomes of sessions.
const POLICY: Kind = Kind::Word(SessionPolicy::LABELS);
/// A number of probes in a row.
const ROW: Kind = Kind::Integer { min: 1, max: 1000 };
/// A number of connections; 0 is no limit.
const COUNT: Kind = Kind::Integer { min: 0, max: 10_000_000 };
/// The words for what a check asks.
pub(super) const CHECKS: &[&str] = &["tcp", "http", "expect", "tls", "agent", "command", "postgres", "none"];
/// The words for who promotes; only the first is for this version.
pub(super) const PROMOTIONS: &[&str] = &["never", "command", "automatic"];

keys! {
    Root {
        DAEMON = "daemon", Kind::Table(Part::Daemon), Preset::Section,
            "The process as a whole.", "";
        ADMIN = "admin", Kind::Table(Part::Admin), Preset::Section,
            "The admin server: status, metrics and orders.", "";
        LOG = "log", Kind::Table(Part::Log), Preset::Section,
            "What is written to standard error.", "";
        LISTENERS = "listeners", Kind::Tables(Part::Listener), Preset::Section,
            "Where clients connect.", "";
        POOLS = "pools", Kind::Tables(Part::Pool), Preset::Section,
            "What clients are connected to.", "";
        WEBHOOKS = "webhooks", Kind::Tables(Part::Webhook), Preset::Section,
            "Whom events are posted to.", "";
    }
    Daemon {
        WORKERS = "workers", Kind::Integer { min: 0, max: 1024 }, Preset::Integer(0),
            "Threads that move bytes; 0 is one per core.",
            "One per core uses the machine without threads waiting for each other.";
        DRAIN_TIMEOUT = "drain_timeout", ANY, Preset::Text("30s"),
            "How long sessions may go on once their backend is drained or the daemon is told to stop.",
            "Long enough for a transaction, short enough for a restart.";
        MAX_SESSIONS = "max_sessions", Kind::Integer { min: 0, max: 10_000_000 }, Preset::Integer(0),
            "Sessions at once; 0 is what the limit of file descriptors allows.",
            "The limit of descriptors is the real one; a second number would only disagree with it.";
        RELAY_BUFFER = "relay_buffer", Kind::Size { min: 4096, max: 1 << 20 }, Preset::Text("64KiB"),
            "The size of the buffers that are lent to sessions while data moves, from 4KiB to 1MiB.",
            "Few system calls a megabyte, and idle sessions hold none.";
        TCP_KEEPALIVE = "tcp_keepalive", ANY, Preset::Text("60s"),
            "After so long a silence a TCP connection, to clients and to backends, is kept alive; one that then answers nothing for as long again is given up. \"0s\" is never.",
            "Firewalls forget silent connections after minutes, and a peer that vanished must not hold its place for ever.";
        STATE_DIR = "state_dir", Kind::Directory, Preset::Optional("\"/var/lib/changeover\""),
            "The directory, by its absolute path, in which the history of events and what was changed at run time outlive a restart; made if it is not there, and for one daemon alone.",
            "Left out: $STATE_DIRECTORY, which systemd sets, or else memory only, so that it runs everywhere.";
        HISTORY_MAX_AGE = "history_max_age", ANY, Preset::Text("720h"),
            "Events older than this are forgotten; \"0s\" is never.",
            "30 days: the incident that is talked about next month is still there.";
        HISTORY_MAX_SIZE = "history_max_size", Kind::Size { min: 64 << 10, max: 1 << 30 }, Preset::Text("64MiB"),
            "The most that events take, from 64KiB to 1GiB; the oldest beyond it are forgotten. The file takes up to about three times as much.",
            "About 200,000 events, and no disk is full of it. Without a directory, 4MiB of them are kept in memory.";
    }
    Admin {
        ADMIN_BIND = "bind", Kind::Binds, Preset::Text("127.0.0.1:7072"),
            "Where the admin server listens: \"IP:PORT\", \"unix:PATH\" or a list of them.",
            "Loopback, so that nobody else reaches it until you say so. At \"unix:/run/changeover/admin.sock\" root and the daemon's own user may change things; over TCP whoever has a token or a JWT.";
        ADMIN_RATE = "rate_limit", Kind::Rate, Preset::Text("100/min"),
            "How often one caller may change something, such as \"100/min\" or \"5/s\", all of it in one moment if need be; \"0\" is no limit. Wrong credentials from one IP address are limited alike.",
            "More than people do, less than a script that runs wild.";
        TOKENS = "tokens", Kind::Tables(Part::Token), Preset::Section,
            "Callers with a token of their own, by name.", "";
        JWT = "jwt", Kind::Table(Part::Jwt), Preset::Section,
            "Callers with a JWT.", "";
        ADMIN_TLS = "tls", Kind::Table(Part::Tls), Preset::Section,
            "TLS for the IP addresses of `bind`.", "";
    }
    Log {
        LOG_FORMAT = "format", Kind::Word(LogFormat::LABELS), Preset::Text("auto"),
            "How lines are written: auto, text or json.",
            "Auto is text on a terminal, for people, and JSON elsewhere, for programs.";
        LOG_LEVEL = "level", Kind::Word(LogLevel::LABELS), Preset::Text("info"),
            "The least important level that is written: error, warn, info, debug or trace.",
            "Info tells what changed; nothing is written per session.";
    }
    Listener {
        BIND = "bind", Kind::Binds, Preset::Required("\"127.0.0.1:6432\""),
            "Where clients connect: \"IP:PORT\", \"unix:PATH\" or a list of them.",
            "No default, because only you know.";
        POOL = "pool", Kind::Pool, Preset::Required("\"orders\""),
            "The pool that serves them.",
            "No default, because only you know.";
        TARGET = "target", Kind::Word(Target::LABELS), Preset::Optional("\"primary\""),
            "Which server of a postgres pool its clients want: primary, standby (when none is fit, `when_down` says what happens; with use-preferred it is the primary), prefer-standby (the primary while no standby is fit) or any. In front of a tcp pool there is only any.",
            "Left out: the primary of a postgres pool, so that nobody writes to a standby by mistake.";
        MAX_CONNECTIONS = "max_connections", COUNT, Preset::Integer(0),
            "Clients of this listener at once; 0 is as many as `max_sessions` allows. Who comes beyond a limit is closed at once, and counted.",
            "One number for the whole daemon is enough, unless listeners must not crowd each other out.";
        MAX_CONNECTIONS_PER_CLIENT = "max_connections_per_client", COUNT, Preset::Integer(0),
            "Of one client, that is one IP address, at once; 0 is no limit. All clients on Unix sockets are one. Counting begins when the limit is set.",
            "Application servers hold many connections each, and only you know how many.";
        CONNECTION_RATE = "connection_rate_per_client", Kind::Rate, Preset::Text("0"),
            "How fast one client may come, such as \"100/s\" or \"30/min\", with a burst of one second's worth and of at least one; \"0\" is no limit.",
            "A restarted application opens all its connections in one moment.";
        ALLOW = "allow", Kind::Networks, Preset::Empty,
            "The only networks or IP addresses from which clients may connect, such as [\"10.0.0.0/8\", \"192.0.2.7\"]; empty is all. Not for Unix sockets, whose directory says who may.",
            "Who can reach `bind` is meant to.";
        DENY = "deny", Kind::Networks, Preset::Empty,
            "Those from which they may not. It wins over `allow`.",
            "As above.";
        ACCEPT_PROXY_PROTOCOL = "accept_proxy_protocol", Kind::Flag, Preset::Flag(false),
            "Each connection must begin, within 5 seconds, with a header of the PROXY protocol (version 1 or 2). The client that it names is the one to which the limits of a client, `allow` and `deny` apply, and which backends are told of; LOCAL and UNKNOWN leave it at the peer.",
            "Whoever sends a header can claim to be anyone, so it is believed only if you say so.";
        PROXY_PROTOCOL_FROM = "proxy_protocol_from", Kind::Networks, Preset::Empty,
            "The only networks or IP addresses from which such a header is believed: those of the proxies; empty is all. Others are refused. Not for Unix sockets.",
            "Only you know the proxies. Leave it empty only if nobody else reaches `bind`.";
        IDLE_TIMEOUT = "idle_timeout", ANY, Preset::Text("0s"),
            "A session in which nothing moves for so long is closed; \"0s\" is never.",
            "Pooled database connections rest for hours and are still wanted.";
        HALF_CLOSE_TIMEOUT = "half_close_timeout", ANY, Preset::Text("60s"),
            "The same once one side has said that it sends no more; \"0s\" is never.",
            "A last answer comes within a minute; what comes later is a peer that went away.";
        BUSY_POLL = "busy_poll", ANY, Preset::Text("0s"),
            "After a session moved bytes, its thread stays awake for so long and asks the kernel for news without a pause, at most \"1ms\"; \"0s\" is never.",
            "It takes a processor for itself: worth it only where there is one to spare and each microsecond counts.";
    }
    Pool {
        POOL_KIND = "kind", Kind::Word(PoolKind::LABELS), Preset::Text("tcp"),
            "What the pool is made of: tcp (anything) or postgres (one PostgreSQL cluster, whose primary is found out by asking the servers).",
            "Everything speaks TCP.";
        BALANCE = "balance", Kind::Word(Balance::LABELS), Preset::Text("round-robin"),
            "How new sessions are shared within a tier, always by weight: round-robin (in turn), least-connections (to the least loaded; for sessions that last long or differ much), random (to the less loaded of two drawn; for several daemons in front of the same backends), source-hash (by the client's IP address, always to the same one) or latency (to those whose checks answer soonest).",
            "Even, and the easiest to follow.";
        CONNECT_TIMEOUT = "connect_timeout", SOME, Preset::Text("2s"),
            "The longest that one dial may take.",
            "One lost SYN is sent again after a second; a second loss is a reason to try the next.";
        CONNECT_ATTEMPTS = "connect_attempts", Kind::Integer { min: 1, max: 16 }, Preset::Integer(3),
            "How many backends a client is tried on, each another one, before it is held or refused.",
            "Two may fail at once; more would be the whole pool, and then waiting is better.";
        RESEND = "resend", Kind::Word(Resend::LABELS), Preset::Text("greeting"),
            "What is sent to the next backend of that which a client had sent to one that ended before its first byte: never anything, a greeting (PostgreSQL's startup, a TLS hello without early data, an SSH version), or always the first 16 KiB. A client that had sent nothing is given the next one in any case.",
            "A backend may have carried out what it did not answer. `always` is for protocols in which asking twice does no harm.";
        WHEN_DOWN = "when_down", Kind::Word(WhenDown::LABELS), Preset::Text("hold"),
            "What a new client gets while no backend is fit: hold (it waits), refuse (it is closed) or use-preferred (the best tier is dialled all the same).",
            "A failover then is a pause for clients and no error.";
        HOLD = "hold", ANY, Preset::Text("10s"),
            "How long an accepted client waits for a backend.",
            "Longer than a failover takes, shorter than most clients' own patience.";
        HOLD_LIMIT = "hold_limit", Kind::Integer { min: 0, max: 1_000_000 }, Preset::Integer(1000),
            "How many clients of the pool may wait at once for each `target` of its listeners.",
            "A backend that comes back must not be met by everyone.";
        SOURCE_ADDRESS = "source_address", Kind::Ip, Preset::Optional("\"10.0.0.9\""),
            "The IP address of this machine from which backends are dialled and probed. While the machine does not have it, nothing is found out about them.",
            "Left out: the kernel chooses by its routes, which is nearly always right.";
        CHECK = "check", Kind::Table(Part::Check), Preset::Section,
            "How the health of the backends is found out.", "";
        FAILOVER = "failover", Kind::Table(Part::Failover), Preset::Section,
            "When a tier is left, and when the pool returns to it.", "";
        POSTGRES = "postgres", Kind::Table(Part::Postgres), Preset::Section,
            "How the servers of a postgres pool are watched; not for others.", "";
        BACKENDS = "backends", Kind::Backends, Preset::Required("[\"10.0.0.1:5432\", \"10.0.0.2:5432\"]"),
            "The backends in order of preference (priority 1, 2, …; each is named by its address), or tables by name.",
            "No default, because only you know.";
    }
    Check {
        CHECK_KIND = "kind", Kind::Word(CHECKS), Preset::Text("tcp"),
            "What a probe asks: tcp (does the address accept), http (and is the answer's status expected), expect (and does it answer what it is sent as expected), tls (and does it answer the first message of a TLS handshake), agent (and what does an agent on its host say), command (how does a program end), postgres (does a PostgreSQL server answer; the only one of postgres pools, which also ask over a session, see `postgres`) or none (nothing: backends are fit until somebody else says otherwise).",
            "It works with everything. Left out in a postgres pool: postgres. Behind a tunnel tcp sees little: that the way is not closed at once.";
        INTERVAL = "interval", PERIOD, Preset::Text("1s"),
            "From one probe to the next; at least \"10ms\".",
            "A refused port is dead within milliseconds; a silent host within three times interval and timeout.";
        TIMEOUT = "timeout", SOME, Preset::Text("5s"),
            "The longest that one probe may take.",
            "A busy backend is late, and late is not dead.";
        UNHEALTHY_THRESHOLD = "unhealthy_threshold", ROW, Preset::Integer(3),
            "Failures in a row that make a backend unhealthy; proof of death does not wait for it.",
            "One lost packet must not move anybody.";
        HEALTHY_THRESHOLD = "healthy_threshold", ROW, Preset::Integer(2),
            "Successes in a row that make it healthy again.",
            "One good answer may be luck.";
        RECOVERY_INTERVAL = "recovery_interval", PERIOD, Preset::Optional("\"60s\""),
            "From one probe of an unhealthy backend to the next.",
            "Left out: as `interval`, so that a backend is back as soon as it can be.";
        RECOVERY_ATTEMPTS = "recovery_attempts", Kind::Integer { min: 0, max: 1000 }, Preset::Integer(0),
            "After so many failed probes of an unhealthy backend it is probed no more, and stays out until it is reset; 0 is never.",
            "A backend that comes back should be found without anybody's help.";
        RECOVERY_BACKOFF = "recovery_backoff", PERIOD, Preset::Text("5s"),
            "With `recovery_attempts`: the wait after the first of them; it doubles with each, up to 10 minutes.",
            "Long enough for a restart, and few attempts span an outage.";
        MAX_LATENCY = "max_latency", SOME, Preset::Optional("\"500ms\""),
            "A good answer that took longer, from the start of the probe to the end of the answer, counts as a failure. A backend that is out for that alone still serves when there is no better one, and keeps its sessions. It must be less than `timeout`.",
            "Left out: no limit, because only you know what is slow.";
        COMMAND = "command", Kind::Command, Preset::Optional("[\"/usr/lib/x/check\", \"{host}\", \"{port}\"]"),
            "The program of a command check and its arguments, started without a shell: exit code 0 is good news. {host}, {port}, {address}, {pool} and {backend} are filled in; {{ and }} are the braces themselves. A backend on a Unix socket has its path for {host} and no {port}. See the README for the program's surroundings.",
            "No default, because only you have it; needed with kind = \"command\" and not for others.";
        HTTP = "http", Kind::Table(Part::Http), Preset::Section,
            "The request of an http check; not for others.", "";
        AGENT = "agent", Kind::Table(Part::Agent), Preset::Section,
            "Where the agent of an agent check is; not for others.", "";
        EXPECT_TABLE = "expect", Kind::Table(Part::Expect), Preset::Section,
            "What an expect check says and hears; not for others.", "";
    }
    Http {
        METHOD = "method", Kind::Method, Preset::Text("HEAD"),
            "The request's method.",
            "The status is all that counts, so no body is asked for.";
        PATH = "path", Kind::UrlPath, Preset::Text("/health"),
            "The request's path, with its query.",
            "The usual place.";
        PORT = "port", Kind::Integer { min: 0, max: 65535 }, Preset::Integer(0),
            "The port to ask at; 0 is the backend's own.",
            "What serves is asked, unless you say that something else knows better.";
        EXPECT = "expect", Kind::Statuses, Preset::Text("200-399"),
            "The statuses that are good news, with ranges and commas.",
            "Success and redirects: something is there and works.";
        AUTHORIZATION = "authorization", Kind::Secret,
            Preset::Optional("{ file = \"/etc/changeover/check-authorization\" }"),
            "The value of an Authorization header to send. Never printed.",
            "Left out: none is sent.";
    }
    Agent {
        AGENT_PORT = "port", Kind::Integer { min: 0, max: 65535 }, Preset::Integer(0),
            "The port at which the agent listens; 0 is the backend's own. With another port both have to accept. What it may say: see the README.",
            "Nearly always another one: only you know which.";
        SEND = "send", Kind::Text { max: 1024 }, Preset::Text(""),
            "What the agent is sent first, such as \"orders\\n\"; nothing is added to it.",
            "Most agents speak without being asked.";
    }
    Expect {
        EXPECT_SEND = "send", Kind::Text { max: 4096 }, Preset::Text(""),
            "What the backend is sent first, such as \"PING\\r\\n\"; nothing is added to it. Never shown.",
            "Left out: nothing, for servers that speak first.";
        ANSWER = "answer", Kind::Text { max: 4096 }, Preset::Text(""),
            "What its answer must begin with, such as \"+PONG\" or \"SSH-2.0\"; empty is any byte at all. Never shown.",
            "Whoever says anything is there, all the way.";
    }
    Failover {
        AUTOMATIC = "automatic", Kind::Flag, Preset::Flag(true),
            "Whether new sessions may leave the active tier by themselves, or in a postgres pool the primary; if not, they are held while it is down.",
            "It is what the daemon is for.";
        FAILBACK = "failback", Kind::Word(Failback::LABELS), Preset::Text("automatic"),
            "How the pool leaves a fit tier for a better one: automatic or manual (by `changeover failback`). A lost tier is left for whatever is fit. A postgres pool has none: it follows the primary.",
            "The order of preference is what you asked for.";
        FAILBACK_AFTER = "failback_after", ANY, Preset::Text("10s"),
            "How long a better tier must have been fit before the pool returns to it. Each return that does not last doubles it, up to 10 minutes; quiet halves it again.",
            "A backend that comes and goes must not take the clients along.";
        SESSIONS = "sessions", Kind::Table(Part::Sessions), Preset::Section,
            "What becomes of established sessions, by the reason their backend is out.", "";
    }
    Sessions {
        DEAD = "dead", POLICY, Preset::Text("close"),
            "When the backend is dead: keep, drain or close.",
            "Nobody will answer; the sooner clients know, the sooner they come back.";
        UNREACHABLE = "unreachable", POLICY, Preset::Text("close"),
            "When it cannot be reached.",
            "The same, but for the proof.";
        DEMOTED = "demoted", POLICY, Preset::Text("close"),
            "When a server of a postgres pool is not the primary any more: all of its sessions.",
            "They would get errors at each write, and a server that was lost might still acknowledge one. Whatever is said here, no new one begins there: a dial that is under way is made again, to the new primary.";
        LAGGING = "lagging", POLICY, Preset::Text("keep"),
            "When a standby of a postgres pool is too far behind.",
            "They read what is old, as they did a moment before; new sessions go elsewhere.";
        CHECK_FAILED = "check_failed", POLICY, Preset::Text("keep"),
            "When it can be reached and its check fails.",
            "What is established may well work; a broken health page must cut off nobody.";
        DRAINED = "drained", POLICY, Preset::Text("drain"),
            "When it is taken out of the file.",
            "You asked for it to be gone, and not for anybody to be cut off at once.";
        FAILED_BACK = "failed_back", POLICY, Preset::Text("keep"),
            "When the pool went back to a better tier.",
            "They work where they are.";
    }
    Postgres {
        USER = "user", Kind::Text { max: 63 }, Preset::Text("changeover"),
            "The role that logs in to each server to watch it. See the README for the rights that it needs.",
            "A role of its own shows in pg_stat_activity who is there, and may do nothing else.";
        PASSWORD = "password", Kind::Secret, Preset::Optional("{ file = \"/etc/changeover/orders.pw\" }"),
            "Its password, for SCRAM, md5 or as it is. Never printed.",
            "Left out: none, where pg_hba.conf lets the role in without one.";
        DATABASE = "database", Kind::Text { max: 63 }, Preset::Text("postgres"),
            "The database that it logs in to. A replication session that is not let in there goes without one, and cannot tell how far a standby has replayed: its lag is not known then.",
            "It is on every server.";
        TLS = "tls", Kind::Word(TlsMode::LABELS), Preset::Text("prefer"),
            "How the connections to watch the servers are protected: disable, prefer (TLS if the server can), require (TLS, whoever answers), verify-ca (with a certificate that is trusted) or verify-full (which is for the host of `address`). Those of clients are their own business: no byte of them is changed.",
            "As PostgreSQL's own clients do. Write verify-full where the network is not yours alone.";
        CA_FILE = "ca_file", Kind::File, Preset::Optional("\"/etc/changeover/orders-ca.pem\""),
            "The file with the certificates that are trusted, in PEM; for verify-ca and verify-full.",
            "Left out: those that the system trusts.";
        SESSION = "session", Kind::Word(WatchSession::LABELS), Preset::Text("replication"),
            "As what it logs in: replication (which takes one of `max_wal_senders` and none of `max_connections`, tells the timeline and its history, and needs the attribute REPLICATION) or plain.",
            "It is let in when all connections are taken, and its answers prove which of two primaries is the newer one.";
        HEARTBEAT = "heartbeat", BEAT, Preset::Text("10ms"),
            "From one question over the held-open session to the next, from \"2ms\" to \"1s\". A promotion is noticed by it.",
            "A question costs a server some 10 µs.";
        HEARTBEAT_DEADLINE = "heartbeat_deadline", BEAT, Preset::Text("250ms"),
            "A server whose session answers nothing for so long, and that takes no new connection meanwhile either, is out; at least twice `heartbeat`, and at most \"60s\". One that is only slow is not, and one that was slow of late has up to 1.8 times as long.",
            "Longer than a busy server's pauses, and short enough that nobody notices a frozen one first.";
        MAX_LAG = "max_lag", Kind::Size { min: 0, max: 1 << 40 }, Preset::Text("16MiB"),
            "A standby that is so far behind the primary gets no new sessions until it is behind by half of it; up to 1024GiB, \"0B\" is no limit.",
            "One file of the write-ahead log.";
        MAX_LAG_TIME = "max_lag_time", ANY, Preset::Text("10s"),
            "The same in time, by the daemon's own clock: how long ago the primary had written what the standby has not replayed. \"0s\" is no limit.",
            "Whoever reads from a standby expects what is a little old.";
        PROMOTION = "promotion", Kind::Word(PROMOTIONS), Preset::Text("never"),
            "Who promotes a standby when the primary is lost: never changeover, which notices what somebody else has promoted. It is the only word of this version.",
            "Whoever promotes must be sure that the old primary is gone; Patroni and its like are.";
    }
    Backend {
        ADDRESS = "address", Kind::Address, Preset::Required("\"10.0.0.1:5432\""),
            "Where it listens: \"HOST:PORT\" or \"unix:PATH\"; a host name is looked up at each dial. Left out with a tunnel, whose `target` it is.",
            "No default, because only you know.";
        PRIORITY = "priority", Kind::Integer { min: 0, max: 1_000_000 }, Preset::Integer(100),
            "Its tier: the lower number is tried first, equal numbers share.",
            "Room below and above.";
        WEIGHT = "weight", ROW, Preset::Integer(1),
            "Its share within the tier, from 1 to 1000.",
            "All alike.";
        SEND_PROXY_PROTOCOL = "send_proxy_protocol", Kind::Word(ProxyProtocol::LABELS), Preset::Text("none"),
            "The header of the PROXY protocol that is sent first, with the client's address and the one that it connected to: none, v1 or v2. Clients on Unix sockets are announced without addresses, probes as the proxy's own.",
            "A server that does not expect one takes it for garbage.";
        BACKEND_MAX_CONNECTIONS = "max_connections", Kind::Integer { min: 0, max: 10_000_000 }, Preset::Integer(0),
            "Sessions that it is given at once, those being dialled included; 0 is no limit. One that has them is passed over, within its tier first and then for the next tier; when all are full, new clients wait or are refused as `when_down` says.",
            "Only you know what it bears; a number above what it takes itself would change nothing.";
        BACKEND_CHECK = "check", Kind::Table(Part::Check), Preset::Section,
            "Keys of the pool's check that are different for this backend.", "";
    }
}

/// The keys of one part, in the order of the reference.
pub(super) fn of(part: Part) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().copied().filter(move |key| key.part == part)
}

#[cfg(test)]
mod tests {
    use super::{KEYS, Kind, Part, Preset, of};

    #[test]
    fn no_key_stands_twice_and_every_part_has_keys() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(!KEYS[..at].iter().any(|other| (other.part, other.name) == (key.part, key.name)), "{}", key.name);
        }
        for part in Part::ALL {
            assert!(of(*part).next().is_some(), "{part:?}");
        }
    }

    #[test]
    fn every_key_says_what_it_does_and_why_it_is_so() {
        for key in KEYS {
            assert!(key.doc.ends_with('.'), "{}", key.name);
            let is_table = matches!(key.kind, Kind::Table(_) | Kind::Tables(_));
            assert_eq!(is_table, key.preset == Preset::Section, "{}", key.name);
            assert_eq!(is_table, key.reason.is_empty(), "{}", key.name);
        }
    }
}

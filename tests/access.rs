//! Who may what over the admin API: every route for every kind of caller, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use changeover::admin::{Need, ROUTES};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::callers::{By, Caller, Keys, certificate, claims, dial_tls, token_table};
use support::net::meet;
use support::{Backend, DEADLINE, Daemon, dial, http, wait_for, wait_until};
use tempfile::TempDir;

/// Each route, as the contract has it, with the role that it takes; `all` for what is open, `viewer of all` for what tells
/// of every pool.
const CONTRACT: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "all"),
    ("GET", "/readyz", "all"),
    ("GET", "/metrics", "viewer of all"),
    ("GET", "/", "viewer"),
    ("GET", "/dashboard/{file}", "viewer"),
    ("GET", "/api/v1/openapi.json", "all"),
    ("GET", "/api/v1/listeners", "viewer"),
    ("GET", "/api/v1/pools", "viewer"),
    ("GET", "/api/v1/pools/{pool}", "viewer"),
    ("GET", "/api/v1/pools/{pool}/explain", "viewer"),
    ("GET", "/api/v1/pools/{pool}/pick", "viewer"),
    ("GET", "/api/v1/pools/{pool}/events", "viewer"),
    ("GET", "/api/v1/events", "viewer"),
    ("GET", "/api/v1/events/stream", "viewer"),
    ("GET", "/api/v1/sessions", "viewer"),
    ("DELETE", "/api/v1/sessions/{id}", "operator"),
    ("POST", "/api/v1/pools/{pool}/evaluate", "viewer"),
    ("POST", "/api/v1/pools/{pool}/failover", "admin"),
    ("POST", "/api/v1/pools/{pool}/failback", "admin"),
    ("POST", "/api/v1/pools/{pool}/pause", "operator"),
    ("POST", "/api/v1/pools/{pool}/resume", "operator"),
    ("POST", "/api/v1/pools/{pool}/check", "operator"),
    ("POST", "/api/v1/pools/{pool}/reset", "operator"),
    ("GET", "/api/v1/pools/{pool}/failover-config", "viewer"),
    ("PATCH", "/api/v1/pools/{pool}/failover-config", "admin"),
    ("POST", "/api/v1/pools/{pool}/backends", "admin"),
    ("PATCH", "/api/v1/pools/{pool}/backends/{backend}", "admin"),
    ("DELETE", "/api/v1/pools/{pool}/backends/{backend}", "admin"),
    ("PUT", "/api/v1/pools/{pool}/backends/{backend}/health", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/failures", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/successes", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/reset", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/check", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/drain", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/ready", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/maintenance", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/start", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/stop", "operator"),
    ("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/restart", "operator"),
    ("GET", "/api/v1/pools/{pool}/backends/{backend}/tunnel/logs", "viewer"),
    ("GET", "/api/v1/pools/{pool}/backends/{backend}/tunnel/explain", "viewer"),
];

/// What a caller is to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Presents nothing, over loopback.
    Here,
    /// Presents nothing, from elsewhere.
    Elsewhere,
    /// Presents what is wrong.
    Wrong,
    /// Is of this rank: 1 viewer, 2 operator, 3 admin.
    Rank(u8),
    /// An admin that owns the pool that is asked for, and no other.
    Owner,
    /// An admin that owns another one.
    OwnerOfAnother,
}

/// The status that `kind` is to be refused with at a route that takes `role`; none if it is let through.
fn refusal(kind: Kind, role: &str, path: &str) -> Option<u16> {
    let rank = match role {
        "all" => 0,
        "viewer" | "viewer of all" => 1,
        "operator" => 2,
        _ => 3,
    };
    match kind {
        Kind::Wrong => Some(401),
        Kind::Here => (rank > 1).then_some(401),
        Kind::Elsewhere => (rank > 0).then_some(401),
        Kind::Rank(of) => (of < rank).then_some(403),
        Kind::Owner => (role == "viewer of all").then_some(403),
        Kind::OwnerOfAnother => (role == "viewer of all" || path.contains("{pool}")).then_some(403),
    }
}

/// A token for each role and owner, which no answer, event or log line may show.
const TOKENS: &[(&str, &str, &str, &str)] = &[
    ("view", "token-of-the-viewer-3f7a", "viewer", ""),
    ("op", "token-of-the-operator-91bc", "operator", ""),
    ("root", "token-of-the-admin-77de", "admin", ""),
    ("own", "token-of-the-owner-e01f", "admin", "pools = [\"orders\"]"),
    ("other", "token-of-another-5a5a", "admin", "pools = [\"other\"]"),
];

fn token(name: &str) -> String {
    TOKENS.iter().find(|(known, ..)| *known == name).unwrap().1.to_owned()
}

/// A daemon with two pools, tokens, a Unix socket that anybody can reach, and more in `[admin]`.
struct World {
    daemon: Daemon,
    dir: TempDir,
    _backends: [Backend; 2],
}

impl World {
    fn start(admin: &str, tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::in_dir(dir, admin, tables, "info")
    }

    fn in_dir(dir: TempDir, admin: &str, tables: &str, level: &str) -> Self {
        let backends = [Backend::start("a"), Backend::start("b")];
        let text = config(&dir, &backends, admin, tables, level);
        let daemon = Daemon::start(&text);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(dir.path().join("admin.sock"), std::fs::Permissions::from_mode(0o666)).unwrap();
        Self { daemon, dir, _backends: backends }
    }

    fn reload(&self, admin: &str, tables: &str) -> Result<(), Value> {
        self.daemon.reload(&config(&self.dir, &self._backends, admin, tables, "info"))
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn tcp(&self) -> By {
        By::Tcp(self.loopback())
    }

    fn loopback(&self) -> SocketAddr {
        // The log may be read a bit later than the daemon is ready.
        wait_for("it listens at loopback", DEADLINE, || {
            let lines = self.daemon.logged("listening");
            let of_admin = lines.iter().filter(|line| line["listener"] == "admin");
            let mut addresses = of_admin.filter_map(|line| line["address"].as_str()?.parse::<SocketAddr>().ok());
            addresses.find(|addr| addr.ip().is_loopback())
        })
    }

    fn with(&self, name: &'static str) -> Caller {
        Caller { name, bearer: Some(token(name)), by: self.tcp() }
    }

    fn root(&self) -> Caller {
        Caller { name: "root over Unix", bearer: None, by: By::Unix(self.socket()) }
    }

    /// The audit trail.
    fn audit(&self) -> Vec<Value> {
        let page = self.root().send("GET", "/api/v1/events?kind=admin.action&limit=1000", "").json();
        page["events"].as_array().unwrap().clone()
    }
}

fn config(dir: &TempDir, backends: &[Backend; 2], admin: &str, tables: &str, level: &str) -> String {
    let socket = dir.path().join("admin.sock");
    let bind = if admin.contains("bind") {
        admin.replace("SOCKET", &format!("unix:{}", socket.display()))
    } else {
        format!("bind = [\"unix:{}\", \"127.0.0.1:0\"]\n{admin}", socket.display())
    };
    let tokens: String =
        TOKENS.iter().map(|(name, token, role, pools)| token_table(name, token, role, pools)).collect();
    format!(
        "[admin]\n{bind}\n{tables}{tokens}[log]\nformat = \"json\"\nlevel = \"{level}\"\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [listeners.other]\nbind = \"127.0.0.1:0\"\npool = \"other\"\n\
         [pools.orders.check]\ninterval = \"100ms\"\n[pools.other.check]\ninterval = \"100ms\"\n{}{}",
        backends[0].toml("orders", 1),
        backends[1].toml("other", 1),
    )
}

fn jwt_table(algorithm: &str, key: &Path) -> String {
    format!(
        "[admin.jwt]\nalgorithm = \"{algorithm}\"\nkey = {{ file = \"{}\" }}\nissuer = \"login\"\naudience = \"changeover\"\n",
        key.display()
    )
}

/// Without padding, as in a JWT.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        text.extend((0..=chunk.len()).map(|digit| char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63])));
    }
    text
}

/// JWTs that must not be taken where those of `keys` are.
fn forgeries(keys: &Keys) -> Vec<(&'static str, String)> {
    let right = claims(&json!({}));
    let public = std::fs::read(&keys.public).unwrap();
    let hmac = encode(&Header::new(Algorithm::HS256), &right, &EncodingKey::from_secret(&public)).unwrap();
    let none = format!("{}.{}.", base64url(br#"{"alg":"none","typ":"JWT"}"#), base64url(right.to_string().as_bytes()));
    let good = keys.sign(&right);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let header = signed.split('.').next().unwrap();
    let other = base64url(claims(&json!({ "sub": "eve" })).to_string().as_bytes());
    vec![
        ("expired JWT", keys.sign(&claims(&json!({ "exp": get_current_timestamp() - 120 })))),
        ("JWT that never expires", keys.sign(&claims(&json!({ "exp": null })))),
        ("JWT of the future", keys.sign(&claims(&json!({ "nbf": get_current_timestamp() + 120 })))),
        ("wrong audience", keys.sign(&claims(&json!({ "aud": "mail" })))),
        ("no audience", keys.sign(&claims(&json!({ "aud": null })))),
        ("wrong issuer", keys.sign(&claims(&json!({ "iss": "evil" })))),
        ("no role", keys.sign(&claims(&json!({ "role": "root" })))),
        ("alg: none", none),
        ("HS256 with the public key", hmac),
        ("without its signature", format!("{signed}.")),
        ("other claims under its signature", format!("{header}.{other}.{signature}")),
    ]
}

/// An address of this host that is not of loopback, if it has one.
fn address_elsewhere() -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent by this.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok().filter(|addr| !addr.ip().is_loopback() && !addr.ip().is_unspecified())?.ip();
    // Below those that the kernel hands out, so that no test beside this one is given it before the daemon binds it.
    let ports = std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).take(100);
    ports.map(|port| SocketAddr::new(ip, port)).find(|addr| std::net::TcpListener::bind(addr).is_ok())
}

#[test]
fn the_table_of_routes_is_the_contracts() {
    let of_table: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path, role_of(route.need))).collect();
    let of_contract: BTreeSet<_> = CONTRACT.iter().copied().collect();
    let (more, less): (Vec<_>, Vec<_>) =
        (of_table.difference(&of_contract).collect(), of_contract.difference(&of_table).collect());
    assert!(more.is_empty() && less.is_empty(), "only in the table: {more:?}\nonly in the contract: {less:?}");
}

const fn role_of(need: Need) -> &'static str {
    match need {
        Need::Open => "all",
        Need::View => "viewer",
        Need::ViewAll => "viewer of all",
        Need::Operate => "operator",
        Need::Administer => "admin",
    }
}

#[track_caller]
fn holds_for(caller: &Caller, kind: Kind) {
    for route in ROUTES {
        let path = route
            .path
            .replace("{pool}", "orders")
            .replace("{backend}", "nope")
            .replace("{id}", "4000000000")
            .replace("{file}", "style.css");
        // A stream has no end, unless what is asked for is nonsense.
        let is_stream = path.ends_with("/stream");
        let path = if is_stream { format!("{path}?limit=0") } else { path };
        // Whoever is let through changes nothing by this.
        let answer = caller.send(route.method, &path, if route.method == "GET" { "" } else { "{\"nonsense\": 1}" });
        let what = format!("{} {} as {} ({kind:?}): {}", route.method, route.path, caller.name, answer.body);
        match (refusal(kind, role_of(route.need), route.path), route.method) {
            (Some(status), _) => {
                assert_eq!(answer.status, status, "{what}");
                let code = if status == 401 { "not_authenticated" } else { "not_authorized" };
                assert_eq!(answer.json()["code"], code, "{what}");
                assert_eq!(answer.header("www-authenticate").starts_with("Bearer"), status == 401, "{what}");
            }
            (None, _) if is_stream => assert_eq!(answer.json()["code"], "bad_query", "{what}"),
            // Of what is not there nobody is told more.
            (None, "GET") if path.contains("/nope/") => assert_eq!(answer.status, 404, "{what}"),
            (None, "GET") => assert_eq!(answer.status, 200, "{what}"),
            (None, _) => {
                assert!([404, 422].contains(&answer.status), "{} {what}", answer.status);
                assert_ne!(answer.json()["code"], "not_found", "{what}");
            }
        }
    }
}

#[test]
fn every_route_for_every_kind_of_caller() {
    let keys_dir = tempfile::tempdir().unwrap();
    let keys = Keys::make(keys_dir.path(), Algorithm::RS256);
    let elsewhere = address_elsewhere();
    let bind = elsewhere.map_or_else(String::new, |addr| format!(", \"{addr}\""));
    let world =
        World::start(&format!("bind = [\"SOCKET\", \"127.0.0.1:0\"{bind}]\n"), &jwt_table("RS256", &keys.public));
    let caller = |name, bearer: Option<String>, by: By| Caller { name, bearer, by };
    holds_for(&caller("nobody over loopback", None, world.tcp()), Kind::Here);
    holds_for(&caller("bad token", Some("guess".to_owned()), world.tcp()), Kind::Wrong);
    for (name, kind) in [
        ("view", Kind::Rank(1)),
        ("op", Kind::Rank(2)),
        ("root", Kind::Rank(3)),
        ("own", Kind::Owner),
        ("other", Kind::OwnerOfAnother),
    ] {
        holds_for(&world.with(name), kind);
        // What is presented goes before what the kernel says of root.
        holds_for(&caller(name, Some(token(name)), By::Unix(world.socket())), kind);
    }
    for (role, kind) in [("viewer", Kind::Rank(1)), ("operator", Kind::Rank(2)), ("admin", Kind::Rank(3))] {
        holds_for(&caller(role, Some(keys.sign(&claims(&json!({ "role": role })))), world.tcp()), kind);
    }
    for (pool, kind) in [("orders", Kind::Owner), ("other", Kind::OwnerOfAnother)] {
        holds_for(&caller(pool, Some(keys.sign(&claims(&json!({ "pools": [pool] })))), world.tcp()), kind);
    }
    for (name, forged) in forgeries(&keys) {
        holds_for(&caller(name, Some(forged), world.tcp()), Kind::Wrong);
    }
    holds_for(&world.root(), Kind::Rank(3));
    if rustix::process::geteuid().is_root() {
        holds_for(&caller("nobody over Unix", None, By::UnixAsNobody(world.socket())), Kind::Rank(1));
    } else {
        println!("skipped: only root can come as another user");
    }
    match elsewhere {
        Some(addr) => {
            holds_for(&caller("a stranger", None, By::Tcp(addr)), Kind::Elsewhere);
            holds_for(&caller("view", Some(token("view")), By::Tcp(addr)), Kind::Rank(1));
        }
        None => println!("skipped: this host has no address but loopback"),
    }
}

#[test]
fn every_algorithm_takes_its_own_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let hmac = encode(&Header::default(), &claims(&json!({})), &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(|algorithm| Keys::make(dir.path(), algorithm));
    let mut made: Vec<(&str, PathBuf, String)> = ["RS256", "ES256", "EdDSA"]
        .into_iter()
        .zip(&all)
        .map(|(name, keys)| (name, keys.public.clone(), keys.sign(&claims(&json!({})))))
        .collect();
    made.push(("HS256", dir.path().join("secret"), hmac));
    let (first, key, _) = &made[0];
    let world = World::start("", &jwt_table(first, key));
    for (algorithm, key, _) in &made {
        world.reload("", &jwt_table(algorithm, key)).expect("taken");
        for (of, _, jwt) in &made {
            let caller = Caller { name: of, bearer: Some(jwt.clone()), by: world.tcp() };
            let status = caller.send("GET", "/api/v1/pools", "").status;
            assert_eq!(status, if of == algorithm { 200 } else { 401 }, "{of} where {algorithm} is taken");
        }
    }
}

#[test]
fn an_owner_is_told_of_its_own_pools_only() {
    let world = World::start("", "");
    let (_orders, _) = meet(world.daemon.listener("orders")).expect("served");
    let (_other, _) = meet(world.daemon.listener("other")).expect("served");
    for (name, pool) in [("own", "orders"), ("other", "other")] {
        let names = |path: &str, list: &str, field: &str| -> BTreeSet<String> {
            let answer = world.with(name).send("GET", path, "").json();
            let all = answer[list].as_array().unwrap_or_else(|| panic!("{path}: {answer}"));
            all.iter().map(|one| one[field].as_str().unwrap_or("none").to_owned()).collect()
        };
        let only = BTreeSet::from([pool.to_owned()]);
        assert_eq!(names("/api/v1/pools", "pools", "name"), only);
        wait_until("its session is told", DEADLINE, || names("/api/v1/sessions", "sessions", "pool") == only);
        assert_eq!(names("/api/v1/events?limit=1000", "events", "pool"), only);
        assert_eq!(names("/api/v1/events?after=0&limit=1000", "events", "pool"), only);
        let another = if pool == "orders" { "other" } else { "orders" };
        assert!(names(&format!("/api/v1/events?pool={another}"), "events", "pool").is_empty());
    }
    let all = world.root().send("GET", "/api/v1/sessions", "").json();
    let id = all["sessions"].as_array().unwrap().iter().find(|one| one["pool"] == "orders").unwrap()["id"].clone();
    let path = format!("/api/v1/sessions/{id}");
    assert_eq!(world.with("other").send("DELETE", &path, "").status, 404, "it is not there for another's owner");
    assert_eq!(world.with("own").send("DELETE", &path, "").status, 204);
}

#[test]
fn whoever_changes_too_much_is_told_when_to_come_again() {
    let world = World::start("rate_limit = \"3/min\"", "");
    let check = |caller: &Caller| caller.send("POST", "/api/v1/pools/orders/check", "");
    let op = world.with("op");
    for _ in 0..3 {
        assert_eq!(check(&op).status, 200);
    }
    let limited = check(&op);
    assert_eq!((limited.status, &limited.json()["code"]), (429, &json!("rate_limited")));
    let seconds: u64 = limited.header("retry-after").parse().expect("whole seconds");
    assert!((1..=20).contains(&seconds), "{seconds}");
    assert_eq!(op.send("GET", "/api/v1/pools", "").status, 200, "to read is no change");
    assert_eq!(op.send("POST", "/api/v1/pools/orders/evaluate", "").status, 200, "nor is to ask");
    assert_eq!(check(&world.with("root")).status, 200, "each caller has its own share");
    assert_eq!(check(&world.with("view")).status, 403, "who may not is told that first");
    let is_noted = |event: &Value| event["detail"]["result"] == "rate_limited" && event["actor"] == "token:op";
    wait_until("it is in the audit trail", DEADLINE, || world.audit().iter().any(is_noted));
    // The limit is taken anew with another one.
    world.reload("rate_limit = \"0\"", "").expect("taken");
    for _ in 0..9 {
        assert_eq!(check(&op).status, 200);
    }
}

#[test]
fn whoever_guesses_too_often_is_slowed_down_and_nobody_else_is() {
    let world = World::start("rate_limit = \"5/min\"", "");
    let guess = |number: usize| {
        let caller = Caller { name: "guesser", bearer: Some(format!("guess-{number}")), by: world.tcp() };
        caller.send("GET", "/api/v1/pools", "")
    };
    assert_eq!(world.with("op").send("GET", "/api/v1/pools", "").status, 200);
    let statuses: Vec<u16> = (0..8).map(|number| guess(number).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
    let limited = guess(9);
    let seconds: u64 = limited.header("retry-after").parse().expect("whole seconds");
    assert!((1..=12).contains(&seconds), "{seconds}");
    assert!(limited.body.contains(&format!("try again in {seconds} s")), "{}", limited.body);
    // Nor is anybody told that a guess is right, unless they came from there before.
    let right = world.with("root").send("GET", "/api/v1/pools", "");
    assert_eq!((right.status, &right.json()["code"]), (429, &json!("rate_limited")));
    assert_eq!(world.with("op").send("POST", "/api/v1/pools/orders/check", "").status, 200);
    let nobody = Caller { name: "nobody", bearer: None, by: world.tcp() };
    assert_eq!(nobody.send("GET", "/api/v1/pools", "").status, 200, "who presents nothing guesses nothing");
}

#[test]
fn every_change_and_every_refusal_is_in_the_audit_trail() {
    let world = World::start("", "");
    let (op, view) = (world.with("op"), world.with("view"));
    let stranger = Caller { name: "stranger", bearer: None, by: world.tcp() };
    let wrong = Caller { bearer: Some("wrong".to_owned()), ..stranger.clone() };
    let drain = "/api/v1/pools/orders/backends/a/drain";
    assert_eq!(op.send("POST", drain, "").status, 200);
    assert_eq!(op.send("POST", drain, "{\"nonsense\": 1}").status, 422);
    assert_eq!(op.send("POST", "/api/v1/pools/orders/backends/nope/drain", "").status, 404);
    assert_eq!(view.send("POST", drain, "").status, 403);
    assert_eq!(stranger.send("POST", drain, "").status, 401);
    assert_eq!(wrong.send("POST", drain, "").status, 401);
    assert_eq!(world.root().send("POST", "/api/v1/pools/orders/backends/a/ready", "").status, 200);
    for (actor, backend, result) in [
        ("token:op", "a", "done"),
        ("token:op", "a", "invalid_body"),
        ("token:op", "nope", "backend_not_found"),
        ("token:view", "a", "not_authorized"),
        ("anonymous", "a", "not_authenticated"),
        ("unknown", "a", "not_authenticated"),
    ] {
        let is_it = |event: &Value| {
            let detail = &event["detail"];
            let from = detail["address"].as_str().unwrap_or_default();
            event["actor"] == actor
                && detail["action"] == "backend.drain"
                && detail["result"] == result
                && (&event["pool"], &event["backend"]) == (&json!("orders"), &json!(backend))
                && from.starts_with("127.0.0.1:")
        };
        wait_until(&format!("{result} of {actor} is there"), DEADLINE, || {
            world.audit().iter().filter(|event| is_it(event)).count() == 1
        });
    }
    let uid = rustix::process::geteuid().as_raw();
    let by_root =
        |event: &Value| event["actor"] == format!("uid:{uid}") && event["detail"]["address"] == format!("unix:{uid}");
    wait_until("root's is there", DEADLINE, || world.audit().iter().any(by_root));
    assert_eq!(world.audit().len(), 7, "each once: {:?}", world.audit());
    for _ in 0..200 {
        assert_eq!(stranger.send("POST", drain, "").status, 401);
    }
    let of_strangers = || world.audit().iter().filter(|event| event["actor"] == "anonymous").count();
    wait_until("what there is room for is there", DEADLINE, || of_strangers() > 50);
    assert_eq!(op.send("POST", "/api/v1/pools/orders/check", "").status, 200);
    wait_until("what came after is there", DEADLINE, || world.audit().last().is_some_and(|e| e["actor"] == "token:op"));
    assert!(of_strangers() <= 60, "{} of 201", of_strangers());
}

#[test]
fn the_audit_trail_says_what_was_changed_and_of_what_was_refused_no_value() {
    let world = World::start("rate_limit = \"0\"", "");
    let backends = "/api/v1/pools/orders/backends";
    let backend = json!({ "name": "c", "address": "127.0.0.1:9", "check": { "interval": "2s" } });
    let secret = json!({ "check": { "http": { "authorization": "hunter2" } }, "failover": { "failback": "manual" } });
    let cases = [
        ("POST", backends, backend.clone(), "done", backend),
        ("PATCH", "/api/v1/pools/orders/backends/c", json!({ "weight": 3 }), "done", json!({ "weight": 3 })),
        ("DELETE", "/api/v1/pools/orders/backends/c", Value::Null, "done", Value::Null),
        (
            "PATCH",
            "/api/v1/pools/orders/failover-config",
            json!({ "failover": { "failback": "manual" }, "check": { "timeout": null } }),
            "done",
            json!({ "failover": { "failback": "manual" }, "check": { "timeout": null } }),
        ),
        (
            "PATCH",
            "/api/v1/pools/orders/failover-config",
            secret,
            "invalid_value",
            json!({ "keys": ["check.http.authorization", "failover.failback"] }),
        ),
        ("POST", "/api/v1/pools/orders/pause", json!({ "timeout": "1m 30s" }), "done", json!({ "timeout": "90s" })),
        ("POST", "/api/v1/pools/orders/resume", json!({}), "done", Value::Null),
        (
            "PUT",
            "/api/v1/pools/orders/backends/a/health",
            json!({ "health": "healthy", "ttl": "5s" }),
            "done",
            json!({ "health": "healthy", "ttl": "5s", "reason": null, "metrics": {} }),
        ),
    ];
    for (number, (method, path, body, result, said)) in cases.into_iter().enumerate() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = world.with("root").send(method, path, &body);
        assert_eq!(answer.status < 300, result == "done", "{method} {path}: {answer:?}");
        wait_until("it is in the audit trail", DEADLINE, || world.audit().len() == number + 1);
        let detail = world.audit().pop().unwrap()["detail"].clone();
        assert_eq!((&detail["result"], &detail["said"]), (&json!(result), &said), "{method} {path}: {detail}");
    }
    assert!(!json!(world.audit()).to_string().contains("hunter2"));
}

#[test]
fn a_refusal_is_told_as_what_it_refused_is() {
    let world = World::start("rate_limit = \"0\"", "");
    let audit = |number: usize| {
        wait_until("each is there", DEADLINE, || world.audit().len() == number);
        let last = world.audit().pop().expect("it has some");
        let session = last["detail"]["session"].clone();
        (last["detail"]["action"].clone(), last["pool"].clone(), last["backend"].clone(), session)
    };
    let mut number = 0;
    for route in ROUTES.iter().filter(|route| route.need.is_change()) {
        let path = route.path.replace("{pool}", "orders").replace("{backend}", "nope").replace("{id}", "4000000000");
        let body = match path.rsplit('/').next() {
            Some("health") => "{\"health\": \"healthy\", \"ttl\": \"5s\"}",
            Some("failures") => "{\"error\": \"reset\"}",
            Some("failover-config") => "{\"check\": {\"interval\": \"200ms\"}}",
            _ => "{}",
        };
        let told: Vec<_> = ["view", "root"]
            .map(|name| {
                let answer = world.with(name).send(route.method, &path, body);
                assert_eq!(answer.status == 403, name == "view", "{path}: {answer:?}");
                number += 1;
                audit(number)
            })
            .into();
        assert_eq!(told[0], told[1], "{} {}", route.method, route.path);
        assert_eq!(told[0].0, route.action);
    }
}

#[test]
fn how_many_were_refused_is_in_the_audit_trail_also_if_the_daemon_stops_before_the_minute_is_over() {
    let (state, a) = (tempfile::tempdir().unwrap(), Backend::start("a"));
    let text = format!(
        "[daemon]\nstate_dir = \"{}\"\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        state.path().display(),
        a.toml("orders", 1)
    );
    let mut daemon = Daemon::start(&text);
    for _ in 0..72 {
        let refused = http::send(dial(daemon.admin()).unwrap(), "POST", "/api/v1/pools/orders/pause", "").unwrap();
        assert_eq!(refused.status, 403);
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    let daemon = Daemon::start(&text);
    let page = daemon.admin_get("/api/v1/events?kind=admin.action&limit=1000").json();
    let events = page["events"].as_array().unwrap();
    let (together, singly): (Vec<_>, Vec<_>) = events.iter().partition(|event| event["detail"]["action"] == "refused");
    assert_eq!(singly.len(), 60);
    assert_eq!((together.len(), &together[0]["detail"]["count"]), (1, &json!(12)));
}

#[test]
fn a_change_that_was_meant_for_another_host_is_in_the_audit_trail() {
    let world = World::start("", "");
    for (bearer, actor) in [(String::new(), "anonymous"), (token("op"), "token:op"), ("guess".to_owned(), "unknown")] {
        let authorization = if bearer.is_empty() { bearer } else { format!("Authorization: Bearer {bearer}\r\n") };
        let before = world.audit().len();
        for (method, path) in [("GET", "/api/v1/pools"), ("POST", "/api/v1/pools/orders/backends/a/drain")] {
            let mut stream = dial(world.loopback()).unwrap();
            write!(stream, "{method} {path} HTTP/1.0\r\nHost: evil.example\r\n{authorization}\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(" 421 ") && answer.contains("misdirected_request"), "{answer}");
        }
        wait_until("it is there", DEADLINE, || world.audit().len() == before + 1);
        let last = world.audit().pop().unwrap();
        let told =
            [&last["actor"], &last["pool"], &last["backend"], &last["detail"]["action"], &last["detail"]["result"]];
        assert_eq!(told, [actor, "orders", "a", "backend.drain", "misdirected_request"], "{last}");
        assert!(last["detail"]["address"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{last}");
    }
    assert_eq!(world.with("op").send("POST", "/api/v1/pools/orders/backends/a/drain", "").status, 200);
}

#[test]
fn no_credential_is_in_any_answer_log_line_or_event() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::make(dir.path(), Algorithm::RS256);
    let world = World::in_dir(tempfile::tempdir().unwrap(), "", &jwt_table("RS256", &keys.public), "trace");
    let (good, wrong) = (keys.sign(&claims(&json!({}))), keys.sign(&claims(&json!({ "role": "root-of-all-9c9c" }))));
    let mut said = String::new();
    let mut bearers: Vec<String> = TOKENS.iter().map(|(_, token, ..)| (*token).to_owned()).collect();
    bearers.extend([good.clone(), wrong.clone(), "a-guess-that-is-wrong-4b4b".to_owned()]);
    for bearer in &bearers {
        let caller = Caller { name: "somebody", bearer: Some(bearer.clone()), by: world.tcp() };
        for (method, path) in [("GET", "/api/v1/pools"), ("POST", "/api/v1/pools/orders/check"), ("GET", "/nothing")] {
            let answer = caller.send(method, path, "");
            said.push_str(&format!("{:?}{}\n", answer.headers, answer.body));
        }
    }
    said.push_str(&world.root().send("GET", "/api/v1/events?limit=1000", "").body);
    said.push_str(&world.root().send("GET", "/metrics", "").body);
    let unreadable = world.reload("", "[admin.jwt]\nalgorithm = \"HS256\"\nkey = \"short-secret-8d8d\"\n");
    said.push_str(&unreadable.expect_err("rejected").to_string());
    world.reload("", "").expect("taken");
    said.push_str(&support::changeover(&["check", "--config", world.daemon.config().to_str().unwrap()]).stdout);
    world.daemon.wait_logged("a credential was not taken", |lines| !lines.is_empty());
    said.push_str(&world.daemon.log().join("\n"));
    assert!(said.contains("token:op") && said.contains("a credential was not taken"), "there is something to look in");
    let signature = |jwt: &str| jwt.rsplit('.').next().unwrap().to_owned();
    let public = std::fs::read_to_string(&keys.public).unwrap().lines().nth(1).unwrap().to_owned();
    let mut secrets = bearers;
    secrets.extend([signature(&good), signature(&wrong), public, "root-of-all".to_owned(), "short-secret".to_owned()]);
    for (name, token, role, pools) in TOKENS {
        let table = token_table(name, token, role, pools);
        secrets.push(table.split("sha256 = \"").nth(1).unwrap().chars().take(64).collect());
    }
    for secret in secrets {
        assert!(!said.contains(&secret), "{secret} was told");
    }
}

#[test]
fn a_reload_swaps_the_credentials_also_on_open_connections() {
    let world = World::start("", &token_table("late", "token-that-goes", "viewer", ""));
    let open = dial(world.loopback()).unwrap();
    let ask = || -> u16 {
        use std::io::{BufRead, BufReader, Read, Write};
        let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token-that-goes\r\n\r\n";
        (&open).write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::with_capacity(1, &open);
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(first) = line.strip_prefix("HTTP/1.1 ") {
                status = first[..3].parse().unwrap();
            }
            if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = given.trim().parse().unwrap();
            }
            line.clear();
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        status
    };
    assert_eq!(ask(), 200);
    let error = world.reload("", "[admin.tokens.bad]\nrole = \"viewer\"\nsha256 = \"plain\"\n").expect_err("rejected");
    assert!(error.to_string().contains("is no SHA-256"), "{error}");
    assert_eq!(ask(), 200, "a reload that fails changes nothing");
    world.reload("", &token_table("late", "token-that-comes", "viewer", "")).expect("taken");
    assert_eq!(ask(), 401);
    let comes = Caller { name: "late", bearer: Some("token-that-comes".to_owned()), by: world.tcp() };
    assert_eq!(comes.send("GET", "/api/v1/pools", "").status, 200);
}

#[test]
fn tls_is_served_with_the_certificate_of_the_last_reload() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["first", "second"] {
        certificate(dir.path(), name);
    }
    let path = |name: &str| dir.path().join(name);
    for end in ["pem", "key"] {
        std::fs::copy(path(&format!("first.{end}")), path(&format!("used.{end}"))).unwrap();
    }
    let tls = format!(
        "[admin.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        path("used.pem").display(),
        path("used.key").display()
    );
    let world = World::start("", &tls);
    let addr = world.loopback();
    let by = |name: &'static str, trusted: &str| Caller {
        name,
        bearer: Some(token(name)),
        by: By::Tls(addr, path(trusted)),
    };
    holds_for(&by("op", "first.pem"), Kind::Rank(2));
    holds_for(&Caller { bearer: None, ..by("op", "first.pem") }, Kind::Here);
    for (method, path) in [("GET", "/healthz"), ("POST", "/api/v1/pools/orders/pause")] {
        let clear = Caller { by: By::Tcp(addr), ..by("op", "first.pem") }.send(method, path, "{}");
        assert_eq!((clear.status, &clear.json()["code"]), (400, &json!("tls_required")), "in clear nobody is served");
        assert!(clear.body.contains("https://"), "{clear:?}");
    }
    let status = |admin: &str| support::changeover(&["status", "--admin", admin]).stderr;
    let told = status(&format!("http://{addr}"));
    assert!(told.contains("this address speaks TLS") && told.contains("https://"), "{told}");
    assert_eq!(world.root().send("GET", "/healthz", "").status, 200, "a Unix socket needs none");
    assert!(dial_tls(addr, &path("second.pem")).is_err());
    std::fs::copy(path("second.pem"), path("used.pem")).unwrap();
    let error = world.reload("", &tls).expect_err("rejected");
    assert!(error.to_string().contains("is not the key of the certificate"), "{error}");
    assert_eq!(by("view", "first.pem").send("GET", "/api/v1/pools", "").status, 200);
    std::fs::copy(path("second.key"), path("used.key")).unwrap();
    world.reload("", &tls).expect("taken");
    assert_eq!(by("view", "second.pem").send("GET", "/api/v1/pools", "").status, 200);
    assert!(dial_tls(addr, &path("first.pem")).is_err());
}

#[test]
fn what_is_in_no_table_answers_nobody() {
    let world = World::start("", "");
    let told = support::changeover(&["status", "--admin", &format!("https://{}", world.loopback())]).stderr;
    assert!(told.contains("it speaks no TLS; write http:// instead"), "{told}");
    let root = world.with("root");
    for (method, path, status, code) in [
        ("GET", "/api/v1/secrets", 404, "not_found"),
        ("GET", "/api/v1/pools/", 404, "not_found"),
        ("POST", "/api/v1/pools", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/pools", 405, "method_not_allowed"),
        ("TRACE", "/healthz", 405, "method_not_allowed"),
        ("BREW", "/healthz", 405, "method_not_allowed"),
    ] {
        let answer = root.send(method, path, "");
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{method} {path}");
        assert_eq!(answer.header("allow").is_empty(), status == 404, "{method} {path}");
    }
    assert_eq!(root.send("DELETE", "/api/v1/pools/orders/failover-config", "").header("allow"), "GET, HEAD, PATCH");
}

#[test]
fn a_page_of_another_server_changes_nothing_whoever_looks_at_it() {
    let world = World::start("", "");
    let pause = |origin: &str| {
        let stream = support::dial_unix(&world.socket()).unwrap();
        let headers = format!("Origin: {origin}\r\nContent-Type: application/json\r\n");
        support::http::send_with(stream, "POST", "/api/v1/pools/orders/pause", &headers, "{}").unwrap()
    };
    for origin in ["http://evil.example", "null"] {
        let answer = pause(origin);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("cross_origin")), "{answer:?}");
    }
    let refused = world.audit();
    assert_eq!(refused.iter().filter(|event| event["detail"]["result"] == "cross_origin").count(), 2, "{refused:#?}");
    assert_eq!(pause("http://localhost").status, 200, "its own page may");
}

#[test]
fn a_page_whose_name_leads_to_a_forwarded_unix_socket_changes_nothing() {
    let world = World::start("", "");
    // A browser says what it took the page for: to it that is the very server that it speaks to.
    for origin in ["", "Origin: http://evil.example:7072\r\n"] {
        let mut stream = support::dial_unix(&world.socket()).unwrap();
        let head = format!("POST /api/v1/pools/orders/pause HTTP/1.0\r\nHost: evil.example:7072\r\n{origin}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 421 ") && answer.contains("misdirected_request"), "{answer}");
    }
    let refused = || world.audit().iter().filter(|e| e["detail"]["result"] == "misdirected_request").count();
    wait_until("both are in the audit trail", DEADLINE, || refused() == 2);
    assert_eq!(world.daemon.admin_get("/api/v1/pools/orders").json()["paused"], false);
}

#[test]
fn what_the_daemon_dials_for_others_has_none_of_its_rights() {
    let dir = tempfile::tempdir().unwrap();
    // There are ways to its own socket that no look at the path tells.
    std::os::unix::fs::symlink(dir.path(), dir.path().join("way")).unwrap();
    let door = format!(
        "[pools.other.backends.door]\naddress = \"unix:{}\"\npriority = 200\n",
        dir.path().join("way/admin.sock").display()
    );
    let world = World::in_dir(dir, "", &door, "info");
    world.daemon.wait_health("other", "door", "healthy");
    assert_eq!(world.root().send("POST", "/api/v1/pools/other/backends/b/drain", "{}").status, 200);
    // Whoever comes to the listener speaks to the admin socket now, as the daemon's own process.
    let send = |method: &str, path: &str| {
        let stream = support::dial(world.daemon.listener("other")).unwrap();
        support::http::send(stream, method, path, "{}").ok()
    };
    wait_for("the door is open", DEADLINE, || send("GET", "/healthz").filter(|answer| answer.status == 200));
    for (method, path) in [("POST", "/api/v1/pools/orders/pause"), ("GET", "/api/v1/pools"), ("GET", "/metrics")] {
        // Of one that is refused before its body was read, a reset may overtake the answer.
        let answer = wait_for("an answer", DEADLINE, || send(method, path));
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
    }
}

#[test]
fn whoever_may_register_backends_reaches_no_socket_with_the_daemons_rights() {
    let world = World::start("", "");
    // One that takes whoever is of its own user, as another daemon's admin server does.
    let near = world.dir.path().join("near.sock");
    let listening = std::os::unix::net::UnixListener::bind(&near).unwrap();
    listening.set_nonblocking(true).unwrap();
    let way = world.dir.path().join("..").join(world.dir.path().file_name().unwrap()).join("admin.sock");
    for (at, path) in [near, world.socket(), way].iter().enumerate() {
        let address = format!("unix:{}", path.display());
        let new = json!({ "name": "door", "address": address, "check": { "kind": "none" } }).to_string();
        let made = world.with("own").send("POST", "/api/v1/pools/orders/backends", &new);
        assert_eq!((made.status, &made.json()["code"]), (422, &json!("invalid_value")), "{made:?}");
        let fault = &made.json()["errors"][0];
        assert_eq!(fault["field"], "address", "{made:?}");
        assert!(fault["message"].as_str().unwrap().contains("belongs in the file"), "{made:?}");
        let name = format!("b{at}");
        let new = json!({ "name": name, "address": format!("127.0.0.1:{}", at + 1) }).to_string();
        assert_eq!(world.with("own").send("POST", "/api/v1/pools/orders/backends", &new).status, 201);
        let moved = json!({ "address": address }).to_string();
        let moved = world.with("own").send("PATCH", &format!("/api/v1/pools/orders/backends/{name}"), &moved);
        assert_eq!((moved.status, &moved.json()["errors"][0]["field"]), (422, &json!("address")), "{moved:?}");
    }
    assert!(listening.accept().is_err(), "nobody came");
}

#[test]
fn a_name_that_leads_to_the_admin_server_opens_no_door_to_it() {
    let world = World::start("", "");
    // The resolver takes it for 127.0.0.1, which no look at the name tells.
    let address = format!("0x7f000001:{}", world.loopback().port());
    let door = json!({ "name": "door", "address": address, "priority": 200 });
    let made = world.root().send("POST", "/api/v1/pools/other/backends", &door.to_string());
    assert_eq!(made.status, 201, "{made:?}");
    world.daemon.wait_health("other", "door", "healthy");
    assert_eq!(world.root().send("POST", "/api/v1/pools/other/backends/b/drain", "{}").status, 200);
    let send =
        |path: &str| support::http::send(support::dial(world.daemon.listener("other")).ok()?, "GET", path, "").ok();
    wait_for("the door is open", DEADLINE, || send("/healthz").filter(|answer| answer.status == 200));
    for path in ["/api/v1/pools", "/metrics", "/"] {
        let answer = wait_for("an answer", DEADLINE, || send(path));
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
    }
    let here = Caller { name: "here", bearer: None, by: world.tcp() };
    assert_eq!(here.send("GET", "/api/v1/pools", "").status, 200, "another process may");
}

#[test]
fn a_stream_ends_when_what_was_presented_counts_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let [keys, others] = ["a", "b"].map(|name| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        Keys::make(&dir.path().join(name), Algorithm::ES256)
    });
    let world = World::start("", &jwt_table("ES256", &keys.public));
    let mut stream = support::dial(world.loopback()).unwrap();
    let token = keys.sign(&claims(&json!({})));
    write!(
        stream,
        "GET /api/v1/events/stream?kind=pool.paused HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    let mut read_until = |what: &str| {
        let start = Instant::now();
        while !text.contains(what) {
            // What says that the connection lives comes more often than reads time out.
            assert!(start.elapsed() < DEADLINE, "no {what}: {text}");
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "over without {what}: {text}");
            text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
    };
    read_until("retry:");
    // The same key again takes nothing from anybody.
    world.reload("rate_limit = \"7/s\"\n", &jwt_table("ES256", &keys.public)).expect("taken");
    assert_eq!(world.root().send("POST", "/api/v1/pools/orders/pause", "{}").status, 200);
    read_until("event: pool.paused");
    world.reload("", &jwt_table("ES256", &others.public)).expect("taken");
    read_until("event: end");
}

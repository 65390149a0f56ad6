//! The files in `config/`, the reference and the schema.

use std::cell::RefCell;
use std::path::PathBuf;

use changeover::config::{SourceError, Sources, describe, json_schema, load, parse, reference};
use changeover::model::{
    Address, AgentCheck, BackendName, CheckKind, ExpectCheck, Failback, ListenerName, PoolName, StatusRange, StorePlan,
    WhenDown,
};

use super::{SECRET, file, good_files, read};

#[test]
fn every_file_that_comes_with_the_program_is_right() {
    let files = good_files();
    assert_eq!(files.len(), 11);
    for (path, text) in files {
        let plan = read(&text).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
        assert!(text.starts_with("# "), "{} says what it is for", path.display());
        let described = describe(&plan);
        for (name, pool) in &plan.pools {
            assert!(described.contains(&format!("pool {name}: ")), "{described}");
            for backend in &pool.backends {
                let is_looked_up = backend.tunnel.as_ref().is_some_and(|plan| plan.lookup.is_some());
                let place =
                    if is_looked_up { "an address that is looked up".to_owned() } else { backend.address.to_string() };
                assert!(described.contains(&place), "{described}");
            }
        }
        assert!(!described.contains(SECRET));
    }
}

/// A fresh machine, where nothing is set or there, and what was looked for on it.
#[derive(Default)]
struct Fresh(RefCell<Vec<String>>);

impl Sources for Fresh {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        // What systemd may set is looked for whatever the file says.
        if name != "STATE_DIRECTORY" {
            self.0.borrow_mut().push(name.to_owned());
        }
        Err(SourceError::Unset)
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        self.0.borrow_mut().push(path.to_owned());
        Err(SourceError::Unreadable("No such file or directory (os error 2)".to_owned()))
    }
}

#[test]
fn what_is_wanted_of_a_fresh_machine_is_said_at_the_top_of_the_file() {
    let mut wanting = 0;
    for (path, text) in good_files() {
        let (fresh, top) = (Fresh::default(), text.split("\n\n").next().unwrap());
        let is_right = parse("test.toml", &text, &fresh).is_ok();
        let looked_for = fresh.0.take();
        assert_eq!(is_right, looked_for.is_empty(), "{}: {looked_for:?}", path.display());
        assert_eq!(top.contains("\n# First: "), !is_right, "{}", path.display());
        for name in &looked_for {
            assert!(top.contains(name.as_str()), "{} does not say at its top that it takes {name}", path.display());
        }
        wanting += usize::from(!is_right);
    }
    assert_eq!(wanting, 5);
}

#[test]
fn the_reference_file_is_the_table_of_keys() {
    if std::env::var_os("CHANGEOVER_WRITE_REFERENCE").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml");
        std::fs::write(path, reference()).unwrap();
    }
    assert!(
        file("reference.toml") == reference(),
        "config/reference.toml is not what the table of keys says; run this test once with CHANGEOVER_WRITE_REFERENCE=1"
    );
}

#[test]
fn the_reference_file_changes_nothing() {
    let left_out = "
        [listeners.orders]
        bind = '127.0.0.1:6432'
        pool = 'orders'
        [pools.orders.backends.pg1]
        address = '10.0.0.1:5432'
    ";
    // What is for one kind of check stands behind # and may be given only if the check is of that kind.
    for (kind, keys) in [
        ("http", &["method", "path", "port", "expect"][..]),
        ("agent", &["port", "send"]),
        ("expect", &["send", "answer"]),
    ] {
        let text = reference().replace("\nkind = \"tcp\"\n# From one", &format!("\nkind = \"{kind}\"\n# From one"));
        let header = format!("[pools.orders.check.{kind}]");
        let (before, part) = text.split_once(&format!("\n# {header}")).unwrap();
        let (part, after) = part.split_once("\n\n").unwrap();
        let given = keys.iter().fold(part.to_owned(), |part, key| {
            assert!(part.contains(&format!("\n# {key} = ")), "{key} of {part}");
            part.replace(&format!("\n# {key} = "), &format!("\n{key} = "))
        });
        let full = format!("{before}\n{header}{given}\n\n{after}");
        let left_out = format!("{left_out}\n[pools.orders.check]\nkind = '{kind}'");
        assert_eq!(read(&full).map_err(|e| e.to_string()), read(&left_out).map_err(|e| e.to_string()));
    }
    assert_eq!(read(&reference()).map_err(|e| e.to_string()), read(left_out).map_err(|e| e.to_string()));
}

/// The keys of the part that the schema calls `part`.
fn properties(part: &str) -> Vec<(String, serde_json::Value)> {
    let schema = json_schema();
    let properties = schema["$defs"][part]["properties"].as_object().unwrap();
    properties.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn the_schema_knows_the_keys_of_the_reference_and_no_others() {
    let parts = [
        ("daemon", "[daemon]"),
        ("admin", "[admin]"),
        ("token", "[admin.tokens.ops]"),
        ("jwt", "[admin.jwt]"),
        ("tls", "[admin.tls]"),
        ("log", "[log]"),
        ("listener", "[listeners.orders]"),
        ("pool", "[pools.orders]"),
        ("check", "[pools.orders.check]"),
        ("http", "[pools.orders.check.http]"),
        ("agent", "[pools.orders.check.agent]"),
        ("expect", "[pools.orders.check.expect]"),
        ("failover", "[pools.orders.failover]"),
        ("sessions", "[pools.orders.failover.sessions]"),
        ("postgres", "[pools.orders.postgres]"),
        ("backend", "[pools.orders.backends.pg1]"),
        ("tunnel", "[pools.orders.backends.pg1.tunnel]"),
        ("address_lookup", "[pools.orders.backends.pg1.tunnel.lookup]"),
        ("tunnel_provider", "[tunnel_providers.x]"),
        ("tunnel_option", "[tunnel_providers.x.options.user]"),
        ("webhook", "[webhooks.pager]"),
    ];
    let text = reference();
    for (part, header) in parts {
        // A header may stand behind a # too, where the part is none of the defaults.
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start_matches("# ")).collect();
        let start = lines.iter().position(|line| *line == header).unwrap_or_else(|| panic!("{header}"));
        let written: Vec<&str> = lines[start + 1..]
            .iter()
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once(" = ").map(|(key, _)| key))
            .filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)))
            .collect();
        let known = properties(part);
        for key in &written {
            assert!(known.iter().any(|(name, _)| name == key), "{key} of {header} is not in the schema");
        }
        for (name, schema) in known {
            let is_table = (schema.get("$ref").is_some() && part != "backend")
                || schema["additionalProperties"].get("$ref").is_some();
            assert!(is_table || written.contains(&name.as_str()), "{name} is not in {header}");
            assert!(schema["description"].is_string(), "{name}");
        }
    }
    assert_eq!(json_schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn every_reference_in_the_schema_leads_somewhere() {
    let schema = json_schema();
    let mut rest = vec![&schema];
    let mut found = 0;
    while let Some(value) = rest.pop() {
        if let Some(object) = value.as_object() {
            if let Some(target) = object.get("$ref").and_then(|target| target.as_str()) {
                found += 1;
                assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            rest.extend(object.values());
        }
        rest.extend(value.as_array().into_iter().flatten());
    }
    assert!(found > 20, "{found}");
}

#[test]
fn a_backend_changes_single_keys_of_its_pools_check() {
    let plan = read(&file("http-check.toml")).unwrap();
    let pool = &plan.pools[&PoolName::from("orders")];
    let http = |at: usize| match &pool.backends[at].check.kind {
        CheckKind::Http(http) => http.clone(),
        CheckKind::Tcp
        | CheckKind::Agent(_)
        | CheckKind::Expect(_)
        | CheckKind::Tls
        | CheckKind::Command(_)
        | CheckKind::Postgres
        | CheckKind::None => {
            panic!("an http check")
        }
    };
    assert_eq!(pool.backends.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["pg1", "pg2", "pg3"]);
    assert_eq!((http(0).port, http(2).port), (8008, 8009));
    assert_eq!((http(2).method.as_str(), http(2).path.as_str()), ("GET", "/primary"));
    assert_eq!(http(2).expect, [StatusRange { first: 200, last: 200 }]);
    assert_eq!(http(2).authorization.map(|secret| secret.expose().to_owned()), Some(format!("Bearer {SECRET}")));
    assert_eq!(pool.backends[2].check.timeout.as_secs(), 5);
    assert_eq!(pool.backends[2].check.healthy_threshold, 1);
}

#[test]
fn the_short_form_is_an_order_of_preference() {
    let plan = read(&file("unix-sockets.toml")).unwrap();
    let pool = &plan.pools[&PoolName::from("local")];
    let mut backends: Vec<_> = pool.backends.iter().map(|b| (b.priority, b.name.clone())).collect();
    backends.sort();
    assert_eq!(
        backends,
        [(1, BackendName::from("unix:/run/postgresql/.s.PGSQL.5432")), (2, BackendName::from("db2.internal:5432"))]
    );
    assert_eq!(pool.hold.when_down, WhenDown::Refuse);
    assert_eq!(plan.admin.bind[1], "127.0.0.1:7073".parse::<Address>().unwrap());
    assert_eq!(plan.listeners[&ListenerName::from("local")].idle_timeout.as_secs(), 8 * 3600);
    let plan = read(&file("weighted.toml")).unwrap();
    assert_eq!(plan.pools[&PoolName::from("api")].failover.failback, Failback::Manual);
}

#[test]
fn a_plan_is_described_for_people() {
    let described = describe(&read(&file("http-check.toml")).unwrap());
    let wanted = "\
listener orders on 127.0.0.1:6432 -> pool orders
  closes idle sessions: never; half-closed ones: after 1m

pool orders: tcp, round-robin within a tier
  connect: up to 3 backends, 2s each; sent again without an answer: greeting
  when down: hold up to 1000 clients for 30s
  failover: automatic; failback: automatic after 10s
  sessions: dead close, unreachable close, check failed close, drained drain, left by failback keep
  tier 1 (priority 100)
    pg1 at 10.0.0.1:5432; check: GET /primary at port 8008 expecting 200, authorization [secret] every 1s, timeout 3s, unhealthy after 2, healthy after 1
";
    assert!(described.contains(wanted), "{described}");
}

/// A pool of three with a check of each kind that does not ask over the network alone.
const CHECKS: &str = "
    [listeners.l]
    bind = '127.0.0.1:1'
    pool = 'p'
    [pools.p.check]
    kind = 'command'
    max_latency = '500ms'
    recovery_attempts = 5
    recovery_backoff = '1s'
    command = ['/usr/lib/x/check', '--at={host}', '{port}', '{{}}', { env = 'DATABASE_URL' }]
    [pools.p.backends.a]
    address = '[::1]:1'
    [pools.p.backends.b]
    address = 'b.internal:2'
    check = { kind = 'agent', agent = { port = 7000, send = \"p/b\\n\" } }
    [pools.p.backends.c]
    address = 'c:3'
    check = { kind = 'none' }
    [pools.p.backends.e]
    address = 'e:5'
    check = { kind = 'expect', expect = { send = \"PING\\r\\n\", answer = '+PONG' } }
    [pools.p.backends.f]
    address = 'f:6'
    check = { kind = 'expect' }
    [pools.p.backends.g]
    address = 'g:7'
    check = { kind = 'tls' }
    [pools.p.backends.d]
    address = 'unix:/run/d'
    check = { command = ['/d', '{host}', '{pool}/{backend}', '{address}'] }
";

#[test]
fn each_kind_of_check_is_its_own_for_each_backend() {
    let plan = read(CHECKS).unwrap();
    let pool = &plan.pools[&PoolName::from("p")];
    let check = |at: usize| &pool.backends[at].check;
    let argv = |at: usize| match &check(at).kind {
        CheckKind::Command(command) => command.argv.iter().map(|word| word.expose().to_owned()).collect::<Vec<_>>(),
        kind @ (CheckKind::Tcp
        | CheckKind::Http(_)
        | CheckKind::Agent(_)
        | CheckKind::Expect(_)
        | CheckKind::Tls
        | CheckKind::Postgres
        | CheckKind::None) => {
            panic!("{kind:?}")
        }
    };
    let url = format!("postgres://user:{SECRET}@db");
    assert_eq!(argv(0), ["/usr/lib/x/check", "--at=::1", "1", "{}", &url]);
    assert_eq!(argv(3), ["/d", "/run/d", "p/d", "unix:/run/d"]);
    assert_eq!(check(1).kind, CheckKind::Agent(AgentCheck { port: 7000, send: "p/b\n".to_owned() }));
    assert_eq!(check(2).kind, CheckKind::None);
    let expect = |send: &str, answer: &str| ExpectCheck { send: send.to_owned(), answer: answer.to_owned() };
    assert_eq!(check(4).kind, CheckKind::Expect(expect("PING\r\n", "+PONG")));
    assert_eq!(check(5).kind, CheckKind::Expect(expect("", "")));
    assert_eq!(check(6).kind, CheckKind::Tls);
    for check in [check(0), check(1), check(3)] {
        assert_eq!((check.recovery_attempts, check.recovery_backoff.as_secs()), (5, 1));
        assert_eq!(check.max_latency.map(|limit| limit.as_millis()), Some(500));
    }
    assert!(!format!("{plan:?}").contains(SECRET));
}

#[test]
fn what_may_hold_a_key_of_a_check_is_not_described() {
    for (kind, table) in [
        ("http", format!("http = {{ path = '/up?token={SECRET}' }}")),
        ("agent", format!("agent = {{ send = '{SECRET}' }}")),
        ("agent", "agent = { send = { env = 'DATABASE_URL' } }".to_owned()),
        ("agent", "agent = { send = { file = '/etc/changeover/orders.pw' } }".to_owned()),
        ("expect", format!("expect = {{ send = '{SECRET}', answer = '{SECRET}' }}")),
        ("expect", "expect = { send = { env = 'DATABASE_URL' } }".to_owned()),
    ] {
        let text = format!(
            "[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'p'\n[pools.p]\nbackends = ['10.0.0.1:1']\n\
             [pools.p.check]\nkind = '{kind}'\n{table}\n"
        );
        let described = describe(&read(&text).unwrap());
        assert!(!described.contains(SECRET), "{described}");
        let wanted = match kind {
            "http" => "HEAD /up?[not shown] expecting",
            "agent" => "agent, sent ",
            _ => "expect, sent ",
        };
        assert!(described.contains(wanted), "{described}");
    }
}

#[test]
fn each_kind_of_check_is_described_and_no_secret_with_it() {
    let described = describe(&read(CHECKS).unwrap());
    let rest = "every 1s, timeout 5s, slow above 500ms, unhealthy after 3, healthy after 2, \
                given up after 5 more failures with doubling waits from 1s\n";
    for line in [
        format!("a at [::1]:1; check: command /usr/lib/x/check --at=::1 1 {{}} [secret] {rest}"),
        format!("b at b.internal:2; check: agent at port 7000, sent 4 bytes, {rest}"),
        "c at c:3; check: none, it is taken to be fit\n".to_owned(),
        format!("e at e:5; check: expect, sent 6 bytes, an answer of 5 bytes, {rest}"),
        format!("f at f:6; check: expect, any answer, {rest}"),
        format!("g at g:7; check: tls handshake {rest}"),
        format!("d at unix:/run/d; check: command /d /run/d p/d unix:/run/d {rest}"),
    ] {
        assert!(described.contains(&line), "{line}\n{described}");
    }
}

/// An environment in which systemd made a directory.
struct Systemd;

impl Sources for Systemd {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        if name == "STATE_DIRECTORY" {
            Ok("/var/lib/changeover:/var/lib/b".to_owned())
        } else {
            Err(SourceError::Unset)
        }
    }

    fn file(&self, _: &str) -> Result<String, SourceError> {
        Err(SourceError::NotText)
    }
}

#[test]
fn state_is_kept_where_the_file_says_else_where_systemd_says_else_nowhere() {
    let text = "[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nbackends = ['10.0.0.1:1']\n[daemon]\n";
    let plan = read(text).unwrap();
    assert_eq!(plan.daemon.store, StorePlan::default());
    assert!(describe(&plan).contains("\nstate: in memory only"), "{}", describe(&plan));
    let plan = parse("test.toml", text, &Systemd).unwrap();
    assert_eq!(plan.daemon.store.state_dir, Some(PathBuf::from("/var/lib/changeover")));
    let plan = parse("test.toml", &format!("{text}state_dir = '/srv/x'\nhistory_max_age = '48h'"), &Systemd).unwrap();
    assert_eq!(plan.daemon.store.state_dir, Some(PathBuf::from("/srv/x")));
    let line = "\nstate: in /srv/x; history kept for 48h, up to 65536 KiB\n";
    assert!(describe(&plan).contains(line), "{}", describe(&plan));
}

#[test]
fn limits_and_the_proxy_protocol_are_described() {
    let text = "
        [listeners.l]
        bind = '127.0.0.1:1'
        pool = 'p'
        max_connections = 100
        max_connections_per_client = 10
        connection_rate_per_client = '30/min'
        allow = ['10.0.0.0/8', '192.0.2.7']
        deny = ['10.1.0.0/16']
        accept_proxy_protocol = true
        proxy_protocol_from = ['::1']
        [pools.p]
        source_address = '10.0.0.9'
        [pools.p.backends.b]
        address = '10.0.0.1:1'
        send_proxy_protocol = 'v2'
    ";
    let described = describe(&read(text).unwrap());
    for line in [
        "\n  connections: at most 100 at once, 10 of each client, 30 of each client in 1m\n",
        "\n  allows only 10.0.0.0/8, 192.0.2.7/32\n  denies 10.1.0.0/16\n  expects the PROXY protocol from ::1/128\n",
        "\n    b at 10.0.0.1:1, dialled from 10.0.0.9, PROXY protocol v2; check: tcp connect every 1s",
    ] {
        assert!(described.contains(line), "{described}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let message = load(&path).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}:1:1: cannot read", path.display())), "{message}");
    assert!(message.contains("--config"), "{message}");
    assert!(load(folder.path()).unwrap_err().to_string().contains("cannot read"));
    std::fs::write(&path, b"# caf\xc3\xa9\n[daemon]\nx = \"\xff\"\n").unwrap();
    let message = load(&path).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}:3:6: this is not UTF-8", path.display())), "{message}");
    std::fs::write(&path, file("two-backends.toml")).unwrap();
    assert!(load(&path).is_ok());
    std::fs::write(&path, vec![b'#'; (16 << 20) + 1]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("larger than 16 MiB"));
}

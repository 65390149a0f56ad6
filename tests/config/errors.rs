//! Bad files, and where and how their errors are reported.

use std::fmt::Write;

use super::{SECRET, read};

/// A file that is right, to put something wrong into.
const LISTENER: &str = "[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'p'\n";
const POOL: &str = "[pools.p]\nbackends = ['10.0.0.1:1']\n";

/// The errors as `LINE:COLUMN message`.
fn errors(text: &str) -> Vec<String> {
    let Err(errors) = read(text) else { return Vec::new() };
    errors.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect()
}

/// Each is put behind a right file of five lines, so that it begins in line 6.
const BEHIND: &[(&str, &[&str])] = &[
    ("[deamon]", &["6:2 unknown key `deamon`; did you mean `daemon`?"]),
    ("[daemon]\nworker = 1", &["7:1 unknown key `worker` in [daemon]; did you mean `workers`?"]),
    ("[daemon]\nstatus = '/x'", &["7:1 unknown key `status` in [daemon]; known are `workers`, "]),
    ("[daemon]\nstate_dir = 'state'", &["7:13 `state_dir`: `state` is no absolute path; write one that begins with /"]),
    ("[daemon]\nstate_dir = 5", &["7:13 `state_dir` takes the absolute path of a directory in quotes"]),
    ("[daemon]\nhistory_max_age = '30d'", &["7:19 `history_max_age`: `30d` is no duration"]),
    ("[daemon]\nhistory_max_size = '1KiB'", &["7:20 `history_max_size`: `1KiB` is not between \"64KiB\""]),
    ("[daemon]\nworkers = 'x'", &["7:11 `workers` takes a whole number from 0 to 1024, not `x`"]),
    ("[daemon]\nworkers = 1025", &["7:11 `workers` takes a whole number from 0 to 1024, not `1025`"]),
    ("[daemon]\nworkers = -1", &["not `-1`"]),
    ("[daemon]\nworkers = 0xffff", &["not `65535`"]),
    ("[daemon]\nworkers = 99999999999999999999", &["not `99999999999999999999`"]),
    ("[daemon]\nworkers = 1.5", &["7:11 `workers` takes a whole number from 0 to 1024, not a float"]),
    ("[daemon]\nworkers = { env = 'N' }", &["7:11 `workers` takes a whole number"]),
    ("[daemon]\ndrain_timeout = 30", &["7:17 `drain_timeout`: `30` has no unit; write \"30s\" for seconds"]),
    ("[daemon]\ndrain_timeout = '30'", &["7:17 `drain_timeout`: `30` has no unit; write ms, s, m or h"]),
    ("[daemon]\ndrain_timeout = '-1s'", &["is negative"]),
    ("[daemon]\nrelay_buffer = '2MiB'", &["7:16 `relay_buffer`: `2MiB` is not between \"4KiB\" and \"1MiB\""]),
    ("[log]\nformat = 'journald'", &["7:10 `format` takes one of \"auto\", \"text\" or \"json\", not `journald`"]),
    ("[log]\nlevel = 'inof'", &["did you mean \"info\"?"]),
    ("[log]\nlevel = { env = 'NO' }", &["7:9 `level`: the environment variable `NO` is not set; set it, or"]),
    ("[log]\nlevel = { file = '/no' }", &["7:9 `level`: the file `/no` cannot be read: No such file"]),
    ("[log]\nlevel = { file = '/binary' }", &["the file `/binary` is not UTF-8 text"]),
    ("[log]\nlevel = { enw = 'NO' }", &["7:9 `level` takes one of"]),
    (
        "[log]\nlevel = { env = 'NO', file = 'x' }",
        &["{ env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" } in its place"],
    ),
    ("[admin]\nbind = 'localhost:80'", &["7:8 `bind`: `localhost:80` is a host name", "write \"127.0.0.1:80\""]),
    ("[admin]\nbind = '127.0.0.1'", &["has no port; write HOST:PORT"]),
    ("[admin]\nbind = 'unix:run'", &["begins with /"]),
    ("[admin]\nbind = []", &["7:8 `bind` has 0 addresses"]),
    ("[admin]\nbind = ['127.0.0.1:1', 5]", &["7:24 `bind` takes \"IP:PORT\""]),
    ("[admin]\nbind = '127.0.0.1:1000'", &["7:8 `bind` of [admin]: [listeners.l] listens on 127.0.0.1:1000 already"]),
    ("[admin]\nbind = '0.0.0.0:1000'", &["7:8 `bind` of [admin]: [listeners.l] listens on 127.0.0.1:1000 already"]),
    ("[listeners.m]\nbind = '127.0.0.1:7072'\npool = 'p'", &["7:8 `bind` of [listeners.m]: [admin] listens on"]),
    ("[listeners.m]\nbind = '[::ffff:127.0.0.1]:1000'\npool = 'p'", &["7:8 `bind` of [listeners.m]: [listeners.l]"]),
    (
        "[pools.q]\nbackends = ['127.0.0.1:7072']",
        &["7:13 backend `127.0.0.1:7072` is at 127.0.0.1:7072, where [admin]"],
    ),
    ("[pools.q]\nbackends = ['LocalHost.:7072']", &["where [admin] itself listens (127.0.0.1:7072)"]),
    ("[pools.q]\nbackends = ['0.0.0.0:7072']", &["where [admin] itself listens (127.0.0.1:7072)"]),
    (
        "[admin]\nbind = ['0.0.0.0:7072', 'unix:/run/a.sock']\n[pools.q.backends]\na.address = '127.0.0.9:7072'\n\
         b.address = 'unix:/run//./a.sock'\nc.address = '10.0.0.1:7072'",
        &["9:13 backend `a` is at 127.0.0.9:7072, where", "10:13 backend `b` is at unix:/run//./a.sock, where [admin]"],
    ),
    ("[listeners.m]\npool = 'p'", &["6:1 [listeners.m] has no `bind`; write bind = \"127.0.0.1:6432\""]),
    ("[listeners.m]\nbind = '127.0.0.1:2'", &["6:1 [listeners.m] has no `pool`; write pool = "]),
    ("[listeners.m]\nbind = '127.0.0.1:2'\npool = 'q'", &["8:8 `pool`: there is no pool `q`; did you mean \"p\"?"]),
    ("[listeners.m]\nbind = '127.0.0.1:2'\npool = 'other'", &["8:8 `pool`: there is no pool `other`; there is \"p\""]),
    ("[listeners.'a b']\nbind = '127.0.0.1:2'\npool = 'p'", &["6:12 `a b` is no name for an entry of [listeners]"]),
    ("[listeners.'']\nbind = '127.0.0.1:2'\npool = 'p'", &["6:12 `` is no name"]),
    ("[[listeners.m]]", &["6:1 `listeners.m` is a table, not an array"]),
    ("[pools.q]", &["6:1 [pools.q] has no `backends`; write backends = "]),
    ("[pools.q]\nbackends = []", &["7:12 [pools.q] has no backends"]),
    ("[pools.q]\nbackends = '10.0.0.1:1'", &["7:12 `backends` takes a list of addresses"]),
    ("[pools.q]\nbackends = [{ address = 'a:1' }]", &["7:13 `backends` takes", "[pools.NAME.backends.NAME]"]),
    (
        "[pools.q]\nbackends = ['a:1', 'é', 'A:1', 'a:0']",
        &[
            "7:20 `backends`: `é` is no address",
            "7:25 `a:1` is already the address of backend `a:1` in [pools.q]",
            "7:32 `backends`: `a:0` has port 0",
        ],
    ),
    ("[pools.q.backends.a]", &["6:1 [pools.q.backends.a] has no `address`"]),
    ("[pools.q.backends]\na = '10.0.0.1:1'", &["7:5 `pools.q.backends.a` is a table, not a string"]),
    (
        "[pools.q.backends.a]\naddress = 'a:1'\nweight = 0",
        &["8:10 `weight` takes a whole number from 1 to 1000, not `0`"],
    ),
    (
        "[pools.q]\nkind = 'postgre'\nbackends = ['a:1']\ncheck = { kind = 'postgres' }\npostgres = { user = 'x' }",
        &["7:8 `kind` takes one of \"tcp\" or \"postgres\", not `postgre`; did you mean \"postgres\"?"],
    ),
    (
        "[pools.p.check]\nkind = 'htpt'\nhttp = { path = '/' }",
        &[
            "7:8 `kind` takes one of \"tcp\", \"http\", \"expect\", \"tls\", \"agent\", \"command\", \"postgres\" or \"none\", \
             not `htpt`; did you mean \"http\"?",
        ],
    ),
    ("[pools.p.check]\nhttp = { path = '/' }", &["7:8 [pools.p.check.http] is given, but the check's kind is \"tcp\""]),
    (
        "[pools.p.check]\nkind = 'tcp'\nagent = { port = 1 }\ncommand = ['/x']",
        &[
            "8:9 [pools.p.check.agent] is given, but the check's kind is \"tcp\"; write kind = \"agent\" in [pools.p.check]",
            "9:11 [pools.p.check.command] is given, but the check's kind is \"tcp\"; write kind = \"command\"",
        ],
    ),
    (
        "[pools.p.check]\nkind = 'command'\nhttp = { path = '/' }\ncommand = ['/x']",
        &["8:8 [pools.p.check.http] is given, but the check's kind is \"command\""],
    ),
    (
        "[pools.p.check]\nkind = 'none'\ninterval = '1s'\nmax_latency = '1s'\nrecovery_interval = '1s'",
        &[
            "8:12 `interval` is given, but the check's kind is \"none\", which asks nothing; leave it out",
            "9:15 `max_latency` is given",
        ],
    ),
    (
        "[pools.p.check]\nkind = 'command'",
        &["7:8 the check's kind is \"command\", but there is none; write command = [\"/usr/lib/x/check\", "],
    ),
    ("[pools.p.check]\nkind = 'command'\ncommand = '/x {host}'", &["8:11 `command` takes a list of strings"]),
    ("[pools.p.check]\nkind = 'command'\ncommand = []", &["8:11 `command` has 0 words; write from 1 to 64"]),
    (
        "[pools.p.check]\nkind = 'command'\ncommand = ['check', '{host}']",
        &["8:12 `command`: `check` is no absolute path; the program is not searched for, write where it is"],
    ),
    ("[pools.p.check]\nkind = 'command'\ncommand = ['{host}/x']", &["8:12 `command`: `{host}/x` is no absolute path"]),
    (
        "[pools.p.check]\nkind = 'command'\ncommand = ['/x', '{prot}', '{', 5]",
        &[
            "8:18 `command`: `{prot}` has `{prot}`, which is unknown; did you mean {port}?",
            "8:28 `command`: `{` has a single `{`; write {{",
            "8:33 `command` takes a list of strings, the program's path first, not `5`",
        ],
    ),
    (
        "[pools.q]\nbackends = ['unix:/a', 'a:1']\ncheck = { kind = 'command', command = ['/x', '{port}'] }",
        &["7:13 backend `unix:/a` listens on a Unix socket, which has no {port} for its check's `command`"],
    ),
    (
        "[pools.q]\ncheck = { kind = 'command' }\n[pools.q.backends.a]\naddress = 'a:1'\n\
         check = { command = ['/x'] }\n[pools.q.backends.b]\naddress = 'b:1'",
        &["7:18 the check's kind is \"command\", but there is none"],
    ),
    (
        "[pools.p.check]\nkind = 'agent'\nagent = { port = 65536 }",
        &["8:18 `port` takes a whole number from 0 to 65535"],
    ),
    (
        "[pools.p.check]\nkind = 'tls'\nexpect = { answer = 'x' }",
        &[
            "8:10 [pools.p.check.expect] is given, but the check's kind is \"tls\"; write kind = \"expect\" in [pools.p.check]",
        ],
    ),
    ("[pools.p.check]\nkind = 'expect'\nexpect = { anwser = 'x' }", &["did you mean `answer`?"]),
    ("[pools.p.check]\nkind = 'agent'\nagent = { sned = 'x' }", &["did you mean `send`?"]),
    (
        "[pools.p.check]\nmax_latency = '5s'",
        &["7:15 `max_latency`: 5s is no less than `timeout` (5s), after which there is no answer to judge"],
    ),
    ("[pools.p.check]\nmax_latency = '2s'\ntimeout = '1s'", &["7:15 `max_latency`: 2s is no less than `timeout` (1s)"]),
    ("[pools.p.check]\nrecovery_attempts = -1", &["7:21 `recovery_attempts` takes a whole number from 0 to 1000"]),
    ("[pools.p.check]\nrecovery_backoff = '1ms'", &["7:20 `recovery_backoff`: `1ms` is too short"]),
    (
        "[pools.p.check]\nkind = 'http'\nhttp = { tls = true }",
        &["8:10 unknown key `tls` in [pools.p.check.http]; known are `method`"],
    ),
    (
        "[pools.p.check]\nkind = 'http'\nhttp = { method = 'get', path = 'x', expect = '2xx' }",
        &["8:19 `method`: `get` is no HTTP", "8:33 `path`: `x` is no path", "8:47 `expect`: `2xx` is no list"],
    ),
    (
        "[pools.p.check]\nkind = 'http'\nhttp = { path = \"/a\\r\\nX: y\" }",
        &["8:17 `path`: `/a\\r\\nX: y` is no path of a URL"],
    ),
    ("[daemon]\ntcp_keepalive = '500ms'", &["7:17 `tcp_keepalive` is out of bounds; write \"0s\" for never, or from"]),
    ("[daemon]\ntcp_keepalive = '10h'", &["7:17 `tcp_keepalive` is out of bounds"]),
    (
        "[pools.q]\nsource_address = 'eth0'\nbackends = ['a:1']",
        &["7:18 `source_address`: `eth0` is no IP address; write one of this machine, without a port"],
    ),
    (
        "[pools.q]\nsource_address = '::'\nbackends = ['a:1']",
        &["7:18 `source_address`: `::` is no address of a machine"],
    ),
    (
        "[pools.q]\nsource_address = '::1'\nbackends = ['10.0.0.1:1', '[::1]:1', 'a:1', 'unix:/a']",
        &["8:13 backend `10.0.0.1:1` cannot be dialled from `source_address`: one is IPv4, the other IPv6"],
    ),
    (
        "[pools.q.backends.a]\naddress = 'a:1'\nsend_proxy_protocol = 'V2'",
        &["8:23 `send_proxy_protocol` takes one of \"none\", \"v1\" or \"v2\", not `V2`; did you mean \"v2\"?"],
    ),
    (
        "[listeners.m]\nbind = '127.0.0.1:2'\npool = 'p'\nbusy_poll = '2ms'",
        &["9:13 `busy_poll` is too long; \"1ms\" is the most"],
    ),
    ("[pools.p.check]\ninterval = '1ms'", &["7:12 `interval`: `1ms` is too short; it must be at least \"10ms\""]),
    ("[pools.p.check]\nunhealthy_threshold = 0", &["7:23 `unhealthy_threshold` takes a whole number from 1 to 1000"]),
    ("[pools.p.failover]\nautomatic = 'yes'", &["7:13 `automatic` takes true or false, not `yes`"]),
    ("[pools.p.failover.sessions]\ndemotd = 'close'", &["7:1 unknown key `demotd`", "did you mean `demoted`?"]),
    (
        "[pools.p.failover.sessions]\ndead = 'kill'",
        &["7:8 `dead` takes one of \"keep\", \"drain\" or \"close\", not `kill`"],
    ),
    ("[daemon]\nworkers = 1\nworkers = 2", &["8:1 this is not TOML: duplicate key"]),
    (
        "[daemon]\nworkers = \n[log]\nlevel = 'x",
        &["7:11 this is not TOML: a value is missing", "9:11 this is not TOML: invalid literal string"],
    ),
];

#[test]
fn every_error_is_at_its_place_and_says_what_would_be_right() {
    assert_eq!(errors(&format!("{LISTENER}{POOL}")), Vec::<String>::new());
    let mut wrong = String::new();
    for (text, wanted) in BEHIND {
        let found = errors(&format!("{LISTENER}{POOL}{text}"));
        let matched = wanted.iter().all(|part| found.iter().any(|error| error.contains(part)));
        // Parts of one message may be wanted; there are never more messages than parts.
        if !matched || found.len() > wanted.len() {
            let _ = writeln!(wrong, "{text}\n  wanted {wanted:#?}\n  found {found:#?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Each stands in a listener, as its fourth line.
const IN_A_LISTENER: &[(&str, &[&str])] = &[
    ("max_connections = '10'", &["4:19 `max_connections` takes a whole number from 0 to 10000000, not `10`"]),
    ("max_conections = 10", &["4:1 unknown key `max_conections`", "did you mean `max_connections`?"]),
    (
        "connection_rate_per_client = 100",
        &["4:30 `connection_rate_per_client` takes a rate in quotes such as \"100/s\""],
    ),
    ("connection_rate_per_client = '100'", &["4:30 `connection_rate_per_client`: `100` has no time; write \"100/s\""]),
    ("connection_rate_per_client = '1/h'", &["`1/h` is no rate; behind the / stands s or min"]),
    ("connection_rate_per_client = '1.5/s'", &["`1.5/s` is no rate; before the / stands a whole number"]),
    ("connection_rate_per_client = '0/s'", &["`0/s` would let nobody in; write \"0\" for no limit"]),
    ("connection_rate_per_client = '1000001/s'", &["a whole number from 1 to 1000000"]),
    ("allow = '10.0.0.0/8'", &["4:9 `allow` takes a list of networks and IP addresses such as [\"10.0.0.0/8\"], not"]),
    ("allow = ['10.0.0.1/8']", &["4:10 `allow`: `10.0.0.1/8` has bits set behind its prefix; write \"10.0.0.0/8\""]),
    ("allow = ['::ffff:10.0.0.1/104']", &["has bits set behind its prefix; write \"10.0.0.0/8\""]),
    ("deny = ['10.0.0.0/33']", &["4:9 `deny`: `10.0.0.0/33` is neither a network such as"]),
    ("deny = ['example.com', 5]", &["4:9 `deny`: `example.com` is neither", "4:24 `deny` takes a list of networks"]),
    (
        "deny = [{ env = 'DATABASE_URL' }]",
        &["4:9 `deny`: the value of the environment variable `DATABASE_URL` (not shown)"],
    ),
    ("accept_proxy_protocol = 'v2'", &["4:25 `accept_proxy_protocol` takes true or false, not `v2`"]),
    (
        "proxy_protocol_from = ['10.0.0.1']",
        &["4:23 `proxy_protocol_from` is given, but no header is expected; write accept_proxy_protocol = true"],
    ),
];

#[test]
fn a_wrong_limit_is_answered_with_a_right_one() {
    for (text, wanted) in IN_A_LISTENER {
        let found = errors(&format!("{LISTENER}{text}\n{POOL}"));
        let matched = wanted.iter().all(|part| found.iter().any(|error| error.contains(part)));
        assert!(matched && found.len() <= wanted.len(), "{text}\n  wanted {wanted:#?}\n  found {found:#?}");
    }
    let networks: Vec<String> = (0..1001).map(|_| "'10.0.0.1'".to_owned()).collect();
    let found = errors(&format!("{LISTENER}allow = [{}]\n{POOL}", networks.join(",")));
    assert_eq!(found, ["4:9 `allow` has 1001 networks; 1000 is the most"]);
}

#[test]
fn a_file_without_listeners_has_nothing_to_do() {
    for text in ["", "\n\n", POOL, "# only a comment"] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("1:1 nothing to do: there is no [listeners.NAME]"), "{found:?}");
    }
}

#[test]
fn all_errors_come_at_once_in_order() {
    let text = "\
[listeners.l]
bind = 'localhost:1'
pool = 'orderz'

[daemon]
workers = 'many'
drain_timeout = '30'

[pools.orders]
backends = ['10.0.0.1']
hodl = '5s'
[pools.orders.check]
interval = 'fast'
";
    let found = errors(text);
    let places: Vec<&str> = found.iter().map(|error| error.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["2:8", "3:8", "6:11", "7:17", "10:13", "11:1", "13:12"], "{found:#?}");
    assert!(found[1].ends_with("there is no pool `orderz`; did you mean \"orders\"?"), "{}", found[1]);
    assert!(found[5].ends_with("did you mean `hold`?"), "{}", found[5]);
}

#[test]
fn an_error_is_shown_with_its_line() {
    let printed = read(&format!("{LISTENER}{POOL}[daemon]\nworkers = 'é' # two\n")).unwrap_err().to_string();
    assert_eq!(
        printed,
        "test.toml:7:11: `workers` takes a whole number from 0 to 1024, not `é`\n  |\n7 | workers = 'é' # two\n  |           ^^^"
    );
}

#[test]
fn a_pool_does_not_connect_to_its_own_listener() {
    let cases = [
        ("127.0.0.1:1000", "127.0.0.1:1000", true),
        ("0.0.0.0:1000", "127.0.0.1:1000", true),
        ("127.0.0.1:1000", "localhost:1000", true),
        ("[::]:1000", "[::1]:1000", true),
        ("unix:/run/a", "unix:/run/a", true),
        ("unix:/run/a", "unix:/run/b", false),
        ("0.0.0.0:1000", "10.0.0.1:1000", false),
        ("127.0.0.1:1000", "127.0.0.1:1001", false),
        ("127.0.0.1:1000", "127.0.0.2:1000", false),
    ];
    for (bind, backend, is_loop) in cases {
        let text = format!("[listeners.l]\nbind = '{bind}'\npool = 'p'\n[pools.p]\nbackends = ['{backend}']");
        let found = errors(&text);
        assert_eq!(found.len(), usize::from(is_loop), "{bind} {backend}: {found:?}");
        assert!(!is_loop || found[0].contains("5:13 ") && found[0].contains("connect to itself"), "{found:?}");
    }
    let chained = "[listeners.a]\nbind = '127.0.0.1:1'\npool = 'a'\n[listeners.b]\nbind = '127.0.0.1:2'\npool = 'b'\n\
                   [pools.a]\nbackends = ['127.0.0.1:2']\n[pools.b]\nbackends = ['10.0.0.1:1']";
    assert_eq!(errors(chained), Vec::<String>::new());
}

#[test]
fn port_0_is_listened_on_as_often_as_one_likes() {
    let text = "[listeners.a]\nbind = ['127.0.0.1:0', '127.0.0.1:0']\npool = 'p'\n[listeners.b]\nbind = '0.0.0.0:0'\npool = 'p'\n";
    assert_eq!(errors(&format!("{text}{POOL}")), Vec::<String>::new());
}

#[test]
fn texts_may_come_from_elsewhere() {
    let text = "[listeners.l]\nbind = '127.0.0.1:1'\npool = { env = 'POOL' }\n[pools.orders]\nbackends = ['a:1']";
    assert_eq!(errors(text), Vec::<String>::new());
}

#[test]
fn no_secret_is_ever_printed() {
    let http = "[pools.p.check]\nkind = 'http'\n";
    let broken = [
        format!("{http}http = {{ path = 'x', authorization = 'Bearer {SECRET}' }}"),
        format!("{http}http = {{ authorization = 'Bearer {SECRET}', port = 'x' }}"),
        format!("{http}http = {{ authorisation = 'Bearer {SECRET}' }}"),
        format!("{http}http = {{ authorization = \"Bearer {SECRET}\\r\\nX: y\" }}"),
        format!("{http}http = {{ authorization = ['{SECRET}', {{ env = '{SECRET}' }}] }}"),
        format!("{http}http = {{ authorization = {{ secret = '{SECRET}' }} }}"),
        format!("{http}http = 'authorization: {SECRET}'"),
        format!("{http}[pools.p.check.http]\nauthorization = 'Bearer {SECRET}"),
        format!("{http}[pools.p.check.http]\nauthorization = Bearer {SECRET}"),
        format!("{http}[pools.p.check.http]\nauthorization 'Bearer {SECRET}'"),
        format!("{http}[pools.p.check.http]\nauthorization = '''Bearer\n{SECRET}"),
        format!("{http}[pools.p.check.http]\nauthorization = \"\"\"\nBearer {SECRET} \\q\n\"\"\""),
        format!("{http}[pools.p.check.http]\npasword = '{SECRET}' x"),
        format!("[[[\n{http}http = {{ authorization = '{SECRET}' }}"),
        "[daemon]\ndrain_timeout = { env = 'DATABASE_URL' }".to_owned(),
        "[listeners.m]\nbind = { env = 'DATABASE_URL' }\npool = { env = 'DATABASE_URL' }".to_owned(),
        "[pools.q]\nbackends = [{ env = 'DATABASE_URL' }]".to_owned(),
        format!("{http}http = {{ path = {{ file = '/etc/changeover/patroni-authorization' }} }}"),
    ];
    for text in broken {
        let errors = read(&format!("{LISTENER}{POOL}{text}")).unwrap_err();
        assert!(!errors.to_string().contains(SECRET), "{errors}");
        assert!(!format!("{errors:?}").contains(SECRET), "{errors:?}");
    }
}

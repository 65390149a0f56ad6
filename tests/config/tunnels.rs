//! Tunnels: what each provider comes to, what is wrong with one and where that is said, and that no secret is shown.

use std::fmt::Write;
use std::time::Duration;

use changeover::config::{Document, Sources, describe, explain_tunnel, parse, reference};
use changeover::model::{
    Attach, BackendPlan, CheckKind, Filling, LookupSource, Part, Plan, PoolName, Text, TunnelPlan,
};

use super::malformed::mutate;
use super::{Fake, SECRET, file, read};

/// What stands before the tunnel of backend `b`, of which it is line 5 on.
const BEFORE: &str = "[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'p'\n[pools.p.backends.b.tunnel]\n";

/// A file with that tunnel.
fn with(tunnel: &str) -> String {
    format!("{BEFORE}{tunnel}\n")
}

fn plan_of(tunnel: &str) -> Plan {
    read(&with(tunnel)).unwrap_or_else(|errors| panic!("{tunnel}:\n{errors}"))
}

fn backend(plan: &Plan) -> &BackendPlan {
    &plan.pools[&PoolName::from("p")].backends[0]
}

fn tunnel(text: &str) -> TunnelPlan {
    backend(&plan_of(text)).tunnel.as_deref().unwrap().clone()
}

fn shown(texts: &[Text]) -> String {
    texts.iter().map(Text::to_string).collect::<Vec<_>>().join(" ")
}

/// The command line, without what was looked up.
fn argv(text: &str) -> String {
    shown(&tunnel(text).program.unwrap().argv)
}

/// The environment, likewise.
fn env(text: &str) -> String {
    let program = tunnel(text).program.unwrap();
    program.env.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
}

const SSH: &str = "ssh -F none -o BatchMode=yes -o ExitOnForwardFailure=yes -o ServerAliveInterval=5 \
                   -o ServerAliveCountMax=3 -o ConnectTimeout=10 -o TCPKeepAlive=yes -o ControlMaster=no -o ControlPath=none \
                   -o StrictHostKeyChecking=yes";

/// A tunnel, and its command line.
const COMMAND_LINES: &[(&str, &str)] = &[
    (
        "provider = 'ssh'\ntarget = 'db:5432'\noptions = { host = 'bastion', user = 'tun', port = 2222, \
         identity_file = '/id', known_hosts = '/kh', jump = 'outer', compression = true }",
        "{SSH} -o UserKnownHostsFile=/kh -o IdentitiesOnly=yes -i /id -J outer -C -p 2222 -l tun -N -T \
         -L 127.0.0.1:{local_port}:db:5432 bastion",
    ),
    (
        "provider = 'ssh'\nattach = 'socks5'\ntarget = '[::1]:5432'\noptions = { host = 'bastion', compression = false }",
        "{SSH} -N -T -D 127.0.0.1:{local_port} bastion",
    ),
    (
        "provider = 'ssh'\nattach = 'stdio'\ntarget = '[::1]:5432'\noptions = { host = 'bastion', server_alive_interval = 1 }",
        "{SSH} -W [::1]:5432 bastion",
    ),
    (
        "provider = 'cloudflared'\ntarget = 'db:5432'\noptions = { hostname = 'db.example.net' }",
        "cloudflared access tcp --hostname db.example.net --loglevel info --url 127.0.0.1:{local_port}",
    ),
    (
        "provider = 'cloudflared'\nattach = 'stdio'\ntarget = 'db:5432'\noptions = { hostname = 'db.example.net' }",
        "cloudflared access tcp --hostname db.example.net --loglevel error",
    ),
    (
        "provider = 'tailscale'\ntarget = 'db:5432'\noptions = { state_dir = '/s', socket = '/s/x' }",
        "tailscaled --tun=userspace-networking --socks5-server=127.0.0.1:{local_port} --statedir=/s --socket=/s/x --port=0",
    ),
    (
        "provider = 'tailscale'\nattach = 'stdio'\ntarget = '[fd7a::1]:5432'",
        "tailscale --socket=/run/tailscale/tailscaled.sock nc fd7a::1 5432",
    ),
    (
        "provider = 'frp'\ntarget = 'db:5432'\noptions = { server = 'edge', server_name = 'db', \
         secret_key = { file = '/etc/changeover/orders.pw' } }",
        "frpc -c {file}",
    ),
    (
        "provider = 'chisel'\ntarget = 'db:5432'\noptions = { server = 'https://edge', fingerprint = 'f=', program = '/opt/c' }",
        "/opt/c client --keepalive 10s --max-retry-count -1 --max-retry-interval 10s --fingerprint f= https://edge \
         127.0.0.1:{local_port}:db:5432",
    ),
    (
        "provider = 'chisel'\nattach = 'socks5'\ntarget = 'db:5432'\noptions = { server = 'https://edge' }",
        "chisel client --keepalive 10s --max-retry-count -1 --max-retry-interval 10s https://edge 127.0.0.1:{local_port}:socks",
    ),
    (
        "provider = 'wstunnel'\ntarget = 'db:5432'\noptions = { server = 'wss://edge:443' }",
        "wstunnel client --websocket-ping-frequency 10s --tls-verify-certificate -L tcp://127.0.0.1:{local_port}:db:5432 \
         wss://edge:443",
    ),
    (
        "provider = 'wstunnel'\nattach = 'stdio'\ntarget = 'db:5432'\noptions = { server = 'ws://edge', tls_verify = false }",
        "wstunnel client --websocket-ping-frequency 10s -L stdio://db:5432 ws://edge",
    ),
    (
        "provider = 'wstunnel'\nattach = 'socks5'\ntarget = 'db:5432'\noptions = { server = 'wss://edge' }",
        "wstunnel client --websocket-ping-frequency 10s --tls-verify-certificate -L socks5://127.0.0.1:{local_port} wss://edge",
    ),
    (
        "provider = 'rathole'\ntarget = 'db:5432'\noptions = { server = 'edge:2333', service = 'db', \
         token = { credential = 'token' } }",
        "rathole --client {file}",
    ),
    (
        "provider = 'command'\nattach = 'http-connect'\ntarget = 'db:5432'\n\
         command = ['/x', '--at={local_port}', '{target_host}', '{target_port}', '{{{target}}}']",
        "/x --at={local_port} db 5432 {db:5432}",
    ),
];

#[test]
fn each_provider_comes_to_its_command_line() {
    for (text, wanted) in COMMAND_LINES {
        let wanted = wanted.replace("{SSH}", SSH);
        let found = argv(text);
        let found = if text.contains("interval = 1 }") { found.replace("Interval=1", "Interval=5") } else { found };
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn what_is_secret_goes_by_the_environment_or_by_a_file_in_memory() {
    let secret = "{ file = '/etc/changeover/orders.pw' }";
    for (options, wanted) in [
        (
            format!(
                "provider = 'cloudflared'\noptions = {{ hostname = 'h', service_token_id = {secret}, service_token_secret = {secret} }}"
            ),
            "TUNNEL_SERVICE_TOKEN_ID=[not shown] TUNNEL_SERVICE_TOKEN_SECRET=[not shown]",
        ),
        (format!("provider = 'chisel'\noptions = {{ server = 's', auth = {secret} }}"), "AUTH=[not shown]"),
        (
            format!("provider = 'wstunnel'\noptions = {{ server = 's', path_prefix = {secret} }}"),
            "WSTUNNEL_HTTP_UPGRADE_PATH_PREFIX=[not shown]",
        ),
        ("provider = 'chisel'\noptions = { server = 's' }".to_owned(), ""),
    ] {
        let text = format!("{options}\ntarget = 'db:1'");
        assert_eq!(env(&text), wanted, "{text}");
        let program = tunnel(&text).program.unwrap();
        assert!(program.argv.iter().all(|word| word.secrets().next().is_none()), "{text}");
        assert!(program.secrets().all(|secret| secret.expose() == SECRET));
        assert!(!format!("{:?}", tunnel(&text)).contains(SECRET));
    }
    let frp = "provider = 'frp'\ntarget = 'db:1'\noptions = { server = 'edge', server_name = 'd\"b', \
               secret_key = { credential = 'token' } }";
    let file = tunnel(frp).program.unwrap().file.clone().unwrap();
    let content = file.expose(Filling { port: 4711, file: "" });
    let table: toml::Table = content.parse().unwrap_or_else(|error| panic!("{error}\n{content}"));
    let visitor = &table["visitors"][0];
    assert_eq!(visitor["serverName"].as_str(), Some("d\"b"));
    assert_eq!(visitor["secretKey"].as_str(), Some(SECRET));
    assert_eq!(visitor["bindPort"].as_integer(), Some(4711));
    assert_eq!((table["serverAddr"].as_str(), table["serverPort"].as_integer()), (Some("edge"), Some(7000)));
    assert!(table.get("auth").is_none() && visitor.get("serverUser").is_none(), "{content}");
    let with_token = tunnel(&frp.replace("server = ", "token = { credential = 'token' }, server = "));
    let content = with_token.program.unwrap().file.clone().unwrap().expose(Filling::default());
    let table: toml::Table = content.parse().unwrap();
    assert_eq!(table["auth"]["token"].as_str(), Some(SECRET));

    let rathole = tunnel(COMMAND_LINES.iter().find(|(text, _)| text.contains("rathole")).unwrap().0);
    let content = rathole.program.unwrap().file.clone().unwrap().expose(Filling::default());
    let table: toml::Table = content.parse().unwrap();
    assert_eq!(table["client"]["services"]["db"]["local_addr"].as_str(), Some("db:5432"));
    assert_eq!(table["client"]["default_token"].as_str(), Some(SECRET));
}

#[test]
fn what_goes_into_a_file_ends_no_string_of_it() {
    struct Odd;
    impl Sources for Odd {
        fn env(&self, _: &str) -> Result<String, changeover::config::SourceError> {
            Err(changeover::config::SourceError::Unset)
        }
        fn file(&self, _: &str) -> Result<String, changeover::config::SourceError> {
            Ok("a\"\\b {file} é".to_owned())
        }
    }
    let text = with(
        "provider = 'frp'\ntarget = 'db:1'\noptions = { server = 'edge', server_name = 'db', secret_key = { file = '/f' } }",
    );
    let plan = parse("test.toml", &text, &Odd).unwrap();
    let program = backend(&plan).tunnel.as_ref().unwrap().program.clone().unwrap();
    let content = program.file.as_ref().unwrap().expose(Filling { port: 1, file: "/proc/self/fd/3" });
    let table: toml::Table = content.parse().unwrap();
    assert_eq!(table["visitors"][0]["secretKey"].as_str(), Some("a\"\\b {file} é"));
}

#[test]
fn what_is_left_out_is_the_providers_or_has_a_default() {
    let plan =
        plan_of("provider = 'ssh'\ntarget = 'db:5432'\noptions = { host = { env = 'BASTION' } }\nfatal = ['no way']");
    let backend = backend(&plan);
    let tunnel = backend.tunnel.as_deref().unwrap();
    assert_eq!((backend.address.to_string(), backend.approach.via.as_ref()), ("db:5432".to_owned(), Some(&tunnel.via)));
    assert_eq!((tunnel.via.attach, tunnel.via.target.to_string()), (Attach::Listen, "db:5432".to_owned()));
    assert_eq!((tunnel.via.pool.as_str(), tunnel.via.backend.as_str(), &*tunnel.provider), ("p", "b", "ssh"));
    assert_eq!((tunnel.restart_after, tunnel.ready.as_ref(), tunnel.proxy.as_ref()), (6, None, None));
    assert_eq!((tunnel.ready_timeout, tunnel.stop_grace), (Duration::from_secs(20), Duration::from_secs(5)));
    assert_eq!((tunnel.retry_initial, tunnel.retry_max), (Duration::from_millis(500), Duration::from_secs(30)));
    assert_eq!(tunnel.retry_reset, Duration::from_secs(60));
    assert_eq!(&*tunnel.fatal[0], "Permission denied (");
    assert_eq!(tunnel.fatal.last().map(|text| &**text), Some("no way"));
    // A host that is looked up may be anybody's secret, and is not shown; it is no secret by its option.
    assert!(matches!(tunnel.program.as_ref().unwrap().argv.last().unwrap().0.as_slice(), [Part::Hidden(_)]));
    let text = "provider = 'chisel'\ntarget = 'db:1'\noptions = { server = 's' }";
    assert_eq!(self::tunnel(text).ready.as_deref(), Some("Connected (Latency"));
    assert_eq!(self::tunnel(&format!("{text}\nready = 'up'")).ready.as_deref(), Some("up"));
    assert_eq!(self::tunnel(&format!("{text}\nrestart_after = 0")).restart_after, 0);
    let checked = format!("{text}\n[pools.p.check]\nunhealthy_threshold = 5");
    assert_eq!(self::tunnel(&checked).restart_after, 10);
}

#[test]
fn a_proxy_that_somebody_else_runs_needs_no_program() {
    let plan = tunnel("provider = 'tailscale'\ntarget = 'home:22'\nproxy = '127.0.0.1:1055'");
    assert_eq!((plan.program, plan.proxy.unwrap().to_string()), (None, "127.0.0.1:1055".to_owned()));
    let plan = tunnel("provider = 'command'\nattach = 'http-connect'\ntarget = 'home:22'\nproxy = 'unix:/run/proxy'");
    assert_eq!((plan.program, plan.via.attach), (None, Attach::HttpConnect));
}

#[test]
fn an_address_stands_there_or_is_looked_up() {
    let known = plan_of("provider = 'tailscale'\nattach = 'address'\n[pools.p.backends.b]\naddress = 'home:22'");
    assert_eq!(backend(&known).address.to_string(), "home:22");
    assert_eq!(backend(&known).tunnel.as_ref().unwrap().via.target.to_string(), "home:22");
    let target = plan_of("provider = 'ngrok'\ntarget = '1.tcp.ngrok.io:20000'");
    assert_eq!(
        (backend(&target).address.to_string(), backend(&target).tunnel.as_ref().unwrap().lookup.as_ref()),
        ("1.tcp.ngrok.io:20000".to_owned(), None)
    );
    let lookup = tunnel("provider = 'ngrok'\noptions = { api = '10.0.0.1:4040', index = 2 }").lookup.unwrap();
    let LookupSource::Http { address, request, pointer } = lookup.source else { panic!("{lookup:?}") };
    assert_eq!(
        (address.to_string(), request.path.as_str(), &*pointer),
        ("10.0.0.1:4040".to_owned(), "/api/tunnels", "/tunnels/2/public_url")
    );
    assert_eq!((lookup.interval, lookup.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    let lookup = tunnel(
        "provider = 'command'\nattach = 'address'\nenv = { TOKEN = { credential = 'token' } }\n\
         lookup = { command = ['where', '-x'], interval = '1m', timeout = '1s' }",
    )
    .lookup
    .unwrap();
    let LookupSource::Command(program) = &lookup.source else { panic!("{lookup:?}") };
    assert_eq!((shown(&program.argv), program.env.len()), ("where -x".to_owned(), 1));
    let names: Vec<String> = ["a.b", "é", "-x-"]
        .iter()
        .map(|name| {
            let text =
                with("provider = 'ngrok'").replace("backends.b.", &format!("backends.'{}'.", name.replace('é', "_")));
            backend(&read(&text).unwrap()).address.to_string()
        })
        .collect();
    assert_eq!(names, ["a-b.looked-up.invalid:1", "looked-up.invalid:1", "x.looked-up.invalid:1"]);
    // A client that is run here, of a server whose port is the backend.
    let both = plan_of(
        "provider = 'rathole'\ntarget = 'db:1'\noptions = { server = 'e:1', service = 's', token = { credential = 'token' } }\n\
         [pools.p.backends.b]\naddress = 'edge:5432'",
    );
    let tunnel = backend(&both).tunnel.as_deref().unwrap();
    assert_eq!(
        (backend(&both).address.to_string(), tunnel.via.target.to_string()),
        ("edge:5432".to_owned(), "db:1".to_owned())
    );
    assert!(tunnel.program.is_some());
    let published = plan_of("provider = 'rathole'\n[pools.p.backends.b]\naddress = 'edge:5432'");
    assert_eq!(backend(&published).tunnel.as_ref().unwrap().program, None);
}

const OWN: &str = "\n[tunnel_providers.mine]\nattach = ['listen', 'stdio']\ncommand = ['/opt/x', ['--user', '{user}'], '-v{?loud}']\n\
                   listen = ['{local_port}:{target}', '{server}']\nstdio = ['-']\nenv = { X_TOKEN = '{token}', KIND = 'k' }\n\
                   ready = 'up'\nfatal = ['never']\nversion = ['/opt/x', 'version']\nversion_after = 'v'\n\
                   [tunnel_providers.mine.options]\nuser = {}\nserver = { kind = 'server', required = true }\nloud = { kind = 'flag' }\n\
                   token = { secret = true }\nkey = { kind = 'key' }\n";

#[test]
fn a_provider_of_ones_own_is_like_one_that_comes_with_the_program() {
    let text = format!("provider = 'mine'\ntarget = 'db:1'\noptions = {{ server = 's', loud = true }}{OWN}");
    assert_eq!(argv(&text), "/opt/x -v {local_port}:db:1 s");
    assert_eq!(env(&text), "KIND=k");
    let full = text.replace("loud = true", "user = 'u', token = { credential = 'token' }");
    assert_eq!(
        (argv(&full), env(&full)),
        ("/opt/x --user u {local_port}:db:1 s".to_owned(), "KIND=k X_TOKEN=[not shown]".to_owned())
    );
    let plan = tunnel(&full);
    assert_eq!((plan.ready.as_deref(), plan.fatal.len(), &*plan.provider), (Some("up"), 1, "mine"));
    let each = text.replace("target =", "attach = 'stdio'\ntarget =").replace("server = 's', ", "");
    assert_eq!((argv(&each), tunnel(&each).ready), ("/opt/x -v -".to_owned(), None));
}

/// What is wrong with a tunnel, which begins in line 5, and where. Each is all that is said.
const WRONG: &[(&str, &[&str])] = &[
    ("target = 'db:1'", &["4:1 [pools.p.backends.b.tunnel] has no `provider`; write provider = \"ssh\""]),
    ("provider = 'shs'\ntarget = 'db:1'", &["5:12 `provider`: there is no provider `shs`; did you mean \"ssh\"?"]),
    (
        "provider = 'openvpn'\ntarget = 'db:1'",
        &[
            "5:12 `provider`: there is no provider `openvpn`; there is \"ssh\", \"cloudflared\"",
            "[tunnel_providers.NAME]",
        ],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'",
        &["4:1 `options`: ssh needs `host` with attach = \"listen\"; write options = { host = \"HOST\" }"],
    ),
    (
        "provider = 'ssh'\noptions = { host = 'b' }",
        &["4:1 [pools.p.backends.b.tunnel] has no `target`; write target = \"db.internal:5432\""],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { hots = 'b', host = 'b' }",
        &["7:20 `options`: ssh has no `hots`; did you mean `host`?"],
    ),
    (
        "provider = 'ngrok'\ntarget = 'db:1'\noptions = { colour = 'b' }",
        &["7:22 `options`: ngrok has no `colour`; known are `api` and `index`"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\noptions = { a = 1 }",
        &["8:17 `options`: command has no `a`, nor any other; leave it out"],
    ),
    (
        "provider = 'ssh'\nattach = 'address'\n[pools.p.backends.b]\naddress = 'a:1'",
        &["6:10 `attach`: ssh does not give \"address\"; it gives \"listen\", \"socks5\" and \"stdio\""],
    ),
    (
        "provider = 'ssh'\nattach = 'listn'\ntarget = 'db:1'",
        &["6:10 `attach` takes one of", "did you mean \"listen\"?"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db'\noptions = { host = 'b' }",
        &["6:10 `target`: `db` is no address: it has no port"],
    ),
    (
        "provider = 'ssh'\ntarget = 'unix:/run/x'\noptions = { host = 'b' }",
        &["6:10 `target`: a Unix socket is not reached through a tunnel"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b', port = 'x' }",
        &["7:32 `options`: `port`: `x` is no whole number from 0 to"],
    ),
    ("provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b', port = 1.5 }", &["7:32 `options` takes a string"]),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b', compression = 'yes' }",
        &["7:39 `options`: `compression`: `yes` is neither true nor false"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b', identity_file = 'id' }",
        &["7:41 `options`: `identity_file`: `id` is no absolute path"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = '-oProxyCommand=x' }",
        &["7:20 `options`: `host`: `-oProxyCommand=x` is no server"],
    ),
    ("provider = 'ssh'\ntarget = 'db:1'\noptions = 'host'", &["7:11 `options` takes a table of texts such as { host"]),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\ncommand = ['/x']",
        &["8:11 `command` is given, but ssh has its own; leave it out, or write provider = \"command\""],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\nproxy = 'a:1'",
        &["8:9 `proxy` is given, but with attach = \"listen\" there is none", "8:9"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\nlookup = { command = ['x'] }",
        &["8:10 `lookup` is given, but with attach = \"listen\" the way is always the same"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\n[pools.p.backends.b]\naddress = 'a:1'",
        &["9:11 `address` is given, but what a tunnel leads to is its `target`; leave `address` out"],
    ),
    (
        "provider = 'tailscale'\nattach = 'stdio'\ntarget = 'db:1'\noptions = { state_dir = '/s' }",
        &[
            "8:25 `options`: `state_dir` is nothing to tailscale with attach = \"stdio\", but with \"socks5\" or \"http-connect\"",
        ],
    ),
    (
        "provider = 'tailscale'\ntarget = 'db:1'\nproxy = 'a:1'\noptions = { state_dir = '/s' }",
        &["8:11 `options` is given, but somebody else runs the `proxy`"],
    ),
    (
        "provider = 'tailscale'\ntarget = 'db:1'\nproxy = 'a:1'\nready = 'x'",
        &["8:9 `ready` is given, but no program is run here; leave it out"],
    ),
    ("provider = 'tailscale'\nattach = 'address'", &["4:1 [pools.p.backends.b.tunnel] leads nowhere; write `address`"]),
    (
        "provider = 'rathole'\noptions = { server = 'e:1' }\ntarget = 'a:1'",
        &[
            "6:11 `options`: rathole needs `service`",
            "6:11 `options`: rathole needs `token` with attach = \"address\"; write options = { token = { file = \"PATH\" } }",
        ],
    ),
    ("provider = 'command'\ntarget = 'db:1'", &["4:1 [pools.p.backends.b.tunnel] has no `command`; write command = ["]),
    (
        "provider = 'command'\nattach = 'socks5'\ntarget = 'db:1'",
        &["has no `command`", "or proxy = \"HOST:PORT\" if somebody else runs it"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x']",
        &["7:11 `command`: the program is not told the port that it is to open; write {local_port} there"],
    ),
    (
        "provider = 'command'\nattach = 'stdio'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']",
        &["8:11 `command`: with attach = \"stdio\" there is no {local_port}"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = '/x {local_port}'",
        &["7:11 `command` takes a list of strings, the program first, not a value of type string; no shell splits it"],
    ),
    ("provider = 'command'\ntarget = 'db:1'\ncommand = []", &["7:11 `command` has 0 words; write from 1 to 64"]),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['{local_port}']",
        &["7:11 `command`: `{local_port}` is no program"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{locl_port}']",
        &["7:18 `command`: `{locl_port}` has `{locl_port}`, which is unknown; did you mean {local_port}?"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}', '{file}']",
        &["7:11 `command`: {file} stands for the path of a file, and there is none; write `file`"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nfile = 'a = 1'",
        &["8:8 `file` is given, but its path is told nobody; write {file} in `command` or `env`"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nenv = { 'A B' = 'x' }",
        &["8:17 `env`: `A B` is no name of a variable"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nfatal = ['']",
        &["8:10 `fatal`: `` is in no line of output"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nretry_initial = '1m'",
        &["8:17 `retry_initial`: `retry_initial` (1m) is more than `retry_max` (30s)"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nrestart_after = 1001",
        &["8:17 `restart_after` takes a whole number from 0 to 1000"],
    ),
    (
        "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nstop_grce = '1s'",
        &["8:1 unknown key `stop_grce` in [pools.p.backends.b.tunnel]; did you mean `stop_grace`?"],
    ),
    (
        "provider = 'ngrok'\nlookup = { interval = '5s' }",
        &["6:10 [pools.p.backends.b.tunnel.lookup] asks nobody; write `url` and `pointer`, or `command`"],
    ),
    (
        "provider = 'ngrok'\nlookup = { url = 'http://a/' }",
        &["6:10 [pools.p.backends.b.tunnel.lookup] has no `pointer`; write pointer = "],
    ),
    (
        "provider = 'ngrok'\nlookup = { url = 'https://a/', pointer = '/a' }",
        &["6:10 `url`: the value (not shown) is asked over TLS, which a lookup does not speak; write a `command`"],
    ),
    (
        "provider = 'ngrok'\nlookup = { url = 'http://a/', pointer = 'a' }",
        &["6:10 `pointer`: the value is no JSON pointer"],
    ),
    (
        "provider = 'ngrok'\nlookup = { url = 'http://a/', pointer = '/a', command = ['x'] }",
        &["6:57 `command` is given, but `url` is asked; leave one of them out"],
    ),
    (
        "provider = 'ngrok'\nlookup = { command = ['x', '{local_port}'] }",
        &["6:10 `command`: {local_port} and {file} are the tunnel's own"],
    ),
    (
        "provider = 'ngrok'\nlookup = { command = ['x'] }\n[pools.p.backends.b]\naddress = 'a:1'",
        &["8:11 `address` is given, but it is found out by `lookup`"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\n[pools.p.check]\nkind = 'http'\nhttp = { port = 80 }",
        &["9:8 the check asks at port 80, and a tunnel leads to its `target` alone"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\n[pools.p.backends.b]\ncheck = { kind = 'agent', agent = { port = 80 } }",
        &["9:9 the check asks at port 80"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\n[pools.p.check]\nkind = 'command'\ncommand = ['/x', '{host}']",
        &["9:8 backend `b` is behind a tunnel, and where the check's `command` is told to go leads nowhere"],
    ),
    (
        "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }\n[tunnel_providers.ssh]\nattach = ['listen']",
        &["8:19 there is a provider `ssh` already, which comes with the program; write another name"],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]",
        &["7:1 [tunnel_providers.mine] has no `attach`; write attach = "],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['lisen']",
        &["8:11 `attach`: `lisen` is none of \"listen\""],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']\nstdio = ['x']",
        &["9:9 `stdio` is given, but `attach` does not have it"],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']",
        &["5:12 [tunnel_providers.mine] says no program for attach = \"listen\""],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']\nlisten = ['x', '{local_port}', '{user}']",
        &["9:32 `listen`: `{user}` has `{user}`, which is unknown; known are {local_port}, {target}"],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']\nlisten = ['x', '{local_port}']\noptions.file = {}",
        &["10:9 `file` is no name for an option"],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']\nlisten = ['x', '{local_port}', '{n}']\noptions.n = { kind = 'number', default = 'x' }",
        &["10:42 `default`: `x` is no whole number"],
    ),
    (
        "provider = 'mine'\ntarget = 'db:1'\n[tunnel_providers.mine]\nattach = ['listen']\nlisten = ['x', '{local_port}', '{n}']\noptions.n = { secret = true }",
        &["7:1 option `n` is a secret and stands in a command line, which all users of the host can read"],
    ),
];

/// The errors as `LINE:COLUMN message`.
fn errors(text: &str) -> Vec<String> {
    let Err(errors) = read(text) else { return Vec::new() };
    errors.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect()
}

#[test]
fn what_is_wrong_with_a_tunnel_is_at_its_place_and_says_what_would_be_right() {
    let mut wrong = String::new();
    for (text, wanted) in WRONG {
        let found = errors(&with(text));
        let matched = wanted.iter().all(|part| found.iter().any(|error| error.contains(part)));
        if !matched || found.is_empty() || found.len() > wanted.len() {
            let _ = writeln!(wrong, "{text}\n  wanted {wanted:#?}\n  found {found:#?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_secret_that_all_can_read_is_an_error_that_does_not_show_it() {
    let own = "provider = 'command'\ntarget = 'db:1'\n";
    for (text, wanted) in [
        (
            format!("{own}command = ['/x', '{{local_port}}', '--token', '{SECRET}']"),
            "what is given to `--token` is a secret",
        ),
        (
            format!("{own}command = ['/x', '{{local_port}}', '--auth=u:{SECRET}']"),
            "what is given to `--auth` is a secret",
        ),
        (
            format!("{own}command = ['sh', '-c', 'TOKEN={SECRET} exec /x {{local_port}}']"),
            "what is given to `TOKEN` is a secret",
        ),
        (
            format!("{own}command = ['/x', '{{local_port}}', 'https://u:{SECRET}@h/']"),
            "what is given to `https://u` is a secret",
        ),
        (
            format!("{own}command = ['/x', '{{local_port}}', {{ file = '/etc/changeover/orders.pw' }}]"),
            "takes words as they are",
        ),
        (
            format!("{own}command = ['/x', '{{local_port}}']\nenv = {{ A_TOKEN = '{SECRET}' }}"),
            "`env`: `A_TOKEN` is a secret by its name; write { file",
        ),
        (
            format!("{own}command = ['/x', '{{local_port}}', '{{file}}']\nfile = 'secretKey = \"{SECRET}\"'"),
            "`file`: `secretKey` in it is a secret",
        ),
        (
            format!("provider = 'chisel'\ntarget = 'a:1'\noptions = {{ server = 's', auth = '{SECRET}' }}"),
            "`auth` is a secret; write { file",
        ),
        (
            format!("provider = 'chisel'\ntarget = 'a:1'\noptions = {{ server = 's', authh = '{SECRET}' }}"),
            "did you mean `auth`?",
        ),
        (
            format!("provider = 'ssh'\ntarget = 'a:1'\noptions = {{ host = 's', password = '{SECRET}' }}"),
            "ssh has no `password`",
        ),
        (
            format!("provider = 'ngrok'\nlookup = {{ url = 'http://u:{SECRET}@h/', pointer = '/a' }}"),
            "has a user in it; write `authorization`",
        ),
        (
            format!("provider = 'mine'\ntarget = 'a:1'\noptions = {{ server = 's', token = '{SECRET}' }}{OWN}"),
            "`token` is a secret; write { file",
        ),
        (
            format!(
                "provider = 'mine'\ntarget = 'a:1'\noptions = {{ server = 's', token = '{SECRET}' }}{}",
                OWN.replace("token = { secret = true }", "token = {}")
            ),
            "`token` is a secret; write { file",
        ),
        (
            format!(
                "provider = 'mine'\ntarget = 'a:1'\noptions = {{ server = 's' }}{}",
                OWN.replace("{token}", SECRET)
            ),
            "`X_TOKEN` is a secret by its name",
        ),
        (
            format!(
                "provider = 'mine'\ntarget = 'a:1'\noptions = {{ server = 's' }}{}",
                OWN.replace("secret = true", &format!("secret = true, default = '{SECRET}'"))
            ),
            "`default`: a secret has none",
        ),
    ] {
        let error = read(&with(&text)).map(|_| ()).map_err(|errors| format!("{errors}\n{errors:?}")).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }
}

#[test]
fn any_text_may_be_a_credential_of_systemd() {
    let text = "provider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\nenv = { T = { credential = 'CRED' } }";
    let program = tunnel(&text.replace("CRED", "token")).program.unwrap();
    assert_eq!(program.env[0].1.expose(Filling::default()), SECRET);
    for (name, wanted) in [
        ("other", "the credential `other` cannot be read: No such file"),
        ("../token", "the credential `../token` cannot be read: a credential is named without a path"),
        ("", "a credential is named without a path"),
    ] {
        let found = errors(&with(&text.replace("CRED", name)));
        assert!(found.len() == 1 && found[0].starts_with("8:13 `env`: ") && found[0].contains(wanted), "{found:?}");
    }
    struct Bare;
    impl Sources for Bare {
        fn env(&self, _: &str) -> Result<String, changeover::config::SourceError> {
            Err(changeover::config::SourceError::Unset)
        }
        fn file(&self, path: &str) -> Result<String, changeover::config::SourceError> {
            panic!("{path} was read")
        }
    }
    let error = parse("test.toml", &with(&text.replace("CRED", "token")), &Bare).unwrap_err().to_string();
    let wanted = "`env`: the credential `token` cannot be had, because $CREDENTIALS_DIRECTORY is not set: systemd sets it for a \
                  unit with LoadCredential=token:PATH";
    assert!(error.contains(wanted), "{error}");
}

const SAME: &str = "options = { host = 'x' }\n[pools.p.backends.c.tunnel]\nprovider = 'ssh'\ntarget = 'DB:5432'\noptions = { host = 'y' }\n";

#[test]
fn two_tunnels_may_lead_to_one_server_but_not_in_a_cluster() {
    let two = format!("provider = 'ssh'\ntarget = 'db:5432'\n{SAME}[pools.p.backends.d]\naddress = 'db:5432'\n");
    assert_eq!(errors(&with(&two)), Vec::<String>::new());
    let cluster = format!("{two}[pools.p]\nkind = 'postgres'\n");
    let found = errors(&with(&cluster));
    let wanted = "backends `b` and `c` of [pools.p] are two ways to DB:5432, and a postgres pool would take them for two \
                  servers, both of them primary; write kind = \"tcp\" for the pool, and kind = \"postgres\" for its check";
    assert!(found.len() == 2 && found[0].contains(wanted), "{found:#?}");
    // Each server's own loopback is another server.
    let loopback = cluster.replace("'db:5432'", "'127.0.0.1:5432'").replace("'DB:5432'", "'localhost:5432'");
    assert_eq!(errors(&with(&loopback)), Vec::<String>::new());
    let checked = format!("{two}[pools.p.check]\nkind = 'postgres'\n");
    let plan = plan_of(&checked);
    assert!(plan.pools[&PoolName::from("p")].backends.iter().all(|backend| backend.check.kind == CheckKind::Postgres));
    // What is dialled as it is has its own address still.
    let address = "provider = 'tailscale'\nattach = 'address'\n[pools.p.backends.b]\naddress = 'db:1'\n[pools.p.backends.c]\naddress = 'db:1'";
    let found = errors(&with(address));
    assert!(found.len() == 1 && found[0].contains("`db:1` is already the address of backend `b`"), "{found:?}");
}

#[test]
fn what_is_here_is_not_what_a_tunnel_leads_to() {
    // The admin server and the listener are at the far side's loopback by these addresses, if they are there at all.
    for target in ["127.0.0.1:7072", "127.0.0.1:1000"] {
        let text = format!(
            "provider = 'ssh'\ntarget = '{target}'\noptions = {{ host = 'b' }}\n[pools.p]\nsource_address = '::1'"
        );
        let plan = plan_of(&text);
        assert_eq!(backend(&plan).approach.source_address, None);
    }
    let text = "provider = 'tailscale'\nattach = 'address'\n[pools.p.backends.b]\naddress = '127.0.0.1:7072'";
    assert!(errors(&with(text))[0].contains("where [admin] itself listens"));
}

#[test]
fn a_tunnel_is_described_in_two_lines_and_its_secrets_are_not() {
    let described = describe(&read(&file("tunnels.toml")).unwrap());
    for line in [
        "\n    bastion-a at db.internal:5432 through ssh (listen); check: postgres every 2s, timeout 2s, ",
        "\n      tunnel: runs ssh, which is open within 20s, is started anew after 6 failed checks, tried again after 500ms up to 30s\n",
        "\n      tunnel: runs wstunnel, told what is not shown, which is open within 20s, ",
    ] {
        assert!(described.contains(line), "{line}\n{described}");
    }
    assert!(!described.contains(SECRET) && !described.contains("note:"), "{described}");
    let described = describe(&read(&file("laptop.toml")).unwrap());
    for line in [
        "\n    tailscale at home:22 through tailscale (socks5); check: expect, an answer of 7 bytes, every 5s",
        "\n      tunnel: asks the proxy at 127.0.0.1:1055, which somebody else runs\n",
        "\n      tunnel: its address is asked of curl every 1m\n",
    ] {
        assert!(described.contains(line), "{line}\n{described}");
    }
    assert!(!described.contains(SECRET) && !described.contains("note:"), "{described}");
    let described = describe(
        &read(&with("provider = 'tailscale'\nattach = 'socks5'\nproxy = '127.0.0.1:1055'\ntarget = 'a:1'")).unwrap(),
    );
    let note =
        "\n      note: this check proves that the way stays open for 300 ms, not that anything answers at its end\n";
    assert!(described.contains("check: tcp connect every") && described.contains(note), "{described}");
}

#[test]
fn the_whole_of_a_tunnel_is_shown_as_a_file_has_it_and_no_secret_in_it() {
    for (text, _) in COMMAND_LINES.iter().filter(|(text, _)| !text.contains("file = ") || text.contains("_file")) {
        if text.contains("credential") {
            continue;
        }
        let plan = tunnel(text);
        let explained = explain_tunnel(&plan);
        let whole = format!("[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'p'\n{explained}");
        let read_back = read(&whole).unwrap_or_else(|errors| panic!("{errors}\n{explained}"));
        let read_back = backend(&read_back).tunnel.as_deref().unwrap();
        let as_own = TunnelPlan { provider: "command".into(), ..plan };
        assert_eq!(*read_back, as_own, "{explained}");
    }
    let secret = "provider = 'frp'\ntarget = 'db:1'\noptions = { server = 'edge', server_name = 'db', \
                  secret_key = { credential = 'token' } }\nenv = { T = { credential = 'token' } }";
    let explained = explain_tunnel(&tunnel(secret));
    assert!(!explained.contains(SECRET), "{explained}");
    for line in [
        "command = [\"frpc\", \"-c\", \"{file}\"]\n",
        "env = { T = \"[not shown]\" }\n",
        "secretKey = \\\"[not shown]\\\"\\n",
        "bindPort = {local_port}\\n",
        "ready = \"start visitor success\"\n",
    ] {
        assert!(explained.contains(line), "{line}\n{explained}");
    }
    let lookup = explain_tunnel(&tunnel("provider = 'ngrok'"));
    assert!(
        lookup.contains("\n[pools.p.backends.b.tunnel.lookup]\nurl = \"http://127.0.0.1:4040/api/tunnels\"\n"),
        "{lookup}"
    );
}

#[test]
fn what_a_tunnel_needs_of_this_machine_can_be_looked_for() {
    let text = file("tunnels.toml");
    let document = Document::parse("test.toml", &text, &Fake).unwrap();
    let needs = document.tunnel_needs();
    assert_eq!(needs.len(), 3);
    let ssh = needs.iter().find(|needs| needs.backend.as_str() == "bastion-a").unwrap();
    let version = ssh.version.as_ref().unwrap();
    assert_eq!((shown(&version.argv), version.after.as_str()), ("ssh -V".to_owned(), "OpenSSH_"));
    assert_eq!(ssh.keys, [("identity_file".to_owned(), "/etc/changeover/tunnel".into())]);
    assert_eq!(ssh.paths, [("known_hosts".to_owned(), "/etc/changeover/bastions".into())]);
    assert_eq!(ssh.servers, [("host".to_owned(), "bastion-a".to_owned())]);
    assert!(!format!("{needs:?}").contains(SECRET));
}

#[test]
fn the_reference_of_a_tunnel_changes_nothing() {
    let text = reference();
    let (_, part) = text.split_once("# [pools.orders.backends.pg1.tunnel]\n").unwrap();
    let (part, _) = part.split_once("\n\n").unwrap();
    let keys = ["ready_timeout", "fatal", "retry_initial", "retry_max", "retry_reset", "stop_grace"];
    let lines = part.lines().map(|line| line.trim_start_matches("# "));
    let given: Vec<&str> = lines.filter(|line| keys.iter().any(|key| line.starts_with(&format!("{key} =")))).collect();
    assert_eq!(given.len(), keys.len(), "{given:?}");
    let left_out = "provider = 'ssh'\ntarget = 'db:1'\noptions = { host = 'b' }";
    assert_eq!(tunnel(&format!("{left_out}\n{}", given.join("\n"))), tunnel(left_out));
}

#[test]
fn at_run_time_nobody_sets_a_tunnel_and_that_of_the_file_stays() {
    use changeover::config::overlay::{Overlay, Request, effective};
    use changeover::model::{Actor, BackendName};
    use serde_json::json;
    let text = with(&format!(
        "provider = 'mine'\ntarget = 'db:1'\noptions = {{ server = 's', token = {{ credential = 'token' }} }}{OWN}"
    ));
    let document = Document::parse("test.toml", &text, &Fake).unwrap();
    let (overlay, pool) = (Overlay::default(), PoolName::from("p"));
    let request = Request {
        document: &document,
        overlay: &overlay,
        pool: &pool,
        at: jiff::Timestamp::UNIX_EPOCH,
        actor: Actor::from("ops"),
    };
    let name = BackendName::from("b");
    let own = json!({"provider": "command", "target": "db:1", "command": ["/bin/sh"]});
    for body in [
        json!({"tunnel": own}),
        json!({"tunnel": {"env": {"LD_PRELOAD": "/x"}}}),
        json!({"tunnel": {"lookup": {"command": ["/bin/sh"]}}}),
        json!({"tunnel": {"command": ["/bin/sh"]}}),
        json!({"tunnel": 5}),
    ] {
        let rejected = request.change(&name, &body).unwrap_err();
        assert!(
            rejected.faults.iter().any(|fault| fault.field == "tunnel" && fault.message.contains("runs a program")),
            "{rejected}"
        );
        let mut new = body.clone();
        new["name"] = json!("n");
        new["address"] = json!("10.0.0.9:1");
        let rejected = request.register(&new).unwrap_err();
        assert!(rejected.to_string().contains("`tunnel` runs a program with the daemon's rights"), "{rejected}");
    }
    let changed = request.change(&name, &json!({"weight": 7, "check": {"interval": "3s"}})).unwrap();
    let now = &effective(&document, &changed.overlay).plan.pools[&pool];
    assert_eq!((now.backends[0].weight, now.backends[0].check.interval.as_secs()), (7, 3));
    assert_eq!(now.backends[0].tunnel, backend(document.plan()).tunnel);
    // What is called alike at the far side is no address of ours.
    let beside = request.register(&json!({"name": "n", "address": "db:1"})).unwrap();
    assert_eq!(beside.pool.backends.len(), 2);
    assert!(effective(&document, &beside.overlay).notes.is_empty());
}

/// The chapter of the README.
fn chapter() -> &'static str {
    let readme = include_str!("../../README.md");
    readme.split_once("\n### Tunnels\n").and_then(|(_, rest)| rest.split_once("\n## ")).unwrap().0
}

/// Its pieces of configuration.
fn pieces() -> Vec<&'static str> {
    chapter().split("```toml\n").skip(1).map(|piece| piece.split_once("```").unwrap().0).collect()
}

#[test]
fn what_the_readme_writes_is_right() {
    let [first, own] = pieces()[..] else { panic!("{:?}", pieces()) };
    let plan = read(first).unwrap_or_else(|errors| panic!("{errors}"));
    let backend = &plan.pools[&PoolName::from("orders")].backends[0];
    assert_eq!(
        (backend.check.kind.clone(), backend.address.to_string()),
        (CheckKind::Postgres, "db.internal:5432".to_owned())
    );
    let used = "provider = 'relay'\ntarget = 'db:1'\noptions = { server = 's', token = { credential = 'token' } }\n";
    assert_eq!(argv(&format!("{used}{own}")), "/opt/relay --listen 127.0.0.1:{local_port} s db:1");
}

#[test]
fn the_readme_has_each_provider_with_its_options_as_they_are() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/providers");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let row = chapter()
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("{name}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let attach: Vec<&str> = table["attach"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert!(cells[2] == attach.join(", ") || (cells[2] == "all" && attach.len() == Attach::ALL.len()), "{row}");
        let options = table.get("options").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for (option, kind) in &options {
            let is = |key: &str| kind.get(key).and_then(toml::Value::as_bool) == Some(true);
            let stars = usize::from(is("secret")) + 2 * usize::from(is("required"));
            let written = format!(" {0}`{option}`{0}", "*".repeat(stars));
            assert!(format!(" {}", cells[3]).contains(&written), "{option} of {row}");
        }
        // The tunnel's own keys stand there too.
        let named = cells[3].matches('`').count() / 2;
        let others = if name == "command" {
            3
        } else if name == "rathole" {
            1
        } else {
            0
        };
        assert_eq!(named, options.len() + others, "{row}");
        count += 1;
    }
    assert_eq!(count, 9);
}

#[test]
fn a_secret_of_a_tunnel_in_a_malformed_file_is_not_printed() {
    let lines = [
        format!(
            "tunnel = {{ provider = 'chisel', target = 'a:1', options = {{ server = 's', auth = '{SECRET}' }} }}\n"
        ),
        format!(
            "tunnel = {{ provider = 'command', target = 'a:1', command = ['/x', '{{local_port}}', '--token', '{SECRET}'] }}\n"
        ),
        format!(
            "tunnel = {{ provider = 'ssh', target = 'a:1', env = {{ A_TOKEN = '{SECRET}' }}, options = {{ host = 'b' }} }}\n"
        ),
        format!("tunnel = {{ provider = 'ngrok', lookup = {{ url = 'http://a/?k={SECRET}', pointer = 'a' }} }}\n"),
    ];
    let text = file("tunnels.toml");
    let (before, after) = text.split_once("[pools.orders.backends.bastion-b.tunnel]\n").unwrap();
    let before = format!("{before}[pools.orders.backends.bastion-x]\n");
    let after = format!("[pools.orders.backends.bastion-b.tunnel]\n{after}");
    let mut refused = 0;
    for seed in 0..2000_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut middle = random.choice(&lines).unwrap().clone().into_bytes();
        let (mut before, mut after) = (before.clone().into_bytes(), after.clone().into_bytes());
        match random.u8(..3) {
            0 => mutate(&mut before, &mut random),
            1 => mutate(&mut after, &mut random),
            // One byte of what stands before the secret.
            _ => {
                let end = middle.windows(SECRET.len()).position(|part| part == SECRET.as_bytes()).unwrap();
                middle[random.usize(..end)] ^= 1 << random.u8(..7);
            }
        }
        let broken = [before, b"\n".to_vec(), middle, after].concat();
        let Err(errors) = read(&String::from_utf8_lossy(&broken)) else { continue };
        refused += 1;
        assert!(!errors.to_string().contains(SECRET), "seed {seed}: {errors}\n{}", String::from_utf8_lossy(&broken));
    }
    assert!(refused > 1900, "{refused}");
}

//! The peers' configuration: one thread, one listener, one backend, room for all sessions, defaults otherwise.

use std::net::SocketAddr;
use std::path::Path;

use crate::bare::Loop;
use crate::peer::Peer;

/// As long as a conversation in lockstep takes here, so that its thread stays awake all the time.
const BUSY_POLL: &str = "100us";

/// A file, and the arguments that come before its path.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) file: &'static str,
    pub(crate) text: String,
    pub(crate) arguments: Vec<String>,
}

/// The configuration of `peer`, which listens at `address` and has `backend`; `dir` is its own.
pub(crate) fn of(peer: Peer, address: SocketAddr, backend: SocketAddr, dir: &Path) -> Setup {
    let dir = dir.display();
    let (file, text, arguments): (_, _, &[&str]) = match peer {
        Peer::Direct => ("none", String::new(), &[]),
        Peer::Changeover => {
            ("changeover.toml", changeover(address, backend, &dir.to_string(), ""), &["run", "--config"])
        }
        Peer::ChangeoverBusy => {
            let time = std::env::var("CHANGEOVER_BENCH_BUSY_POLL").unwrap_or_else(|_| BUSY_POLL.to_owned());
            let more = format!("busy_poll = \"{time}\"\n");
            ("changeover.toml", changeover(address, backend, &dir.to_string(), &more), &["run", "--config"])
        }
        Peer::Haproxy => ("haproxy.cfg", haproxy(address, backend, ""), &["-db", "-f"]),
        Peer::HaproxySplice => {
            let options = "    option splice-request\n    option splice-response\n";
            ("haproxy.cfg", haproxy(address, backend, options), &["-db", "-f"])
        }
        Peer::Nginx => ("nginx.conf", nginx(address, backend, &dir.to_string()), &["-c"]),
        Peer::Envoy => {
            let arguments = &["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path"];
            ("envoy.yaml", envoy(address, backend), arguments)
        }
        Peer::Sozu => ("sozu.toml", sozu(address, backend, &dir.to_string()), &["start", "--config"]),
        Peer::BareEpoll => ("bare", bare(address, backend), &[Loop::Epoll.argument()]),
        Peer::BareUring => ("bare", bare(address, backend), &[Loop::Uring.argument()]),
    };
    Setup { file, text, arguments: arguments.iter().map(|&argument| argument.to_owned()).collect() }
}

fn changeover(address: SocketAddr, backend: SocketAddr, dir: &str, more: &str) -> String {
    format!(
        r#"[daemon]
workers = 1

[admin]
bind = "unix:{dir}/admin"

[listeners.bench]
bind = "{address}"
pool = "bench"
{more}
[pools.bench]
backends = ["{backend}"]
"#
    )
}

/// It asks for the descriptors of all connections and pipes at once, and does not start without them.
fn haproxy(address: SocketAddr, backend: SocketAddr, options: &str) -> String {
    format!(
        r"global
    nbthread 1
    maxconn 8500
    maxpipes 256
defaults
    mode tcp
    maxconn 8500
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind {address}
{options}    server backend {backend}
"
    )
}

/// One process without a master, so that there is one to watch and one to kill.
fn nginx(address: SocketAddr, backend: SocketAddr, dir: &str) -> String {
    // Debian builds the module apart; elsewhere it may be built in.
    let module = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"]
        .into_iter()
        .find(|module| Path::new(module).exists());
    let load = module.map(|module| format!("load_module {module};\n")).unwrap_or_default();
    format!(
        r"{load}daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {dir}/pid;
error_log stderr warn;
events {{
    worker_connections 19900;
}}
stream {{
    server {{
        listen {address} backlog=4096;
        proxy_pass {backend};
        proxy_half_close on;
        proxy_timeout 1h;
        tcp_nodelay on;
    }}
}}
"
    )
}

fn envoy(address: SocketAddr, backend: SocketAddr) -> String {
    format!(
        r"static_resources:
  listeners:
  - name: bench
    address: {{ socket_address: {{ address: {listen_ip}, port_value: {listen_port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: bench
          cluster: bench
  clusters:
  - name: bench
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{ max_connections: 20000, max_pending_requests: 20000 }}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
",
        listen_ip = address.ip(),
        listen_port = address.port(),
        ip = backend.ip(),
        port = backend.port(),
    )
}

fn sozu(address: SocketAddr, backend: SocketAddr, dir: &str) -> String {
    format!(
        r#"command_socket = "{dir}/command"
worker_count = 1
worker_automatic_restart = false
log_level = "warn"
log_target = "stderr"
max_connections = 8500
buffer_size = 16393
max_buffers = 20000

[[listeners]]
protocol = "tcp"
address = "{address}"

[clusters.bench]
protocol = "tcp"
frontends = [{{ address = "{address}" }}]
backends = [{{ address = "{backend}" }}]
"#
    )
}

fn bare(address: SocketAddr, backend: SocketAddr) -> String {
    format!("{address}\n{backend}\n")
}

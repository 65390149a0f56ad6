//! The commands: what they print, for people and for scripts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};
use support::process::{Ended, program, with_jsonschema};
use support::{Backend, Daemon, changeover, fresh_addr, run};

/// The widest that a table may be, in columns.
const WIDTH: usize = 100;

const GOOD: &str = "[listeners.orders]\nbind = \"127.0.0.1:6432\"\npool = \"orders\"\n\
                    [pools.orders]\nbackends = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\n";

/// Runs `check` on a file with this text; its path is returned too.
fn check(text: &str) -> (Ended, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (changeover(&["check", "--config", &file]), file)
}

#[track_caller]
fn narrow(text: &str) {
    let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or("");
    assert!(widest.chars().count() <= WIDTH, "wider than {WIDTH} columns: {widest}");
}

#[test]
fn a_good_file_is_shown_as_understood() {
    let (ended, _) = check(GOOD);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in ["orders", "127.0.0.1:6432", "10.0.0.1:5432", "10.0.0.2:5432"] {
        assert!(ended.stdout.contains(word), "no {word} in\n{}", ended.stdout);
    }
    narrow(&ended.stdout);
}

#[test]
fn every_error_of_a_bad_file_is_shown_with_its_place() {
    let (ended, file) = check(
        "[listeners.orders]\nbind = \"127.0.0.1\"\npool = \"ordres\"\n\
         [pools.orders]\nwhen_dwn = \"hold\"\nhold = 10\nbackends = [\"10.0.0.1:5432\"]\n\
         [pools.orders.check]\ninterval = \"1 fortnight\"\n",
    );
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let places: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with(&format!("{file}:"))).collect();
    for (at, words) in [
        ("2:8", &["127.0.0.1", "port"][..]),
        ("3:8", &["ordres", "orders"]),
        ("5:1", &["when_dwn", "when_down"]),
        ("6:8", &["hold"]),
        ("9:12", &["fortnight"]),
    ] {
        let start = format!("{file}:{at}: ");
        let error = places.iter().find(|line| line.starts_with(&start));
        let error = error.unwrap_or_else(|| panic!("no error at {at} in\n{}", ended.stderr));
        words.iter().for_each(|word| assert!(error.contains(word), "no `{word}` in {error}"));
    }
    assert_eq!(places.len(), 5, "{}", ended.stderr);
}

#[test]
fn no_secret_is_printed_by_check() {
    let secret = "Bearer hunter2";
    let http = format!("{{ path = \"/\", authorization = \"{secret}\" }}");
    let (ended, _) = check(&format!("{GOOD}[pools.orders.check]\nkind = \"http\"\nhttp = {http}\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let cluster = GOOD.replace("[pools.orders]\n", "[pools.orders]\nkind = \"postgres\"\n");
    let password = "[pools.orders.postgres]\npassword = \"hunter2\"\n";
    let (ended, _) = check(&format!("{cluster}{password}"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("its primary") && ended.stdout.contains("password [secret]"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let (ended, _) = check(&format!("{cluster}{password}heartbeat = 1\npasword = \"hunter2\"\n"));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let (ended, _) = check(&format!("{GOOD}[pools.orders.check]\nkind = \"htp\"\nhttp = {http}\n"));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
}

#[test]
fn an_unset_variable_or_unreadable_file_is_an_error_of_the_file() {
    for value in ["{ env = \"NO_SUCH_VARIABLE_AT_ALL\" }", "{ file = \"/no/such/file\" }"] {
        let text = GOOD.replace("\"127.0.0.1:6432\"", value);
        let (ended, file) = check(&text);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{file}:2:")), "{ended:?}");
    }
}

/// A daemon with one pool of two backends, one of them absent.
fn daemon() -> (Daemon, Backend) {
    let a = Backend::start("a-backend-with-a-rather-long-name");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n{}[pools.orders.backends.absent]\naddress = \"{}\"\npriority = 2\n",
        a.toml("orders", 1),
        fresh_addr(),
    ));
    daemon.wait_health("orders", "absent", "unhealthy");
    (daemon, a)
}

#[test]
fn what_keeps_a_daemon_from_starting_is_said_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (file, locked) = (dir.path().join("changeover.toml"), dir.path().join("locked"));
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = held.local_addr().unwrap().to_string();
    let socket = format!("unix:{}", locked.join("admin.sock").display());
    let state = locked.join("state").display().to_string();
    let (us, any) = (format!("stop process {} (", std::process::id()), "127.0.0.1:0");
    for (listener, admin, state, code, what, mend) in [
        (held.as_str(), any, None, 69, format!("listener orders cannot listen at {held}: "), us.as_str()),
        (any, &held, None, 69, format!("the admin server cannot listen at {held}: "), &us),
        (any, &socket, None, 69, format!("the admin server cannot listen at {socket}: "), "make files in "),
        (any, any, Some(&state), 77, format!("cannot open {state}/"), "this is uid "),
    ] {
        let state = state.map(|state| format!("[daemon]\nstate_dir = \"{state}\"\n")).unwrap_or_default();
        let good = GOOD.replace("127.0.0.1:6432", listener);
        std::fs::write(&file, format!("{good}[admin]\nbind = \"{admin}\"\n{state}")).unwrap();
        let ended = run(support::process::bound_by_permissions().args(["run", "--config", file.to_str().unwrap()]));
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let (said, next) = ended.stderr.split_once('\n').expect("two lines");
        assert!(said.starts_with(&format!("changeover: {what}")) && said.contains(mend), "{ended:?}");
        assert_eq!(
            next,
            format!("  next: `changeover doctor --config {}` tries all that the file needs\n", file.display())
        );
    }
}

#[test]
fn tables_are_for_people_and_json_is_for_scripts() {
    let (daemon, a) = daemon();
    let url = format!("http://{}", daemon.admin());
    for (command, words) in [
        ("status", &["orders", "degraded"][..]),
        ("pools", &["orders", "degraded", &a.name]),
        ("backends", &["orders", &a.name, "absent", "healthy", "unhealthy"]),
    ] {
        let ended = changeover(&[command, "--admin", &url]);
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
        words.iter().for_each(|word| assert!(ended.stdout.contains(word), "no {word} in\n{}", ended.stdout));
        assert!(!ended.stdout.contains('\x1b'), "colours go to terminals only: {ended:?}");
        narrow(&ended.stdout);
        let ended = changeover(&[command, "--json", "--admin", &url]);
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
        let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{command}: {e}: {ended:?}"));
        assert!(json.to_string().contains("\"orders\""), "{command}: {json}");
    }
}

#[test]
fn a_name_that_the_daemon_does_not_know_is_met_with_the_one_that_was_meant() {
    let a = Backend::start("primary");
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    let _daemon = Daemon::start(&format!(
        "[admin]\nbind = \"{socket}\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        a.toml("orders", 1)
    ));
    let (pool, backend) = ("(pool_not_found); did you mean `orders`?", "(backend_not_found); did you mean `primary`?");
    for (order, meant) in [
        (&["explain", "ordres"][..], pool),
        (&["failover", "ordres"], pool),
        (&["failover", "orders", "--to", "primray"], backend),
        (&["failback", "ordres"], pool),
        (&["pause", "ordres"], pool),
        (&["resume", "ordres"], pool),
        (&["drain", "orders/primray"], backend),
        (&["drain", "ordres/primary"], pool),
        (&["reset", "orders/primray"], backend),
        (&["probe", "ordres"], pool),
    ] {
        let ended = changeover(&[order, &["--admin", &socket]].concat());
        assert_eq!(ended.code, Some(1), "{order:?}: {ended:?}");
        assert!(ended.stderr.contains(meant), "{order:?}: {ended:?}");
    }
    let ended = changeover(&["explain", "billing", "--admin", &socket]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("`billing`") && !ended.stderr.contains("did you mean"), "{ended:?}");
}

#[test]
fn client_commands_find_the_daemon_by_flag_then_environment_then_file() {
    let (daemon, _a) = daemon();
    let (right, wrong) = (format!("http://{}", daemon.admin()), format!("http://{}", fresh_addr()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.toml");
    std::fs::write(&file, format!("{GOOD}[admin]\nbind = \"{}\"\n", daemon.admin())).unwrap();
    let file = file.to_str().unwrap();
    let code = |args: &[&str], variable: Option<&str>| {
        let mut command = program();
        command.arg("pools").args(args);
        if let Some(value) = variable {
            command.env("CHANGEOVER_ADMIN", value);
        }
        run(&mut command).code
    };
    assert_eq!(code(&["--admin", &right], Some(&wrong)), Some(0), "the flag goes before the environment");
    assert_eq!(code(&["--admin", &wrong], Some(&right)), Some(69), "the flag goes before the environment");
    assert_eq!(code(&[], Some(&right)), Some(0));
    assert_eq!(code(&["--config", file], None), Some(0));
    assert_eq!(code(&["--config", file], Some(&wrong)), Some(69), "the environment goes before the file");
}

#[test]
fn client_commands_want_nothing_of_the_file_but_where_the_daemon_is() {
    let (daemon, _a) = daemon();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.toml");
    let asked = |text: &str| {
        std::fs::write(&file, text).unwrap();
        changeover(&["pools", "--config", file.to_str().unwrap()])
    };
    let at = format!("[admin]\nbind = \"{}\"\n", daemon.admin());
    for rest in [
        "[webhooks.pager]\nurl = { env = \"NO_SUCH_VARIABLE_AT_ALL\" }\nsecret = { file = \"/no/such/file\" }\n",
        "[pools.orders]\nbackend = [\"10.0.0.1\"]\n",
        "[pools.orders\nbackends = [\"10.0.0.1:1\"]\n",
    ] {
        let ended = asked(&format!("{at}{rest}"));
        assert_eq!(ended.code, Some(0), "{rest}: {ended:?}");
        assert!(ended.stdout.contains("orders"), "{ended:?}");
    }
    let ended = asked(&format!("[pools.orders\n{at}"));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains(":1:") && ended.stderr.contains("name it with --admin"), "{ended:?}");
}

#[test]
fn what_an_operator_may_not_read_is_a_matter_of_permission() {
    let dir = tempfile::tempdir().unwrap();
    let set = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let (locked, file) = (dir.path().join("locked"), dir.path().join("file"));
    std::fs::create_dir(&locked).unwrap();
    std::fs::write(&file, GOOD).unwrap();
    let inside = locked.join("changeover.toml");
    std::fs::write(&inside, GOOD).unwrap();
    set(&file, 0);
    set(&locked, 0);
    let [file, inside] = [file, inside].map(|path| path.display().to_string());
    let far = format!("https://{}", fresh_addr());
    for (args, what) in [
        (&["--config", &file][..], &file),
        (&["--config", &inside], &inside),
        (&["--admin", &far, "--ca-file", &file], &file),
        (&["--admin", &far, "--token-file", &inside], &inside),
    ] {
        let ended = run(support::process::bound_by_permissions().arg("status").args(args));
        assert_eq!(ended.code, Some(77), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(what) && ended.stderr.contains("let your user read it"), "{args:?}: {ended:?}");
    }
    set(&locked, 0o700);
}

#[test]
fn client_commands_talk_over_a_unix_socket() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    let _daemon = Daemon::start(&format!(
        "[admin]\nbind = \"{socket}\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        a.toml("orders", 1)
    ));
    let ended = changeover(&["backends", "--admin", &socket]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(&a.addr.to_string()), "{ended:?}");
}

/// Serves `pools` over TLS to whoever comes, with a certificate for 127.0.0.1; tells what they presented.
fn tls_server(dir: &std::path::Path) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    use std::io::{Read, Write};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let (certificate, key) = (dir.join("admin.crt"), dir.join("admin.key"));
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=admin \
                -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE";
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(args.split_whitespace()).arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    let made = run(&mut openssl);
    assert_eq!(made.code, Some(0), "{made:?}");
    let chain = vec![CertificateDer::from_pem_file(&certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = std::sync::Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).expect("a connection");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let (mut request, mut bytes) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
                    Ok(_) | Err(_) => break,
                }
            }
            let body = "{\"pools\":[]}";
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
            tell.send(String::from_utf8_lossy(&request).into_owned()).ok();
        }
    });
    (address, told)
}

#[test]
fn a_token_goes_to_a_daemon_whose_certificate_is_trusted_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (address, told) = tls_server(dir.path());
    let certificate = dir.path().join("admin.crt").display().to_string();
    let pools = |host: &str, ca: &[&str]| {
        let admin = format!("https://{host}:{}", address.port());
        run(program().args(["pools", "--admin", &admin]).args(ca).env("CHANGEOVER_TOKEN", "hunter2"))
    };
    let ended = pools("127.0.0.1", &["--ca-file", &certificate]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let request = told.recv_timeout(support::DEADLINE).expect("it was asked");
    assert!(request.to_lowercase().contains("authorization: bearer hunter2\r\n"), "{request}");
    // Nobody has signed it whom the system trusts; and it is for no other name.
    for ended in [pools("127.0.0.1", &[]), pools("localhost", &["--ca-file", &certificate])] {
        assert_eq!(ended.code, Some(69), "{ended:?}");
        assert!(ended.stderr.contains("--ca-file") && !ended.stderr.contains("hunter2"), "{ended:?}");
        let request = told.recv_timeout(support::DEADLINE).expect("somebody came");
        assert!(!request.contains("hunter2"), "{request}");
    }
}

#[test]
fn the_schema_is_json_and_knows_the_tables() {
    let ended = changeover(&["schema"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let schema: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    for table in ["daemon", "admin", "listeners", "pools", "log"] {
        assert!(schema["properties"].get(table).is_some(), "no {table}");
    }
}

/// Holds the documents on its standard input, which begin with the schema, against it, and prints the names of those that do not fit.
const VALIDATE: &str = "
import json, sys
import jsonschema
schema, documents = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for name, document in documents.items():
    for error in validator.iter_errors(document):
        print(name, list(error.absolute_path), error.message)
";

/// What a validator that is not ours has against `documents`.
fn invalid(documents: &serde_json::Map<String, Value>) -> String {
    let schema: Value = serde_json::from_str(&changeover(&["schema"]).stdout).expect("JSON");
    with_jsonschema(VALIDATE, &serde_json::json!([schema, documents]).to_string())
}

#[test]
fn every_example_fits_the_schema_and_what_is_wrong_does_not() {
    let mut documents = serde_json::Map::new();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let value: Value = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            documents.insert(path.display().to_string(), value);
        }
    }
    assert!(documents.len() > 5, "{documents:?}");
    assert_eq!(invalid(&documents), "");
    let wrong: &[(&str, &str)] = &[
        ("unknown", "[daemon]\nworkrs = 1\n"),
        ("type", "[daemon]\nworkers = \"1\"\n"),
        ("word", "[log]\nlevel = \"loud\"\n"),
    ];
    let wrong: serde_json::Map<String, Value> = wrong
        .iter()
        .map(|(name, text)| ((*name).to_owned(), toml::from_str(&format!("{GOOD}{text}")).unwrap()))
        .collect();
    let told = invalid(&wrong);
    assert!(wrong.keys().all(|name| told.contains(name.as_str())), "{told}");
}

/// What bash offers after `line`, whose last word is begun.
fn completed(line: &[&str]) -> Vec<String> {
    // The function that bash calls, with what it calls it with: at a colon, nothing is begun.
    const ASK: &str = r#"
        source <(changeover completions bash)
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMP_WORDBREAKS=$' \t\n"\'><=;|&(:' begun=${@: -1}
        $(complete -p changeover | sed 's/.*-F \([^ ]*\) .*/\1/') changeover "${begun#:}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let directory =
        std::path::Path::new(support::process::PROGRAM).parent().expect("a directory").display().to_string();
    let mut command = support::process::clean(std::process::Command::new("bash"));
    command.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap()));
    let ended = run(command.args(["-c", ASK, "bash"]).args(line));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.lines().filter(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_limit_that_no_page_has_is_a_wrong_use_and_nobody_is_asked() {
    for limit in ["0", "10001"] {
        let ended = changeover(&["sessions", "--limit", limit]);
        assert!(ended.code == Some(64) && ended.stderr.contains("1..=10000"), "{ended:?}");
    }
}

/// Backends of the short form, whose names are their addresses. Nobody is there.
const WITH_ADDRESSES: &str = "[admin]\nbind = \"127.0.0.1:0\"\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
                              [pools.web]\nbackends = [\"127.0.0.1:7\", \"127.0.0.1:8\"]\n";

/// One that answers every request with `body`, for as long as the tests run.
fn answering(body: Value) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, body) = (listener.local_addr().unwrap(), body.to_string());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            head.take_while(|line| !line.is_empty()).for_each(drop);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
        }
    });
    address
}

#[test]
fn for_orders_to_tunnels_only_what_is_behind_one_is_completed() {
    let tunnel = json!({"state": "connected", "provider": "ssh"});
    let backend = |name: &str, tunnel: &Value| json!({"name": name, "tunnel": tunnel});
    let pools = json!({"pools": [
        {"name": "home", "backends": [backend("far", &tunnel), backend("near", &Value::Null), backend("other", &tunnel)]},
        {"name": "house", "backends": [backend("plain", &Value::Null)]},
    ]});
    let admin = format!("--admin=http://{}", answering(pools));
    let offered = |command: &[&str], begun: &str| {
        let line: Vec<&str> = std::iter::once("changeover").chain(command.iter().copied()).collect();
        completed(&[&line[..], &[&admin, begun]].concat()).into_iter().collect::<BTreeSet<String>>()
    };
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    for command in ["start", "stop", "restart"] {
        assert_eq!(offered(&["tunnel", command], "ho"), set(&["home", "home/far", "home/other"]), "{command}");
    }
    for command in ["logs", "explain"] {
        assert_eq!(offered(&["tunnel", command], "ho"), set(&["home/far", "home/other"]), "{command}");
    }
    assert_eq!(completed(&["changeover", "tunnel", "list", &admin, "--pool", "h"]), ["home"], "the pools of tunnels");
    // To all others every backend is offered as before.
    assert_eq!(offered(&["drain"], "ho"), set(&["home/far", "home/near", "home/other", "house/plain"]));
    assert_eq!(offered(&["pause"], "ho"), set(&["home", "house"]));
}

#[test]
fn names_of_pools_and_backends_are_completed_from_the_running_daemon() {
    let (daemon, a) = daemon();
    let admin = format!("--admin=http://{}", daemon.admin());
    assert_eq!(completed(&["changeover", "explain", &admin, "o"]), ["orders"]);
    let both = [format!("orders/{}", a.name), "orders/absent".to_owned()];
    let mut offered = completed(&["changeover", "drain", &admin, "orders/a"]);
    offered.sort();
    let mut wanted = both.to_vec();
    wanted.sort();
    assert_eq!(offered, wanted);
    assert!(completed(&["changeover", "failover", "orders", &admin, "--to", "ab"]).contains(&"absent".to_owned()));
    // Beside a pool, its own backends and no other's.
    let two = format!("{WITH_ADDRESSES}[pools.orders.backends.pg1]\naddress = \"127.0.0.1:9\"\n");
    let two = Daemon::start(&two);
    let at_two = format!("--admin=http://{}", two.admin());
    assert_eq!(completed(&["changeover", "failover", "orders", &at_two, "--to", ""]), ["pg1"]);
    assert_eq!(completed(&["changeover", "sessions", "--pool", "orders", &at_two, "--backend", ""]), ["pg1"]);
    assert_eq!(completed(&["changeover", "events", "--pool", "orders", &at_two, "--backend", ""]), ["pg1"]);
    assert_eq!(completed(&["changeover", "sessions", &at_two, "--backend", ""]).len(), 3);
    assert!(completed(&["changeover", "dra"]).contains(&"drain".to_owned()));
    // A name that is an address: bash takes it apart, and has what stands before the last colon on the line already.
    let (site, address) = (Daemon::start(WITH_ADDRESSES), "web/127.0.0.1");
    let admin = format!("--admin=http://{}", site.admin());
    assert_eq!(completed(&["changeover", "drain", &admin, address, ":"]), ["7", "8"]);
    assert_eq!(completed(&["changeover", "drain", &admin, address, ":", "7"]), ["7"]);
    assert_eq!(completed(&["changeover", "drain", &admin, "web/127"]), ["web/127.0.0.1:7", "web/127.0.0.1:8"]);
    assert_eq!(
        completed(&["changeover", "drain", "--admin", "http", ":", &admin["--admin=http:".len()..], "web/1"]).len(),
        2
    );
    // Nobody is there, or somebody who never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for nobody in [fresh_addr(), silent.local_addr().unwrap()] {
        let nobody = format!("--admin=http://{nobody}");
        assert_eq!(completed(&["changeover", "explain", &nobody, "o"]), Vec::<String>::new());
    }
    let ended = changeover(&["completions", "tcsh"]);
    assert_eq!(ended.code, Some(64), "{ended:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(changeover(&["completions", shell]).stdout.contains("CHANGEOVER_COMPLETE"), "{shell}");
    }
}

#[test]
fn there_is_a_man_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("man1");
    let ended = changeover(&["man", "--out", out.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (page, word) in
        [("changeover", "changeover\\-drain"), ("changeover-failover", "reason"), ("changeover-top", "token")]
    {
        let text =
            std::fs::read_to_string(out.join(format!("{page}.1"))).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    for (page, sections) in [
        ("changeover", &["EXIT STATUS", "ENVIRONMENT", "FILES"][..]),
        ("changeover-run", &["EXIT STATUS", "ENVIRONMENT", "FILES"]),
        ("changeover-drain", &["EXIT STATUS", "ENVIRONMENT", "FILES"]),
        ("changeover-schema", &["EXIT STATUS"]),
    ] {
        let text = std::fs::read_to_string(out.join(format!("{page}.1"))).unwrap();
        let told: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert!(
            sections.iter().all(|section| told.iter().any(|of| of.trim_matches('"') == *section)),
            "{page}: {told:?}"
        );
        assert_eq!(text.matches(".ie ").count(), 1, "{page} begins once");
    }
    let run = std::fs::read_to_string(out.join("changeover-run.1")).unwrap();
    assert!(run.contains(changeover::store::FILE_NAME), "{run}");
    assert!(!out.join("changeover-demo-backend.1").exists(), "hidden");
    assert!(changeover(&["man"]).stdout.contains(".TH changeover 1"));
    let ended = changeover(&["man", "--out", "/proc/no/such"]);
    assert!(ended.code != Some(0) && ended.stderr.contains("/proc/no/such"), "{ended:?}");
}

#[test]
fn every_command_explains_itself() {
    let all = changeover(&["--help"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    let orders = ["failover", "failback", "drain", "ready", "maintenance", "pause", "resume", "reset", "probe"];
    let all_commands =
        ["run", "check", "demo", "status", "pools", "backends", "sessions", "events", "explain", "top", "doctor"];
    let generated = ["replay", "schema", "completions", "man"];
    for command in all_commands.into_iter().chain(generated).chain(orders) {
        assert!(all.stdout.contains(command), "no {command} in\n{}", all.stdout);
        let one = changeover(&[command, "--help"]);
        assert_eq!(one.code, Some(0), "{command}: {one:?}");
        assert!(one.stdout.contains("Usage:"), "{command}: {one:?}");
        narrow(&one.stdout);
    }
    assert!(!all.stdout.contains("demo-backend"), "hidden");
    narrow(&all.stdout);
    // The codes are the README's.
    let readme = include_str!("../README.md");
    let codes =
        readme.lines().skip_while(|line| !line.starts_with("Exit codes: ")).take(2).collect::<Vec<_>>().join(" ");
    for line in
        all.stdout.lines().skip_while(|line| *line != "Exit status:").skip(1).take_while(|line| !line.is_empty())
    {
        let code = line.split_whitespace().next().expect("a code");
        assert!(codes.contains(&format!(" {code} ")), "{code}: {codes}");
    }
    let version = changeover(&["--version"]);
    assert_eq!(version.stdout.trim(), concat!("changeover ", env!("CARGO_PKG_VERSION")));
}

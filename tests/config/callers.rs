//! `[admin]`: who may call, and what is said of credentials that cannot be right.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use changeover::config::{OsSources, describe, parse};
use changeover::model::{AccessRole, JwtAlgorithm, Plan, Rate};

use crate::process::run;

const REST: &str = "\n[listeners.front]\nbind = '127.0.0.1:1'\npool = 'orders'\n[pools.orders]\nbackends = ['127.0.0.1:2']\n\
                    [pools.billing]\nbackends = ['127.0.0.1:3']\n";
const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const TOKEN: &str = "sw0rdfish-token";

fn read(admin: &str) -> Result<Plan, String> {
    parse("test.toml", &format!("{admin}{REST}"), &OsSources).map_err(|errors| errors.to_string())
}

fn openssl(dir: &Path, args: &str) {
    let ended = run(Command::new("openssl").args(args.split(' ')).current_dir(dir));
    assert_eq!(ended.code, Some(0), "openssl {args}: {}", ended.stderr);
}

/// Keys and certificates of every kind.
fn keys() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("rsa", "RSA -pkeyopt rsa_keygen_bits:2048"),
        ("weak", "RSA -pkeyopt rsa_keygen_bits:1024"),
        ("ec", "EC -pkeyopt ec_paramgen_curve:P-256"),
        ("ec384", "EC -pkeyopt ec_paramgen_curve:P-384"),
        ("ed", "ED25519"),
    ] {
        openssl(dir.path(), &format!("genpkey -algorithm {kind} -out {name}.key"));
        openssl(dir.path(), &format!("pkey -in {name}.key -pubout -out {name}.pub"));
    }
    openssl(dir.path(), "req -x509 -key ec.key -days 2 -subj /CN=a -out ec.pem");
    std::fs::write(dir.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    dir
}

fn jwt(dir: &Path, algorithm: &str, key: &str) -> Result<Plan, String> {
    let key = dir.join(key);
    read(&format!("[admin.jwt]\nalgorithm = '{algorithm}'\nkey = {{ file = '{}' }}\n", key.display()))
}

fn tls(dir: &Path, certificate: &str, key: &str) -> Result<Plan, String> {
    let (certificate, key) = (dir.join(certificate), dir.join(key));
    read(&format!("[admin.tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display()))
}

#[test]
fn what_is_given_of_callers_is_what_is_understood() {
    let plan = read(&format!(
        "[admin]\nrate_limit = '5/s'\n[admin.tokens.ops]\nrole = 'operator'\nsha256 = '{HASH}'\npools = ['orders', 'billing']\n"
    ));
    let admin = plan.unwrap().admin;
    assert_eq!(admin.rate, Some(Rate { count: 5, per: Duration::from_secs(1) }));
    let [token] = &admin.tokens[..] else { panic!("{admin:?}") };
    let pools: Vec<&str> = token.pools.iter().flat_map(|pools| pools.iter().map(|pool| pool.as_str())).collect();
    assert_eq!((&*token.name, token.role, pools), ("ops", AccessRole::Operator, vec!["orders", "billing"]));
    assert!(!format!("{admin:?}").contains(HASH));
    let left_out = read("").unwrap().admin;
    assert_eq!(left_out.rate, Some(Rate { count: 100, per: Duration::from_secs(60) }));
    assert!(left_out.tokens.is_empty() && left_out.jwt.is_none() && left_out.tls.is_none());
}

#[test]
fn a_token_that_cannot_be_right_is_refused_at_its_place_and_never_shown() {
    let token = |lines: &str| read(&format!("[admin.tokens.ops]\n{lines}\n")).unwrap_err();
    for (lines, place, says) in [
        (
            format!("role = 'root'\nsha256 = '{HASH}'"),
            "2:8",
            "`role` takes one of \"viewer\", \"operator\" or \"admin\"",
        ),
        (format!("role = 'amdin'\nsha256 = '{HASH}'"), "2:8", "did you mean \"admin\"?"),
        (format!("sha256 = '{HASH}'"), "1:1", "has no `role`"),
        ("role = 'admin'".to_owned(), "1:1", "has no `sha256`; make a token with `(umask 077; openssl rand"),
        ("role = 'admin'\nsha256 = '5e88…'".to_owned(), "3:10", "is the beginning of a SHA-256; write all 64 digits"),
        (format!("role = 'admin'\nsha256 = '{}...'", &HASH[..20]), "3:10", "is the beginning of a SHA-256"),
        (format!("role = 'admin'\nsha256 = '{}'", &HASH[1..]), "3:10", "and it has 63 characters"),
        ("role = 'admin'\nsha256 = 'grün'".to_owned(), "3:10", "and it has 4 characters"),
        (format!("role = 'admin'\nsha256 = '{TOKEN}'"), "3:10", "is no SHA-256"),
        (format!("role = 'admin'\nsha256 = '{}'", HASH.to_uppercase()), "3:10", "write it in lower case"),
        (format!("role = 'admin'\nsha265 = '{TOKEN}'"), "3:1", "did you mean `sha256`?"),
        (format!("role = 'admin'\nsha256 = '{HASH}'\npools = ['order']"), "4:10", "did you mean \"orders\"?"),
        (format!("role = 'admin'\nsha256 = '{HASH}'\npools = []"), "4:9", "leave it out for all pools"),
        (format!("role = 'admin'\nsha256 = '{HASH}'\npools = 'orders'"), "4:9", "takes a list of strings such as"),
    ] {
        let error = token(&lines);
        // Whatever else is said, this is said at its place.
        assert!(error.contains(&format!("test.toml:{place}: ")), "{lines}: {error}");
        assert!(error.contains(says), "{lines}: {error}");
        assert!(!error.contains(TOKEN) && !error.contains(HASH), "{error}");
    }
    let twice = read(&format!(
        "[admin.tokens.a]\nrole = 'admin'\nsha256 = '{HASH}'\n[admin.tokens.b]\nrole = 'viewer'\nsha256 = '{HASH}'\n"
    ));
    let error = twice.unwrap_err();
    assert!(error.contains("test.toml:6:10") && error.contains("[admin.tokens.a] has the same"), "{error}");
}

#[test]
fn a_key_that_cannot_check_anything_is_refused_with_what_would_be_right() {
    let keys = keys();
    let dir = keys.path();
    for (algorithm, key, known) in [
        ("RS256", "rsa.pub", JwtAlgorithm::Rs256),
        ("ES256", "ec.pub", JwtAlgorithm::Es256),
        ("EdDSA", "ed.pub", JwtAlgorithm::EdDsa),
        ("HS256", "secret", JwtAlgorithm::Hs256),
    ] {
        let plan = jwt(dir, algorithm, key).unwrap_or_else(|error| panic!("{algorithm} {key}: {error}"));
        assert_eq!(plan.admin.jwt.unwrap().algorithm, known);
    }
    for (algorithm, key, says) in [
        ("RS256", "ec.pub", "is no public key of RSA"),
        ("RS256", "weak.pub", "with 2048 to 8192 bits"),
        ("RS256", "secret", "is no public key of RSA"),
        ("RS256", "rsa.key", "openssl pkey -in FILE -pubout"),
        ("ES256", "rsa.pub", "is no public key on P-256"),
        ("ES256", "ec384.pub", "is no public key on P-256"),
        ("ES256", "ec.pem", "openssl x509 -in FILE -pubkey -noout"),
        ("EdDSA", "ec.pub", "is no public key of Ed25519"),
        ("HS256", "rsa.pub", "HS256 takes a secret"),
        ("HS512", "secret", "takes one of \"HS256\""),
        ("RS256", "none", "create it"),
    ] {
        let error = jwt(dir, algorithm, key).err().unwrap_or_else(|| panic!("{algorithm} {key} was taken"));
        assert!(error.contains(says), "{algorithm} {key}: {error}");
        assert!(!error.contains("0123456789"), "{error}");
    }
    let short = read("[admin.jwt]\nalgorithm = 'HS256'\nkey = 'sw0rdfish'\nleeway = '1h'\nissuer = ''\n").unwrap_err();
    for says in ["fewer than 32 bytes", "\"5m\" is the most", "`issuer` is empty"] {
        assert!(short.contains(says), "{short}");
    }
    assert!(!short.contains("sw0rdfish"), "{short}");
    // Where the text is no TOML, nobody knows of which table a key is.
    let broken = read("[admin.jwt]\nkey = sw0rdfish\nalgorithm = \n").unwrap_err();
    assert!(broken.contains("this is not TOML") && !broken.contains("sw0rdfish"), "{broken}");
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let keys = keys();
    let dir = keys.path();
    assert!(tls(dir, "ec.pem", "ec.key").unwrap().admin.tls.is_some());
    for (certificate, key, line, says) in [
        ("ec.pem", "rsa.key", 3, "is not the key of the certificate"),
        ("ec.pub", "ec.key", 2, "has no certificate in PEM"),
        ("ec.pem", "ec.pub", 3, "has no private key"),
        ("none", "ec.key", 2, "create it"),
    ] {
        let error = tls(dir, certificate, key).unwrap_err();
        assert!(error.starts_with(&format!("test.toml:{line}:")) && error.contains(says), "{error}");
    }
    let half = read("[admin.tls]\ncertificate = '/none'\n").unwrap_err();
    assert!(half.contains("[admin.tls] has no `key`"), "{half}");
}

#[test]
fn the_plan_shows_who_may_call_and_no_secret_and_warns_of_tokens_in_clear() {
    let keys = keys();
    let table = format!("[admin.tokens.ops]\nrole = 'operator'\nsha256 = '{HASH}'\npools = ['orders']\n");
    let told = |bind: &str, more: &str| describe(&read(&format!("[admin]\nbind = {bind}\n{table}{more}")).unwrap());
    let open = told("['127.0.0.1:7072', '0.0.0.0:7073']", "");
    assert!(open.contains("token ops: operator of only orders"), "{open}");
    assert!(open.contains("warning: callers of 0.0.0.0:7073 send their tokens in clear"), "{open}");
    assert!(!open.contains(HASH), "{open}");
    assert!(!told("['127.0.0.1:7072', 'unix:/run/a.sock']", "").contains("warning"));
    let path = |name: &str| keys.path().join(name).display().to_string();
    let with_tls = format!("[admin.tls]\ncertificate = '{}'\nkey = '{}'\n", path("ec.pem"), path("ec.key"));
    let safe = told("'0.0.0.0:7073'", &with_tls);
    assert!(safe.contains("over TCP by TLS") && !safe.contains("warning") && !safe.contains("PRIVATE"), "{safe}");
    let jwt = format!("[admin.jwt]\nalgorithm = 'HS256'\nkey = {{ file = '{}' }}\nissuer = 'login'\n", path("secret"));
    let told = told("'127.0.0.1:7072'", &jwt);
    assert!(told.contains("JWT by HS256: issuer \"login\", any audience, role in \"role\""), "{told}");
    assert!(!told.contains("0123456789"), "{told}");
}

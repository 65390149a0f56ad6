//! Webhooks: what is understood of them, what is said about what is wrong, and that neither tells a secret.

use std::time::Duration;

use changeover::config::describe;
use changeover::model::{WebhookFormat, WebhookName};

use super::{SECRET, read};

/// Five lines of a file that is right.
const BEFORE: &str = "[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'p'\n[pools.p]\nbackends = ['10.0.0.1:1']\n";
/// Two more.
const HOOK: &str = "[webhooks.pager]\nurl = 'https://hooks.example.net/T0/hunter2'\n";

/// Each stands behind a webhook that is right, from line 8 on; the words are all that is said.
const BEHIND: &[(&str, &[&str])] = &[
    ("kinds = ['pool.dwn']", &["8:10 `kinds`: no event is of the kind `pool.dwn`; did you mean \"pool.down\"?"]),
    ("kinds = ['pool.down', 'pools.*']", &["8:23 `kinds`: no event is of the kind `pools.*`;"]),
    ("kinds = 'pool.down'", &["8:9 `kinds` takes a list of strings such as [\"pool.failover\", \"pool.down\"]"]),
    ("kinds = [5]", &["8:10 `kinds` takes a list of strings"]),
    ("pools = ['q']", &["8:10 `pools`: there is no pool `q`; did you mean \"p\"?"]),
    (
        "format = 'slak'",
        &["8:10 `format` takes one of \"json\", \"slack\" or \"alertmanager\"", "did you mean \"slack\"?"],
    ),
    ("timeout = '2m'", &["8:11 `timeout` is too long; \"60s\" is the most"]),
    ("give_up_after = 5", &["8:17 `give_up_after`: `5` has no unit"]),
    ("secret = ''", &["8:10 `secret`: the value (not shown) is empty"]),
    (
        "secret = \"two\\nlines\"",
        &["8:10 `secret`: the value (not shown) has more than one line, or what cannot be seen; it must be"],
    ),
    ("ca_file = '/no'", &["8:11 `ca_file`: the file cannot be read: No such file"]),
    ("urls = 'x'", &["8:1 unknown key `urls` in [webhooks.pager]; did you mean `url`?"]),
    ("[webhooks.none]", &["8:1 [webhooks.none] has no `url`; write url = \"https://hooks.example.net/changeover\""]),
    (
        "[webhooks.none]\nurl = 'ftp://hunter2/'",
        &["9:7 `url`: the value (not shown) is no URL of a webhook; it begins with https://"],
    ),
    (
        "[webhooks.none]\nurl = 'https://me:hunter2@host/'",
        &["9:7 `url`: the value (not shown) has a name or a password"],
    ),
    (
        "[webhooks.none]\nurl = 'http://h/hunter2'\nca_file = '/ca'",
        &["10:11 `ca_file` is given, but the URL begins with http://"],
    ),
];

#[test]
fn what_is_wrong_with_a_webhook_is_said_and_no_secret_with_it() {
    for (text, wanted) in BEHIND {
        let Err(errors) = read(&format!("{BEFORE}{HOOK}{text}\n")) else { panic!("nothing is wrong with {text}") };
        let said: Vec<String> =
            errors.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect();
        for words in *wanted {
            assert!(said.iter().any(|error| error.contains(words)), "no `{words}` in {said:#?}");
        }
        assert_eq!(said.len(), 1, "{text}: {said:#?}");
        assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");
    }
}

#[test]
fn what_is_left_out_is_as_the_reference_says() {
    let plan = read(&format!("{BEFORE}{HOOK}")).unwrap();
    let hook = &plan.webhooks[&WebhookName::from("pager")];
    assert_eq!(
        (hook.format, hook.timeout, hook.give_up_after),
        (WebhookFormat::Json, Duration::from_secs(5), Duration::from_secs(3600))
    );
    assert_eq!((hook.kinds.as_slice(), hook.pools.len(), &hook.secret), (["pool.*".to_owned()].as_slice(), 0, &None));
    assert_eq!((hook.url.is_tls, hook.url.path.as_str()), (true, "/T0/hunter2"));
    let told = describe(&plan);
    assert!(told.contains("\nwebhook pager to https://hooks.example.net/…: json, not signed\n"), "{told}");
    let more =
        format!("{HOOK}secret = '{SECRET}'\nkinds = ['*']\npools = ['p']\nformat = 'alertmanager'\ntimeout = '1s'\n");
    let plan = read(&format!("{BEFORE}{more}")).unwrap();
    let told = format!("{} {plan:?}", describe(&plan));
    assert!(told.contains("alertmanager, signed\n  posts * of p\n"), "{told}");
    assert!(!told.contains(SECRET) && !told.contains("hunter2"), "{told}");
}

#[test]
fn the_reference_of_a_webhook_changes_nothing() {
    let text = changeover::config::reference();
    let (_, part) = text.split_once("\n# [webhooks.pager]\n").unwrap();
    let is_default =
        |line: &&str| line.contains(" = ") && !["secret", "ca_file"].iter().any(|key| line.starts_with(key));
    let keys: Vec<&str> = part
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| !line.contains(". "))
        .filter(is_default)
        .collect();
    assert_eq!(keys.len(), 6, "{keys:#?}");
    let given = format!("{BEFORE}[webhooks.pager]\n{}\n", keys.join("\n"));
    let left_out = format!("{BEFORE}[webhooks.pager]\n{}\n", keys[0]);
    assert_eq!(read(&given).map_err(|e| e.to_string()), read(&left_out).map_err(|e| e.to_string()));
}

//! The keys of those outside: who may ask, by what they prove it, and who is told of events.

use crate::model::{AccessRole, JwtAlgorithm, WebhookFormat};

use super::{ANY, Key, Kind, Part, Preset, SOME};

pub(super) const KEYS: &[&Key] = HERE;

keys! {
    Token {
        TOKEN_ROLE = "role", Kind::Word(AccessRole::LABELS), Preset::Required("\"operator\""),
            "What its holder may: viewer reads; operator also drains, pauses, checks and reports; admin also fails over and changes what is configured.",
            "No default, because only you know.";
        TOKEN_SHA256 = "sha256", Kind::Secret, Preset::Required("\"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d\""),
            "The SHA-256 of the token, as 64 lower-case hexadecimal digits. This makes a token and shows it: (umask 077; openssl rand -hex 32 | tr -d '\\n' | tee token) | sha256sum.",
            "The token itself stands nowhere here, so that whoever reads this file cannot use it.";
        TOKEN_POOLS = "pools", Kind::Names("[\"orders\"]"), Preset::Optional("[\"orders\"]"),
            "The only pools that its holder sees and changes.",
            "Left out: all of them.";
    }
    Jwt {
        JWT_ALGORITHM = "algorithm", Kind::Word(JwtAlgorithm::LABELS), Preset::Required("\"RS256\""),
            "How they are signed: HS256, RS256, ES256 or EdDSA. No other algorithm is taken, whatever a JWT says of itself.",
            "No default, because only you know.";
        JWT_KEY = "key", Kind::Secret, Preset::Required("{ file = \"/etc/changeover/jwt.pem\" }"),
            "The public key in PEM by which they are checked; for HS256 the secret, of at least 32 bytes.",
            "No default, because only you know.";
        JWT_ISSUER = "issuer", Kind::Text { max: 512 }, Preset::Optional("\"https://login.example\""),
            "What their `iss` must be.",
            "Left out, it is not looked at: whatever the key has signed is taken.";
        JWT_AUDIENCE = "audience", Kind::Text { max: 512 }, Preset::Optional("\"changeover\""),
            "What must be in their `aud`.",
            "Left out, it is not looked at: a JWT that was made for another service is taken too.";
        JWT_ROLE = "role_claim", Kind::Text { max: 128 }, Preset::Text("role"),
            "The claim that says viewer, operator or admin.",
            "Its plainest name.";
        JWT_POOLS = "pools_claim", Kind::Text { max: 128 }, Preset::Text("pools"),
            "The claim with the list of the only pools of the caller; a JWT without it is for all of them.",
            "Its plainest name.";
        JWT_LEEWAY = "leeway", ANY, Preset::Text("30s"),
            "How far the clocks of the issuer and of this machine may be apart, at most \"5m\".",
            "Clocks that are kept by NTP are never as far apart.";
    }
    Tls {
        TLS_CERTIFICATE = "certificate", Kind::File, Preset::Required("\"/etc/changeover/admin.pem\""),
            "The file with the certificates in PEM, the server's own first. It is read again with each reload.",
            "No default, because only you know.";
        TLS_KEY = "key", Kind::File, Preset::Required("\"/etc/changeover/admin.key\""),
            "The file with its private key in PEM.",
            "No default, because only you know.";
    }
    Webhook {
        URL = "url", Kind::Secret, Preset::Required("\"https://hooks.example.net/changeover\""),
            "Where events are posted to, one at a time and in order: \"https://HOST/PATH\" or \"http://…\". An Alertmanager takes them at /api/v2/alerts. Never printed but for the host.",
            "No default, because only you know.";
        KINDS = "kinds", Kind::Names("[\"pool.failover\", \"pool.down\"]"), Preset::Empty,
            "The kinds of events that are posted, such as [\"pool.down\", \"backend.*\"]; \"*\" is all. Empty is [\"pool.*\"].",
            "What concerns clients; backends come and go more often.";
        WEBHOOK_POOLS = "pools", Kind::Names("[\"orders\"]"), Preset::Empty,
            "Only the events of these pools; empty is all, and those of no pool.",
            "One receiver for everything is where most begin.";
        SECRET = "secret", Kind::Secret, Preset::Optional("{ file = \"/etc/changeover/pager.secret\" }"),
            "What each post is signed with (HMAC-SHA-256 of its time and its body), so that the receiver knows who sent it: one line of visible characters. One newline at the end of a file is not part of it, so that a file that an editor or `openssl rand -hex 32` has written may be named as it is. Never printed.",
            "Left out: they are not signed, for receivers that look at no signature.";
        WEBHOOK_FORMAT = "format", Kind::Word(WebhookFormat::LABELS), Preset::Text("json"),
            "What is posted: json (the event as the API shows it), slack (a text, as Slack, Mattermost and others take it) or alertmanager (alerts, which end when the pool or the backend is well again).",
            "All that there is.";
        WEBHOOK_TIMEOUT = "timeout", SOME, Preset::Text("5s"),
            "The longest that one attempt may take, from the dial to the answer; at most \"60s\". Whatever is not answered with a status of 2xx is tried again, later each time, up to once a minute.",
            "A receiver that hangs is not waited for by those that come after it for long.";
        GIVE_UP_AFTER = "give_up_after", SOME, Preset::Text("1h"),
            "An event that could not be posted for so long is given up, which is an event itself, and the next one is posted. A status of 4xx gives it up at once, but for 408, 425 and 429.",
            "Longer than a receiver's restart, and shorter than anybody's interest.";
        WEBHOOK_CA_FILE = "ca_file", Kind::File, Preset::Optional("\"/etc/changeover/hooks-ca.pem\""),
            "The file with the certificates that are trusted, in PEM; for https.",
            "Left out: those that the system trusts.";
    }
}

//! The keys of tunnels: how a backend is reached that cannot be dialled as it is, and what programs lead there.

use crate::model::Attach;

use super::{ANY, Key, Kind, Part, Preset, SOME};

pub(super) const KEYS: &[&Key] = HERE;

/// A duration from one look-up to the next.
const SELDOM: Kind = Kind::Duration { min: std::time::Duration::from_secs(1) };
/// A word or a line of text.
const LINE: Kind = Kind::Text { max: 256 };
/// The words for what an option of a provider takes.
pub(in crate::config) const OPTION_KINDS: &[&str] = &["text", "number", "flag", "path", "key", "server"];

keys! {
    Root {
        TUNNEL_PROVIDERS = "tunnel_providers", Kind::Tables(Part::Provider), Preset::Section,
            "Providers of tunnels of your own.", "";
    }
    Backend {
        TUNNEL = "tunnel", Kind::Table(Part::Tunnel), Preset::Section,
            "The tunnel that leads to it.", "";
    }
    Tunnel {
        PROVIDER = "provider", LINE, Preset::Required("\"ssh\""),
            "What leads there: ssh, cloudflared, tailscale, ngrok, frp, chisel, wstunnel, rathole, command (a program that you name) or one of [tunnel_providers]. See the README for each one's options.",
            "No default, because only you know.";
        ATTACH = "attach", Kind::Word(Attach::LABELS), Preset::Optional("\"listen\""),
            "What it gives: listen (its program opens a port on loopback, which changeover chooses), stdio (one program for each connection), socks5 or http-connect (a proxy to dial through) or address (nothing local: the backend is dialled as it is).",
            "Left out: the first that the provider knows.";
        TUNNEL_TARGET = "target", Kind::Address, Preset::Optional("\"db.internal:5432\""),
            "The service at the far side, \"HOST:PORT\" as it is called there. It is the backend's address then. Tunnels of one pool whose targets are written alike are taken to lead to one service: while it answers behind none of them, that is not held against them.",
            "No default, because only you know; left out only with attach = \"address\".";
        OPTIONS = "options", Kind::Texts("{ host = \"bastion\" }"), Preset::Optional("{ host = \"bastion\", user = \"tun\", identity_file = \"/etc/changeover/id\" }"),
            "What the provider has to know.",
            "Left out: none, which few providers can do with.";
        TUNNEL_COMMAND = "command", Kind::Argv, Preset::Optional("[\"/usr/bin/x\", \"--listen\", \"127.0.0.1:{local_port}\", \"{target}\"]"),
            "With provider = \"command\": the program and its arguments, started without a shell. {local_port}, {target}, {target_host}, {target_port} and {file} are filled in; {{ and }} are the braces themselves. All users of the host can read it, so that no secret may stand here, nor anything that is looked up.",
            "No default, because only you have it.";
        TUNNEL_ENV = "env", Kind::Texts("{ NAME = \"text\" }"), Preset::Optional("{ NAME = \"plain\", TOKEN = { file = \"/run/secrets/token\" } }"),
            "What is added to the program's environment, with the same places to fill in. A secret must be looked up.",
            "Left out: what the provider adds, and the PATH, HOME and LANG of the daemon.";
        TUNNEL_FILE = "file", Kind::Text { max: 16384 }, Preset::Optional("{ file = \"/etc/changeover/tunnel.toml\" }"),
            "With provider = \"command\": the content of a file that is in memory alone, whose path is {file}; the same places are filled in unless it is looked up.",
            "Left out: none.";
        PROXY = "proxy", Kind::Address, Preset::Optional("\"127.0.0.1:1055\""),
            "With attach = \"socks5\" or \"http-connect\": the proxy that somebody else runs. No program is started.",
            "Left out: the provider's program is the proxy.";
        LOOKUP = "lookup", Kind::Table(Part::Lookup), Preset::Section,
            "With attach = \"address\": how the backend's address is found out, if it changes.", "";
        READY = "ready", LINE, Preset::Optional("\"Connected\""),
            "A text in a line of the program's output by which it says that the way is open.",
            "Left out: the provider's, or else that its port accepts.";
        READY_TIMEOUT = "ready_timeout", SOME, Preset::Text("20s"),
            "The longest that it may take from the start until the way is open and a check has come through.",
            "Longer than a handshake over a bad line, shorter than anybody's patience.";
        FATAL = "fatal", Kind::Names("[\"Permission denied (\"]"), Preset::Empty,
            "Texts of which one in a line of the program's output says that it will never work as it is set up, beside those of the provider. It is then tried only now and then.",
            "Only programs that you know say more than their provider's list.";
        RESTART_AFTER = "restart_after", Kind::Integer { min: 0, max: 1000 }, Preset::Optional("6"),
            "So many failed checks in a row have the program started anew, also if it still runs; 0 is never.",
            "Left out: twice the check's `unhealthy_threshold`, because to take a backend out is cheap and to restart its tunnel is not.";
        RETRY_INITIAL = "retry_initial", SOME, Preset::Text("500ms"),
            "The longest wait before the second try; it doubles with each.",
            "A program that was killed is back within a second.";
        RETRY_MAX = "retry_max", SOME, Preset::Text("30s"),
            "The longest wait there is between two tries.",
            "A server that comes back is not waited for much longer. Only what says itself that it will never work is tried every five minutes or so.";
        RETRY_RESET = "retry_reset", ANY, Preset::Text("60s"),
            "Tries count from the start again once checks have come through for so long.",
            "A tunnel that lasts a minute is well.";
        STOP_GRACE = "stop_grace", SOME, Preset::Text("5s"),
            "How long its program may take to end once it was asked to; it is killed then.",
            "Most take no time at all.";
    }
    Lookup {
        LOOKUP_URL = "url", Kind::Secret, Preset::Optional("\"http://127.0.0.1:4040/api/tunnels\""),
            "An HTTP server that answers with JSON, in which the address stands at `pointer`. What is behind its ? is never printed.",
            "Left out: `command` is asked.";
        POINTER = "pointer", Kind::Text { max: 512 }, Preset::Optional("\"/tunnels/0/public_url\""),
            "Where the address stands in the answer, as a JSON pointer (RFC 6901): \"HOST:PORT\", or a URL with both.",
            "No default, because only you know; needed with `url`.";
        LOOKUP_AUTHORIZATION = "authorization", Kind::Secret, Preset::Optional("{ file = \"/etc/changeover/lookup-authorization\" }"),
            "The value of an Authorization header to send. Never printed.",
            "Left out: none is sent.";
        LOOKUP_COMMAND = "command", Kind::Argv, Preset::Optional("[\"/usr/lib/x/where\"]"),
            "A program and its arguments, started without a shell with the tunnel's `env`: the first line of its output is the address.",
            "Left out: `url` is asked.";
        LOOKUP_INTERVAL = "interval", SELDOM, Preset::Text("30s"),
            "From one look-up to the next; at least \"1s\".",
            "An address that changes is rare, and half a minute is soon enough.";
        LOOKUP_TIMEOUT = "timeout", SOME, Preset::Text("5s"),
            "The longest that one may take.",
            "Whoever is asked is near.";
    }
    Provider {
        PROVIDER_ATTACH = "attach", Kind::Names("[\"listen\", \"stdio\"]"), Preset::Required("[\"listen\", \"stdio\"]"),
            "What it can give, the usual one first.",
            "No default, because only you know.";
        PROVIDER_COMMAND = "command", Kind::Argv, Preset::Optional("[\"/usr/bin/x\", [\"--user\", \"{user}\"]]"),
            "The program and the arguments that it always has. Beside the places of a tunnel's `command`, {NAME} is filled in with an option's value; a word goes if its option is left out, and so does a list of words in which that happens. {?NAME} is filled in with nothing and asks only whether an option is given.",
            "Left out: what follows is all.";
        PROVIDER_LISTEN = "listen", Kind::Argv, Preset::Optional("[\"--listen\", \"127.0.0.1:{local_port}\", \"{server}\"]"),
            "The arguments that it has besides with attach = \"listen\".",
            "Left out: no program is run for that.";
        PROVIDER_STDIO = "stdio", Kind::Argv, Preset::Optional("[\"--stdio\", \"{server}\"]"),
            "The same with \"stdio\".",
            "As above.";
        PROVIDER_SOCKS5 = "socks5", Kind::Argv, Preset::Optional("[\"--socks\", \"127.0.0.1:{local_port}\", \"{server}\"]"),
            "The same with \"socks5\".",
            "As above.";
        PROVIDER_HTTP_CONNECT = "http-connect", Kind::Argv, Preset::Optional("[\"--proxy\", \"127.0.0.1:{local_port}\", \"{server}\"]"),
            "The same with \"http-connect\".",
            "As above.";
        PROVIDER_ADDRESS = "address", Kind::Argv, Preset::Optional("[\"-c\", \"{file}\"]"),
            "The same with \"address\"; the program is run only if an option is given.",
            "As above.";
        PROVIDER_ENV = "env", Kind::Texts("{ TOKEN = \"{token}\" }"), Preset::Optional("{ TOKEN = \"{token}\" }"),
            "What is added to the program's environment; an entry goes if its option is left out.",
            "Left out: nothing.";
        PROVIDER_FILE = "file", Kind::Text { max: 16384 }, Preset::Optional("'secret = \"{token}\"'"),
            "The content of a file that is in memory alone, whose path is {file}. Options are escaped as between double quotes in TOML and JSON; a line goes if its option is left out.",
            "Left out: none.";
        PROVIDER_READY = "ready", LINE, Preset::Optional("\"Connected\""),
            "A text in a line of the program's output by which it says that the way is open.",
            "Left out: its port accepts then.";
        PROVIDER_FATAL = "fatal", Kind::Names("[\"Permission denied (\"]"), Preset::Empty,
            "Texts of which one in a line of the program's output says that it will never work as it is set up.",
            "Whatever it says, it is tried again.";
        PROVIDER_LOOKUP = "lookup", Kind::Table(Part::Lookup), Preset::Section,
            "How the backend's address is found out with attach = \"address\"; options may be filled in.", "";
        VERSION = "version", Kind::Argv, Preset::Optional("[\"/usr/bin/x\", \"--version\"]"),
            "The program and the arguments by which it tells its version, for `changeover doctor`.",
            "Left out: it is not asked.";
        VERSION_AFTER = "version_after", LINE, Preset::Text(""),
            "What stands before the version in the answer.",
            "Nothing: the first number with a full stop in it is the version.";
        PROVIDER_OPTIONS = "options", Kind::Tables(Part::ProviderOption), Preset::Section,
            "Its options by name.", "";
    }
    ProviderOption {
        OPTION_KIND = "kind", Kind::Word(OPTION_KINDS), Preset::Text("text"),
            "What it takes: text, number, flag (true or false), path (an absolute one), key (the same, of a file that nobody else may read) or server (a host, with a port or as a URL if need be). `changeover doctor` looks at keys and asks for servers.",
            "A line of text is what most take.";
        OPTION_DEFAULT = "default", LINE, Preset::Optional("\"10\""),
            "Its value if it is left out.",
            "Left out: none, and what it stands in goes.";
        OPTION_REQUIRED = "required", Kind::Flag, Preset::Flag(false),
            "Whether it must be given.",
            "Most need not.";
        OPTION_SECRET = "secret", Kind::Flag, Preset::Optional("true"),
            "Whether it is a secret: it must be looked up then, and may be filled in in `env` and `file` alone.",
            "Left out: it is if it is a text and its name says so, as that of a token, a password or a key does.";
    }
}

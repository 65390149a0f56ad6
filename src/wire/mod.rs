//! Floor 2: bytes on the wire, or out of a program's pipe, and what they mean. No I/O, no time: slices in, values out.

mod agent;
mod greeting;
pub mod http_connect;
mod http_request;
mod lines;
pub mod postgres;
mod printable;
mod proxy_header;
pub mod socks5;

pub use agent::{AGENT_LINE_MAX, AgentAnswer, NotAnAnswer, agent_line, parse_agent_answer};
pub use greeting::is_greeting;
pub use http_request::{HTTP_AGENT, http_request};
pub use lines::{LINE_CUT, LINE_MAX, Lines};
pub use printable::printable;
pub use proxy_header::{Announced, NotAHeader, PROXY_HEADER_MAX, own_proxy_header, parse_proxy_header, proxy_header};

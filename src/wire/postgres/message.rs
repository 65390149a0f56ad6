//! One message of a server at a time, as far as a monitor needs it.

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Header, Message};

use crate::wire::printable;

/// The longest message that a monitor reads, unless it asked for more, in bytes. Its own questions have answers of a few dozen.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most of a server's error that is kept for the log and the API, in bytes.
const TEXT_MAX: usize = 512;
/// The most columns of a row that are kept. The monitor's own questions have five.
const COLUMNS_MAX: usize = 16;
/// `ReadyForQuery` outside a transaction.
const BARE_READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

/// A row: each column's text, or nothing for a null.
pub type Row = Vec<Option<Bytes>>;

/// Bytes that are no message of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPostgres {
    /// No message is that long, or that short.
    #[error("a message of {0} bytes")]
    Length(i64),
    /// It is not as a message of its kind has to be.
    #[error("{0}")]
    Malformed(String),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// How to log in, or that it is done.
    Demand(Demand),
    /// A setting, when the session begins and whenever it changes.
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// One row of an answer.
    Row(Row),
    /// An error.
    Error(Told),
    /// A notice; with a code of class 57 it is the session's end.
    Notice(Told),
    /// The answer is complete, and the next question may come.
    Ready,
    /// Nothing that a monitor needs.
    Other,
}

/// What the server wants to see before it lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Nothing more.
    Nothing,
    /// The password itself.
    Cleartext,
    /// The password's MD5 hash with this salt.
    Md5([u8; 4]),
    /// One of these mechanisms.
    Sasl(Vec<String>),
    /// The mechanism's next step.
    SaslContinue(Bytes),
    /// Its last.
    SaslFinal(Bytes),
    /// Something that this program cannot do.
    Unsupported(&'static str),
}

/// What an error or a notice says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// How bad it is: `ERROR`, `FATAL`, `WARNING`, in whatever language the server has if it is older than version 9.6.
    pub severity: String,
    /// The five letters and digits that mean it.
    pub code: String,
    /// It in words.
    pub message: String,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.code)
    }
}

/// Whether `bytes` are nothing but the word that the server is ready: the answer to nearly every heartbeat.
#[must_use]
pub fn is_bare_ready(bytes: &[u8]) -> bool {
    bytes == BARE_READY
}

/// Takes the first message out of `buffer`; nothing if it is not there yet in full.
///
/// # Errors
///
/// If these bytes cannot become a message of at most `max` bytes.
pub fn next_said(buffer: &mut BytesMut, max: usize) -> Result<Option<Said>, NotPostgres> {
    if let [b'A'..=b'Z' | b'a'..=b'z' | b'1'..=b'3', ..] | [] = &**buffer {
    } else {
        return Err(NotPostgres::Malformed("no message begins like that".to_owned()));
    }
    let Some(header) = Header::parse(buffer).map_err(malformed)? else { return Ok(None) };
    let whole = usize::try_from(header.len()).ok().filter(|length| *length <= max);
    let Some(whole) = whole.map(|length| length + 1) else { return Err(NotPostgres::Length(header.len().into())) };
    // The parser makes room for the length that it is told, so it is asked only once all is there.
    if buffer.len() < whole {
        return Ok(None);
    }
    Message::parse(buffer).map_err(malformed)?.map(said).transpose()
}

fn malformed(error: std::io::Error) -> NotPostgres {
    NotPostgres::Malformed(error.to_string())
}

fn said(message: Message) -> Result<Said, NotPostgres> {
    Ok(match message {
        Message::AuthenticationOk => Said::Demand(Demand::Nothing),
        Message::AuthenticationCleartextPassword => Said::Demand(Demand::Cleartext),
        Message::AuthenticationMd5Password(body) => Said::Demand(Demand::Md5(body.salt())),
        Message::AuthenticationSasl(body) => {
            let names = body.mechanisms().map(|name| Ok(name.to_owned())).take(COLUMNS_MAX).collect();
            Said::Demand(Demand::Sasl(names.map_err(malformed)?))
        }
        Message::AuthenticationSaslContinue(body) => {
            Said::Demand(Demand::SaslContinue(Bytes::copy_from_slice(body.data())))
        }
        Message::AuthenticationSaslFinal(body) => Said::Demand(Demand::SaslFinal(Bytes::copy_from_slice(body.data()))),
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => {
            Said::Demand(Demand::Unsupported("GSSAPI"))
        }
        Message::AuthenticationKerberosV5 => Said::Demand(Demand::Unsupported("Kerberos")),
        Message::AuthenticationScmCredential => Said::Demand(Demand::Unsupported("SCM credentials")),
        Message::AuthenticationSspi => Said::Demand(Demand::Unsupported("SSPI")),
        Message::ParameterStatus(body) => Said::Parameter {
            name: body.name().map_err(malformed)?.to_owned(),
            value: body.value().map_err(malformed)?.to_owned(),
        },
        Message::DataRow(body) => Said::Row(row(&body)?),
        Message::ErrorResponse(body) => Said::Error(told(body.fields())?),
        Message::NoticeResponse(body) => Said::Notice(told(body.fields())?),
        Message::ReadyForQuery(_) => Said::Ready,
        Message::BackendKeyData(_)
        | Message::BindComplete
        | Message::CloseComplete
        | Message::CommandComplete(_)
        | Message::CopyData(_)
        | Message::CopyDone
        | Message::CopyInResponse(_)
        | Message::CopyOutResponse(_)
        | Message::EmptyQueryResponse
        | Message::NoData
        | Message::NotificationResponse(_)
        | Message::ParameterDescription(_)
        | Message::ParseComplete
        | Message::PortalSuspended
        | Message::RowDescription(_)
        | _ => Said::Other,
    })
}

fn row(body: &DataRowBody) -> Result<Row, NotPostgres> {
    let bytes = body.buffer_bytes();
    let ranges: Vec<_> = body.ranges().take(COLUMNS_MAX).collect().map_err(malformed)?;
    let column = |range: Option<std::ops::Range<usize>>| match range {
        Some(range) if range.end <= bytes.len() => Ok(Some(bytes.slice(range))),
        Some(_) => Err(NotPostgres::Malformed("a column ends behind its row".to_owned())),
        None => Ok(None),
    };
    ranges.into_iter().map(column).collect()
}

fn told(mut fields: ErrorFields<'_>) -> Result<Told, NotPostgres> {
    let mut told = Told::default();
    while let Some(field) = fields.next().map_err(malformed)? {
        let text = || printable(field.value_bytes(), TEXT_MAX);
        match field.type_() {
            b'S' if told.severity.is_empty() => told.severity = text(),
            // The same word, in no language but English.
            b'V' => told.severity = text(),
            b'C' => told.code = text(),
            b'M' => told.message = text(),
            _ => {}
        }
    }
    Ok(told)
}

/// How often the password has to be hashed, as the first message of a server in SCRAM says. Whoever claims to be the server
/// decides over it, and it costs time.
#[must_use]
pub fn scram_iterations(first: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(first).ok()?;
    text.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::postgres::{HISTORY_MAX, Identity, parse_history, parse_lsn};
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn all(bytes: &[u8]) -> Result<Vec<Said>, NotPostgres> {
        let mut buffer = BytesMut::from(bytes);
        let mut said = Vec::new();
        while let Some(one) = next_said(&mut buffer, MESSAGE_MAX)? {
            said.push(one);
        }
        Ok(said)
    }

    #[test]
    fn an_error_is_its_code_and_its_words() {
        let body = b"SFEHLER\0VFATAL\0C57P03\0Mthe database system is starting up\0Fpostmaster.c\0\0";
        let told = Told {
            severity: "FATAL".to_owned(),
            code: "57P03".to_owned(),
            message: "the database system is starting up".to_owned(),
        };
        assert_eq!(told.to_string(), "FATAL: the database system is starting up (57P03)");
        assert_eq!(all(&message(b'E', body)).unwrap(), [Said::Error(told.clone())]);
        assert_eq!(all(&message(b'N', body)).unwrap(), [Said::Notice(told)]);
    }

    #[test]
    fn a_promotion_is_a_parameter_before_the_ready() {
        let mut bytes = message(b'S', b"in_hot_standby\0off\0");
        bytes.extend(message(b'Z', b"I"));
        let parameter = Said::Parameter { name: "in_hot_standby".to_owned(), value: "off".to_owned() };
        assert_eq!(all(&bytes).unwrap(), [parameter, Said::Ready]);
        assert!(!is_bare_ready(&bytes));
        assert!(is_bare_ready(&message(b'Z', b"I")));
    }

    #[test]
    fn a_row_is_its_columns() {
        let row = message(b'D', b"\0\x03\0\0\0\x031/A\xff\xff\xff\xff\0\0\0\0");
        assert_eq!(all(&row).unwrap(), [Said::Row(vec![Some("1/A".into()), None, Some("".into())])]);
        for broken in [&b"\0\x01\0\0\0\x09short"[..], b"\0\x02\0\0\0\x01x", b"", b"\0\x01\x7f\xff\xff\xff"] {
            assert!(all(&message(b'D', broken)).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn what_is_no_postgres_is_known_by_its_first_bytes() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"220 mail\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\0\0\0\0\0\0",
            b"Z\0\0\0\x03",
        ] {
            assert!(all(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(all(b"Z\0\0\0").unwrap(), [], "it may become one");
    }

    #[test]
    fn a_length_makes_no_room_before_its_bytes_are_there() {
        let mut buffer = BytesMut::from(&b"D\0\0\xff\xff"[..]);
        assert_eq!(next_said(&mut buffer, MESSAGE_MAX), Ok(None));
        assert!(buffer.capacity() < 1024);
        let too_long = b"D\0\x01\0\x01";
        assert_eq!(all(too_long), Err(NotPostgres::Length(65_537)));
    }

    #[test]
    fn the_iterations_of_scram_are_read_before_they_are_made() {
        assert_eq!(scram_iterations(b"r=abc,s=c2FsdA==,i=4096"), Some(4096));
        assert_eq!(scram_iterations(b"r=abc,s=c2FsdA==,i=99999999999"), None);
        assert_eq!(scram_iterations(b"e=other-error"), None);
    }

    /// The body of the fuzz target `postgres_server`, in `fuzz/`.
    fn whatever_a_server_says(bytes: &[u8]) {
        let mut buffer = BytesMut::from(bytes);
        let mut left = buffer.len();
        while let Ok(Some(said)) = next_said(&mut buffer, MESSAGE_MAX) {
            assert!(buffer.len() < left, "a message was taken out");
            left = buffer.len();
            if let Said::Row(row) = said {
                let _identity = Identity::parse(&row);
                for column in row.iter().flatten() {
                    let _forks = parse_history(column);
                }
            }
        }
        let _iterations = scram_iterations(bytes);
        let _forks = parse_history(bytes.get(..HISTORY_MAX).unwrap_or(bytes));
        let _lsn = std::str::from_utf8(bytes).ok().and_then(parse_lsn);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_server_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            whatever_a_server_says(&bytes);
        }

        #[test]
        fn no_body_of_a_message_panics(
            bodies in proptest::collection::vec(
                (proptest::sample::select(&b"RSDENZTCKA123cdGHInst"[..]), proptest::collection::vec(any::<u8>(), 0..60)),
                0..6,
            ),
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            whatever_a_server_says(&bytes);
        }
    }
}

//! Whatever a PostgreSQL server says to its monitor: the same body as the property test in `src/wire/postgres/message.rs`.

#![no_main]

use bytes::BytesMut;
use changeover::wire::postgres::{
    HISTORY_MAX, Identity, MESSAGE_MAX, Said, next_said, parse_history, parse_lsn, scram_iterations,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
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
});

//! What proxies answer, SOCKS5 and HTTP's `CONNECT`. Nothing may panic, and an answer found in a part is the one that is found
//! in the whole.
//!
//! The same holds of `any_bytes_give_the_same_however_they_are_split` and `no_bytes_make_it_panic` in the plain tests.
#![no_main]

use changeover::wire::http_connect::parse_head;
use changeover::wire::socks5::{parse_method, parse_reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (method, reply, head) = (parse_method(bytes), parse_reply(bytes), parse_head(bytes));
    for end in 0..bytes.len() {
        let part = &bytes[..end];
        let of_part = (parse_method(part), parse_reply(part), parse_head(part));
        assert!(of_part.0 == Ok(None) || of_part.0 == method);
        assert!(of_part.1 == Ok(None) || of_part.1 == reply);
        assert!(of_part.2 == Ok(None) || of_part.2 == head);
        let lengths = [
            of_part.0.ok().flatten(),
            of_part.1.ok().flatten().map(|(_, length)| length),
            of_part.2.ok().flatten().map(|head| head.length),
        ];
        assert!(lengths.into_iter().flatten().all(|length| length <= end));
    }
});

//! What a client sends first, and what both sides say until a session is open. Bytes go to one side or the other in pieces,
//! as the input says; nothing may panic, and a packet found in a part is the one that is found in the whole.
//!
//! The same holds of `any_bytes_give_the_same_however_they_are_split`, `an_answer_is_waited_for_to_an_end`,
//! `an_error_has_its_length_whatever_it_says` and `no_bytes_make_it_panic` in the plain tests.
#![no_main]

use changeover::wire::postgres::{FirstAnswer, StartupTap, Tapped, cannot_connect_now, first_answer, parse_first_packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse_first_packet(bytes);
    for end in 0..bytes.len() {
        let part = parse_first_packet(&bytes[..end]);
        assert!(part == Ok(None) || part == whole);
        if let Ok(Some((_, length))) = part {
            assert!(length <= end);
        }
    }
    let whole = first_answer(bytes);
    for end in 1..bytes.len() {
        let part = first_answer(&bytes[..end]);
        assert!(part == FirstAnswer::ErrorBegun || part == whole);
    }
    // A byte says who speaks and how much, and the rest is said.
    let (mut tap, mut rest) = (StartupTap::default(), bytes);
    while let Some((&head, said)) = rest.split_first() {
        let (piece, after) = said.split_at(said.len().min(usize::from(head >> 1)));
        let tapped = if head & 1 == 0 { tap.client(piece) } else { tap.server(piece) };
        if tapped != Tapped::GoOn {
            break;
        }
        rest = after;
    }
    let text = String::from_utf8_lossy(bytes);
    let error = cannot_connect_now(&text, &text);
    let length = u32::from_be_bytes([error[1], error[2], error[3], error[4]]);
    assert_eq!(usize::try_from(length), Ok(error.len() - 1));
    let is_short = error.len() <= 8 * 1024;
    assert!(!is_short || first_answer(&error) == FirstAnswer::CannotConnectNow);
});

//! Tokens: random texts of which the daemon knows the SHA-256 alone. One that is presented is compared with all of them,
//! in a time that does not depend on where they differ.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::model::{AccessRole, PoolName, TokenPlan};

/// What the holder of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// `token:NAME`.
    pub(super) actor: String,
    pub(super) role: AccessRole,
    pub(super) pools: Option<Arc<[PoolName]>>,
}

/// The tokens that are taken.
#[derive(Default)]
pub(super) struct Tokens(Vec<([u8; 32], Holder)>);

impl Tokens {
    pub(super) fn new(plans: &[TokenPlan]) -> Self {
        let token = |plan: &TokenPlan| {
            let holder = Holder { actor: format!("token:{}", plan.name), role: plan.role, pools: plan.pools.clone() };
            unhex(plan.sha256.expose()).map(|sha256| (sha256, holder))
        };
        Self(plans.iter().filter_map(token).collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token `presented` is. All are compared, whichever it is.
    pub(super) fn holder(&self, presented: &str) -> Option<&Holder> {
        let hash = digest(&SHA256, presented.as_bytes());
        let (mut place, mut found) = (0_u32, Choice::from(0));
        for (at, (sha256, _)) in (0_u32..).zip(&self.0) {
            let same = sha256.as_slice().ct_eq(hash.as_ref());
            place.conditional_assign(&at, same);
            found |= same;
        }
        let place = usize::try_from(place).ok()?;
        self.0.get(place).filter(|_| found.into()).map(|(_, holder)| holder)
    }
}

/// The bytes that 64 hexadecimal digits are.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Tokens, unhex};
    use crate::model::{AccessRole, Secret, TokenPlan};

    fn plan(name: &str, sha256: &str, role: AccessRole) -> TokenPlan {
        TokenPlan { name: name.into(), role, sha256: Secret::new(sha256), pools: None }
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        // Of "abc" and of the empty text, by FIPS 180-2 and NIST's examples.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let tokens = Tokens::new(&[
            plan("none", empty, AccessRole::Viewer),
            plan("ops", abc, AccessRole::Admin),
            plan("other", &"0".repeat(64), AccessRole::Viewer),
        ]);
        let holder = |presented: &str| tokens.holder(presented).map(|holder| (holder.actor.as_str(), holder.role));
        assert_eq!(holder("abc"), Some(("token:ops", AccessRole::Admin)));
        assert_eq!(holder(""), Some(("token:none", AccessRole::Viewer)));
        for wrong in [abc, "abd", "ab", "abc ", "token:ops"] {
            assert_eq!(holder(wrong), None, "{wrong}");
        }
        assert!(Tokens::default().holder("abc").is_none());
    }

    #[test]
    fn what_is_no_hash_is_nobodys() {
        assert!(unhex(&"0g".repeat(32)).is_none() && unhex("00").is_none() && unhex(&"é".repeat(32)).is_none());
        assert_eq!(unhex(&"0f".repeat(32)), Some([15; 32]));
    }
}

//! JWTs (RFC 7519). The algorithm is the configuration's, never the token's own; `exp` must be there, `nbf` is kept to,
//! and issuer and audience are looked at where the configuration names them.

use std::mem::discriminant;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Map, Value};

use crate::config::credentials::verifying_key;
use crate::model::{AccessRole, JwtAlgorithm, JwtPlan, PoolName, is_unprintable};

use super::tokens::Holder;

/// The longest name of a caller, in characters.
const SUBJECT_MAX: usize = 128;
/// The most pools in a claim.
const POOLS_MAX: usize = 1000;

/// What JWTs are checked by.
pub(super) struct Jwt {
    key: DecodingKey,
    validation: Validation,
    role_claim: String,
    pools_claim: String,
}

impl Jwt {
    /// # Errors
    ///
    /// Says what is wrong with the key, as the end of a sentence.
    pub(super) fn new(plan: &JwtPlan) -> Result<Self, &'static str> {
        let key = verifying_key(plan.algorithm, &plan.key)?;
        let mut validation = Validation::new(match plan.algorithm {
            JwtAlgorithm::Hs256 => Algorithm::HS256,
            JwtAlgorithm::Rs256 => Algorithm::RS256,
            JwtAlgorithm::Es256 => Algorithm::ES256,
            JwtAlgorithm::EdDsa => Algorithm::EdDSA,
        });
        let mut required = vec!["exp"];
        validation.leeway = plan.leeway.as_secs();
        validation.validate_nbf = true;
        if let Some(issuer) = &plan.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &plan.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let (role_claim, pools_claim) = (plan.role_claim.clone(), plan.pools_claim.clone());
        Ok(Self { key, validation, role_claim, pools_claim })
    }

    /// Who presents `token`.
    ///
    /// # Errors
    ///
    /// Why it is not taken; without a word of it, and for the log alone.
    pub(super) fn holder(&self, token: &str) -> Result<Holder, String> {
        let decoded = decode::<Map<String, Value>>(token, &self.key, &self.validation);
        let decoded = decoded.map_err(|error| reason(&error))?;
        if decoded.header.crit.is_some() {
            // RFC 7515, 4.1.11: whoever does not know what is named there must not take it, and nothing is known here.
            return Err("its `crit` names what is not known here".to_owned());
        }
        let claims = decoded.claims;
        let role = claims.get(&self.role_claim).and_then(Value::as_str).and_then(AccessRole::from_label);
        let role = role.ok_or_else(|| format!("`{}` is none of viewer, operator and admin", self.role_claim))?;
        let subject = match claims.get("sub") {
            None | Some(Value::Null) => "",
            Some(Value::String(subject)) => subject.as_str(),
            Some(_) => return Err("`sub` is no text".to_owned()),
        };
        if subject.chars().count() > SUBJECT_MAX || subject.chars().any(is_unprintable) {
            return Err(format!("`sub` is longer than {SUBJECT_MAX} characters, or more than a line"));
        }
        Ok(Holder { actor: format!("jwt:{subject}"), role, pools: self.pools(&claims)? })
    }

    fn pools(&self, claims: &Map<String, Value>) -> Result<Option<Arc<[PoolName]>>, String> {
        let list = match claims.get(&self.pools_claim) {
            None => return Ok(None),
            Some(Value::Array(list)) if list.len() <= POOLS_MAX => list,
            // Whatever else it is, it was meant to keep the caller to something.
            Some(_) => return Err(format!("`{}` is no list of up to {POOLS_MAX} names", self.pools_claim)),
        };
        let names: Option<Vec<PoolName>> = list.iter().map(|name| name.as_str().map(PoolName::from)).collect();
        Ok(Some(names.ok_or_else(|| format!("`{}` has something in it that is no name", self.pools_claim))?.into()))
    }
}

/// Why a JWT is not taken. What the parsers say of it is left out: they repeat what stands in it.
fn reason(error: &jsonwebtoken::errors::Error) -> String {
    const REASONS: &[(ErrorKind, &str)] = &[
        (ErrorKind::ExpiredSignature, "it has expired"),
        (ErrorKind::ImmatureSignature, "its time has not come"),
        (ErrorKind::InvalidIssuer, "its issuer is another one"),
        (ErrorKind::InvalidAudience, "it is for another audience"),
        (ErrorKind::InvalidAlgorithm, "it is signed by another algorithm"),
        (ErrorKind::InvalidSignature, "its signature is wrong"),
    ];
    if let ErrorKind::MissingRequiredClaim(claim) = error.kind() {
        return format!("it has no `{claim}`");
    }
    let is_it = |kind: &ErrorKind| discriminant(kind) == discriminant(error.kind());
    let known = REASONS.iter().find(|(kind, _)| is_it(kind));
    known.map_or("it is no JWT", |(_, reason)| reason).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::{Value, json};

    use super::Jwt;
    use crate::model::{AccessRole, JwtAlgorithm, JwtPlan, PoolName, Secret};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn plan() -> JwtPlan {
        JwtPlan {
            algorithm: JwtAlgorithm::Hs256,
            key: Secret::new(SECRET),
            issuer: Some("login".to_owned()),
            audience: Some("changeover".to_owned()),
            role_claim: "role".to_owned(),
            pools_claim: "pools".to_owned(),
            leeway: Duration::from_secs(30),
        }
    }

    fn token(changes: Value) -> String {
        let mut claims = json!({ "sub": "ann", "iss": "login", "aud": ["x", "changeover"], "role": "operator",
            "exp": get_current_timestamp() + 100 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn refused(changes: Value, why: &str) {
        let shown = changes.to_string();
        assert_eq!(Jwt::new(&plan()).unwrap().holder(&token(changes)).unwrap_err(), why, "{shown}");
    }

    #[test]
    fn who_presents_one_is_whom_it_names() {
        let jwt = Jwt::new(&plan()).unwrap();
        let holder = jwt.holder(&token(json!({}))).unwrap();
        assert_eq!((holder.actor.as_str(), holder.role, holder.pools), ("jwt:ann", AccessRole::Operator, None));
        let holder = jwt.holder(&token(json!({ "pools": ["orders"], "sub": null }))).unwrap();
        assert_eq!((holder.actor.as_str(), holder.pools), ("jwt:", Some([PoolName::from("orders")].into())));
        // A list that names nobody's pool names no pool.
        assert_eq!(jwt.holder(&token(json!({ "pools": [] }))).unwrap().pools, Some([].into()));
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_refused() {
        let now = get_current_timestamp();
        let claims = json!({ "iss": "login", "aud": "changeover", "role": "viewer", "exp": now + 100 });
        for (crit, is_taken) in [(None, true), (Some(vec!["b64".to_owned()]), false), (Some(Vec::new()), false)] {
            let header = Header { crit: crit.clone(), ..Header::default() };
            let token = encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
            let holder = Jwt::new(&plan()).unwrap().holder(&token);
            assert_eq!(holder.is_ok(), is_taken, "{crit:?}: {holder:?}");
        }
    }

    #[test]
    fn times_are_kept_to_within_the_leeway() {
        let now = get_current_timestamp();
        let jwt = Jwt::new(&plan()).unwrap();
        assert!(jwt.holder(&token(json!({ "exp": now - 20, "nbf": now + 20 }))).is_ok());
        refused(json!({ "exp": now - 40 }), "it has expired");
        refused(json!({ "nbf": now + 60 }), "its time has not come");
        refused(json!({ "exp": null }), "it has no `exp`");
        refused(json!({ "exp": "tomorrow" }), "it has no `exp`");
    }

    #[test]
    fn what_says_of_itself_what_it_is_is_not_believed() {
        refused(json!({ "iss": "another" }), "its issuer is another one");
        refused(json!({ "aud": "another" }), "it is for another audience");
        refused(json!({ "role": "root" }), "`role` is none of viewer, operator and admin");
        refused(json!({ "role": null }), "`role` is none of viewer, operator and admin");
        refused(json!({ "pools": "orders" }), "`pools` is no list of up to 1000 names");
        refused(json!({ "pools": [1] }), "`pools` has something in it that is no name");
        refused(json!({ "sub": "a\nb" }), "`sub` is longer than 128 characters, or more than a line");
        let jwt = Jwt::new(&plan()).unwrap();
        let claims =
            json!({ "exp": get_current_timestamp() + 100, "iss": "login", "aud": "changeover", "role": "admin" });
        let stronger = encode(&Header::new(Algorithm::HS512), &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
        assert_eq!(jwt.holder(&stronger.unwrap()).unwrap_err(), "it is signed by another algorithm");
        let other = encode(&Header::default(), &claims, &EncodingKey::from_secret(b"another"));
        assert_eq!(jwt.holder(&other.unwrap()).unwrap_err(), "its signature is wrong");
        for nonsense in ["", "a.b.c", "..", "a.b", &"x".repeat(8000)] {
            assert!(jwt.holder(nonsense).is_err(), "{nonsense}");
        }
    }
}

//! A refused request, and everything that is wrong with it.

use std::fmt;

/// Why a request was refused, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectCode {
    /// There is no such pool.
    PoolNotFound,
    /// There is no such backend.
    BackendNotFound,
    /// There is a backend of that name.
    BackendExists,
    /// Another backend of the pool is at that address.
    AddressInUse,
    /// The backend stands in the file.
    BackendInFile,
    /// The request, or a value in it, is wrong.
    InvalidValue,
    /// There are as many as there may be.
    LimitReached,
}

impl RejectCode {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::PoolNotFound,
        Self::BackendNotFound,
        Self::BackendExists,
        Self::AddressInUse,
        Self::BackendInFile,
        Self::InvalidValue,
        Self::LimitReached,
    ];

    /// The `code` of the API's answer.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PoolNotFound => "pool_not_found",
            Self::BackendNotFound => "backend_not_found",
            Self::BackendExists => "backend_exists",
            Self::AddressInUse => "address_in_use",
            Self::BackendInFile => "backend_in_file",
            Self::InvalidValue => "invalid_value",
            Self::LimitReached => "limit_reached",
        }
    }
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// The field of the request's body with the tables it stands in: `check.interval`. Empty for the whole.
    pub field: String,
    /// What is wrong, and what would be right. Shows no secret.
    pub message: String,
}

/// A request that was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Rejected {
    /// Why.
    pub code: RejectCode,
    /// Everything that is wrong; at least one.
    pub faults: Vec<FieldFault>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, FieldFault { field, message }) in self.faults.iter().enumerate() {
            let between = if at > 0 { "\n" } else { "" };
            let colon = if field.is_empty() { "" } else { ": " };
            write!(f, "{between}{field}{colon}{message}")?;
        }
        Ok(())
    }
}

impl Rejected {
    pub(super) fn one(code: RejectCode, field: &str, message: String) -> Self {
        Self { code, faults: vec![FieldFault { field: field.to_owned(), message }] }
    }

    pub(super) fn invalid(field: &str, message: &str) -> Self {
        Self::one(RejectCode::InvalidValue, field, message.to_owned())
    }
}

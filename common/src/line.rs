//! One line of `word key=value key=value reason=the rest`.

use alloc::string::{String, ToString};
use core::str::FromStr;

/// A line that does not say what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// This key is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// This word or the value of this key cannot be understood.
    #[error("{0} cannot be understood")]
    Bad(&'static str),
}

/// A line, looked at field by field.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    fields: &'a str,
    reason: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The line without what surrounds it.
    pub fn new(text: &'a str) -> Self {
        let text = text.trim_matches(['\n', '\0', ' ']);
        match text.split_once(" reason=") {
            Some((fields, reason)) => Self { fields, reason: Some(reason) },
            None => Self { fields: text, reason: None },
        }
    }

    /// The bare first word, or nothing.
    pub fn word(&self) -> &'a str {
        let first = self.fields.split(' ').next().unwrap_or_default();
        if first.contains('=') { "" } else { first }
    }

    /// Every `key=value` of the line.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.fields.split(' ').filter_map(|part| part.split_once('='))
    }

    /// The value of `key`.
    pub fn field<T: FromStr>(&self, key: &'static str) -> Result<T, ParseError> {
        self.optional(key)?.ok_or(ParseError::Missing(key))
    }

    /// The value of `key`, if the line has it.
    pub fn optional<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, ParseError> {
        match self.pairs().find(|(name, _)| *name == key) {
            None => Ok(None),
            Some((_, value)) => value.parse().map(Some).map_err(|_| ParseError::Bad(key)),
        }
    }

    /// The free text at the end.
    pub fn reason(&self) -> Result<String, ParseError> {
        self.reason.map(ToString::to_string).ok_or(ParseError::Missing("reason"))
    }
}

//! The grammar that all messages share (RFC 5802, section 7): attributes of one letter, `=` and a value, set apart by
//! commas.

use std::num::NonZeroU32;

use base64::Engine;

use super::{BASE64, Block, Character, Flaw};

/// A message being read.
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The value of the next attribute, which must be this one.
    pub(super) fn value(&mut self, letter: char) -> Result<&'a [u8], Flaw> {
        let Some((&first, rest)) = self.rest.split_first() else { return Err(Flaw::Expected(letter)) };
        if char::from(first) != letter {
            return Err(Flaw::Expected(letter));
        }
        self.after(first, rest)
    }

    /// Letter and value of the next attribute.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), Flaw> {
        match self.rest.split_first() {
            Some((&letter, rest)) if letter.is_ascii_alphabetic() => Ok((letter, self.after(letter, rest)?)),
            _ => Err(Flaw::Letter(Character::first(self.rest))),
        }
    }

    fn after(&mut self, letter: u8, rest: &'a [u8]) -> Result<&'a [u8], Flaw> {
        let rest = rest.strip_prefix(b"=").ok_or(Flaw::Equals(char::from(letter)))?;
        let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        self.rest = rest.get(end + 1..).unwrap_or_default();
        Ok(&rest[..end])
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Whether all of it is printable ASCII other than the comma.
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e))
}

/// A key, proof or signature in base64.
pub(super) fn block(text: impl AsRef<[u8]>) -> Option<Block> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// A number of iterations, which PostgreSQL keeps in 31 bits.
pub(super) fn iterations(text: &[u8]) -> Option<NonZeroU32> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()))?;
    let number = digits.parse::<i32>().ok()?;
    NonZeroU32::new(number.unsigned_abs())
}

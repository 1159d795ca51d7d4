//! Messages, appended to a `Vec`: one function a message.

pub mod backend;
pub mod frontend;

use super::MAX_LENGTH;

/// Appends a message whose body `body` appends.
///
/// # Panics
/// When the body is longer than a message may be. What is built here is of the pooler's own making, or was read from a
/// message that wasn't shorter.
fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    counted(out, body);
}

/// Appends a length field, which counts itself, and the body after it.
fn counted(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    assert!(length <= MAX_LENGTH, "a message of {length} bytes");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and the zero byte that ends it. A string with a zero byte inside ends there: what follows would be
/// read as the next field.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().take_while(|byte| **byte != 0));
    out.push(0);
}

/// Appends a list's length as a 16-bit number.
///
/// # Panics
/// When there are more than fit; no message has that many columns or parameters.
fn count(out: &mut Vec<u8>, entries: usize) {
    let entries = u16::try_from(entries).unwrap_or_else(|_| panic!("a list of {entries} entries"));
    out.extend_from_slice(&entries.to_be_bytes());
}

#[cfg(test)]
mod tests;

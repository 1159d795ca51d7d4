//! Messages that only the console reads or writes: the whole of a Bind, and results in the formats that it asks for.

use super::error::Error;
use super::own::Notice;
use super::table::{self, Column, Format, Formats, Table, Value};
use crate::wire::build::backend::{self, Report};
use crate::wire::kind::{client, server};
use crate::wire::statement;
use crate::wire::{Fault, MAX_LENGTH};

/// A whole Bind message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind<'a> {
    pub(super) portal: &'a [u8],
    pub(super) statement: &'a [u8],
    /// How many parameters came. Their values don't matter: no command takes one.
    pub(super) parameters: usize,
    /// Format codes of the result, as they came.
    pub(super) formats: Vec<u16>,
}

impl<'a> Bind<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Fault> {
        Self::try_read(body).ok_or(Fault::BadBody(client::BIND))
    }

    fn try_read(body: &'a [u8]) -> Option<Self> {
        let names = statement::Bind::read(body)?;
        let mut rest = &body[names.rest()..];
        codes(&mut rest)?;
        let parameters = number(&mut rest)?;
        for _ in 0..parameters {
            let (length, after) = rest.split_first_chunk::<4>()?;
            rest = match i32::from_be_bytes(*length) {
                -1 => after,
                length => after.get(usize::try_from(length).ok()?..)?,
            };
        }
        let formats = codes(&mut rest)?;
        let (portal, statement) = (names.portal, names.statement);
        rest.is_empty().then_some(Self { portal, statement, parameters: parameters.into(), formats })
    }
}

fn number(rest: &mut &[u8]) -> Option<u16> {
    let (taken, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*taken))
}

fn codes(rest: &mut &[u8]) -> Option<Vec<u16>> {
    let count = number(rest)?;
    (0..count).map(|_| number(rest)).collect()
}

/// The formats that a Bind's codes mean for a result with so many columns.
pub(super) fn formats(codes: &[u16], columns: usize) -> Result<Formats, Error> {
    let format = |code: &u16| match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        other => Err(Error::BadFormat(*other)),
    };
    match codes {
        [] => Ok(Formats::All(Format::Text)),
        [one] => format(one).map(Formats::All),
        each if each.len() == columns => Ok(Formats::Each(each.iter().map(format).collect::<Result<_, _>>()?)),
        each => Err(Error::FormatCount { formats: each.len(), columns }),
    }
}

/// Appends a RowDescription.
pub(super) fn row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    message(out, server::ROW_DESCRIPTION, |out| table::describe(columns, formats, out));
}

/// Appends a DataRow for each of the rows.
pub(super) fn rows(out: &mut Vec<u8>, rows: &[Vec<Value>], formats: &Formats) {
    for values in rows {
        message(out, server::DATA_ROW, |out| table::row(values, formats, out));
    }
}

/// Appends a result as the simple protocol has it.
pub(super) fn result(out: &mut Vec<u8>, table: &Table) {
    let formats = Formats::All(Format::Text);
    row_description(out, table.columns, &formats);
    rows(out, &table.rows, &formats);
}

/// Appends a PortalSuspended.
pub(super) fn portal_suspended(out: &mut Vec<u8>) {
    message(out, server::PORTAL_SUSPENDED, |_| ());
}

/// Appends an ErrorResponse.
pub(super) fn error(out: &mut Vec<u8>, error: &Error) {
    let text = error.text();
    let report = match error.is_fatal() {
        true => Report::fatal(error.sqlstate(), &text),
        false => Report::error(error.sqlstate(), &text),
    };
    backend::error_response(out, &report);
}

/// Appends a NoticeResponse.
pub(super) fn notice(out: &mut Vec<u8>, notice: &Notice) {
    let report = Report { detail: notice.detail.as_deref(), ..Report::notice("00000", &notice.message) };
    backend::notice_response(out, &report);
}

fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    assert!(length <= MAX_LENGTH, "a message of {length} bytes");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_read_to_its_end() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff\0\x02\0\0\0\x01";
        let expected = Bind { portal: b"p", statement: b"s", parameters: 2, formats: vec![0, 1] };
        assert_eq!(Bind::read(body), Ok(expected));
        for end in 0..body.len() {
            assert_eq!(Bind::read(&body[..end]), Err(Fault::BadBody(b'B')), "{end}");
        }
        let longer = [body.as_slice(), b"\0"].concat();
        assert_eq!(Bind::read(&longer), Err(Fault::BadBody(b'B')));
    }

    #[test]
    fn a_parameter_of_negative_length_is_refused() {
        assert_eq!(Bind::read(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), Err(Fault::BadBody(b'B')));
    }

    #[test]
    fn format_codes_hold_for_all_columns_or_for_each() {
        assert_eq!(formats(&[], 3), Ok(Formats::All(Format::Text)));
        assert_eq!(formats(&[1], 3), Ok(Formats::All(Format::Binary)));
        assert_eq!(formats(&[1, 0], 2), Ok(Formats::Each(vec![Format::Binary, Format::Text])));
        assert_eq!(formats(&[1, 0], 3), Err(Error::FormatCount { formats: 2, columns: 3 }));
        assert_eq!(formats(&[2], 3), Err(Error::BadFormat(2)));
    }
}

//! A result of the console: typed columns and rows, and their encoding as RowDescription and DataRow messages in text
//! or binary format (PostgreSQL documentation, "Message Formats"). Not which columns a SHOW has.

use std::borrow::Cow;

/// Rows under columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Name and type of each column.
    pub columns: &'static [Column],
    /// The rows; each has one value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// Name and type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
}

/// Types that the console's columns have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`.
    Text,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`, for counters that outgrow int8.
    Numeric,
    /// `bytea`.
    Bytea,
}

impl Type {
    /// The type's OID in every PostgreSQL.
    #[must_use]
    pub fn oid(self) -> u32 {
        match self {
            Self::Text => 25,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
            Self::Bytea => 17,
        }
    }

    /// Bytes of a value in binary format, -1 where they vary.
    fn size(self) -> i16 {
        match self {
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Text | Self::Numeric | Self::Bytea => -1,
        }
    }
}

/// A `text` column.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Type::Text }
}

/// An `int4` column.
pub(super) const fn int4(name: &'static str) -> Column {
    Column { name, kind: Type::Int4 }
}

/// An `int8` column.
pub(super) const fn int8(name: &'static str) -> Column {
    Column { name, kind: Type::Int8 }
}

/// A `numeric` column.
pub(super) const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Type::Numeric }
}

/// A `bytea` column.
pub(super) const fn bytea(name: &'static str) -> Column {
    Column { name, kind: Type::Bytea }
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL, of any type.
    Null,
    /// Of a `text` column.
    Text(Cow<'static, str>),
    /// Of an `int4` column.
    Int4(i32),
    /// Of an `int8` column.
    Int8(i64),
    /// Of a `numeric` column.
    Numeric(u64),
    /// Of a `bytea` column.
    Bytes(Vec<u8>),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

/// An int4; what doesn't fit becomes the largest.
impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int4(number.try_into().unwrap_or(i32::MAX))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Int4(number.into())
    }
}

/// An int4: 1 or 0.
impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Int4(yes.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// NULL where there is none.
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// How values are written; the numbers are the protocol's format codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text = 0,
    Binary = 1,
}

/// The formats of a result's columns, as Bind asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Formats {
    /// One for all.
    All(Format),
    /// Each its own.
    Each(Vec<Format>),
}

impl Formats {
    fn of(&self, column: usize) -> Format {
        match self {
            Self::All(format) => *format,
            Self::Each(formats) => formats.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// Appends a RowDescription's body.
pub(super) fn describe(columns: &[Column], formats: &Formats, out: &mut Vec<u8>) {
    out.extend(count(columns.len()).to_be_bytes());
    for (at, column) in columns.iter().enumerate() {
        out.extend(column.name.as_bytes());
        out.push(0);
        // No table and no number within it.
        out.extend([0; 6]);
        out.extend(column.kind.oid().to_be_bytes());
        out.extend(column.kind.size().to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.extend((formats.of(at) as u16).to_be_bytes());
    }
}

/// Appends a DataRow's body.
pub(super) fn row(values: &[Value], formats: &Formats, out: &mut Vec<u8>) {
    out.extend(count(values.len()).to_be_bytes());
    for (at, value) in values.iter().enumerate() {
        let length_at = out.len();
        out.extend((-1i32).to_be_bytes());
        if *value == Value::Null {
            continue;
        }
        match formats.of(at) {
            Format::Text => write_text(value, out),
            Format::Binary => write_binary(value, out),
        }
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn count(number: usize) -> u16 {
    number.try_into().unwrap_or(u16::MAX)
}

fn write_text(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Text(text) => out.extend(text.as_bytes()),
        Value::Int4(number) => out.extend(number.to_string().bytes()),
        Value::Int8(number) => out.extend(number.to_string().bytes()),
        Value::Numeric(number) => out.extend(number.to_string().bytes()),
        Value::Bytes(bytes) => {
            out.extend(b"\\x");
            out.extend(
                bytes.iter().flat_map(|byte| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[digit as usize])),
            );
        }
    }
}

fn write_binary(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Text(text) => out.extend(text.as_bytes()),
        Value::Int4(number) => out.extend(number.to_be_bytes()),
        Value::Int8(number) => out.extend(number.to_be_bytes()),
        Value::Numeric(number) => write_numeric(*number, out),
        Value::Bytes(bytes) => out.extend(bytes),
    }
}

/// Base of the digits of a binary numeric.
const NUMERIC_BASE: u64 = 10_000;

/// The binary numeric of PostgreSQL's `numeric_send`: how many digits, the first one's weight, sign, decimal places,
/// then the digits to base 10,000 without leading or trailing zeros. All of them 16 bits wide.
fn write_numeric(number: u64, out: &mut Vec<u8>) {
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        // Less than 10,000.
        digits.push((rest % NUMERIC_BASE) as u16);
        rest /= NUMERIC_BASE;
    }
    let weight = count(digits.len().saturating_sub(1));
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..zeros);
    for part in [count(digits.len()), weight, 0, 0].into_iter().chain(digits.into_iter().rev()) {
        out.extend(part.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: Formats = Formats::All(Format::Text);
    const BINARIES: Formats = Formats::All(Format::Binary);

    fn row_bytes(value: Value, formats: &Formats) -> Vec<u8> {
        let mut out = Vec::new();
        row(&[value], formats, &mut out);
        assert_eq!(out[..2], [0, 1]);
        let length = u32::from_be_bytes(out[2..6].try_into().unwrap());
        if length != u32::MAX {
            assert_eq!(length as usize, out.len() - 6);
        }
        out.split_off(6)
    }

    #[test]
    fn a_column_is_described_as_pgbouncer_does() {
        let mut out = Vec::new();
        describe(&[text("a"), int4("b")], &Formats::Each(vec![Format::Text, Format::Binary]), &mut out);
        let expected: &[u8] = b"\0\x02\
            a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
            b\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01";
        assert_eq!(out, expected);
    }

    #[test]
    fn values_are_written_as_text() {
        assert_eq!(row_bytes("жест".into(), &TEXTS), "жест".as_bytes());
        assert_eq!(row_bytes(Value::Int4(-7), &TEXTS), b"-7");
        assert_eq!(row_bytes(Value::Int8(1 << 40), &TEXTS), b"1099511627776");
        assert_eq!(row_bytes(Value::Numeric(u64::MAX), &TEXTS), b"18446744073709551615");
        assert_eq!(row_bytes(vec![0, 0x1f, 0xff].into(), &TEXTS), b"\\x001fff");
        assert_eq!(row_bytes(Value::Null, &TEXTS), b"");
    }

    #[test]
    fn values_are_written_in_binary() {
        assert_eq!(row_bytes("ж".into(), &BINARIES), "ж".as_bytes());
        assert_eq!(row_bytes(Value::Int4(-2), &BINARIES), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(row_bytes(Value::Int8(258), &BINARIES), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(row_bytes(vec![1, 0].into(), &BINARIES), [1, 0]);
        assert_eq!(row_bytes(Value::Null, &BINARIES), b"");
    }

    /// Reads a binary numeric by its definition: each digit is worth itself times 10,000 to the power of its weight.
    fn numeric_value(bytes: &[u8]) -> u128 {
        let parts: Vec<u16> = bytes.chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
        assert_eq!(parts[2..4], [0, 0], "sign and scale");
        assert_eq!(parts.len(), 4 + usize::from(parts[0]));
        let power = |at: usize| 10_000u128.pow(u32::from(parts[1]) - u32::try_from(at).unwrap());
        parts[4..].iter().enumerate().map(|(at, digit)| u128::from(*digit) * power(at)).sum()
    }

    #[test]
    fn a_binary_numeric_has_its_value_whatever_the_zeros() {
        for number in [0, 1, 9_999, 10_000, 10_001, 50_000_000, 100_000_000, 123_456_789_012, 1 << 62, u64::MAX] {
            let bytes = row_bytes(Value::Numeric(number), &BINARIES);
            assert_eq!(numeric_value(&bytes), u128::from(number));
        }
        assert_eq!(row_bytes(Value::Numeric(0), &BINARIES), [0; 8]);
        // 1,0000 is one digit of weight 1: trailing zeros aren't sent.
        assert_eq!(row_bytes(Value::Numeric(10_000), &BINARIES), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_an_int4_cannot_hold_becomes_its_largest() {
        assert_eq!(Value::from(u32::MAX), Value::Int4(i32::MAX));
        assert_eq!(Value::from(None::<u32>), Value::Null);
        assert_eq!(Value::from(true), Value::Int4(1));
    }
}

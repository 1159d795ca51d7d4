//! Tables as patronictl prints them: a box with the title in its upper edge. What is in them is not here.

use tabled::builder::Builder;
use tabled::grid::config::Offset;
use tabled::settings::Alignment;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::style::{HorizontalLine, LineText, Style};

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// What stands above it.
    pub(crate) heading: &'static str,
    /// Numbers stand at the right.
    pub(crate) right: bool,
}

/// A column of texts.
pub(crate) const fn left(heading: &'static str) -> Column {
    Column { heading, right: false }
}

/// A column of numbers.
pub(crate) const fn right(heading: &'static str) -> Column {
    Column { heading, right: true }
}

/// The box, without a line end after it. Lines between all rows appear when a cell has several lines.
pub(crate) fn render(title: &str, columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut builder = Builder::default();
    builder.push_record(columns.iter().map(|c| c.heading));
    for row in rows {
        builder.push_record(row.iter().map(String::as_str));
    }
    let mut table = builder.build();
    let edge = HorizontalLine::inherit(Style::ascii());
    if rows.iter().flatten().any(|cell| cell.contains('\n')) {
        table.with(Style::ascii());
    } else {
        table.with(Style::ascii().remove_horizontal().horizontals([(1, edge)]));
    }
    for (i, _) in columns.iter().enumerate().filter(|(_, c)| c.right) {
        table.modify(Columns::one(i), Alignment::right());
    }
    let mut text = table.to_string();
    let width = text.lines().next().map_or(0, |l| l.chars().count());
    if !title.is_empty() {
        let title: String = title.chars().take(width.saturating_sub(2)).collect();
        table.with(LineText::new(title, Rows::first()).offset(Offset::Start(1)));
        text = table.to_string();
    }
    // A table without rows ends with the line below its headings and its lower edge, like any other.
    if rows.is_empty()
        && let Some(edge) = text.lines().last().map(str::to_owned)
    {
        text = format!("{text}\n{edge}");
    }
    text
}

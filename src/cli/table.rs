//! Tables: aligned by the columns that a text takes on a terminal, each cell one line.

use super::human;
use super::screen::{Colour, Screen};

/// One cell. Its text is made safe and put in one line.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
    is_number: bool,
}

impl Cell {
    /// A text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Cell { text: human::one_line(text.as_ref()), colour: None, is_number: false }
    }

    /// A number, set to the right.
    pub fn number(text: impl AsRef<str>) -> Self {
        Cell { is_number: true, ..Cell::new(text) }
    }

    /// The same in a colour.
    #[must_use]
    pub fn in_colour(mut self, colour: Colour) -> Self {
        self.colour = Some(colour);
        self
    }
}

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(heads: &[&'static str]) -> Self {
        Table { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, with a line's end after each line. On a terminal the last column is cut at its edge.
    pub fn render(&self, screen: &Screen) -> String {
        let heads: Vec<Cell> = self.heads.iter().map(|head| Cell::new(head).in_colour(Colour::Strong)).collect();
        let widths = self.widths();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            text.push_str(&self.line(row, &widths, screen));
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let head = |at: usize| self.heads.get(at).map_or(0, |head| human::width(head));
        let cell = |at: usize, row: &Vec<Cell>| row.get(at).map_or(0, |cell| human::width(&cell.text));
        (0..self.heads.len()).map(|at| self.rows.iter().map(|row| cell(at, row)).max().unwrap_or(0).max(head(at))).collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize], screen: &Screen) -> String {
        let mut line = String::new();
        let mut used = 0;
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let is_last = at + 1 == widths.len();
            let room = screen.terminals.width.filter(|_| is_last).map(|width| width.saturating_sub(used).max(8));
            let text = room.map_or_else(|| cell.text.clone(), |room| human::cut(&cell.text, room));
            let blanks = " ".repeat(width.saturating_sub(human::width(&text)));
            let shown = cell.colour.map_or_else(|| text.clone(), |colour| screen.paint(colour, &text));
            match (cell.is_number || self.is_number_column(at), is_last) {
                (true, _) => line.push_str(&format!("{blanks}{shown}")),
                (false, true) => line.push_str(&shown),
                (false, false) => line.push_str(&format!("{shown}{blanks}")),
            }
            if !is_last {
                line.push_str("  ");
            }
            used += width + 2;
        }
        line.trim_end().to_owned()
    }

    /// A heading stands as the cells below it do.
    fn is_number_column(&self, at: usize) -> bool {
        self.rows.first().and_then(|row| row.get(at)).is_some_and(|cell| cell.is_number)
    }
}

/// A list of names and values, aligned. A value of several lines is indented below its name.
#[derive(Clone, Debug, Default)]
pub struct Sheet(Vec<(&'static str, String)>);

impl Sheet {
    /// A sheet without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; its text is made safe.
    pub fn entry(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.0.push((name, human::printable(value.as_ref().trim_end())));
    }

    /// Adds an entry when there is a value.
    pub fn maybe(&mut self, name: &'static str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.entry(name, value);
        }
    }

    /// The sheet as text, with a line's end after each line.
    pub fn render(&self, screen: &Screen) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.0 {
            let head = screen.paint(Colour::Strong, &format!("{name:<width$}"));
            if value.contains('\n') {
                let lines: String = value.lines().map(|line| format!("\n  {line}")).collect();
                text.push_str(&format!("{}{lines}\n", head.trim_end()));
            } else {
                text.push_str(format!("{head}  {value}").trim_end());
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::screen::Terminals;
    use super::*;

    fn screen(terminals: Terminals) -> Screen {
        Screen::new(Box::new(io::sink()), Box::new(io::sink()), terminals)
    }

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "SIZE", "NOTE"]);
        table.row(vec![Cell::new("日本"), Cell::number("7"), Cell::new("two\nlines \u{1b}[2J")]);
        table.row(vec![Cell::new("abcdef"), Cell::number("1024"), Cell::new("")]);
        table
    }

    #[test]
    fn columns_align_by_width_and_each_cell_is_one_safe_line() {
        let text = table().render(&screen(Terminals::default()));
        assert_eq!(text, "NAME    SIZE  NOTE\n日本       7  two lines \\u{1b}[2J\nabcdef  1024\n");
    }

    #[test]
    fn a_terminal_s_edge_cuts_the_last_column_only() {
        let text = table().render(&screen(Terminals { out: true, width: Some(24), ..Terminals::default() }));
        assert!(text.contains("日本       7  two lines…\n"), "{text}");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let coloured = table().render(&screen(Terminals { out: true, colours: true, ..Terminals::default() }));
        let plain = coloured.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
        assert!(coloured.contains("\u{1b}[1m"));
        assert_eq!(plain, table().render(&screen(Terminals::default())));
    }

    #[test]
    fn a_sheet_indents_what_has_several_lines() {
        let mut sheet = Sheet::new();
        sheet.entry("run", "r");
        sheet.entry("result", "a\nb\u{7}\n");
        sheet.maybe("error", None::<String>);
        assert_eq!(sheet.render(&screen(Terminals::default())), "run     r\nresult\n  a\n  b\\u{7}\n");
    }
}

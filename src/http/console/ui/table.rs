//! A table of rows, with its pages and what it says when it is empty.

use askama::Template;

use super::{Cell, Html, html};

/// A table. On narrow screens each row is a card.
#[derive(Clone, Debug, Template)]
#[template(path = "console/table.html")]
pub(in crate::http::console) struct DataTable {
    caption: String,
    columns: Vec<TableColumn>,
    /// The cells of each row.
    rows: Vec<Html>,
    /// The first page, and the next one.
    pages: (Option<String>, Option<String>),
    /// What an empty table says, and why.
    empty: (String, String),
    /// Where to go from an empty table.
    empty_step: Option<(String, String)>,
}

#[derive(Clone, Debug)]
struct TableColumn {
    label: String,
    is_number: bool,
}

impl DataTable {
    /// A table with these columns. The label of a column of numbers begins with `#`.
    pub(in crate::http::console) fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        let column = |label: &&str| TableColumn {
            label: label.trim_start_matches('#').to_owned(),
            is_number: label.starts_with('#'),
        };
        Self {
            caption: caption.into(),
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
            pages: (None, None),
            empty: ("Nothing yet".to_owned(), String::new()),
            empty_step: None,
        }
    }

    pub(in crate::http::console) fn rows(mut self, rows: impl Iterator<Item = Vec<Cell>>) -> Self {
        let columns = &self.columns;
        let row = |cells: Vec<Cell>| {
            Html(columns.iter().zip(&cells).map(|(column, cell)| column.cell(cell)).collect())
        };
        self.rows = rows.map(row).collect();
        self
    }

    /// Links to the first page, unless this is it, and to the next one.
    pub(in crate::http::console) fn pages(
        mut self,
        first: Option<String>,
        next: Option<String>,
    ) -> Self {
        self.pages = (first, next);
        self
    }

    /// What is said when there is no row.
    pub(in crate::http::console) fn empty(mut self, title: &str, why: &str) -> Self {
        self.empty = (title.to_owned(), why.to_owned());
        self
    }

    /// The next step when there is no row.
    pub(in crate::http::console) fn step(mut self, href: &str, label: &str) -> Self {
        self.empty_step = Some((href.to_owned(), label.to_owned()));
        self
    }

    pub(in crate::http::console) fn html(&self) -> Html {
        if self.rows.is_empty() && self.pages.1.is_some() {
            // A page ends short where few of many rows match.
            let title = "No row among those looked through so far".to_owned();
            let empty = (title, "Go on to the next page, or name fewer filters.".to_owned());
            return html(&Self { empty, empty_step: None, ..self.clone() });
        }
        html(self)
    }
}

impl TableColumn {
    /// A cell of the column. It tells its label, which narrow screens show beside it.
    fn cell(&self, cell: &Cell) -> String {
        let label = super::escaped(&self.label);
        let class = if self.is_number { " class=\"number\"" } else { "" };
        format!("<td role=\"cell\"{class} data-label=\"{label}\"><span>{cell}</span></td>")
    }
}

//! The conditions of a list query, with their parameters.

use std::fmt;

use super::engine::Value;
use crate::domain::EventTypeFilter;

/// Conditions joined by `AND`. Only those that a request asks for are in the statement, so that each
/// combination gets a plan of its own.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    sql: String,
    args: Vec<Value<'a>>,
    /// Parameters of the statement before these.
    before: usize,
}

impl<'a> Filter<'a> {
    /// A filter whose parameters follow `before` others of its statement.
    pub(super) const fn after(before: usize) -> Self {
        Self { sql: String::new(), args: Vec::new(), before }
    }

    /// Adds a condition, in which every `?` is `value`.
    pub(super) fn and(&mut self, condition: &str, value: impl Into<Value<'a>>) {
        self.args.push(value.into());
        let parameter = format!("${}", self.parameters());
        if !self.sql.is_empty() {
            self.sql.push_str(" AND ");
        }
        self.sql.push_str(&condition.replace('?', &parameter));
    }

    /// Adds a condition if there is a value for it.
    pub(super) fn and_some(&mut self, condition: &str, value: Option<impl Into<Value<'a>>>) {
        if let Some(value) = value {
            self.and(condition, value);
        }
    }

    /// Adds `condition`, in which `{}` is the condition that an event type in `column` passes `filter`.
    pub(super) fn and_type(
        &mut self,
        condition: &str,
        column: &str,
        filter: Option<&'a EventTypeFilter>,
    ) {
        let (passes, text) = match filter {
            None | Some(EventTypeFilter::All) => return,
            Some(EventTypeFilter::Exact(exact)) => (format!("{column} = ?"), exact.as_str()),
            Some(EventTypeFilter::Prefix(prefix)) => {
                (format!("substr({column}, 1, length(?)) = ?"), prefix.as_str())
            }
        };
        self.and(&condition.replace("{}", &passes), text);
    }

    /// Parameters of the statement up to the last one of this filter.
    pub(super) const fn parameters(&self) -> usize {
        self.before + self.args.len()
    }

    /// The values of its parameters.
    pub(super) fn into_args(self) -> Vec<Value<'a>> {
        self.args
    }
}

/// The conditions; `true` when there are none.
impl fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.sql.is_empty() { "true" } else { &self.sql })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_numbered_behind_the_parameters_before_them() {
        let wanted: EventTypeFilter = "user.*".parse().unwrap();
        let mut filter = Filter::after(3);
        assert_eq!(filter.to_string(), "true");
        filter.and("org_id = ?", 7_i64);
        filter.and_some("status = ?", None::<i64>);
        filter.and_type("NOT ({})", "e.type", Some(&wanted));
        filter.and_type("({})", "e.type", Some(&EventTypeFilter::All));
        let expected = "org_id = $4 AND NOT (substr(e.type, 1, length($5)) = $5)";
        assert_eq!(filter.to_string(), expected);
        assert_eq!(filter.parameters(), 5);
        assert_eq!(filter.into_args().len(), 2);
    }
}

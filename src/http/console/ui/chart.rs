//! Bars over time as SVG, with a table behind them.

use askama::Template;

use super::{Html, grouped, html};

/// The height of the tallest bar, in the chart's own units.
const HEIGHT: u64 = 110;
/// Where bars stand.
const FLOOR: u64 = 120;
/// The width of a bar and of the gap behind it.
const BAR: usize = 8;
const GAP: usize = 2;

/// A chart of stacked bars. It is drawn here, so that it is there without scripts and can be printed.
#[derive(Clone, Debug, Template)]
#[template(path = "console/chart.html")]
pub(in crate::http::console) struct Chart {
    heading: String,
    summary: String,
    span: String,
    /// The name and class of each series.
    series: Vec<(String, &'static str)>,
    bars: Vec<DrawnBar>,
    width: usize,
}

/// The values of one bar.
#[derive(Clone, Debug)]
pub(in crate::http::console) struct ChartBar {
    pub(in crate::http::console) label: String,
    pub(in crate::http::console) values: Vec<u64>,
}

#[derive(Clone, Debug)]
struct DrawnBar {
    label: String,
    text: String,
    x: usize,
    width: usize,
    rects: Vec<DrawnRect>,
    values: Vec<String>,
}

#[derive(Clone, Debug)]
struct DrawnRect {
    class: &'static str,
    y: u64,
    height: u64,
}

impl Chart {
    /// A chart of these series, oldest bar first. A class of `bad` is for failures.
    pub(in crate::http::console) fn html(
        heading: &str,
        span: &str,
        series: &[(&str, &'static str)],
        bars: &[ChartBar],
    ) -> Html {
        let total = bars.iter().flat_map(|bar| &bar.values).sum();
        let summary = format!("{heading}, {span}: {} in all", grouped(total));
        Self::drawn((heading, summary), span, series, bars)
    }

    /// The same of values that have no sum, such as times.
    pub(in crate::http::console) fn levels(
        heading: &str,
        span: &str,
        series: &[(&str, &'static str)],
        bars: &[ChartBar],
    ) -> Html {
        let most = bars.iter().flat_map(|bar| &bar.values).max().copied().unwrap_or_default();
        let summary = format!("{heading}, {span}: {} at most", grouped(most));
        Self::drawn((heading, summary), span, series, bars)
    }

    fn drawn(
        (heading, summary): (&str, String),
        span: &str,
        series: &[(&str, &'static str)],
        bars: &[ChartBar],
    ) -> Html {
        let sum = |bar: &ChartBar| bar.values.iter().sum::<u64>();
        let most = bars.iter().map(sum).max().unwrap_or_default().max(1);
        let draw = |(index, bar): (usize, &ChartBar)| {
            let mut top = FLOOR;
            let rects = series.iter().zip(&bar.values).filter(|(_, value)| **value > 0);
            let rects = rects.map(|((_, class), value)| {
                let height = (value.saturating_mul(HEIGHT) / most).max(1);
                top = top.saturating_sub(height);
                DrawnRect { class, y: top, height }
            });
            let rects = rects.collect();
            let named = series.iter().zip(&bar.values);
            let named = named.map(|((name, _), value)| format!("{} {name}", grouped(*value)));
            DrawnBar {
                label: bar.label.clone(),
                text: named.collect::<Vec<_>>().join(", "),
                x: index * (BAR + GAP),
                width: BAR,
                rects,
                values: bar.values.iter().map(|value| grouped(*value)).collect(),
            }
        };
        html(&Self {
            heading: heading.to_owned(),
            summary,
            span: format!("{span}; the tallest bar is {}", grouped(most)),
            series: series.iter().map(|(name, class)| ((*name).to_owned(), *class)).collect(),
            bars: bars.iter().enumerate().map(draw).collect(),
            width: (bars.len() * (BAR + GAP)).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_height_of_their_share_and_stand_on_each_other() {
        let bars = [
            ChartBar { label: "12:00".to_owned(), values: vec![10, 0] },
            ChartBar { label: "13:00".to_owned(), values: vec![5, 5] },
        ];
        let chart = Chart::html("Deliveries", "2 hours", &[("ok", ""), ("dead", "bad")], &bars);
        assert!(chart.0.contains("y=\"10\" width=\"8\" height=\"110\""), "{}", chart.0);
        assert!(chart.0.contains("class=\"bar bad\" x=\"10\" y=\"10\""), "{}", chart.0);
        assert!(chart.0.contains("Deliveries, 2 hours: 20 in all"), "{}", chart.0);
    }
}

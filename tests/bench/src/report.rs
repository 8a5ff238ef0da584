//! What a run found out: figures, as a Markdown table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::statistics::Summary;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    id: &'static str,
    what: &'static str,
    value: f64,
    unit: &'static str,
    target: Option<f64>,
    met: Option<bool>,
    /// Whether the target is a minimum.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_minimum: bool,
    spread: f64,
}

/// What a row of the benchmark measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Measured {
    /// The row's own figure first, then those that explain it.
    pub figures: Vec<Figure>,
    /// Paragraphs to print below the table.
    pub notes: Vec<String>,
}

impl Figure {
    /// A figure that is the median of what `summary` sums up.
    #[must_use]
    pub(crate) fn new(id: &'static str, what: &'static str, summary: Summary, unit: &'static str) -> Self {
        let (value, spread) = (rounded(summary.median), rounded(summary.spread));
        Self { id, what, value, unit, target: None, met: None, is_minimum: false, spread }
    }

    /// The same with the value that it should not exceed.
    #[must_use]
    pub(crate) fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), met: Some(self.value <= target), ..self }
    }

    /// The same with the value that it should reach.
    #[must_use]
    pub(crate) fn at_least(self, target: f64) -> Self {
        Self { target: Some(target), is_minimum: true, met: Some(self.value >= target), ..self }
    }

    fn missed(&self) -> bool {
        self.met == Some(false)
    }
}

/// To three decimals: more say nothing about a measurement and make the file hard to read.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The table, and below it the notes and what was missed.
#[must_use]
pub(crate) fn markdown(measured: &[Measured]) -> String {
    let figures: Vec<&Figure> = measured.iter().flat_map(|row| &row.figures).collect();
    let mut text = String::from("| id | what | value | target | met | spread |\n|---|---|--:|--:|---|--:|\n");
    for figure in &figures {
        let sign = if figure.is_minimum { "≥" } else { "≤" };
        let target =
            figure.target.map_or_else(String::new, |target| format!("{sign} {}", with_unit(target, figure.unit)));
        let met = figure.met.map_or("", |met| if met { "yes" } else { "**no**" });
        let value = with_unit(figure.value, figure.unit);
        let spread = figure.spread * 100.0;
        let _ = writeln!(text, "| {} | {} | {value} | {target} | {met} | {spread:.0} % |", figure.id, figure.what);
    }
    text.push_str(
        "\nEach value is the median of what the rounds gave, each spread the distance between their quartiles as a \
         fraction of that median.\n",
    );
    for note in measured.iter().flat_map(|row| &row.notes) {
        let _ = write!(text, "\n{note}\n");
    }
    let missed: Vec<&str> = figures.iter().filter(|figure| figure.missed()).map(|figure| figure.id).collect();
    if !missed.is_empty() {
        let _ = write!(text, "\n**Target missed: {}**\n", missed.join(", "));
    }
    text
}

/// The figures as JSON.
///
/// # Errors
/// A value is no number JSON can write.
pub(crate) fn json(measured: &[Measured]) -> serde_json::Result<String> {
    let figures: Vec<&Figure> = measured.iter().flat_map(|row| &row.figures).collect();
    Ok(serde_json::to_string_pretty(&figures)? + "\n")
}

fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { format!("{value:.2}") } else { format!("{value:.2} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: f64) -> Vec<Measured> {
        let figure = Figure::new("speed", "how fast", Summary { median: value, spread: 0.25 }, "ms").at_most(2.0);
        let plain = Figure::new("ratio", "against it", Summary { median: 1.0, spread: 0.0 }, "");
        vec![Measured { figures: vec![figure], notes: vec!["A note.".into()] }, {
            Measured { figures: vec![plain], notes: Vec::new() }
        }]
    }

    #[test]
    fn the_table_has_a_line_for_each_figure() {
        let text = markdown(&measured(1.5));
        assert!(text.contains("| speed | how fast | 1.50 ms | ≤ 2.00 ms | yes | 25 % |"), "{text}");
        assert!(text.contains("| ratio | against it | 1.00 |  |  | 0 % |"), "{text}");
        assert!(text.contains("\nA note.\n") && !text.contains("missed"), "{text}");
    }

    #[test]
    fn a_missed_target_is_said_once_more_below() {
        assert!(markdown(&measured(2.5)).contains("**Target missed: speed**"));
    }

    #[test]
    fn json_has_every_field_of_every_figure() {
        let value: serde_json::Value = serde_json::from_str(&json(&measured(1.23456)).unwrap()).unwrap();
        let expected = serde_json::json!([
            {"id": "speed", "what": "how fast", "value": 1.235, "unit": "ms", "target": 2.0, "met": true, "spread": 0.25},
            {"id": "ratio", "what": "against it", "value": 1.0, "unit": "", "target": null, "met": null, "spread": 0.0},
        ]);
        assert_eq!(value, expected);
    }
}

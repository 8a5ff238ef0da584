//! The table of faults: what was done to a step or a node, what the user saw of it, and what it left.

use std::fmt::Write as _;

/// A fault that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was done.
    pub fault: &'static str,
    /// What the user saw, or why that was not as it should be.
    pub seen: Result<String, String>,
    /// Whether nothing was left on any node.
    pub clean: bool,
    /// Whether Slurm had all nodes idle.
    pub idle: bool,
}

impl Row {
    /// Whether all was as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.seen.is_ok() && self.clean && self.idle
    }
}

/// The rows as a table in Markdown.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| fault | what the user saw | node clean | node idle | outcome |\n|---|---|---|---|---|\n".to_owned();
    let yes = |value| if value { "yes" } else { "NO" };
    for row in rows {
        let seen = match &row.seen {
            Ok(seen) => cell(seen),
            Err(error) => format!("NOT AS IT SHOULD: {}", cell(error)),
        };
        let outcome = if row.passed() { "survived" } else { "FAILED" };
        let _ = writeln!(text, "| {} | {seen} | {} | {} | {outcome} |", row.fault, yes(row.clean), yes(row.idle));
    }
    text
}

/// A text on one line, in which nothing ends the cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_and_says_what_failed() {
        let row = |seen| Row { fault: "scancel", seen, clean: true, idle: false };
        let text = markdown(&[row(Ok("a\n| b".into())), row(Err("nothing was said".into()))]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| scancel | a \\| b | yes | NO | FAILED |",
                "| scancel | NOT AS IT SHOULD: nothing was said | yes | NO | FAILED |"
            ]
        );
    }
}

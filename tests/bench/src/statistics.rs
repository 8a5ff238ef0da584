//! Medians and quartiles.

/// What many measured values come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle one.
    pub median: f64,
    /// The distance between the quartiles as a fraction of the median: how far apart the middle half of the values lies.
    pub spread: f64,
}

impl Summary {
    /// Sums up values; of none, all is 0.
    #[must_use]
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let median = quantile(&sorted, 0.5);
        let range = quantile(&sorted, 0.75) - quantile(&sorted, 0.25);
        let spread = if median == 0.0 { 0.0 } else { range / median.abs() };
        Self { median, spread }
    }
}

/// Half the width of the 95 % confidence interval of the values' median, from the order statistics that enclose it: with n
/// values these lie 0.98 √n ranks below and above it, whatever the distribution.
#[must_use]
pub(crate) fn half_width(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "nobody takes 2^52 samples")]
    let reach = (0.98 / (values.len() as f64).sqrt()).min(0.5);
    (quantile(&sorted, 0.5 + reach) - quantile(&sorted, 0.5 - reach)) / 2.0
}

/// The value below which the fraction `at` of the sorted values lies; between two of them it is interpolated.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "nobody takes 2^52 samples")]
    let place = at * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and `last`")]
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn an_odd_number_of_values_has_a_middle_one() {
        let summary = Summary::of([9.0, 1.0, 5.0]);
        assert!(close(summary.median, 5.0));
        assert!(close(summary.spread, (7.0 - 3.0) / 5.0));
    }

    #[test]
    fn of_an_even_number_the_middle_lies_between_two() {
        assert!(close(Summary::of([4.0, 1.0, 2.0, 3.0]).median, 2.5));
    }

    #[test]
    fn a_single_far_value_changes_nothing() {
        let summary = Summary::of([10.0, 10.0, 10.0, 10.0, 1000.0]);
        assert!(close(summary.median, 10.0) && close(summary.spread, 0.0));
    }

    #[test]
    fn a_hundred_values_enclose_their_median_by_ten_ranks_on_either_side() {
        let values: Vec<f64> = (0..101).map(f64::from).collect();
        assert!((half_width(&values) - 9.75).abs() < 0.05, "{}", half_width(&values));
        assert!(close(half_width(&[3.0, 3.0, 3.0]), 0.0));
    }

    #[test]
    fn a_spread_is_never_negative() {
        assert!(Summary::of([-3.0, -2.0, -1.0]).spread > 0.0);
    }

    #[test]
    fn no_values_and_a_median_of_zero_divide_nothing() {
        assert_eq!(Summary::of([]), Summary { median: 0.0, spread: 0.0 });
        assert_eq!(Summary::of([-1.0, 0.0, 1.0]), Summary { median: 0.0, spread: 0.0 });
    }
}

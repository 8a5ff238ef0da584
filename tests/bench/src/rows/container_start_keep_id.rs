//! The same as `container_start` for containers in which the user is themselves.

use super::{Row, container_start};
use crate::report::{Figure, Measured};
use crate::session::Session;

/// The row.
pub(super) const ROW: Row = Row { id: "container_start_keep_id", measure };

const WHAT: &str = "the same with `--userns=keep-id`, for which the local image has been copied before";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (ratio, note) = container_start::compare(session, ROW.id, "--userns=keep-id")?;
    Ok(Measured { figures: vec![Figure::new(ROW.id, WHAT, ratio, "")], notes: vec![note] })
}

//! What the agent takes to give a step its image and to take it down, whatever it holds for other steps.

use anyhow::Context as _;

use super::Row;
use crate::leases::Sampled;
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "agent_lease", measure };

const WHAT: &str = "a lease acquired and released, by the system calls it takes at the least made by hand; the worst of 1 and 20 \
                    layers with 1, 20, 100 and 500 leases held";
const FLAT: &str = "a lease with 500 leases held by one with 1 held; the worse of 1 and 20 layers";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    for image in ["debian", "layers20"] {
        session.migrate(image)?;
    }
    let sampled: Vec<Sampled> = session.on_node_as_root("leases", 60)?;
    let ratio =
        |sampled: &Sampled| Summary::of(sampled.agent.iter().zip(&sampled.by_hand).map(|(agent, hand)| agent / hand));
    let worst =
        |summaries: Vec<Summary>| summaries.into_iter().max_by(|one, other| one.median.total_cmp(&other.median));
    let ratios = worst(sampled.iter().map(ratio).collect()).context("nothing was sampled")?;

    let median = |times: &[f64]| Summary::of(times.iter().copied()).median;
    let at = |layers: usize, held: usize| sampled.iter().find(|one| one.layers == layers && one.held == held);
    let mut growths = Vec::new();
    for layers in [1, 20] {
        let (one, many) = at(layers, 1).zip(at(layers, 500)).context("not all was sampled")?;
        let first = median(&one.agent);
        growths.push(Summary::of(many.agent.iter().map(|time| time / first)));
    }
    let growth = worst(growths).context("nothing was sampled")?;
    let line = |one: &Sampled| {
        let (agent, hand) = (median(&one.agent), median(&one.by_hand));
        format!("{} layers, {} held: {agent:.2} ms, by hand {hand:.2} ms", one.layers, one.held)
    };
    let note = format!(
        "agent_lease: {}. By hand every lease makes its user's two namespaces; the agent's leases of one user share them.",
        sampled.iter().map(line).collect::<Vec<_>>().join("; ")
    );
    let figures = vec![
        Figure::new(ROW.id, WHAT, ratios, "").at_most(2.0),
        Figure::new("agent_lease_growth", FLAT, growth, "").at_most(1.25),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

//! What a job without Parallax's options pays for the plugin: nothing that can be told from noise.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use super::Row;
use crate::bench::report::{Figure, Measured};
use crate::bench::sampler::Candidate;
use crate::bench::session::{NODE, Session};
use crate::bench::statistics::{self, Summary};

/// The row.
pub const ROW: Row = Row { id: "plain_step", measure };

const WHAT: &str = "`srun true` with the plugin less the same without: the median of the differences, by the half-width \
                    of its 95 % confidence interval; up to 1 is noise";
const DIFFERENCE: &str = "that difference";
const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";
const ROUNDS: usize = 200;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let plugstack = Plugstack::keep(session)?;
    // srun and slurmstepd read the file anew for every step.
    let with = srun().after("cp /etc/slurm/plugstack.with /etc/slurm/plugstack.conf");
    let without = srun().after("cp /dev/null /etc/slurm/plugstack.conf");
    plugstack.check_that_it_counts(session)?;
    let samples = session.sample_in_allocation_of_root(vec![with, without], ROUNDS)?;
    drop(plugstack);

    let times = samples.milliseconds::<2>()?;
    let differences: Vec<f64> = times.iter().map(|[with, without]| with - without).collect();
    let difference = Summary::of(differences.iter().copied());
    let half_width = statistics::half_width(&differences);
    let noise = Summary { median: difference.median.abs() / half_width, spread: 0.0 };
    let [with, without] = [0, 1].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let note = format!(
        "plain_step: {with:.2} ms with the plugin, {without:.2} ms without; the difference is {:.3} ± {half_width:.3} ms.",
        difference.median
    );
    let figures = vec![
        Figure::new(ROW.id, WHAT, noise, "").at_most(1.0),
        Figure::new("plain_step_ms", DIFFERENCE, difference, "ms"),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

fn srun() -> Candidate {
    Candidate::new("srun --overlap --ntasks=1 true")
}

/// The node's plugstack.conf, as it was and will be again.
struct Plugstack {
    file: PathBuf,
    copy: PathBuf,
}

impl Plugstack {
    fn keep(session: &Session) -> anyhow::Result<Self> {
        let file = session.cluster().path_on(NODE, PLUGSTACK)?;
        let copy = session.cluster().path_on(NODE, "/etc/slurm/plugstack.with")?;
        fs::copy(&file, &copy).with_context(|| format!("{}", file.display()))?;
        Ok(Self { file, copy })
    }

    /// Makes sure that the file decides whether a step has the plugin.
    fn check_that_it_counts(&self, session: &Session) -> anyhow::Result<()> {
        let maps = "grep -c spank_parallax /proc/$PPID/maps || true";
        let in_stepd = || -> anyhow::Result<bool> {
            let done =
                session.cluster().run(NODE, "root", &["srun", "--nodelist", NODE, "sh", "-c", maps])?.success()?;
            Ok(done.stdout.trim() != "0")
        };
        ensure!(in_stepd()?, "slurmstepd does not have the plugin");
        fs::write(&self.file, "")?;
        ensure!(!in_stepd()?, "slurmstepd has the plugin without plugstack.conf");
        Ok(())
    }
}

impl Drop for Plugstack {
    fn drop(&mut self) {
        if let Err(error) = fs::rename(&self.copy, &self.file) {
            eprintln!("bench: {} can't be put back: {error}", self.file.display());
        }
    }
}

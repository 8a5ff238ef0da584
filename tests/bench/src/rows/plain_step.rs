//! What a job without Parallax's options pays for the plugin: nothing that can be told from noise, compared with a plugin that
//! does nothing. What Slurm itself pays for having a plugin at all is told beside it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::{NODE, Session};
use crate::statistics::{self, Summary};
use integration_tests::cluster::{Done, repository};

/// The row.
pub(super) const ROW: Row = Row { id: "plain_step", measure };

const WHAT: &str = "`srun true` with the plugin less the same with an empty one: the median of the differences, by the \
                    half-width of its 95 % confidence interval; up to 1 is noise";
const OURS: &str = "that difference";
const ANY: &str = "the same with an empty plugin less none, which is what Slurm pays for any";
const ALL: &str = "the same with the plugin less none";
const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";
const EMPTY_PLUGIN: &str = "/usr/lib/parallax/spank_empty.so";
const ROUNDS: usize = 200;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let plugstack = Plugstack::keep(session)?;
    plugstack.check_that_it_counts(session)?;
    // srun and slurmstepd read the file anew for every step.
    let srun = |file: &str| Candidate::new("srun --overlap --ntasks=1 true").after(&format!("cp {file} {PLUGSTACK}"));
    let candidates = vec![srun("/dev/null"), srun("/etc/slurm/plugstack.empty"), srun("/etc/slurm/plugstack.with")];
    let samples = session.sample_in_allocation_of_root(candidates, ROUNDS)?;
    drop(plugstack);

    let times = samples.milliseconds::<3>()?;
    let [ours, any, all] = [(2, 1), (1, 0), (2, 0)].map(|(more, less)| Difference::of(&times, more, less));
    let noise = Summary { median: ours.median.median / ours.half_width, spread: 0.0 };
    let [none, empty, with] = [0, 1, 2].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let note = format!(
        "plain_step: {with:.2} ms with the plugin, {empty:.2} ms with an empty one, {none:.2} ms with none. The plugin less the \
         empty one: {ours}; the empty one less none: {any}; the plugin less none: {all}."
    );
    let figures = vec![
        Figure::new(ROW.id, WHAT, noise, "").at_most(1.0),
        Figure::new("plain_step_ms", OURS, ours.median, "ms"),
        Figure::new("plain_step_empty_ms", ANY, any.median, "ms"),
        Figure::new("plain_step_all_ms", ALL, all.median, "ms"),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

/// How much more one command took than another of the same round, in milliseconds.
struct Difference {
    median: Summary,
    /// Of the median's 95 % confidence interval.
    half_width: f64,
}

impl Difference {
    fn of(times: &[[f64; 3]], more: usize, less: usize) -> Self {
        let differences: Vec<f64> = times.iter().map(|round| round[more] - round[less]).collect();
        Self { median: Summary::of(differences.iter().copied()), half_width: statistics::half_width(&differences) }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ± {:.3} ms", self.median.median, self.half_width)
    }
}

/// The node's plugstack.conf, as it was and will be again, and beside it one with the empty plugin.
struct Plugstack {
    file: PathBuf,
    copy: PathBuf,
    empty: PathBuf,
    empty_plugin: PathBuf,
}

impl Plugstack {
    fn keep(session: &Session) -> anyhow::Result<Self> {
        let on_node = |path| session.cluster().path_on(NODE, path);
        let plugstack = Self {
            file: on_node(PLUGSTACK)?,
            copy: on_node("/etc/slurm/plugstack.with")?,
            empty: on_node("/etc/slurm/plugstack.empty")?,
            empty_plugin: on_node(EMPTY_PLUGIN)?,
        };
        fs::copy(&plugstack.file, &plugstack.copy).with_context(|| format!("{}", plugstack.file.display()))?;
        fs::write(&plugstack.empty, format!("required {EMPTY_PLUGIN}\n"))?;
        // Slurm's headers are those of the node, all others are this machine's.
        let source = repository().join("tests/plugin/empty-plugin.c");
        let mut compile = Command::new("cc");
        compile.arg(format!("-DOPTIONS={}", parallax_spank_hooks::OPTIONS.len()));
        compile.args(["-shared", "-fPIC", "-O2", "-o"]).args([&plugstack.empty_plugin, &source]);
        compile.arg("-idirafter").arg(on_node("/usr/include")?);
        Done::from(compile.output().context("cc")?).success().context("the empty plugin can't be built")?;
        Ok(plugstack)
    }

    /// Makes sure that the file decides which plugin a step has.
    fn check_that_it_counts(&self, session: &Session) -> anyhow::Result<()> {
        let maps = "grep -o 'spank_[a-z]*' /proc/$PPID/maps | uniq";
        let in_stepd = || -> anyhow::Result<String> {
            let done =
                session.cluster().run(NODE, "root", &["srun", "--nodelist", NODE, "sh", "-c", maps])?.success()?;
            Ok(done.stdout.trim().to_owned())
        };
        for (file, plugin) in [(Some(&self.copy), "spank_parallax"), (Some(&self.empty), "spank_empty"), (None, "")] {
            fs::write(&self.file, file.map_or_else(|| Ok(Vec::new()), fs::read)?)?;
            let loaded = in_stepd()?;
            ensure!(loaded == plugin, "slurmstepd has the plugin {loaded:?}, not {plugin:?}");
        }
        Ok(())
    }
}

impl Drop for Plugstack {
    fn drop(&mut self) {
        let removed = [&self.empty, &self.empty_plugin].map(fs::remove_file);
        for result in removed.into_iter().chain([fs::rename(&self.copy, &self.file)]) {
            if let Err(error) = result {
                eprintln!("bench: {} can't be put back: {error}", self.file.display());
            }
        }
    }
}

//! A minute or so of steps and faults, and a look at what they left.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::fault::Fault;
use super::step::Step;
use integration_tests::clean::{Scratch, examine};
use integration_tests::cluster::Cluster;

/// The longest time between two faults, in milliseconds. Without such times no step would ever be left in peace.
const PEACE: u64 = 6000;

/// One round.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// When no step and no fault begins any more.
    pub until: Instant,
    /// Whether to end it early.
    pub interrupted: &'a AtomicBool,
    /// How many steps run at a time.
    pub steps: u64,
}

/// What came of steps and faults.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Steps that ended as they should.
    well: u64,
    /// Steps that a fault hit and that failed saying so.
    hit: u64,
    /// Faults.
    faults: BTreeMap<Fault, u64>,
    /// What must not be.
    pub problems: Vec<String>,
}

/// Whether a fault is near.
#[derive(Debug, Default)]
struct Weather {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Weather {
    /// How many faults have begun, if none is under way.
    fn calm(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

impl Round<'_> {
    /// Runs it; returns when all steps have ended and the nodes were looked at.
    ///
    /// # Errors
    /// A fault could not be done or undone.
    pub(crate) fn run(&self, random: &mut Rng) -> anyhow::Result<Tally> {
        let tally = Mutex::new(Tally::default());
        let weather = Weather::default();
        let before = Scratch::now(self.cluster)?;
        let faults = thread::scope(|scope| {
            for _ in 0..self.steps {
                let mut random = random.fork();
                let (tally, weather) = (&tally, &weather);
                scope.spawn(move || self.run_steps(&mut random, tally, weather));
            }
            self.strike_faults(&mut random.fork(), &tally, &weather)
        });
        faults?;
        // A job whose slurmstepd was killed while Slurm was starting it is Slurm's to the end of its time.
        let cancel = "squeue --noheader --format=%A | xargs --no-run-if-empty scancel";
        self.cluster.run("ctl", "root", &["sh", "-c", cancel])?;
        let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(left) = examine(self.cluster, Some(&before)).into_result() {
            tally.problems.push(format!("after {:?}: {left:#}", tally.faults));
        }
        Ok(tally)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.interrupted.load(Ordering::SeqCst)
    }

    fn run_steps(&self, random: &mut Rng, tally: &Mutex<Tally>, weather: &Weather) {
        while !self.is_over() {
            let step = Step::random(random);
            let before = weather.calm();
            let done = step.run(self.cluster);
            let calm = before.is_some() && before == weather.calm() && !self.interrupted.load(Ordering::SeqCst);
            let problem = match &done {
                Ok(done) => step.judge(done, calm),
                Err(error) => Some(format!("{step:?}: {error:#}")),
            };
            let failed = done.is_ok_and(|done| done.code != 0);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match problem {
                Some(problem) => tally.problems.push(problem),
                None if failed && !calm => tally.hit += 1,
                None => tally.well += 1,
            }
        }
    }

    fn strike_faults(&self, random: &mut Rng, tally: &Mutex<Tally>, weather: &Weather) -> anyhow::Result<()> {
        while !self.is_over() {
            // Not a wait for anything: this is the time in which steps are left in peace.
            thread::sleep(Duration::from_millis(random.u64(0..PEACE)));
            let fault = Fault::random(random);
            weather.begun.fetch_add(1, Ordering::SeqCst);
            let struck = fault.strike(self.cluster, random);
            weather.ended.fetch_add(1, Ordering::SeqCst);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            *tally.faults.entry(fault).or_default() += 1;
            drop(tally);
            struck?;
        }
        Ok(())
    }
}

impl Tally {
    /// Adds another round's.
    pub(crate) fn add(&mut self, other: Self) {
        self.well += other.well;
        self.hit += other.hit;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.problems.extend(other.problems);
    }

    /// How often each fault came, a line each, and the sums.
    pub(crate) fn summary(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{count:6} {fault:?}")).collect();
        format!("{}\n{self}", faults.join("\n"))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.faults.values().sum();
        let problems = self.problems.len();
        write!(f, "{} steps well, {} hit by one of {faults} faults, {problems} problems", self.well, self.hit)
    }
}

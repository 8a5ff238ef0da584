//! The file by which the step's other tasks join the container without the launcher, in `parallax-join`.
//!
//! It is made for tasks that differ from this one in nothing that matters: what the user asks for, their home, the directory and, unless it
//! is sought in the image's `PATH`, the program. All others begin with the launcher, as do those of steps that ask for what takes more than
//! entering the container and changing variables.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use parallax_join_file::rules::Rule as Line;
use parallax_join_file::{Encoder, FILE, MAX_SIZE};
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_request::Request;
use parallax_spank_hooks::{REQUEST, TIMINGS_OF_STEP, text};

use crate::container::file_name;
use crate::door::BOUNDS;
use crate::environment::{self, Rule, THREADS};
use crate::join::Directories;

/// What the file follows from.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The step's parameters.
    pub step: &'a StepFile,
    /// What the user asks for.
    pub request: &'a Request,
    /// The variables of the container's devices.
    pub devices: &'a [(String, String)],
    /// The process that keeps the container, and its start time; none if tasks need the launcher.
    pub holder: Option<(i32, u64)>,
    /// Where the command starts.
    pub directories: &'a Directories<'a>,
    /// Where the task began on the node.
    pub started_in: Option<&'a Path>,
    /// The first word of the command.
    pub program: Option<&'a OsString>,
}

/// Writes the file; an empty one if tasks need the launcher. Without a file they use the launcher, too, so errors are none.
pub(crate) fn write(paths: &StepPaths, facts: &Facts<'_>) {
    let variable = |name: &str| env::var_os(name);
    let contents = contents(facts, variable(text(REQUEST)).as_deref(), variable("HOME").as_deref()).unwrap_or_default();
    let path = paths.launch_directory().join(file_name(FILE));
    let new = path.with_extension("new");
    let _ = fs::write(&new, contents).and_then(|()| fs::rename(&new, &path));
}

/// The file for tasks with these values of the variables with the request and with the home.
fn contents(facts: &Facts<'_>, request: Option<&OsStr>, home: Option<&OsStr>) -> Option<Vec<u8>> {
    let (holder, start_time) = facts.holder?;
    let asked = facts.request;
    if asked.entrypoint == Some(true) || asked.pytorch || asked.timings == Some(true) {
        return None;
    }
    let rules = lines(facts)?;
    let program = facts.program.filter(|program| program.as_bytes().contains(&b'/'));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(|part: &[u8]| bytes.extend_from_slice(part))
        .field(holder.to_string().as_bytes())
        .field(format!("/proc/{holder}/stat").as_bytes())
        .field(start_time.to_string().as_bytes())
        .field(BOUNDS.to_string().as_bytes())
        .optional(request.map(OsStr::as_bytes))
        .optional(home.map(OsStr::as_bytes))
        .field(facts.started_in?.as_os_str().as_bytes())
        .field(program.map_or(&[], |program| program.as_bytes()));
    for directory in facts.directories.in_order() {
        encoder = encoder.field(directory.as_os_str().as_bytes());
    }
    encoder = encoder.end();
    for (entry, rule) in &rules {
        encoder = line(entry, rule).write(encoder);
    }
    let is_complete = encoder.end().is_complete();
    (is_complete && bytes.len() < MAX_SIZE).then_some(bytes)
}

/// The rules for variables, each with its entry, or its name if there is no value. `None` if the command could not be sought.
fn lines(facts: &Facts<'_>) -> Option<Vec<(CString, Rule)>> {
    let rules = environment::rules(&facts.step.environment, facts.devices, &facts.request.variables);
    if rules.get(OsStr::new("PATH")) == Some(&Rule::Unset) {
        return None;
    }
    let mut lines: Vec<(CString, Rule)> = vec![(TIMINGS_OF_STEP.to_owned(), Rule::Unset)];
    for (name, rule) in rules {
        let value = match &rule {
            Rule::Set(value) | Rule::Default(value) | Rule::Threads(value) => Some(value.as_os_str()),
            Rule::Unset => None,
        };
        let entry = value.map_or_else(|| name.clone(), |value| [name.as_os_str(), value].join(OsStr::new("=")));
        lines.push((CString::new(entry.as_bytes()).ok()?, rule));
    }
    // The number of processors that counts is the task's own.
    lines.sort_by_key(|(_, rule)| !matches!(rule, Rule::Threads(_)));
    Some(lines)
}

fn line<'a>(entry: &'a CString, rule: &Rule) -> Line<'a> {
    match rule {
        Rule::Set(_) => Line::Set(entry),
        Rule::Default(_) => Line::Default(entry),
        Rule::Threads(_) => Line::UnlessEqual { entry, other: THREADS.1 },
        Rule::Unset => Line::Unset(entry),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use parallax_join_file::JoinFile;
    use parallax_join_file::rules::Variables;
    use parallax_request::Variable;
    use serde_json::json;

    use super::*;

    fn step(image: &[&str]) -> StepFile {
        let step = json!({
            "image": "a", "user": "u1", "environment": image, "mounts": [], "mount_home": true, "mount_workdir": true,
            "podman": "/usr/bin/podman", "start_timeout": 10,
        });
        serde_json::from_value(step).unwrap()
    }

    fn facts<'a>(step: &'a StepFile, request: &'a Request, directories: &'a Directories<'a>) -> Facts<'a> {
        let (holder, started_in) = (Some((17, 4711)), Some(Path::new("/w")));
        Facts { step, request, devices: &[], holder, directories, started_in, program: None }
    }

    /// The task's variables as the file changes them, in order.
    fn by_file(file: &[u8], of_task: &[&str]) -> Vec<String> {
        let of_task: Vec<CString> = of_task.iter().map(|entry| CString::new(*entry).unwrap()).collect();
        let mut room = [c""; 32];
        let mut variables = Variables::new(&mut room);
        of_task.iter().try_for_each(|entry| variables.push(entry)).unwrap();
        JoinFile::read(file).unwrap().rules().try_for_each(|rule| variables.apply(rule)).unwrap();
        let mut entries: Vec<_> = variables.entries().iter().map(|entry| entry.to_str().unwrap().to_owned()).collect();
        entries.sort();
        entries
    }

    #[test]
    fn variables_are_those_that_the_launcher_gives() {
        let of_task =
            ["A=job", "PATH=/node", "HOME=/h", "OMP_NUM_THREADS=4", "SLURM_CPUS_PER_TASK=4", "SLURM_PROCID=1", "B="];
        let images: [&[&str]; 3] = [
            &[],
            &["A=image=1", "PATH=/opt/bin", "HOME=/root", "OMP_NUM_THREADS=1", "SLURM_PROCID=9", "C=3", "D", "=x"],
            &["A=1", "A=2", "SLURM_CPUS_PER_TASK=7", "OMP_NUM_THREADS=1"],
        ];
        let changes =
            [&[][..], &["A=user", "-HOME", "C"], &["-A", "A", "B=2", "SLURM_PROCID", "-PATH", "PATH"], &["PATH"]];
        for (image, changes) in images.iter().flat_map(|image| changes.iter().map(move |changes| (*image, *changes))) {
            let variables = changes.iter().map(|text| Variable::parse(text).unwrap()).collect();
            let (step, request) = (step(image), Request { variables, ..Request::default() });
            let directories = Directories::OfNode(None);
            for of_task in [&of_task[..], &of_task[..3], &[]] {
                let file = contents(&facts(&step, &request, &directories), None, None).unwrap();
                let pair =
                    |entry: &&str| entry.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap();
                let rules = environment::rules(&step.environment, &[], &request.variables);
                let expected = environment::to_exec(&environment::apply(&rules, of_task.iter().map(pair)));
                let mut expected: Vec<String> =
                    expected.iter().map(|entry| entry.to_str().unwrap().to_owned()).collect();
                expected.sort();
                assert_eq!(by_file(&file, of_task), expected, "{image:?} {changes:?}");
            }
        }
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        let (step, request) = (step(&[]), Request::default());
        let directories = Directories::FirstOf([Some(Path::new("/w")), None]);
        let program = OsString::from("./app");
        let facts = Facts { program: Some(&program), ..facts(&step, &request, &directories) };
        let file = contents(&facts, Some(OsStr::new("asked")), None).unwrap();
        let read = JoinFile::read(&file).unwrap();
        assert_eq!((read.process, read.start_time, read.bounds), (17, c"4711", BOUNDS));
        assert_eq!((read.request, read.home, read.directory, read.program), (Some(c"asked"), None, c"/w", c"./app"));
        assert_eq!(read.directories.collect::<Vec<_>>(), [c"/w", c"/"]);
    }

    #[test]
    fn steps_that_ask_for_more_need_the_launcher() {
        let plain = step(&[]);
        let directories = Directories::OfNode(None);
        let of = |request: &Request| contents(&facts(&plain, request, &directories), None, None).is_some();
        assert!(of(&Request::default()));
        assert!(!of(&Request { entrypoint: Some(true), ..Request::default() }));
        assert!(!of(&Request { timings: Some(true), ..Request::default() }));
        assert!(!of(&Request { pytorch: true, ..Request::default() }));
        assert!(!of(&Request { variables: vec![Variable::Unset("PATH".into())], ..Request::default() }));
        let long = step(&[&format!("A={}", "x".repeat(MAX_SIZE))]);
        let request = Request::default();
        assert_eq!(contents(&facts(&long, &request, &directories), None, None), None);
        let shared = Facts { holder: None, ..facts(&plain, &request, &directories) };
        assert_eq!(contents(&shared, None, None), None);
    }

    #[test]
    fn the_files_are_where_the_launcher_has_its_own() {
        let paths = StepPaths::new(Path::new("/step"));
        for file in [FILE, parallax_join_file::LOCK] {
            let expected = PathBuf::from("/step").join(file.to_str().unwrap());
            assert_eq!(paths.launch_directory().join(file_name(file)), expected);
        }
    }
}

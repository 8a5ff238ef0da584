//! Environments as a whole: names, bases, variables, and what nodes get.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parallax_request::{MountSource, Request, Variable};

use crate::{EdfError, Locations, MAX_BYTES, Rendered, Sources, render};

/// Files and variables in memory.
#[derive(Default)]
struct Memory {
    files: BTreeMap<PathBuf, Vec<u8>>,
    variables: BTreeMap<String, String>,
}

impl Memory {
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
        let variables = [("HOME", "/home/u1"), ("USER", "u1"), ("LANG", "C")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        Self { files, variables }
    }

    fn locations(&self) -> Locations {
        Locations::new("/here".into(), &["/etc/edf".into()], |name| self.variable(name))
    }

    fn render(&self, reference: &str) -> Result<Rendered, EdfError> {
        render(reference, &self.locations(), self)
    }

    fn error(&self, reference: &str) -> String {
        self.render(reference).unwrap_err().to_string()
    }
}

impl Sources for Memory {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes.iter().copied().take(usize::try_from(limit).unwrap()).collect())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn list(&self, directory: &Path) -> Vec<String> {
        let names = self.files.keys().filter(|path| path.parent() == Some(directory));
        names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

/// The rendered form of one file.
fn json(rendered: &Rendered) -> String {
    serde_json::to_string(&rendered.environment).unwrap()
}

#[test]
fn a_name_is_looked_up_in_the_users_directories_and_then_in_the_sites() {
    let mut memory = Memory::of(&[
        ("/home/u1/.edf/a.toml", "image = \"home\""),
        ("/etc/edf/a.toml", "image = \"site\""),
        ("/etc/edf/group/b.toml", "image = \"b\""),
        ("/one/c.toml", "image = \"one\""),
        ("/here/two/c.toml", "image = \"two\""),
        ("/here/d.toml", "image = \"d\""),
    ]);
    let image = |memory: &Memory, name: &str| memory.render(name).unwrap().image().unwrap();
    assert_eq!((image(&memory, "a"), image(&memory, "group/b")), ("home".into(), "b".into()));
    for path in ["/here/d.toml", "./d.toml", "d.toml", "../here/d.toml"] {
        assert_eq!(image(&memory, path), "d", "{path}");
    }
    memory.variables.insert("EDF_PATH".into(), "/none::/one:two".into());
    assert_eq!((image(&memory, "a"), image(&memory, "c")), ("site".into(), "one".into()));
    memory.variables.insert("EDF_PATH".into(), "two".into());
    assert_eq!(image(&memory, "c"), "two");
    let said = memory.error("cc");
    assert!(said.contains("\"cc\" is in none of the directories /here/two, /etc/edf (EDF_PATH"), "{said}");
    let said = memory.error("gruop/b");
    assert!(!said.contains("did you mean"), "{said}");
}

#[test]
fn an_unknown_name_is_told_with_the_nearest() {
    let memory = Memory::of(&[("/etc/edf/pytorch.toml", "image = \"a\""), ("/etc/edf/README", "")]);
    assert!(memory.error("pytroch").ends_with("; did you mean \"pytorch\"?"), "{}", memory.error("pytroch"));
    for neither in ["", ".hidden", "/etc/edf/pytorch", "../x", "a/../b", "a//b/.."] {
        assert!(memory.error(neither).contains("is neither the name of an environment nor a path"), "{neither}");
    }
    assert!(memory.error("/missing.toml").contains("cannot read /missing.toml"));
}

#[test]
fn bases_are_merged_from_left_to_right_and_the_files_own_keys_come_last() {
    let memory = Memory::of(&[
        (
            "/etc/edf/left.toml",
            "image = \"left\"\nworkdir = \"/left\"\nwritable = false\nmounts = [\"/a:/a\", \"/b:/b:ro\"]\n\
             [env]\nZ = \"left\"\nX = \"left\"\n[annotations]\nk.a = 1\nk.b = \"left\"",
        ),
        (
            "/etc/edf/right.toml",
            "image = \"right\"\nmounts = [\"/c:/c\", \"/a:/a\"]\n[env]\nX = \"right\"\nA = \"right\"",
        ),
        (
            "/here/own.toml",
            "base_environment = [\"left\", \"right\"]\nentrypoint = true\nmounts = [\"/b:/b:rw\"]\ndevices = [\"/dev/z\", \"/dev/a\"]\n\
             [env]\nA = \"own\"\n[annotations]\n\"k.b\" = \"own\"",
        ),
    ]);
    let rendered = memory.render("own.toml").unwrap();
    assert_eq!(
        json(&rendered),
        r#"{"image":"right","workdir":"/left","entrypoint":true,"writable":false,"mounts":["/a:/a","/b:/b:ro","/c:/c","/b:/b:rw"],"devices":["/dev/z","/dev/a"],"env":{"Z":"left","X":"right","A":"own"},"annotations":{"k.a":"1","k.b":"own"}}"#
    );
    // What is printed can be read again, and means the same.
    let again = Memory::of(&[("/here/again.toml", &rendered.environment.to_toml())]);
    assert_eq!(json(&again.render("again.toml").unwrap()), json(&rendered));
}

#[test]
fn a_relative_base_lies_beside_the_file_that_names_it() {
    let memory = Memory::of(&[
        ("/here/sub/own.toml", "base_environment = \"./base.toml\""),
        ("/here/sub/base.toml", "base_environment = \"more/${USER}.toml\""),
        ("/here/sub/more/u1.toml", "image = \"a\"\nmounts = [\"./x:/x\"]"),
    ]);
    let rendered = memory.render("sub/own.toml").unwrap();
    assert!(json(&rendered).contains("\"/here/x:/x\""), "a mount's is the caller's: {}", json(&rendered));
}

#[test]
fn cycles_and_levels_are_named() {
    let memory = Memory::of(&[
        ("/etc/edf/a.toml", "base_environment = \"b\""),
        ("/etc/edf/b.toml", "base_environment = [\"c\", \"a\"]"),
        ("/etc/edf/c.toml", "image = \"c\""),
    ]);
    assert!(
        memory.error("a").ends_with("/etc/edf/a.toml -> /etc/edf/b.toml -> /etc/edf/a.toml"),
        "{}",
        memory.error("a")
    );
    let chain = |levels: usize| {
        let mut files: Vec<(String, String)> = (0..levels)
            .map(|level| (format!("/etc/edf/l{level}.toml"), format!("base_environment = \"l{}\"", level + 1)))
            .collect();
        files.push((format!("/etc/edf/l{levels}.toml"), "image = \"a\"".to_owned()));
        Memory::of(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
    };
    assert!(chain(10).render("l0").is_ok());
    assert!(chain(11).error("l0").contains("more than 10 levels of base_environment: /etc/edf/l0.toml -> "));
    let missing = Memory::of(&[("/etc/edf/a.toml", "image = \"a\"\nbase_environment = \"b\"")]);
    assert!(missing.error("a").starts_with("/etc/edf/a.toml, line 2, column 20: the environment \"b\" is in none"));
}

#[test]
fn sizes_are_limited() {
    let memory = Memory::of(&[
        ("/here/large.toml", &format!("image = \"a\" # {}", "x".repeat(MAX_BYTES))),
        ("/here/twice.toml", "image = \"a\"\nbase_environment = [\"half.toml\", \"half.toml\"]"),
        ("/here/half.toml", &format!("# {}", "x".repeat(MAX_BYTES / 2))),
        ("/here/grows.toml", "image = \"a\"\nmounts = [\"/${BIG}:/a\", \"/${BIG}:/b\"]"),
    ]);
    let mut memory = memory;
    memory.variables.insert("BIG".into(), "x".repeat(MAX_BYTES / 2));
    for name in ["large.toml", "twice.toml", "grows.toml"] {
        assert!(memory.error(name).ends_with("exceeds 1 MiB"), "{name}");
    }
    // A file that is a base many times over does not take long.
    let mut files: Vec<(String, String)> = (0..9)
        .map(|level| {
            let next = format!("\"l{}\"", level + 1);
            (format!("/etc/edf/l{level}.toml"), format!("base_environment = [{}]", vec![next; 50].join(",")))
        })
        .collect();
    files.push(("/etc/edf/l9.toml".to_owned(), String::new()));
    let wide = Memory::of(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>());
    assert!(wide.error("l0").contains("exceeds 1 MiB"));
}

#[test]
fn variables_are_expanded_once_and_after_merging() {
    let mut memory = Memory::of(&[
        ("/etc/edf/base.toml", "image = \"${MISSING}\"\n[env]\nA = \"${MISSING}\""),
        (
            "/here/a.toml",
            "base_environment = \"base\"\nimage = \"${USER}/app\"\nworkdir = \"${HOME}\"\nmounts = [\"${HOME}/a b:/x\"]\n\
             [env]\nA = \"$$${MONEY}\"\n[annotations]\nn = \"${USER:+yes}\"",
        ),
    ]);
    memory.variables.insert("MONEY".into(), "${USER}$$".into());
    let rendered = memory.render("a.toml").unwrap();
    assert_eq!(
        json(&rendered),
        r#"{"image":"u1/app","workdir":"/home/u1","entrypoint":false,"writable":true,"mounts":["/home/u1/a b:/x"],"devices":[],"env":{"A":"$${USER}$$"},"annotations":{"n":"yes"}}"#
    );
    let again = Memory::of(&[("/here/again.toml", &rendered.environment.to_toml())]);
    assert_eq!(json(&again.render("again.toml").unwrap()), json(&rendered));
    assert!(memory.error("base").starts_with("/etc/edf/base.toml, line 1, column 10: the variable MISSING is not set"));
}

fn request(text: &str) -> Result<(Request, Vec<String>), String> {
    let rendered = Memory::of(&[("/here/a.toml", text)]).render("a.toml").map_err(|error| error.to_string())?;
    let mut warnings = Vec::new();
    let request = rendered.request(&mut warnings).map_err(|error| error.to_string())?;
    Ok((request, warnings.iter().map(ToString::to_string).collect()))
}

#[test]
fn nodes_get_a_request() {
    let text = "image = \"nvcr.io#nvidia/cuda:12\"\nworkdir = \"/w\"\nwritable = false\nentrypoint = true\n\
                mounts = [\"/a:/a:ro,private\", \"/b:/a\", \"/c:/c:ro+rw+bind+nosuid+nodev\"]\ndevices = [\"/dev/fuse\", \"?a.com/gpu=all\"]\n\
                [env]\nA = \"1\"\nB = \"\"\nLC_ALL = \"C\"\n[annotations]\ncom.sarus.x = \"y\"\ncom.hooks.cxi.enabled = true";
    let (request, warnings) = request(text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(request.working_directory, Some("/w".into()));
    assert_eq!((request.writable, request.entrypoint, request.home), (Some(false), Some(true), None));
    let mounts: Vec<_> =
        request.mounts.iter().map(|mount| (&mount.source, mount.target.to_str().unwrap(), mount.read_only)).collect();
    let source = |path: &str| MountSource::Path(path.into());
    assert_eq!(mounts, [(&source("/b"), "/a", false), (&source("/c"), "/c", false)]);
    let devices: Vec<String> = request.devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["/dev/fuse", "?a.com/gpu=all"]);
    assert_eq!(request.annotations, [("com.hooks.cxi.enabled".to_owned(), "true".to_owned())]);
    let image = |name: &str| Variable::Image(name.into());
    assert_eq!(
        request.variables,
        [
            image("LANG"),
            image("LANGUAGE"),
            Variable::Set("A".into(), "1".into()),
            Variable::Unset("B".into()),
            Variable::Set("LC_ALL".into(), "C".into())
        ]
    );
    let rendered = Memory::of(&[("/here/a.toml", text)]).render("a.toml").unwrap();
    assert_eq!(rendered.image().unwrap(), "nvcr.io/nvidia/cuda:12");
}

#[test]
fn what_is_not_set_is_left_to_the_site() {
    let (request, _) = request("image = \"a\"").unwrap();
    assert_eq!((request.writable, request.entrypoint, request.working_directory), (None, None, None));
}

#[test]
fn what_cannot_be_had_is_told() {
    for (text, said) in [
        (
            "image = \"a\"\ndevices = [\"gpu\"]",
            "line 2, column 12: the device \"gpu\": it is neither a CDI name nor a path",
        ),
        ("image = \"a\"\nworkdir = \"w\"", "line 2, column 11: \"workdir\" is a directory of the container"),
    ] {
        let error = request(text).unwrap_err();
        assert!(error.starts_with("/here/a.toml, ") && error.contains(said), "{error}");
    }
    let (squash, _) = request("mounts = [\"./x.sqsh:/x:ro+sqsh\"]").unwrap();
    assert_eq!(squash.mounts.first().unwrap().source, MountSource::Squashfs("/here/x.sqsh".into()));
    let (_, warnings) = request("mounts = [\"/a:/a:rshared+noexec\"]").unwrap();
    let parts = ["\"shared\" has the effect of \"slave\"", "\"noexec\" has no effect"];
    assert!(
        warnings.len() == 2 && parts.iter().zip(&warnings).all(|(part, warning)| warning.contains(part)),
        "{warnings:?}"
    );
    let image = |text: &str| {
        Memory::of(&[("/here/a.toml", text)]).render("a.toml").unwrap().image().map_err(|error| error.to_string())
    };
    assert_eq!(image("image = \"/x/a.sqsh\"").as_deref(), Ok("/x/a.sqsh"));
    assert_eq!(image("image = \"./a.sqsh\"").as_deref(), Ok("/here/a.sqsh"));
    assert!(image("image = \"/x/a.sif\"").unwrap_err().contains("line 1, column 9: "));
    assert!(image("workdir = \"/\"").unwrap_err().contains("/here/a.toml has no image"));
}

//! Translations of whole command lines.

use std::path::Path;

use parallax_request::{MountSource, Variable};
use parallax_spank_hooks::PYXIS;

use super::*;

use GivenOption as O;

fn translated(options: &[(GivenOption, &str)]) -> Result<Translation, String> {
    let given: Vec<Value<'_>> =
        options.iter().map(|(option, text)| Value { option: *option, text, origin: Origin::Typed }).collect();
    translate(&given, Path::new("/here")).map_err(|error| error.to_string())
}

#[test]
fn a_command_line_of_a_launcher() {
    let translation = translated(&[
        (O::ContainerImage, "nvcr.io#nvidia/nemo:24.05"),
        (O::ContainerMounts, "/data,/a:/b:ro+x-create=auto,./src:/c:x-create=dir,tmpfs:/t,/data,umount:/sys"),
        (O::ContainerWorkdir, "/b"),
        (O::ContainerEnv, "NCCL_DEBUG, PATH"),
        (O::NoContainerMountHome, ""),
        (O::NoContainerRemapRoot, ""),
        (O::NoContainerEntrypoint, ""),
        (O::ContainerWritable, ""),
    ])
    .unwrap();
    assert_eq!(translation.image.as_deref(), Some("nvcr.io/nvidia/nemo:24.05"));
    let request = translation.request;
    let mounts: Vec<_> =
        request.mounts.iter().map(|mount| (&mount.source, mount.target.to_str().unwrap(), mount.read_only)).collect();
    let path = |path: &str| MountSource::Path(path.into());
    let expected = [
        (&path("/data"), "/data", false),
        (&path("/a"), "/b", true),
        (&path("/here/src"), "/c", false),
        (&MountSource::Tmpfs, "/t", false),
    ];
    assert_eq!(mounts, expected);
    assert_eq!(request.unmounts, [Path::new("/sys")]);
    assert_eq!(request.working_directory.as_deref(), Some(Path::new("/b")));
    assert_eq!(request.variables, [Variable::Keep("NCCL_DEBUG".into()), Variable::Keep("PATH".into())]);
    assert_eq!(
        (request.home, request.entrypoint, request.writable, request.pytorch),
        (Some(false), Some(false), Some(true), true)
    );
}

#[test]
fn containers_of_a_job_and_their_root() {
    let request = |options: &[_]| translated(options).unwrap().request;
    assert_eq!(request(&[(O::NoContainerRemapRoot, "")]).userns, Some(Userns::KeepId));
    let both = request(&[(O::ContainerRemapRoot, ""), (O::ContainerName, "env:auto")]);
    assert_eq!((both.userns, both.container()), (Some(Userns::Root), Some("env")));
    assert_eq!(request(&[(O::ContainerName, "env")]).container(), Some("env"));
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(translated(&[]).unwrap(), Translation::default());
    let translation =
        translated(&[(O::ContainerMountHome, ""), (O::ContainerReadonly, ""), (O::ContainerEntrypoint, "")]).unwrap();
    let request = translation.request;
    assert_eq!(
        (request.home, request.writable, request.entrypoint, request.pytorch),
        (Some(true), Some(false), Some(true), false)
    );
    assert_eq!(translation.image, None);
}

#[test]
fn what_is_refused_names_the_option() {
    for (options, said) in [
        (
            &[(O::ContainerImage, "a"), (O::ContainerImage, "b")][..],
            "--container-image is given twice, with different values",
        ),
        (&[(O::ContainerMounts, "/a"), (O::ContainerMounts, "/b")], "--container-mounts is given twice"),
        (
            &[(O::ContainerReadonly, ""), (O::ContainerWritable, "")],
            "--container-writable contradicts --container-readonly",
        ),
        (
            &[(O::ContainerMountHome, ""), (O::NoContainerMountHome, "")],
            "--container-mount-home contradicts --no-container-mount-home",
        ),
        (&[(O::ContainerEntrypoint, ""), (O::NoContainerEntrypoint, "")], "--container-entrypoint contradicts"),
        (&[(O::ContainerRemapRoot, ""), (O::NoContainerRemapRoot, "")], "--container-remap-root contradicts"),
        (&[(O::ContainerSave, "/x.sqsh")], "--container-save is not possible"),
        (&[(O::ContainerName, "a:new")], "--container-name: \"a:new\" is not a name"),
        (&[(O::ContainerUnshare, "net")], "--container-unshare is not possible"),
        (&[(O::ContainerMounts, "/a:/b:rr")], "--container-mounts: \"/a:/b:rr\": the flag \"rr\" is unknown"),
        (&[(O::ContainerMounts, "umount:x")], "--container-mounts: \"umount:x\": write umount:/PATH"),
        (&[(O::ContainerWorkdir, "x")], "--container-workdir: \"x\" is not an absolute path"),
        (&[(O::ContainerEnv, "A=1")], "--container-env: \"A=1\" is not the name of a variable"),
    ] {
        let message = translated(options).unwrap_err();
        assert!(message.starts_with(said), "{message}");
    }
    let message = translated(&[(O::ContainerSave, "/x.sqsh")]).unwrap_err();
    assert!(message.contains("podman commit") && message.contains("parallax migrate"), "{message}");
    assert!(translated(&[(O::ContainerImage, "a"), (O::ContainerImage, "a")]).is_ok());
}

#[test]
fn variables_are_options() {
    let variables = |name: &str| match name {
        "PYXIS_CONTAINER_IMAGE" => Some("ubuntu".to_owned()),
        "PYXIS_CONTAINER_MOUNT_HOME" => Some("no".to_owned()),
        "PYXIS_CONTAINER_READONLY" => Some("Yes".to_owned()),
        "PYXIS_CONTAINER_ENTRYPOINT" => Some(String::new()),
        "PYXIS_CONTAINER_ENTRYPOINT_LOG" => Some("0".to_owned()),
        _ => None,
    };
    let mut values = of_variables(variables).unwrap();
    values.sort_by_key(|(option, _)| option.name());
    let expected = [(O::ContainerImage, "ubuntu"), (O::ContainerReadonly, ""), (O::NoContainerMountHome, "")];
    assert_eq!(values, expected.map(|(option, text)| (option, text.to_owned())));
    let error = of_variables(|name| (name == "PYXIS_CONTAINER_WRITABLE").then(|| "perhaps".to_owned())).unwrap_err();
    assert!(
        error.to_string().starts_with("PYXIS_CONTAINER_WRITABLE: \"perhaps\" is neither true nor false"),
        "{error}"
    );
    let value = Value { option: O::ContainerWorkdir, text: "x", origin: Origin::Variable };
    let error = translate(&[value], Path::new("/")).unwrap_err().to_string();
    assert!(error.starts_with("PYXIS_CONTAINER_WORKDIR: "), "{error}");
}

#[test]
fn names_are_pyxis() {
    assert!(PYXIS.iter().all(|text| is_of_pyxis(text.option) && text.option.name().contains("container-")));
    assert!(!is_of_pyxis(O::Image) && !is_of_pyxis(O::EdfName));
}

//! Users that nss-systemd knows, whose module asks systemd by sockets, timers and an event loop.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;

use super::{NODE, booted_by_systemd};
use crate::cluster::with_file;

tests! { cluster:
    users_that_systemd_knows_get_images,
}

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libnss_systemd.so.2";
const USER: &str = r#"{"userName": "managed", "uid": 4010, "gid": 4010, "disposition": "regular"}"#;

/// Takes a lease for that user, and asks for one for an id that nobody has.
const SCRIPT: &str = r#"
denied = metric("parallax_denied_system_calls_total")
client, response = lease(81, uid=4010)
print(list(response)[0], json.load(open(response["granted"]["directory"] + "/step.json"))["user"])
client.sendall(frame({"release": {"step": step(81)}}))
print(receive(client), "no user with the id 4011" in lease(82, uid=4011)[1]["refused"]["reason"])
print(metric("parallax_denied_system_calls_total") - denied)
"#;

fn users_that_systemd_knows_get_images(cluster: &Cluster) -> anyhow::Result<()> {
    booted_by_systemd(cluster, || {
        let at = |path: &str| cluster.path_on(NODE, path);
        fs::copy(LIBRARY, at(LIBRARY)?).context("the package libnss-systemd is needed on this machine")?;
        fs::create_dir_all(at("/run/userdb")?)?;
        fs::write(at("/run/userdb/managed.user")?, USER)?;
        symlink("managed.user", at("/run/userdb/4010.user")?)?;
        let ids = "u1:100000:65536\nu2:200000:65536\nmanaged:500000:65536\n";
        let script = format!("{}{SCRIPT}", include_str!("../agent.py"));
        let tested =
            with_file(cluster, NODE, "/etc/nsswitch.conf", Some("passwd: files systemd\ngroup: files\n"), || {
                with_file(cluster, NODE, "/etc/subuid", Some(ids), || {
                    with_file(cluster, NODE, "/etc/subgid", Some(ids), || {
                        let said = cluster.run(NODE, "root", &["python3", "-c", &script])?.success()?.stdout;
                        let expected = "granted managed\n{'released': {'problems': []}} True\n0.0\n";
                        ensure!(said == expected, "{said}");
                        wait_for_no_lease(cluster, NODE)
                    })
                })
            });
        fs::remove_file(at(LIBRARY)?)?;
        fs::remove_dir_all(at("/run/userdb")?)?;
        tested
    })
}

use std::fs;

use super::*;

#[test]
fn a_chunk_store_that_the_user_cannot_use_is_left_out_alone() {
    let config = Lazy {
        sources: vec!["s3://images/a".into(), "/shared/chunks".into()],
        s3_endpoint: "https://s3.site".into(),
        s3_credentials: "/missing".into(),
        ..Lazy::default()
    };
    let names: Vec<String> = sources(&config, Path::new("/store")).status().map(|source| source.name.clone()).collect();
    assert_eq!(names, ["/shared/chunks", "/store"]);
}

#[test]
fn a_layer_is_named_by_its_description() {
    let directory = tempfile::tempdir().unwrap();
    let index = directory.path().join("layer.caibx");
    assert_eq!(name(&index), Sha256::from([0; 32]));
    let digest = Sha256::from([7; 32]);
    let description = format!(r#"{{"squashfs_sha256": "{digest}", "size": 1}}"#);
    fs::write(directory.path().join("layer.json"), description).unwrap();
    assert_eq!(name(&index), digest);
}

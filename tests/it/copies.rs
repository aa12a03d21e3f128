//! Copies in further registries: the same digest under the same tags, or the run fails.

use crate::world::World;
use base64::Engine;
use serde_json::json;
use std::collections::BTreeMap;
use tidegate::rehearse::registry::{PASSWORD, Repository};
use tidegate::rehearse::sandbox::Fault;

const MIRROR: &str = "mirror.example.com/team/demo";

/// A repository whose image goes to a second registry as well.
fn mirrored() -> World {
    let mut world = World::new();
    world.configure("    repository: 123456789012", &format!("    copies: [{MIRROR}]\n    repository: 123456789012"));
    world.commit("mirror");
    let address = world.sandbox.address.clone();
    let hosts = ["123456789012.dkr.ecr.us-west-2.amazonaws.com", "mirror.example.com"];
    world.var("TIDEGATE_REGISTRY_ENDPOINTS", hosts.map(|host| format!("{host}=http://{address}")).join(","));
    let login = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{PASSWORD}"));
    world.var("DOCKER_AUTH_CONFIG", json!({"auths": {"mirror.example.com": {"auth": login}}}).to_string());
    world.sandbox.with(|outside| outside.repositories.insert("team/demo".into(), Repository::default()));
    world
}

fn tags(world: &World, repository: &str) -> BTreeMap<String, String> {
    let mut tags = world.sandbox.with(|outside| outside.repositories[repository].tags.clone());
    tags.retain(|tag, _| !tag.starts_with("env-")); // what runs is deployed from the first one
    tags
}

#[test]
fn every_tag_has_the_same_digest_everywhere() {
    let mut world = mirrored();
    let sha = world.head();
    let plan = world.pushed().run(&["plan"]);
    assert!(plan.err.contains(&format!("  copy    app  {MIRROR}")), "{}", plan.err);
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains(&format!("copied to {MIRROR}: 2 blobs sent")), "{}", ran.err);
    let (first, copied) = (tags(&world, "demo"), tags(&world, "team/demo"));
    assert_eq!((first.clone(), copied.len()), (copied, 2), "the version and latest");
    assert_eq!(first["latest"], ran.outputs["digest"]);
    // A release moves no bytes, and the aliases follow.
    let ran = world.released("v1.4.2", &sha).run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains(&format!("copied to {MIRROR}: 0 blobs sent")), "{}", ran.err);
    assert_eq!(ran.count("/blobs/uploads"), 0);
    assert_eq!(tags(&world, "demo"), tags(&world, "team/demo"));
    // The next commit moves latest in both.
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(tags(&world, "team/demo")["latest"], ran.outputs["digest"]);
    // The same again sends nothing.
    let again = world.run(&["run"]);
    assert_eq!((again.code, again.count("PUT /v2/")), (0, 0), "{}", again.err);
}

/// Lying twins: the second registry takes everything and has nothing, or has something else under the version.
#[test]
fn a_copy_that_is_not_there_is_no_copy() {
    let mut world = mirrored();
    let put = Fault { on: "PUT /v2/team/demo/manifests", times: 9, status: 201, headers: vec![], body: json!({}), after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(put));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "push.failed");
    assert!(ran.err.contains("mirror.example.com/team/demo: the tag") && ran.err.contains("names nothing instead of"), "{}", ran.err);
    assert!(!world.runs_on("dev").contains(&world.head()[..7]), "nothing is switched");
    let mut world = mirrored();
    let version = world.head()[..7].to_owned();
    world.sandbox.with(|outside| {
        let there = outside.repositories.get_mut("team/demo").unwrap();
        let bytes = bytes::Bytes::from_static(b"{\"schemaVersion\": 2}");
        let digest = tidegate::registry::oci::digest_of(&bytes);
        there.manifests.insert(digest.clone(), (bytes, "application/vnd.oci.image.manifest.v1+json".into()));
        there.tags.insert(version, digest);
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "version.conflict");
    assert!(ran.err.contains("exists already with another digest"), "{}", ran.err);
    let mut world = mirrored();
    world.without("DOCKER_AUTH_CONFIG");
    let ran = world.pushed().run(&["run"]);
    assert!(ran.code == 5 && ran.err.contains("mirror.example.com"), "{}", ran.err);
    for (copies, words) in [
        ("[mirror.example.com/Team/demo]", "upper-case"),
        ("[123456789012.dkr.ecr.us-west-2.amazonaws.com/demo]", "has the image already"),
        ("[a.example.com/x, a.example.com/x]", "has the image already"),
    ] {
        let world = mirrored();
        world.configure(&format!("copies: [{MIRROR}]"), &format!("copies: {copies}"));
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{copies}: {}", ran.err);
    }
}

/// An index goes with all its platforms and attestations, which have to be there before it.
#[test]
fn an_index_is_copied_whole() {
    let mut world = mirrored();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let digests: Vec<String> = world.sandbox.with(|outside| {
        let here = outside.repositories.get_mut("demo").unwrap();
        let mut keep = |bytes: String, media_type: &str| {
            let bytes = bytes::Bytes::from(bytes);
            let digest = tidegate::registry::oci::digest_of(&bytes);
            if media_type.is_empty() {
                here.blobs.insert(digest.clone(), bytes);
            } else {
                here.manifests.insert(digest.clone(), (bytes, media_type.into()));
            }
            digest
        };
        let mut listed = Vec::new();
        for (os, architecture) in [("linux", "amd64"), ("linux", "arm64"), ("unknown", "unknown")] {
            let config = json!({"architecture": architecture, "os": os, "config": {}}).to_string();
            let (layer, size) = (format!("layer of {architecture}"), config.len());
            let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "size": layer.len(), "digest": keep(layer, "")});
            let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "size": size, "digest": keep(config, "")});
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
            let size = manifest.len();
            let digest = keep(manifest, "application/vnd.oci.image.manifest.v1+json");
            listed.push(json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": size, "digest": digest,
                "platform": {"os": os, "architecture": architecture}}));
        }
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": listed});
        let all = listed.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect();
        let digest = keep(index.to_string(), "application/vnd.oci.image.index.v1+json");
        here.tags.insert("2.0.0".into(), digest);
        all
    });
    let ran = world.run(&["deploy", "staging", "2.0.0"]);
    assert!(ran.err.contains(&format!("copied to {MIRROR}: 6 blobs sent")), "{}", ran.err);
    let there = world.sandbox.with(|outside| outside.repositories["team/demo"].clone());
    assert_eq!(there.tags["2.0.0"], tags(&world, "demo")["2.0.0"]);
    assert!(digests.iter().all(|digest| there.manifests.contains_key(digest)));
}

//! Credentials: a role assumed with GitHub's identity token, an EKS cluster by its name, logins that are lost.

use crate::world::World;
use serde_json::json;
use tidegate::rehearse::sandbox::Fault;

#[test]
fn a_role_is_assumed_with_githubs_own_identity() {
    let mut world = World::new();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.commit("role");
    let oidc = format!("{}?api-version=2.0", world.sandbox.url("oidc"));
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", oidc).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runtime-token");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(
        (ran.count("GET /oidc?api-version=2.0&audience=sts.amazonaws.com"), ran.count("AssumeRoleWithWebIdentity")),
        (1, 1),
        "{:?}",
        ran.log
    );
    assert!(!ran.err.contains("runtime-token") && !ran.err.contains("sandbox.identity.token"));
}

/// A wait outlives the session: a new identity token is minted and the role assumed again, before the old one ends.
#[test]
fn credentials_outlive_a_wait() {
    let mut world = World::new();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.configure("tags: [latest]", "tags: [latest]\n    gates:\n      - drain: {queues: [jobs], quiet: 4s, timeout: 1m}");
    world.commit("role");
    let oidc = format!("{}?api-version=2.0", world.sandbox.url("oidc"));
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", oidc).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runtime-token");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    // Renewed two minutes before the end: this one lasts a second.
    world.sandbox.with(|outside| outside.session_seconds = Some(121));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let (minted, assumed) = (ran.count("GET /oidc"), ran.count("AssumeRoleWithWebIdentity"));
    assert!(minted >= 3 && minted == assumed, "{minted} tokens, {assumed} sessions: one for images, and one a second for the queue");
    let plan = world.run(&["plan"]);
    assert!(!plan.err.contains("may end after"), "it renews itself: {}", plan.err);
}

/// Where credentials cannot be renewed, the plan says so before anything waits.
#[test]
fn a_session_that_a_wait_may_outlive_is_told_by_the_plan() {
    let mut world = World::new();
    world.configure("tags: [latest]", "tags: [latest]\n    gates:\n      - drain: {queues: [jobs], quiet: 2m, timeout: 2h}");
    world.commit("drain");
    world.pushed();
    assert!(!world.run(&["plan"]).err.contains("may end after"), "keys do not end");
    world.var("AWS_SESSION_TOKEN", "sessionsessionsession");
    let plan = world.run(&["plan"]);
    assert!(plan.err.contains("this run may wait 3h") && plan.err.contains("AWS_SESSION_TOKEN) may end after 1h"), "{}", plan.err);
    let json: serde_json::Value = serde_json::from_str(&world.run(&["plan", "--format", "json"]).out).unwrap();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn a_role_is_assumed_with_the_keys_at_hand() {
    let mut world = World::new();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.commit("role");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.count("AssumeRole") >= 1, "{:?}", ran.log);
}

#[test]
fn no_credentials_are_said_so() {
    let mut world = World::new();
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert!(ran.err.contains("id-token: write"), "{}", ran.err);
}

#[test]
fn an_eks_cluster_needs_no_kubeconfig_and_no_aws_tool() {
    let mut world = World::new();
    world.configure("{namespace: dev, workloads", "{cluster: prod, namespace: dev, workloads");
    world.commit("eks");
    world.without("KUBECONFIG");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("GET /aws/clusters/prod"), 1);
}

#[test]
fn a_kubeconfig_that_is_not_there_is_not_replaced_by_another_cluster() {
    let mut world = World::new();
    world.var("KUBECONFIG", "/nowhere/config");
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert!(ran.err.contains("KUBECONFIG=/nowhere/config leads to no file"), "{}", ran.err);
}

#[test]
fn a_push_that_lost_its_login_gets_a_new_one_and_a_refused_one_is_told() {
    let lost = |times| Fault {
        on: "/push",
        times,
        status: 200,
        headers: vec![],
        body: json!({"errorDetail": {"message": "no basic auth credentials"}, "error": "x"}),
        after_effect: false,
    };
    let mut world = World::new();
    world.sandbox.with(|outside| outside.faults.push(lost(1)));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.count("POST /build"), ran.count("GetAuthorizationToken")), (1, 2));
    let mut world = World::new();
    world.sandbox.with(|outside| outside.faults.push(lost(9)));
    world.pushed().run(&["run"]).must(5, "auth.denied");
}

//! What deliveries say, by who sends them. Three answers: a delivery, one that is about nothing we know, or one that is broken.

use super::Delivery;
use crate::serve::jobs::Callback;
use crate::version::hex;
use aws_lc_rs::digest;
use serde_json::Value;

/// Longer ids are not kept as they are.
const ID_LIMIT: usize = 128;

/// What a payload is.
pub enum Said {
    /// A delivery.
    Delivery(Box<Delivery>),
    /// It is fine and starts nothing, for this reason.
    Nothing(&'static str),
    /// It cannot be read.
    Broken,
}

/// The name of a body: the same bytes are the same delivery, whatever its headers say, which nobody signed.
fn body_name(body: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, body).as_ref())
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn delivery(body: &[u8], id: Option<&str>, value: &Value, repository: &str) -> Option<Delivery> {
    let repository = text(value, repository)?;
    let mut names = vec![body_name(body)];
    names.extend(id.filter(|id| id.len() <= ID_LIMIT).map(|id| format!("id:{id}")));
    Some(Delivery { names, repository, ..Delivery::default() })
}

fn said(delivery: Option<Delivery>) -> Said {
    delivery.map_or(Said::Broken, |delivery| Said::Delivery(Box::new(delivery)))
}

/// <https://docs.docker.com/docker-hub/repos/manage/webhooks/#example-webhook-payload>
pub fn docker_hub(body: &[u8], hosts: &[String]) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::Broken };
    let callback = text(&value, "/callback_url").map(|url| Callback { url, hosts: hosts.to_vec() });
    said(delivery(body, None, &value, "/repository/repo_name").map(|delivery| Delivery {
        tag: text(&value, "/push_data/tag"),
        pusher: text(&value, "/push_data/pusher"),
        image: Some(format!("docker.io/{}", delivery.repository)),
        callback,
        ..delivery
    }))
}

/// <https://docs.github.com/en/webhooks/webhook-events-and-payloads>
pub fn github(body: &[u8], event: &str, id: Option<&str>) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::Broken };
    if event == "ping" {
        return Said::Nothing("pong");
    }
    if value.pointer("/deleted").and_then(Value::as_bool) == Some(true) {
        return Said::Nothing("a branch or tag was deleted");
    }
    let Some(mut delivery) = delivery(body, id, &value, "/repository/full_name") else { return Said::Broken };
    delivery.events = vec![event.to_owned()];
    delivery.events.extend(text(&value, "/action").map(|action| format!("{event}.{action}")));
    delivery.pusher = text(&value, "/sender/login");
    let of_ref = text(&value, "/ref").unwrap_or_default();
    delivery.branch = of_ref.strip_prefix("refs/heads/").map(str::to_owned).or_else(|| text(&value, "/workflow_run/head_branch"));
    delivery.tag = of_ref.strip_prefix("refs/tags/").map(str::to_owned).or_else(|| text(&value, "/release/tag_name"));
    delivery.sha = text(&value, "/after").or_else(|| text(&value, "/workflow_run/head_sha"));
    for kind in ["registry_package", "package"] {
        let Some(package) = value.get(kind) else { continue };
        let (namespace, name) = (text(package, "/namespace"), text(package, "/name"));
        delivery.tag = text(package, "/package_version/container_metadata/tag/name");
        if let (Some(namespace), Some(name)) = (namespace, name) {
            delivery.image = Some(format!("ghcr.io/{}/{}", namespace.to_lowercase(), name.to_lowercase()));
        }
    }
    Said::Delivery(Box::new(delivery))
}

/// <https://docs.gitlab.com/user/project/integrations/webhook_events/>
pub fn gitlab(body: &[u8], id: Option<&str>) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::Broken };
    let Some(kind) = text(&value, "/object_kind") else { return Said::Broken };
    let Some(mut delivery) = delivery(body, id, &value, "/project/path_with_namespace") else { return Said::Broken };
    if matches!(kind.as_str(), "push" | "tag_push") && text(&value, "/after").is_some_and(|after| after.bytes().all(|byte| byte == b'0')) {
        return Said::Nothing("a branch or tag was deleted");
    }
    let action =
        text(&value, "/object_attributes/status").or_else(|| text(&value, "/object_attributes/action")).or_else(|| text(&value, "/action"));
    delivery.events = vec![kind.clone()];
    delivery.events.extend(action.map(|action| format!("{kind}.{action}")));
    delivery.pusher = text(&value, "/user_username").or_else(|| text(&value, "/user/username"));
    let of_ref = text(&value, "/ref").or_else(|| text(&value, "/object_attributes/ref")).unwrap_or_default();
    let is_tag = kind == "tag_push" || value.pointer("/object_attributes/tag").and_then(Value::as_bool) == Some(true);
    let bare = of_ref.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_owned();
    delivery.tag = text(&value, "/tag").or_else(|| (is_tag && !bare.is_empty()).then(|| bare.clone()));
    delivery.branch = (!is_tag && !bare.is_empty()).then_some(bare);
    delivery.sha = text(&value, "/checkout_sha").or_else(|| text(&value, "/object_attributes/sha")).or_else(|| text(&value, "/commit/id"));
    Said::Delivery(Box::new(delivery))
}

/// A signed request: `{"repository": …, "tag": …, "branch": …, "sha": …}`, or what tidegate's own webhook target sends.
pub fn plain(body: &[u8], id: &str) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::Broken };
    let repository = text(&value, "/repository").or_else(|| text(&value, "/project"));
    let Some(repository) = repository else { return Said::Broken };
    Said::Delivery(Box::new(Delivery {
        // The id is signed, so it alone names the delivery; a long one by its hash.
        names: vec![if id.len() <= ID_LIMIT { format!("id:{id}") } else { body_name(id.as_bytes()) }],
        repository,
        tag: text(&value, "/tag").or_else(|| text(&value, "/version")),
        branch: text(&value, "/branch"),
        sha: text(&value, "/sha").or_else(|| text(&value, "/commit")),
        pusher: text(&value, "/pusher"),
        // Where to look up is the configuration's to say: `image` of the rule.
        image: None,
        ..Delivery::default()
    }))
}

/// <https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html#ecr-eventbridge-bus>
pub fn ecr_image_action(body: &[u8]) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::Broken };
    let is = |pointer: &str, wanted: &str| text(&value, pointer).as_deref() == Some(wanted);
    if !is("/detail-type", "ECR Image Action") || !is("/detail/action-type", "PUSH") || !is("/detail/result", "SUCCESS") {
        return Said::Nothing("it is no push that went well");
    }
    let id = text(&value, "/id");
    let (Some(account), Some(region)) = (text(&value, "/account"), text(&value, "/region")) else { return Said::Broken };
    if text(&value, "/detail/image-tag").is_none() {
        return Said::Nothing("the image has no tag");
    }
    said(delivery(body, id.as_deref(), &value, "/detail/repository-name").map(|delivery| Delivery {
        tag: text(&value, "/detail/image-tag"),
        image: Some(format!("{account}.dkr.ecr.{region}.amazonaws.com/{}", delivery.repository)),
        ..delivery
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(said: Said) -> Delivery {
        match said {
            Said::Delivery(delivery) => *delivery,
            Said::Nothing(why) => panic!("nothing: {why}"),
            Said::Broken => panic!("broken"),
        }
    }

    #[test]
    fn a_branch_a_tag_and_a_package_of_github() {
        let bytes = |value: Value| value.to_string().into_bytes();
        let push = bytes(
            json!({"ref": "refs/heads/main", "after": "a".repeat(40), "repository": {"full_name": "acme/web"}, "sender": {"login": "ada"}}),
        );
        let push = read(github(&push, "push", Some("1")));
        assert_eq!((push.branch.as_deref(), push.tag.as_deref(), push.events), (Some("main"), None, vec!["push".to_owned()]));
        let release = bytes(json!({"action": "published", "release": {"tag_name": "v1.10"}, "repository": {"full_name": "acme/web"}}));
        let release = read(github(&release, "release", None));
        assert_eq!((release.tag.as_deref(), release.events.get(1).map(String::as_str)), (Some("v1.10"), Some("release.published")));
        let package = json!({"action": "published", "repository": {"full_name": "Acme/Web"}, "registry_package":
            {"namespace": "Acme", "name": "web", "package_version": {"container_metadata": {"tag": {"name": "1.4"}}}}});
        let package = read(github(&bytes(package), "registry_package", None));
        assert_eq!((package.image.as_deref(), package.tag.as_deref()), (Some("ghcr.io/acme/web"), Some("1.4")));
        assert!(matches!(github(&bytes(json!({"deleted": true})), "push", None), Said::Nothing(_)));
        assert!(matches!(github(b"[1", "push", None), Said::Broken) && matches!(github(b"{}", "push", None), Said::Broken));
    }

    #[test]
    fn a_tag_of_gitlab_and_a_push_to_ecr() {
        let tag = json!({"object_kind": "tag_push", "ref": "refs/tags/v1", "after": "b", "checkout_sha": "b", "project": {"path_with_namespace": "acme/web"}, "user_username": "ada"});
        let tag = read(gitlab(tag.to_string().as_bytes(), None));
        assert_eq!((tag.tag.as_deref(), tag.branch, tag.pusher.as_deref()), (Some("v1"), None, Some("ada")));
        let pushed = json!({"id": "e1", "detail-type": "ECR Image Action", "account": "123456789012", "region": "us-west-2",
            "detail": {"result": "SUCCESS", "repository-name": "web", "image-tag": "1.4", "action-type": "PUSH"}});
        let pushed = read(ecr_image_action(pushed.to_string().as_bytes()));
        assert_eq!(pushed.image.as_deref(), Some("123456789012.dkr.ecr.us-west-2.amazonaws.com/web"));
        assert!(pushed.names.contains(&"id:e1".to_owned()));
    }
}

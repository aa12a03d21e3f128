//! Reaching the cluster: kubeconfig and context, the pod's own service account, or EKS by name with a token made here.

use super::failure;
use crate::config::Aws;
use crate::error::{Error, Reason, Result};
use crate::tools::aws::{self, Access};
use crate::tools::http::chain;
use crate::world::World;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::config::{Cluster as ClusterEntry, Context, ExecInteractiveMode, KubeConfigOptions, Kubeconfig, NamedCluster, NamedContext};
use kube::{Client, Config};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// EKS accepts a token for about 15 minutes.
const TOKEN_RENEWAL: Duration = Duration::from_secs(600);

/// Which cluster.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// An entry of the kubeconfig.
    pub context: Option<&'a str>,
    /// An EKS cluster.
    pub cluster: Option<&'a str>,
    /// The AWS region and role, for EKS.
    pub aws: &'a Aws,
}

/// A client for that cluster.
pub async fn connect(world: &World, reach: &Reach<'_>) -> Result<Client> {
    if let Some(name) = reach.cluster {
        return eks(world, reach.aws, name).await;
    }
    let mut config = match kubeconfig(world)? {
        Some(paths) => from_files(reach.context, &paths).await?,
        None if reach.context.is_some() => {
            return Err(missing("there is no kubeconfig, but the target names a context"));
        }
        None => Config::incluster().map_err(|_outside| missing("there is no kubeconfig, and this is not a pod"))?,
    };
    prepare(world, &mut config);
    if let Some((name, region)) = eks_of(&config) {
        // `aws eks get-token` needs the aws tool; the same token is made here without it.
        config.auth_info.exec = None;
        let aws = Aws { region: region.or_else(|| reach.aws.region.clone()), ..reach.aws.clone() };
        return with_eks_token(world, &aws, config, &name).await;
    }
    if let Some(exec) = config.auth_info.exec.as_mut() {
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    let built = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
    built.map_err(|error| Error::new(Reason::Internal, error.to_string()))?.map_err(|error| failure("the cluster cannot be used", &error))
}

fn missing(why: &str) -> Error {
    Error::new(Reason::AuthMissing, why).hint("set KUBECONFIG, or name an EKS cluster (`cluster:`), or run inside the cluster")
}

/// The files that `KUBECONFIG` lists, or the one in the home folder. A variable that leads nowhere is an error:
/// the pod's own account may belong to quite another cluster.
fn kubeconfig(world: &World) -> Result<Option<Vec<PathBuf>>> {
    if let Some(list) = world.vars.get("KUBECONFIG") {
        let files: Vec<PathBuf> = list.split(':').map(PathBuf::from).filter(|path| path.is_file()).collect();
        if files.is_empty() {
            return Err(missing(&format!("KUBECONFIG={list} leads to no file")));
        }
        return Ok(Some(files));
    }
    let home = world.vars.get("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    Ok(home.filter(|path| path.is_file()).map(|path| vec![path]))
}

async fn from_files(context: Option<&str>, paths: &[PathBuf]) -> Result<Config> {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let broken = |why: String| {
        Error::new(Reason::InputInvalid, format!("the kubeconfig {} cannot be used: {why}", shown.join(":")))
            .hint("`kubectl config get-contexts` lists what it holds")
    };
    let mut merged = Kubeconfig::default();
    for path in paths {
        let file = Kubeconfig::read_from(path).map_err(|error| broken(chain(&error)))?;
        merged = merged.merge(file).map_err(|error| broken(chain(&error)))?;
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), cluster: None, user: None };
    Config::from_custom_kubeconfig(merged, &options).await.map_err(|error| broken(chain(&error)))
}

fn prepare(world: &World, config: &mut Config) {
    config.default_retry = false; // it waits up to 1000 s on its own
    config.connect_timeout = Some(Duration::from_secs(10));
    let agent = http::HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
    config.headers.push((http::header::USER_AGENT, agent));
    let plugin = config.auth_info.exec.iter().flat_map(|exec| exec.env.iter().flatten());
    for value in plugin.filter_map(|entry| entry.get("value")) {
        world.console.mask(&crate::tools::secret::Secret::new(value.clone()));
    }
    if let Some(token) = &config.auth_info.token {
        use secrecy::ExposeSecret;
        world.console.mask(&crate::tools::secret::Secret::new(token.expose_secret()));
    }
}

/// The EKS cluster and region of a kubeconfig user that would call `aws eks get-token`. With a profile or another role
/// the call is left as it is: it is another identity than ours.
fn eks_of(config: &Config) -> Option<(String, Option<String>)> {
    let exec = config.auth_info.exec.as_ref()?;
    let program = exec.command.as_deref()?.rsplit('/').next()?;
    let args: Vec<&str> = exec.args.iter().flatten().map(String::as_str).collect();
    let after = |flag: &str| args.iter().position(|arg| *arg == flag).and_then(|at| args.get(at + 1)).map(|name| (*name).to_owned());
    let other_identity = ["--role-arn", "--profile", "-r", "--role"].iter().any(|flag| args.contains(flag));
    let profile = exec.env.iter().flatten().any(|entry| entry.get("name").is_some_and(|name| name == "AWS_PROFILE"));
    if other_identity || profile {
        return None;
    }
    match program {
        "aws" if args.contains(&"get-token") => Some((after("--cluster-name")?, after("--region"))),
        "aws-iam-authenticator" => Some((after("-i")?, None)),
        _other => None,
    }
}

async fn eks(world: &World, own: &Aws, name: &str) -> Result<Client> {
    let access = Access { region: own.region.clone(), role: own.role.clone() };
    let client = aws_sdk_eks::Client::new(&aws::config(&world.vars, &access, "EKS").await?);
    let what = format!("the EKS cluster {name} in {} cannot be described", access.region(&world.vars)?);
    let answer = client.describe_cluster().name(name).send().await;
    let answer = answer.map_err(|error| aws::failure(&what, Reason::TargetMissing, &error))?;
    let cluster = answer.cluster();
    let url = cluster
        .and_then(|cluster| cluster.endpoint())
        .ok_or_else(|| Error::new(Reason::TargetMissing, format!("{what}: it has no endpoint yet")))?;
    let authority = cluster.and_then(|cluster| cluster.certificate_authority()).and_then(|authority| authority.data());
    let entry =
        ClusterEntry { server: Some(url.to_owned()), certificate_authority_data: authority.map(str::to_owned), ..ClusterEntry::default() };
    let file = Kubeconfig {
        clusters: vec![NamedCluster { name: name.to_owned(), cluster: Some(entry), ..NamedCluster::default() }],
        contexts: vec![NamedContext {
            name: name.to_owned(),
            context: Some(Context { cluster: name.to_owned(), user: None, ..Context::default() }),
            ..NamedContext::default()
        }],
        current_context: Some(name.to_owned()),
        ..Kubeconfig::default()
    };
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| Error::new(Reason::TargetFailed, format!("{what}: {}", chain(&error))))?;
    prepare(world, &mut config);
    with_eks_token(world, own, config, name).await
}

/// A client whose token is made again before EKS stops accepting it.
async fn with_eks_token(world: &World, own: &Aws, config: Config, name: &str) -> Result<Client> {
    let access = Access { region: own.region.clone(), role: own.role.clone() };
    let region = access.region(&world.vars)?;
    let aws = aws::config(&world.vars, &access, "STS").await?;
    let first = bearer(&token(&aws, &region, name).await?)?;
    let (sender, receiver) = tokio::sync::watch::channel(first);
    let (name, clock, console) = (name.to_owned(), world.clock, world.console.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return, // the client is gone
                () = clock.sleep(TOKEN_RENEWAL) => {}
            }
            match token(&aws, &region, &name).await.and_then(|token| bearer(&token)) {
                Ok(next) => drop(sender.send(next)),
                Err(error) => console.warning(&format!("the EKS token could not be renewed yet: {}", error.sentence)),
            }
        }
    });
    let layer = tower::util::MapRequestLayer::new(move |mut request: http::Request<kube::client::Body>| {
        request.headers_mut().insert(http::header::AUTHORIZATION, receiver.borrow().clone());
        request
    });
    let builder = kube::client::ClientBuilder::try_from(config).map_err(|error| failure("the EKS cluster cannot be used", &error))?;
    Ok(builder.with_layer(&layer).build())
}

fn bearer(token: &str) -> Result<http::HeaderValue> {
    let value = http::HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_bytes| Error::new(Reason::Internal, "an EKS token that is not a header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An EKS token: a signed GetCallerIdentity address, good for 60 s at STS.
/// <https://github.com/kubernetes-sigs/aws-iam-authenticator#api-authorization-from-outside-a-cluster>
async fn token(aws: &aws_config::SdkConfig, region: &str, cluster: &str) -> Result<String> {
    let fail = |why: String| Error::new(Reason::AuthMissing, format!("no EKS token can be made for {cluster}: {why}"));
    let provider = aws.credentials_provider().ok_or_else(|| fail("no AWS credentials".into()))?;
    let identity = provider.provide_credentials().await.map_err(|error| fail(chain(&error)))?.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(60));
    let signing = aws_sigv4::sign::v4::SigningParams::builder().identity(&identity).region(region).name("sts");
    let signing = signing.time(SystemTime::now()).settings(settings).build().map_err(|error| fail(error.to_string()))?.into();
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let url = format!("https://sts.{region}.{domain}/?Action=GetCallerIdentity&Version=2011-06-15");
    let headers = [("x-k8s-aws-id", cluster)];
    let signable = SignableRequest::new("GET", url.as_str(), headers.into_iter(), SignableBody::Bytes(&[]));
    let signed = sign(signable.map_err(|error| fail(error.to_string()))?, &signing).map_err(|error| fail(error.to_string()))?;
    let (instructions, _signature) = signed.into_parts();
    let mut request = http::Request::builder().method("GET").uri(&url).body(()).map_err(|error| fail(error.to_string()))?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(format!("k8s-aws-v1.{}", URL_SAFE_NO_PAD.encode(request.uri().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_eks_token_is_a_signed_address_for_the_cluster() {
        let vars = crate::vars::Vars::from([
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "session"),
        ]);
        let access = Access { region: Some("eu-central-1".into()), role: None };
        let config = aws::config(&vars, &access, "STS").await.unwrap();
        let token = token(&config, "eu-central-1", "prod").await.unwrap();
        let url = URL_SAFE_NO_PAD.decode(token.strip_prefix("k8s-aws-v1.").unwrap()).unwrap();
        let url = url::Url::parse(std::str::from_utf8(&url).unwrap()).unwrap();
        let query: std::collections::HashMap<_, _> = url.query_pairs().collect();
        assert_eq!(url.host_str(), Some("sts.eu-central-1.amazonaws.com"));
        assert_eq!(query["Action"], "GetCallerIdentity");
        assert_eq!(query["X-Amz-Expires"], "60");
        assert_eq!(query["X-Amz-SignedHeaders"], "host;x-k8s-aws-id");
        assert_eq!(query["X-Amz-Security-Token"], "session");
    }
}

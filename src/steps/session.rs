//! A BuildKit session: what a build may ask us for while it runs: secrets, the SSH agent, registry logins.
//!
//! Nothing of it stands on an argument list, in the image or on disk.
//! <https://github.com/moby/buildkit/blob/master/docs/dev/request-lifecycle.md>

use super::endpoint::Endpoint;
use crate::registry::Repository;
use crate::registry::oci::Login;
use crate::registry::store::Store;
use crate::tools::secret::Secret;
use crate::world::World;
use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::{Health, HealthServer};
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use bollard::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard::moby::filesync::v1::auth_server::{Auth, AuthServer};
use bollard::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest, GetTokenAuthorityResponse,
    VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use bollard::moby::sshforward::v1::ssh_server::{Ssh, SshServer};
use bollard::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures::{Stream, StreamExt};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a build may ask for.
#[derive(Default)]
pub struct Offers {
    /// Secrets by id.
    pub secrets: HashMap<String, Secret>,
    /// The SSH agent's socket.
    pub ssh_agent: Option<PathBuf>,
    /// Registry logins by host.
    pub logins: HashMap<String, Login>,
    /// Where logins for other hosts are looked up, for private base images.
    pub world: Option<World>,
}

/// An open session; dropping it closes it.
pub struct Session {
    /// The id that the build names.
    pub id: String,
    pump: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Opens a session at the engine.
pub async fn open(endpoint: &Endpoint, id: String, offers: Offers) -> io::Result<Session> {
    let mut wire = BufReader::new(endpoint.dial().await?);
    let with_ssh = offers.ssh_agent.is_some();
    wire.write_all(upgrade(&id, with_ssh).as_bytes()).await?;
    wire.flush().await?;
    let mut status = String::new();
    wire.read_line(&mut status).await?;
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
    }
    if !status.starts_with("HTTP/1.1 101") {
        let mut body = Vec::new();
        let mut rest = (&mut wire).take(4096);
        let _cut = tokio::time::timeout(std::time::Duration::from_secs(2), rest.read_to_end(&mut body)).await;
        return Err(io::Error::other(format!("{} {}", status.trim(), String::from_utf8_lossy(&body).trim())));
    }
    let (server, mut client) = tokio::io::duplex(256 * 1024);
    let pump = tokio::spawn(async move {
        let _closed = tokio::io::copy_bidirectional(&mut wire, &mut client).await;
    });
    let agent = offers.ssh_agent.map(|socket| SshServer::new(Agent(socket)));
    let router = tonic::transport::Server::builder()
        .add_service(HealthServer::new(Alive))
        .add_service(AuthServer::new(Logins { known: offers.logins, world: offers.world }))
        .add_service(SecretsServer::new(SecretStore(offers.secrets)))
        .add_optional_service(agent);
    tokio::spawn(router.serve_with_incoming(futures::stream::iter([Ok::<_, io::Error>(server)])));
    Ok(Session { id, pump })
}

fn upgrade(id: &str, with_ssh: bool) -> String {
    let mut methods = vec![
        "/grpc.health.v1.Health/Check",
        "/moby.filesync.v1.Auth/Credentials",
        "/moby.filesync.v1.Auth/FetchToken",
        "/moby.filesync.v1.Auth/GetTokenAuthority",
        "/moby.filesync.v1.Auth/VerifyTokenAuthority",
        "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    ];
    if with_ssh {
        methods.extend(["/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"]);
    }
    let methods: String = methods.iter().map(|method| format!("X-Docker-Expose-Session-Grpc-Method: {method}\r\n")).collect();
    format!(
        "POST /session HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\
         X-Docker-Expose-Session-Uuid: {id}\r\n{methods}\r\n"
    )
}

struct Alive;

#[tonic::async_trait]
impl Health for Alive {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

struct SecretStore(HashMap<String, Secret>);

#[tonic::async_trait]
impl Secrets for SecretStore {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        // NotFound lets optional mounts (`required=false`) go on.
        let secret = self.0.get(&request.get_ref().id).ok_or_else(|| Status::not_found("no such secret"))?;
        Ok(Response::new(GetSecretResponse { data: secret.expose().as_bytes().to_vec() }))
    }
}

struct Logins {
    known: HashMap<String, Login>,
    world: Option<World>,
}

impl Logins {
    async fn of(&self, host: &str) -> Option<Login> {
        if let Some(login) = self.known.get(host) {
            return Some(login.clone());
        }
        let repository = Repository { host: host.to_owned(), path: "any".into() };
        let opened = Store::open(self.world.as_ref()?, &repository, None).await.ok()?;
        opened.oci().login().cloned()
    }
}

#[tonic::async_trait]
impl Auth for Logins {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let host = match request.get_ref().host.as_str() {
            "registry-1.docker.io" | "index.docker.io" | "https://index.docker.io/v1/" => "docker.io",
            host => host,
        };
        let login = self.of(host).await; // none: the builder pulls without one
        let username = login.as_ref().map(|login| login.user.clone()).unwrap_or_default();
        let secret = login.map(|login| login.password.expose().to_owned()).unwrap_or_default();
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    async fn fetch_token(&self, _: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unavailable("the builder fetches tokens itself"))
    }

    async fn get_token_authority(&self, _: Request<GetTokenAuthorityRequest>) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("the builder fetches tokens itself"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("the builder fetches tokens itself"))
    }
}

struct Agent(PathBuf);

#[tonic::async_trait]
impl Ssh for Agent {
    type ForwardAgentStream = Answers<BytesMessage>;

    async fn check_agent(&self, request: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        match request.get_ref().id.as_str() {
            "" | "default" => Ok(Response::new(CheckAgentResponse {})),
            other => Err(Status::not_found(format!("there is no SSH agent {other}"))),
        }
    }

    async fn forward_agent(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let (from_agent, mut to_agent) = tokio::net::UnixStream::connect(&self.0).await?.into_split();
        let mut from_build = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = from_build.message().await {
                if to_agent.write_all(&message.data).await.is_err() {
                    break;
                }
            }
        });
        let answers = tokio_util::io::ReaderStream::new(from_agent);
        Ok(Response::new(Box::pin(answers.map(|chunk| chunk.map(|data| BytesMessage { data: data.to_vec() }).map_err(Status::from)))))
    }
}

#!/usr/bin/env python3
"""Makes docker-registry and moto together behave as ECR: python3 ecr_front.py PORT REGISTRY_URL MOTO_URL

docker-registry holds the bytes, moto the repositories and tags. Requests need moto's login token; unknown repositories
are 404; a tag of an immutable repository cannot be overwritten; every pushed manifest becomes an image in moto, with its
real digest; tags are read through moto, so that a tag set by PutImage can be pulled.

POST /lab/lie on: manifest writes are confirmed and forgotten, until POST /lab/lie off. GET /lab/log: the requests so far.
"""
import base64, hashlib, http.client, json, re, sys, threading, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.exceptions import ClientError

PORT, REGISTRY, MOTO = int(sys.argv[1]), urllib.parse.urlsplit(sys.argv[2]), sys.argv[3]
ecr = boto3.client("ecr", region_name="us-west-2", endpoint_url=MOTO, aws_access_key_id="x", aws_secret_access_key="x")
state = {"lie": False, "log": []}
lock = threading.Lock()


def token():
    return ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]


def images(repository, tag):
    return ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])["images"]


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        with lock:
            state["log"].append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message, headers=()):
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.close_connection = True
        self.answer(status, body, [("Content-Type", "application/json"), ("Connection", "close"), *headers])

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self):
        data = self.body()
        if self.path.startswith("/lab/"):
            return self.lab(data)
        if self.headers.get("Authorization", "") != "Basic " + token():
            return self.refuse(401, "UNAUTHORIZED", "Not Authorized", [("WWW-Authenticate", 'Basic realm="ecr",service="ecr.amazonaws.com"')])
        match = re.match(r"/v2/(.+?)/(manifests|blobs|tags)/([^?]*)", self.path)
        path, repository = self.path, None
        if match:
            name, kind, reference = match.groups()
            try:
                repository = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
            except ClientError:
                return self.refuse(404, "NAME_UNKNOWN", f"The repository with name '{name}' does not exist in the registry with id '123456789012'")
            is_tag = not reference.startswith("sha256:")
            if kind == "manifests" and is_tag and self.command in ("GET", "HEAD"):
                found = images(name, reference)
                if not found:
                    return self.refuse(404, "MANIFEST_UNKNOWN", "Requested image not found")
                path = f"/v2/{name}/manifests/{found[0]['imageId']['imageDigest']}"
            if kind == "manifests" and self.command == "PUT":
                return self.put_manifest(repository, name, reference, is_tag, data)
        self.forward(path, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def lab(self, data):
        if self.path == "/lab/log":
            with lock:
                text = "\n".join(state["log"])
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return self.wfile.write(body)
        state["lie"] = data.strip() == b"on"
        self.answer(200)

    def put_manifest(self, repository, name, reference, is_tag, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        confirmed = [("Docker-Content-Digest", digest), ("Location", f"/v2/{name}/manifests/{digest}")]
        if state["lie"]:
            return self.answer(201, b"", confirmed)
        if is_tag and repository["imageTagMutability"].startswith("IMMUTABLE"):
            old = images(name, reference)
            if old and old[0]["imageId"]["imageDigest"] != digest:
                message = f"The image tag '{reference}' already exists in the '{name}' repository and cannot be overwritten because the repository is immutable."
                return self.refuse(400, "TAG_INVALID", message)
        status, headers, body = self.upstream(f"/v2/{name}/manifests/{digest}", data)
        if status != 201:
            return self.answer(status, body, headers)
        tag = {"imageTag": reference} if is_tag else {}
        try:
            ecr.put_image(repositoryName=name, imageManifest=data.decode(), imageManifestMediaType=self.headers["Content-Type"], imageDigest=digest, **tag)
        except ClientError as error:
            if "AlreadyExists" not in str(error):
                print("put_image", error, file=sys.stderr)
        self.answer(201, b"", confirmed)

    def upstream(self, path, data):
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization", "transfer-encoding", "connection", "content-length")}
        headers["Host"] = self.headers["Host"]
        connection = http.client.HTTPConnection(REGISTRY.hostname, REGISTRY.port)
        connection.request(self.command, path, body=data or None, headers={**headers, "Content-Length": str(len(data))})
        response = connection.getresponse()
        body = b"" if self.command == "HEAD" else response.read()
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in ("transfer-encoding", "connection", "date", "server")]
        if self.command != "HEAD":
            kept = [(k, v) for k, v in kept if k.lower() != "content-length"]
        connection.close()
        return response.status, kept, body

    def forward(self, path, data):
        status, headers, body = self.upstream(path, data)
        self.answer(status, body, headers)


ThreadingHTTPServer(("127.0.0.1", PORT), Front).serve_forever()

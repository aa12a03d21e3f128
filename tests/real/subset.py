#!/usr/bin/env python3
"""subset.py API.json OUT.json: keeps the paths that tidegate uses, and everything they refer to.

API.json is api.github.com.json of the npm package @octokit/openapi (GitHub's description, MIT licence).
"""
import json
import sys

PATHS = [
    "/user",
    "/repos/{owner}/{repo}",
    "/repos/{owner}/{repo}/actions/runs/{run_id}",
    "/repos/{owner}/{repo}/actions/runs/{run_id}/cancel",
    "/repos/{owner}/{repo}/actions/runs/{run_id}/jobs",
    "/repos/{owner}/{repo}/actions/workflows",
    "/repos/{owner}/{repo}/actions/workflows/{workflow_id}",
    "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/dispatches",
    "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/runs",
    "/repos/{owner}/{repo}/collaborators/{username}/permission",
    "/repos/{owner}/{repo}/commits/{ref}",
    "/repos/{owner}/{repo}/commits/{commit_sha}/pulls",
    "/repos/{owner}/{repo}/compare/{basehead}",
    "/repos/{owner}/{repo}/deployments",
    "/repos/{owner}/{repo}/deployments/{deployment_id}/statuses",
    "/repos/{owner}/{repo}/dispatches",
    "/repos/{owner}/{repo}/environments/{environment_name}",
    "/repos/{owner}/{repo}/git/commits",
    "/repos/{owner}/{repo}/git/commits/{commit_sha}",
    "/repos/{owner}/{repo}/git/matching-refs/{ref}",
    "/repos/{owner}/{repo}/git/refs",
    "/repos/{owner}/{repo}/git/refs/{ref}",
    "/repos/{owner}/{repo}/git/trees",
    "/repos/{owner}/{repo}/issues/comments/{comment_id}",
    "/repos/{owner}/{repo}/issues/{issue_number}/comments",
    "/repos/{owner}/{repo}/pulls/{pull_number}",
]
METHODS = {"/repos/{owner}/{repo}/environments/{environment_name}": ["get", "delete"], "/user": ["get"], "/repos/{owner}/{repo}/actions/runs/{run_id}": ["get"], "/repos/{owner}/{repo}": ["get"], "/repos/{owner}/{repo}/pulls/{pull_number}": ["get"]}


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


api = json.load(open(sys.argv[1]))
paths = {}
for path in PATHS:
    wanted = METHODS.get(path)
    paths[path] = {k: v for k, v in api["paths"][path].items() if not wanted or k in wanted or k == "parameters"}
kept, todo = set(), [paths]
while todo:
    for reference in references(todo.pop()):
        if reference not in kept:
            kept.add(reference)
            _, _, kind, name = reference.split("/", 3)
            todo.append(api["components"][kind][name.replace("~1", "/").replace("~0", "~")])
components = {}
for kind, members in api["components"].items():
    members = {n: v for n, v in members.items() if f"#/components/{kind}/{n}" in kept}
    if kind == "examples":
        members = {n: members[n] for n in members}
    if members:
        components[kind] = members
out = {"openapi": api["openapi"], "info": api["info"], "servers": api["servers"], "paths": paths, "components": components}
json.dump(out, open(sys.argv[2], "w"), separators=(",", ":"))
print(len(paths), "paths", {k: len(v) for k, v in components.items()})

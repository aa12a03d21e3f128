#!/usr/bin/env python3
"""The ENAC CD server's HTTP side, written anew from the description of its behaviour: no Docker, jobs are threads.

Usage: enac_server.py [--away N] [--running APP]. Prints its port. Apps: `works`, `breaks` (return code 3) and `itself`, whose
job makes the server answer 502 for a while, as when it redeploys itself. The secret of each is its name and -secret.
"""

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODES = {"works": 0, "breaks": 3, "itself": 0}
LOCK = threading.Lock()
JOBS = {}
AWAY = {"left": 0}
# A job that ran already goes on when somebody was merged into it.
MERGED = threading.Event()


def ulid(age=0.0):
    value = int((time.time() - age) * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(CROCKFORD[value >> 5 * at & 31] for at in reversed(range(26)))


def begin(app, age=0.0):
    job = {"status": "starting", "job_id": ulid(age), "output": "", "inventory": f"{app}-inventory"}
    JOBS[job["job_id"]] = job
    threading.Thread(target=work, args=(job, app, age > 0), daemon=True).start()
    return job


def work(job, app, ran_already):
    if ran_already:
        job["status"] = "running"
        MERGED.wait()
    time.sleep(0.2)
    for number in range(4):
        with LOCK:
            job["status"] = "running"
            job["output"] += f"TASK [step {number}] ****\nok: [web"
            if app == "itself" and number == 1:
                AWAY["left"] = 2
        time.sleep(0.2)
        with LOCK:
            job["output"] += f"{number}]\n"
    with LOCK:
        job["output"] += f"Process terminated with return code: {CODES[app]}\n"
        job["status"] = "success" if job["output"].endswith("Process terminated with return code: 0\n") else "error"


def error(words):
    return 200, {"status": "error", "error": words}


def told(job):
    return 200, {key: job[key] for key in ("status", "job_id", "output")}


def app_deploy(body, app):
    if app is None:
        return error("App not found")
    for job in JOBS.values():
        if job["inventory"] == f"{app}-inventory" and job["status"] in ("starting", "running"):
            MERGED.set()
            return told(job)
    return told(begin(app))


def job_status(body, app):
    job = JOBS.get(body.get("job_id"))
    if app is None or job is None or job["inventory"] != f"{app}-inventory":
        return error("App deployment not found")
    return told(job)


ROUTES = {"/app-deploy/": app_deploy, "/job-status/": job_status}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/":
            return self.answer(200, {"app": "enac-cd-app", "version": "0"})
        if self.path in ROUTES:
            return self.answer(405, {"detail": "Method Not Allowed"})
        return self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        with LOCK:
            if AWAY["left"] > 0:
                AWAY["left"] -= 1
                return self.answer(502, "Bad Gateway")
            if f"{self.path}/" in ROUTES:
                return self.answer(307, None, [("location", f"{self.path}/")])
            if self.path not in ROUTES:
                return self.answer(404, {"detail": "Not Found"})
            try:
                body = json.loads(raw)
            except ValueError:
                body = None
            if not isinstance(body, dict):
                detail = [{"type": "dict_type", "loc": ["body"], "msg": "Input should be a valid dictionary", "input": body}]
                return self.answer(422, {"detail": detail})
            if "deployment_id" not in body:
                return self.answer(*error("argument of type 'NoneType' is not iterable"))
            name = body["deployment_id"]
            app = name if name in CODES and body.get("deployment_secret") == f"{name}-secret" else None
            return self.answer(*ROUTES[self.path](body, app))

    def log_message(self, *_args):
        pass


parser = argparse.ArgumentParser()
parser.add_argument("--away", type=int, default=0)
parser.add_argument("--running")
options = parser.parse_args()
AWAY["left"] = options.away
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if options.running:
    begin(options.running, age=40)
print(server.server_port, flush=True)
server.serve_forever()

#!/usr/bin/env python3
"""The original client of the ENAC CD server, written anew from the description of its behaviour.

Usage: enac_client.py BASE_URL DEPLOYMENT_ID [INTERVAL [TIMEOUT]]; the secret is in DEPLOYMENT_SECRET.
Ends with 0 after success, 1 after an error, 2 at the timeout (the job is left running).
"""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

TRIES = 10


def post(url, payload):
    """An answer with status 200; everything else is tried again. A broken connection is not: that is a traceback."""
    request = urllib.request.Request(url, json.dumps(payload).encode(), {"Content-Type": "application/json"})
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                if answer.status == 200:
                    return json.load(answer)
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
        print(f"HTTP {status}, try {attempt + 1} of {TRIES}", file=sys.stderr)
        time.sleep(1)
    sys.exit(1)


def main():
    base, deployment = sys.argv[1].rstrip("/"), sys.argv[2]
    interval = float(sys.argv[3]) if len(sys.argv) > 3 else 2
    timeout = float(sys.argv[4]) if len(sys.argv) > 4 else 480
    payload = {"deployment_id": deployment, "deployment_secret": os.environ["DEPLOYMENT_SECRET"]}

    def too_late(_signal, _frame):
        print("timeout: the job is left running", file=sys.stderr)
        sys.exit(2)

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    answer = post(f"{base}/app-deploy/", payload)
    if answer["status"] == "error" and "job_id" not in answer:
        print(answer["error"], file=sys.stderr)
        sys.exit(1)
    payload["job_id"] = answer["job_id"]
    shown = 0
    while True:
        # A known defect stays: an error answer has no output, and this line ends in a KeyError.
        sys.stdout.write(answer["output"][shown:])
        sys.stdout.flush()
        shown = len(answer["output"])
        if answer["status"] in ("success", "error"):
            sys.exit(0 if answer["status"] == "success" else 1)
        time.sleep(interval)
        answer = post(f"{base}/job-status/", payload)


main()

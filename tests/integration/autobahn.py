"""Autobahn's fuzzing client (sections 1-7, 9 and 10 of its conformance tests) against an echo server made of our sessions.
It is a Python 2 program: autobahntestsuite 0.8.2 is installed into a scratch folder with the given python2.7.
usage: autobahn.py FAKE_POLICY_SERVER PYTHON2.7"""
import collections
import json
import os
import subprocess
import sys
import tempfile

from serving import Server

program, python = sys.argv[1:]
with tempfile.TemporaryDirectory() as scratch, Server([program, "--echo"]) as server:
    subprocess.run([python, "-m", "pip", "install", "-q", "--target", f"{scratch}/packages", "autobahntestsuite==0.8.2"],
                   check=True, stderr=subprocess.DEVNULL)
    with open(f"{scratch}/spec.json", "w") as spec:
        json.dump({"outdir": f"{scratch}/reports", "servers": [{"agent": "shallowpi", "url": server.url}],
                   "cases": [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)], "exclude-cases": [],
                   "exclude-agent-cases": {}}, spec)
    run = [python, "-c", "from autobahntestsuite.wstest import run; run()", "-m", "fuzzingclient", "-s", "spec.json"]
    subprocess.run(run, cwd=scratch, env={**os.environ, "PYTHONPATH": f"{scratch}/packages"}, check=True,
                   stdout=subprocess.DEVNULL)
    with open(f"{scratch}/reports/index.json") as report:
        cases = json.load(report)["shallowpi"]
good = ("OK", "NON-STRICT", "INFORMATIONAL")
failed = [name for name, case in cases.items() if case["behavior"] not in good or case["behaviorClose"] not in good]
print(f"{len(cases)} cases: {dict(collections.Counter(case['behavior'] for case in cases.values()))}, "
      f"closing: {dict(collections.Counter(case['behaviorClose'] for case in cases.values()))}")
assert len(cases) > 250 and not failed, failed

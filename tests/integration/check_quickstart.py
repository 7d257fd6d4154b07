#!/usr/bin/env python3
"""Asserts that the quickstart worked, from its report.json.   usage: check_quickstart.py REPORT_JSON"""
import json
import sys

report = json.load(open(sys.argv[1]))
rows = {row["name"]: row for row in report["policies"]}
teacher, skipped, distilled = rows["teacher"], rows["skipped"], rows["distilled"]
floor = rows["repeat last action"]

# The demonstrations are disturbed, so that part of what the expert does in a moment cannot be foretold.
checks = [
    ("teacher's action error is at most 0.6 of repeating the last action",
     teacher["action_error"], 0.6 * floor["action_error"]),
    ("teacher's velocity error is at most a quarter of the skipped one's",
     teacher["velocity_error"], skipped["velocity_error"] / 4),
    ("distilled student's action error is at most 0.7 of repeating the last action",
     distilled["action_error"], 0.7 * floor["action_error"]),
    ("distilled student's velocity gap to the teacher is at most a third of the skipped one's",
     distilled["velocity_error_teacher"], skipped["velocity_error_teacher"] / 3),
]
failed = False
for what, value, bound in checks:
    ok = value <= bound
    failed |= not ok
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.5f} <= {bound:.5f}")
sys.exit(failed)

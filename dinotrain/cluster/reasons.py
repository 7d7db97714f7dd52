"""SLURM's words for why jobs wait and end, in ours."""

from __future__ import annotations

import re

WAITS = {
    "": "submitted just now",
    "Resources": "waits for free nodes",
    "Priority": "other jobs come first",
    "BeginTime": "starts again in a moment",
    "Dependency": "waits for another job",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "PartitionNodeLimit": "asks for more nodes than its partition has",
    "ReqNodeNotAvail": "the nodes it needs are down or reserved",
    "BadConstraints": "no nodes are as it asks for",
    "JobHeldUser": "held; scontrol release lets it go",
    "JobHeldAdmin": "held by the cluster's administrators",
    "JobArrayTaskLimit": "as many of its array run as may at once",
    "launch failed requeued held": "its nodes could not start it; held, scontrol release tries again",
}
"""Reasons of a waiting job."""

CUT_OFF = {
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not start",
    "TIMEOUT": "the time limit was reached",
    "DEADLINE": "its deadline was reached",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "OUT_OF_MEMORY": "a node ran out of memory",
    "PREEMPTED": "another job took its nodes",
    "FAILED": "its script failed",
}
"""Final states of jobs that did not come to say how they ended."""

STOPPED = ("CANCELLED", "REVOKED", "TIMEOUT", "DEADLINE", "PREEMPTED")


def reason_in_words(reason: str) -> str:
    """Why a job waits."""
    if reason.startswith("Nodes required for job are DOWN"):
        return WAITS["ReqNodeNotAvail"]
    known = WAITS.get(reason.partition(",")[0])
    if known is None and re.match(r"QOS|Assoc|MaxCpuPerAccount|MaxMemPerLimit", reason):
        return f"a limit of the account or quality of service ({reason})"
    return reason if known is None else known

"""Checks for rules and backends of one's own, as scikit-learn has for estimators; they need no test runner."""

from rollout.errors import CheckError
from rollout.testing.backends import check_backend
from rollout.testing.oracle import OracleCache
from rollout.testing.rules import check_rule, check_strategy

__all__ = ["CheckError", "OracleCache", "check_backend", "check_rule", "check_strategy"]

"""Suites: small TOML files, one for each claim of the papers, and how such a file is read and checked."""

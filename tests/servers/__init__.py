"""Real servers for tests, each started once a session by a fixture of its file: see tests/conftest.py."""

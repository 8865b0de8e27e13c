"""The keeper: a small process that holds the run lock, shows progress, and tidies up when the playbook is gone."""

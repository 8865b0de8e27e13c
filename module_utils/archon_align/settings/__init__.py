"""The embedding configuration: the plan's archon_credentials and the archon_settings that Archon reads."""

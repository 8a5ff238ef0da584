//! What the plugin, the command and the agent say to each other.

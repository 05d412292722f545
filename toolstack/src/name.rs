//! What the agent's domain is called.

/// The agent's domain has this name.
pub const AGENT_NAME: &str = "tsmc-agent";
